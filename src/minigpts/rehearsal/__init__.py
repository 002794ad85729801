"""Finds out in minutes, on a small copy of the parent and some of the text, what a run would refuse and what it takes."""
