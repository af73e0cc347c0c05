"""Cascades in PyTorch: one custom operator with derived gradients, and frontends and models on it.

Read `operator.py` first.
"""
