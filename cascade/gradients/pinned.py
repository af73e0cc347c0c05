"""A sum over one point: `sum[c](x[c] where class[m] == c)` is `x[class[m]]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from cascade.gradients.build import ZERO, compare
from cascade.gradients.names import Names
from cascade.gradients.term import Term
from cascade.ir.expr import Const, Coordinate, Expr, Map
from cascade.ir.walk import free_ranks, reads

RanksOf = Callable[[str], tuple[str, ...]]


def pinned(term: Term, names: Names, ranks_of: RanksOf) -> Term:
    """The term without the summed ranks whose coordinate a condition gives."""
    while True:
        found = next(_equations(term), None)
        if found is None:
            return term
        rank, value, condition = found
        rest = tuple(c for c in term.conditions if c != condition)
        left = tuple(r for r in term.bound if r != rank)
        bounds = (
            ()
            if _inside(value, rank, term, names, ranks_of)
            else (
                compare("<=", ZERO, value),
                compare("<", value, names.extent(rank)),
            )
        )
        term = replace(term, bound=left, conditions=rest).moved({rank: value}).times((), bounds)


def _equations(term: Term) -> Iterator[tuple[str, Expr, Expr]]:
    for c in term.conditions:
        match c:
            case Map("==", (x, Coordinate(r))) | Map("==", (Coordinate(r), x)):
                if r in term.bound and r not in free_ranks(x):
                    yield r, x, c


def _inside(value: Expr, rank: str, term: Term, names: Names, ranks_of: RanksOf) -> bool:
    """Whether a value past the extent is left out anyway: a slot of that extent is read there."""
    extent = names.extent(rank)
    if isinstance(value, Const) and isinstance(extent, Const):
        return bool(0 <= value.value < extent.value)
    for e in term.parts():
        for read in reads(e):
            if any(
                i == Coordinate(rank) and names.extent(r) == extent
                for i, r in zip(read.index, ranks_of(read.tensor), strict=False)
            ):
                return True
    return False
