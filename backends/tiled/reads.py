"""Which tiles nodes read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.walk import reads
from cascade.schedule.program import Carry, Node, Place, inside


def tiles_read(nodes: tuple[Node, ...]) -> list[str]:
    """The names of all tiles that nodes read, those of their loops included."""
    found = (r.tensor for node in inside(nodes) for e in _expressions(node) for r in reads(e))
    return list(dict.fromkeys(found))


def _expressions(node: Node) -> Iterator[Expr]:
    """Everything a node computes from, what a loop carries included."""
    for f in fields(node):
        yield from _within(getattr(node, f.name), f.name)


def _within(part: object, name: str) -> Iterator[Expr]:
    match part:
        case Const() | Coordinate() | Symbol() | Map() | Read():
            yield part
        case Place(value=value, extent=extent):
            yield from (value, extent)
        case Carry(init=init, next=following):
            yield from (init, Read(following, ()))
        case tuple() if name == "before":
            yield from (Read(n, ()) for n in part)
        case tuple() if name != "body":
            for p in part:
                yield from _within(p, name)
