"""How a model speaks: what it replies to held-out prompts, and how often that is nothing, a loop or not what was asked for."""
