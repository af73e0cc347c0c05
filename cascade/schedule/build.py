"""One kernel: its tiles, computed on demand from what it has to store.

A tensor that is read becomes a load, a tile computed in place, or a value that a loop carries.
Every node goes to the outermost scope in which all that it reads is known, so that what does not
change in a loop is computed before it. Equal tiles are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cascade.ir.cascade import Cascade
from cascade.ir.expr import FALSE, TRUE, Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.kinds import LEAST, MOST
from cascade.ir.ops import MAPS, REDUCERS
from cascade.ir.walk import conjuncts, free_ranks, symbols, walk
from cascade.schedule.errors import NoSchedule
from cascade.schedule.facts import inlined, is_number
from cascade.schedule.kernels import Draft, Partition
from cascade.schedule.products import added, divisor, factors, product, terms
from cascade.schedule.program import (
    Axis,
    Best,
    Contract,
    Fold,
    GridAxis,
    Let,
    Load,
    Mask,
    Node,
    Pick,
    Place,
    Seq,
    Store,
    lane,
    results,
    tile,
)
from cascade.schedule.program import Carry as Carried
from cascade.schedule.roles import placed
from cascade.schedule.settle import Settled, index_bounds
from cascade.schedule.signs import Signs
from cascade.schedule.truth import conjoin

# Where a running maximum starts: finite, so that no difference is NaN, and above no finite float32.
FLOOR = Const(-3.4028234663852886e38)
COMBINE = {"sum": "+", "prod": "*", "max": "max", "min": "min", "any": "or", "all": "and"}
ABSENT = {"real": Const(0.0), "int": Const(-1), "bool": FALSE}


@dataclass
class Scope:
    """Nodes in the order of their execution, and what they have computed."""

    nodes: list[Node] = field(default_factory=list)
    known: dict[object, Expr] = field(default_factory=dict)


class Builder:
    """Computes tiles for one kernel. Loops are made by `cascade.schedule.loops`."""

    def __init__(self, partition: Partition, draft: Draft, tiles: dict[str, int]):
        self.partition = partition
        self.roles = partition.roles
        self.cascade: Cascade = partition.cascade
        self.draft = draft
        self.tiles = tiles
        self.scopes = [Scope()]
        self.depths: dict[str, int] = {}  # tiles -> scope
        self.counters: dict[
            str, int
        ] = {}  # loop scalars -> scope; an extent may be named as a tile
        self.tile_axes: dict[str, tuple[str, ...]] = {}
        self.places: dict[str, tuple[Place, int]] = {}  # rank -> its place, and the scope of it
        self.axes: dict[str, Expr] = {}
        self.grid: list[GridAxis] = []
        self.names: set[str] = set()
        self.running: dict[str, Callable[[int], Expr]] = {}
        self.finals: dict[str, Expr] = {}
        self.floored: set[str] = set()  # iterative tensors that start at FLOOR
        self.finite: set[str] = set()  # tiles that are never infinite because of that
        self.fixed: dict[str, Expr] = {}  # ranks of which one coordinate is meant here
        self.solving: dict[str, tuple[str, str]] = {}
        self.filters: list[frozenset[Expr]] = []  # of each reduction along the loop
        self.loop_axis: str | None = None
        self.loop_rank: str | None = None
        self.loop_scalar = ""
        self.expressions = {p.expression: p for p in self.cascade.partitions}
        self.reading: set[object] = set()  # what is being computed
        self.pinned = False  # whether tiles of the loop are those of a partition of the spec
        self.whole: dict[str, Expr] = {}  # a rank in an ordered loop over its tiles
        for rank in draft.grid:
            self._on_grid(rank)

    # -- places
    def _on_grid(self, rank: str) -> None:
        extent = self.extent(rank)
        if rank in self.draft.rows:
            size = self.tiles[rank]
            scalar = f"{rank}_tile"
            blocks = Map("//", (Map("+", (extent, Const(size - 1))), Const(size)))
            self.grid.append(GridAxis(scalar, blocks))
            value: Expr = Map("+", (Map("*", (Symbol(scalar), Const(size))), lane(rank)))
            self.axes[rank] = Const(size)
        else:
            scalar = f"{rank}_at"
            self.grid.append(GridAxis(scalar, extent))
            value = Symbol(scalar)
        self.names.add(scalar)
        self.places[rank] = (Place(rank, value, extent), 0)

    def extent(self, rank: str) -> Expr:
        return self.cascade.rank[rank.removeprefix("#").rstrip("'")].extent

    def coordinate(self, rank: str) -> Expr:
        if rank in self.fixed:
            return self.fixed[rank]
        if rank not in self.places:
            if rank.rstrip("'") not in self.roles.widths and rank not in self.roles.widths:
                raise NoSchedule(f"rank `{rank}` is neither on the grid nor in a loop here")
            self.axes[rank] = self.extent(rank)
            self.places[rank] = (Place(rank, lane(rank), self.extent(rank)), 0)
        return Coordinate(rank)

    def axis_of(self, rank: str) -> str | None:
        """The axis along which the lanes of a rank lie; None where it is a single coordinate."""
        if self.loop_axis is not None and rank in self._loop_ranks():
            return self.loop_axis
        if rank in self.fixed:
            return None
        self.coordinate(rank)
        lanes = {r.removeprefix("#") for r in free_ranks(self.places[rank][0].value)}
        return next(iter(lanes), None)

    def _loop_ranks(self) -> frozenset[str]:
        loop = self.draft.loop
        if loop is None:
            return frozenset()
        return frozenset({loop.rank, *loop.inner})

    # -- scopes
    def depth(self, e: Expr) -> int:
        found = 0
        for node in walk(e):
            match node:
                case Read(name, ()):
                    found = max(found, self.depths.get(name, 0))
                case Symbol(name):
                    found = max(found, self.counters.get(name, 0))
                case Coordinate(rank) if rank.startswith("#"):
                    found = max(found, self._depth_of_axis(rank[1:]))
                case Coordinate(rank):
                    if rank in self.places:
                        found = max(found, self.places[rank][1])
        return found

    def axes_in(self, e: Expr) -> tuple[str, ...]:
        """The axes of the value of an expression over tiles."""
        found: dict[str, None] = {}
        for node in walk(e):
            match node:
                case Read(name, ()):
                    found.update(dict.fromkeys(self.tile_axes.get(name, ())))
                case Coordinate(rank) if rank.startswith("#"):
                    found[rank[1:]] = None
                case Coordinate(rank):
                    axis = self.axis_of(rank)
                    if axis is not None:
                        found[axis] = None
        return tuple(found)

    def fresh(self, stem: str) -> str:
        """A new name; a step taken out of a statement is named after the statement."""
        owner, taken_out, rest = stem.partition(".")
        step = self.roles.steps.get(stem)
        if taken_out:
            stem = f"{owner}_{step.op}" if step is not None and step.op else f"{owner}_{rest}"
        stem = stem.replace(".", "_")
        name, n = stem, 2
        while name in self.names:
            name, n = f"{stem}_{n}", n + 1
        self.names.add(name)
        return name

    def recall(self, key: object) -> Expr | None:
        for scope in reversed(self.scopes):
            if key in scope.known:
                return scope.known[key]
        return None

    def put(self, node: Node, depth: int, axes: tuple[str, ...]) -> Expr:
        self.scopes[depth].nodes.append(node)
        for name in results(node):
            self.depths[name] = depth
            self.tile_axes[name] = axes
        return tile(results(node)[0])

    def named(self, stem: str, e: Expr) -> Expr:
        """A tile that holds the value of an expression."""
        if isinstance(e, Const | Symbol | Coordinate) or (isinstance(e, Read) and not e.index):
            return e
        known = self.recall(("let", e))
        if known is not None:
            return known
        depth = self.depth(e)
        result = self.put(Let(self.fresh(stem), e), depth, self.axes_in(e))
        self.scopes[depth].known["let", e] = result
        return result

    # -- values
    def value(self, e: Expr) -> Expr:
        """An expression of the cascade over tiles of the kernel."""
        match e:
            case Const():
                return e
            case Symbol():
                return e
            case Coordinate(rank):
                return self._coordinate(rank)
            case Read():
                return self.read(e)
            case Map(op, args):
                part = self.expressions.get(e)
                if part is not None and part.rank == self.loop_rank:
                    return Coordinate(part.rank)
                if op == "select" and self._guards_only(args[0]) and args[2] == Const(0):
                    return self.value(args[1])
                return Map(op, tuple(self.value(a) for a in args))
            case _:
                raise AssertionError(type(e).__name__)

    def _coordinate(self, rank: str) -> Expr:
        if rank in self.whole and rank not in self.fixed:
            return self.value(self.whole[rank])
        loop = self.draft.loop
        if self.loop_rank is not None and loop is not None and rank in loop.ranks - {loop.rank}:
            return self._part(rank)
        return self.coordinate(rank)

    def _part(self, rank: str) -> Expr:
        """A part of the rank of a loop, whose tiles are then those of the partition."""
        loop = self.draft.loop
        assert loop is not None
        if len(loop.inner) != 1 or not self.pinned:
            raise NoSchedule(f"`{rank}` is read by itself in a loop over tiles of any size")
        if rank != loop.outer:
            return lane(loop.rank)
        return Map("//", (Symbol(self.loop_scalar), self.extent(loop.inner[0])))

    def _guards_only(self, condition: Expr) -> bool:
        """Whether a condition only keeps a running maximum from being infinite."""
        for part in conjuncts(condition):
            match part:
                case Map("<", (Const(a), Read(name, index))) if a == float("-inf"):
                    ok = name in self.floored and self._is_running(name, index)
                case Map("<", (Read(name, index), Const(a))) if a == float("inf"):
                    ok = name in self.floored and self._is_running(name, index)
                case _:
                    ok = False
            if not ok:
                return False
        return True

    def _is_running(self, name: str, index: tuple[Expr, ...]) -> bool:
        return name in self.running and self._slot(name, index) in (0, 1)

    def _slot(self, name: str, index: tuple[Expr, ...]) -> int | None:
        from cascade.schedule.roles import shifted

        step = self.roles.steps[name]
        if step.iterative is None:
            return None
        return shifted(index[step.iterative], step.ranks[step.iterative])

    def read(self, e: Read) -> Expr:
        e = Read(e.tensor, tuple(self.roles.tidy(i) for i in e.index))
        key = (e, tuple(sorted(self.fixed)))
        known = self.recall(key)
        if known is None:
            if key in self.reading:
                raise NoSchedule(f"`{e.tensor}` is read while it is made")
            self.reading.add(key)
            known = self._read(e)
            self.reading.discard(key)
            self.scopes[self.depth(known)].known[key] = known
        return known

    def _read(self, e: Read) -> Expr:
        name = e.tensor
        if name in self.solving:
            return tile(self.solving[name][0])
        if name in self.running and self._is_running(name, e.index):
            return self._at(e, self.running[name](self._slot(name, e.index) or 0))
        if name in self.finals and self.partition.in_place(e, self.draft):
            return self._at(e, self.finals[name])
        step = self.roles.steps.get(name)
        if step is None or self._in_memory(name):
            return self._load(e)
        if self.roles.streams(name):
            slot = self._slot(name, e.index)
            if slot is not None and slot not in (0, 1):
                raise NoSchedule(f"`{name}` is read more than one step back")
            if name in self.running or name in self.draft.members:
                raise NoSchedule(f"`{name}` is needed whole before the loop that makes it has run")
            return self._load(e)
        own = self._own_read(step)
        if own is not None:
            return self._solved(step, own, e)
        if self.fixed and step.op is not None and self._meets_fixed(e):
            if not self._made_of_solution(step):
                return self._picked(e)
        places = dict(zip(step.ranks, e.index, strict=True))
        if step.op is not None:
            return self._reduced(step, places)
        return self.named(name, self.value(placed(step.value, places)))

    def _in_memory(self, name: str) -> bool:
        """Whether a tensor is made by another kernel. What can be computed in place is, unless it
        was given a kernel for being read again and again.
        """
        home = self.partition.of.get(name)
        elsewhere = home is not None and home is not self.draft
        return elsewhere and (self.roles.streams(name) or name in self.partition.own)

    def _at(self, e: Read, result: Expr) -> Expr:
        """A value of a loop, read at other coordinates of the ranks that tiles hold whole."""
        step = self.roles.steps[e.tensor]
        for slot, (rank, i) in enumerate(zip(step.ranks, e.index, strict=True)):
            if slot == step.iterative or i == Coordinate(rank):
                continue
            axis = self.axis_of(rank)
            if axis is None or rank not in self.roles.widths:
                raise NoSchedule(f"`{e.tensor}` is read at another `{rank}` than it is made at")
            result = self._picked_at(e.tensor, result, axis, i)
        return result

    def _picked_at(self, stem: str, value: Expr, axis: str, at: Expr) -> Expr:
        """A tile at a coordinate of one of its axes; at a choice of two, the choice of two reads,
        one of which may be of the tile as it lies.
        """
        match at:
            case Coordinate(rank) if self.axis_of(rank) == axis:
                return value
            case Map("select", (condition, a, b)) if axis in self.axes_in(self.value(at)):
                found = (self._picked_at(stem, value, axis, part) for part in (a, b))
                return Map("select", (self.value(condition), *found))
        return self._pick(stem, value, axis, self.value(at))

    def _pick(self, stem: str, value: Expr, axis: str, at: Expr) -> Expr:
        if axis in self.axes_in(at):
            raise NoSchedule(f"`{stem}` is gathered along a rank that its tile holds")
        key = ("pick", value, axis, at)
        known = self.recall(key)
        if known is None:
            axes = tuple(dict.fromkeys(
                (*(a for a in self.axes_in(value) if a != axis), *self.axes_in(at))
            ))  # fmt: skip
            depth = max(self.depth(value), self.depth(at))
            known = self.put(Pick(self.fresh(stem), value, axis, at), depth, axes)
            self.scopes[depth].known[key] = known
        return known

    def _load(self, e: Read) -> Expr:
        ranks = self.ranks_of(e.tensor)
        home = self.partition.of.get(e.tensor)
        if home is not None and e.tensor in home.ends:
            slot = self.roles.steps[e.tensor].iterative
            assert slot is not None
            ranks = (*ranks[:slot], *ranks[slot + 1 :])
            e = Read(e.tensor, (*e.index[:slot], *e.index[slot + 1 :]))
        index = tuple(self.value(i) for i in e.index)
        present: list[Expr] = []
        for i, source, rank in zip(index, e.index, ranks, strict=True):
            if isinstance(i, Coordinate) and self._same_extent(i.rank, rank):
                continue
            if self._is_slot(e.tensor, rank):
                continue
            present += [self.value(c) for c in index_bounds(self.cascade, source, rank)]
        conditions = tuple(dict.fromkeys(present))
        key = ("load", e.tensor, index, conditions)
        known = self.recall(key)
        if known is None:
            depth = max([0, *(self.depth(x) for x in (*index, *present))])
            axes = tuple(dict.fromkeys(a for x in (*index, *present) for a in self.axes_in(x)))
            node = Load(self.fresh(e.tensor), e.tensor, index, conditions)
            self.scopes[depth].known[key] = known = self.put(node, depth, axes)
        return known

    def ranks_of(self, name: str) -> tuple[str, ...]:
        if name in self.roles.steps:
            return self.roles.steps[name].ranks
        return self.cascade.tensors[name].ranks

    def _is_slot(self, name: str, rank: str) -> bool:
        step = self.roles.steps.get(name)
        return step is not None and step.iterative == (
            step.ranks.index(rank) if rank in step.ranks else -1
        )

    def _same_extent(self, a: str, b: str) -> bool:
        return a == b or self.extent(a) == self.extent(b)

    # -- reductions in a tile
    def _reduced(self, step: Settled, places: dict[str, Expr]) -> Expr:
        assert step.op is not None
        captured = {r for i in places.values() for r in free_ranks(i)} & set(step.bound)
        captured -= {r for r in captured if places.get(r) == Coordinate(r)}
        captured |= self._whole_along(step)
        renamed: dict[str, Expr] = {r: Coordinate(f"{r}'") for r in captured}
        for r in captured:
            self.roles.widths.add(f"{r}'")
        moved = {**places, **renamed}
        bound = tuple(f"{r}'" if r in captured else r for r in step.bound)
        value = placed(step.value, moved)
        filters = tuple(placed(c, moved) for c in step.filters)
        return self.reduced(step, value, filters, bound)

    def _whole_along(self, step: Settled) -> set[str]:
        """The bound ranks of a step that the loop of the kernel runs along, if it holds them whole:
        their lanes are no tile of the loop.
        """
        loop = self.draft.loop
        if loop is None or not {loop.rank, loop.outer} & set(step.bound):
            return set()
        return set(loop.ranks & set(step.bound))

    def reduced(
        self, step: Settled, value: Expr, filters: tuple[Expr, ...], bound: tuple[str, ...]
    ) -> Expr:
        """The reduction of the tile that is here."""
        assert step.op is not None
        axes = tuple(dict.fromkeys(a for r in bound if (a := self.axis_of(r)) is not None))
        conditions = self.conditions(filters, axes)
        if step.op in ("top", "argtop", "argmax"):
            return self._best(step, value, conditions, axes[0], bound[0])
        if step.op == "sum":
            return self._summed(step, value, conditions, axes)
        identity = REDUCERS[step.op].identity
        fill = Const(identity if identity is not None else 0)
        if step.kind == "int" and step.op in ("max", "min"):
            fill = Const(LEAST if step.op == "max" else MOST)
        whole = self._along(self.value(value), axes, fill)
        body = self.masked(step.name, whole, conditions, fill)
        if not axes:
            return body
        return self._folded(step.name, step.op, body, axes)

    def conditions(self, filters: tuple[Expr, ...], axes: tuple[str, ...]) -> tuple[Expr, ...]:
        """Conjuncts over tiles; along the loop, with the end of the rank."""
        found: dict[Expr, None] = {}
        for c in filters:
            for part in conjuncts(self._seen_through(self.value(c))):
                if part != TRUE:
                    found[part] = None
        if self.loop_axis is not None and self.loop_axis in axes:
            assert self.loop_rank is not None
            tail = Map("<", (Coordinate(self.loop_rank), self.extent(self.loop_rank)))
            found[tail] = None
            self.filters.append(frozenset(found))
        return tuple(found)

    def _seen_through(self, e: Expr) -> Expr:
        """A condition without the names that parts of it have: so that it can bound a loop."""
        truths = [
            n
            for scope in self.scopes
            for n in scope.nodes
            if isinstance(n, Let) and isinstance(n.value, Map) and MAPS[n.value.op].gives == "bool"
        ]
        return inlined(e, truths)

    def _along(self, e: Expr, axes: tuple[str, ...], other: Const | None = None) -> Expr:
        """A value that has every axis it is reduced along."""
        have = self.axes_in(e)
        for axis in axes:
            if axis not in have:
                here = Map(">=", (lane(axis), Const(0)))
                kind = TRUE if e == TRUE else None
                e = here if kind is not None else Map("select", (here, e, other or _zero(e)))
                have = (*have, axis)
        return e

    def masked(self, stem: str, e: Expr, conditions: tuple[Expr, ...], fill: Const) -> Expr:
        if not conditions:
            return e
        key = ("mask", e, frozenset(conditions), fill)
        known = self.recall(key)
        if known is None:
            depth = max(self.depth(x) for x in (e, *conditions))
            axes = tuple(dict.fromkeys(a for x in (e, *conditions) for a in self.axes_in(x)))
            node = Mask(self.fresh(f"{stem}_masked"), e, conditions, fill)
            known = self.put(node, depth, axes)
            self.scopes[depth].known[key] = known
        return known

    def _folded(self, stem: str, op: str, e: Expr, axes: tuple[str, ...]) -> Expr:
        key = ("fold", op, e, axes)
        known = self.recall(key)
        if known is None:
            kept = tuple(a for a in self.axes_in(e) if a not in axes)
            depth = max(self.depth(e), *(self._depth_of_axis(a) for a in axes))
            known = self.put(Fold(self.fresh(stem), op, e, axes), depth, kept)
            self.scopes[depth].known[key] = known
        return known

    def _depth_of_axis(self, axis: str) -> int:
        return len(self.scopes) - 1 if axis == self.loop_axis else 0

    def _summed(
        self, step: Settled, value: Expr, conditions: tuple[Expr, ...], axes: tuple[str, ...]
    ) -> Expr:
        """A sum of products: factors that do not vary along the axes stay outside."""
        stem, zero = step.name, Const(0 if step.kind == "int" else 0.0)
        several = self._apart(value, axes)
        if several is not None:
            return self.named(
                stem, added([self._summed(step, t, conditions, axes) for t in several])
            )
        outside: list[Expr] = []
        under: list[Expr] = []  # what the sum is divided by
        within: list[Expr] = []  # as written
        tiles = [(f, self.value(f)) for f in self._factors(value)]
        there = {*axes, *(a for _, t in tiles for a in self.axes_in(t))}
        along = [own for _, t in tiles if (own := set(self.axes_in(t))) & set(axes)]
        for f, t in tiles:
            own = set(self.axes_in(t))
            below = divisor(f)
            t, instead = (t, zero) if below is None else (self.value(below), Const(1.0))
            side = outside if below is None else under
            if own & set(axes):
                within.append(f)
            elif not conditions or self._is_finite_number(t, there):
                side.append(self._if_any(t, axes, instead))
            elif not own or any(own <= a for a in along) or not along:
                within.append(f)
            else:
                side.append(self._if_present(stem, t, conditions, axes, instead))
        inside = [(f, self.named(stem, self.value(f))) for f in self._divided(within)]
        if not axes:
            whole = self.masked(stem, product([*outside, *(t for _, t in inside)]), conditions,
                                zero)  # fmt: skip
            return self.named(stem, self._quotient(whole, under))
        parts = self._filtered(step, inside, conditions, axes)
        if len(parts) > 1:
            result = self._contracted(stem, tuple(parts), axes)
        else:
            result = self._folded(stem, "sum", parts[0], axes)
        if not outside and not under:
            return result
        return self.named(stem, self._quotient(product([*outside, result]), under))

    def _divided(self, parts: list[Expr]) -> list[Expr]:
        """Factors in a sum, one of them divided by each divisor. A divisor whose quotient would
        have more axes than it and every factor remains one, as its reciprocal.
        """
        made = [f for f in parts if divisor(f) is None]
        for f in parts:
            below = divisor(f)
            if below is None:
                continue
            over = [below] if below in made else self._over(made, below)
            first = next((n for n, g in enumerate(made) if g in over), len(made))
            quotient = Map("/", (product(over), below))
            for g in over:
                made.remove(g)
            made.insert(first, quotient)
        return made

    def _over(self, parts: list[Expr], below: Expr) -> list[Expr]:
        """The factors that a divisor is best written under: those with its axes, or else with the
        fewest that include them, or else those whose axes it includes.
        """
        own = set(self.axes_in(self.value(below)))
        axes = {f: set(self.axes_in(self.value(f))) for f in parts if not is_number(f)}
        wide = [f for f in axes if own <= axes[f]]
        if not wide:
            return [f for f in parts if f in axes and axes[f] < own]
        best = min(wide, key=lambda f: len(axes[f]))
        return [f for f in parts if f in axes and axes[f] == axes[best]]

    def _quotient(self, whole: Expr, under: list[Expr]) -> Expr:
        """A sum divided by what does not vary along it. A tile of a loop with more axes than the
        divisor is multiplied by the reciprocal, as that is computed for fewer elements.
        """
        for below in under:
            fewer = set(self.axes_in(below)) < set(self.axes_in(whole))
            if fewer and self.depth(whole) > 0:
                whole = Map("*", (whole, self.named("reciprocal", Map("/", (Const(1.0), below)))))
            else:
                whole = Map("/", (whole, below))
        return whole

    def _apart(self, value: Expr, axes: tuple[str, ...]) -> list[Expr] | None:
        """The terms of a sum of matrices, each of which is a product of others: `q[j,e] * o[j,f] -
        k[j,e] * r[j,f]`. Its tile has more axes than any of theirs, but a sum of contractions makes
        none. None where there is no such sum.
        """
        parts = factors(value)
        sums = [f for f in parts if isinstance(f, Map) and f.op in ("+", "-")]
        if len(sums) != 1:
            return None
        rest = [f for f in parts if f is not sums[0]]
        whole = set(self.axes_in(self.value(sums[0])))
        own = list(terms(sums[0]))
        if len(whole) < 3 or not whole & set(axes):
            return None
        if not all(self._is_outer(t, whole) for t in own):
            return None
        return [product([*rest, t]) for t in own]

    def _is_outer(self, term: Expr, whole: set[str]) -> bool:
        """Whether a term has all these axes, and none of its factors has."""
        own = [set(self.axes_in(self.value(f))) for f in factors(term)]
        return set().union(*own) == whole and not any(a == whole for a in own)

    def _if_present(
        self, stem: str, t: Expr, conditions: tuple[Expr, ...], axes: tuple[str, ...],
        instead: Const,
    ) -> Expr:  # fmt: skip
        """A factor taken out of a sum over the points where conditions hold, 0 where there is none
        (1 under the sum): no point is missed that it could make infinite. Inside, it would give a
        tile more axes.
        """
        point = self._along(conjoin(conditions), axes, FALSE)
        there = self._folded(f"{stem}_any", "any", point, axes)
        return Map("select", (there, t, instead))

    def _factors(self, value: Expr) -> Iterator[Expr]:
        """The factors of a product, and those of factors that are themselves products of what has
        fewer ranks: no tile then holds `N[p,m,e] = Q[p,e] * K[m,e]`.
        """
        for f in factors(value):
            step = self.roles.steps.get(f.tensor) if isinstance(f, Read) else None
            if not isinstance(f, Read) or step is None or not self._is_computed_here(step):
                yield f
                continue
            made = placed(step.value, dict(zip(step.ranks, f.index, strict=True)))
            single = set(self.draft.grid) - set(self.draft.rows)
            whole = set(free_ranks(f)) - single
            if any(whole <= set(free_ranks(part)) for part in factors(made)):
                yield f
            else:
                yield from self._factors(made)

    def _is_computed_here(self, step: Settled) -> bool:
        """Whether a tensor is computed where it is read, point by point."""
        elsewhere = self.roles.streams(step.name) or self._in_memory(step.name)
        return step.op is None and step.recurs is None and not elsewhere

    def _is_finite_number(self, t: Expr, axes: Collection[str]) -> bool:
        """Whether a tile is a finite number of the run where tiles with these axes have elements:
        a sum without a point is 0 then, with it as a factor, too.
        """
        if any(isinstance(n, Read | Coordinate) for n in walk(t)):
            return False
        sizes = [self.extent(a) for a in axes if a.rstrip("'") in self.cascade.rank]
        values = {p.name: p.value for p in self.cascade.params if p.value is not None}
        return Signs(values, extents={s.name for s in sizes if isinstance(s, Symbol)}).finite(t)

    def _if_any(self, t: Expr, axes: tuple[str, ...], instead: Const) -> Expr:
        """A factor taken out of a sum, 0 (1 under the sum) where its extents make the sum empty and
        it infinite.
        """
        named = {s for n in walk(t) if isinstance(n, Symbol) for s in [n.name]}
        for axis in axes:
            extent = self.extent(axis) if axis.rstrip("'") in self.cascade.rank else None
            if isinstance(extent, Symbol) and self._mentions(named, extent.name):
                return Map("select", (Map(">", (extent, Const(0))), t, instead))
        return t

    def _mentions(self, names: set[str], extent: str) -> bool:
        """Whether an extent is among names, or in the definitions of those that are params."""
        params = {p.name: p.value for p in self.cascade.params}
        for name in names:
            value = params.get(name)
            if name == extent:
                return True
            if value is not None and self._mentions(symbols(value) - {name}, extent):
                return True
        return False

    def _filtered(
        self,
        step: Settled,
        inside: list[tuple[Expr, Expr]],
        conditions: tuple[Expr, ...],
        axes: tuple[str, ...],
    ) -> list[Expr]:
        """The factors, one of them 0 where a condition fails."""
        stem = step.name
        if not inside:
            one = self._along(Const(1), axes)
            return [self.masked(stem, one, conditions, Const(0))]
        missing = tuple(a for a in axes if all(a not in self.axes_in(t) for _, t in inside))
        tiles = [t for _, t in inside]
        if missing:
            zero = Const(0) if step.kind == "int" else None
            tiles[0] = self._along(tiles[0], missing, zero)
        if not conditions:
            return tiles
        needed = {a for c in conditions for a in self.axes_in(c)}
        hosts = sorted(
            range(len(tiles)),
            key=lambda n: (len(needed - set(self.axes_in(tiles[n]))), len(self.axes_in(tiles[n]))),
        )
        host = hosts[0]
        if step.kind == "real" and self._selects(tiles, conditions, axes):
            whole = self._along(Const(1.0), tuple(sorted(needed)))
            ones = self.masked(stem, self.named(stem, whole), conditions, Const(0.0))
            return [ones, self._finite(stem, tiles[0], conditions)]
        rows = [n for n, t in enumerate(tiles) if n != host and not self._along_any(t, axes)]
        vanishing = None
        if not missing and not rows:
            vanishing = self._vanishing(stem, inside[host][0], conditions)
        whole = product([tiles[host], *(tiles[n] for n in rows)])
        zero = _zero(whole)
        first = vanishing or self.masked(stem, self.named(stem, whole), conditions, zero)
        others = [n for n in range(len(tiles)) if n != host and n not in rows]
        return [first, *(self._finite(stem, tiles[n], conditions) for n in others)]

    def _selects(
        self, tiles: list[Expr], conditions: tuple[Expr, ...], axes: tuple[str, ...]
    ) -> bool:
        """Whether numbers in memory choose rows of a loaded tile for rows of the result: a product
        of a matrix of zeros and ones with the tile, where a masked tile would have all their axes.
        """
        loaded = {n.name for scope in self.scopes for n in scope.nodes if isinstance(n, Load)}
        if len(tiles) != 1 or not (isinstance(tiles[0], Read) and tiles[0].tensor in loaded):
            return False
        own = set(self.axes_in(tiles[0]))
        needed = {a for c in conditions for a in self.axes_in(c)}
        given = any(isinstance(n, Read) for c in conditions for n in walk(c))
        return given and bool(needed - own and own - needed and own & needed & set(axes))

    def _along_any(self, t: Expr, axes: tuple[str, ...]) -> bool:
        return bool(set(self.axes_in(t)) & set(axes))

    def _finite(self, stem: str, t: Expr, conditions: tuple[Expr, ...]) -> Expr:
        """A factor that cannot be infinite where another is 0 for a condition on its own axes."""
        if self._plain(t):
            return t
        have = set(self.axes_in(t))
        near = tuple(c for c in conditions if set(self.axes_in(c)) <= have)
        return self.masked(stem, t, near, _zero(t))

    def _plain(self, t: Expr) -> bool:
        """Whether a value is made of loaded ones by sums and products: finite wherever they are."""
        definitions = {
            n.name: n for scope in self.scopes for n in scope.nodes if isinstance(n, Let | Load)
        }
        for node in walk(t):
            match node:
                case Map(op) if op not in ("+", "-", "*", "neg", "max", "min", "select"):
                    return False
                case Read(name, ()):
                    made = definitions.get(name)
                    if made is None or (isinstance(made, Let) and not self._plain(made.value)):
                        return False
        return True

    def _vanishing(self, stem: str, f: Expr, conditions: tuple[Expr, ...]) -> Expr | None:
        """`exp(x - r)` is 0 by itself where x is masked with -inf and r is finite."""
        body, name = f, stem
        while isinstance(body, Read):
            step = self.roles.steps.get(body.tensor)
            if step is None or step.op is not None or self.roles.streams(body.tensor):
                return None
            name = body.tensor
            body = placed(step.value, dict(zip(step.ranks, body.index, strict=True)))
        match body:
            case Map("exp", (Map("-", (x, r)),)):
                shift = self.value(r)
                if not self._is_finite(shift):
                    return None
                source = self.value(x)
                have = set(self.axes_in(source))
                near = tuple(c for c in conditions if set(self.axes_in(c)) <= have)
                far = tuple(c for c in conditions if c not in near)
                masked = self.masked(name, source, near, Const(float("-inf")))
                result = self.named(name, Map("exp", (Map("-", (masked, shift)),)))
                return self.masked(stem, result, far, Const(0.0))
        return None

    def _is_finite(self, e: Expr) -> bool:
        return isinstance(e, Read) and e.tensor in self.finite

    def _contracted(self, stem: str, tiles: tuple[Expr, ...], axes: tuple[str, ...]) -> Expr:
        key = ("contract", tiles, axes)
        known = self.recall(key)
        if known is None:
            kept = tuple(dict.fromkeys(a for t in tiles for a in self.axes_in(t) if a not in axes))
            depth = max(self.depth(t) for t in tiles)
            known = self.put(Contract(self.fresh(stem), tiles, axes), depth, kept)
            self.scopes[depth].known[key] = known
        return known

    # -- selections
    def _best(
        self, step: Settled, value: Expr, conditions: tuple[Expr, ...], axis: str, rank: str,
        before: tuple[str, str] | None = None,
    ) -> Expr:  # fmt: skip
        """Values and places of the largest; `argmax` is the place of one."""
        scored = self.value(value)
        target = step.target or f"{step.name}#"
        if step.target is not None:
            if step.target not in self.roles.widths:
                raise NoSchedule(f"`{step.name}` fills rank `{step.target}`, which no tile holds")
            self.coordinate(step.target)
        else:
            self.axes[target] = Const(1)
        key = ("best", scored, conditions, axis, target, before)
        known = self.recall(key)
        if known is None:
            names = (self.fresh(f"{step.name}_value"), self.fresh(f"{step.name}_place"))
            place = self.value(Coordinate(rank))
            node = Best(names, scored, place, conditions, axis, target, before)
            kept = dict.fromkeys(
                a for x in (scored, *conditions) for a in self.axes_in(x) if a != axis
            )
            depth = max(self.depth(x) for x in (scored, place, *conditions))
            self.put(node, depth, (*kept, target))
            self.scopes[depth].known[key] = known = Map("?", (tile(names[0]), tile(names[1])))
        assert isinstance(known, Map)
        if step.op == "argmax":
            return self._pick(step.name, known.args[1], target, Const(0))
        return known.args[0 if step.op == "top" else 1]

    # -- forward substitution
    def _own_read(self, step: Settled) -> Read | None:
        """Where a step that recurs without slots reads itself, maybe inside a reduction."""
        if step.recurs is None or step.iterative is not None or not step.named:
            return None
        if step.recurs not in step.ranks or step.recurs in self.roles.outers:
            return None
        todo, seen = [step], {step.name}
        while todo:
            for r in (n for n in walk(todo.pop().value) if isinstance(n, Read)):
                if r.tensor == step.name:
                    return r
                inner = self.roles.steps.get(r.tensor)
                if inner is not None and inner.recurs == step.recurs and inner.name not in seen:
                    seen.add(inner.name)
                    todo.append(inner)
        return None

    def _made_of_solution(self, step: Settled) -> bool:
        """Whether a step reads what is being solved for."""
        todo, seen = [step], {step.name}
        while todo:
            for r in (n for n in walk(todo.pop().value) if isinstance(n, Read)):
                if r.tensor in self.solving:
                    return True
                inner = self.roles.steps.get(r.tensor)
                if inner is not None and inner.name not in seen and inner.recurs is not None:
                    seen.add(inner.name)
                    todo.append(inner)
        return False

    def _solved(self, step: Settled, own: Read, e: Read) -> Expr:
        """Row after row along the rank that recurs; each row is picked out of the tiles."""
        rank = step.recurs
        assert rank is not None
        slot = step.ranks.index(rank)
        column = own.index[slot]
        if not isinstance(column, Coordinate) or rank not in self.roles.widths:
            raise NoSchedule(f"`{step.name}` solves for rows along `{rank}`, which no tile holds")
        solution = self.recall(("solved", step.name))
        if solution is None:
            solution = self._solve(step, rank, column.rank)
        if e.index[slot] == column:
            return solution
        places = dict(zip(step.ranks, e.index, strict=True))
        with self._given(step.name, solution):
            return self.named(step.name, self.value(placed(step.value, places)))

    @contextmanager
    def _given(self, name: str, solution: Expr) -> Iterator[None]:
        assert isinstance(solution, Read)
        self.solving[name] = (solution.tensor, "")
        try:
            yield
        finally:
            del self.solving[name]

    def _solve(self, step: Settled, rank: str, column: str) -> Expr:
        self.coordinate(rank)
        self.coordinate(column)
        scalar = self.fresh(f"{rank}_row")
        axes = self.axes_for(tuple(column if r == rank else r for r in step.ranks))
        name = self.fresh(step.name)
        depth = len(self.scopes)
        self.scopes.append(Scope())
        self.counters[scalar] = self.depths[name] = depth
        self.tile_axes[name] = axes
        self.fixed[rank] = Symbol(scalar)
        self.solving[step.name] = (name, rank)
        row = self.value(step.value)
        del self.solving[step.name]
        here = Map("==", (Coordinate(column), Symbol(scalar)))
        following = self.named(f"{step.name}_next", Map("select", (here, row, tile(name))))
        del self.fixed[rank]
        scope = self.scopes.pop()
        assert isinstance(following, Read)
        zero = FALSE if step.kind == "bool" else Const(0.0 if step.kind == "real" else 0)
        carry = Carried(name, zero, axes, following.tensor, step.kind)
        node = Seq(scalar, self.extent(rank), (), (carry,), tuple(scope.nodes))
        solution = self.put(node, depth - 1, axes)
        self.scopes[depth - 1].known["solved", step.name] = solution
        return solution

    def _meets_fixed(self, e: Read) -> bool:
        return any(r in self.fixed for r in free_ranks(e))

    def _picked(self, e: Read) -> Expr:
        """A reduction at a fixed coordinate, picked from the tile that has them all."""
        fixed, self.fixed = self.fixed, {}
        try:
            whole = self.read(e)
        finally:
            self.fixed = fixed
        for rank, at in fixed.items():
            axis = self.axis_of_lanes(rank)
            if axis in self.axes_in(whole):
                whole = self._pick(e.tensor, whole, axis, at)
        return whole

    def axis_of_lanes(self, rank: str) -> str:
        return next(iter(free_ranks(self.places[rank][0].value))).removeprefix("#")

    # -- stores
    def axes_for(self, ranks: tuple[str, ...]) -> tuple[str, ...]:
        """The axes of a tile that has a value for each of its ranks here."""
        return tuple(dict.fromkeys(a for r in ranks if (a := self.axis_of(r)) is not None))

    def store(self, step: Settled, value: Expr, index: tuple[Expr, ...] | None = None) -> None:
        """Write a tensor; 0, -1 or false where it is absent."""
        places = self.partition.place_in(self.draft, step.ranks) if self.whole else {}
        parts = tuple(self.value(self.roles.tidy(placed(c, places))) for c in step.present)
        there = conjoin(parts)
        if there != TRUE:
            value = Map("select", (there, value, ABSENT[step.kind]))
        value = self.named(step.name, value)
        if index is None:
            index = tuple(self.value(placed(Coordinate(r), places)) for r in step.ranks)
        inside: list[Expr] = []
        for i, rank in zip(index, step.ranks, strict=True):
            if isinstance(i, Coordinate):
                continue
            if rank in self.whole:
                inside.append(Map("<", (i, self.extent(rank))))
            elif rank in places:
                inside.append(Map("<=", (Const(0), i)))
        self.scopes[-1].nodes.append(Store(step.name, index, value, tuple(inside)))

    def kernel_axes(self) -> tuple[Axis, ...]:
        """Rows first, then the loop and the places of chunks, then the widths in the order of the
        ranks: tiles lie as tensors do, and are equal where only the names of their lanes differ.
        """
        order = {r.name: n for n, r in enumerate(self.cascade.ranks)}
        parts = {self.extent(r) for p in self.cascade.partitions for r in p.parts[1:]}
        chunks = [r for r in self.axes if self.axes[r] in parts]
        rows = [r for r in self.axes if r in self.draft.rows]
        if chunks:  # columns of a tile, which has other rows
            rows = [r for r in rows if not self.partition.is_vector(r)]
        streams = [r for r in self.axes if self.draft.loop and r == self.draft.loop.rank]
        rest = [r for r in self.axes if r not in rows and r not in streams]
        rest.sort(key=lambda r: (r not in chunks, order.get(r.rstrip("'"), len(order))))
        return tuple(Axis(r, self.axes[r]) for r in (*rows, *streams, *rest))


def _zero(e: Expr) -> Const:
    if isinstance(e, Const) and isinstance(e.value, int) and not isinstance(e.value, bool):
        return Const(0)
    return Const(0.0)
