"""Runs a Program tile by tile in NumPy, float32, and counts what it does."""
