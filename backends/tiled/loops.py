"""Loops: what they carry, which tiles they visit, and a body for each size that a tile has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cascade.backends.tiled.body import Body
from cascade.backends.tiled.places import lanes_of, lengths_of
from cascade.backends.tiled.reads import tiles_read
from cascade.backends.tiled.scope import Scope
from cascade.backends.tiled.tape import BOOL, INT, Step, Value
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read
from cascade.ir.extents import Number
from cascade.ir.walk import walk
from cascade.schedule.bounds import Interval, solve
from cascade.schedule.program import Carry, For, Place, Seq
from cascade.schedule.segments import Bounds, segments, visits

Visit = tuple[int, dict[str, int], bool]  # where, lengths of axes, whether every point counts


def loop_of(body: Body, node: For | Seq) -> Loop:
    return Stream(body, node) if isinstance(node, For) else Recurrence(body, node)


class Loop:
    """A loop within a body, as one step of its tape."""

    def __init__(self, body: Body, node: For | Seq):
        self.node, self.outer, self.scope = node, body, body.scope
        scope = body.scope
        self.box = Value((), (), INT, constant=False, array=np.zeros((), np.int64))
        self.carried: list[tuple[Carry, Value]] = []
        self.starts: list[tuple[Value, Value]] = []
        for c in node.carries:
            axes = scope.sorted(c.axes)
            dtype = {"int": INT, "bool": BOOL}.get(c.kind, scope.real)
            value = Value(*scope.like(axes, dtype))
            self.carried.append((c, value))
            self.starts.append((value, scope.spread(scope.value(c.init), axes)))
        self.bodies: dict[tuple[object, ...], Body] = {}
        self.full = self.partial = 0
        names = tiles_read((node,))
        outside = [scope.tile(n) for n in names if scope.has(n)]
        needed = (*outside, *(start for _, start in self.starts), *self.bounds())
        outputs = tuple(value for _, value in self.carried)
        scope.tape.emit(Step(self.run, needed, outputs), every_visit=True)
        for c, value in self.carried:
            scope.tiles[c.name] = value

    def bounds(self) -> tuple[Value, ...]:
        """Values of the outer body that say what is visited."""
        raise NotImplementedError

    def visits(self) -> Iterator[Visit]:
        raise NotImplementedError

    def limit(self) -> float:
        """What the scalar of the loop never exceeds."""
        raise NotImplementedError

    def likely(self) -> Iterator[Visit]:
        """Visits whose bodies are made beforehand, so that the memory they need is known."""
        raise NotImplementedError

    def places(self) -> tuple[Place, ...]:
        raise NotImplementedError

    def prepare(self) -> None:
        for _, lengths, full in self.likely():
            self._body(lengths, full)

    def run(self) -> None:
        for value, start in self.starts:
            np.copyto(value.array, start.array, casting="unsafe")
        entered: set[Body] = set()
        box = self.box.array
        for at, lengths, full in self.visits():
            body = self._body(lengths, full)
            box[...] = at
            if body not in entered:
                entered.add(body)
                body.enter()
            body.visit()

    def _body(self, lengths: dict[str, int], full: bool) -> Body:
        key = (full, *lengths.values())
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
            self.outer.arena,
            self.outer.depth + 1,
            (node.scalar, full, *scope.lengths.values()),
            {*self.outer.holding, *holding},
            tuple(self.carried),
        )


@dataclass(frozen=True)
class _Visits:
    """What a loop visits; the first so many of them are full."""

    visits: list[Visit]
    full: int


class Stream(Loop):
    """Tiles of a rank in any order: those at which the predicate can hold."""

    node: For
    always: _Visits | None = None

    def bounds(self) -> tuple[Value, ...]:
        scope, node = self.scope, self.node
        self.extent = int(scope.known(node.place.extent))
        found = scope.context.solved.get(id(node))
        if found is None:
            rank, extent = node.place.rank, node.place.extent
            found = solve(node.predicate, rank, extent, self._is_known, *scope.facts())
            scope.context.solved[id(node)] = found
        self.intervals = [self._interval(i) for i in found]
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

    def visits(self) -> Iterator[Visit]:
        found = self.always or self._found()
        self.full += found.full
        self.partial += len(found.visits) - found.full
        return iter(found.visits)

    def _found(self) -> _Visits:
        node = self.node
        bounds = [Bounds(a.array, b.array, c.array, r) for r, (a, b, c) in self.intervals]
        found = segments(bounds, True, node.tile, node.part, self.extent)
        full, partial = visits(found, node.tile, node.part)
        certain = _certain(bounds) if partial else ()
        every: list[Visit] = [(start, {node.axis: n}, True) for start, n in full]
        for start, n in partial:
            holds = any(low <= start and start + n <= high for low, high in certain)
            every.append((start, {node.axis: n}, holds))
        return _Visits(every, len(full))

    def likely(self) -> Iterator[Visit]:
        """One of each kind, as large as they come; where all are known, just these."""
        node = self.node
        if all(v.constant for _, values in self.intervals for v in values):
            self.always = self._found()
            yield from self.always.visits
            return
        if self.extent >= node.tile:
            yield 0, {node.axis: node.tile}, True
        if self.extent:
            yield 0, {node.axis: min(node.part, self.extent)}, False

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


class Recurrence(Loop):
    """Steps in their order."""

    node: Seq
    known: Mapping[str, Number]

    def bounds(self) -> tuple[Value, ...]:
        self.count = self.scope.cast(self.scope.value(self.node.count), INT)
        return (self.count,)

    def visits(self) -> Iterator[Visit]:
        scope = self.scope
        count = int(self.count.array)
        self.partial += count
        if not any(lanes_of(p.value) for p in self.node.places):
            for at in range(count):
                yield at, {}, False
            return
        boxes = {name: int(value.array) for name, value in scope.boxes.items()}
        self.known = {**scope.context.scalars, **boxes}
        for at in range(count):
            yield at, self._lengths(at), False

    def _lengths(self, at: int) -> dict[str, int]:
        known = {**self.known, self.node.scalar: at}
        return lengths_of(self.node.places, self.scope.lengths, known)

    def likely(self) -> Iterator[Visit]:
        return iter(())

    def limit(self) -> float:
        return self.scope.number(self.node.count) or math.inf

    def places(self) -> tuple[Place, ...]:
        return self.node.places
