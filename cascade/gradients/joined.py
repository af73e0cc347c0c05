"""A sum over several ranks as one over a rank of all their points.

What pages say of where keys lie is a condition, `sum[b,m](dK_m[b,h,m,e] where page[b,m//R] == n and
m % R == r)`, and a sum over either rank alone would be a tensor with both b and n. As `m` is
`j*R + r`, one rank of B*J points has the pages of all sequences, and a loop runs along it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

from cascade.gradients.build import compare, minus, plus
from cascade.gradients.term import Term
from cascade.ir.affine import grouped
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read
from cascade.ir.walk import free_ranks

if TYPE_CHECKING:
    from cascade.gradients.reverse import Reverse


def joined(term: Term, long: tuple[str, ...], reverse: Reverse) -> Term:
    """The term with its long ranks as one, if it only gathers what another sum has left."""
    if len(long) < 2 or not _gathers(term, reverse):
        return term
    term, left = _without_remainders(term, long, reverse)
    names = reverse.names
    sizes = [names.last(r) for r in left]
    if left not in reverse.points:
        reverse.points[left] = names.rank(left[0], reduce(lambda a, b: Map("*", (a, b)), sizes))
    whole = reverse.points[left]
    rest: Expr = Coordinate(whole)
    places: dict[str, Expr] = {}
    for rank, size in zip(reversed(left[1:]), reversed(sizes[1:]), strict=True):
        places[rank] = Map("%", (rest, size))
        rest = Map("//", (rest, size))
    places[left[0]] = rest
    others = tuple(r for r in term.bound if r not in left)
    return replace(_moved(term, places, reverse), bound=(*others, whole))


def _gathers(term: Term, reverse: Reverse) -> bool:
    _, terms = reverse.made.get(term.read.tensor, ((), ()))
    plain = all(not free_ranks(e) for e, _ in term.factors)
    return plain and any(t.bound for t in terms)


def _without_remainders(
    term: Term, long: tuple[str, ...], reverse: Reverse
) -> tuple[Term, tuple[str, ...]]:
    """Summed ranks of which a remainder is given, as multiples of the divisor and that: `m % R ==
    r` is `m = j*R + r`.
    """
    for c in term.conditions:
        match c:
            case Map("==", (Map("%", (Coordinate(m), size)), Coordinate(r))) if (
                m in long and r not in term.bound and reverse.names.last(r) == size
            ):
                extent = reverse.names.extent(m)
                number, is_whole = _quotient(extent, size)
                if (m, size) not in reverse.quotients:
                    reverse.quotients[m, size] = reverse.names.rank(m, number)
                j = reverse.quotients[m, size]
                value = plus(Map("*", (Coordinate(j), size)), Coordinate(r))
                kept = tuple(x for x in term.conditions if x != c)
                term = _moved(replace(term, conditions=kept), {m: value}, reverse)
                if not is_whole:
                    term = term.times((), (compare("<", value, reverse.names.last(m)),))
                long = tuple(j if x == m else x for x in long)
                term = replace(term, bound=tuple(j if x == m else x for x in term.bound))
    return term, long


def _quotient(extent: Expr, size: Expr) -> tuple[Expr, bool]:
    """How many times a size goes into an extent, rounded up; whether it does so exactly."""
    match extent:
        case Map("*", (number, part)) if part == size:
            return number, True
    return Map("//", (minus(plus(extent, size), Const(1)), size)), False


def _moved(term: Term, places: Mapping[str, Expr], reverse: Reverse) -> Term:
    """Other coordinates in every part, in their shortest form."""
    moved = term.moved(places)
    extent = reverse.names.extent
    read = grouped(moved.read, extent)
    assert isinstance(read, Read)
    return replace(
        moved,
        read=read,
        factors=tuple((grouped(e, extent), n) for e, n in moved.factors),
        conditions=tuple(grouped(c, extent) for c in moved.conditions),
    )
