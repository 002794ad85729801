"""The tokenizer's side of the work: how often each token occurs (counts), which ones stay (keep), and the cut (trim)."""
