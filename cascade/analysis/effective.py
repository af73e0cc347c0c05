"""eFLOPs: arithmetic and memory traffic in one unit (Sadhukhan et al., "Kinetics: Rethinking
Test-Time Scaling Laws", 2025, section 3).

A target does `balance` operations in the time of a byte, so a byte counts as so many:
`eFLOPs = FLOPs + balance * bytes`. Both terms come from the counts of a cascade that is one step of
decoding; what the paper writes as closed formulas for dense, sparse and block top-k attention is
the sum over the steps. As there, FLOPs are those of multiply-accumulates, and the weights of the
model are computed with and not moved: a batch shares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cascade.analysis.report import Report
from cascade.analysis.targets import Target
from cascade.ir.extents import Number, bind

SAMPLES = 32  # contexts at which a step is priced between two lengths


@dataclass(frozen=True)
class Effort:
    """eFLOPs: `compute` is two for a multiply-accumulate, `memory` is the balance of the target for
    a compulsory byte.
    """

    compute: float = 0.0
    memory: float = 0.0

    @property
    def total(self) -> float:
        return self.compute + self.memory

    def __add__(self, other: Effort) -> Effort:
        return Effort(self.compute + other.compute, self.memory + other.memory)

    def times(self, factor: float) -> Effort:
        return Effort(self.compute * factor, self.memory * factor)


@dataclass(frozen=True)
class Decoding:
    """What decodes: the extent `grows` goes from `first` to `last`, by one for each token.

    `parameters` of the model cost two FLOPs each for a token; `layers` have this attention; each of
    `trials` makes a token in a step (the spec has them as an extent of its own).
    """

    grows: str
    first: int
    last: int
    parameters: float = 0.0
    layers: int = 1
    trials: int = 1

    def lengths(self, most: int = 6) -> tuple[int, ...]:
        """Output lengths in tokens: the whole run, half of it, a quarter, ..."""
        whole = self.last - self.first
        return tuple(sorted({whole >> n for n in range(most) if whole >> n}))


@dataclass(frozen=True)
class Point:
    """eFLOPs of the first `tokens` steps: of the model's parameters and of attention."""

    tokens: int
    parameters: float
    attention: Effort

    @property
    def share(self) -> float:
        """Of attention in all eFLOPs."""
        total = self.parameters + self.attention.total
        return self.attention.total / total if total else 0.0


@dataclass(frozen=True)
class Run:
    """The points of a run of decoding; `overtakes` is the output length in tokens from which
    attention has cost more than the parameters, None if it never does.
    """

    points: tuple[Point, ...]
    overtakes: float | None


def step_effort(report: Report, target: Target, settings: Mapping[str, Number]) -> Effort:
    """The eFLOPs of a cascade with these extents. Raises `InputError`."""
    extents = bind(report.cascade, {}, settings).extents
    macs = report.work["mac"].value(extents) if "mac" in report.work else 0
    moved = report.traffic.compulsory_bytes(extents) or 0
    return Effort(2.0 * (macs or 0), target.balance * moved)


def decode(report: Report, target: Target, settings: Mapping[str, Number], run: Decoding) -> Run:
    """The eFLOPs of a run as it grows. `report` is that of one step.

    Steps are summed by trapezoids over the context, as the paper integrates: exact where the cost
    of a step is linear in it.
    """

    def cost(context: int) -> Effort:
        own = {**settings, run.grows: context}
        return step_effort(report, target, own).times(run.layers)

    lengths = run.lengths()
    passed = tuple(_accumulated(cost, run, _grid(lengths)))
    at_once = cost(run.first).total >= 2.0 * run.parameters * run.trials
    overtakes = 0.0 if at_once else _overtakes(passed)
    return Run(tuple(p for p in passed if p.tokens in lengths), overtakes)


def _grid(lengths: Sequence[int]) -> list[int]:
    """Output lengths at which a step is priced: those asked for and some between them."""
    found = {0}
    for low, high in pairwise((0, *lengths)):
        found |= {low + (high - low) * n // SAMPLES for n in range(1, SAMPLES + 1)}
    return sorted(found)


def _accumulated(
    cost: Callable[[int], Effort], run: Decoding, grid: Sequence[int]
) -> Iterator[Point]:
    """The run up to each length of the grid but 0."""
    spent, before = Effort(), cost(run.first)
    for low, high in pairwise(grid):
        after = cost(run.first + high)
        spent += (before + after).times((high - low) / 2)
        before = after
        yield Point(high, 2.0 * run.parameters * run.trials * high, spent)


def _overtakes(points: Sequence[Point]) -> float | None:
    """Where the line between the last point below and the first one above crosses."""
    below = None
    for p in points:
        ahead = p.attention.total - p.parameters
        if ahead >= 0:
            tokens, lead = below or (p.tokens, ahead)
            return tokens + (p.tokens - tokens) * -lead / ((ahead - lead) or 1.0)
        below = p.tokens, ahead
    return None
