"""The dataflow of FuseMax: query tiles stay on chip while the keys stream past them.

Traffic, rows of the buffer and latency follow from the statements. A tensor is in the buffer if it
is an input, carried from step to step, or kept from one phase to a later one; an array without
links also passes its results through the buffer. Everything else stays in the units.
"""

from __future__ import annotations

from dataclasses import dataclass

from cascade.diagnostics import InputError
from cascade.ir.cascade import Cascade
from cascade.spatial.binding import Binding
from cascade.spatial.energy import Actions
from cascade.spatial.result import Use
from cascade.spatial.shape import Shape
from cascade.spatial.span import tile_span
from cascade.spatial.statements import Statements
from cascade.spatial.target import SpatialTarget
from cascade.spatial.tiling import Chunks, choose_chunks


@dataclass(frozen=True)
class Roles:
    """Tensors by where they live: inputs that stay with the queries, inputs that stream, carried
    state, values kept between phases (for every key, `kept`; for every step, `stepped`), and values
    that go from one array to another for every point of a tile (`passed`).
    """

    resident: tuple[str, ...]
    streamed: tuple[str, ...]
    carried: tuple[str, ...]
    kept: tuple[str, ...]
    stepped: tuple[str, ...]
    passed: tuple[str, ...]


@dataclass(frozen=True)
class Flow:
    """Cycles by array, seconds, bytes, actions and the chunks of one run."""

    cycles: dict[str, float]
    latency: float
    traffic: float
    bound: str
    actions: Actions
    mapping: dict[str, object]


def roles(found: Statements, binding: Binding) -> Roles:
    stream = {found.outer, found.inner} - {""}
    ranks = {o.tensor: set(o.ranks) for s in found.items for o in (*s.reads, s.write)}
    array = {b.statement.write.tensor: b.array for b in binding.items}
    phase = {s.write.tensor: s.phase for s in found.items}
    kept: list[str] = []
    stepped: list[str] = []
    passed: list[str] = []
    for b in binding.items:
        for o in b.statement.reads:
            made = o.tensor in phase
            if made and o.tensor not in found.carried and phase[o.tensor] < b.statement.phase:
                (kept if found.inner in o.ranks else stepped).append(o.tensor)
            point = found.inner in o.ranks and found.has_query(o.ranks)
            if made and point and array[o.tensor] != b.array:
                passed.append(o.tensor)
    return Roles(
        tuple(n for n in found.inputs if ranks[n].isdisjoint(stream)),
        tuple(n for n in found.inputs if not ranks[n].isdisjoint(stream)),
        found.carried,
        tuple(dict.fromkeys(kept)),
        tuple(dict.fromkeys(n for n in stepped if ranks[n] & stream)),
        tuple(dict.fromkeys(passed)),
    )


def chunks(
    found: Statements, role: Roles, shape: Shape, target: SpatialTarget
) -> tuple[Chunks, bool]:
    """The query tiles that stay on chip, and whether values kept between phases go to memory
    because not one tile of them fits.
    """
    operand = {o.tensor: o.ranks for s in found.items for o in (*s.reads, s.write)}
    row = sum(shape.width(operand[n]) for n in (*role.resident, *role.carried))
    row += sum(shape.width(operand[n]) * shape.steps for n in role.stepped)
    if not target.links:
        row += sum(shape.width(operand[n]) * shape.tile_length for n in role.passed)
    whole = sum(shape.width(operand[n]) * shape.length for n in role.kept)
    streamed = sum(shape.elements(operand[n]) for n in role.streamed)

    def fit(words: int) -> Chunks:
        return choose_chunks(
            shape.query_tiles,
            target.chunk_buffer,
            target.word * words,
            shape.tile_rows,
            target.word * streamed,
            target.ragged,
        )

    if role.kept:
        try:
            return fit(row + whole), False
        except InputError:
            return fit(row), True
    return fit(row), False


def stream(
    cascade: Cascade, found: Statements, binding: Binding, shape: Shape, target: SpatialTarget
) -> Flow:
    """Costs of a run. Phases run one after another; in each the slowest resource counts."""
    role = roles(found, binding)
    chosen, spilled = chunks(found, role, shape, target)
    reads = shape.live.streamed(chosen.inner)
    totals = dict.fromkeys(binding.arrays, 0.0)
    latency, traffic, slowest = 0.0, 0.0, ("memory", 0.0)
    for phase in range(found.phases):
        moved = _phase_bytes(cascade, found, role, shape, target, phase, reads, spilled)
        cycles = _phase_cycles(found, binding, shape, target, phase)
        times = {a: c / target.clock for a, c in cycles.items()}
        times["memory"] = moved / target.bandwidth
        longest = max(times, key=lambda k: times[k])
        slowest = max(slowest, (longest, times[longest]), key=lambda item: item[1])
        latency += times[longest]
        traffic += moved
        for a, c in cycles.items():
            totals[a] += c
    actions = _actions(found, binding, role, shape, target, reads, traffic, spilled)
    mapping: dict[str, object] = {
        "p1": chosen.inner,
        "p2": chosen.outer,
        "buffer_bytes": chosen.needed,
        "tiles": shape.tiles,
        "cycles_per_tile": {a: binding.load(a) for a in binding.arrays},
        "epilogue_cycles": {a: binding.load(a, epilogue=True) for a in binding.arrays},
        "phases": found.phases,
        "live_tiles": shape.live.share,
        "useful_points": shape.live.points,
        "spilled": list(role.kept) if spilled else [],
    }
    if target.overlap == "none":
        mapping["span"] = _span(found, binding, shape, target, 0)
    return Flow(totals, latency, traffic, slowest[0], actions, mapping)


def _span(
    found: Statements, binding: Binding, shape: Shape, target: SpatialTarget, phase: int
) -> int:
    tile = tuple(b for b in binding.items if b.statement.phase == phase and not b.epilogue)
    return tile_span(tile, shape, target)


def _phase_cycles(
    found: Statements, binding: Binding, shape: Shape, target: SpatialTarget, phase: int
) -> dict[str, float]:
    queries = shape.streams * shape.query_tiles
    cycles = {
        a: shape.tiles * binding.load(a, phase) + queries * binding.load(a, phase, epilogue=True)
        for a in binding.arrays
    }
    if target.overlap == "none":
        span = _span(found, binding, shape, target, phase)
        cycles[target.main.name] = max(cycles[target.main.name], shape.tiles * span)
    return cycles


def _phase_bytes(
    cascade: Cascade,
    found: Statements,
    role: Roles,
    shape: Shape,
    target: SpatialTarget,
    phase: int,
    reads: float,
    spilled: bool,
) -> float:
    here = [s for s in found.items if s.phase == phase]
    read = {o.tensor for s in here for o in s.reads}
    earlier = {o.tensor for s in found.items if s.phase < phase for o in s.reads}
    words = sum(shape.words[n] * reads for n in role.streamed if n in read)
    words += sum(shape.words[n] for n in role.resident if n in read - earlier)
    if phase == found.phases - 1:
        words += sum(shape.words[n] for n in cascade.outputs)
    if spilled:
        points = _grid_words(found, shape, role.kept)
        made = {s.write.tensor for s in here}
        words += sum(points[n] for n in role.kept if n in made)
        words += sum(points[n] for n in role.kept if n in read - made)
    return target.word * words


def _grid_words(found: Statements, shape: Shape, tensors: tuple[str, ...]) -> dict[str, float]:
    """Elements of tensors over all live tiles."""
    ranks = {o.tensor: o.ranks for s in found.items for o in (s.write, *s.reads)}
    return {n: shape.tiles * shape.elements(ranks[n]) for n in tensors}


def _actions(
    found: Statements,
    binding: Binding,
    role: Roles,
    shape: Shape,
    target: SpatialTarget,
    reads: float,
    traffic: float,
    spilled: bool,
) -> Actions:
    """Rows of the buffer: every buffered tensor once a tile, however many statements read it."""
    buffered = {*role.resident, *role.streamed, *role.carried, *role.kept, *role.stepped}
    through = set() if target.links else set(role.passed)
    queries = shape.streams * shape.query_tiles
    read = written = 0.0
    for phase in range(found.phases):
        tile: dict[str, tuple[str, ...]] = {}
        last: dict[str, tuple[str, ...]] = {}
        for b in binding.items:
            if b.statement.phase == phase:
                (last if b.epilogue else tile).update(
                    {o.tensor: o.ranks for o in b.statement.reads}
                )
        read += shape.tiles * sum(
            shape.elements(r) for n, r in tile.items() if n in buffered | through
        )
        read += queries * sum(shape.elements(r) for n, r in last.items() if n in buffered)
        for b in binding.items:
            n = b.statement.write.tensor
            if b.statement.phase == phase and n in buffered | through and not b.epilogue:
                written += shape.tiles * shape.elements(b.statement.write.ranks)
    written += sum(shape.words[n] for n in role.resident)
    written += sum(shape.words[n] * reads for n in role.streamed)
    if spilled:
        written += sum(_grid_words(found, shape, role.kept).values())
    row = target.energy.row_words
    held = buffered | through
    passed = _passed(binding, shape, held)
    return Actions(operations(binding, shape, target), read / row, written / row, traffic, passed)


def _passed(binding: Binding, shape: Shape, buffered: set[str]) -> dict[str, float]:
    """Words between two statements of one array, by array."""
    array = {b.statement.write.tensor: b.array for b in binding.items}
    seen: set[str] = set()
    words: dict[str, float] = {}
    for b in binding.items:
        for o in b.statement.reads:
            if o.tensor in seen or o.tensor in buffered or array.get(o.tensor) != b.array:
                continue
            seen.add(o.tensor)
            trips = shape.streams * shape.query_tiles if b.epilogue else shape.tiles
            words[b.array] = words.get(b.array, 0.0) + trips * shape.elements(o.ranks)
    return words


def operations(
    binding: Binding, shape: Shape, target: SpatialTarget
) -> dict[tuple[str, str, float], float]:
    """(array, operation of its units, cycles of one) -> how many."""
    counts: dict[tuple[str, str, float], float] = {}
    for b in binding.items:
        array = target.array(b.array)
        for operation in b.statement.operations:
            unit = array.unit(operation) or operation
            key = (b.array, unit, float(array.operations[unit]))
            counts[key] = counts.get(key, 0.0) + shape.points(b.statement)
    return counts


def uses(binding: Binding, shape: Shape, target: SpatialTarget) -> tuple[Use, ...]:
    """Useful cycles of each statement."""
    return tuple(
        Use(
            b.statement.name,
            b.statement.operations,
            b.array,
            b.cycles,
            shape.points(b.statement) * b.each / target.array(b.array).units,
            b.epilogue,
            b.statement.phase,
        )
        for b in binding.items
    )
