"""Ratios against the physical limit, against peers and against independent readings of the same facts."""
