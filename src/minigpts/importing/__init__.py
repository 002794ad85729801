"""Turns a model from the hub, a wheel, a GGUF file or a folder into a checkpoint."""
