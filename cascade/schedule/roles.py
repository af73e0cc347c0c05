"""What each rank is for: a loop, a width, or a dimension of the grid.

A *loop* is run along an iterative rank, or along a rank that a reduction binds and nothing inside a
loop needs whole. A *width* is held in a tile from end to end: the extents of contractions inside a
loop, small ranks, the parts of chunks. Every other rank is *long* and can only be on a grid. The
rules look at who reads what, and at sizes; never at names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

from cascade.ir.affine import grouped, simplified
from cascade.ir.cascade import Cascade, Partition
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read
from cascade.ir.walk import children, reads, substitute, transform
from cascade.schedule.settle import Settled
from cascade.schedule.small import MATRIX, WIDTH, small_ranks

CONTRACTED = 1024  # the largest extent of a contraction that a tile holds whole
PAIRED = 32  # the largest extent of a rank of which tiles hold all pairs of coordinates


@dataclass(frozen=True)
class Loop:
    """A loop along `rank`. `outer` is the rank that counts its steps where it is a partition or a
    recurrence, `inner` the parts that its tiles hold. `ordered` where steps must run in order.
    """

    rank: str
    outer: str | None = None
    inner: tuple[str, ...] = ()
    ordered: bool = False

    @property
    def ranks(self) -> frozenset[str]:
        return frozenset({self.rank, *self.inner, *([self.outer] if self.outer else [])})


@dataclass
class Roles:
    """Roles of the ranks of one cascade in settled steps. `sizes` are extents known beforehand,
    `free` the parts whose extent is ours to choose.
    """

    cascade: Cascade
    steps: dict[str, Settled]
    sizes: Mapping[str, int]
    unordered: frozenset[str]
    free: frozenset[str] = frozenset()
    loops: dict[str, Loop] = field(default_factory=dict)  # stream step -> its loop
    widths: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._tidied: dict[Expr, Expr] = {}
        self._required: dict[Expr, frozenset[Read]] = {}
        self.readers: dict[str, list[Settled]] = {}
        for s in self.steps.values():
            for name in {r.tensor for e in parts_of(s) for r in reads(e)}:
                self.readers.setdefault(name, []).append(s)
        self.widths |= small_ranks(self.cascade, self.sizes, self.free)
        self.widths |= {r.name for r in self.cascade.ranks if self._short(r.name)}
        self.widths |= {p for part in self._partitions() for p in part.parts[1:]}
        targets = {s.target for s in self.steps.values() if s.target is not None}
        self.widths |= {r for r in targets if (self.size(r) or 0) <= WIDTH}
        before = None
        while before != self.widths:  # a width found late may be bound by a step seen early
            before = set(self.widths)
            self.loops.clear()
            self._iterative_loops()
            for s in reversed(self.steps.values()):
                self._reduction(s)

    def _partitions(self) -> Iterator[Partition]:
        yield from self.cascade.partitions

    def size(self, rank: str) -> int | None:
        extent = self._extent(rank)
        if rank.rstrip("'") in self.sizes:
            return self.sizes[rank.rstrip("'")]
        return int(extent.value) if isinstance(extent, Const) else None

    def _short(self, rank: str) -> bool:
        """A rank of an input whose extent the spec says, and that has few coordinates."""
        extent = self._extent(rank)
        carried = any(rank in t.ranks for t in self.cascade.inputs)
        return carried and isinstance(extent, Const) and extent.value <= WIDTH

    # -- loops
    def _iterative_loops(self) -> None:
        for s in self.steps.values():
            if s.iterative is not None:
                self.loops[s.name] = self._loop_of(s.ranks[s.iterative])

    def _loop_of(self, rank: str) -> Loop:
        """The loop that steps along a rank which is iterative, or a part, or whole."""
        for p in self.cascade.partitions:
            if rank == p.rank or rank == p.parts[0]:
                outer, inner = p.parts[0], p.parts[1:]
                if outer in self.unordered:
                    return Loop(p.rank, outer, inner)
                if rank == outer:
                    return Loop(p.rank, outer, inner, ordered=self._recurs(outer))
        return Loop(rank, rank if self._recurs(rank) else None, (), ordered=self._recurs(rank))

    def _recurs(self, rank: str) -> bool:
        return any(
            s.iterative is not None and s.ranks[s.iterative] == rank for s in self.steps.values()
        )

    def _reduction(self, s: Settled) -> None:
        """Decide for the ranks that a step binds; its readers are decided already."""
        if s.op is None or s.name in self.loops:
            return
        bound = [r for r in s.bound if r not in self.widths]
        if not bound:
            return
        around = self._around(s.name, set())
        around |= {r for n in self.steps if self.iterative(n) for r in self.loops[n].ranks}
        if around & set(s.ranks):
            for r in bound:
                size = self.size(r)
                most = PAIRED if self._is_paired(r, around & set(s.ranks)) else CONTRACTED
                known = most == CONTRACTED and self._is_last(r)
                if (known if size is None else size <= most) and not self._is_wide(s, r):
                    self.widths.add(r)
        bound = [r for r in bound if r not in self.widths]
        if bound:
            loop = self._loop_of(self._streamed(bound))
            self.loops[s.name] = loop
            others = [r for r in bound if r not in loop.ranks]
            self.widths |= {r for r in others if (self.size(r) or 0) <= CONTRACTED}

    def _streamed(self, bound: list[str]) -> str:
        """Of the ranks that a step binds, the last one beside which tiles can hold the others; one
        that runs along memory in no input, if there is any.
        """
        vectors = {self._extent(t.ranks[-1]) for t in self.cascade.inputs if t.ranks}
        found = []
        for rank in reversed(bound):
            others = (self.size(r) for r in bound if r != rank)
            if all(size is not None and size <= WIDTH for size in others):
                found.append(rank)
        apart = (r for r in found if self._extent(r) not in vectors)
        return next(apart, found[0] if found else bound[-1])

    def _is_paired(self, rank: str, along: set[str]) -> bool:
        """Whether a rank has the coordinates of a loop: each of these is compared with all."""
        return any(self._extent(r) == self._extent(rank) for r in along)

    def _is_wide(self, s: Settled, rank: str) -> bool:
        """Whether a matrix that a step reads along a rank is too large for a tile to hold whole."""
        held = {*self.widths, rank}
        found = [r.index for r in reads(s.value) if Coordinate(rank) in r.index]
        whole = ([i.rank for i in own if isinstance(i, Coordinate)] for own in found)
        sizes = [prod(self.size(r) or 1 for r in own if r in held) for own in whole]
        return max(sizes, default=0) > MATRIX

    def _extent(self, rank: str) -> Expr:
        return self.cascade.rank[rank.rstrip("'")].extent

    def _is_last(self, rank: str) -> bool:
        """Whether a rank runs along memory in every input that has it: a width of vectors."""
        having = [t.ranks for t in self.cascade.inputs if rank in t.ranks]
        return all(ranks[-1] == rank for ranks in having)

    def _around(self, name: str, seen: set[str]) -> set[str]:
        """Ranks of the loops inside which a step may have to be computed."""
        found: set[str] = set()
        seen.add(name)
        for reader in self.readers.get(name, []):
            if reader.name in self.loops:
                found |= self.loops[reader.name].ranks
            elif reader.name not in seen:
                found |= self._around(reader.name, seen)
        return found

    # -- what a step needs
    def long(self, ranks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(r for r in ranks if r not in self.widths)

    @property
    def outers(self) -> set[str]:
        """The ranks along which something iterates."""
        return {s.ranks[s.iterative] for s in self.steps.values() if s.iterative is not None}

    def streams(self, name: str) -> bool:
        return name in self.loops

    def iterative(self, name: str) -> bool:
        return self.steps[name].iterative is not None

    def tidy(self, i: Expr) -> Expr:
        """`(m1*M0 + m0) // M0` is m1, and `% M0` is m0, which together are the whole again, as are
        those of any `g*n + r` with r below n; sums in their shortest form, and places from the end
        in one form.
        """
        wholes = {p.expression: p for p in self.cascade.partitions if len(p.parts) == 2}

        def rule(e: Expr) -> Expr | None:
            match e:
                case Map("+", (Map("*", (Map("//", (x, n)), size)), Map("%", (y, rest)))):
                    return x if x == y and n == size == rest else None
                case Map("//" | "%" as op, (whole, stride)):
                    p = wholes.get(simplified(whole))
                    if p is not None and self.cascade.rank[p.parts[1]].extent == stride:
                        return Coordinate(p.parts[0 if op == "//" else 1])
            return None

        if i not in self._tidied:
            found = simplified(grouped(transform(i, rule), self._extent))
            self._tidied[i] = transform(found, _from_the_end)
        return self._tidied[i]

    def requires(self, e: Expr) -> set[Read]:
        """The results of loops that an expression reads, through everything that is computed in
        place; as reads at the coordinates of the expression.
        """
        if e not in self._required:
            found: set[Read] = set()
            self._requires(e, found, set())
            self._required[e] = frozenset(found)
        return set(self._required[e])

    def _requires(self, e: Expr, found: set[Read], seen: set[Read]) -> None:
        if isinstance(e, Read):
            e = Read(e.tensor, tuple(self.tidy(i) for i in e.index))
            for i in e.index:
                self._requires(i, found, seen)
            step = self.steps.get(e.tensor)
            if step is None or e in seen:
                return
            seen.add(e)
            if self.streams(e.tensor):
                found.add(e)
                return
            places = dict(zip(step.ranks, e.index, strict=True))
            for part in parts_of(step):
                self._requires(placed(part, places, step.bound), found, seen)
            return
        for child in children(e):
            self._requires(child, found, seen)


def _from_the_end(e: Expr) -> Expr | None:
    """`I - i - 1` as `I - 1 - i`: what is at both is read once."""
    match e:
        case Map("-", (Map("-", (extent, place)), Const() as one)):
            return Map("-", (Map("-", (extent, one)), place))
    return None


def parts_of(s: Settled) -> tuple[Expr, ...]:
    """The expressions of a step: value, filters, conditions, start."""
    start = () if s.start is None else (s.start,)
    return (s.value, *s.filters, *s.present, *start)


def placed(e: Expr, places: dict[str, Expr], bound: tuple[str, ...] = ()) -> Expr:
    """`e` with its ranks placed at other coordinates, those it binds left alone."""
    moved = {r: i for r, i in places.items() if i != Coordinate(r) and r not in bound}
    return substitute(e, moved)


def shifted(e: Expr, rank: str) -> int | None:
    """The constant c of an index `rank + c`, or None."""
    match e:
        case Coordinate(r) if r == rank:
            return 0
        case Map("+", (Coordinate(r), Const(int(c)))) if r == rank:
            return int(c)
        case Map("-", (Coordinate(r), Const(int(c)))) if r == rank:
            return -int(c)
        case _:
            return None
