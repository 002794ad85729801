"""Domains, splits without leaks, and multiple-choice questions."""
