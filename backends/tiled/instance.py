"""Instances of a kernel: planned once for each size of their tiles, bound once on each thread, run
one after another.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from threading import Lock

import numpy as np

from cascade.backends.tiled.body import Body, BoundBody
from cascade.backends.tiled.counters import Counters
from cascade.backends.tiled.known import Context
from cascade.backends.tiled.machine import Machine
from cascade.backends.tiled.places import lengths_of, sizes_of
from cascade.backends.tiled.scope import Scope
from cascade.backends.tiled.tape import INT, UNBOUND, Value
from cascade.ir.extents import evaluate
from cascade.ir.walk import symbols
from cascade.schedule.program import For, GridAxis, inside, lanes_of

Point = tuple[int, ...]


class Plan:
    """A kernel with its bodies, made once for each size of the tiles, for all threads."""

    def __init__(self, context: Context):
        self.context = context
        kernel = context.kernel
        self.boxes = {g.scalar: Value((), (), INT) for g in kernel.grid}
        self.bodies: dict[tuple[int, ...], Body] = {}
        self.lock = Lock()
        streams = {b.axis for b in _loops(context)}
        sizes = sizes_of(kernel.axes, context.scalars)
        self.sizes = {a: n for a, n in sizes.items() if a not in streams}
        deciding = {s for p in kernel.places if lanes_of(p.value) for s in symbols(p.value)}
        self.deciding = [n for n, g in enumerate(kernel.grid) if g.scalar in deciding]

    def body_at(self, point: Point) -> Body:
        kernel = self.context.kernel
        at = {g.scalar: n for g, n in zip(kernel.grid, point, strict=True)}
        known = {**self.context.scalars, **at}
        lengths = {**self.sizes, **lengths_of(kernel.places, self.sizes, known)}
        key = tuple(lengths.values())
        with self.lock:
            found = self.bodies.get(key)
            if found is None:
                found = self.bodies[key] = self._make(lengths, key)
        return found

    def _make(self, lengths: dict[str, int], key: tuple[int, ...]) -> Body:
        kernel = self.context.kernel
        places = {p.rank: p for p in kernel.places}
        limits = {g.scalar: float(self._count(g)) for g in kernel.grid}
        changing = tuple(self.boxes.values())
        scope = Scope(self.context, lengths, places, self.boxes, limits, changing=changing)
        return Body(scope, kernel.body, 0, key)

    def _count(self, g: GridAxis) -> int:
        return int(evaluate(g.count, self.context.scalars.__getitem__))


class Worker:
    """Runs points of the grid one after another, in memory of its own."""

    def __init__(self, plan: Plan):
        self.plan, self.machine = plan, Machine()
        self.boxes = [self.machine.scalar(v) for v in plan.boxes.values()]
        self.bodies: dict[tuple[int, ...], BoundBody] = {}  # by the scalars that decide lengths
        with np.errstate(all="ignore"):
            self._body_at((0,) * len(self.boxes))

    def run(self, point: Point) -> None:
        with np.errstate(all="ignore"):
            body = self._body_at(point)
            for box, at in zip(self.boxes, point, strict=True):
                box[...] = at
            body.visit()

    def _body_at(self, point: Point) -> BoundBody:
        key = tuple([point[n] for n in self.plan.deciding])
        found = self.bodies.get(key)
        if found is None:
            body = self.plan.body_at(point)
            found = self.machine.bodies.get(body)
            if found is None:
                found = BoundBody(body, self.machine)
                found.enter()
            self.bodies[key] = found
        return found

    def held(self) -> dict[Hashable, int]:
        """Bytes of each buffer."""
        return {key: buffer.nbytes for key, buffer in self.machine.buffers.items()}

    def release(self) -> None:
        """Let go of tensors, and count from nothing again."""
        for value, cell in self.machine.items():
            if value.moving:
                cell.array = UNBOUND
        for body in self.machine.bodies.values():
            body.times = 0
        for loop in self.machine.loops:
            loop.full = loop.partial = 0

    def count(self, counters: Counters) -> None:
        kernel = self.plan.context.kernel.name
        for body, bound in self.machine.bodies.items():
            for tensor, moved in body.moved.items():
                counters.add(kernel, tensor, moved, bound.times)
        for loop in self.machine.loops:
            scalar = loop.loop.node.scalar
            if isinstance(loop.loop.node, For):
                counters.full_visits[kernel, scalar] += loop.full
            counters.partial_visits[kernel, scalar] += loop.partial


def _loops(context: Context) -> Iterator[For]:
    return (n for n in inside(context.kernel.body) if isinstance(n, For))
