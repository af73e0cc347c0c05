"""The dataflows of FLAT and of arrays without fusion: contractions on the 2D array, the statements
between them on the 1D array, over whole rows of scores.

*blocks* (FLAT): a block of rows at a time, tiled by the search of `flat`. *separate* (unfused):
each contraction and the vector statements on their own, through memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cascade.diagnostics import fail
from cascade.ir.cascade import Cascade
from cascade.spatial.binding import Binding, Bound
from cascade.spatial.energy import Actions
from cascade.spatial.flat import Machine, Problem, buffer_rows, search
from cascade.spatial.shape import Shape
from cascade.spatial.statements import Statements
from cascade.spatial.stream import Flow, operations
from cascade.spatial.target import SpatialTarget
from cascade.spatial.tiling import choose_chunks


@dataclass(frozen=True)
class Parts:
    """A cascade as two contractions around vector statements."""

    first: Bound
    second: Bound
    vector: tuple[Bound, ...]


def split_parts(found: Statements, binding: Binding) -> Parts:
    """Raises `CascadeError` if the cascade has another form."""
    scores = [b for b in binding.items if _is_score(found, b)]
    results = [b for b in binding.items if _is_result(found, b)]
    if len(scores) != 1 or len(results) != 1:
        raise fail(
            "array-form",
            f"{found.name or 'the cascade'} does not have the two contractions that a FLAT-like "
            f"array fuses: {len(scores)} make a value for each query and key, {len(results)} sum "
            "such a value over the keys",
            hints=("choose a target with the dataflow `stream`",),
        )
    vector = tuple(b for b in binding.items if b not in (scores[0], results[0]))
    return Parts(scores[0], results[0], vector)


def _is_score(found: Statements, b: Bound) -> bool:
    s = b.statement
    both = found.inner in s.write.ranks and found.has_query(s.write.ranks)
    return s.operations == ("mac",) and both


def _is_result(found: Statements, b: Bound) -> bool:
    s = b.statement
    return s.operations == ("mac",) and found.inner in s.reduced and found.has_query(s.write.ranks)


def problem(found: Statements, binding: Binding, shape: Shape, parts: Parts) -> Problem:
    """What the search needs of the cascade."""
    first, second = parts.first.statement, parts.second.statement
    e = shape.width([r for r in first.ranks if r in first.reduced])
    f = shape.width(second.write.ranks)
    values = [
        b
        for b in parts.vector
        if found.has_query(b.statement.write.ranks)
        and found.inner not in b.statement.write.ranks
        and found.is_tile(b.statement)
    ]
    return Problem(
        shape.streams,
        shape.length,
        shape.rows,
        e,
        f,
        _vector_passes(found, parts),
        len(values),
        shape.live.share,
    )


def _vector_passes(found: Statements, parts: Parts) -> tuple[tuple[int, int], ...]:
    """By phase: tensors with a value at each score that are read from before, and that are written
    for later.
    """
    phase = {b.statement.write.tensor: b.statement.phase for b in parts.vector}
    later = {o.tensor for o in parts.second.statement.reads}
    result = []
    for n in sorted(set(phase.values())):
        here = [b.statement for b in parts.vector if b.statement.phase == n]
        made = {s.write.tensor for s in here}
        read = {o.tensor for s in here for o in s.reads if _is_point(found, o.ranks)} - made
        after = {o.tensor for b in parts.vector if b.statement.phase > n for o in b.statement.reads}
        points = {s.write.tensor for s in here if _is_point(found, s.write.ranks)}
        written = points & (after | later)
        if read or written:
            result.append((len(read), len(written)))
    return tuple(result)


def _is_point(found: Statements, ranks: Iterable[str]) -> bool:
    return found.inner in ranks and found.has_query(ranks)


def blocks(
    cascade: Cascade, found: Statements, binding: Binding, shape: Shape, target: SpatialTarget
) -> Flow:
    """FLAT: everything overlaps within a block."""
    assert target.space is not None
    parts = split_parts(found, binding)
    shaped = problem(found, binding, shape, parts)
    machine = _machine(target)
    tiling, cost = search(shaped, machine, target.space)
    cycles = _cycles(binding, parts, shape)
    main = parts.first.array
    cycles[main] = cost.cycles + sum(_time(b, shape) for b in parts.vector if b.array == main)
    times = {a: c / target.clock for a, c in cycles.items()}
    times["memory"] = cost.traffic / target.bandwidth
    longest = max(times, key=lambda k: times[k])
    read, written = buffer_rows(shaped, machine, tiling, target.energy.row_words)
    actions = Actions(operations(binding, shape, target), read, written, cost.traffic)
    mapping: dict[str, object] = {
        "granularity": tiling.granularity,
        "rows": tiling.block,
        "scores": tiling.scores,
        "stationary": tiling.stationary,
        "on_chip": [n for n in ("left", "right", "value", "result") if tiling.at(n) == "on"],
        "spilled": cost.spilled,
        "live_tiles": shape.live.share,
        "useful_points": shape.live.points,
    }
    return Flow(cycles, times[longest], cost.traffic, longest, actions, mapping)


def separate(
    cascade: Cascade, found: Statements, binding: Binding, shape: Shape, target: SpatialTarget
) -> Flow:
    """Unfused: the first contraction, the vector statements, the second, one after another."""
    parts = split_parts(found, binding)
    shaped = problem(found, binding, shape, parts)
    words, scores = shaped.words(), shaped.scores
    again = [_reads(shape, target, width) for width in (shaped.e, shaped.f)]
    moved = [
        words["left"] + words["right"] * again[0] + scores,
        2 * scores if shaped.passes else 0.0,
        scores + words["value"] * again[1] + words["result"],
    ]
    groups: list[tuple[Bound, ...]] = [(parts.first,), parts.vector, (parts.second,)]
    totals = dict.fromkeys(binding.arrays, 0.0)
    latency, slowest = 0.0, ("memory", 0.0)
    for group, count in zip(groups, moved, strict=True):
        times = {"memory": target.word * count / target.bandwidth}
        for b in group:
            totals[b.array] += _time(b, shape)
            times[b.array] = times.get(b.array, 0.0) + _time(b, shape) / target.clock
        longest = max(times, key=lambda k: times[k])
        slowest = max(slowest, (longest, times[longest]), key=lambda item: item[1])
        latency += times[longest]
    traffic = target.word * sum(moved)
    actions = _separate_actions(binding, shape, target, shaped, again, traffic)
    mapping: dict[str, object] = {
        "p2": again[0],
        "live_tiles": shape.live.share,
        "useful_points": shape.live.points,
    }
    return Flow(totals, latency, traffic, slowest[0], actions, mapping)


def _reads(shape: Shape, target: SpatialTarget, width: int) -> int:
    """How often a contraction reads its streamed input: rows and one tile of scores each stay."""
    row = target.word * (width + shape.tile_length)
    streamed = target.word * width * shape.tile_length
    found = choose_chunks(
        shape.query_tiles, target.chunk_buffer, row, shape.tile_rows, streamed, target.ragged
    )
    return found.outer


def _separate_actions(
    binding: Binding,
    shape: Shape,
    target: SpatialTarget,
    shaped: Problem,
    again: list[int],
    traffic: float,
) -> Actions:
    """Contractions read their inputs once a tile and add up their results in the buffer; scores go
    past it; vector statements read and write in every pass.
    """
    words, row = shaped.words(), target.energy.row_words
    per_tile = shape.tiles * shape.tile_rows
    values = shaped.row_values * shaped.batch * shaped.p
    inputs = shape.tiles * (
        shaped.e * (shape.tile_rows + shape.tile_length) + shaped.f * shape.tile_length
    )
    partial = per_tile * shaped.f
    read = inputs + partial - words["result"] + shaped.scores * shaped.reads + values
    written = partial + shaped.scores * shaped.writes + values
    written += words["left"] + words["right"] * again[0] + words["value"] * again[1]
    return Actions(operations(binding, shape, target), read / row, written / row, traffic)


def _machine(target: SpatialTarget) -> Machine:
    main = target.main
    return Machine(
        main.rows, main.columns, target.buffer, target.word, target.clock, target.bandwidth
    )


def _time(b: Bound, shape: Shape) -> float:
    trips = shape.streams * shape.query_tiles if b.epilogue else shape.tiles
    return trips * b.cycles


def _cycles(binding: Binding, parts: Parts, shape: Shape) -> dict[str, float]:
    """Cycles of the vector statements by array."""
    cycles = dict.fromkeys(binding.arrays, 0.0)
    for b in parts.vector:
        cycles[b.array] += _time(b, shape)
    return cycles
