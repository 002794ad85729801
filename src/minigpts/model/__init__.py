"""The model, as every other room uses it: files, families, forward passes, loss."""
