"""A short list of tiles, warps and stages to try on a device, the most promising first.

What cannot fit is left out before anything is compiled: tiles that registers do not hold, and tiles
on their way to matrix units that shared memory does not hold. The others are put in order by
`cascade.schedule.cost`, and a few variants of each tile are kept, so that the list has several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import inf, prod
from typing import Any

from cascade.analysis.targets import Target, gpu_targets, load_target
from cascade.backends.triton.aot import CAPABILITIES, SHARED
from cascade.backends.triton.emit import Options, emit
from cascade.backends.triton.tiles import WHOLE, Candidate, Cut, Made, can_be_held, widths
from cascade.diagnostics import InputError
from cascade.ir.cascade import Cascade
from cascade.ir.extents import Number, evaluate
from cascade.schedule.choose import Schedule, schedule
from cascade.schedule.cost import Cost, Launch
from cascade.schedule.counts import Counts
from cascade.schedule.predict import predict
from cascade.schedule.program import Program
from cascade.schedule.sizes import Sizes

MOST = 12  # candidates of a list
VARIANTS = 3  # of the same tiles, where there are several
ROWS, STREAM, WARPS, STAGES = (128, 64, 32, 16), (128, 64, 32), (8, 4), (3, 4, 2, 1)
FEW = 64  # rows of a tile below which matrix units are slower
LONG = 2**14  # coordinates of a rank; with more of them the order is the same
NEAREST = {"sm_80": "a100", "sm_86": "a100", "sm_89": "a100", "sm_90": "h100", "sm_100": "b200"}


@dataclass(frozen=True)
class Machine:
    """A device: its name, its architecture, and its rates by a target file."""

    name: str
    architecture: str
    target: Target

    @property
    def shared(self) -> int:
        """Bytes of shared memory that an instance may use."""
        return SHARED[CAPABILITIES[self.architecture]]


def machine(name: str, architecture: str, multiprocessors: int | None = None) -> Machine:
    """The device of this name: the target file whose name is in its name, else the nearest."""
    found = [t for t in gpu_targets() if t.upper() in name.upper()]
    nearest = architecture if architecture in CAPABILITIES else "sm_90"
    target = load_target(found[0] if found else NEAREST[nearest])
    if multiprocessors is not None:
        target = replace(target, multiprocessors=multiprocessors)
    return Machine(name, nearest, target)


@dataclass(frozen=True)
class Call:
    """What a kernel is made for: a spec with the types of its arguments, extents and params, small
    arrays that may bound loops, and what is set by hand.
    """

    spec: Cascade
    values: Mapping[str, Number]
    extents: Mapping[str, int]
    small: Mapping[str, Any]
    tiles: Mapping[str, int]
    as_written: bool = False
    descriptors: bool = False
    cut: Cut = WHOLE


@dataclass(frozen=True)
class Planned:
    """A candidate and its Program; `seconds` are those of the model, None where it has none."""

    candidate: Candidate
    schedule: Schedule
    program: Program
    seconds: float | None

    def made(self, descriptors: bool) -> Made:
        options = Options(self.candidate.warps, self.candidate.stages, descriptors)
        source = emit(self.program, options)
        return Made(self.schedule, self.program, options, self.candidate, source, ())


@dataclass(frozen=True)
class Shortlist:
    """Candidates in the order of the model, and how many were left out, by what they lack."""

    planned: tuple[Planned, ...]
    left_out: Mapping[str, int]


def plan(call: Call, candidate: Candidate) -> tuple[Schedule, Program]:
    """The Program of a candidate."""
    known = {**{n.upper(): v for n, v in call.extents.items()}, **call.extents}
    sizes = Sizes(
        call.extents, candidate.rows, candidate.stream, None, dict(call.tiles),
        call.cut.number, call.cut.multiprocessors,
    )  # fmt: skip
    made = schedule(call.spec, sizes, call.as_written)
    return made, replace(made.program, widths=widths(made.program, known))


def shortlist(call: Call, on: Machine) -> Shortlist:
    """At most `MOST` candidates that a device can hold, those with the least cost first."""
    left_out: Counter[str] = Counter()
    found: list[Planned] = []
    for (rows, stream), made, program in _programs(call, on, found):
        cost, counts = _cost(call, program)
        for warps, stages in product(WARPS, STAGES):
            launch = Launch(warps, stages)
            if not can_be_held(program, warps):
                left_out["registers"] += 1
            elif cost.needs(launch).shared > on.shared:
                left_out["shared memory"] += 1
            else:
                candidate = Candidate(rows, stream, warps, stages)
                seconds = cost.seconds(launch, on.target) if counts is not None else None
                found.append(Planned(candidate, made, program, seconds))
    ordered = sorted(found, key=_rank)
    return Shortlist(tuple(_few_of_each(ordered)), dict(left_out))


def _rank(p: Planned) -> tuple[float, float]:
    """What the model says, and 16 rows of each warp where it says the same."""
    usual = abs(p.candidate.rows / 16 - p.candidate.warps)
    return (inf if p.seconds is None else p.seconds), usual


def _programs(
    call: Call, on: Machine, found: list[Planned]
) -> Iterator[tuple[tuple[int, int], Schedule, Program]]:
    """A Program for each size of tiles, from large to small. Few rows are for what larger tiles
    leave a device idle with, or cannot be held in.
    """
    seen: list[Program] = []
    for rows, stream in product(ROWS, STREAM):
        if rows < FEW and any(_fills(p, call, on) for p in found if p.candidate.rows >= FEW):
            return
        made, program = plan(call, Candidate(rows, stream, 0, 0))
        if program not in seen:  # what is set by hand may leave nothing to choose
            seen.append(program)
            yield (rows, stream), made, program


def _fills(planned: Planned, call: Call, on: Machine) -> bool:
    """Whether there is an instance for each multiprocessor."""
    values = _values(planned.program, call.values)
    kernels = planned.program.kernels
    instances = (prod(int(evaluate(g.count, values.__getitem__)) for g in k.grid) for k in kernels)
    return min(instances, default=0) >= on.target.multiprocessors


def _values(program: Program, known: Mapping[str, Number]) -> dict[str, Number]:
    values = dict(known)
    for name, e in program.values:
        if name not in values:
            values[name] = evaluate(e, values.__getitem__)
    return values


def _cost(call: Call, program: Program) -> tuple[Cost, Counts | None]:
    """The cost of a Program; without counts where a loop is bounded by what is not known."""
    dtypes = {t.name: t.dtype for t in call.spec.inputs if t.dtype is not None}
    values = _values(program, _short(call, program))
    try:
        counts: Counts | None = predict(program, values, call.small, dtypes)
    except InputError:
        counts = None
    return Cost(program, counts, values, dtypes), counts


def _short(call: Call, program: Program) -> dict[str, Number]:
    """The numbers of a call with no length above `LONG`, and without what follows from lengths."""
    widths, follow = dict(program.widths), {n for n, _ in program.values}
    lengths = {r.name.upper() for r in call.spec.ranks} - set(widths)
    given = {p.name for p in call.spec.params}
    return {
        n: min(v, LONG) if n in lengths else v
        for n, v in call.values.items()
        if n in given or n not in follow
    }


def _few_of_each(ordered: list[Planned]) -> Iterator[Planned]:
    """The first `MOST`, no tiles with more than their share of them."""
    sizes = {_tiles(p) for p in ordered}
    most = max(VARIANTS, MOST // max(1, len(sizes)))
    kept: Counter[tuple[int, int]] = Counter()
    for p in ordered:
        if kept[_tiles(p)] < most and kept.total() < MOST:
            kept[_tiles(p)] += 1
            yield p


def _tiles(p: Planned) -> tuple[int, int]:
    return p.candidate.rows, p.candidate.stream
