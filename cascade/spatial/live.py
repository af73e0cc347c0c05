"""Which tiles a mask leaves, by interval arithmetic on its conditions.

A tile is *live* if a point of it may satisfy every condition, and *full* if all its points do. The
grid of tiles is evaluated as a whole: intervals are pairs of NumPy arrays over it, one row for each
query tile and one column for each step. What a condition reads from tensors is taken from the
settings by the tensor's name (`window = 1024`); without a setting the condition may hold anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.extents import Number

Array: TypeAlias = np.ndarray[Any, Any]
Interval: TypeAlias = tuple[Any, Any]
ANY: Interval = (-np.inf, np.inf)
MAYBE: Interval = (False, True)
SAMPLED = 64  # partial tiles counted point by point; of more, evenly spread ones


@dataclass(frozen=True)
class Live:
    """`tiles[q, s]`: whether query tile q has a point in step s; None if all have. `points` is the
    share of all points that satisfy the conditions.
    """

    tiles: Array | None
    points: float
    queries: int

    @property
    def share(self) -> float:
        """The share of tiles that are live."""
        return 1.0 if self.tiles is None or not self.tiles.size else float(self.tiles.mean())

    def streamed(self, chunk: int) -> float:
        """How often the streamed inputs are read: by each chunk of query tiles the steps that one
        of its tiles needs.
        """
        if self.tiles is None:
            return float(-(-self.queries // max(1, chunk)))
        starts = np.arange(0, len(self.tiles), max(1, chunk))
        return float(np.add.reduceat(self.tiles, starts, axis=0).astype(bool).mean(axis=1).sum())


@dataclass(frozen=True)
class Axis:
    """Coordinates of a rank along the grid: `size` a tile, `extent` in all."""

    rank: str
    size: int
    extent: int

    @property
    def tiles(self) -> int:
        return -(-self.extent // self.size)

    def bounds(self) -> Interval:
        low = np.arange(self.tiles) * self.size
        return low, np.minimum(low + self.size, self.extent) - 1


def live_tiles(
    conditions: tuple[Expr, ...],
    query: Axis,
    steps: Axis,
    parts: tuple[str, str],
    values: Mapping[str, Number],
) -> Live:
    """The live tiles of a grid of query tiles and steps; `parts` are the names of the step and of
    the coordinate inside it.
    """
    if not conditions:
        return Live(None, 1.0, query.tiles)
    low, high = query.bounds()
    first, last = steps.bounds()
    number = np.arange(steps.tiles)
    here: dict[str, Interval] = {
        parts[0]: (number[None, :], number[None, :]),
        parts[1]: (np.zeros_like(first)[None, :], (last - first)[None, :]),
        query.rank: (low[:, None], high[:, None]),
        steps.rank: (first[None, :], last[None, :]),
    }
    shape = (query.tiles, steps.tiles)
    maybe, full = np.ones(shape, bool), np.ones(shape, bool)
    for condition in conditions:
        surely, possibly = _evaluate(condition, here, values)
        maybe &= np.broadcast_to(np.asarray(possibly, bool), shape)
        full &= np.broadcast_to(np.asarray(surely, bool), shape)
    share = _share(conditions, query, steps, parts, values, maybe, full)
    return Live(None if full.all() else maybe, share, query.tiles)


def _share(
    conditions: tuple[Expr, ...],
    query: Axis,
    steps: Axis,
    parts: tuple[str, str],
    values: Mapping[str, Number],
    maybe: Array,
    full: Array,
) -> float:
    """Points of full tiles, and of partial ones as counted (or as estimated from some of them)."""
    low, high = query.bounds()
    first, last = steps.bounds()
    area = (high - low + 1)[:, None] * (last - first + 1)[None, :]
    total = float(area.sum())
    if not total:
        return 1.0
    inside = float(area[full].sum())
    partial = np.argwhere(maybe & ~full)
    if not len(partial):
        return inside / total
    chosen = partial[np.unique(np.linspace(0, len(partial) - 1, SAMPLED).astype(int))]
    counted, seen = 0.0, 0.0
    for q, s in chosen:
        p = np.arange(low[q], high[q] + 1)[:, None]
        m = np.arange(first[s], last[s] + 1)[None, :]
        here = {
            parts[0]: (np.asarray(s), np.asarray(s)),
            parts[1]: (m - first[s], m - first[s]),
            query.rank: (p, p),
            steps.rank: (m, m),
        }
        holds = np.ones((p.size, m.size), bool)
        for condition in conditions:
            _, possible = _evaluate(condition, here, values)
            holds &= np.broadcast_to(np.asarray(possible, bool), holds.shape)
        counted += float(holds.sum())
        seen += float(area[q, s])
    every = float(area[maybe & ~full].sum())
    return (inside + every * counted / seen) / total


def _evaluate(e: Expr, here: Mapping[str, Interval], values: Mapping[str, Number]) -> Interval:
    """The interval in which a value lies; for a condition (surely, possibly)."""
    match e:
        case Const(value):
            return value, value
        case Symbol(name):
            return (values[name], values[name]) if name in values else ANY
        case Coordinate(rank):
            return here.get(rank, ANY)
        case Read(tensor, _):
            return (values[tensor], values[tensor]) if tensor in values else ANY
        case Map(op, args):
            return _map(op, [_evaluate(a, here, values) for a in args])
        case _:
            return ANY


def _map(op: str, args: list[Interval]) -> Interval:
    if op in ("and", "or", "not"):
        return _logic(op, args)
    if any(a is ANY or a is MAYBE for a in args):
        return MAYBE if op in COMPARISONS else ANY
    if op in COMPARISONS:
        return COMPARISONS[op](*args)
    if op == "neg":
        return -args[0][1], -args[0][0]
    if op in ("+", "-"):
        (a, b), (c, d) = args
        return (a + c, b + d) if op == "+" else (a - d, b - c)
    if op in ("min", "max"):
        choose = np.minimum if op == "min" else np.maximum
        lows, highs = args[0]
        for low, high in args[1:]:
            lows, highs = choose(lows, low), choose(highs, high)
        return lows, highs
    if op == "*":
        (a, b), (c, d) = args
        return _hull([a * c, a * d, b * c, b * d])
    if op in ("//", "%"):
        return _division(op, *args)
    if op == "abs":
        a, b = args[0]
        crosses = np.logical_and(np.less_equal(a, 0), np.greater_equal(b, 0))
        return np.where(crosses, 0, np.minimum(abs(a), abs(b))), np.maximum(abs(a), abs(b))
    return ANY


def _logic(op: str, args: list[Interval]) -> Interval:
    args = [MAYBE if a is ANY else a for a in args]
    if op == "not":
        return np.logical_not(args[0][1]), np.logical_not(args[0][0])
    join = np.logical_and if op == "and" else np.logical_or
    (a, b), (c, d) = args
    return join(a, c), join(b, d)


def _division(op: str, number: Interval, by: Interval) -> Interval:
    (a, b), (c, d) = number, by
    if not np.all(np.equal(c, d)) or np.any(np.less_equal(c, 0)):
        return ANY
    if op == "//":
        return np.floor_divide(a, c), np.floor_divide(b, c)
    same = np.equal(np.floor_divide(a, c), np.floor_divide(b, c))
    return np.where(same, np.mod(a, c), 0), np.where(same, np.mod(b, c), c - 1)


def _hull(corners: list[Any]) -> Interval:
    low, high = corners[0], corners[0]
    for corner in corners[1:]:
        low, high = np.minimum(low, corner), np.maximum(high, corner)
    return low, high


def _less(a: Interval, b: Interval) -> Interval:
    return np.less(a[1], b[0]), np.less(a[0], b[1])


def _at_most(a: Interval, b: Interval) -> Interval:
    return np.less_equal(a[1], b[0]), np.less_equal(a[0], b[1])


def _equal(a: Interval, b: Interval) -> Interval:
    point = np.equal(a[0], a[1]) & np.equal(b[0], b[1]) & np.equal(a[0], b[0])
    return point, np.less_equal(a[0], b[1]) & np.less_equal(b[0], a[1])


def _unequal(a: Interval, b: Interval) -> Interval:
    surely, possibly = _equal(a, b)
    return np.logical_not(possibly), np.logical_not(surely)


COMPARISONS = {
    "<": _less,
    "<=": _at_most,
    ">": lambda a, b: _less(b, a),
    ">=": lambda a, b: _at_most(b, a),
    "==": _equal,
    "!=": _unequal,
}
