"""A sum over several long ranks, one rank after the other.

`dK[b,g,m,e] = sum[p,h](...)` over the heads h of a group is a sum over p for each head, and then
one over the heads: the first is a pass of a kernel like that of any other gradient, the second is
short, and both add in an order that is always the same. What the first leaves must have no more
ranks than something that is there anyway.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cascade.gradients.build import at
from cascade.gradients.term import Term
from cascade.ir.cascade import Einsum
from cascade.ir.expr import Expr, Read
from cascade.ir.walk import free_ranks, reads

if TYPE_CHECKING:
    from cascade.gradients.reverse import Reverse


def staged(term: Term, name: str, left: tuple[str, ...], reverse: Reverse) -> Term:
    """The term with at most one long rank left to sum, and statements for the others."""
    while True:
        split = _split(term, left, reverse)
        if split is None:
            return term
        inner, outer = split
        made = reverse.names.tensor(f"{name}_{outer[-1]}")
        ranks = (*left, *outer)
        first = replace(term, bound=inner)
        body, absence = reverse.summed([first], frozenset())
        reverse.made[made] = (ranks, (first,))
        reverse.absence[made] = (ranks, absence)
        reverse.statements.append(Einsum(made, ranks, body))
        term = Term(at(made, ranks), bound=outer, chosen=term.chosen)


def _split(
    term: Term, left: tuple[str, ...], reverse: Reverse
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The ranks to sum first and those to sum after them."""
    members = reverse.solve.members
    long = [r for r in term.bound if r in members or not reverse.names.ranks[r].declared]
    if len(long) < 2:
        return None
    places = [_place(r, term.read) for r in long]
    if None in places:
        return None
    last = max(zip(places, long, strict=True), key=lambda p: (p[1] not in members, p[0] or 0))[1]
    outer = tuple(r for r in term.bound if r in long and r != last)
    inner = tuple(r for r in term.bound if r not in outer)
    kept = {*left, *outer} - members
    sizes = [set(free_ranks(r)) for e in term.parts() for r in reads(e)]
    extra = set(outer) - members
    if extra and all(len(kept) > len(s) for s in sizes):
        return None
    return inner, outer


def _place(rank: str, read: Read) -> int | None:
    """The position of the index that a rank occurs in."""
    index: tuple[Expr, ...] = read.index
    found = [n for n, i in enumerate(index) if rank in free_ranks(i)]
    return found[-1] if found else None
