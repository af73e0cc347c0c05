"""Latency, utilisation, traffic and energy of a cascade on a spatial target.

The pipeline: the form that the target runs (as written, or with the fewest passes) -> statements of
one operation -> shape -> binding -> dataflow -> costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from cascade.analysis.normalise import normalise
from cascade.diagnostics import input_error
from cascade.ir.cascade import Cascade
from cascade.ir.extents import Number
from cascade.spatial.binding import Binding, bind_statements
from cascade.spatial.blocks import blocks, separate
from cascade.spatial.energy import Actions, charged, published
from cascade.spatial.epoch import make_epochs
from cascade.spatial.epoch_text import Plan
from cascade.spatial.fusing import fuse_pairs
from cascade.spatial.lowering import statements
from cascade.spatial.result import Result, Use
from cascade.spatial.shape import Shape, make_shape
from cascade.spatial.statements import Statements
from cascade.spatial.stream import chunks, roles, stream, uses
from cascade.spatial.target import SpatialTarget
from cascade.spatial.workload import Workload
from cascade.transforms.chunk import chunk
from cascade.transforms.derive import derive

DATAFLOWS = {"stream": stream, "blocks": blocks, "separate": separate}


@lru_cache(maxsize=64)
def form_of(cascade: Cascade, form: str) -> Cascade:
    """The cascade as a target runs it: `derived` has the fewest passes, and a recurrence in chunks;
    `written` is the text itself.
    """
    if form == "written":
        return cascade
    if any(s.recurs for s in normalise(cascade)) and not cascade.partitions:
        chunked = chunk(cascade)
        if chunked is not None:
            return chunked.result
    return derive(cascade).result


@lru_cache(maxsize=64)
def statements_of(cascade: Cascade, split: bool) -> Statements:
    return statements(cascade, split)


def lower(
    cascade: Cascade, target: SpatialTarget, settings: Mapping[str, Number], form: str | None = None
) -> tuple[Cascade, Statements, Shape, Binding]:
    """The form that runs, its statements, their extents and their arrays."""
    runs = form_of(cascade, form or target.form)
    found = fuse_pairs(statements_of(runs, target.dataflow == "stream"), target.fuse)
    shape = make_shape(runs, found, target, settings)
    return runs, found, shape, bind_statements(found, shape, target)


def model(
    cascade: Cascade, target: SpatialTarget, settings: Mapping[str, Number], form: str | None = None
) -> Result:
    """The costs of a cascade on a target. `settings` give extents by name (`M`), params, and values
    that masks read. Raises `CascadeError` for what the target cannot run.
    """
    runs, found, shape, binding = lower(cascade, target, settings, form)
    flow = DATAFLOWS[target.dataflow](runs, found, binding, shape, target)
    used = uses(binding, shape, target)
    useful = dict.fromkeys(binding.arrays, 0.0)
    for u in used:
        useful[u.array] += u.useful
    return Result(
        cascade.name,
        target.name,
        flow.cycles,
        useful,
        target.clock,
        flow.latency,
        flow.traffic,
        flow.bound,
        used,
        flow.actions,
        published(target.energy, flow.actions),
        charged(target.energy, flow.actions),
        flow.mapping,
    )


def plan(
    cascade: Cascade, target: SpatialTarget, settings: Mapping[str, Number], form: str | None = None
) -> Plan:
    """The schedule of a cascade on a target that streams: binding, tiling and epochs. Raises
    `CascadeError` for what the target cannot run.
    """
    if target.dataflow != "stream":
        raise input_error(
            "target",
            f"{target.name} runs whole rows of scores: it has no epochs",
            "choose a target with the dataflow `stream`, such as fusemax",
        )
    if target.overlap == "none":
        raise input_error(
            "target",
            f"{target.name} runs one tile after another: it has no epochs",
            "choose a target with the overlap `pipelined`, such as fusemax",
        )
    _, found, shape, binding = lower(cascade, target, settings, form)
    chosen, _ = chunks(found, roles(found, binding), shape, target)
    epochs = make_epochs(found, binding, shape, target, chosen.inner)
    return Plan(cascade.name, target, found, shape, binding, chosen.inner, epochs)


def model_linear(workload: Workload, target: SpatialTarget, length: int) -> Result:
    """The linear layers of a workload on the main array: each takes the longer of its cycles and
    its traffic, every operand moved once (FuseMax, section 6).
    """
    main, energy = target.main, target.energy
    tokens = workload.tokens(length)
    each = main.operations["mac"]
    latency = traffic = cycles = macs = read = written = 0.0
    used = []
    for layer, rows, columns in workload.linear:
        work = tokens * rows * columns
        busy = work * each / main.units
        moved = target.word * (tokens * rows + rows * columns + tokens * columns)
        latency += max(busy / target.clock, moved / target.bandwidth)
        traffic, cycles, macs = traffic + moved, cycles + busy, macs + work
        read += busy * (main.rows + main.columns) / energy.row_words
        written += (tokens * rows + rows * columns) / energy.row_words
        used.append(Use(layer, ("mac",), main.name, each, busy))
    actions = Actions({(main.name, "mac", float(each)): macs}, read, written, traffic)
    bound = main.name if cycles / target.clock >= traffic / target.bandwidth else "memory"
    return Result(
        f"{workload.name} linear layers",
        target.name,
        {a.name: cycles if a is main else 0.0 for a in target.arrays},
        {a.name: cycles if a is main else 0.0 for a in target.arrays},
        target.clock,
        latency,
        traffic,
        bound,
        tuple(used),
        actions,
        published(energy, actions),
        charged(energy, actions),
        {},
    )


def workload_settings(workload: Workload, length: int) -> dict[str, Number]:
    """Extents by name, as `--set` takes them."""
    return {rank.upper(): extent for rank, extent in workload.extents(length).items()}
