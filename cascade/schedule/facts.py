"""What is known of the tiles of a kernel without running it: their kinds, their axes, and which of
them are there before a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.extents import Number
from cascade.ir.kinds import declared_kind, is_whole_exponent
from cascade.ir.ops import MAPS
from cascade.ir.walk import transform, walk
from cascade.schedule.bounds import Interval, solve
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
    results,
)

Kinds = Mapping[str, str]  # of tiles: real, int or bool


def is_number(e: Expr) -> bool:
    """Whether an expression is over the numbers of a run alone, without a tile or a coordinate."""
    return all(isinstance(n, Const | Symbol | Map) for n in walk(e))


# -- what solving a predicate asks for
def positive(scalars: Mapping[str, Number]) -> frozenset[str]:
    """The scalars that a rank may be divided by: integers of 1 or more."""
    return frozenset(n for n, v in scalars.items() if type(v) is int and v >= 1)


def fractions(scalars: Mapping[str, Number]) -> frozenset[str]:
    """The scalars that are no integers."""
    return frozenset(n for n, v in scalars.items() if isinstance(v, float))


def loop_bounds(
    loop: For, kinds: Kinds, scalars: Mapping[str, Number], before: Callable[[str], bool]
) -> tuple[Interval, ...]:
    """The intervals of a loop's predicate. `before` says whether a tile is made before the loop."""
    real = fractions(scalars) | {n for n, k in kinds.items() if k == "real"}

    def known(e: Expr) -> bool:
        return all(_is_before(n, loop, before) for n in walk(e))

    place = loop.place
    return solve(loop.predicate, place.rank, place.extent, known, positive(scalars), real)


def _is_before(e: Expr, loop: For, before: Callable[[str], bool]) -> bool:
    match e:
        case Read(name, ()):
            return before(name)
        case Coordinate(rank):
            return rank != f"#{loop.axis}"
        case Symbol(name):
            return name != loop.scalar
        case _:
            return True


def made_in(loop: For | Seq) -> frozenset[str]:
    """The tiles that a loop makes, those that it carries included."""
    return frozenset(n for node in (loop, *inside(loop.body)) for n in results(node))


def inlined(e: Expr, nodes: Iterable[Node]) -> Expr:
    """An expression without the tiles that `Let` makes among these nodes: a mask with a name of its
    own (`OK = m <= p`) bounds a loop only where it is seen through.
    """
    values = {n.name: n.value for n in nodes if isinstance(n, Let)}

    def seen_through(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor in values:
            return transform(values[node.tensor], seen_through)
        return None

    return transform(e, seen_through)


# -- kinds
def tile_kinds(program: Program, kernel: Kernel, dtypes: Mapping[str, str] | None = None) -> Kinds:
    """Whether each tile is real, int or bool. `dtypes` are types of tensors whose arguments decide;
    such a tensor without a type is real.
    """
    types = {b.name: b.dtype for b in program.buffers} | dict(dtypes or {})
    real = real_values(program.values)
    kinds: dict[str, str] = {}
    for node in inside(kernel.body):
        match node:
            case Let(name, e) | Mask(name, e) | Pick(name, e):
                kinds[name] = kind_of(e, kinds, real)
            case Load(name, tensor):
                kind = declared_kind(types[tensor])
                kinds[name] = "real" if kind == "any" else kind
            case Fold(name, op, e):
                kind = kind_of(e, kinds, real)
                kinds[name] = "int" if kind == "bool" and op not in ("any", "all") else kind
            case Contract(name, factors):
                whole = all(kind_of(f, kinds, real) != "real" for f in factors)
                kinds[name] = "int" if whole else "real"
            case Best((value, place)):
                kinds |= {value: "real", place: "int"}
            case For() | Seq():
                kinds |= {c.name: c.kind for c in node.carries}
            case Store():
                pass
    return kinds


def real_values(values: Iterable[tuple[str, Expr]]) -> frozenset[str]:
    """The params and extents that are no integers, by their definitions."""
    found: set[str] = set()
    for name, e in values:
        if kind_of(e, {}, frozenset(found)) == "real":
            found.add(name)
    return frozenset(found)


def kind_of(e: Expr, kinds: Kinds, real: frozenset[str]) -> str:
    """real, int or bool; `real` are the scalars that are no integers."""
    match e:
        case Const(value):
            return {bool: "bool", int: "int"}.get(type(value), "real")
        case Symbol(name):
            return "real" if name in real else "int"
        case Read(name, ()):
            return kinds.get(name, "real")
        case Map("**", (_, b)) if not is_whole_exponent(b):
            return "real"
        case Map(op, args):
            gives = MAPS[op].gives
            parts = args[1:] if op == "select" else args
            return gives if gives != "same" else _joined(kind_of(a, kinds, real) for a in parts)
        case _:
            return "int"


def _joined(kinds: Iterator[str]) -> str:
    found = set(kinds)
    return found.pop() if len(found) == 1 else "real" if "real" in found else "int"


# -- axes
Axes = frozenset[str]


def axes_of(e: Expr, places: Mapping[str, Place], tiles: Mapping[str, Axes]) -> Axes:
    """The axes along which the value of an expression may vary."""
    found: Axes = frozenset()
    for n in walk(e):
        match n:
            case Read(name, ()):
                found |= tiles[name]
            case Coordinate(rank) if rank.startswith("#"):
                found |= {rank[1:]}
            case Coordinate(rank):
                found |= axes_of(places[rank].value, places, tiles)
    return found


def tile_axes(kernel: Kernel) -> dict[str, Axes]:
    """The axes of every tile of a kernel."""
    tiles: dict[str, Axes] = {}
    _add_axes(kernel.body, {p.rank: p for p in kernel.places}, tiles)
    return tiles


def _add_axes(nodes: tuple[Node, ...], places: Mapping[str, Place], tiles: dict[str, Axes]) -> None:
    def of(*parts: Expr) -> Axes:
        return frozenset().union(*(axes_of(e, places, tiles) for e in parts))

    for node in nodes:
        match node:
            case Let(name, e):
                tiles[name] = of(e)
            case Load(name, _, index, present):
                tiles[name] = of(*index, *present)
            case Mask(name, e, conditions):
                tiles[name] = of(e, *conditions)
            case Fold(name, _, e, axes):
                tiles[name] = of(e) - set(axes)
            case Contract(name, factors, axes):
                tiles[name] = of(*factors) - set(axes)
            case Pick(name, e, axis, at):
                tiles[name] = (of(e) - {axis}) | of(at)
            case Best():
                kept = of(node.value, *node.conditions) - {node.axis}
                tiles |= dict.fromkeys(node.names, kept | {node.target})
            case For() | Seq():
                tiles |= {c.name: frozenset(c.axes) for c in node.carries}
                own = (node.place,) if isinstance(node, For) else node.places
                _add_axes(node.body, {**places, **{p.rank: p for p in own}}, tiles)
            case Store():
                pass
