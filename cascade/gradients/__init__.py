"""Derived gradients: the cascade of a cascade's gradients, by reverse mode on Einsums.

Read in this order: `gradient.py` (the pipeline), `flatten.py`, `stabiliser.py`, `normaliser.py`,
`rules.py`, `pull.py`, `solve.py`, `reverse.py`, `recurrence.py`, `hoist.py`, `saved.py`.
"""

from cascade.gradients.gradient import Gradients, gradients

__all__ = ["Gradients", "gradients"]
