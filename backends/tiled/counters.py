"""What a run did, as integers: tiles and bytes moved, visits, passes, and memory held.

A load or a store counts once per visit: a tile, and the bytes of the lanes that exist of the axes
in its index. What caches do, and what a predicate leaves out of a tile, is not counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Moved:
    """What one kernel moves of one tensor."""

    tiles_loaded: int = 0
    bytes_loaded: int = 0
    tiles_stored: int = 0
    bytes_stored: int = 0

    def add(self, other: Moved, times: int) -> None:
        self.tiles_loaded += times * other.tiles_loaded
        self.bytes_loaded += times * other.bytes_loaded
        self.tiles_stored += times * other.tiles_stored
        self.bytes_stored += times * other.bytes_stored


@dataclass
class Counters:
    """Keys are (kernel, tensor), (kernel, scalar of the loop) and (kernel, rank)."""

    moved: dict[tuple[str, str], Moved] = field(default_factory=dict)
    full_visits: Counter[tuple[str, str]] = field(default_factory=Counter)
    partial_visits: Counter[tuple[str, str]] = field(default_factory=Counter)
    passes: Counter[tuple[str, str]] = field(default_factory=Counter)
    peak_bytes: int = 0
    threads: int = 1

    def add(self, kernel: str, tensor: str, moved: Moved, times: int) -> None:
        self.moved.setdefault((kernel, tensor), Moved()).add(moved, times)

    def loaded(self, tensor: str) -> tuple[int, int]:
        """Tiles and bytes of a tensor, over all kernels."""
        found = [m for (_, name), m in self.moved.items() if name == tensor]
        return sum(m.tiles_loaded for m in found), sum(m.bytes_loaded for m in found)

    def stored(self, tensor: str) -> tuple[int, int]:
        found = [m for (_, name), m in self.moved.items() if name == tensor]
        return sum(m.tiles_stored for m in found), sum(m.bytes_stored for m in found)

    def to_dict(self) -> dict[str, Any]:
        kernels: dict[str, Any] = {}

        def of(kernel: str, part: str) -> dict[str, Any]:
            whole = kernels.setdefault(kernel, {"tensors": {}, "loops": {}, "passes": {}})
            found: dict[str, Any] = whole[part]
            return found

        for (kernel, tensor), m in sorted(self.moved.items()):
            of(kernel, "tensors")[tensor] = {
                "tiles_loaded": m.tiles_loaded,
                "bytes_loaded": m.bytes_loaded,
                "tiles_stored": m.tiles_stored,
                "bytes_stored": m.bytes_stored,
            }
        for kernel, loop in sorted({*self.full_visits, *self.partial_visits}):
            key = (kernel, loop)
            of(kernel, "loops")[loop] = {
                "full_visits": self.full_visits[key],
                "partial_visits": self.partial_visits[key],
            }
        for (kernel, rank), number in sorted(self.passes.items()):
            of(kernel, "passes")[rank] = number
        return {"kernels": kernels, "peak_bytes": self.peak_bytes, "threads": self.threads}
