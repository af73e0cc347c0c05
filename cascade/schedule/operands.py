"""Which contractions are matrix products: factors that fall into two operands, each with axes of
its own.

Axes that both operands keep are a *batch*: a product for each of their coordinates. Several summed
axes count as one, and so do several axes of an operand.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True)
class Side:
    """One operand: the numbers of its factors, and the axes that they have together."""

    factors: tuple[int, ...]
    axes: frozenset[str]


def operands(
    factors: Sequence[Collection[str]], summed: Collection[str]
) -> tuple[Side, Side] | None:
    """The two operands of factors with these axes; None where there is no matrix product."""
    sides: list[Side] = []
    for n in sorted(range(len(factors)), key=lambda n: -len(set(factors[n]))):
        own = frozenset(factors[n])
        host = next((s for s in reversed(sides) if own <= s.axes), None)
        if host is None:
            sides.append(Side((n,), own))
        else:
            sides[sides.index(host)] = Side((*host.factors, n), host.axes)
    while len(sides) > 2:
        a, b = min(combinations(sides, 2), key=lambda pair: len(pair[0].axes | pair[1].axes))
        joined = Side((*a.factors, *b.factors), a.axes | b.axes)
        sides = [joined, *(s for s in sides if s not in (a, b))]
    if len(sides) != 2:
        return None
    left, right = sides
    if (
        left.axes <= right.axes
        or right.axes <= left.axes
        or not all(frozenset(summed) <= s.axes for s in sides)
    ):
        return None
    return left, right
