"""How large the tiles of a Program are, and tiles that are small enough.

The axes of every tile follow from the nodes; sizes come from the tiles of rows and loops and from
the extents of widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from cascade.ir.expr import Const, Coordinate, Expr, Read, Symbol
from cascade.ir.extents import Number, evaluate
from cascade.ir.walk import walk
from cascade.schedule.operands import operands
from cascade.schedule.program import (
    Best,
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
    inside,
    lanes_of,
)
from cascade.schedule.sizes import Sizes

ITEM = 8  # bytes of the largest number
LEAST = 8  # rows or coordinates of a tile below which nothing is gained


@dataclass(frozen=True)
class TileSize:
    """A tile of a kernel: its axes and the number of its elements. What is computed is in
    registers; what is loaded need not be.
    """

    kernel: str
    name: str
    axes: tuple[str, ...]
    elements: int
    is_computed: bool = True


def tile_sizes(program: Program, values: Mapping[str, Number]) -> Iterator[TileSize]:
    """Every tile, and every product that a contraction may have to write out."""
    for kernel in program.kernels:
        sizes = {a.name: _number(a.size, values) for a in kernel.axes}
        loaded = {n.name for n in inside(kernel.body) if isinstance(n, Load)}
        for name, axes in tile_axes(kernel):
            elements = 1
            for a in axes:
                elements *= max(1, sizes[a])
            yield TileSize(kernel.name, name, axes, elements, name not in loaded)


def most_held(program: Program, values: Mapping[str, Number]) -> int:
    """Bytes that no instance of a kernel holds more of: all of its tiles at once, 8 bytes each."""
    held: dict[str, int] = {}
    for t in tile_sizes(program, values):
        held[t.kernel] = held.get(t.kernel, 0) + ITEM * t.elements
    return max(held.values(), default=0)


def _number(e: Expr, values: Mapping[str, Number]) -> int:
    try:
        return int(evaluate(e, values.__getitem__))
    except KeyError:
        return 64  # a width that is not known yet


def tile_axes(kernel: Kernel) -> list[tuple[str, tuple[str, ...]]]:
    """The axes of every tile of a kernel, in the order in which the tiles are made."""
    found: dict[str, tuple[str, ...]] = {}
    places = {p.rank: p for p in kernel.places}
    listed: list[tuple[str, tuple[str, ...]]] = []

    def of(*parts: Expr) -> tuple[str, ...]:
        axes: dict[str, None] = {}
        for e in parts:
            for node in walk(e):
                match node:
                    case Read(name, ()):
                        axes.update(dict.fromkeys(found.get(name, ())))
                    case Coordinate(rank) if rank.startswith("#"):
                        axes[rank[1:]] = None
                    case Coordinate(rank):
                        axes.update(dict.fromkeys(_lanes(places, rank)))
        return tuple(axes)

    def put(name: str, axes: tuple[str, ...]) -> None:
        found[name] = axes
        listed.append((name, axes))

    _visit(kernel.body, places, of, put)
    return listed


def _visit(
    nodes: tuple[Node, ...],
    places: dict[str, Place],
    of: Callable[..., tuple[str, ...]],
    put: Callable[[str, tuple[str, ...]], None],
) -> None:
    for node in nodes:
        match node:
            case Let(name, value):
                put(name, of(value))
            case Load(name, _, index, present):
                put(name, of(*index, *present))
            case Mask(name, value, conditions, _):
                put(name, of(value, *conditions))
            case Fold(name, _, value, axes):
                put(name, tuple(a for a in of(value) if a not in axes))
            case Contract(name, factors, axes):
                for product, its in _products(node, of):
                    put(product, its)
                put(name, tuple(a for a in of(*factors) if a not in axes))
            case Pick(name, value, axis, at):
                put(name, tuple(dict.fromkeys((*(a for a in of(value) if a != axis), *of(at)))))
            case Best(names, value, _, conditions, axis, target):
                kept = tuple(a for a in of(value, *conditions) if a != axis)
                for n in names:
                    put(n, (*kept, target))
            case For(place=place, carries=carries, body=body):
                places[place.rank] = place
                for c in carries:
                    put(c.name, c.axes)
                _visit(body, places, of, put)
            case Seq(places=own, carries=carries, body=body):
                places.update({p.rank: p for p in own})
                for c in carries:
                    put(c.name, c.axes)
                _visit(body, places, of, put)
            case Store():
                pass


def _lanes(places: Mapping[str, Place], rank: str) -> tuple[str, ...]:
    place = places.get(rank)
    if place is None:
        return ()
    return lanes_of(place.value)


def _products(
    node: Contract, of: Callable[..., tuple[str, ...]]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What a contraction has to write out: an operand of several factors of which none has all of
    its axes, or the product of all factors where it is no matrix product.
    """
    axes = [of(f) for f in node.factors]
    pair = operands(axes, node.axes)
    for side in pair or ():
        if all(set(axes[n]) != side.axes for n in side.factors):
            made = of(*(node.factors[n] for n in side.factors))
            yield f"{node.name} operand", made
    whole = of(*node.factors)
    if pair is None and all(set(own) != set(whole) for own in axes):
        yield f"{node.name} product", whole


def fitted(
    lower: Callable[[Sizes], Program], sizes: Sizes, values: Mapping[str, Number], most: int
) -> Sizes:
    """Tiles of rows and loops, halved until no tile has more than `most` elements."""
    while True:
        program = lower(sizes)
        worst = max(tile_sizes(program, values), key=lambda t: t.elements, default=None)
        if worst is None or worst.elements <= most:
            return sizes
        kernel = next(k for k in program.kernels if k.name == worst.kernel)
        ours = [a for a in worst.axes if isinstance(kernel.axis(a).size, Const)]
        free = {a: _number(kernel.axis(a).size, values) for a in ours}
        free = {a: n for a, n in free.items() if n > LEAST and _is_ours(kernel, a)}
        if not free:
            return sizes
        axis = max(free, key=lambda a: free[a])
        sizes = replace(sizes, tiles={**sizes.tiles, axis: free[axis] // 2})


def _is_ours(kernel: Kernel, axis: str) -> bool:
    """Whether the size of an axis is a choice: rows of the grid, tiles of a loop."""
    rows = {r for p in kernel.places for r in _lanes({p.rank: p}, p.rank) if _has_scalar(p)}
    return axis in rows or any(isinstance(n, For) and n.axis == axis for n in kernel.body)


def _has_scalar(p: Place) -> bool:
    return any(isinstance(n, Symbol) for n in walk(p.value))
