"""Bytes that must move, bytes that the cascade as written moves, and the time floor they set
(roofline).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cascade.analysis.counts import Count
from cascade.analysis.footprint import Footprint, word
from cascade.analysis.targets import Target
from cascade.ir.cascade import Cascade
from cascade.ir.kinds import tensor_kinds


@dataclass(frozen=True)
class Traffic:
    """Elements with their word size, so that both symbols and bytes can be given.

    `compulsory`: every input read once, every output written once. `as_written`: one traversal for
    each pass, with every tensor that crosses a barrier spilled and inputs read again in later
    passes.
    """

    compulsory: tuple[tuple[str, Count, int], ...]
    extra: tuple[tuple[str, Count, int], ...]

    def compulsory_bytes(self, extents: Mapping[str, int] | None) -> int | None:
        return _bytes(self.compulsory, extents)

    def as_written_bytes(self, extents: Mapping[str, int] | None) -> int | None:
        return _bytes(self.compulsory + self.extra, extents)


def _bytes(
    rows: tuple[tuple[str, Count, int], ...], extents: Mapping[str, int] | None
) -> int | None:
    if extents is None:
        return None
    return sum((count.value(extents) or 0) * size for _, count, size in rows)


def traffic(cascade: Cascade, rows: tuple[Footprint, ...]) -> Traffic:
    kinds = tensor_kinds(cascade)
    compulsory = [(t.name, Count.of(t.ranks), word(t.dtype)) for t in cascade.inputs]
    for name in cascade.outputs:
        kind = kinds.get(name)
        size = word("int" if kind == "int" else "bool" if kind == "bool" else None)
        compulsory.append((name, Count.of(cascade.tensors[name].ranks), size))
    extra = [(r.tensor, r.spill, r.bytes_each) for r in rows if r.holds == "whole"]
    return Traffic(tuple(compulsory), tuple(extra))


@dataclass(frozen=True)
class Roofline:
    """Seconds that each resource of a target needs at least; the floor is the largest."""

    target: Target
    seconds: dict[str, float]
    written_seconds: float

    @property
    def floor(self) -> float:
        return max(self.seconds.values(), default=0.0)

    @property
    def bound(self) -> str:
        return max(self.seconds, key=lambda k: self.seconds[k], default="memory")


def roofline(
    target: Target, work: Mapping[str, Count], moved: Traffic, extents: Mapping[str, int]
) -> Roofline:
    """The time floor: memory, multiply-accumulates, exponentials and everything else overlap
    perfectly.
    """
    groups: dict[str, float] = {}
    for kind, count in work.items():
        unit = kind if kind in target.rate else "other"
        groups[unit] = groups.get(unit, 0.0) + (count.value(extents) or 0) / target.rate_of(kind)
    memory = (moved.compulsory_bytes(extents) or 0) / target.bandwidth
    written = (moved.as_written_bytes(extents) or 0) / target.bandwidth
    return Roofline(target, {"memory": memory, **groups}, written)
