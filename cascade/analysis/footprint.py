"""What has to be held between passes, and what it costs to keep, spill or recompute it (FuseMax,
section 2).

A tensor that is made in one pass over a rank and read in a later one crosses a barrier: on that
rank it is live as a whole. Everything else lives as a tile; an iterative tensor as two coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cascade.analysis.counts import Count, total
from cascade.analysis.passes import Key, Mode, Passes
from cascade.analysis.work import StepWork
from cascade.ir.cascade import Cascade
from cascade.ir.walk import reads

WORD = {
    "f64": 8,
    "f32": 4,
    "bf16": 2,
    "f16": 2,
    "f8e4m3": 1,
    "f8e5m2": 1,
    "i64": 8,
    "i32": 4,
    "i16": 2,
}
WORD |= {"i8": 1, "u8": 1, "bool": 1, "int": 4, "real": 2}
DEFAULT_WORD = 2  # bytes of an element whose type is not declared


def word(dtype: str | None) -> int:
    """Bytes of an element; 2 where no type is declared."""
    return WORD.get(dtype or "", DEFAULT_WORD)


@dataclass(frozen=True)
class Footprint:
    """One tensor on one rank. `live` is the number of elements held for one point of its other
    ranks.

    For a tensor that crosses a barrier: `spill` elements moved if it goes through memory, and
    `recompute` operations (by kind) if it is made again in each later pass instead.
    """

    tensor: str
    rank: str
    holds: str  # "whole" | "tile" | "two steps"
    live: Count
    per: tuple[str, ...]
    made_in: int
    read_in: tuple[int, ...]
    spill: Count
    recompute: dict[str, Count]
    bytes_each: int
    is_input: bool = False

    def to_dict(self, extents: Mapping[str, int] | None) -> dict[str, object]:
        live = self.live.value(extents)
        spill = self.spill.value(extents)
        return {
            "tensor": self.tensor,
            "rank": self.rank,
            "holds": self.holds,
            "live_elements": str(self.live),
            "live_bytes": None if live is None else live * self.bytes_each,
            "per": list(self.per),
            "made_in_pass": self.made_in,
            "read_in_passes": list(self.read_in),
            "spill_elements": str(self.spill),
            "spill_bytes": None if spill is None else spill * self.bytes_each,
            "recompute": {k: str(c) for k, c in self.recompute.items()},
        }


def footprints(cascade: Cascade, passes: Passes, works: list[StepWork]) -> tuple[Footprint, ...]:
    """A row for each tensor that crosses a barrier or recurs, and one for each tile-sized
    intermediate.
    """
    work_of = _work_of_statements(works)
    readers: dict[str, list[str]] = {}
    for step in passes.steps:
        for name in dict.fromkeys(r.tensor for r in reads(step.body)):
            readers.setdefault(name, []).append(step.target)
    ranks_of = {s.target: s.ranks for s in passes.steps} | {t.name: t.ranks for t in cascade.inputs}
    found: list[Footprint] = []
    for t in cascade.inputs:
        found += _input_rows(t.name, t.ranks, word(t.dtype), passes, readers)
    for step in passes.steps:
        if step.iterative is not None:
            others = tuple(r for n, r in enumerate(step.ranks) if n != step.iterative)
            rank = step.ranks[step.iterative]
            live = Count.of(others, 2)
            found.append(Footprint(step.target, rank, "two steps", live, (), 1, (), Count(), {}, 4))
            continue
        row = _crossing(step.target, ranks_of[step.target], passes, readers, work_of)
        if row is not None:
            found.append(row)
    return tuple(found)


def _work_of_statements(works: list[StepWork]) -> dict[str, dict[str, Count]]:
    """The work of each step, with that of the reductions taken out of its statement."""
    by_target = {w.step.target: w for w in works}
    found: dict[str, dict[str, Count]] = {}
    for w in works:
        kinds = dict(w.by_kind)
        for r in reads(w.step.body):
            inner = by_target.get(r.tensor)
            if inner is not None and not inner.step.named and inner.step.einsum is w.step.einsum:
                for kind, count in found[r.tensor].items():
                    kinds[kind] = total((kinds.get(kind, Count()), count))
        found[w.step.target] = kinds
    return found


def _levels(passes: Passes, key: Key, name: str, readers: dict[str, list[str]]) -> tuple[int, ...]:
    """The passes (from 1) in which a tensor is read along a key."""
    at = {passes.levels[key, r] + 1 for r in readers.get(name, ()) if (key, r) in passes.levels}
    return tuple(sorted(at))


def _input_rows(
    name: str, ranks: tuple[str, ...], size: int, passes: Passes, readers: dict[str, list[str]]
) -> list[Footprint]:
    rows = []
    for count in passes.counts:
        key = count.key
        if key.tensor != name or count.inside or count.passes < 2:
            continue
        at = _levels(passes, key, name, readers)
        if len(at) > 1:
            rank = ranks[key.slot]
            reread = Count.of(ranks, len(at) - 1)
            per = tuple(r for r in ranks if r != rank)
            rows.append(
                Footprint(
                    name,
                    rank,
                    "whole",
                    Count.of((rank,)),
                    per,
                    at[0],
                    at[1:],
                    reread,
                    {},
                    size,
                    True,
                )
            )
    return rows


def _crossing(
    name: str,
    ranks: tuple[str, ...],
    passes: Passes,
    readers: dict[str, list[str]],
    work_of: dict[str, dict[str, Count]],
) -> Footprint | None:
    best: Footprint | None = None
    for key, dependences in passes.dependences.get(name, {}).items():
        made = passes.levels.get((key, name))
        if made is None:
            continue
        for d in dependences:
            if d.mode is not Mode.POINT or not d.ranks:
                continue
            levels = set(_levels(passes, key, name, readers))
            if not d.whole:  # a value for each block: its readers need not visit the input
                levels |= {passes.ready.get((key, r), 0) + 1 for r in readers.get(name, ())}
            later = tuple(sorted(n for n in levels if n > made + 1))
            if later and (best is None or len(later) > len(best.read_in)):
                per = tuple(r for r in ranks if r not in d.ranks)
                spill = Count.of(ranks, 1 + len(later))
                again = {k: c.times(len(later)) for k, c in work_of[name].items()}
                rank = key.rank if len(d.ranks) == 1 else ",".join(d.ranks)
                best = Footprint(
                    name, rank, "whole", Count.of(d.ranks), per, made + 1, later, spill, again, 4
                )
    return best
