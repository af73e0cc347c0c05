"""The loops of a kernel: one for each pass over its rank, in the order of what they need.

A reduction whose body reads the *end* of another belongs to a later loop. Within a loop, values
run from tile to tile: plain reductions combine with what came before, iterative tensors are
updated. A loop whose values may be merged in any order visits only tiles that count.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.kinds import LEAST, MOST
from cascade.ir.ops import REDUCERS
from cascade.ir.walk import symbols, walk
from cascade.schedule.bounds import solve
from cascade.schedule.build import ABSENT, COMBINE, FLOOR, Builder, Scope
from cascade.schedule.errors import NoSchedule
from cascade.schedule.program import Carry, For, Kernel, Let, Place, Seq, Store, lane, tile
from cascade.schedule.program import Const as Number
from cascade.schedule.prune import pruned
from cascade.schedule.roles import parts_of, placed, shifted
from cascade.schedule.settle import Settled, presence_name
from cascade.schedule.truth import conjoin, disjoin, negate
from cascade.schedule.weights import total_weight

INFINITE = Const(float("-inf"))


def build(builder: Builder, name: str, size: int, part: int) -> Kernel:
    """The kernel of a draft; tiles of its loop have `size` coordinates, partial ones `part`."""
    levels = _levels(builder)
    draft = builder.draft
    for level in range(1, max(levels.values(), default=0) + 1):
        members = [n for n in draft.members if levels[n] == level]
        stores = [n for n in draft.stores if _along_loop(builder, n) and levels[n] == level]
        if members or stores:
            _Pass(builder, members, stores, size, part).emit()
    for n in draft.stores:
        if n in draft.members:
            builder.store(builder.roles.steps[n], builder.finals[n])
        elif not _along_loop(builder, n):
            s = builder.roles.steps[n]
            builder.store(s, builder.read(Read(n, tuple(Coordinate(r) for r in s.ranks))))
    for n in draft.ends:
        s = builder.roles.steps[n]
        ranks = tuple(r for slot, r in enumerate(s.ranks) if slot != s.iterative)
        index = tuple(builder.value(Coordinate(r)) for r in ranks)
        builder.scopes[0].nodes.append(Store(n, index, builder.finals[n]))
    places = tuple(p for p, depth in builder.places.values() if depth == 0)
    nodes = pruned(tuple(builder.scopes[0].nodes))
    return Kernel(name, tuple(builder.grid), builder.kernel_axes(), places, nodes)


def _along_loop(builder: Builder, name: str) -> bool:
    loop = builder.draft.loop
    if loop is None or name in builder.draft.members:
        return False
    ranks = builder.roles.steps[name].ranks
    return bool(set(ranks) & loop.ranks or builder.partition.place_in(builder.draft, ranks))


def _levels(builder: Builder) -> dict[str, int]:
    """The loop in which each result is made, counted from 1."""
    draft, roles = builder.draft, builder.roles
    names = [*draft.members, *(n for n in draft.stores if _along_loop(builder, n))]
    levels = dict.fromkeys(names, 1)
    changed, rounds = True, 0
    while changed:
        changed, rounds = False, rounds + 1
        if rounds > len(names) + 2:
            raise NoSchedule("results of a loop wait for each other's ends")
        for n in names:
            s = roles.steps[n]
            places = builder.partition.place_in(draft, s.ranks) if n in draft.stores else {}
            needed: set[Read] = set()
            for e in parts_of(s):
                needed |= roles.requires(builder.roles.tidy(placed(e, places)))
            for r in needed:
                if r.tensor not in draft.members or r.tensor == n:
                    continue
                runs = _runs(builder, r)
                level = levels[r.tensor] + (0 if runs else 1)
                if level > levels[n]:
                    levels[n], changed = level, True
                elif runs and level < levels[n]:  # a later loop would only find its end
                    levels[r.tensor], changed = levels[n], True
    return levels


def _runs(builder: Builder, r: Read) -> bool:
    """Whether a read is of the value at this step or the next, not of the end."""
    s = builder.roles.steps[r.tensor]
    if s.iterative is None:
        return False
    return shifted(r.index[s.iterative], s.ranks[s.iterative]) in (0, 1)


class _Pass:
    """One loop, with the results that it makes and the tensors that it writes as it runs."""

    def __init__(
        self, builder: Builder, members: list[str], stores: list[str], size: int, part: int
    ):
        self.builder = builder
        self.members = [builder.roles.steps[n] for n in members]
        self.stores = [builder.roles.steps[n] for n in stores]
        self.size, self.part = size, part
        loop = builder.draft.loop
        assert loop is not None
        self.loop = loop
        self.depth = len(builder.scopes)
        self.names: dict[str, str] = {}
        self.following: dict[str, Expr] = {}
        self.inits: dict[str, Expr] = {}
        self.best: dict[tuple[str | Expr | None, ...], tuple[str, str, str]] = {}
        self.targets: dict[str, str] = {}  # the axes along which selections are filled
        self.carries: list[Carry] = []

    @property
    def ordered(self) -> bool:
        return self.loop.ordered

    def emit(self) -> None:
        b = self.builder
        for s in self.members:
            self.inits[s.name] = self._init(s)
        self.scalar = b.fresh(f"{self.loop.outer or self.loop.rank}_at")
        b.scopes.append(Scope())
        b.counters[self.scalar] = self.depth
        self._enter()
        for s in self.members:
            self._carry(s)
        for s in self.members:
            self._advance(s)
        for s in self.stores:
            value = self._at_rows(s)
            b.store(s, value)
        for s in self.members:
            if s.name in b.draft.histories:
                self._history(s)
        self._leave()

    # -- the loop itself
    def _enter(self) -> None:
        b, loop = self.builder, self.loop
        if not self.ordered:
            start = Map("+", (Symbol(self.scalar), lane(loop.rank)))
            place = Place(loop.rank, start, b.extent(loop.rank))
            b.places[loop.rank] = (place, self.depth)
            b.axes[loop.rank] = Const(self.size)
            b.loop_axis, b.loop_rank, b.loop_scalar = loop.rank, loop.rank, self.scalar
            b.filters = []
            return
        outer = loop.outer or loop.rank
        b.places[outer] = (Place(outer, Symbol(self.scalar), b.extent(outer)), self.depth)
        if loop.inner:
            p = next(p for p in b.cascade.partitions if p.rank == loop.rank)
            b.whole = {loop.rank: p.expression}

    def _leave(self) -> None:
        b, loop = self.builder, self.loop
        carries = []
        for s in self.members:
            following = self.following.get(s.name)
            if following is None:
                continue
            name = self.names[s.name]
            new = b.named(f"{s.name}_next", following)
            if not isinstance(new, Read):
                new = b.put(Let(b.fresh(f"{s.name}_next"), new), self.depth, b.axes_in(new))
            assert isinstance(new, Read)
            carries.append(Carry(name, self.inits[s.name], b.tile_axes[name], new.tensor, s.kind))
        carries = [*self.carries, *carries]
        rank = loop.rank if not self.ordered else (loop.outer or loop.rank)
        place, _ = b.places[rank]
        predicate, values = self._predicate(), self._values()
        scope = b.scopes.pop()
        del b.places[rank]
        b.loop_axis = b.loop_rank = None
        b.whole = {}
        nodes = tuple(scope.nodes)
        if self.ordered:
            node: For | Seq = Seq(self.scalar, b.extent(rank), (place,), tuple(carries), nodes)
        else:
            node = For(
                self.scalar, place, loop.rank, self.size, self.part, predicate, tuple(carries),
                nodes, values,
            )  # fmt: skip
        b.scopes[self.depth - 1].nodes.append(node)
        for c in carries:
            b.depths[c.name] = self.depth - 1
        for s in self.members:
            b.running.pop(s.name, None)
            b.finite.discard(self.names.get(s.name, ""))
            b.finals[s.name] = self._end(s, node)

    def _predicate(self) -> tuple[Expr, ...]:
        """Conditions of every reduction along the loop: a tile without a point is left out."""
        if self.ordered:
            return ()
        weak = (weakened(c, self._known) for c in self._shared())
        return (self._tail(), *(c for c in weak if self._bounds(c)))

    def _values(self) -> tuple[Expr, ...]:
        """Conditions of every reduction along the loop on what a tile holds."""
        b = self.builder
        within = {self.loop.rank, *b.draft.rows}
        unknown = (c for c in self._shared() if not self._known(c))
        return tuple(c for c in unknown if set(b.axes_in(c)) <= within)

    def _tail(self) -> Expr:
        return Map("<", (Coordinate(self.loop.rank), self.builder.extent(self.loop.rank)))

    def _shared(self) -> list[Expr]:
        """What every reduction along a loop in any order asks of a point that exists."""
        b = self.builder
        if self.ordered or self.stores or b.pinned or not b.filters:
            return []
        shared = frozenset.intersection(*b.filters)
        return [c for c in _in_order(b.filters[0]) if c in shared and c != self._tail()]

    def _known(self, e: Expr) -> bool:
        """Whether an expression has its value before a tile is loaded."""
        depths = self.builder.depths
        return all(depths.get(r.tensor, 0) < self.depth for r in walk(e) if isinstance(r, Read))

    def _bounds(self, condition: Expr) -> bool:
        """Whether a condition says something about the rank before a tile is loaded."""
        b = self.builder
        if not set(b.axes_in(condition)) <= {self.loop.rank, *b.draft.rows}:
            return False
        rank = self.loop.rank
        numbers = frozenset(symbols(condition))  # whether a divisor is positive is known in a run
        found = solve((condition,), rank, b.extent(rank), self._known, numbers)
        plain = solve((), rank, b.extent(rank), self._known)
        empty = plain[0] if plain else None
        return any(
            i.row or empty is None or i.low != empty.low or i.high != empty.high for i in found
        )

    # -- values that run
    def _init(self, s: Settled) -> Expr:
        b = self.builder
        if s.iterative is not None:
            start = s.start if s.start is not None else Const(0.0)
            if not self.ordered and start == INFINITE and self._is_running_max(s):
                b.floored.add(s.name)
                return FLOOR
            return _real(b.value(start), s)
        assert s.op is not None
        if s.op in ("top", "argtop", "argmax"):
            return Const(0)
        identity = REDUCERS[s.op].identity
        return _real(Const(identity if identity is not None else 0), s)

    def _is_running_max(self, s: Settled) -> bool:
        match s.value:
            case Map("max", (Read(name, _), Read(_, _))):
                return name == s.name
            case _:
                return False

    def _carry(self, s: Settled) -> None:
        b = self.builder
        if s.op in ("top", "argtop", "argmax"):
            return
        loop_ranks = self.loop.ranks if s.iterative is None else {s.ranks[s.iterative]}
        axes = b.axes_for(tuple(r for r in s.ranks if r not in loop_ranks))
        name = b.fresh(s.name)
        self.names[s.name] = name
        b.depths[name] = self.depth
        b.tile_axes[name] = axes
        if s.name in b.floored:
            b.finite.add(name)
        if s.iterative is not None:
            b.running[s.name] = partial(self._at_slot, s)

    def _at_slot(self, s: Settled, offset: int) -> Expr:
        """An iterative tensor before this step (0), or after it (1)."""
        if offset == 0:
            return tile(self.names[s.name])
        if s.name not in self.following:
            self._update(s)
        return self.following[s.name]

    def _update(self, s: Settled) -> None:
        b = self.builder
        value = b.value(s.value)
        following = b.named(f"{s.name}_next", value)
        self.following[s.name] = following
        if s.name in b.floored and isinstance(following, Read):
            b.finite.add(following.tensor)

    def _advance(self, s: Settled) -> None:
        """What a result is after this step."""
        b = self.builder
        if s.iterative is not None:
            if s.name not in self.following:
                self._update(s)
            return
        assert s.op is not None
        if s.op in ("top", "argtop", "argmax"):
            self._select(s)
            return
        here = b.reduced(s, *self._body(s))
        old = tile(self.names[s.name])
        self.following[s.name] = b.named(f"{s.name}_next", Map(COMBINE[s.op], (old, here)))

    def _body(self, s: Settled) -> tuple[Expr, tuple[Expr, ...], tuple[str, ...]]:
        """Value, filters and bound ranks of a plain reduction, at the tile of this step."""
        b = self.builder
        bound = []
        extra: list[Expr] = []
        for r in s.bound:
            if r == self.loop.rank and self.ordered and self.loop.inner:
                bound += list(self.loop.inner)
                extra.append(Map("<", (b.whole[r], b.extent(r))))
            elif r == self.loop.outer and self.ordered:
                continue
            elif r == self.loop.outer:
                if not set(self.loop.inner) & set(s.bound) and not b.pinned:
                    raise NoSchedule(f"`{s.name}` is reduced over tiles whose size is free")
            else:
                bound.append(r)
        return s.value, (*s.filters, *extra), tuple(bound)

    def _select(self, s: Settled) -> None:
        b = self.builder
        value, filters, bound = self._body(s)
        key = (s.target, value, *filters)
        scored = b.value(value)
        rank, axis = self._candidates(s, bound)
        conditions = b.conditions(filters, (axis,))
        if key not in self.best:
            before = (b.fresh(f"{s.name}_values"), b.fresh(f"{s.name}_places"))
            target = s.target or f"{s.name}#"
            if s.target is not None:
                if s.target not in b.roles.widths:
                    raise NoSchedule(f"`{s.name}` fills rank `{s.target}`, which no tile holds")
                b.coordinate(s.target)
            else:
                b.axes[target] = Const(1)
            axes = (*b.axes_for(tuple(r for r in s.ranks if r != s.target)), target)
            for name in before:
                b.depths[name] = self.depth
                b.tile_axes[name] = axes
            b._best(s, value, conditions, axis, rank, before)
            made = b.recall(("best", scored, conditions, axis, target, before))
            assert isinstance(made, Map)
            first, second = made.args
            assert isinstance(first, Read) and isinstance(second, Read)
            self.carries += [
                Carry(before[0], INFINITE, axes, first.tensor),
                Carry(before[1], Number(-1), axes, second.tensor, "int"),
            ]
            self.best[key] = *before, target
        self.names[s.name] = self.best[key][0 if s.op == "top" else 1]
        self.targets[s.name] = self.best[key][2]

    def _candidates(self, s: Settled, bound: tuple[str, ...]) -> tuple[str, str]:
        """The rank whose coordinates are selected, and the axis of those that a step brings: the
        lanes of a tile, or a single one where each step is a coordinate.
        """
        b = self.builder
        if bound:
            return bound[0], b.axis_of(bound[0]) or ""
        axis = f"{s.name}##"
        b.axes[axis] = Const(1)
        return s.bound[0], axis

    def _end(self, s: Settled, loop: For | Seq) -> Expr:
        b = self.builder
        end = tile(self.names[s.name])
        if s.op == "argmax":
            return b._pick(s.name, end, self.targets[s.name], Const(0))
        if s.name in b.floored:
            total = total_weight(loop, end.tensor)
            absent = Map("<=", (end, FLOOR)) if total is None else Map("==", (total, Const(0.0)))
            return b.named(f"{s.name}_end", Map("select", (absent, INFINITE, end)))
        return end

    # -- what is written as the loop runs
    def _at_rows(self, s: Settled) -> Expr:
        b = self.builder
        places = b.partition.place_in(b.draft, s.ranks) if b.whole else {}
        index = tuple(b.roles.tidy(placed(Coordinate(r), places)) for r in s.ranks)
        if s.op is None:
            return b.value(b.roles.tidy(placed(s.value, dict(zip(s.ranks, index, strict=True)))))
        return b.read(Read(s.name, index))

    def _history(self, s: Settled) -> None:
        """Every slot of an iterative tensor: this step's end, and before the first the start."""
        b = self.builder
        assert s.iterative is not None
        rank = s.ranks[s.iterative]
        at: list[Expr] = [b.value(Coordinate(r)) for r in s.ranks]
        after = list(at)
        after[s.iterative] = Map("+", (b.value(Coordinate(rank)), Const(1)))
        b.store(s, self._if_present(s, self.following[s.name]), tuple(after))
        first = list(at)
        first[s.iterative] = Const(0)
        companion = b.roles.steps.get(presence_name(s.name))
        start = self.inits[s.name]
        if companion is not None:
            start = Map("select", (self.inits[companion.name], start, ABSENT[s.kind]))
        value = b.put(Let(b.fresh(f"{s.name}_start"), start), self.depth - 1, b.axes_in(start))
        b.scopes[self.depth - 1].nodes.append(Store(s.name, tuple(first), value))

    def _if_present(self, s: Settled, value: Expr) -> Expr:
        companion = self.builder.roles.steps.get(presence_name(s.name))
        if companion is None:
            return value
        return Map("select", (self._at_slot(companion, 1), value, ABSENT[s.kind]))


def weakened(condition: Expr, known: Callable[[Expr], bool], holds: bool = True) -> Expr:
    """A condition that follows from `condition` (from its negation, unless `holds`), in which
    everything is known.
    """
    match condition:
        case Map("not", (inner,)):
            return weakened(inner, known, not holds)
        case Map("and" | "or" as op, parts):
            weak = [weakened(p, known, holds) for p in parts]
            return conjoin(tuple(weak)) if (op == "and") == holds else disjoin(weak)
        case _ if not known(condition):
            return Const(True)
        case _:
            return condition if holds else negate(condition)


def _in_order(conditions: frozenset[Expr]) -> list[Expr]:
    from cascade.ir.printer import print_expr

    return sorted(conditions, key=print_expr)


def _real(e: Expr, s: Settled) -> Expr:
    """A number of the kind that a tensor has."""
    if isinstance(e, Const) and not isinstance(e.value, bool):
        if s.kind == "real":
            return Const(float(e.value))
        if s.kind == "int" and abs(e.value) == float("inf"):
            return Const(MOST if e.value > 0 else LEAST)
    return e
