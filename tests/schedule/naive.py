"""A Program run in the plainest way: every tile of a loop, every mask, arrays over named axes.

The executors that users run are compared with this one, and this one with the reference.
"""

from dataclasses import replace
from itertools import product

import numpy as np

from cascade.backends.arrays import Labelled, align, combine, spread
from cascade.backends.spelling import MAPS
from cascade.ir.expr import Const, Coordinate, Map, Read, Symbol
from cascade.ir.kinds import is_whole_exponent
from cascade.schedule import program as P

FOLDS = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "any": np.logical_or,
    "all": np.logical_and,
}


class Naive:
    """Runs the kernels of a program over float64 arrays; `tile` overrides the tiles of loops."""

    def __init__(self, program, arrays, values):
        self.program = program
        self.values = dict(values)
        self.memory = dict(arrays)
        for b in program.buffers:
            if b.kind != "in":
                shape = [int(self.scalar(e)) for e in b.shape]
                kind = {"int": np.int64, "bool": bool}.get(b.dtype, np.float64)
                self.memory[b.name] = np.full(shape, 123 if kind is np.int64 else 0).astype(kind)
                if kind is np.float64:
                    self.memory[b.name][...] = 1e30  # what is not written shows

    def run(self):
        with np.errstate(all="ignore"):
            for kernel in self.program.kernels:
                counts = [range(int(self.scalar(g.count))) for g in kernel.grid]
                for at in product(*counts):
                    scalars = {g.scalar: n for g, n in zip(kernel.grid, at, strict=True)}
                    _Instance(self, kernel, scalars).run()
        return {b.name: self.memory[b.name] for b in self.program.buffers if b.kind == "out"}

    def scalar(self, e):
        match e:
            case Const(value):
                return value
            case Symbol(name):
                return self.values[name]
            case Map(op, args):
                return MAPS[op](*(self.scalar(a) for a in args))


class _Instance:
    def __init__(self, owner, kernel, scalars):
        self.owner, self.kernel = owner, kernel
        self.scalars = {**owner.values, **scalars}
        self.tiles = {}
        self.places = {p.rank: p for p in kernel.places}
        self.sizes = {a.name: int(self.number(a.size)) for a in kernel.axes}

    def run(self):
        self.body(self.kernel.body)

    def number(self, e):
        return self.value(e).array[()]

    def value(self, e):
        match e:
            case Const(value):
                return Labelled(np.asarray(value), ())
            case Symbol(name):
                return Labelled(np.asarray(self.scalars[name]), ())
            case Read(name, ()):
                return self.tiles[name]
            case Coordinate(rank) if rank.startswith("#"):
                return Labelled(np.arange(self.sizes[rank[1:]]), (rank[1:],))
            case Coordinate(rank):
                return self.value(self.places[rank].value)
            case Map("**", (base, power)) if not is_whole_exponent(power):
                found = self.value(base)
                return combine(
                    MAPS["**"], [replace(found, array=found.array * 1.0), self.value(power)]
                )
            case Map(op, args):
                return combine(MAPS[op], [self.value(a) for a in args])

    def exists(self, axes):
        """Where the lanes of all these axes stand for coordinates that exist."""
        tests = []
        for p in self.places.values():
            here = self.value(p.value)
            if here.axes and set(here.axes) <= set(axes):
                tests.append(combine(np.less, [here, self.value(p.extent)]))
        return combine(np.logical_and, tests) if tests else Labelled(np.asarray(True), ())

    def holds(self, conditions):
        return combine(
            np.logical_and, [Labelled(np.asarray(True), ()), *map(self.value, conditions)]
        )

    def body(self, nodes):
        for node in nodes:
            self.node(node)

    def node(self, node):
        match node:
            case P.Let(name, e):
                self.tiles[name] = self.value(e)
            case P.Load():
                self.tiles[node.name] = self.load(node)
            case P.Mask(name, e, conditions, fill):
                there, filler = self.holds(conditions), Labelled(np.asarray(fill.value), ())
                self.tiles[name] = combine(np.where, [there, self.value(e), filler])
            case P.Fold(name, op, e, axes):
                self.tiles[name] = self.fold(op, self.value(e), axes)
            case P.Contract(name, factors, axes):
                whole = combine(
                    np.multiply, [self.value(factors[0]), Labelled(np.asarray(1.0), ())]
                )
                for f in factors[1:]:
                    whole = combine(np.multiply, [whole, self.value(f)])
                self.tiles[name] = self.fold("sum", whole, axes)
            case P.Pick(name, e, axis, at):
                value, at = self.value(e), self.value(at)
                lanes = Labelled(np.arange(self.sizes[axis]), (axis,))
                here = combine(np.equal, [lanes, at])
                picked = combine(
                    np.where, [here, value, Labelled(np.zeros((), value.array.dtype), ())]
                )
                self.tiles[name] = self.fold(
                    "any" if value.array.dtype == bool else "sum", picked, (axis,)
                )
            case P.Best():
                self.best(node)
            case P.For():
                self.loop(node)
            case P.Seq():
                self.sequence(node)
            case P.Store():
                self.store(node)

    def fold(self, op, value, axes):
        there = self.exists(axes)
        value, there = align([value, there], with_axes=axes, extents=self.sizes)
        array, mask = np.broadcast_arrays(value.array, there.array)
        identity = {"sum": 0, "prod": 1, "max": -np.inf, "min": np.inf, "any": False, "all": True}[
            op
        ]
        where = tuple(value.axes.index(a) for a in axes)
        chosen = np.where(mask, array, identity)
        result = FOLDS[op].reduce(chosen, axis=where, initial=identity)
        return Labelled(np.asarray(result), tuple(a for a in value.axes if a not in axes))

    def load(self, node):
        array = self.owner.memory[node.tensor]
        index = [self.value(i) for i in node.index]
        there = combine(
            np.logical_and,
            [
                self.holds(node.present),
                self.exists({a for i in index for a in i.axes}),
                *[
                    combine(
                        np.logical_and,
                        [
                            combine(np.less_equal, [Labelled(np.asarray(0), ()), i]),
                            combine(np.less, [i, Labelled(np.asarray(n), ())]),
                        ],
                    )
                    for i, n in zip(index, array.shape, strict=True)
                ],
            ],
        )
        if not index:
            return Labelled(array, ())
        *index, there = align([*index, there])
        axes = there.axes
        safe = [np.clip(i.array, 0, max(n - 1, 0)) for i, n in zip(index, array.shape, strict=True)]
        found = array[tuple(safe)] if array.size else np.zeros((1,) * len(axes), array.dtype)
        zero = np.zeros((), array.dtype)
        return Labelled(np.where(there.array, found, zero), axes)

    def store(self, node):
        array = self.owner.memory[node.tensor]
        index = [self.value(i) for i in node.index]
        there = combine(
            np.logical_and,
            [self.holds(node.present), self.exists({a for i in index for a in i.axes})],
        )
        aligned = align([*index, there, self.value(node.value)])
        *at, mask, value = np.broadcast_arrays(*[x.array for x in aligned])
        if not at:
            array[()] = value
            return
        array[tuple(i[mask] for i in at)] = value[mask]

    def carry(self, carries):
        for c in carries:
            self.tiles[c.name] = self.value(c.init)

    def advance(self, carries):
        following = {c.name: self.tiles[c.next] for c in carries}
        self.tiles |= following

    def loop(self, node):
        self.carry(node.carries)
        extent = int(self.number(node.place.extent))
        before = self.sizes[node.axis]
        self.places[node.place.rank] = node.place
        self.sizes[node.axis] = node.tile
        for start in range(0, extent, node.tile):
            self.scalars[node.scalar] = start
            self.body(node.body)
            self.advance(node.carries)
        del self.places[node.place.rank]
        self.sizes[node.axis] = before

    def sequence(self, node):
        self.carry(node.carries)
        for p in node.places:
            self.places[p.rank] = p
        for step in range(int(self.number(node.count))):
            self.scalars[node.scalar] = step
            self.body(node.body)
            self.advance(node.carries)
        for p in node.places:
            del self.places[p.rank]

    def best(self, node):
        value, place = self.value(node.value), self.value(node.place)
        there = combine(np.logical_and, [self.holds(node.conditions), self.exists((node.axis,))])
        count = self.sizes[node.target]
        value, place, there = align(
            [value, place, there], with_axes=(node.axis,), extents=self.sizes
        )
        value, place, there = (
            Labelled(np.moveaxis(x, v.axes.index(node.axis), -1), v.axes)
            for x, v in zip(
                np.broadcast_arrays(value.array, place.array, there.array),
                (value, place, there),
                strict=True,
            )
        )
        kept = tuple(a for a in value.axes if a != node.axis)
        values, places, present = value.array.astype(float), place.array, there.array
        if node.before is not None:
            old = [self.tiles[n] for n in node.before]
            first, second = (spread(o, (*kept, node.target)) for o in old)
            shape = (*values.shape[:-1], count)
            values = np.concatenate([np.broadcast_to(first, shape), values], -1)
            second = np.broadcast_to(second, shape)
            places = np.concatenate([second, places], -1)
            present = np.concatenate([second >= 0, present], -1)
        order = np.lexsort((places, -values, ~present), axis=-1)[..., :count]
        chosen = np.take_along_axis(present, order, -1)
        results = (
            np.where(chosen, np.take_along_axis(values, order, -1), -np.inf),
            np.where(chosen, np.take_along_axis(places, order, -1), -1),
        )
        for name, array in zip(node.names, results, strict=True):
            short = count - array.shape[-1]
            if short > 0:
                fill = -np.inf if array.dtype.kind == "f" else -1
                array = np.pad(
                    array, [(0, 0)] * (array.ndim - 1) + [(0, short)], constant_values=fill
                )
            self.tiles[name] = Labelled(array, (*kept, node.target))
