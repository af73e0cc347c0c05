"""The Program: what is computed when and where, for every executor alike.

A *cascade* says what; a Program says when: kernels in the order of their launches, each a grid of
instances, each instance a body over *tiles*. The NumPy executor runs this object and the Triton
printer prints it, so both make the same visits and load the same tiles.

    Let      n = expression                    pointwise, over tiles, coordinates and scalars
    Load     n = T[index...]                   lanes out of range, or not present, are 0
    Mask     n = value where conditions        else a fill; full tiles of a loop need no test
    Fold     n = op over axes of value         sum prod max min any all
    Contract n = sum over axes of a * b * ...  a matrix product where it can be one
    Pick     n = value at one lane of an axis
    Best     n, i = the largest along an axis, merged with those before; and where they are
    For      a loop over tiles of a rank, in any order, each tile at most once
    Seq      a loop over 0 .. count-1, in this order
    Store    T[index...] = value

A *tile* is a named value over axes. An *axis* is a dimension of a tile: a number of lanes. A
*place* says which coordinate of a rank each lane stands for: `p = p_tile*128 + #p`, with `#p` the
lane. Lanes whose coordinate is not below the extent of the rank do not exist: they are neither
loaded, nor stored, nor part of a Fold, a Contract or a Best.

Expressions are those of the IR with four meanings: `Read(tile, ())` is a tile, `Coordinate(rank)`
the coordinate of a rank here, `Coordinate("#axis")` a lane, `Symbol` a scalar: an extent, a param,
or the position in the grid or in a loop. All arithmetic is float32 or integer; `Load` keeps the
type of its tensor for `Contract`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.walk import free_ranks


@dataclass(frozen=True, slots=True)
class Buffer:
    """A tensor in memory. `kind` is `in`, `out` or `temp`; `shape` is over extents and params.

    `dtype` is a type of the language (`f32`, `bf16`, `i64`, `bool`, ...), or `real`, `int`, `any`
    where the argument decides. `like` names an input whose type a temporary takes.
    """

    name: str
    ranks: tuple[str, ...]
    shape: tuple[Expr, ...]
    dtype: str
    kind: str
    like: str | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """A dimension of tiles; `size` is a number, or an extent that is known when code is made."""

    name: str
    size: Expr


@dataclass(frozen=True, slots=True)
class Place:
    """The coordinate of a rank, over lanes and scalars. Past `extent` it does not exist."""

    rank: str
    value: Expr
    extent: Expr


@dataclass(frozen=True, slots=True)
class GridAxis:
    """One dimension of the grid of a kernel: the scalar is one of 0 .. count-1. Instances start
    from 0 on, or from count-1 where they are `descending`: those with most to do come first.
    """

    scalar: str
    count: Expr
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Let:
    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Load:
    """`name = tensor[index]`; 0 where `present` fails or a coordinate does not exist."""

    name: str
    tensor: str
    index: tuple[Expr, ...]
    present: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Mask:
    """`value` where every condition holds, `fill` elsewhere.

    In a full tile of a `For` the conditions of its predicate hold, and need no test.
    """

    name: str
    value: Expr
    conditions: tuple[Expr, ...]
    fill: Const


@dataclass(frozen=True, slots=True)
class Fold:
    """A reduction of a tile along axes; `op` is sum, prod, max, min, any or all."""

    name: str
    op: str
    value: Expr
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contract:
    """The sum over axes of a product of tiles: exact where all are integers, else in float32."""

    name: str
    factors: tuple[Expr, ...]
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pick:
    """`value` at lane `at` of an axis, which the result no longer has; it has those of `at`.

    Where `at` is the coordinate of a rank whose place is a lane of an axis of the same size, the
    axis is renamed.
    """

    name: str
    value: Expr
    axis: str
    at: Expr


@dataclass(frozen=True, slots=True)
class Best:
    """The largest values along `axis` where `conditions` hold, and their `place`, descending along
    `target`; equal ones by place. `before` names tiles of the same form to merge with, or is None.
    Past the present ones, values are -inf and places -1.
    """

    names: tuple[str, str]
    value: Expr
    place: Expr
    conditions: tuple[Expr, ...]
    axis: str
    target: str
    before: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Carry:
    """A value that a loop carries: `name` is it before a step and, after the loop, at the end;
    `next` is the tile of the body that it becomes.
    """

    name: str
    init: Expr
    axes: tuple[str, ...]
    next: str
    kind: str = "real"


@dataclass(frozen=True, slots=True)
class TileList:
    """Numbers of tiles that an earlier kernel has listed: `tiles[*index, k]`, ascending, for the
    first `number[*index]` of k. What is read of a list is not counted, as bounds are not.
    """

    number: str
    tiles: str
    index: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class For:
    """Visits the tiles of `place.rank` at which `predicate` can hold, each once, in any order.

    `scalar` is the coordinate at which a tile starts. Full tiles have `tile` coordinates; those at
    which the predicate holds only in part are visited in pieces of `part` coordinates.

    `values` are further conditions of every point that counts, on what is loaded tile by tile: they
    bound nothing, but lists can be made of them (`cascade.schedule.lists`). A loop with lists
    visits the tiles of `full`, in which the whole predicate holds, and those of `some`, in which it
    may.
    """

    scalar: str
    place: Place
    axis: str
    tile: int
    part: int
    predicate: tuple[Expr, ...]
    carries: tuple[Carry, ...]
    body: tuple[Node, ...]
    values: tuple[Expr, ...] = ()
    some: TileList | None = None
    full: TileList | None = None

    @property
    def lists(self) -> tuple[TileList, ...]:
        return tuple(found for found in (self.full, self.some) if found is not None)


@dataclass(frozen=True, slots=True)
class Seq:
    """Runs its body for scalar = 0 .. count-1, in order; `places` are those that follow from it."""

    scalar: str
    count: Expr
    places: tuple[Place, ...]
    carries: tuple[Carry, ...]
    body: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Store:
    """`tensor[index] = value` at the lanes that exist and where `present` holds."""

    tensor: str
    index: tuple[Expr, ...]
    value: Expr
    present: tuple[Expr, ...] = ()


Node: TypeAlias = Let | Load | Mask | Fold | Contract | Pick | Best | For | Seq | Store


@dataclass(frozen=True)
class Kernel:
    """One launch: the body runs once for every point of the grid. Any order is right; instances
    start in that of the grid, the last dimension running fastest.
    """

    name: str
    grid: tuple[GridAxis, ...]
    axes: tuple[Axis, ...]
    places: tuple[Place, ...]
    body: tuple[Node, ...]

    def axis(self, name: str) -> Axis:
        return next(a for a in self.axes if a.name == name)


@dataclass(frozen=True)
class Program:
    """Kernels in the order of their launches, over named buffers.

    `widths` are the extents and params that are fixed when code is made, with their numbers (the
    size of a head); every other is a number of the run. `values` holds the definitions of params
    and of extents that follow from others (`M1 = ceil(M/M0)`), in the order of their dependences;
    what has none comes from the shapes of the inputs, or is given.
    """

    name: str
    buffers: tuple[Buffer, ...]
    kernels: tuple[Kernel, ...]
    values: tuple[tuple[str, Expr], ...]
    widths: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def buffer(self) -> dict[str, Buffer]:
        return {b.name: b for b in self.buffers}

    def __str__(self) -> str:
        from cascade.schedule.text import print_program

        return print_program(self)


def lane(axis: str) -> Coordinate:
    """The number of a lane of an axis: 0 .. size-1."""
    return Coordinate(f"#{axis}")


def lanes_of(e: Expr) -> tuple[str, ...]:
    """The axes whose lanes an expression mentions, in order of first mention."""
    return tuple(r[1:] for r in free_ranks(e) if r.startswith("#"))


def tile(name: str) -> Read:
    return Read(name, ())


def inside(nodes: tuple[Node, ...]) -> Iterator[Node]:
    """Every node, those of loops included, in order."""
    for node in nodes:
        yield node
        if isinstance(node, For | Seq):
            yield from inside(node.body)


def results(node: Node) -> tuple[str, ...]:
    """The names of the tiles that a node makes."""
    match node:
        case Let() | Load() | Mask() | Fold() | Contract() | Pick():
            return (node.name,)
        case Best():
            return node.names
        case For() | Seq():
            return tuple(c.name for c in node.carries)
        case Store():
            return ()


__all__ = [
    "Axis",
    "Best",
    "Buffer",
    "Carry",
    "Const",
    "Contract",
    "Coordinate",
    "Fold",
    "For",
    "GridAxis",
    "Kernel",
    "Let",
    "Load",
    "Map",
    "Mask",
    "Node",
    "Pick",
    "Place",
    "Program",
    "Seq",
    "Store",
    "Symbol",
    "TileList",
    "inside",
    "lane",
    "results",
    "tile",
]
