"""Which instances of a kernel start first: those with most to do, so that all of them end together.

A device starts instances in the order of their numbers, as many as it can hold. Where the last ones
are the longest, most of it waits for them. So a position of the grid runs from its end where the
visits of every loop can only become more as it grows: the rows of a causal mask.

It is read off the bounds of the loops: `m < min(M, p + 1)` with `p = p_tile*64 + #p` grows with
`p_tile`. What is not seen to grow (a window, whose two ends move) keeps its order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.walk import children, symbols
from cascade.schedule.disjuncts import Interval
from cascade.schedule.facts import loop_bounds, made_in, tile_kinds
from cascade.schedule.predict import all_places, made_of
from cascade.schedule.program import For, Kernel, Let, Node, Place, Program, Seq, inside, results
from cascade.schedule.settle import is_natural

Trend = int | None  # 1 never falls, -1 never rises, 0 stays; None is not known


def heavy_first(program: Program) -> Program:
    """The program with the positions along which work grows from their ends."""
    kernels = tuple(_ordered(program, k) for k in program.kernels)
    return replace(program, kernels=kernels)


def _ordered(program: Program, kernel: Kernel) -> Kernel:
    loops = [(n, _bounds(program, kernel, n)) for n in inside(kernel.body)
             if isinstance(n, For | Seq)]  # fmt: skip
    if not loops:
        return kernel
    places = all_places(kernel)
    makers = {name: n for n in inside(kernel.body) for name in results(n)}
    grid = []
    for g in kernel.grid:
        along = _Along(g.scalar, places, makers)
        work = _joined(along.work(loop, bounds) for loop, bounds in loops)
        grid.append(replace(g, descending=work == 1))
    return replace(kernel, grid=tuple(grid))


def _bounds(program: Program, kernel: Kernel, loop: For | Seq) -> tuple[Interval, ...]:
    if isinstance(loop, Seq):
        return ()
    inner = made_in(loop)
    integers = {s: 1 for e in loop.predicate for s in symbols(e)}  # as extents are: 1 or more
    return loop_bounds(loop, tile_kinds(program, kernel), integers, lambda name: name not in inner)


@dataclass
class _Along:
    """How values change along one position of the grid, everything else being equal."""

    scalar: str
    places: dict[str, list[Place]]
    makers: dict[str, Node]
    known: dict[str, Trend] = field(default_factory=dict)

    def work(self, loop: For | Seq, bounds: tuple[Interval, ...]) -> Trend:
        """The number of visits. A union grows where every part of it does."""
        if isinstance(loop, Seq):
            return self.of(loop.count)
        return _joined(self._length(i) for i in bounds)

    def _length(self, i: Interval) -> Trend:
        if any(self.of(c) != 0 for c in i.row):
            return None
        low, high = (_joined(map(self.of, ends)) for ends in (i.low, i.high))
        return _joined((high, _turned(low)))

    def of(self, e: Expr) -> Trend:
        match e:
            case Symbol(name):
                return int(name == self.scalar)
            case Coordinate(rank):
                return _joined(self.of(p.value) for p in self.places.get(rank, ()))
            case Read(name, ()):
                return self._tile(name)
            case Map("+" | "min" | "max", args):
                return _joined(map(self.of, args))
            case Map("-", (a, b)):
                return _joined((self.of(a), _turned(self.of(b))))
            case Map("*", (Const(value), a) | (a, Const(value))):
                return self.of(a) if value >= 0 else _turned(self.of(a))
            case Map("*", args) if all(is_natural(a) for a in args):
                found = _joined(map(self.of, args))
                return found if found != -1 else None
            case Map("//", (a, b)) if is_natural(b) and self.of(b) == 0:
                return self.of(a)
            case _:
                return _same(map(self.of, children(e)))

    def _tile(self, name: str) -> Trend:
        if name not in self.known:
            self.known[name] = None  # what a loop carries follows from itself
            maker = self.makers.get(name)
            if isinstance(maker, Let):
                self.known[name] = self.of(maker.value)
            elif maker is not None and not isinstance(maker, For | Seq):
                parts = made_of(maker)
                self.known[name] = _same(map(self.of, parts)) if parts else None
        return self.known[name]


def _joined(parts: Iterable[Trend]) -> Trend:
    """Of a sum: known where no two parts go against each other."""
    found = set(parts) - {0}
    if not found:
        return 0
    return found.pop() if len(found) == 1 else None


def _same(parts: Iterable[Trend]) -> Trend:
    """Of any function of the parts: known where none of them changes."""
    return 0 if not set(parts) - {0} else None


def _turned(trend: Trend) -> Trend:
    return None if trend is None else -trend
