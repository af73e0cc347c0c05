"""Sizes that a schedule depends on: extents known beforehand, and tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sizes:
    """Extents that are known beforehand, and the tiles: of rows by rank, of loops by rank."""

    extents: Mapping[str, int] = field(default_factory=dict)
    rows: int = 128
    stream: int = 128
    part: int | None = None
    tiles: Mapping[str, int] = field(default_factory=dict)
