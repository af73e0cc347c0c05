"""From a cascade to a Program: which kernels, which loops, which tiles, in which order."""
