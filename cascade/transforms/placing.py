"""Expressions for coordinates, where reductions and selections allow them.

A selection puts its results along a rank of its own, which another rank may take the place of and
an expression may not; and a rank that a reduction binds has another meaning inside.
"""

from __future__ import annotations

from cascade.ir.expr import Coordinate, Expr, Select
from cascade.ir.printer import print_expr
from cascade.ir.walk import bound_ranks, children, free_ranks, rebuild, substitute


class NotChunkable(Exception):
    """Why a form has no chunked one: the part, and the reason, in the words of the spec."""

    def __init__(self, part: str, reason: str):
        super().__init__(f"{part}: {reason}")
        self.part = part
        self.reason = reason


def place(e: Expr, places: dict[str, Expr]) -> Expr:
    """`e` with the expressions of `places` for its free coordinates."""
    places = {r: i for r, i in places.items() if r in free_ranks(e)}
    if not places:
        return e
    bound = bound_ranks(e)
    if not bound:
        if isinstance(e, Coordinate):
            return substitute(e, places)
        return rebuild(e, tuple(place(c, places) for c in children(e)))
    target = e.target if isinstance(e, Select) else None
    if target in places:
        to = places[target]
        if not isinstance(to, Coordinate) or to.rank in bound or target in bound:
            raise NotChunkable(print_expr(e), "a selection has all its places, or none")
    inner = {r: i for r, i in places.items() if r not in bound and r != target}
    for i in inner.values():
        if set(bound) & set(free_ranks(i)):
            raise NotChunkable(print_expr(e), f"`{','.join(bound)}` means another rank inside")
    e = rebuild(e, tuple(place(c, inner) for c in children(e)))
    if isinstance(e, Select) and target in places:
        to = places[target]
        assert isinstance(to, Coordinate)
        return Select(e.op, e.rank, to.rank, e.body, e.span)
    return e
