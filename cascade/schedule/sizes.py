"""Sizes that a schedule depends on: extents known beforehand, tiles and splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

AUTO = 0  # as many splits as give every multiprocessor of a device something to do
MULTIPROCESSORS = 132  # of an H100, where nothing says another number


@dataclass(frozen=True)
class Sizes:
    """Extents that are known beforehand, the tiles (of rows by rank, of loops by rank), and in how
    many splits the rank of a loop is cut, each an instance of its own: a number, or AUTO. Of
    `row_ranks` ranks at most an instance takes more than one coordinate.
    """

    extents: Mapping[str, int] = field(default_factory=dict)
    rows: int = 128
    stream: int = 128
    part: int | None = None
    tiles: Mapping[str, int] = field(default_factory=dict)
    split: int = 1
    multiprocessors: int = MULTIPROCESSORS
    row_ranks: int = 2
