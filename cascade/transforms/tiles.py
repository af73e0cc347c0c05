"""A rank in chunks, and the few ways in which chunked statements are put together.

Row `p` is `p1*P0 + p0`; a column of the same chunk, which a row may read, is `p1*P0 + m0`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Symbol, Where
from cascade.ir.ops import MAPS
from cascade.ir.walk import conjunction, conjuncts, free_ranks
from cascade.transforms.placing import place as placed


@dataclass(frozen=True)
class Tiles:
    """The chunks of one rank: `row = outer*size + inner`; `column` is another place in a chunk."""

    row: str
    extent: Expr
    outer: str
    inner: str
    column: str
    step: str  # a place that recurrences inside a chunk run along

    @property
    def size(self) -> Expr:
        return Symbol(self.inner.upper())

    @property
    def chunk(self) -> Expr:
        return Coordinate(self.outer)

    @property
    def after(self) -> Expr:
        return add(self.chunk, Const(1))

    @property
    def last(self) -> Expr:
        """The number of chunks."""
        return Symbol(self.outer.upper())

    def point(self, place: str) -> Expr:
        return add(times(self.chunk, self.size), Coordinate(place))

    @property
    def filled(self) -> Expr:
        """How many points the chunk has: fewer in a ragged last one."""
        left = Map("-", (self.extent, times(self.chunk, self.size)))
        return Map("min", (self.size, left))

    def at(self, e: Expr, rank: str, place: str) -> Expr:
        """`e` with a coordinate of the whole rank placed in the chunk."""
        return placed(e, {rank: self.point(place)})

    def whole(self, tensor: str, ranks: tuple[str, ...]) -> Read:
        """A tensor over chunks, read at the row it stands for."""
        row = Coordinate(self.row)
        places = {
            self.outer: Map("//", (row, self.size)),
            self.inner: Map("%", (row, self.size)),
        }
        return Read(tensor, tuple(places.get(r, Coordinate(r)) for r in ranks))


def add(*parts: Expr) -> Expr:
    result = parts[0]
    for part in parts[1:]:
        result = Map("+", (result, part))
    return result


def times(*factors: Expr) -> Expr:
    """The product, without ones; minus ones are its sign."""
    kept = [f for f in factors if f not in (Const(1), Const(-1))]
    result: Expr = Const(1)
    for n, factor in enumerate(kept):
        result = factor if n == 0 else Map("*", (result, factor))
    if sum(f == Const(-1) for f in factors) % 2:
        return Map("neg", (result,)) if kept else Const(-1)
    return result


def sum_of_products(products: list[list[Expr]]) -> list[Expr]:
    """The factors of a sum of products: those that all have, and the sum of the rest."""
    shared: list[Expr] = []
    for f in products[0]:
        if all(p.count(f) > shared.count(f) for p in products):
            shared.append(f)
    rests = []
    for product in products:
        left = list(product)
        for f in shared:
            left.remove(f)
        rests.append(left)
    if len(rests) == 1:
        return [*shared, *rests[0]]
    result: Expr | None = None
    for rest in sorted(rests, key=lambda r: Const(-1) in r):
        minus = result is not None and rest.count(Const(-1)) % 2 == 1
        value = times(*(f for f in rest if not minus or f != Const(-1)))
        if result is None:
            result = value
        else:
            result = Map("-" if minus else "+", (result, value))
    assert result is not None
    return [*shared, result]


def filtered(e: Expr, conditions: tuple[Expr, ...]) -> Expr:
    """`e where conditions`, joined with those it has."""
    if not conditions:
        return e
    if isinstance(e, Where):
        own = conjuncts(e.condition)
        return Where(e.body, conjunction((*own, *(c for c in conditions if c not in own))))
    return Where(e, conjunction(tuple(dict.fromkeys(conditions))))


def summed(ranks: tuple[str, ...], e: Expr, conditions: tuple[Expr, ...] = ()) -> Expr:
    body = filtered(e, conditions)
    return Reduce("sum", ranks, body) if ranks else body


def bare(e: Expr) -> Expr:
    """The value without the conditions of strict operations, which `Presence` knows."""
    if isinstance(e, Where):
        return bare(e.body)
    if isinstance(e, Map) and MAPS[e.op].absence == "strict":
        parts = tuple(bare(a) for a in e.args)
        return e if parts == e.args else Map(e.op, parts, e.span)
    return e


def mentions(e: Expr, ranks: set[str] | frozenset[str]) -> bool:
    return bool(ranks & set(free_ranks(e)))
