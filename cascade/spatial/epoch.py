"""The epoch: statements of different tiles interleaved so that the arrays are always busy.

Software pipelining by modulo scheduling (Rau, 1994) over the dependences of one tile: a new tile
starts every *interval* cycles, in which every cycle of an array is used by at most one statement.
The interval is the largest load of an array (the resource bound) unless a recurrence needs longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from cascade.diagnostics import fail
from cascade.spatial.binding import Binding, Bound
from cascade.spatial.dependences import Edge, make_edges, recurrence_bound
from cascade.spatial.modulo import Scheduler
from cascade.spatial.shape import Shape
from cascade.spatial.span import stream_groups
from cascade.spatial.statements import Statements
from cascade.spatial.target import SpatialTarget

LONGEST = 20_000  # cycles of an interval that are scheduled one by one
TRIES = 64  # intervals above the bounds that are tried one by one


@dataclass(frozen=True)
class Placed:
    """A statement and the cycles, from the start of its tile, in which its array works on it."""

    bound: Bound
    slots: tuple[int, ...]

    @property
    def start(self) -> int:
        return self.slots[0]

    @property
    def end(self) -> int:
        return self.slots[-1] + 1


@dataclass(frozen=True)
class Epoch:
    """A schedule of one phase: a tile starts every `interval` cycles."""

    items: tuple[Placed, ...]
    edges: tuple[Edge, ...]
    interval: int
    resource_bound: int
    recurrence_bound: int
    arrays: tuple[str, ...]

    @property
    def makespan(self) -> int:
        """Cycles from the first to the last of one tile."""
        return max(p.end for p in self.items) - min(p.start for p in self.items)

    @property
    def stages(self) -> int:
        """Tiles that are under way at the same time."""
        return ceil(self.makespan / self.interval)

    @property
    def fill_and_drain(self) -> int:
        """Cycles of a run that are not the steady state."""
        return self.makespan - self.interval

    def stage(self, p: Placed) -> int:
        return (p.start - min(q.start for q in self.items)) // self.interval


def make_epochs(
    found: Statements, binding: Binding, shape: Shape, target: SpatialTarget, between: int
) -> tuple[Epoch, ...]:
    """The epoch of each phase; `between` is the number of tiles from one step to the next (P1).
    Raises `CascadeError` for a tile that is too long to be scheduled.
    """
    epochs = []
    for phase in range(found.phases):
        items = tuple(
            b
            for b in binding.items
            if b.statement.phase == phase and not b.epilogue and b.cycles  # none: an empty rank
        )
        if items:
            epochs.append(make_epoch(items, shape, target, between))
    return tuple(epochs)


def make_epoch(
    items: tuple[Bound, ...], shape: Shape, target: SpatialTarget, between: int
) -> Epoch:
    """The shortest interval at which everything fits."""
    arrays = tuple(a.name for a in target.arrays)
    bound = max(sum(b.cycles for b in items if b.array == a) for a in arrays)
    if bound > LONGEST:
        raise fail(
            "array-epoch",
            f"a tile takes {bound} cycles of one array, too many to interleave",
            hints=('a target with `layout = ["free"]` may need far fewer',),
        )
    groups = tuple(g for g in stream_groups(items, shape) if len(g) > 1)
    # Streaming needs no buffer for what is handed over; whole tensors fit more schedules.
    ways = []
    for chosen in dict.fromkeys((groups, ())):
        edges = make_edges(items, chosen, shape, target, between)
        ways.append((chosen, edges, recurrence_bound(items, edges)))
    least = max(bound, min(recurrence for _, _, recurrence in ways))
    longest = sum(b.cycles for b in items) + sum(e.delay for e in ways[-1][1])
    for interval in _intervals(least, max(least, longest)):
        for chosen, edges, recurrence in ways:
            if recurrence > interval:
                continue
            slots = Scheduler(items, chosen, edges, interval, arrays).run()
            if slots is not None:
                placed = tuple(Placed(b, slots[n]) for n, b in enumerate(items))
                return Epoch(placed, edges, interval, bound, recurrence, arrays)
    raise fail(
        "array-epoch",
        f"no schedule with an interval of {least} to {longest} cycles was found",
        hints=("lower `transit`, or keep more query tiles on chip",),
    )


def _intervals(least: int, longest: int) -> Iterator[int]:
    """One by one, then in growing steps up to one tile after another, which always fits."""
    yield from range(least, min(least + TRIES, longest))
    interval = least + TRIES
    while interval < longest:
        yield interval
        interval += interval // 8
    yield longest


def live_tiles(epoch: Epoch, tensor: str) -> int:
    """How many tiles of a value exist at the same time: registers of a unit that it needs."""
    n = next(i for i, p in enumerate(epoch.items) if p.bound.statement.write.tensor == tensor)
    last = [
        epoch.items[e.consumer].end + e.distance * epoch.interval
        for e in epoch.edges
        if e.producer == n
    ]
    return ceil((max(last) - epoch.items[n].start) / epoch.interval) if last else 0
