"""Criteria: from a layer's statistics and weights to a score per neuron."""
