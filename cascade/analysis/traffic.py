"""Bytes that must move, bytes that the cascade as written moves, and the time floor they set
(roofline).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cascade.analysis.counts import Count, total
from cascade.analysis.footprint import Footprint, word
from cascade.analysis.passes import Passes
from cascade.analysis.targets import Target
from cascade.analysis.work import operations
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Expr
from cascade.ir.kinds import tensor_kinds
from cascade.ir.walk import free_ranks, reads


@dataclass(frozen=True)
class Moved:
    """Elements of a tensor that move, each of `word` bytes.

    `most` is given for a tensor that is read through index tensors only: its reads touch no more
    elements than they have points, however large the tensor is.
    """

    tensor: str
    count: Count
    word: int
    most: Count | None = None

    def bytes(self, extents: Mapping[str, int]) -> int:
        whole = self.count.value(extents) or 0
        return self.word * (
            whole if self.most is None else min(whole, self.most.value(extents) or 0)
        )

    def __str__(self) -> str:
        return str(self.count) if self.most is None else f"min({self.count}, {self.most})"


@dataclass(frozen=True)
class Traffic:
    """Elements with their word size, so that both symbols and bytes can be given.

    `compulsory`: every input read once, every output written once. `as_written`: one traversal for
    each pass, with every tensor that crosses a barrier spilled and inputs read again in later
    passes.
    """

    compulsory: tuple[Moved, ...]
    extra: tuple[Moved, ...]

    def compulsory_bytes(self, extents: Mapping[str, int] | None) -> int | None:
        return _bytes(self.compulsory, extents)

    def as_written_bytes(self, extents: Mapping[str, int] | None) -> int | None:
        return _bytes(self.compulsory + self.extra, extents)


def _bytes(rows: tuple[Moved, ...], extents: Mapping[str, int] | None) -> int | None:
    return None if extents is None else sum(row.bytes(extents) for row in rows)


def traffic(cascade: Cascade, passes: Passes, rows: tuple[Footprint, ...]) -> Traffic:
    kinds = tensor_kinds(cascade)
    gathered = _gathered(passes)
    compulsory = [
        Moved(t.name, Count.of(t.ranks), word(t.dtype), gathered.get(t.name))
        for t in cascade.inputs
    ]
    for name in cascade.outputs:
        kind = kinds.get(name)
        size = word(cascade.output_types.get(name) or (kind if kind in ("int", "bool") else None))
        compulsory.append(Moved(name, Count.of(cascade.tensors[name].ranks), size))
    extra = [Moved(r.tensor, r.spill, r.bytes_each) for r in rows if r.holds == "whole"]
    return Traffic(tuple(compulsory), tuple(extra))


def _gathered(passes: Passes) -> dict[str, Count]:
    """The points at which each tensor is read, for tensors that only gathers read."""
    found: dict[str, dict[tuple[Expr, ...], Count]] = {}
    plain: set[str] = set()
    for step in passes.steps:
        for read in reads(step.body):
            if not any(next(reads(index), None) for index in read.index):
                plain.add(read.tensor)
            ranks = {r for index in read.index for r in free_ranks(index)}
            found.setdefault(read.tensor, {})[read.index] = Count.of(ranks)
    return {name: total(by.values()) for name, by in found.items() if name not in plain}


@dataclass(frozen=True)
class Roofline:
    """Seconds that each resource of a target needs at least; the floor is the largest.

    `operations` are all that the cascade has, a multiply-accumulate being two; `moved` are its
    compulsory bytes.
    """

    target: Target
    seconds: dict[str, float]
    written_seconds: float
    operations: int
    moved: int

    @property
    def floor(self) -> float:
        return max(self.seconds.values(), default=0.0)

    @property
    def bound(self) -> str:
        return max(self.seconds, key=lambda k: self.seconds[k], default="memory")

    @property
    def compute(self) -> float:
        """Seconds of the busiest unit of arithmetic."""
        return max((t for k, t in self.seconds.items() if k != "memory"), default=0.0)

    @property
    def intensity(self) -> float:
        """Operations per compulsory byte."""
        return self.operations / self.moved if self.moved else 0.0


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
    least = moved.compulsory_bytes(extents) or 0
    written = (moved.as_written_bytes(extents) or 0) / target.bandwidth
    seconds = {"memory": least / target.bandwidth, **groups}
    return Roofline(target, seconds, written, operations(work, extents), least)
