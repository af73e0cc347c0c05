"""What a Program will do, counted without doing it: the rule of `cascade.schedule.counts`, on
numbers.

At each point of a kernel's grid the bounds of its loops are evaluated for the rows that exist, and
give the ranges that are visited. Instances that differ in nothing that counts (heads, batches) are
counted once and multiplied; so are the visits of a loop, which differ in their length only. So the
cost grows with the tiles of rows, not with the data. Windows, lengths and other small tensors that
bound a loop are given as `small`; a bound that is computed from other data has no prediction. Lists
of tiles are made here as the kernels that list them make them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import numpy as np

from cascade.diagnostics import InputError
from cascade.ir.expr import Coordinate, Expr, Read, Symbol
from cascade.ir.extents import Number
from cascade.ir.extents import evaluate as number
from cascade.ir.walk import walk
from cascade.schedule.counts import Counts, KernelCounts, Tally, item_size
from cascade.schedule.facts import Axes, axes_of, loop_bounds, made_in, tile_axes, tile_kinds
from cascade.schedule.instance import Instance
from cascade.schedule.program import (
    Fold,
    For,
    Kernel,
    Let,
    Load,
    Mask,
    Node,
    Pick,
    Place,
    Program,
    Seq,
    Store,
    TileList,
    inside,
    lanes_of,
    results,
)
from cascade.schedule.segments import visits

Array = np.ndarray[Any, Any]
Visit = tuple[int, int]  # where it starts, and its coordinates


def predict(
    program: Program,
    scalars: Mapping[str, Number],
    small: Mapping[str, Array] | None = None,
    dtypes: Mapping[str, str] | None = None,
) -> Counts:
    """Tiles, bytes and visits of a run. `scalars` are extents and params, `dtypes` the types of the
    arguments by tensor, `small` the tensors that bound loops.

    Raises `InputError` where a loop is bounded by what is not given.
    """
    known = dict(scalars)
    for name, e in program.values:
        if name not in known:
            known[name] = number(e, known.__getitem__)
    arrays = {name: np.asarray(a) for name, a in (small or {}).items()}
    types = {n: _dtype(a) for n, a in arrays.items()} | dict(dtypes or {})
    kernels: dict[str, _Kernel] = {}
    for k in program.kernels:
        kernels[k.name] = _Kernel(program, k, known, arrays, types, tuple(kernels.values()))
    return Counts(tuple(k.counted() for k in kernels.values()))


def _dtype(array: Array) -> str:
    kind = {"i": "i", "u": "u", "f": "f", "V": "f"}.get(array.dtype.kind)
    return "bool" if kind is None else f"{kind}{8 * array.dtype.itemsize}"


class _Kernel:
    """The counting of one kernel."""

    def __init__(
        self,
        program: Program,
        kernel: Kernel,
        scalars: Mapping[str, Number],
        arrays: Mapping[str, Array],
        types: Mapping[str, str],
        earlier: tuple[_Kernel, ...] = (),
    ):
        self.kernel = kernel
        self.earlier = earlier
        self.lists: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        self.scalars = scalars
        self.arrays = arrays
        self.sizes = {b.name: item_size(b, types) for b in program.buffers}
        self.kinds = tile_kinds(program, kernel, types)
        self.tile_axes = tile_axes(kernel)
        self.makers = {n: node for node in inside(kernel.body) for n in results(node)}
        self.places = all_places(kernel)
        self.tally = Tally(kernel.name)
        self.inner = {n.scalar: made_in(n) for n in inside(kernel.body) if isinstance(n, For)}
        self.varying = {
            n.scalar: n.scalar in self._matter(n.body, n.places if isinstance(n, Seq) else ())
            for n in inside(kernel.body)
            if isinstance(n, For | Seq)
        }

    def counted(self) -> KernelCounts:
        matter = self._matter(self.kernel.body, self.kernel.places)
        counts = {
            g.scalar: int(number(g.count, self.scalars.__getitem__)) for g in self.kernel.grid
        }
        varying = [s for s in counts if s in matter]
        times = prod(n for s, n in counts.items() if s not in matter)
        self.tally.instances = prod(counts.values())
        for at in product(*(range(counts[s]) for s in varying)):
            point = dict.fromkeys(counts, 0) | dict(zip(varying, at, strict=True))
            if times:
                self._body(self.kernel.body, self._instance(point), times)
        nodes = list(inside(self.kernel.body))
        tensors = dict.fromkeys(n.tensor for n in nodes if isinstance(n, Load | Store))
        loops = [n.scalar for n in nodes if isinstance(n, For | Seq)]
        return self.tally.counts(tensors, loops)

    def _instance(self, point: Mapping[str, int]) -> Instance:
        kernel = self.kernel
        scalars = {**self.scalars, **point}
        streams = {n.axis for n in inside(kernel.body) if isinstance(n, For)}
        sizes = {
            a.name: int(number(a.size, scalars.__getitem__))
            for a in kernel.axes
            if a.name not in streams
        }
        order = tuple(a.name for a in kernel.axes)
        start = Instance(order, scalars, {}, sizes, self.makers, self.arrays)
        return start.placed(kernel.places)

    # -- nodes
    def _body(self, nodes: tuple[Node, ...], here: Instance, times: int) -> None:
        for node in nodes:
            match node:
                case Load():
                    self.tally.load(node.tensor, self._bytes(node, here), times)
                case Store():
                    self.tally.store(node.tensor, self._bytes(node, here), times)
                case For():
                    self._stream(node, here, times)
                case Seq():
                    self._steps(node, here, times)

    def _bytes(self, node: Load | Store, here: Instance) -> int:
        axes: Axes = frozenset().union(
            *(axes_of(i, here.places, self.tile_axes) for i in node.index)
        )
        return self.sizes[node.tensor] * prod(here.lengths[a] for a in axes)

    def _stream(self, loop: For, here: Instance, times: int) -> None:
        try:
            full, partial = self._visits(loop, here)
        except InputError as error:
            raise self._unknown(loop, error) from None
        self.tally.full[loop.scalar] += times * len(full)
        self.tally.partial[loop.scalar] += times * len(partial)
        at = (*full, *partial)
        if self.varying[loop.scalar]:
            for start, size in at:
                self._body(loop.body, here.visiting(loop, start, size), times)
            return
        for size, number_of in Counter(size for _, size in at).items():
            self._body(loop.body, here.visiting(loop, 0, size), times * number_of)

    def _visits(self, loop: For, here: Instance) -> tuple[list[Visit], list[Visit]]:
        """Where full and partial visits start, and how many coordinates they have."""
        if loop.lists:
            extent = here.number(loop.place.extent)

            def visited(found: TileList | None) -> list[Visit]:
                tiles = self._listed(found, here) if found is not None else []
                starts = (n * loop.tile for n in tiles)
                return [(start, min(loop.tile, extent - start)) for start in starts]

            return visited(loop.full), visited(loop.some)
        inner = self.inner[loop.scalar]
        found = loop_bounds(loop, self.kinds, here.scalars, lambda name: name not in inner)
        return visits(here.segments(loop, found), loop.tile, loop.part)

    def _listed(self, found: TileList, here: Instance) -> list[int]:
        """The tiles that an earlier kernel lists, from the values it reads."""
        at = tuple(here.number(i) for i in found.index)
        maker = next(k for k in self.earlier if found.tiles in k.writes)
        if (found.tiles, at) not in maker.lists:
            maker.list_at(at)
        return maker.lists[found.tiles, at]

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(n.tensor for n in inside(self.kernel.body) if isinstance(n, Store))

    def list_at(self, at: tuple[int, ...]) -> None:
        """What this kernel writes in order, step by step, at a point of its grid."""
        point = dict(zip((g.scalar for g in self.kernel.grid), at, strict=True))
        here = self._instance(point)
        for n, loop in enumerate(self.kernel.body):
            if not isinstance(loop, Seq):
                continue
            here.ahead(self.kernel.body[:n])
            stores = [x for x in loop.body if isinstance(x, Store)]
            for store in stores:
                self.lists[store.tensor, at] = []
            for step in range(here.number(loop.count)):
                there = here.at_step(loop, step)
                for store in stores:
                    self.lists[store.tensor, at] += there.stored(store)

    def _steps(self, loop: Seq, here: Instance, times: int) -> None:
        count = int(here.number(loop.count))
        self.tally.partial[loop.scalar] += times * count
        if self.varying[loop.scalar]:
            for step in range(count):
                self._body(loop.body, here.at_step(loop, step), times)
        elif count:
            self._body(loop.body, here.at_step(loop, 0), times * count)

    def _unknown(self, loop: For, error: InputError) -> InputError:
        (cause,) = error.diagnostics
        message = f"how often the loop over `{loop.place.rank}` runs depends on {cause.message}"
        return InputError(replace(cause, message=message))

    # -- what makes a difference
    def _matter(self, nodes: tuple[Node, ...], places: Iterable[Place]) -> frozenset[str]:
        """The scalars on which the lengths of axes and the visits of loops depend."""
        todo: list[Expr] = [e for p in places if lanes_of(p.value) for e in (p.value, p.extent)]
        for node in inside(nodes):
            if isinstance(node, For) and node.lists:
                todo += [node.place.extent, *(i for found in node.lists for i in found.index)]
            elif isinstance(node, For):
                todo += [*node.predicate, node.place.extent]
            elif isinstance(node, Seq):
                todo += [node.count]
                todo += [e for p in node.places if lanes_of(p.value) for e in (p.value, p.extent)]
        seen: set[Expr] = set()
        found: set[str] = set()
        while todo:
            for e in walk(todo.pop()):
                if e in seen:
                    continue
                seen.add(e)
                match e:
                    case Symbol(name):
                        found.add(name)
                    case Read(name, ()) if name in self.makers:
                        todo += made_of(self.makers[name])
                    case Coordinate(rank):
                        todo += [x for p in self.places.get(rank, ()) for x in (p.value, p.extent)]
        return frozenset(found)


def all_places(kernel: Kernel) -> dict[str, list[Place]]:
    """Every place of each rank, in whatever loop."""
    found: dict[str, list[Place]] = {}
    loops = (n for n in inside(kernel.body) if isinstance(n, For | Seq))
    own = (p for n in loops for p in ((n.place,) if isinstance(n, For) else n.places))
    for place in (*kernel.places, *own):
        found.setdefault(place.rank, []).append(place)
    return found


def made_of(node: Node) -> list[Expr]:
    """What a tile that an instance can compute is computed from."""
    match node:
        case Let():
            return [node.value]
        case Load():
            return [*node.index, *node.present]
        case Mask():
            return [node.value, *node.conditions]
        case Fold():
            return [node.value]
        case Pick():
            return [node.value, node.at]
        case _:
            return []
