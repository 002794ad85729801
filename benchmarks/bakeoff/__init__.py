"""Pruning criteria and other tools against each other on the same text."""
