"""A stream rank in splits, each its own instance of a kernel, and a second kernel that merges them.

A kernel with few instances (one row of queries: decoding) leaves most of a device idle while each
instance runs over all of a long rank. A loop whose tiles may be visited in any order can be cut
instead: the first kernel has the splits on its grid and stores what its loop carries; the second
goes over the splits, merges, and does what followed the loop ("split-K", Flash-Decoding, Dao et
al. 2023).

The merge is read off the loop. Each carry moves by `next = old op new`, with `new` made of the tile
and `old` of carries: of what was carried, brought to the maximum after the tile. What is `new` for
the tile is what the other state carries, brought to the maximum of both, so

    merge(a, b) = old(a) op old(b)

with the carries that `old` takes at the next step merged before. This holds for all loops that a
derivation makes unordered; a carry that moves in another way is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.names import fresh
from cascade.ir.walk import reads, transform, walk
from cascade.schedule.build import COMBINE
from cascade.schedule.errors import NoSchedule
from cascade.schedule.facts import tile_axes
from cascade.schedule.program import (
    Buffer,
    Carry,
    For,
    GridAxis,
    Kernel,
    Let,
    Load,
    Node,
    Place,
    Program,
    Seq,
    Store,
    inside,
    results,
    tile,
)
from cascade.schedule.prune import expressions, pruned
from cascade.schedule.sizes import AUTO

WAVES = 2  # instances for each multiprocessor, so that none waits for the slowest


def split(program: Program, number: int, multiprocessors: int) -> Program:
    """Every kernel with a loop in any order, in `number` splits of the rank of the loop.

    `number` AUTO takes the number from the extents, the tiles and `multiprocessors`. The order of
    additions then depends on the size of the batch; with a fixed number it does not. Raises
    `NoSchedule`, with the reasons, where a fixed number is asked for and no kernel can be split.
    """
    state = _Splitter(program, number, multiprocessors)
    kernels = [k for kernel in program.kernels for k in state.kernels(kernel)]
    if not state.buffers:
        if number == AUTO:
            return program
        no_loop = "no kernel has a loop whose tiles may be visited in any order"
        raise NoSchedule("; ".join(dict.fromkeys(state.reasons)) or no_loop)
    return replace(
        program,
        buffers=(*program.buffers, *state.buffers),
        kernels=tuple(kernels),
        values=(*program.values, *state.values),
    )


@dataclass(frozen=True)
class _Names:
    """Of one split loop: the rank of its splits, their number, and the coordinates in each."""

    rank: str
    count: str
    size: str

    @property
    def at(self) -> str:
        return f"{self.rank}_at"


class _Splitter:
    def __init__(self, program: Program, number: int, multiprocessors: int):
        self.number, self.multiprocessors = number, multiprocessors
        self.buffers: list[Buffer] = []
        self.values: list[tuple[str, Expr]] = []
        self.reasons: list[str] = []
        self.launched = {k.name for k in program.kernels}
        self.taken = {b.name for b in program.buffers}
        self.taken |= {r for b in program.buffers for r in b.ranks} | set(dict(program.values))

    def kernels(self, kernel: Kernel) -> Iterator[Kernel]:
        """A kernel as it is, or for each loop one that stores its parts, and one at the end."""
        for n, node in enumerate(kernel.body):
            if isinstance(node, For):
                try:
                    parts, rest = self._cut(kernel, n, node)
                except NoSchedule as reason:
                    self.reasons.append(f"in `{kernel.name}` {reason}")
                    continue
                yield parts
                yield from self.kernels(rest)
                return
        yield kernel

    def _cut(self, kernel: Kernel, n: int, loop: For) -> tuple[Kernel, Kernel]:
        if any(isinstance(x, Store) for x in inside(loop.body)):
            raise NoSchedule(f"the loop over `{loop.place.rank}` stores as it runs")
        merge = Merge(loop)
        names = self._names(kernel, loop)
        before, after = kernel.body[:n], kernel.body[n + 1 :]
        part = Place(names.rank, Symbol(names.at), Symbol(names.count))
        stores, loads = [], []
        for c in loop.carries:
            stored, index = self._buffer(kernel, c, names)
            stores.append(Store(stored.name, index, tile(c.name)))
            loads.append(Load(merge.other[c.name], stored.name, index))
        start = Map("*", (Symbol(names.at), Symbol(names.size)))
        own = (
            Map("<=", (start, Coordinate(loop.place.rank))),
            Map("<", (Coordinate(loop.place.rank), Map("+", (start, Symbol(names.size))))),
        )
        cut = replace(loop, predicate=(*loop.predicate, *own))
        first = replace(
            kernel,
            name=fresh(f"{kernel.name}_parts", self.launched),
            grid=(*kernel.grid, GridAxis(names.at, Symbol(names.count))),
            places=(*kernel.places, part),
            body=pruned((*before, cut, *stores)),
        )
        over = Seq(names.at, Symbol(names.count), (part,), merge.carries, (*loads, *merge.body))
        rest = pruned((*before, over, *after))
        return _tidy(first), _tidy(replace(kernel, body=rest))

    def _names(self, kernel: Kernel, loop: For) -> _Names:
        """Names, and the values behind them: splits are whole tiles, of extents that are known."""
        rank = loop.place.rank
        names = _Names(
            fresh(f"{rank}_split", self.taken),
            fresh(f"{rank}_splits", self.taken),
            fresh(f"{rank}_in_split", self.taken),
        )
        tiles = _quotient(loop.place.extent, Const(loop.tile))
        count: Expr = Const(self.number)
        if self.number == AUTO:
            counts = [g.count for g in kernel.grid] or [Const(1)]
            blocks = Map("max", (Const(1), reduce(lambda a, b: Map("*", (a, b)), counts)))
            wanted = _quotient(Const(WAVES * self.multiprocessors), blocks)
            count = Map("max", (Const(1), Map("min", (tiles, wanted))))
        size = Map("*", (_quotient(tiles, Symbol(names.count)), Const(loop.tile)))
        self.values += [(names.count, count), (names.size, size)]
        return names

    def _buffer(
        self, kernel: Kernel, carry: Carry, names: _Names
    ) -> tuple[Buffer, tuple[Expr, ...]]:
        """Memory for a carry of every instance, and where in it that of this one is."""
        ranks: list[str] = []
        shape: list[Expr] = []
        index: list[Expr] = []

        def dimension(rank: str, extent: Expr, at: Expr) -> None:
            ranks.append(rank)
            shape.append(extent)
            index.append(at)

        along = {a: _rank_along(kernel, a) for a in carry.axes}
        covered = {s for p in along.values() for s in _scalars(p)}
        for g in kernel.grid:
            if g.scalar not in covered:
                dimension(g.scalar.removesuffix("_at"), g.count, Symbol(g.scalar))
        dimension(names.rank, Symbol(names.count), Symbol(names.at))
        for place in along.values():
            dimension(place.rank, place.extent, Coordinate(place.rank))
        name = fresh(f"{carry.name}_parts", self.taken)
        dtype = carry.kind if carry.kind in ("int", "bool") else "real"
        buffer = Buffer(name, tuple(ranks), tuple(shape), dtype, "temp")
        self.buffers.append(buffer)
        return buffer, tuple(index)


def _quotient(a: Expr, b: Expr) -> Expr:
    """Rounded up."""
    return Map("//", (Map("-", (Map("+", (a, b)), Const(1))), b))


def _scalars(place: Place) -> set[str]:
    return {n.name for n in walk(place.value) if isinstance(n, Symbol)}


def _rank_along(kernel: Kernel, axis: str) -> Place:
    """The rank whose coordinates lie along an axis, and along no other."""
    for place in kernel.places:
        lanes = {n.rank for n in walk(place.value) if isinstance(n, Coordinate)}
        if lanes == {f"#{axis}"}:
            return place
    raise NoSchedule(f"a loop carries a tile along `{axis}`, which is no rank")


def _tidy(kernel: Kernel) -> Kernel:
    """A kernel without the axes that it has no tile of any more."""
    used = {a for axes in tile_axes(kernel).values() for a in axes}
    used |= {
        n.rank.removeprefix("#")
        for p in kernel.places
        if _scalars(p)
        for n in walk(p.value)
        if isinstance(n, Coordinate)
    }
    used |= {n.axis for n in inside(kernel.body) if isinstance(n, For)}
    gone = {a.name for a in kernel.axes} - used
    places = tuple(
        p
        for p in kernel.places
        if not any(
            isinstance(n, Coordinate) and n.rank.removeprefix("#") in gone for n in walk(p.value)
        )
    )
    axes = tuple(a for a in kernel.axes if a.name not in gone)
    return replace(kernel, axes=axes, places=places)


class Merge:
    """The merge of two states of a loop: that which is carried, and one that is loaded.

    `other` names the tiles of the loaded state by carry; `body` merges, once they are there.
    """

    def __init__(self, loop: For):
        self.loop = loop
        self.made = {n: node for node in loop.body for n in results(node)}
        self.carried = {c.name: c for c in loop.carries}
        self.follows = {c.next: c for c in loop.carries}
        self.other = {c.name: f"{c.name}_part" for c in loop.carries}
        self.merged = {c.name: f"{c.name}_merged" for c in loop.carries}
        self.nodes: dict[str, Let] = {}
        for c in loop.carries:
            self._merge(c)
        self.body: tuple[Node, ...] = tuple(self.nodes.values())
        self.carries = tuple(replace(c, next=self.merged[c.name]) for c in loop.carries)

    def _merge(self, c: Carry) -> Read:
        """The node for a carry, after those that it needs."""
        name = self.merged[c.name]
        if name not in self.nodes:
            op, old = self._old(c)
            if old == tile(c.name):
                sides: list[Expr] = [tile(c.name), tile(self.other[c.name])]
            else:
                sides = [
                    self._at(old, c, lambda n: n, "before"),
                    self._at(old, c, self.other.__getitem__, "part"),
                ]
            self.nodes[name] = Let(name, Map(op, (sides[0], sides[1])))
        return tile(name)

    def _old(self, c: Carry) -> tuple[str, Expr]:
        """How a carry meets what is new, and what is old in it."""
        node = self.made.get(c.next)
        if isinstance(node, Let) and isinstance(node.value, Map):
            op = node.value.op
            if op in COMBINE.values():
                terms = list(_terms(op, node.value))
                old = [t for t in terms if self._is_old(t)]
                new = [t for t in terms if not self._is_old(t)]
                if old and new and all(self._is_new(t) for t in new):
                    return op, reduce(lambda a, b: Map(op, (a, b)), old)
        raise NoSchedule(f"`{c.name}` moves in a way that says no merge of two of it")

    def _is_old(self, e: Expr) -> bool:
        """Whether a value follows from what is carried, before and after a step, alone."""
        return self._is_free(e) and any(True for _ in self._roots(e))

    def _is_free(self, e: Expr) -> bool:
        """Whether a value has nothing of the tile."""
        for n in walk(e):
            match n:
                case Coordinate(rank) if rank in (self.loop.place.rank, f"#{self.loop.axis}"):
                    return False
                case Symbol(name) if name == self.loop.scalar:
                    return False
                case Read(name, ()) if name in self.made and name not in self.follows:
                    node = self.made[name]
                    if not isinstance(node, Let) or not self._is_free(node.value):
                        return False
        return True

    def _roots(self, e: Expr) -> Iterator[str]:
        """The carries, before a step or after it, in a value."""
        for r in reads(e):
            if r.tensor in self.carried or r.tensor in self.follows:
                yield r.tensor
            elif isinstance(self.made.get(r.tensor), Let):
                node = self.made[r.tensor]
                assert isinstance(node, Let)
                yield from self._roots(node.value)

    def _is_new(self, e: Expr) -> bool:
        """Whether a value is of the tile alone, and of what is carried only after the step."""
        todo, seen = [e], set()
        while todo:
            for r in reads(todo.pop()):
                name = r.tensor
                if name in self.carried:
                    return False
                if name in self.made and name not in self.follows and name not in seen:
                    seen.add(name)
                    node = self.made[name]
                    if isinstance(node, For | Seq):
                        return False
                    todo += list(expressions(node))
        return True

    def _at(self, e: Expr, c: Carry, state: Callable[[str], str], side: str) -> Expr:
        """An old value of one of the states, with what is carried after the step merged."""

        def rule(n: Expr) -> Expr | None:
            if not isinstance(n, Read):
                return None
            name = n.tensor
            if name in self.follows:
                if self.follows[name] is c:
                    raise NoSchedule(f"`{c.name}` moves in a way that says no merge of two of it")
                return self._merge(self.follows[name])
            if name in self.carried:
                return tile(state(name))
            node = self.made.get(name)
            if not isinstance(node, Let):
                return n
            copy = f"{name}_{side}"
            if copy not in self.nodes:
                value = self._at(node.value, c, state, side)
                self.nodes[copy] = Let(copy, value)
            return tile(copy)

        return transform(e, rule)


def _terms(op: str, e: Expr) -> Iterator[Expr]:
    match e:
        case Map(other, args) if other == op:
            for a in args:
                yield from _terms(op, a)
        case _:
            yield e
