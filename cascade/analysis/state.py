"""What is carried along a rank from one coordinate, or tile, to the next: the state of a decoder,
or the running values of a streaming pass. The passes are those of the cascade as it stands.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from cascade.analysis.counts import Count, total
from cascade.analysis.normalise import Step, normalise
from cascade.ir.cascade import Cascade


@dataclass(frozen=True)
class State:
    """So many elements for each point of some ranks, for each group of tensors that has them."""

    groups: tuple[tuple[Count, tuple[str, ...]], ...]

    def __str__(self) -> str:
        parts = (f"{n} per ({','.join(per)})" if per else str(n) for n, per in self.groups)
        return ", ".join(parts) or "0"


def state(cascade: Cascade, rank: str) -> State:
    """What the steps of a cascade carry along a rank: iterative tensors over it, one coordinate of
    each, and the results of reductions over all of it. Ranks along which inputs are contiguous
    (the width of a head) are sizes; the others say per what.
    """
    along = {rank, *(p.parts[0] for p in cascade.partitions if p.rank == rank)}
    widths = {t.ranks[-1] for t in cascade.inputs if len(t.ranks) > 1}
    left = [tuple(r for r in s.ranks if r not in along) for s in _carried(cascade, along)]
    groups = []
    while left:
        shared = Counter(tuple(r for r in ranks if r not in widths) for ranks in left)
        per = max(shared, key=lambda ranks: (shared[ranks], len(ranks)))
        own = [ranks for ranks in left if set(per) <= set(ranks)]
        left = [ranks for ranks in left if not set(per) <= set(ranks)]
        groups.append((total(Count.of(r for r in ranks if r not in per) for ranks in own), per))
    return State(tuple(groups))


def _carried(cascade: Cascade, along: set[str]) -> list[Step]:
    found: dict[str, Step] = {}
    for step in normalise(cascade):
        iterates = step.iterative is not None and step.ranks[step.iterative] in along
        reduces = step.op is not None and set(step.bound) & along
        if iterates or (reduces and not set(step.ranks) & along):
            found[step.target] = step
    return list(found.values())
