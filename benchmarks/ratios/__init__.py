"""Ratios of speed and exactness, measured side by side in one run (`make bench`)."""
