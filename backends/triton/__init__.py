"""Prints a Program as Triton source, compiles it ahead of time, and launches it."""
