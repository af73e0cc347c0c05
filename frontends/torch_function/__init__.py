"""From a PyTorch function to a cascade: `cascade.trace(function, *example_tensors)`.

Read in this order: `sizes.py` (shapes that remember their extents), `traced.py` (the object that
stands for a tensor), `operations.py` (what each operation makes) and `composed.py` (those made of
others), `tracing.py` (the whole).
"""

from cascade.frontends.torch_function.tracing import trace, trace_scores

__all__ = ["trace", "trace_scores"]
