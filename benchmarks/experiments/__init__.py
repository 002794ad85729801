"""Queues of DVC experiments: several domains, several sizes."""
