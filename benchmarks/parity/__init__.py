"""Agreement with other implementations: lm-evaluation-harness, published tokenizers."""
