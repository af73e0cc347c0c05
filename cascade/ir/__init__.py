"""The IR: `expr` (eight nodes), `cascade` (ranks, tensors, Einsums), `ops` (operators and their
laws).
"""
