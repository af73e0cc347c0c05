"""Which instances of a kernel have most to do: those come first, so that threads end together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np

from cascade.backends.tiled.known import Context
from cascade.diagnostics import CascadeError
from cascade.ir.expr import Coordinate, Expr, Map, Read
from cascade.ir.walk import substitute, walk
from cascade.schedule import numbers
from cascade.schedule.bounds import solve
from cascade.schedule.program import For, inside

Array = np.ndarray[Any, Any]
Point = tuple[int, ...]
LARGEST = 2**20  # points that are put in order


def heavy_first(context: Context, counts: Sequence[int]) -> Iterable[Point]:
    """All points of a grid, by the coordinates that loops visit for their first and last rows;
    where these are equal, or not known, in the order of the Program.
    """
    number = math.prod(counts)
    loops = [n for n in inside(context.kernel.body) if isinstance(n, For)]
    turned = [g.descending for g in context.kernel.grid]
    natural = product(*(range(n)[:: -1 if t else 1] for n, t in zip(counts, turned, strict=True)))
    if not 1 < number <= LARGEST or not loops:
        return natural
    grid = np.stack(np.unravel_index(np.arange(number), counts), axis=1)
    grid = np.where(turned, np.subtract(counts, 1) - grid, grid)
    weights = np.zeros(number)
    for loop in loops:
        weights += _listed(context, loop, grid) if loop.lists else _weight(context, loop, grid)
    if (weights == weights[0]).all():
        return natural
    return (tuple(map(int, point)) for point in grid[np.argsort(-weights, kind="stable")])


def _listed(context: Context, loop: For, grid: Array) -> Any:
    """The numbers of tiles that are listed: lists are there by now."""
    known: dict[str, Any] = dict(context.scalars)
    known |= {g.scalar: grid[:, n] for n, g in enumerate(context.kernel.grid)}
    total: Any = 0
    for found in loop.lists:
        index = tuple(_number(i, known) for i in found.index)
        total = total + context.tensors[found.number].array[index]
    return total


def _weight(context: Context, loop: For, grid: Array) -> Any:
    places = {p.rank: p.value for p in context.kernel.places}
    known: dict[str, Any] = dict(context.scalars)
    for n, g in enumerate(context.kernel.grid):
        known[g.scalar] = grid[:, n : n + 1]
    sizes = {
        a.name: np.asarray([0, max(0, int(_number(a.size, known)) - 1)])
        for a in context.kernel.axes
    }

    def known_before(e: Expr) -> bool:
        return not any(
            isinstance(n, Read) or (isinstance(n, Coordinate) and not _placed(n.rank))
            for n in walk(e)
        )

    def _placed(rank: str) -> bool:
        return rank.startswith("#") or rank in places or rank == loop.place.rank

    def value(e: Expr) -> Any:
        def lanes(rank: str) -> Any:
            return sizes[rank.removeprefix("#")]

        return numbers.evaluate(substitute(e, places), lanes, lambda _: 0, known)

    total: Any = 0
    try:
        for i in solve(loop.predicate, loop.place.rank, loop.place.extent, known_before):
            low, high = value(Map("max", (*i.low, *i.low))), value(Map("min", (*i.high, *i.high)))
            reach = np.maximum(high - low, 0)
            total = total + np.broadcast_to(reach, (len(grid), 2)).sum(1)
    except (CascadeError, KeyError):
        return 0
    return total


def _number(e: Expr, known: dict[str, Any]) -> Any:
    return numbers.evaluate(e, lambda _: 0, lambda _: 0, known)
