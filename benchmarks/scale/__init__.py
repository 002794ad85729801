"""Memory and time at the size of the paper's models and of large corpora."""
