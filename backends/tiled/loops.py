"""Loops: what they carry, which tiles they visit, and a body for each size that a tile has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from threading import Lock

import numpy as np

from cascade.backends.tiled.body import Body, BoundBody
from cascade.backends.tiled.machine import Machine
from cascade.backends.tiled.places import lengths_of
from cascade.backends.tiled.reads import tiles_read
from cascade.backends.tiled.scope import Scope
from cascade.backends.tiled.tape import BOOL, INT, Step, Value
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.extents import Number
from cascade.ir.walk import walk
from cascade.schedule.bounds import Interval, solve
from cascade.schedule.program import Carry, For, Place, Seq, TileList, lanes_of
from cascade.schedule.segments import Bounds, segments, visits

REMEMBERED = 2**12  # lists of visits that a loop keeps

Visit = tuple[int, dict[str, int], bool]  # where, lengths of axes, whether every point counts


def loop_of(body: Body, node: For | Seq) -> Loop:
    if isinstance(node, For):
        return Listed(body, node) if node.lists else Stream(body, node)
    return Recurrence(body, node)


class Loop:
    """A loop within a body, as one step of its tape, and its own bodies."""

    def __init__(self, body: Body, node: For | Seq):
        self.node, self.outer, self.scope = node, body, body.scope
        scope = body.scope
        self.box = Value((), (), INT)
        self.carried: list[tuple[Carry, Value]] = []
        self.starts: list[tuple[Value, Value]] = []
        for c in node.carries:
            axes = scope.sorted(c.axes)
            dtype = {"int": INT, "bool": BOOL}.get(c.kind, scope.real)
            value = Value(*scope.like(axes, dtype))
            self.carried.append((c, value))
            self.starts.append((value, scope.spread(scope.value(c.init), axes)))
        self.bodies: dict[tuple[object, ...], Body] = {}
        self.lock = Lock()
        names = tiles_read((node,))
        outside = [scope.tile(n) for n in names if scope.has(n)]
        needed = (*outside, *(start for _, start in self.starts), *self.bounds())
        outputs = tuple(value for _, value in self.carried)
        scope.tape.emit(Step(lambda m: BoundLoop(self, m).run, needed, outputs), every_visit=True)
        for c, value in self.carried:
            scope.tiles[c.name] = value

    def bounds(self) -> tuple[Value, ...]:
        """Values of the outer body that say what is visited."""
        raise NotImplementedError

    def visits(self, machine: Machine) -> _Visits:
        raise NotImplementedError

    def limit(self) -> float:
        """What the scalar of the loop never exceeds."""
        raise NotImplementedError

    def likely(self) -> Iterable[Visit]:
        """Visits whose bodies are made beforehand, so that the memory they need is known."""
        raise NotImplementedError

    def places(self) -> tuple[Place, ...]:
        raise NotImplementedError

    def body(self, lengths: dict[str, int], full: bool) -> Body:
        key = (full, *lengths.values())
        with self.lock:
            found = self.bodies.get(key)
            if found is None:
                found = self.bodies[key] = self._make(lengths, full)
        return found

    def _make(self, lengths: dict[str, int], full: bool) -> Body:
        outer, node = self.scope, self.node
        scope = Scope(
            outer.context,
            {**outer.lengths, **lengths},
            {**outer.places, **{p.rank: p for p in self.places()}},
            {**outer.boxes, node.scalar: self.box},
            {**outer.limits, node.scalar: self.limit()},
            outer,
            (self.box, *(value for _, value in self.carried)),
        )
        scope.tiles |= {c.name: value for c, value in self.carried}
        holding = node.predicate if isinstance(node, For) and full else ()
        return Body(
            scope,
            node.body,
            self.outer.depth + 1,
            (node.scalar, full, *scope.lengths.values()),
            {*self.outer.holding, *holding},
            tuple(self.carried),
        )


class BoundLoop:
    """A loop on one thread."""

    def __init__(self, loop: Loop, machine: Machine):
        self.loop, self.machine = loop, machine
        self.box = machine.scalar(loop.box)
        self.starts = [(machine[value], machine[start]) for value, start in loop.starts]
        self.bodies: dict[tuple[object, ...], BoundBody] = {}
        self.full = self.partial = 0
        machine.loops.append(self)

    def prepare(self) -> None:
        for _, lengths, full in self.loop.likely():
            self._body(lengths, full)

    def run(self) -> None:
        for value, start in self.starts:
            np.copyto(value.array, start.array, casting="unsafe")
        entered: set[BoundBody] = set()
        box = self.box
        found = self.loop.visits(self.machine)
        self.full += found.full
        self.partial += found.partial
        for at, lengths, full in found.visits:
            body = self._body(lengths, full)
            box[...] = at
            if body not in entered:
                entered.add(body)
                body.enter()
            body.visit()

    def _body(self, lengths: dict[str, int], full: bool) -> BoundBody:
        key = (full, *lengths.values())
        found = self.bodies.get(key)
        if found is None:
            found = BoundBody(self.loop.body(lengths, full), self.machine)
            self.bodies[key] = found
        return found


@dataclass(frozen=True)
class _Visits:
    """What a loop visits, and how many of these are full tiles and how many partial."""

    visits: Iterable[Visit]
    full: int
    partial: int


class Stream(Loop):
    """Tiles of a rank in any order: those at which the predicate can hold."""

    node: For
    always: _Visits | None

    def bounds(self) -> tuple[Value, ...]:
        scope, node = self.scope, self.node
        self.extent = int(scope.known(node.place.extent))
        rank, extent = node.place.rank, node.place.extent
        found = solve(node.predicate, rank, extent, self._is_known, *scope.facts())
        self.intervals = [self._interval(i) for i in found]
        self.always = self._always()
        self.deciding = self._deciding(found)
        self.known: dict[tuple[int, ...], _Visits] = {}  # visits by the scalars that decide
        return tuple(v for _, values in self.intervals for v in values)

    def _is_known(self, e: Expr) -> bool:
        for n in walk(e):
            match n:
                case Read(name, _) if not self.scope.has(name):
                    return False
                case Coordinate(rank) if rank.startswith("#"):
                    if rank[1:] == self.node.axis:
                        return False
                case Coordinate(rank):
                    if rank != self.node.place.rank and rank not in self.scope.places:
                        return False
        return True

    def _interval(self, i: Interval) -> tuple[bool, tuple[Value, Value, Value]]:
        """low, high and row as values with the same axes."""
        scope = self.scope
        low = Map("max", (*i.low, Const(0)))
        high = Map("min", (*i.high, self.node.place.extent))
        values = [scope.cast(scope.value(e), INT) for e in (low, high)]
        values.append(scope.all_of(i.row) or scope.value(Const(True)))
        axes = scope.sorted({a for v in values for a in v.axes})
        a, b, c = (scope.spread(v, axes) for v in values)
        return bool(i.residual), (a, b, c)

    def visits(self, machine: Machine) -> _Visits:
        if self.deciding is None:
            return self._here(machine)
        key = tuple([int(machine[v].array) for v in self.deciding])
        found = self.known.get(key)
        if found is None:
            found = self._here(machine)
            if len(self.known) < REMEMBERED:
                self.known[key] = found
        return found

    def _here(self, machine: Machine) -> _Visits:
        return self._found(
            [
                Bounds(machine[a].array, machine[b].array, machine[c].array, residual)
                for residual, (a, b, c) in self.intervals
            ]
        )

    def _deciding(self, found: tuple[Interval, ...]) -> tuple[Value, ...] | None:
        """The scalars that bounds depend on, where they depend on nothing else."""
        boxes: dict[str, Value] = {}
        todo = [e for i in found for e in (*i.low, *i.high, *i.row)]
        while todo:
            for n in walk(todo.pop()):
                match n:
                    case Read():
                        return None
                    case Symbol(name) if name in self.scope.boxes:
                        boxes[name] = self.scope.boxes[name]
                    case Coordinate(rank) if not rank.startswith("#"):
                        todo.append(self.scope.places[rank].value)
        return tuple(boxes.values())

    def _found(self, bounds: list[Bounds]) -> _Visits:
        node = self.node
        found = segments(bounds, True, node.tile, node.part, self.extent)
        full, partial = visits(found, node.tile, node.part)
        certain = _certain(bounds) if partial else ()
        every: list[Visit] = [(start, {node.axis: n}, True) for start, n in full]
        for start, n in partial:
            holds = any(low <= start and start + n <= high for low, high in certain)
            every.append((start, {node.axis: n}, holds))
        return _Visits(every, len(full), len(partial))

    def _always(self) -> _Visits | None:
        """The visits, if they are the same for all rows."""
        bounds = []
        for residual, values in self.intervals:
            low, high, row = (v.constant for v in values)
            if low is None or high is None or row is None:
                return None
            bounds.append(Bounds(low, high, row, residual))
        return self._found(bounds)

    def likely(self) -> Iterable[Visit]:
        """One of each kind, as large as they come; where all are known, just these."""
        node = self.node
        if self.always is not None:
            return self.always.visits
        full = [(0, {node.axis: node.tile}, True)] if self.extent >= node.tile else []
        size = min(node.part, self.extent)
        return [*full, (0, {node.axis: size}, False)] if size else full

    def places(self) -> tuple[Place, ...]:
        return (self.node.place,)

    def limit(self) -> float:
        return self.extent


def _certain(bounds: list[Bounds]) -> tuple[tuple[int, int], ...]:
    """Ranges in which every row counts: a part in one needs no test, though it is partial."""
    return tuple(
        (int(i.low.max()), int(i.high.min()))
        for i in bounds
        if i.low.size and not i.residual and bool(i.row.all())
    )


class Listed(Loop):
    """Tiles of a rank that an earlier kernel has listed."""

    node: For

    def bounds(self) -> tuple[Value, ...]:
        scope, node = self.scope, self.node
        self.extent = int(scope.known(node.place.extent))
        self.found = [(t, self._index(t), t is node.full) for t in node.lists]
        return tuple(v for _, index, _ in self.found for v in index)

    def _index(self, found: TileList) -> tuple[Value, ...]:
        return tuple(self.scope.cast(self.scope.value(i), INT) for i in found.index)

    def visits(self, machine: Machine) -> _Visits:
        every: list[Visit] = []
        numbers = {True: 0, False: 0}
        for listed, index, full in self.found:
            starts = self._starts(listed, tuple(int(machine[v].array) for v in index))
            numbers[full] = len(starts)
            every += [(start, self._lengths(start), full) for start in starts]
        return _Visits(every, numbers[True], numbers[False])

    def _starts(self, listed: TileList, at: tuple[int, ...]) -> list[int]:
        tensors = self.scope.context.tensors
        number = int(tensors[listed.number].array[at])
        found: list[int] = (tensors[listed.tiles].array[at][:number] * self.node.tile).tolist()
        return found

    def _lengths(self, start: int) -> dict[str, int]:
        return {self.node.axis: min(self.node.tile, self.extent - start)}

    def likely(self) -> Iterable[Visit]:
        if not self.extent:
            return ()
        return ((0, self._lengths(0), full) for _, _, full in self.found)

    def places(self) -> tuple[Place, ...]:
        return (self.node.place,)

    def limit(self) -> float:
        return self.extent


class Recurrence(Loop):
    """Steps in their order."""

    node: Seq

    def bounds(self) -> tuple[Value, ...]:
        self.count = self.scope.cast(self.scope.value(self.node.count), INT)
        return (self.count,)

    def visits(self, machine: Machine) -> _Visits:
        count = int(machine[self.count].array)
        if not any(lanes_of(p.value) for p in self.node.places):
            return _Visits(((at, {}, False) for at in range(count)), 0, count)
        boxes = {name: int(machine[value].array) for name, value in self.scope.boxes.items()}
        known = {**self.scope.context.scalars, **boxes}
        return _Visits(((at, self._lengths(known, at), False) for at in range(count)), 0, count)

    def _lengths(self, known: Mapping[str, Number], at: int) -> dict[str, int]:
        scalars = {**known, self.node.scalar: at}
        return lengths_of(self.node.places, self.scope.lengths, scalars)

    def likely(self) -> Iterable[Visit]:
        return ()

    def limit(self) -> float:
        return self.scope.number(self.node.count) or math.inf

    def places(self) -> tuple[Place, ...]:
        return self.node.places
