"""Facts about model families, as data."""
