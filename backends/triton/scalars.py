"""The kinds of extents and params: a Program says them only by their definitions and their use."""

from __future__ import annotations

from collections.abc import Iterator

from cascade.ir.expr import Expr, Map, Symbol
from cascade.ir.ops import COMPARISONS
from cascade.ir.walk import symbols, walk
from cascade.schedule.facts import Kinds, kind_of, tile_kinds
from cascade.schedule.program import For, Load, Program, Seq, Store, inside
from cascade.schedule.prune import expressions


def scalar_kinds(program: Program) -> dict[str, str]:
    """int, real or bool, by name. A param that nothing defines is an integer where it is an index,
    or is compared with integers; else it is real.
    """
    kinds = dict.fromkeys((s for e in _extents(program) for s in symbols(e)), "int")
    for name, e in program.values:
        if name not in kinds:
            kinds[name] = _kind(e, {}, kinds)
    for kernel in program.kernels:
        tiles = tile_kinds(program, kernel)
        for node in inside(kernel.body):
            if isinstance(node, Load | Store):
                kinds = {s: "int" for i in node.index for s in symbols(i)} | kinds
            for e in expressions(node):
                for s in _compared(e, tiles, kinds):
                    kinds.setdefault(s, "int")
    return kinds


def extents_of(program: Program) -> frozenset[Expr]:
    """What is a length of a tensor or of a rank, and the extents and params that it is made of."""
    nodes = [n for k in program.kernels for n in inside(k.body)]
    found = {*_extents(program), *(n.place.extent for n in nodes if isinstance(n, For))}
    found |= {p.extent for n in nodes if isinstance(n, Seq) for p in n.places}
    names = {s for e in found for s in symbols(e)}
    for name, e in reversed(program.values):
        if name in names:
            names |= symbols(e)
    return frozenset(found | {Symbol(n) for n in names})


def _extents(program: Program) -> Iterator[Expr]:
    yield from (e for b in program.buffers for e in b.shape)
    yield from (g.count for k in program.kernels for g in k.grid)
    yield from (p.extent for k in program.kernels for p in k.places)
    yield from (Symbol(n) for n, _ in program.widths)


def _kind(e: Expr, tiles: Kinds, kinds: dict[str, str]) -> str:
    if isinstance(e, Symbol):
        return kinds.get(e.name, "int")
    real = frozenset(n for n, k in kinds.items() if k == "real")
    return kind_of(e, tiles, real)


def _compared(e: Expr, tiles: Kinds, kinds: dict[str, str]) -> Iterator[str]:
    """Scalars in comparisons of integers."""
    for n in walk(e):
        if isinstance(n, Map) and n.op in COMPARISONS:
            if all(_kind(a, tiles, kinds) == "int" for a in n.args):
                yield from symbols(n)
