"""What is known of a body before anything in it is computed.

How many lanes each axis has here and where they are, the tiles that have been made, and what that
says of an expression: its axes, its number if it is one, how large it can be, and whether it is a
start plus a lane.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cascade.backends.tiled.tape import INT, Cell, Tape, Value
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.extents import Number, evaluate
from cascade.ir.walk import walk
from cascade.schedule.program import Kernel, Place
from cascade.schedule.settle import is_natural

Like = tuple[tuple[str, ...], tuple[int, ...], np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Context:
    """What is the same for all bodies of a kernel: numbers of the run, tensors, the real type.

    A tensor is a cell: the next run may bind it to another array of the same layout.
    """

    kernel: Kernel
    scalars: Mapping[str, Number]
    tensors: Mapping[str, Cell]
    real: np.dtype[Any]

    @cached_property
    def order(self) -> dict[str, int]:
        return {a.name: n for n, a in enumerate(self.kernel.axes)}


class Known:
    """The surroundings of one body; `boxes` hold the scalars of the grid and of loops."""

    def __init__(
        self,
        context: Context,
        lengths: Mapping[str, int],
        places: Mapping[str, Place],
        boxes: Mapping[str, Value],
        limits: Mapping[str, float],
        parent: Known | None = None,
        changing: tuple[Value, ...] = (),
    ):
        self.context = context
        self.lengths = dict(lengths)
        self.places = dict(places)
        self.boxes = dict(boxes)
        self.limits = dict(limits)  # of the boxes: what they never exceed
        self.parent = parent
        self.tape = Tape(changing)
        self.tiles: dict[str, Value] = {}
        self._axes: dict[Expr, tuple[str, ...]] = {}
        self.order = context.order
        self.real = context.real

    def tile(self, name: str) -> Value:
        scope: Known | None = self
        while scope is not None:
            if name in scope.tiles:
                return scope.tiles[name]
            scope = scope.parent
        raise KeyError(f"the tile `{name}` is read before it is made")

    def has(self, name: str) -> bool:
        return name in self.tiles or (self.parent is not None and self.parent.has(name))

    def facts(self) -> tuple[frozenset[str], frozenset[str]]:
        """Names of scalars that are 1 or more, and of tiles and scalars that are no integers."""
        positive = {n for n, v in self.context.scalars.items() if type(v) is int and v >= 1}
        real = {n for n, v in self.context.scalars.items() if isinstance(v, float)}
        scope: Known | None = self
        while scope is not None:
            real |= {n for n, v in scope.tiles.items() if v.dtype.kind == "f"}
            scope = scope.parent
        return frozenset(positive), frozenset(real)

    def known(self, e: Expr) -> Number:
        """The number of an expression over extents and params."""
        return evaluate(e, self.context.scalars.__getitem__)

    # -- what an expression is made of
    def axes_of(self, e: Expr) -> tuple[str, ...]:
        axes = self._axes.get(e)
        if axes is None:
            axes = self._axes[e] = self._find_axes(e)
        return axes

    def _find_axes(self, e: Expr) -> tuple[str, ...]:
        found: set[str] = set()
        for node in walk(e):
            match node:
                case Read(name, ()):
                    found.update(self.tile(name).axes)
                case Coordinate(rank) if rank.startswith("#"):
                    found.add(rank[1:])
                case Coordinate(rank):
                    found.update(self.axes_of(self.places[rank].value))
        return self.sorted(found)

    def sorted(self, axes: set[str] | tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(axes, key=self.order.__getitem__))

    def like(self, axes: tuple[str, ...], dtype: np.dtype[Any]) -> Like:
        return axes, tuple(self.lengths[a] for a in axes), dtype

    def number(self, e: Expr) -> Number | None:
        """The number that an expression over extents and params is; None if it is none."""
        known = self.context.scalars
        for node in walk(e):
            if isinstance(node, Read | Coordinate):
                return None
            if isinstance(node, Symbol) and (node.name in self.boxes or node.name not in known):
                return None
        try:
            return evaluate(e, known.__getitem__)
        except (ArithmeticError, ValueError):
            return None

    def trivial(self, condition: Expr) -> bool:
        """Whether a condition says that a coordinate exists, as all do that have a lane here."""
        match condition:
            case Map("<", (Coordinate(rank), extent)) if rank in self.places:
                place = self.places[rank]
                exists = isinstance(place.value, Symbol) or bool(self.axes_of(place.value))
                return exists and place.extent == extent
            case _:
                return False

    def shortest(self, args: tuple[Expr, ...]) -> np.dtype[Any]:
        """The integers in which to compare. Between coordinates of two axes there are many
        comparisons and few conversions, and short integers are compared several times as fast.
        """
        axes = [self.axes_of(a) for a in args]
        if all(axes) and axes[0] != axes[1]:
            reach = max(self.reach(a) for a in args)
            for dtype in (np.int16, np.int32):
                if reach <= np.iinfo(dtype).max:
                    return np.dtype(dtype)
        return INT

    def reach(self, e: Expr) -> float:
        """The largest absolute value that an integer expression over coordinates can have."""
        match e:
            case Const(value) if isinstance(value, int):
                return abs(value)
            case Symbol(name) if name in self.boxes:
                return self.limits[name]
            case Symbol(name):
                return abs(self.context.scalars[name])
            case Coordinate(rank) if rank.startswith("#"):
                return self.lengths[rank[1:]]
            case Coordinate(rank):
                return abs(self.known(self.places[rank].extent))
            case Map("+" | "-" | "min" | "max", args):
                return sum(self.reach(a) for a in args)
            case Map("//" | "%", (a, b)) if is_natural(a) and is_natural(b):
                return self.reach(a)
            case Map("*", (a, b)):
                return self.reach(a) * self.reach(b)
            case _:
                return math.inf

    # -- lanes that follow each other
    def offset(self, e: Expr) -> tuple[str | None, Expr] | None:
        """(axis, start) where an expression is start + lane; (None, e) where it has no axis."""
        match e:
            case Coordinate(rank) if rank.startswith("#"):
                return rank[1:], Const(0)
            case Coordinate(rank):
                return self.offset(self.places[rank].value)
            case Map("+" | "-" as op, (a, b)) if self.axes_of(e):
                first, second = self.offset(a), self.offset(b)
                if first is None or second is None:
                    return None
                if op == "+" and first[0] is None:
                    first, second = second, first
                if second[0] is not None:
                    return None
                start = second[1] if first[1] == Const(0) and op == "+" else None
                return first[0], start or Map(op, (first[1], second[1]))
            case _:
                return None if self.axes_of(e) else (None, e)
