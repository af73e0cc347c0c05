"""Slices of a state that loops over chunks carry: an instance has so many columns, others the rest.

A width can be cut where every line of a kernel treats its coordinates alike: nothing is summed
along it, picked from it, or stored without it. What has no such column is computed in each slice.

    kernel O for each b_at < B, h_at < H, f_tile < (F + 63) // 64
        carry S_state[e,f] = 0.0                   with f = f_tile * 64 + #f
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cascade.ir.expr import Const, Coordinate, Expr, Map, Symbol
from cascade.ir.extents import evaluate
from cascade.ir.walk import free_ranks
from cascade.schedule.program import (
    Best,
    Contract,
    Fold,
    For,
    GridAxis,
    Kernel,
    Node,
    Pick,
    Place,
    Program,
    Seq,
    Store,
    inside,
    lane,
    lanes_of,
)
from cascade.schedule.prune import expressions


def sliced(program: Program, size: int) -> Program:
    """The program with no more than `size` columns of a state in an instance, where it can be."""
    widths = dict(program.widths)
    return replace(program, kernels=tuple(_sliced(k, size, widths) for k in program.kernels))


def _sliced(kernel: Kernel, size: int, widths: dict[str, int]) -> Kernel:
    for place in _columns(kernel):
        try:
            whole = evaluate(place.extent, widths.__getitem__)
        except KeyError:
            continue
        if whole > size:
            return _cut(kernel, place, size)
    return kernel


def _cut(kernel: Kernel, place: Place, size: int) -> Kernel:
    """The kernel with slices of the width that lies at a place."""
    axis = _axis(place.value)
    scalar = f"{place.rank}_tile"
    blocks = Map("//", (Map("+", (place.extent, Const(size - 1))), Const(size)))
    first = Map("*", (Symbol(scalar), Const(size)))
    here = replace(place, value=Map("+", (first, lane(axis))))
    return replace(
        kernel,
        grid=(*kernel.grid, GridAxis(scalar, blocks)),
        axes=tuple(replace(a, size=Const(size)) if a.name == axis else a for a in kernel.axes),
        places=tuple(here if p == place else p for p in kernel.places),
    )


def _columns(kernel: Kernel) -> Iterator[Place]:
    """The places of the widths of states along which nothing in a kernel runs."""
    steps = [n for n in kernel.body if isinstance(n, Seq)]
    carried = {a for n in steps for c in n.carries if len(c.axes) > 1 for a in c.axes}
    whole = {a for n in inside(kernel.body) for a in _run_along(n)}
    lanes = [_axis(p.value) for p in kernel.places]
    for place in kernel.places:
        axis = _axis(place.value)
        alone = place.value == lane(axis) and lanes.count(axis) == 1
        if alone and axis in carried and not {axis, place.rank} & whole:
            if all(_has(n, place.rank) for n in inside(kernel.body) if isinstance(n, Store)):
                yield place


def _axis(value: Expr) -> str:
    """The axis of the lanes of a place, or nothing."""
    return next(iter(lanes_of(value)), "")


def _run_along(node: Node) -> Iterator[str]:
    """The axes, and the ranks, that a node needs whole."""
    for e in expressions(node):
        yield from lanes_of(e)
    match node:
        case Fold() | Contract():
            yield from node.axes
        case Pick():
            yield node.axis
            yield from free_ranks(node.at)
        case Best():
            yield from (node.axis, node.target)
        case For():
            yield node.axis


def _has(store: Store, rank: str) -> bool:
    return any(i == Coordinate(rank) for i in store.index)
