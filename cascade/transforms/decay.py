"""The diagonal part of a recurrence inside a chunk: weights of the way from one step to another.

A weight that is the same at every step is a power of it. One that is an exponential is kept as the
sum of its logarithms over the steps between, so that only differences are exponentiated. Sums of
large logarithms, of gates that are closed, would leave no digits to those of open gates: what is
whole in a logarithm is added apart, exactly. Any other weight (its sign is not known, or it may be
0) is multiplied step by step.
"""

from __future__ import annotations

from collections.abc import Callable

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Where
from cascade.ir.walk import free_ranks
from cascade.transforms.draft import Draft, reads_inside
from cascade.transforms.products import Opener
from cascade.transforms.ranges import LOWEST
from cascade.transforms.steps import Steps
from cascade.transforms.tiles import Tiles, add, mentions, summed


def logarithm(opener: Opener, e: Expr) -> Expr | None:
    """log e, where it is plain that e is positive; seldom the logarithm of a computed e."""
    match e:
        case Map("exp", (x,)):
            return x
        case Map("exp2", (x,)):
            return Map("*", (x, Map("log", (Const(2),))))
        case Map("sigmoid", (x,)):
            return Map("neg", (Map("softplus", (Map("neg", (x,)),)),))
        case Map("*" | "/" as op, (x, y)):
            first, second = logarithm(opener, x), logarithm(opener, y)
            if first is None or second is None:
                return None
            return Map("+" if op == "*" else "-", (first, second))
        case Map("sqrt", (x,)):
            inner = logarithm(opener, x)
            return None if inner is None else Map("/", (inner, Const(2)))
        case Map("**", (x, power)):
            inner = logarithm(opener, x)
            return None if inner is None else Map("*", (power, inner))
        case Read(tensor, index):
            definition = opener.definition(tensor)
            if definition is None or isinstance(definition.body, Where):
                return None
            return logarithm(opener, opener.placed(definition, index))
        case _:
            return Map("log", (e,)) if opener.ranges.of(e).low > 0 else None


class Decay:
    """The weights of a chunk, over the ranks that the factor of a step has.

    `after` counts from the state before the chunk, `between` from a column; a strict row stops one
    step earlier. `leaving` goes from a column to the end of the chunk, `across` from end to end.
    """

    def across(self) -> Expr:
        return Const(1)

    def after(self, strict: bool) -> Expr:
        return Const(1)

    def between(self, strict: bool) -> Expr:
        return Const(1)

    def leaving(self) -> Expr:
        return Const(1)

    says = "the state does not decay"


class Constant(Decay):
    """The same factor at every step: powers of it."""

    says = "the factor is the same at every step: a power of the number of steps"

    def __init__(self, tiles: Tiles, steps: Steps):
        self.tiles = tiles
        self.steps = steps
        self.row, self.column = Coordinate(tiles.inner), Coordinate(tiles.column)

    def across(self) -> Expr:
        return self.steps.of(self.tiles.filled)

    def after(self, strict: bool) -> Expr:
        return self.steps.of(self.row if strict else add(self.row, Const(1)))

    def between(self, strict: bool) -> Expr:
        way = Map("-", (self.row, self.column))
        return self.steps.of(Map("-", (way, Const(1))) if strict else way)

    def leaving(self) -> Expr:
        last = Map("-", (self.tiles.filled, Const(1)))
        return self.steps.of(Map("-", (last, self.column)))


class Exponential(Decay):
    """exp of a sum over steps; only sums over the steps between are exponentiated."""

    says = "the factor is an exponential: exponents of the steps between are added before exp"

    def __init__(self, draft: Draft, tiles: Tiles, stem: str, exponent: Expr):
        self.draft, self.tiles = draft, tiles
        self.stem = stem
        placed = tiles.at(exponent, tiles.row, tiles.column)
        whole = Map("floor", (add(placed, Const(0.5)),))
        self.parts = {"whole": whole, "rest": Map("-", (placed, whole))}
        free = set(free_ranks(placed)) - {tiles.outer, tiles.column}
        self.ranks = tuple(r for r in draft.ranks if r in free)
        point = tiles.point(tiles.column)
        inside = reads_inside(draft, placed, point, tiles.extent)
        self.tail = () if inside else (Map("<", (point, tiles.extent)),)

    def _sum(self, part: str, strict: bool, place: str) -> Expr:
        tiles = self.tiles
        row, column = Coordinate(tiles.inner), Coordinate(tiles.column)
        mask = Map("<" if strict else "<=", (column, row))
        ranks = (*self.ranks, tiles.outer, tiles.inner)
        value = summed((tiles.column,), self.parts[part], (mask, *self.tail))
        stem = f"{self.stem}_{part}_{'before' if strict else 'upto'}"
        known = self.draft.once("exponents", stem, ranks, value)
        return Read(known.tensor, (*known.index[:-1], Coordinate(place)))

    def _total(self, part: str) -> Expr:
        ranks = (*self.ranks, self.tiles.outer)
        value = summed((self.tiles.column,), self.parts[part], self.tail)
        return self.draft.once("exponents", f"{self.stem}_{part}_total", ranks, value)

    def _weight(self, of_part: Callable[[str], Expr]) -> Expr:
        return Map("exp", (add(*(of_part(part) for part in self.parts)),))

    def _since(self, part: str, end: Expr) -> Expr:
        return Map("-", (end, self._sum(part, False, self.tiles.column)))

    def across(self) -> Expr:
        return self._weight(self._total)

    def after(self, strict: bool) -> Expr:
        return self._weight(lambda part: self._sum(part, strict, self.tiles.inner))

    def between(self, strict: bool) -> Expr:
        return self._weight(
            lambda part: self._since(part, self._sum(part, strict, self.tiles.inner))
        )

    def leaving(self) -> Expr:
        return self._weight(lambda part: self._since(part, self._total(part)))


class Product(Decay):
    """Products of the steps between, one step at a time: for factors of any sign, and for 0."""

    says = "the sign of the factor is not known: factors of the steps between are multiplied"

    def __init__(self, draft: Draft, tiles: Tiles, stem: str, factor: Expr):
        self.draft, self.tiles = draft, tiles
        placed = tiles.at(factor, tiles.row, tiles.step)
        self.factor = Map("??", (placed, Const(1)))
        free = set(free_ranks(placed)) - {tiles.outer, tiles.step}
        self.ranks = tuple(r for r in draft.ranks if r in free)
        self.key = ("product", self.factor)
        self.stem = stem

    def _made(self, kind: str, write: Callable[[str], None]) -> str:
        if (kind, self.key) not in self.draft.made:
            name = self.draft.fresh(f"{self.stem}_{kind}")
            self.draft.made[kind, self.key] = name
            write(name)
        return self.draft.made[kind, self.key]

    def _ways(self, steps: Expr) -> Expr:
        """From the state before the chunk, over its first steps."""
        ranks = (*self.ranks, self.tiles.outer, self.tiles.step)

        def write(name: str) -> None:
            here = Read(name, tuple(Coordinate(r) for r in ranks))
            self.draft.iterate(name, ranks, Const(1), Map("*", (here, self.factor)))

        name = self._made("product", write)
        return Read(name, (*(Coordinate(r) for r in ranks[:-1]), steps))

    def _from_column(self, steps: Expr) -> Expr:
        """From each column of the chunk; 0 before it is reached."""
        column, step = Coordinate(self.tiles.column), Coordinate(self.tiles.step)
        ranks = (*self.ranks, self.tiles.outer, self.tiles.column, self.tiles.step)

        def write(name: str) -> None:
            here = Read(name, tuple(Coordinate(r) for r in ranks))
            way = Map("*", (here, self.factor))
            body = Map("select", (Map("==", (column, step)), Const(1), way))
            self.draft.iterate(name, ranks, Const(0), body)

        name = self._made("segment", write)
        return Read(name, (*(Coordinate(r) for r in ranks[:-1]), steps))

    def _slot(self, strict: bool) -> Expr:
        row = Coordinate(self.tiles.inner)
        return row if strict else add(row, Const(1))

    def across(self) -> Expr:
        return self._ways(self.tiles.size)

    def after(self, strict: bool) -> Expr:
        return self._ways(self._slot(strict))

    def between(self, strict: bool) -> Expr:
        return self._from_column(self._slot(strict))

    def leaving(self) -> Expr:
        return self._from_column(self.tiles.size)


def decay_of(opener: Opener, tiles: Tiles, stem: str, factor: Expr) -> Decay:
    """The weights of a factor; constant, exponential, or anything else."""
    if factor == Const(1):
        return Decay()
    exponent = logarithm(opener, factor)
    if not mentions(factor, {tiles.row}):
        if isinstance(factor, Map) and factor.op == "exp":
            return Constant(tiles, Steps(factor.args[0]))
        return Constant(tiles, Steps(factor, 1))
    if exponent is not None:
        if opener.ranges.of(exponent).low < LOWEST:  # -inf must not be subtracted from itself
            exponent = Map("max", (exponent, Const(LOWEST)))
        return Exponential(opener.draft, tiles, stem, exponent)
    return Product(opener.draft, tiles, stem, factor)
