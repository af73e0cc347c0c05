"""Runs a Program tile by tile in NumPy, float32, and counts what it does."""

from cascade.backends.tiled.counters import Counters, Moved
from cascade.backends.tiled.run import Result, run

__all__ = ["Counters", "Moved", "Result", "run"]
