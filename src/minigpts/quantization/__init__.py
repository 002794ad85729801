"""Weights in few bits, rounded to the domain: block formats, the search for their scales, and error compensation."""
