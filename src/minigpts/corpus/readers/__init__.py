"""Reads documents and questions from files and hub data sets, and names the file and line of whatever it refuses."""
