"""How many lanes of each axis stand for coordinates that exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from cascade.ir.expr import Const, Coordinate, Expr, Map
from cascade.ir.extents import Number, evaluate
from cascade.schedule import numbers
from cascade.schedule.program import Axis, Place, lanes_of


def sizes_of(axes: Iterable[Axis], scalars: Mapping[str, Number]) -> dict[str, int]:
    """The lanes that each axis has where nothing is out of range."""
    return {a.name: int(evaluate(a.size, scalars.__getitem__)) for a in axes}


def lengths_of(
    places: Iterable[Place], sizes: Mapping[str, int], scalars: Mapping[str, Number]
) -> dict[str, int]:
    """The lanes that exist, of each axis that a place has lanes of."""
    lengths: dict[str, int] = {}
    for place in places:
        axes = lanes_of(place.value)
        if not axes:
            continue
        axis, *others = axes
        extent = int(evaluate(place.extent, scalars.__getitem__))
        size = lengths.get(axis, sizes[axis])
        if others:
            _check(place, {a: lengths.get(a, sizes[a]) for a in axes}, scalars, extent)
        start = _start(place.value)
        if not others and start is not None:
            first = int(evaluate(start, scalars.__getitem__))
            lengths[axis] = max(0, min(size, extent - first))
        elif not others:
            lengths[axis] = _prefix(place, axis, size, scalars, extent)
    return lengths


def _start(e: Expr) -> Expr | None:
    """`start` of `start + #lane`."""
    match e:
        case Coordinate():
            return Const(0)
        case Map("+", (start, Coordinate())) if not lanes_of(start):
            return start
        case Map("+", (Coordinate(), start)) if not lanes_of(start):
            return start
        case _:
            return None


def _values(place: Place, sizes: Mapping[str, int], scalars: Mapping[str, Number]) -> numbers.Value:
    order = list(sizes)

    def lanes(rank: str) -> numbers.Value:
        n = order.index(rank.removeprefix("#"))
        return np.arange(sizes[order[n]]).reshape([-1 if k == n else 1 for k in range(len(order))])

    return numbers.evaluate(place.value, lanes, lambda _: None, scalars)


def _prefix(place: Place, axis: str, size: int, scalars: Mapping[str, Number], extent: int) -> int:
    there = _values(place, {axis: size}, scalars) < extent
    length = int(np.count_nonzero(there))
    if not np.all(there[:length]):
        raise ValueError(f"lanes of `{axis}` between others have no coordinate of `{place.rank}`")
    return length


def _check(
    place: Place, sizes: Mapping[str, int], scalars: Mapping[str, Number], extent: int
) -> None:
    if not np.all(_values(place, sizes, scalars) < extent):
        axes = ", ".join(sizes)
        raise ValueError(f"`{place.rank}` ends within a tile of several axes: {axes}")
