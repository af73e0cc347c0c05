"""Example cascades and their data, listed by `cascade examples`."""
