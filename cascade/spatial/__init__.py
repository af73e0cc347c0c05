"""Spatial arrays: statements bound to arrays of units, their schedule, and what it costs."""
