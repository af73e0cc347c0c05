"""The epoch: statements of different tiles interleaved so that the arrays are always busy.

Software pipelining by modulo scheduling (Rau, 1994) over the dependences of one tile: a new tile
starts every *interval* cycles, in which every cycle of an array is used by at most one statement.
The interval is the largest load of an array (the resource bound) unless a recurrence needs longer.

1. Statements that hand elements to each other between arrays advance at one rate, that of the
   busier array; they are reserved first, and the rest fills the holes. This is the interleaving of
   FuseMax, Figure 4.
2. The others follow in the order of their dependences, each as early as its operands and the table
   allow; a statement may be split.
3. A statement that reads carried state and has one reader goes right before that reader. As early
   as possible would stretch the recurrence over the way between the arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from cascade.diagnostics import fail
from cascade.spatial.binding import Binding, Bound
from cascade.spatial.shape import Shape
from cascade.spatial.span import stream_groups
from cascade.spatial.statements import FINAL, Statements
from cascade.spatial.target import SpatialTarget

LONGEST = 20_000  # cycles of an interval that are scheduled one by one
TRIES = 64  # intervals above the resource bound


@dataclass(frozen=True)
class Edge:
    """`consumer` reads what `producer` made `distance` tiles before. `delay`: cycles on the way. A
    stream edge holds element by element, another from the last element to the first.
    """

    producer: int
    consumer: int
    distance: int
    delay: int
    stream: bool = False


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
        items = tuple(b for b in binding.items if b.statement.phase == phase and not b.epilogue)
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
    ways = [(g, make_edges(items, g, target, between)) for g in dict.fromkeys((groups, ()))]
    for interval in range(bound, bound + TRIES):
        for chosen, edges in ways:
            recurrence = _recurrence_bound(items, edges)
            if recurrence > interval:
                continue
            slots = _Scheduler(items, chosen, edges, interval, arrays).run()
            if slots is not None:
                placed = tuple(Placed(b, slots[n]) for n, b in enumerate(items))
                return Epoch(placed, edges, interval, bound, recurrence, arrays)
    raise fail(
        "array-epoch",
        f"no schedule with an interval of {bound} to {bound + TRIES} cycles was found",
        hints=("lower `transit`, or keep more query tiles on chip",),
    )


def make_edges(
    items: tuple[Bound, ...],
    groups: tuple[tuple[int, ...], ...],
    target: SpatialTarget,
    between: int,
) -> tuple[Edge, ...]:
    """What waits for what. Carried state comes from the step before, `between` tiles ago."""
    made = {b.statement.write.tensor: n for n, b in enumerate(items)}
    together = {(a, b) for g in groups for a in g for b in g}
    found = []
    for n, b in enumerate(items):
        for o in b.statement.reads:
            producer = made.get(o.tensor)
            if producer is None or o.offset == FINAL:
                continue
            written = items[producer].statement.write.offset
            steps = int(written) - int(o.offset)
            delay = target.transit if items[producer].array != b.array else 0
            stream = (producer, n) in together
            found.append(Edge(producer, n, steps * between, delay, stream))
    return tuple(dict.fromkeys(found))


def _recurrence_bound(items: tuple[Bound, ...], edges: tuple[Edge, ...]) -> int:
    """The longest circuit by its distance: the least interval at which no circuit is too long,
    found by testing for positive cycles (Bellman and Ford).
    """
    if not any(e.distance for e in edges):
        return 0
    low, high = 0, 1 + sum(b.cycles for b in items) + sum(e.delay for e in edges)
    while low < high:
        middle = (low + high) // 2
        if _has_positive_cycle(items, edges, middle):
            low = middle + 1
        else:
            high = middle
    return low


def _has_positive_cycle(items: tuple[Bound, ...], edges: tuple[Edge, ...], interval: int) -> bool:
    far = [0] * len(items)
    for _ in range(len(items) + 1):
        changed = False
        for e in edges:
            cycles = 1 if e.stream else items[e.producer].cycles
            at = far[e.producer] + cycles + e.delay - e.distance * interval
            if at > far[e.consumer]:
                far[e.consumer], changed = at, True
        if not changed:
            return False
    return True


class _Scheduler:
    """One attempt at an interval. `table[array][cycle]` says whether a cycle is taken."""

    def __init__(
        self,
        items: tuple[Bound, ...],
        groups: tuple[tuple[int, ...], ...],
        edges: tuple[Edge, ...],
        interval: int,
        arrays: tuple[str, ...],
    ):
        self.items, self.groups, self.edges, self.interval = items, groups, edges, interval
        self.table = {a: bytearray(interval) for a in arrays}
        self.slots: dict[int, tuple[int, ...]] = {}
        self.reserved: dict[int, tuple[int, dict[int, tuple[int, ...]]]] = {}
        self.group_of = {n: k for k, g in enumerate(groups) for n in g}

    def run(self) -> dict[int, tuple[int, ...]] | None:
        for k in range(len(self.groups)):
            if not self._reserve(k):
                return None
        late = {n for n in range(len(self.items)) if self._is_late(n)}
        for n in self._order():
            if n in self.slots or n in late:
                continue
            done = self._group(self.group_of[n]) if n in self.group_of else self._single(n, late)
            if not done:
                return None
        for n in sorted(late - set(self.slots)):
            if not self._single(n, set()):
                return None
        return self.slots if self._holds() else None

    # -- stream groups
    def _reserve(self, k: int) -> bool:
        """Cycles of a group, at the first place of the table where all its members fit."""
        pattern = self._pattern(self.groups[k])
        for at in range(self.interval):
            taken = [
                (self.items[n].array, (at + s) % self.interval)
                for n, slots in pattern.items()
                for s in slots
            ]
            if len(set(taken)) == len(taken) and not any(self.table[a][s] for a, s in taken):
                for a, s in taken:
                    self.table[a][s] = 1
                self.reserved[k] = at, pattern
                return True
        return False

    def _pattern(self, group: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
        """Cycles of each member from the start of the group: one element every `rate` cycles."""
        inside = [e for e in self.edges if e.stream and {e.producer, e.consumer} <= set(group)]
        here = [e for e in inside if not e.distance]
        count = min(self.items[n].cycles for n in group)
        loads: dict[str, int] = {}
        for n in group:
            b = self.items[n]
            loads[b.array] = loads.get(b.array, 0) + ceil(b.cycles / count)
        rate = max(loads.values())
        offset: dict[int, int] = {}
        for n in sorted(group):
            offset[n] = max(
                (offset[e.producer] + 1 + e.delay for e in here if e.consumer == n), default=0
            )
        for n in sorted(group, reverse=True):  # what only feeds goes right before its reader
            readers = [offset[e.consumer] - 1 - e.delay for e in here if e.producer == n]
            if readers and not any(e.consumer == n for e in here):
                offset[n] = min(readers)
        phases: set[tuple[str, int]] = set()
        for n in sorted(group, key=lambda n: offset[n]):
            while (self.items[n].array, offset[n] % rate) in phases:
                offset[n] += 1
            phases.add((self.items[n].array, offset[n] % rate))
        first = min(offset.values())
        return {
            n: tuple(offset[n] - first + j * rate for j in range(self.items[n].cycles))
            for n in group
        }

    def _group(self, k: int) -> bool:
        at, pattern = self.reserved[k]
        ready = max((self._ready(n) - pattern[n][0] for n in self.groups[k]), default=0)
        start = at + max(0, ceil((ready - at) / self.interval)) * self.interval
        for n, slots in pattern.items():
            self.slots[n] = tuple(start + s for s in slots)
        return True

    # -- single statements
    def _single(self, n: int, late: set[int]) -> bool:
        """As early as possible, with the late statements that only it reads right before it."""
        feeds = [e for e in self.edges if e.consumer == n and e.producer in late and not e.distance]
        before = [e.producer for e in feeds]
        earliest = [
            self._ready(e.producer) + self.items[e.producer].cycles + e.delay for e in feeds
        ]
        ready = max(self._ready(n), *earliest, 0)
        for start in range(ready, ready + 2 * self.interval):
            chosen = self._free(n, start)
            if chosen is None:
                return False
            self._take(n, chosen, 1)
            if all(self._backwards(m, chosen[0]) for m in before):
                self.slots[n] = chosen
                return True
            for m in before:
                if m in self.slots:
                    self._take(m, self.slots.pop(m), 0)
            self._take(n, chosen, 0)
        return False

    def _free(self, n: int, start: int) -> tuple[int, ...] | None:
        """The first free cycles from `start` on."""
        table, need = self.table[self.items[n].array], self.items[n].cycles
        found: list[int] = []
        for t in range(start, start + self.interval):
            if not table[t % self.interval]:
                found.append(t)
                if len(found) == need:
                    return tuple(found)
        return None

    def _backwards(self, n: int, reader: int) -> bool:
        """The last free cycles before the start of the reader."""
        table, need = self.table[self.items[n].array], self.items[n].cycles
        delay = max(e.delay for e in self.edges if e.producer == n and not e.distance)
        found: list[int] = []
        last = reader - 1 - delay
        for t in range(last, max(self._ready(n), last - self.interval + 1) - 1, -1):
            if not table[t % self.interval]:
                found.append(t)
                if len(found) == need:
                    self.slots[n] = tuple(reversed(found))
                    self._take(n, self.slots[n], 1)
                    return True
        return False

    def _take(self, n: int, slots: tuple[int, ...], value: int) -> None:
        for t in slots:
            self.table[self.items[n].array][t % self.interval] = value

    # -- dependences
    def _ready(self, n: int) -> int:
        """The first cycle at which the operands that are placed already are there."""
        group = set(self.groups[self.group_of[n]]) if n in self.group_of else set()
        return max(
            (
                self.slots[e.producer][-1] + 1 + e.delay - e.distance * self.interval
                for e in self.edges
                if e.consumer == n and e.producer in self.slots and e.producer not in group
            ),
            default=0,
        )

    def _is_late(self, n: int) -> bool:
        """Reads the state of the step before, carries none, and has one reader."""
        if n in self.group_of or self.items[n].statement.write.offset:
            return False
        reads = any(e.consumer == n and e.distance for e in self.edges)
        readers = [e.consumer for e in self.edges if e.producer == n]
        return reads and len(readers) == 1 and readers[0] not in self.group_of

    def _order(self) -> Iterable[int]:
        """After everything that is read in the same tile; a group as one. Readers of carried state
        come after what carries it where they can.
        """
        left, order = list(range(len(self.items))), list[int]()
        done: set[int] = set()
        while left:
            able = [n for n in left if self._waits(n) <= done] or left[:1]
            n = next((n for n in able if self._waits(n, carried=True) <= done), able[0])
            members = self.groups[self.group_of[n]] if n in self.group_of else (n,)
            order += members
            done |= set(members)
            left = [m for m in left if m not in members]
        return order

    def _waits(self, n: int, carried: bool = False) -> set[int]:
        members = set(self.groups[self.group_of[n]]) if n in self.group_of else {n}
        return {
            e.producer for e in self.edges if e.consumer in members and (carried or not e.distance)
        } - members

    def _holds(self) -> bool:
        return all(
            edge_holds(e, self.slots[e.producer], self.slots[e.consumer], self.interval)
            for e in self.edges
        )


def edge_holds(
    e: Edge, producer: tuple[int, ...], consumer: tuple[int, ...], interval: int
) -> bool:
    """Whether a dependence holds between tiles that are `distance` apart."""
    shift = e.distance * interval
    if e.stream and len(producer) == len(consumer):
        return all(c + shift > p + e.delay for p, c in zip(producer, consumer, strict=True))
    return consumer[0] + shift > producer[-1] + e.delay


def live_tiles(epoch: Epoch, tensor: str) -> int:
    """How many tiles of a value exist at the same time: registers of a unit that it needs."""
    n = next(i for i, p in enumerate(epoch.items) if p.bound.statement.write.tensor == tensor)
    last = [
        epoch.items[e.consumer].end + e.distance * epoch.interval
        for e in epoch.edges
        if e.producer == n
    ]
    return ceil((max(last) - epoch.items[n].start) / epoch.interval) if last else 0
