"""Conditions on values as lists of tiles: which tiles of a loop have a point, found before it runs.

Whether the document of a key is that of a query, or a key is none at all (padding), is known only
when the key is loaded. A tile of keys in which no query of a tile of rows has one costs as much as
any other then. But documents, marks of padding and lists of blocks are small beside keys and
values, and the same for all heads. So a kernel of its own goes over them first: for each tile of
rows it lists, in order, the tiles of the rank in which the conditions can hold, and apart from
them those in which they hold everywhere. The loop then runs over the two lists.

What is asked of a tile is in `cascade.schedule.reach`: it is decided by the least and the largest
value in it. The bounds of a loop (`cascade.schedule.bounds`) are reduced over the rows as for a
loop without a list, so a causal mask bounds what the first kernel looks at as well.

    kernel O_m_tiles for each b_at < B, p_tile < (P + 63) // 64
        for m_step = 0 .. , in order:          16 tiles at a time
            ...
            store m_full_tiles[b_at,p_tile,m_full_at] = m_tile where m_full
            store m_some_tiles[b_at,p_tile,m_some_at] = m_tile where m_some
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce

from cascade.ir.cascade import Cascade
from cascade.ir.expr import FALSE, TRUE, Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.names import fresh
from cascade.ir.walk import reads, symbols, walk
from cascade.schedule.bounds import Interval, solve
from cascade.schedule.facts import Axes, axes_of, made_in, real_values, tile_axes, tile_kinds
from cascade.schedule.program import (
    Axis,
    Buffer,
    Carry,
    Contract,
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
    lane,
    results,
    tile,
)
from cascade.schedule.prune import expressions
from cascade.schedule.reach import Reach, Truth
from cascade.schedule.sizes import Sizes
from cascade.schedule.truth import conjoin, disjoin, negate

FEW = 4  # tiles of a loop that is done before a list of them would be
BLOCK = 16  # tiles that the first kernel looks at in one step
FAR = Const(2**31 - 1)  # past every coordinate

Simple = Let | Load | Mask | Fold | Pick


def with_lists(program: Program, sizes: Sizes) -> Program:
    """The program with a list for each loop that has conditions on values, where it pays."""
    names = _names(program)
    kernels: list[Kernel] = []
    buffers: list[Buffer] = []
    for kernel in program.kernels:
        for loop in [n for n in kernel.body if isinstance(n, For) and n.values]:
            if not _pays(kernel, loop, sizes):
                continue
            listers = (_Lister(program, kernel, loop, sizes, names, n) for n in (BLOCK, 1))
            made = next((found for x in listers if (found := x.made()) is not None), None)
            if made is not None:
                kernels.append(made.kernel)
                buffers += made.buffers
                body = tuple(made.loop if n is loop else n for n in kernel.body)
                kernel = replace(kernel, body=body)
        kernels.append(kernel)
    return replace(program, buffers=(*program.buffers, *buffers), kernels=tuple(kernels))


def few_tiles(
    cascade: Cascade, extents: Mapping[str, int], tiles: Mapping[str, int], usual: int
) -> tuple[bool, ...]:
    """What `with_lists` asks of extents: lengths at which this is equal can share a program.
    Nothing is asked where no input holds integers or truth values.
    """
    counted = [t for t in cascade.inputs if t.dtype and t.dtype[0] in "iub" and t.dtype != "bf16"]
    ranks = dict.fromkeys(r for t in counted for r in t.ranks)
    return tuple(extents[r] < FEW * tiles.get(r, usual) for r in ranks if r in extents)


def _pays(kernel: Kernel, loop: For, sizes: Sizes) -> bool:
    """Whether a loop is long, as far as that is known, and does more at a point than to test it:
    there is a product of tiles.
    """
    length = sizes.extents.get(loop.place.rank)
    if length is not None and -(-length // loop.part) < FEW:
        return False
    axes = tile_axes(kernel)
    products = (n for n in loop.body if isinstance(n, Contract))
    return any(len(axes[n.name] | set(n.axes)) > 2 for n in products)


def _names(program: Program) -> set[str]:
    """Every name of a tensor, a number or a rank, and of a kernel."""
    found = {b.name for b in program.buffers} | {k.name for k in program.kernels}
    found |= {r for b in program.buffers for r in b.ranks} | {n for n, _ in program.values}
    return found | {s for b in program.buffers for e in b.shape for s in symbols(e)}


@dataclass(frozen=True)
class _Made:
    """A loop over lists, the kernel that makes them, and their memory."""

    loop: For
    kernel: Kernel
    buffers: tuple[Buffer, ...]


@dataclass
class _Level:
    """Nodes of one body: those of the kernel of the loop that are needed, and new ones."""

    given: tuple[Node, ...]
    needed: set[str] = field(default_factory=set)
    new: list[Node] = field(default_factory=list)

    @property
    def nodes(self) -> tuple[Node, ...]:
        kept = (n for n in self.given if set(results(n)) & self.needed)
        return (*kept, *self.new)


class _Lister:
    """Makes the list of one loop. `tiles` are looked at in a step; if it is one, what is loaded for
    each point of a tile can be looked at point by point.
    """

    def __init__(
        self, program: Program, kernel: Kernel, loop: For, sizes: Sizes, names: set[str], tiles: int
    ):
        self.kernel, self.loop, self.names = kernel, loop, names
        self.size, self.tiles = loop.part, tiles
        self.kinds = tile_kinds(program, kernel)
        self.real = real_values(program.values)
        self.inputs = {b.name for b in program.buffers if b.kind == "in"}
        self.positive = _positive(program, sizes)
        self.tile_axes = tile_axes(kernel)
        before = kernel.body[: kernel.body.index(loop)]
        self.outer, self.inner = _Level(before), _Level(loop.body)
        self.makers = {n: x for x in (*before, *loop.body) for n in results(x)}
        self.in_loop = made_in(loop)
        self.places = {p.rank: p for p in (*kernel.places, loop.place)}
        self.taken = set(self.tile_axes) | {g.scalar for g in kernel.grid} | names
        self.folds: dict[tuple[str, Expr], Expr] = {}
        rank = loop.place.rank
        self.step = fresh(f"{rank}_step", self.taken)
        self.tile_rank = fresh(f"{rank}_tile", self.taken)
        self.block, self.other = fresh("block", self.taken), fresh("block_before", self.taken)

    # -- the parts of it
    def made(self) -> _Made | None:
        """None where nothing of the conditions can be said before the loop runs."""
        found = self._intervals()
        if not found or not all(self._is_known(e) for i in found for e in _bounds(i)):
            return None
        start = self._put("start", Map("*", (Coordinate(self.tile_rank), Const(self.size))))
        end = self._put("end", Map("+", (start, Const(self.size))))
        reach = self._reach(start, end)
        parts = [self._part(i, [reach.truth(c) for c in i.residual]) for i in found]
        if all(p.can == TRUE for p in parts):
            return None
        stop = reduce(lambda a, b: Map("max", (a, b)), (p.last for p in parts))
        can = self._put("can", disjoin([p.can_hold(start, end) for p in parts]))
        must = self._put("must", disjoin([p.must_hold(start, end) for p in parts]))
        lists: list[tuple[str, Expr]] = []
        if must != FALSE:
            full = self._put("full", conjoin((can, must)))
            lists.append(("full", full))
            can = conjoin((can, negate(full)))
        lists.append(("some", self._put("some", can)))
        return self._finished(lists, stop)

    def _intervals(self) -> tuple[Interval, ...]:
        loop = self.loop
        place = loop.place
        real = self.real | {n for n, k in self.kinds.items() if k == "real"}
        conditions = (*loop.predicate, *loop.values)
        return solve(conditions, place.rank, place.extent, self._is_before, self.positive, real)

    def _is_before(self, e: Expr) -> bool:
        """Whether a value is there before the loop."""
        return not any(
            (isinstance(n, Read) and n.tensor in self.in_loop)
            or n == lane(self.loop.axis)
            or n == Symbol(self.loop.scalar)
            for n in walk(e)
        )

    def _is_known(self, e: Expr) -> bool:
        """Whether another kernel can compute a value as this one does."""
        for n in walk(e):
            if n == lane(self.loop.axis) or n == Symbol(self.loop.scalar):
                return False
            if isinstance(n, Read):
                node = self.makers.get(n.tensor)
                if not isinstance(node, Simple):
                    return False
                if isinstance(node, Fold | Pick) and n.tensor in self.in_loop:
                    return False
                if isinstance(node, Load) and node.tensor not in self.inputs:
                    return False  # so that what is visited follows from the arguments
                if not all(self._is_known(x) for x in expressions(node)):
                    return False
        return True

    def _reach(self, start: Expr, end: Expr) -> Reach:
        extent = self.loop.place.extent
        last = self._put("last", Map("-", (Map("min", (end, extent)), Const(1))))
        return Reach(
            self.loop.place.rank,
            {a.name for a in self.kernel.axes} - {self.loop.axis},
            self.loop.axis,
            (start, last),
            self._axes,
            self._fold,
            self.makers,
            self.kinds,
            self.real,
            self._is_known,
            self.tiles == 1,
        )

    def _part(self, i: Interval, residual: list[Truth]) -> _Part:
        """An interval for all rows, with bounds as `cascade.schedule.segments` has them."""
        low = self._put("low", _joined("max", i.low))
        high = self._put("high", _joined("min", i.high))
        some = self._put("rows", conjoin((Map("<", (low, high)), *i.row)))
        full = high
        if i.row:
            full = self._masked("high", high, i.row, Const(0))
        return _Part(
            self._over_rows("min", self._masked("low", low, (some,), FAR)),
            self._over_rows("max", self._masked("high", high, (some,), Const(0))),
            self._over_rows("max", low),
            self._over_rows("min", full),
            conjoin(tuple(can for can, _ in residual)),
            conjoin(tuple(must for _, must in residual)),
        )

    # -- nodes
    def _axes(self, e: Expr) -> Axes:
        return axes_of(e, self.places, self.tile_axes)

    def _level(self, e: Expr) -> _Level:
        ours = {self.tile_rank, self.loop.place.rank}
        made = {n for node in self.inner.new for n in results(node)} | self.in_loop
        within = (
            (isinstance(n, Read) and n.tensor in made)
            or (isinstance(n, Coordinate) and n.rank in ours)
            for n in walk(e)
        )
        return self.inner if any(within) else self.outer

    def _need(self, e: Expr) -> None:
        """What a value is made of, as the kernel of the loop makes it."""
        for r in reads(e):
            node = self.makers.get(r.tensor)
            if node is None:
                continue
            level = self.inner if r.tensor in self.in_loop else self.outer
            if r.tensor not in level.needed:
                level.needed.add(r.tensor)
                for x in expressions(node):
                    self._need(x)

    def _add(self, node: Simple, axes: Axes) -> Expr:
        parts = list(expressions(node))
        for e in parts:
            self._need(e)
        level = self.inner if any(self._level(e) is self.inner for e in parts) else self.outer
        level.new.append(node)
        self.tile_axes[node.name] = axes
        return tile(node.name)

    def _put(self, stem: str, e: Expr) -> Expr:
        """A name for a value."""
        if isinstance(e, Const | Read):
            self._need(e)
            return e
        name = fresh(f"{self.loop.place.rank}_{stem}", self.taken)
        places = {**self.places, self.tile_rank: self._tile_place()}
        return self._add(Let(name, e), axes_of(e, places, self.tile_axes))

    def _masked(self, stem: str, e: Expr, conditions: tuple[Expr, ...], fill: Const) -> Expr:
        name = fresh(f"{self.loop.place.rank}_{stem}", self.taken)
        axes = frozenset().union(*(self._axes(x) for x in (e, *conditions)))
        return self._add(Mask(name, e, conditions, fill), axes)

    def _over_rows(self, op: str, e: Expr) -> Expr:
        axes = self._axes(e)
        return self._fold(op, e, axes) if axes else e

    def _fold(self, op: str, e: Expr, axes: Axes) -> Expr:
        if (op, e) not in self.folds:
            names = tuple(a.name for a in self.kernel.axes if a.name in axes)
            stem = next((r.tensor for r in reads(e)), self.loop.place.rank)
            name = fresh(f"{stem}_{op}", self.taken)
            left = frozenset({self.block} if self.loop.axis in axes else ())
            self.folds[op, e] = self._add(Fold(name, op, e, names), left)
        return self.folds[op, e]

    def _tile_place(self) -> Place:
        at = Map("+", (Map("*", (Symbol(self.step), Const(self.tiles))), lane(self.block)))
        return Place(self.tile_rank, at, _quotient(self.loop.place.extent, self.size))

    def _column_place(self) -> Place:
        """The columns of a tile: past the end of the rank the last of them again, which changes no
        extreme.
        """
        at = self._tile_place().value
        extent = self.loop.place.extent
        here = Map("+", (Map("*", (at, Const(self.size))), lane(self.loop.axis)))
        last = Map("-", (extent, Const(1)))
        return Place(self.loop.place.rank, Map("min", (here, last)), extent)

    # -- the kernel
    def _finished(self, lists: list[tuple[str, Expr]], stop: Expr) -> _Made:
        rank = self.loop.place.rank
        stop = self._put("stop", Map("min", (stop, self.loop.place.extent)))
        shown = [e for n in (*self.outer.nodes, *self.inner.nodes) for e in expressions(n)]
        places = tuple(self._needed_places(shown))
        scalars = {s for e in shown for s in symbols(e)}
        scalars |= {s for p in places for s in symbols(p.value)}
        grid = tuple(g for g in self.kernel.grid if g.scalar in scalars)
        index: tuple[Expr, ...] = tuple(Symbol(g.scalar) for g in grid)
        carries, body, after = [], list(self.inner.nodes), []
        buffers: list[Buffer] = []
        found: dict[str, TileList] = {}
        along = tuple(g.scalar.removesuffix("_at") for g in grid)
        shape = tuple(g.count for g in grid)
        for kind, listed in lists:
            number = fresh(f"{rank}_{kind}_number", self.names)
            tiles = fresh(f"{rank}_{kind}_tiles", self.names)
            found[kind] = TileList(number, tiles, index)
            carry, nodes = self._compacted(kind, listed, found[kind])
            carries.append(carry)
            body += nodes
            after.append(Store(number, index, tile(carry.name)))
            whole = (*shape, self._tile_place().extent)
            buffers.append(Buffer(tiles, (*along, self.tile_rank), whole, "int", "temp"))
            buffers.append(Buffer(number, along, shape, "int", "temp"))
        blocks = _quotient(stop, self.size * self.tiles)
        own = (self._tile_place(), self._column_place())
        over = Seq(self.step, blocks, own, tuple(carries), tuple(body))
        before = Place(self.other, lane(self.other), Const(self.tiles))
        kernel = Kernel(
            fresh(f"{self.kernel.name}_{rank}_tiles", self.names),
            grid,
            tuple(self._needed_axes(shown, places)),
            (*places, before),
            (*self.outer.nodes, over, *after),
        )
        conditions = tuple(dict.fromkeys((*self.loop.predicate, *self.loop.values)))
        loop = replace(
            self.loop, tile=self.size, predicate=conditions, values=(), some=found["some"],
            full=found.get("full"),
        )  # fmt: skip
        return _Made(loop, kernel, tuple(buffers))

    def _compacted(self, kind: str, listed: Expr, into: TileList) -> tuple[Carry, list[Node]]:
        """The tiles of a block that are listed, each stored after those before it."""
        stem = f"{self.loop.place.rank}_{kind}"
        count, one, other, before, at, here, after = (
            fresh(f"{stem}_{part}", self.taken)
            for part in ("count", "one", "other", "before", "at", "here", "next")
        )
        earlier = Map("<", (lane(self.other), lane(self.block)))
        nodes: list[Node] = [
            Let(one, Map("select", (listed, Const(1), Const(0)))),
            Pick(other, tile(one), self.block, Coordinate(self.other)),
            Fold(before, "sum", Map("select", (earlier, tile(other), Const(0))), (self.other,)),
            Let(at, Map("+", (tile(count), tile(before)))),
            Store(into.tiles, (*into.index, tile(at)), Coordinate(self.tile_rank), (listed,)),
            Fold(here, "sum", tile(one), (self.block,)),
            Let(after, Map("+", (tile(count), tile(here)))),
        ]
        return Carry(count, Const(0), (), after, "int"), nodes

    def _needed_places(self, shown: list[Expr]) -> Iterator[Place]:
        """The places of coordinates that are read, and those that end their lanes."""
        ranks = {n.rank for e in shown for n in walk(e) if isinstance(n, Coordinate)}
        read = [p for p in self.kernel.places if p.rank in ranks]
        scalars = {s for e in (*shown, *(p.value for p in read)) for s in symbols(e)}
        known = scalars | (_scalars(self.kernel.places) - {g.scalar for g in self.kernel.grid})
        lanes = {a for p in read for a in _lanes([p.value])}
        for p in self.kernel.places:
            own = set(_lanes([p.value]))
            if p in read or (own and own <= lanes and symbols(p.value) <= known):
                yield p

    def _needed_axes(self, shown: list[Expr], places: Iterable[Place]) -> Iterator[Axis]:
        lanes = set(_lanes([*shown, *(p.value for p in places)]))
        yield from (a for a in self.kernel.axes if a.name in lanes and a.name != self.loop.axis)
        yield from (Axis(name, Const(self.tiles)) for name in (self.block, self.other))
        yield Axis(self.loop.axis, Const(self.size))


@dataclass(frozen=True)
class _Part:
    """Of an interval: where some row is in it, where every row is, and whether what is residual can
    hold in a tile, and must.
    """

    first: Expr
    last: Expr
    full_first: Expr
    full_last: Expr
    can: Expr
    must: Expr

    def can_hold(self, start: Expr, end: Expr) -> Expr:
        """Whether a tile can have a point."""
        meets = (Map("<", (self.first, end)), Map("<", (start, self.last)))
        return conjoin((*meets, self.can))

    def must_hold(self, start: Expr, end: Expr) -> Expr:
        """Whether every point of a tile counts."""
        within = (Map("<=", (self.full_first, start)), Map("<=", (end, self.full_last)))
        return conjoin((*within, self.must))


def _bounds(i: Interval) -> tuple[Expr, ...]:
    return (*i.low, *i.high, *i.row)


def _joined(op: str, parts: tuple[Expr, ...]) -> Expr:
    return reduce(lambda a, b: Map(op, (a, b)), parts)


def _quotient(a: Expr, b: int) -> Expr:
    """Rounded up."""
    return Map("//", (Map("+", (a, Const(b - 1))), Const(b)))


def _lanes(found: Iterable[Expr]) -> Iterator[str]:
    for e in found:
        for n in walk(e):
            if isinstance(n, Coordinate) and n.rank.startswith("#"):
                yield n.rank[1:]


def _scalars(places: Iterable[Place]) -> set[str]:
    return {s for p in places for s in symbols(p.value)}


def _positive(program: Program, sizes: Sizes) -> frozenset[str]:
    """Extents of tensors, and numbers that are known to be 1 or more."""
    shapes = {s for b in program.buffers for e in b.shape for s in symbols(e)}
    defined = dict(program.values)
    known = {n for n, e in defined.items() if isinstance(e, Const) and _is_positive(e.value)}
    known |= {n for n, v in sizes.extents.items() if _is_positive(v)}
    return frozenset(known | (shapes - set(defined)))


def _is_positive(value: object) -> bool:
    return type(value) is int and value >= 1
