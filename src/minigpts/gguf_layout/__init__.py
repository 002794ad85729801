"""Where a model's tensors lie in a GGUF file, by family: what import, export and reading a file back share."""
