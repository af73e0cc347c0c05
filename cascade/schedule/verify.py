"""Rules of a well-formed Program: what is read is there, and what is carried keeps its form."""

from __future__ import annotations

from collections.abc import Iterator

from cascade.ir.expr import Coordinate, Expr, Read
from cascade.ir.printer import print_expr
from cascade.ir.walk import walk
from cascade.schedule.facts import made_in
from cascade.schedule.footprint import tile_axes
from cascade.schedule.program import For, Kernel, Node, Program, Seq, results
from cascade.schedule.prune import expressions


def violations(program: Program) -> Iterator[str]:
    """What is wrong with a program, in words; nothing where it is well formed."""
    for kernel in program.kernels:
        axes = dict(tile_axes(kernel))
        ranks = {p.rank for p in kernel.places}
        yield from _nodes(kernel, kernel.body, set(), ranks, axes)


def _nodes(
    kernel: Kernel,
    nodes: tuple[Node, ...],
    known: set[str],
    ranks: set[str],
    axes: dict[str, tuple[str, ...]],
) -> Iterator[str]:
    known = set(known)
    for node in nodes:
        inner = set(ranks)
        if isinstance(node, For):
            inner.add(node.place.rank)
        if isinstance(node, Seq):
            inner |= {p.rank for p in node.places}
        seen = known | _carried(node)
        if isinstance(node, For) and node.lists:
            seen |= made_in(node)  # what decided on a list is tested in the tile, not before it
        for e in expressions(node):
            yield from _expression(kernel, e, seen, inner)
        if isinstance(node, For | Seq):
            yield from _nodes(kernel, node.body, known | _carried(node), inner, axes)
            yield from _carries(kernel, node, axes)
        known |= set(results(node))


def _carried(node: Node) -> set[str]:
    return {c.name for c in node.carries} if isinstance(node, For | Seq) else set()


def _expression(kernel: Kernel, e: Expr, known: set[str], ranks: set[str]) -> Iterator[str]:
    for n in walk(e):
        match n:
            case Read(name, ()) if name not in known:
                yield f"{kernel.name}: `{name}` is read before it is made"
            case Coordinate(rank) if not rank.startswith("#") and rank not in ranks:
                yield f"{kernel.name}: `{rank}` has no place in `{print_expr(e)}`"


def _carries(kernel: Kernel, node: For | Seq, axes: dict[str, tuple[str, ...]]) -> Iterator[str]:
    inside = {name for n in node.body for name in results(n)}
    for c in node.carries:
        if c.next not in inside and c.next not in axes:
            yield f"{kernel.name}: `{c.name}` becomes `{c.next}`, which the loop does not make"
        elif not set(axes.get(c.next, ())) <= set(c.axes):
            yield f"{kernel.name}: `{c.name}` gains an axis when it becomes `{c.next}`"
