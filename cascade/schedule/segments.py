"""Which coordinates of a rank a loop visits, and which of its tiles need no test.

The intervals of `cascade.schedule.bounds`, evaluated at every row of a tile of rows, are reduced to
an *outer* range (where some row can count, so every point is in one) and a *full* range (where all
rows count at every coordinate). Outer ranges grow to multiples of `part`, full ranges shrink to
multiples of `tile`; both are united, whatever the number of intervals, by chaining: sorted by
start, each starts where the furthest before it ends. The rest of the outer ranges is *partial*.

No monotonicity is assumed. What this may cost: an outer range is the hull over the rows, so a
partial piece may have no point at all where rows count at far-apart coordinates, or where a
residual condition fails; and a tile that only two intervals together cover is partial.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Range = tuple[int, int]  # from the first to before the second; never empty


@dataclass(frozen=True)
class Bounds:
    """An interval in numbers, at rows: `low <= m < high` where `row`. The arrays broadcast."""

    low: Array
    high: Array
    row: Array
    residual: bool = False


@dataclass(frozen=True)
class Segments:
    """Disjoint ranges of coordinates, in order: without a test, and with one.

    Every coordinate at which a row counts is in one of them; at those of `full` all rows count.
    """

    full: tuple[Range, ...] = ()
    partial: tuple[Range, ...] = ()


def segments(
    intervals: Sequence[Bounds], exists: Array | bool, tile: int, part: int, extent: int
) -> Segments:
    """The ranges that a loop with tiles of `tile`, in part of `part`, visits for some rows.

    `exists` says which rows there are; it has no axis that no bound has. `part` divides `tile`.
    """
    outer: list[Range] = []
    full: list[Range] = []
    for interval in intervals:
        low, high, row, there = np.broadcast_arrays(
            np.maximum(interval.low, 0), np.minimum(interval.high, extent), interval.row, exists
        )
        some = there & row & (low < high)
        if not some.any():
            continue
        first, last = int(low[some].min()), int(high[some].max())
        outer.append((first // part * part, min(-(-last // part) * part, extent)))
        if not interval.residual and bool((some | ~there).all()):
            first, last = int(low[there].max()), int(high[there].min())
            full.append((-(-first // tile) * tile, last // tile * tile))
    whole = chained(full)
    return Segments(whole, without(chained(outer), whole))


def chained(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The union, as ranges that neither meet nor touch, in order."""
    united: list[Range] = []
    for low, high in sorted(r for r in ranges if r[0] < r[1]):
        if united and low <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], high))
        else:
            united.append((low, high))
    return tuple(united)


def without(ranges: tuple[Range, ...], taken: tuple[Range, ...]) -> tuple[Range, ...]:
    """What the first have and the second have not; both as `chained` gives them."""
    left: list[Range] = []
    for low, high in ranges:
        for first, last in taken:
            if last <= low or high <= first:
                continue
            if low < first:
                left.append((low, first))
            low = last
        if low < high:
            left.append((low, high))
    return tuple(left)


def visits(found: Segments, tile: int, part: int) -> tuple[list[Range], list[Range]]:
    """Where each visit starts and how many coordinates it has: of full tiles, of partial ones.

    Only the last partial visit of a rank has less than `part` coordinates.
    """
    return _pieces(found.full, tile), _pieces(found.partial, part)


def _pieces(ranges: tuple[Range, ...], size: int) -> list[tuple[int, int]]:
    return [
        (start, min(size, high - start)) for low, high in ranges for start in range(low, high, size)
    ]
