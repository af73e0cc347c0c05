"""An epoch as text, in the form of FuseMax, Figures 4 and 5, and as data.

`X[b] | Y[d]` are interleaved, `->` is then; letters are tiles, the oldest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cascade.spatial.binding import Binding
from cascade.spatial.epoch import Epoch, Placed, live_tiles
from cascade.spatial.shape import Shape
from cascade.spatial.statements import Statements
from cascade.spatial.target import QUERY, SpatialTarget


@dataclass(frozen=True)
class Plan:
    """A cascade on an array: its tiling, its binding and the epoch of each phase."""

    name: str
    target: SpatialTarget
    found: Statements
    shape: Shape
    binding: Binding
    between: int
    epochs: tuple[Epoch, ...]

    def __str__(self) -> str:
        return text(self)

    def to_dict(self) -> dict[str, Any]:
        return as_dict(self)


def text(plan: Plan) -> str:
    shape = plan.shape
    out = [
        f"{plan.name} on {plan.target.name}",
        "",
        f"tile     {shape.tile_length} {plan.found.streamed} x {shape.tile_rows} queries; "
        f"{plan.between} query tiles on chip",
    ]
    for n, epoch in enumerate(plan.epochs):
        out += ["", *_epoch(plan, epoch, n)]
    last = [b for b in plan.binding.items if b.epilogue]
    if last:
        out += ["", "once a query tile"]
        out += [f"  {b.array:8} {_name(b.statement.name)}: {b.cycles} cycles" for b in last]
    return "\n".join(out)


def _epoch(plan: Plan, epoch: Epoch, number: int) -> list[str]:
    loads = ", ".join(
        f"{a} {sum(len(p.slots) for p in epoch.items if p.bound.array == a)}" for a in epoch.arrays
    )
    title = f"epoch {number + 1} of {len(plan.epochs)}" if len(plan.epochs) > 1 else "epoch"
    out = [
        f"{title:8} a tile every {epoch.interval} cycles (load {loads}; recurrences need "
        f"{epoch.recurrence_bound})",
        f"         {epoch.stages} stages: a tile takes {epoch.makespan} cycles, fill and drain "
        f"{epoch.fill_and_drain}",
    ]
    out += [f"  {a:6} {line(epoch, a)}" for a in epoch.arrays]
    registers = _registers(plan, epoch)
    if registers:
        main = plan.target.main
        names = ", ".join(f"{_name(t)} {n}" for t, n in registers.items())
        out.append(f"  registers of a unit of {main.name}: {names}; {_room(plan, registers)}")
    return out


def _room(plan: Plan, registers: dict[str, int]) -> str:
    """What a unit has against what it needs; a target may leave it open."""
    has, needs = plan.target.main.registers, sum(registers.values())
    if not has:
        return "the target does not say how many it has"
    return f"it has {has}" + (f", too few for {needs}" if needs > has else "")


def line(epoch: Epoch, array: str) -> str:
    """The steady state of one array."""
    items = [p for p in epoch.items if p.bound.array == array]
    if not items:
        return "idle"
    origin = _origin(epoch, array)
    ordered = sorted(items, key=lambda p: ((p.start - origin) % epoch.interval, p.start))
    parts: list[list[Placed]] = []
    reached = -1
    for p in ordered:
        at = (p.start - origin) % epoch.interval
        if parts and at <= reached:
            parts[-1].append(p)
        else:
            parts.append([p])
        reached = max(reached, at + p.end - p.start - 1)
    return " -> ".join(_part(epoch, part) for part in parts)


def _part(epoch: Epoch, part: list[Placed]) -> str:
    names = [f"{_name(p.bound.statement.name)}[{letter(epoch, p)}]" for p in part]
    return names[0] if len(names) == 1 else f"({' | '.join(names)})"


def letter(epoch: Epoch, p: Placed) -> str:
    """The tile that a statement works on in the steady state: `a` is the oldest."""
    number = max(_age(epoch, q) for q in epoch.items) - _age(epoch, p)
    return chr(ord("a") + number) if number < 26 else f"t{number}"


def _age(epoch: Epoch, p: Placed) -> int:
    """Epochs from the first of the tile to the one in which a statement starts."""
    return (p.start - _origin(epoch, p.bound.array)) // epoch.interval


def _origin(epoch: Epoch, array: str) -> int:
    """Where an epoch of an array begins: with what is interleaved, if anything is. The second array
    starts in the epoch that the first has begun.
    """
    first = _first(epoch, epoch.arrays[0])
    return first + (_first(epoch, array) - first) % epoch.interval


def _first(epoch: Epoch, array: str) -> int:
    streams = {n for e in epoch.edges if e.stream for n in (e.producer, e.consumer)}
    here = [n for n, p in enumerate(epoch.items) if p.bound.array == array]
    chosen = [n for n in here if n in streams] or here or range(len(epoch.items))
    return min(epoch.items[n].start for n in chosen)


def _registers(plan: Plan, epoch: Epoch) -> dict[str, int]:
    """Values that units of the main array hold from one statement to a later one, by tile."""
    main = plan.target.main.name
    found = {}
    for p in epoch.items:
        s = p.bound.statement
        here = p.bound.array == main and plan.found.inner in s.write.ranks
        if here and (plan.found.has_query(s.write.ranks) or not plan.found.query):
            alive = live_tiles(epoch, s.write.tensor)
            if alive:
                found[s.write.tensor] = alive
    return found


def _name(name: str) -> str:
    return name.removeprefix("~")


def as_dict(plan: Plan) -> dict[str, Any]:
    return {
        "cascade": plan.name,
        "target": plan.target.name,
        "tile": {"stream": plan.shape.tile_length, QUERY: plan.shape.tile_rows},
        "query_tiles_on_chip": plan.between,
        "registers": plan.target.main.registers,
        "epochs": [
            {
                "interval": e.interval,
                "resource_bound": e.resource_bound,
                "recurrence_bound": e.recurrence_bound,
                "makespan": e.makespan,
                "stages": e.stages,
                "fill_and_drain": e.fill_and_drain,
                "registers": _registers(plan, e),
                "order": {a: line(e, a) for a in e.arrays},
                "statements": [
                    {
                        "statement": _name(p.bound.statement.name),
                        "operations": list(p.bound.statement.operations),
                        "array": p.bound.array,
                        "cycles": p.bound.cycles,
                        "start": p.start,
                        "end": p.end,
                        "tile": letter(e, p),
                    }
                    for p in e.items
                ],
            }
            for e in plan.epochs
        ],
        "epilogue": [
            {
                "statement": _name(b.statement.name),
                "operations": list(b.statement.operations),
                "array": b.array,
                "cycles": b.cycles,
            }
            for b in plan.binding.items
            if b.epilogue
        ],
    }
