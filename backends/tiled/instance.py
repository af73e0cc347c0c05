"""Instances of a kernel on one thread: bound once for each size of their tiles, then run."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import numpy as np

from cascade.backends.tiled.body import Body
from cascade.backends.tiled.counters import Counters
from cascade.backends.tiled.known import Context
from cascade.backends.tiled.memory import Arena
from cascade.backends.tiled.places import lanes_of, lengths_of, sizes_of
from cascade.backends.tiled.scope import Scope
from cascade.backends.tiled.tape import INT, Value
from cascade.ir.extents import evaluate
from cascade.ir.walk import symbols
from cascade.schedule.program import For, GridAxis, inside

Point = tuple[int, ...]


class Worker:
    """Runs points of the grid one after another, in memory of its own."""

    def __init__(self, context: Context):
        self.context = context
        self.arena = Arena()
        kernel = context.kernel
        self.boxes = {
            g.scalar: Value((), (), INT, array=np.zeros((), np.int64)) for g in kernel.grid
        }
        self.bodies: dict[tuple[int, ...], Body] = {}
        streams = {b.axis for b in _loops(context)}
        sizes = sizes_of(kernel.axes, context.scalars)
        self.sizes = {a: n for a, n in sizes.items() if a not in streams}
        deciding = {s for p in kernel.places if lanes_of(p.value) for s in symbols(p.value)}
        self.deciding = [n for n, g in enumerate(kernel.grid) if g.scalar in deciding]
        self.body_at: dict[tuple[int, ...], Body] = {}  # by the scalars that decide lengths
        with np.errstate(all="ignore"):
            self._body_at((0,) * len(kernel.grid))

    def run(self, point: Point) -> None:
        with np.errstate(all="ignore"):
            body = self._body_at(point)
            for box, at in zip(self.boxes.values(), point, strict=True):
                box.array[...] = at
            body.visit()

    def _body_at(self, point: Point) -> Body:
        key = tuple([point[n] for n in self.deciding])
        found = self.body_at.get(key)
        if found is None:
            found = self.body_at[key] = self._body(self._lengths(point))
        return found

    def _lengths(self, point: Point) -> dict[str, int]:
        kernel = self.context.kernel
        at = {g.scalar: n for g, n in zip(kernel.grid, point, strict=True)}
        known = {**self.context.scalars, **at}
        return {**self.sizes, **lengths_of(kernel.places, self.sizes, known)}

    def _body(self, lengths: dict[str, int]) -> Body:
        key = tuple(lengths.values())
        found = self.bodies.get(key)
        if found is None:
            kernel = self.context.kernel
            places = {p.rank: p for p in kernel.places}
            changing = tuple(self.boxes.values())
            limits = {g.scalar: float(self._count(g)) for g in kernel.grid}
            scope = Scope(self.context, lengths, places, self.boxes, limits, changing=changing)
            found = self.bodies[key] = Body(scope, kernel.body, self.arena, 0, key)
            found.enter()
        return found

    def _count(self, g: GridAxis) -> int:
        return int(evaluate(g.count, self.context.scalars.__getitem__))

    def held(self) -> dict[Hashable, int]:
        """Bytes of each buffer."""
        return {key: buffer.nbytes for key, buffer in self.arena.buffers.items()}

    def count(self, counters: Counters) -> None:
        kernel = self.context.kernel.name
        for body in self.bodies.values():
            for inner in _all(body):
                for tensor, moved in inner.moved.items():
                    counters.add(kernel, tensor, moved, inner.times)
                for loop in inner.loops:
                    if isinstance(loop.node, For):
                        counters.full_visits[kernel, loop.node.scalar] += loop.full
                    counters.partial_visits[kernel, loop.node.scalar] += loop.partial


def _all(body: Body) -> Iterator[Body]:
    yield body
    for loop in body.loops:
        for inner in loop.bodies.values():
            yield from _all(inner)


def _loops(context: Context) -> Iterator[For]:
    return (n for n in inside(context.kernel.body) if isinstance(n, For))
