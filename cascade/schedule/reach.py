"""Whether a condition can hold somewhere in a tile, or must hold everywhere in it, by the extremes
of what it compares.

A value that varies along rows only, or along the columns of a loop only, is between its minimum and
its maximum there; so is a sum or a difference of such. A comparison of two ranges then either can
hold or cannot, for all points of a tile at once: `a == b` can where the ranges meet, and must where
both are the same one value. What has no range can hold. So nothing is ever missed, and a tile
without a point may be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from cascade.ir.expr import FALSE, TRUE, Const, Coordinate, Expr, Map, Read
from cascade.schedule.facts import Axes, Kinds, kind_of
from cascade.schedule.program import Let, Load, Node
from cascade.schedule.truth import conjoin, disjoin, negate

Range = tuple[Expr, Expr]  # the least value, and the largest
Truth = tuple[Expr, Expr]  # whether it can hold, and whether it must


@dataclass(frozen=True)
class Reach:
    """Of conditions over `rows` and the axis `column`. `fold` gives the tile of a reduction along
    axes, `column_range` is that of the coordinate `rank` along the columns, `makers` are nodes by
    the tiles that they make, and `known` says whether a value can be had before the loop has run.
    If it is `dense`, what is loaded for each point of a tile (a mask of blocks) is looked at point
    by point.
    """

    rank: str
    rows: Set[str]
    column: str
    column_range: Range
    axes: Callable[[Expr], Axes]
    fold: Callable[[str, Expr, Axes], Expr]
    makers: Mapping[str, Node]
    kinds: Kinds
    real: frozenset[str]
    known: Callable[[Expr], bool]
    dense: bool = False

    def truth(self, e: Expr) -> Truth:
        if isinstance(e, Const):
            return e, e
        if self._is_apart(e):
            return self._folded("any", e), self._folded("all", e)
        match e:
            case Map("not", (a,)):
                can, must = self.truth(a)
                return negate(must), negate(can)
            case Map("and", parts):
                both = [self.truth(a) for a in parts]
                return conjoin(tuple(c for c, _ in both)), conjoin(tuple(m for _, m in both))
            case Map("or", parts):
                both = [self.truth(a) for a in parts]
                return disjoin([c for c, _ in both]), disjoin([m for _, m in both])
            case Map("select", (c, a, b)):
                holds = Map("or", (Map("and", (c, a)), Map("and", (Map("not", (c,)), b))))
                return self.truth(holds)
            case Map(op, (a, b)):
                return self._compared(op, a, b)
            case Read(name, ()):
                node = self.makers.get(name)
                return self.truth(node.value) if isinstance(node, Let) else (TRUE, FALSE)
            case _:
                return TRUE, FALSE

    def _compared(self, op: str, a: Expr, b: Expr) -> Truth:
        first, second = self.range(a), self.range(b)
        if first is None or second is None:
            return TRUE, FALSE
        (low, high), (least, most) = first, second
        match op:
            case "<" | "<=":
                return Map(op, (low, most)), Map(op, (high, least))
            case ">" | ">=":
                return Map(op, (high, least)), Map(op, (low, most))
            case "==" | "!=":
                meet = conjoin((Map("<=", (low, most)), Map("<=", (least, high))))
                same = conjoin((Map("==", (low, most)), Map("==", (least, high))))
                return (meet, same) if op == "==" else (negate(same), negate(meet))
            case _:
                return TRUE, FALSE

    def range(self, e: Expr) -> Range | None:
        """The ends of an integer expression in a tile; None where they are not known."""
        if kind_of(e, self.kinds, self.real) != "int":
            return None
        if e == Coordinate(self.rank):
            return self.column_range
        if self._is_apart(e):
            return self._folded("min", e), self._folded("max", e)
        match e:
            case Read(name, ()):
                node = self.makers.get(name)
                return self.range(node.value) if isinstance(node, Let) else None
            case Map(op, parts):
                ends = [self.range(a) for a in parts]
                known = [end for end in ends if end is not None]
                return _mapped(op, known) if len(known) == len(ends) else None
            case _:
                return None

    def _is_apart(self, e: Expr) -> bool:
        """Whether a value varies along rows or along columns, and not along both; or is to be
        looked at point by point.
        """
        axes = self.axes(e)
        mixed = self.column in axes and bool(axes & self.rows)
        return self.known(e) and (not mixed or (self.dense and self._is_loaded(e)))

    def _is_loaded(self, e: Expr) -> bool:
        return isinstance(e, Read) and isinstance(self.makers.get(e.tensor), Load)

    def _folded(self, op: str, e: Expr) -> Expr:
        along = self.axes(e) & {*self.rows, self.column}
        return self.fold(op, e, along) if along else e


def _mapped(op: str, ends: list[Range]) -> Range | None:
    """The range of an operator that grows, or falls, with each of its operands."""
    match op, ends:
        case "+" | "min" | "max", _:
            return (
                Map(op, tuple(low for low, _ in ends)),
                Map(op, tuple(high for _, high in ends)),
            )
        case "-", [(low, high), (least, most)]:
            return Map("-", (low, most)), Map("-", (high, least))
        case "neg", [(low, high)]:
            return Map("neg", (high,)), Map("neg", (low,))
        case "//", [(low, high), (Const(int() as a), Const(int() as b))] if a == b and a > 0:
            return Map("//", (low, Const(a))), Map("//", (high, Const(a)))
        case _:
            return None
