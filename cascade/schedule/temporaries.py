"""What kernels leave in memory for each other: only what is read, and in the order of its tiles.

The dimension of a temporary that an instance writes at one coordinate comes before those of a tile,
and these have the order of the axes of the kernel. So the states of all chunks, which are written
one by one, lie one after the other, and each as a matrix does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cascade.ir.expr import Expr
from cascade.schedule.facts import axes_of
from cascade.schedule.program import (
    Buffer,
    For,
    Kernel,
    Load,
    Node,
    Place,
    Program,
    Seq,
    Store,
    inside,
)
from cascade.schedule.prune import pruned

Order = tuple[int, ...]  # of dimensions, by their numbers before


def arranged(program: Program) -> Program:
    """The program without temporaries that nothing reads, the others in the order of tiles."""
    program = _without_unread(program)
    orders = {b.name: _order(program, b) for b in program.buffers if b.kind == "temp"}
    orders = {name: order for name, order in orders.items() if list(order) != sorted(order)}
    kernels = tuple(replace(k, body=_turned(k.body, orders)) for k in program.kernels)
    buffers = tuple(_laid(b, orders[b.name]) if b.name in orders else b for b in program.buffers)
    return replace(program, kernels=kernels, buffers=buffers)


def _without_unread(program: Program) -> Program:
    read = {n.tensor for k in program.kernels for n in inside(k.body) if isinstance(n, Load)}
    gone = {b.name for b in program.buffers if b.kind == "temp" and b.name not in read}
    if not gone:
        return program
    kernels = tuple(replace(k, body=pruned(_kept(k.body, gone))) for k in program.kernels)
    return replace(
        program,
        kernels=tuple(k for k in kernels if k.body),
        buffers=tuple(b for b in program.buffers if b.name not in gone),
    )


def _kept(nodes: tuple[Node, ...], gone: set[str]) -> tuple[Node, ...]:
    """The nodes without the stores of tensors that are gone."""
    left = (n for n in nodes if not (isinstance(n, Store) and n.tensor in gone))
    return tuple(
        replace(n, body=_kept(n.body, gone)) if isinstance(n, For | Seq) else n for n in left
    )


def _order(program: Program, buffer: Buffer) -> Order:
    """The dimensions of a tensor, those of no axis first, as it is written."""
    for kernel in program.kernels:
        found = _written(kernel.body, {p.rank: p for p in kernel.places}, buffer.name)
        if found is not None:
            store, places = found
            return _by_axes(kernel, store.index, places)
    return tuple(range(len(buffer.shape)))


def _written(
    nodes: tuple[Node, ...], places: Mapping[str, Place], tensor: str
) -> tuple[Store, Mapping[str, Place]] | None:
    """The last store of a tensor, in the innermost loop that has one; and what is placed there."""
    for node in reversed(nodes):
        if isinstance(node, For | Seq):
            own = (node.place,) if isinstance(node, For) else node.places
            found = _written(node.body, {**places, **{p.rank: p for p in own}}, tensor)
            if found is not None:
                return found
        if isinstance(node, Store) and node.tensor == tensor:
            return node, places
    return None


def _by_axes(kernel: Kernel, index: tuple[Expr, ...], places: Mapping[str, Place]) -> Order:
    numbers = {a.name: n for n, a in enumerate(kernel.axes)}

    def place(dimension: int) -> int:
        axes = axes_of(index[dimension], places, {})
        return max((numbers[a] for a in axes), default=-1)

    return tuple(sorted(range(len(index)), key=place))


def _laid(buffer: Buffer, order: Order) -> Buffer:
    return replace(
        buffer,
        ranks=tuple(buffer.ranks[n] for n in order),
        shape=tuple(buffer.shape[n] for n in order),
    )


def _turned(nodes: tuple[Node, ...], orders: Mapping[str, Order]) -> tuple[Node, ...]:
    def one(node: Node) -> Node:
        match node:
            case Load() | Store() if node.tensor in orders:
                return replace(node, index=tuple(node.index[n] for n in orders[node.tensor]))
            case For() | Seq():
                return replace(node, body=_turned(node.body, orders))
        return node

    return tuple(map(one, nodes))
