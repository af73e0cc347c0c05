"""Cascades inside other libraries: PyTorch, transformers, FlexAttention."""
