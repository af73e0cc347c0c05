"""Heads that share what a loop streams, as rows of one tile: it is loaded once for all of them.

With few rows of queries (decoding) a tile of one head is mostly empty, and the keys of a group are
read again for each of its heads (grouped-query and multi-query attention, Ainslie et al. 2023;
Shazeer 2019). Where all that a loop loads depends on a rank `h` of the grid by `h // d` alone, or
not at all, the coordinates of `h` that share it and those of the rows `p` become rows together:

    row = h_in_group*P + p        h = group*d + row // P        p = row % P

The last group may have fewer heads: its rows then end early, as those of any last tile do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.extents import evaluate
from cascade.ir.walk import symbols, transform, walk
from cascade.schedule.facts import tile_axes
from cascade.schedule.program import (
    For,
    GridAxis,
    Kernel,
    Load,
    Place,
    Program,
    Seq,
    inside,
    lane,
)
from cascade.schedule.prune import expressions
from cascade.schedule.rewrite import rewritten
from cascade.schedule.sizes import Sizes
from cascade.schedule.verify import violations

FEW = 64  # rows of a head up to which the heads of a group share a tile

LEAST = 16  # rows of the smallest tile that matrix units take


def pack(program: Program, sizes: Sizes) -> Program:
    """The program with heads as rows where they share what is streamed, and where there are few
    rows of each, by the extents that are known.
    """
    for kernel in program.kernels:
        program = _packed(program, kernel, sizes)
    return program


def few_rows(cascade: Cascade, extents: Mapping[str, int]) -> tuple[tuple[bool, bool], ...]:
    """What `pack` asks of extents: lengths at which this is equal can share a program. Nothing is
    asked where no input lacks two ranks of the outputs (rows, and heads that share it).
    """
    last = {t.ranks[-1] for t in cascade.inputs if t.ranks}
    made = {r for t in cascade.outputs for r in cascade.tensors[t].ranks} - last
    few = (len(made - set(t.ranks)) > 1 for t in cascade.inputs if len(t.ranks) > 1)
    if not any(few):
        return ()
    return tuple((n == 1, n <= FEW) for r, n in extents.items() if r in made)


def _packed(program: Program, kernel: Kernel, sizes: Sizes) -> Program:
    rows = [p for p in kernel.places if _is_tiled(p)]
    if len(rows) != 1 or sizes.extents.get(rows[0].rank, FEW + 1) > FEW:
        return program
    axis = next(n.rank[1:] for n in walk(rows[0].value) if isinstance(n, Coordinate))
    wanted = _streamed(kernel)
    if all(axis in axes for axes in wanted.values()):
        return program  # nothing is loaded for all rows at once
    heads = [p for p in kernel.places if isinstance(p.value, Symbol)]
    for place in reversed(heads):
        for size in (*_divisors(kernel, place.rank), None):
            group = _Group(kernel, place, rows[0], axis, size, sizes, _names(program))
            kernels = tuple(group.rewritten() if k is kernel else k for k in program.kernels)
            values = tuple(v for v in group.values if v not in program.values)
            found = replace(program, kernels=kernels, values=(*program.values, *values))
            here = kernels[program.kernels.index(kernel)]
            if _streamed(here) == wanted and not list(violations(found)):
                return found
    return program


def _names(program: Program) -> set[str]:
    extents = {s for b in program.buffers for e in b.shape for s in symbols(e)}
    return extents | {n for n, _ in program.values} | {r for b in program.buffers for r in b.ranks}


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _is_tiled(place: Place) -> bool:
    """Whether an instance has a tile of the rank, not a point or all of it."""
    nodes = list(walk(place.value))
    lanes = any(isinstance(n, Coordinate) and n.rank.startswith("#") for n in nodes)
    return lanes and any(isinstance(n, Symbol) for n in nodes)


def _streamed(kernel: Kernel) -> dict[str, frozenset[str]]:
    """The axes of every tile that a loop loads."""
    axes = tile_axes(kernel)
    loops = (n for n in inside(kernel.body) if isinstance(n, For | Seq))
    return {x.name: frozenset(axes[x.name]) for n in loops for x in n.body if isinstance(x, Load)}


def _divisors(kernel: Kernel, rank: str) -> list[Expr]:
    """Every `d` by which a kernel has `rank // d`."""
    found: dict[Expr, None] = {}
    for node in inside(kernel.body):
        for e in expressions(node):
            for n in walk(e):
                match n:
                    case Map("//", (Coordinate(r), d)) if r == rank and _is_number(d):
                        found[d] = None
    return list(found)


def _is_number(e: Expr) -> bool:
    return not any(isinstance(n, Coordinate | Read) for n in walk(e))


class _Group:
    """`size` coordinates of a rank of the grid, or all of them, as rows beside those of `rows`."""

    def __init__(
        self,
        kernel: Kernel,
        head: Place,
        rows: Place,
        axis: str,
        size: Expr | None,
        sizes: Sizes,
        names: set[str],
    ):
        assert isinstance(head.value, Symbol)
        self.kernel, self.head, self.rows, self.axis, self.size = kernel, head, rows, axis, size
        self.values: tuple[tuple[str, Expr], ...] = ()
        self.heads: Expr = head.extent
        self.group: Expr = Const(0)
        first: Expr | None = None
        taken = {p.rank for p in kernel.places} | {g.scalar for g in kernel.grid} | names
        if size is not None:
            name = _fresh(f"{head.rank}_in_group", taken)
            self.values = ((name, _at_least_one(size)),)
            self.heads, self.group = Symbol(name), Symbol(_fresh(f"{head.rank}_group", taken))
            first = Map("*", (self.group, self.heads))
        self.tile = self._tile(sizes)
        self.scalar = next(n.name for n in walk(rows.value) if isinstance(n, Symbol))
        self.row = Map("+", (Map("*", (Symbol(self.scalar), Const(self.tile))), lane(axis)))
        within: Expr = Map("//", (self.row, rows.extent))
        self.places = (
            Place(
                _fresh(f"{head.rank}{rows.rank}", taken),
                self.row,
                Map("*", (self.heads, rows.extent)),
            ),
            Place(head.rank, within if first is None else Map("+", (first, within)), head.extent),
            Place(rows.rank, Map("%", (self.row, rows.extent)), rows.extent),
        )

    def _tile(self, sizes: Sizes) -> int:
        """The rows of a tile: no more than a group has, where that is known and nothing is set."""
        usual = self.kernel.axis(self.axis).size
        assert isinstance(usual, Const)
        most = int(usual.value)
        if sizes.extents.get(self.rows.rank) != 1 or self.rows.rank in sizes.tiles:
            return most
        known = {n.upper(): v for n, v in sizes.extents.items()} | dict(sizes.extents)
        e = self.values[0][1] if self.values else self.heads
        if not symbols(e) <= known.keys():
            return most
        heads = int(evaluate(e, known.__getitem__))
        return min(most, max(LEAST, 1 << max(0, heads - 1).bit_length()))

    def rewritten(self) -> Kernel:
        kernel, head, rows = self.kernel, self.head, self.rows

        def rule(e: Expr) -> Expr | None:
            match e:
                case Map("//", (Coordinate(r), d)) if r == head.rank and d == self.size:
                    return self.group
            return None

        moved = {head.rank, rows.rank}
        return replace(
            kernel,
            grid=tuple(self._grid()),
            axes=tuple(
                replace(a, size=Const(self.tile)) if a.name == self.axis else a for a in kernel.axes
            ),
            places=(*self.places, *(p for p in kernel.places if p.rank not in moved)),
            body=rewritten(kernel.body, lambda e: transform(e, rule)),
        )

    def _grid(self) -> Iterator[GridAxis]:
        for g in self.kernel.grid:
            if g.scalar == self.scalar:
                yield GridAxis(g.scalar, _quotient(self.places[0].extent, Const(self.tile)))
            elif Symbol(g.scalar) != self.head.value:
                yield g
            elif self.size is not None:
                assert isinstance(self.group, Symbol)
                yield GridAxis(self.group.name, _quotient(self.head.extent, self.heads))


def _at_least_one(e: Expr) -> Expr:
    """A size where no divisor is 0: with no heads there is no group, and nothing to run."""

    def rule(n: Expr) -> Expr | None:
        match n:
            case Map("//" | "%" as op, (a, b)) if not isinstance(b, Const):
                return Map(op, (a, Map("max", (b, Const(1)))))
        return None

    return Map("max", (transform(e, rule), Const(1)))


def _quotient(a: Expr, b: Expr) -> Expr:
    """Rounded up."""
    return Map("//", (Map("-", (Map("+", (a, b)), Const(1))), b))
