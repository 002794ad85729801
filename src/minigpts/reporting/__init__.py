"""Figures and the one page: what the run did, for someone who wasn't there."""
