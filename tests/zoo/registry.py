"""What is known of a mechanism of the zoo: inputs, an independent reference, and its passes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Mechanism:
    """`name` is the file in `examples/zoo`; `rank` is the reduced rank whose passes are counted.

    `reference` gets the inputs and the params together; it is written from the maths of the
    source. `written` and `derived` are the passes over `rank` before and after the rewriter, and
    `literature` is what sources count for the two, where it differs: the file then says why.
    """

    name: str
    inputs: Callable[[np.random.Generator], Arrays]
    reference: Callable[[Arrays], Arrays]
    written: int
    derived: int
    rank: str = "m"
    tolerance: float = 1e-10
    params: Mapping[str, int | float] = field(default_factory=dict)
    differentiable: bool = True
    literature: tuple[int, int] | None = None
    note: str = ""


def weights(logits: Any, visible: Any = True) -> Any:
    """The softmax of the last axis over the visible points, 0 elsewhere; a blind row is all 0."""
    shown = np.where(visible, logits, -np.inf)
    top = shown.max(axis=-1, keepdims=True, initial=-np.inf)
    grown = np.exp(shown - np.where(np.isfinite(top), top, 0))
    total = grown.sum(axis=-1, keepdims=True)
    return grown / np.where(total > 0, total, 1)


def logits(q: Any, k: Any) -> Any:
    """Scaled products of queries and keys, whose last two axes are positions and features."""
    return q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])


def positions(rows: int, keys: int) -> tuple[Any, Any]:
    """The places of queries and keys, the last query at the last key, as two broadcastable axes."""
    return np.arange(rows)[:, None] + keys - rows, np.arange(keys)[None, :]


def heads(
    rng: np.random.Generator, rows: int = 7, keys: int = 7, count: int = 3, batch: int = 2
) -> Arrays:
    """Queries, keys and values of a few heads, widths 4 and 5."""
    return {
        "Q": rng.standard_normal((batch, count, rows, 4)),
        "K": rng.standard_normal((batch, count, keys, 4)),
        "V": rng.standard_normal((batch, count, keys, 5)),
    }
