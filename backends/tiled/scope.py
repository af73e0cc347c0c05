"""Expressions over tiles, coordinates and scalars as values of a tape.

A scope knows how many lanes each axis has here, where they are, and the tiles that have been made.
Equal expressions are computed once; those over extents and params are numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.backends.tiled.spell import LOOPS, expand, is_real
from cascade.backends.tiled.tape import BOOL, INT, SHORT, Array, Step, Tape, Value, constant
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.extents import Number, evaluate
from cascade.ir.ops import COMPARISONS, MAPS
from cascade.ir.walk import walk
from cascade.schedule.program import Kernel, Place
from cascade.schedule.settle import is_natural

Like = tuple[tuple[str, ...], tuple[int, ...], np.dtype[Any]]
INTEGERS = ("+", "-", "*", "//", "%", "neg", "min", "max", "abs", "sign")


@dataclass(frozen=True, eq=False)
class Context:
    """What is the same for all bodies of a kernel: numbers of the run, tensors, the real type."""

    kernel: Kernel
    scalars: Mapping[str, Number]
    tensors: Mapping[str, Array]
    real: np.dtype[Any]

    @property
    def order(self) -> dict[str, int]:
        return {a.name: n for n, a in enumerate(self.kernel.axes)}


class Scope:
    """One body of a kernel: the kernel's own, or that of a loop for one size of its tile."""

    def __init__(
        self,
        context: Context,
        lengths: Mapping[str, int],
        places: Mapping[str, Place],
        boxes: Mapping[str, Value],
        limits: Mapping[str, float],
        parent: Scope | None = None,
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
        self.memo: dict[Expr, Value] = {}
        self.order = context.order
        self.real = context.real

    def tile(self, name: str) -> Value:
        scope: Scope | None = self
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
        scope: Scope | None = self
        while scope is not None:
            real |= {n for n, v in scope.tiles.items() if v.dtype.kind == "f"}
            scope = scope.parent
        return frozenset(positive), frozenset(real)

    def known(self, e: Expr) -> Number:
        """The number of an expression over extents and params."""
        return evaluate(e, self.context.scalars.__getitem__)

    # -- what an expression is made of
    def axes_of(self, e: Expr) -> tuple[str, ...]:
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
                return self.places[rank].extent == extent
            case _:
                return False

    # -- values
    def value(self, e: Expr) -> Value:
        found = self.memo.get(e)
        if found is None:
            found = self.memo[e] = self._value(e)
        return found

    def _value(self, e: Expr) -> Value:
        match e:
            case Read(name, ()):
                return self.tile(name)
            case Coordinate(rank) if rank.startswith("#"):
                return constant(np.arange(self.lengths[rank[1:]]), INT, (rank[1:],))
            case Coordinate(rank):
                return self.value(self.places[rank].value)
            case Symbol(name) if name in self.boxes:
                return self.boxes[name]
            case Const() | Symbol():
                return self._number(self.known(e))
            case Map(op, args):
                values = [self.value(a) for a in args]
                if all(v.constant and not v.axes for v in values):
                    number = self.number(e)
                    if number is not None:
                        return self._number(number)
                if op == "select":
                    return self.choose(self.cast(values[0], BOOL), values[1], values[2])
                longer = expand(op, args, self.real.itemsize == 8)
                return self.value(longer) if longer is not None else self._map(op, args, values)
            case _:
                raise AssertionError(f"{type(e).__name__} in a tile")

    def _number(self, number: Number) -> Value:
        return constant(number, self.type_of(number))

    def type_of(self, number: Number) -> np.dtype[Any]:
        if isinstance(number, bool):
            return BOOL
        return INT if isinstance(number, int) else self.real

    def _map(self, op: str, args: tuple[Expr, ...], values: list[Value]) -> Value:
        if op in ("floor", "ceil") and values[0].dtype.kind != "f":
            return self.cast(values[0], INT)
        common = self._common(op, args, values)
        if op in COMPARISONS and common == INT and self._is_short(args):
            common = SHORT
        values = [self.cast(v, common) for v in values]
        dtype = BOOL if MAPS[op].gives == "bool" else common
        result = self.pointwise(LOOPS[op], values, dtype)
        return self.cast(result, INT) if MAPS[op].gives == "int" else result

    def _common(self, op: str, args: tuple[Expr, ...], values: list[Value]) -> np.dtype[Any]:
        """The type of the operands."""
        if MAPS[op].takes == "bool":
            return BOOL
        if is_real(op) or any(v.dtype.kind == "f" for v in values):
            return self.real
        if op == "**" and not is_natural(args[1]):
            return self.real
        if all(v.dtype == BOOL for v in values) and op in ("==", "!="):
            return BOOL
        return INT

    def _is_short(self, args: tuple[Expr, ...]) -> bool:
        """Whether coordinates of two axes are compared, and 32 bits are enough: twice as fast."""
        axes = [self.axes_of(a) for a in args]
        return all(axes) and axes[0] != axes[1] and all(self.reach(a) < 2**31 for a in args)

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

    def pointwise(
        self, function: Callable[..., Any], values: list[Value], dtype: np.dtype[Any]
    ) -> Value:
        axes = self.sorted({a for v in values for a in v.axes})
        like = self.like(axes, dtype)
        spread = tuple(self.spread(v, axes) for v in values)
        into = tuple(v for v in spread if (v.axes, v.shape, v.dtype) == like)
        return self.tape.compute(function, spread, like, into)

    def spread(self, v: Value, axes: tuple[str, ...]) -> Value:
        """A view that NumPy broadcasts along the axes it lacks."""
        if v.axes == axes[len(axes) - len(v.axes) :]:
            return v
        present = [a for a in axes if a in v.axes]
        turn = [v.axes.index(a) for a in present]
        key = tuple(slice(None) if a in v.axes else None for a in axes)
        shape = tuple(v.shape[v.axes.index(a)] if a in v.axes else 1 for a in axes)
        return self.tape.view(v, axes, shape, lambda array: array.transpose(turn)[key])

    def whole(self, v: Value, axes: tuple[str, ...]) -> Value:
        """A view with all these axes, each as long as it is here."""
        v = self.spread(v, axes)
        shape = tuple(self.lengths[a] for a in axes)
        if v.axes == axes and v.shape == shape:
            return v
        return self.tape.view(v, axes, shape, lambda array: np.broadcast_to(array, shape))

    def cast(self, v: Value, dtype: np.dtype[Any]) -> Value:
        if v.dtype == dtype:
            return v
        if v.constant:
            return constant(v.array, dtype, v.axes)
        return self.copy(v, dtype)

    def copy(self, v: Value, dtype: np.dtype[Any] | None = None) -> Value:
        """The same numbers in memory of their own."""
        like = (v.axes, v.shape, dtype or v.dtype)
        return self.tape.compute(_copy, (v,), like)

    def choose(self, where: Value, a: Value, b: Value) -> Value:
        """`a` where a truth value holds, else `b`; in the memory of `b` if it dies."""
        dtype = self._either(a, b)
        a, b = self.cast(a, dtype), self.cast(b, dtype)
        axes = self.sorted({*where.axes, *a.axes, *b.axes})
        like = self.like(axes, dtype)
        where, a, b = (self.spread(v, axes) for v in (where, a, b))
        out = Value(*like)

        def run() -> None:
            if not out.shares(b):
                np.copyto(out.array, b.array)
            np.copyto(out.array, a.array, where=where.array)

        apart = b.memory is not where.memory and (b.axes, b.shape, b.dtype) == like
        self.tape.emit(Step(run, (where, a, b), (out,), (b,) if apart else ()))
        return out

    def _either(self, a: Value, b: Value) -> np.dtype[Any]:
        for dtype in (self.real, INT):
            if dtype in (a.dtype, b.dtype):
                return dtype
        return BOOL

    def all_of(self, conditions: tuple[Expr, ...]) -> Value | None:
        """Whether all conditions hold; None for no condition."""
        result: Value | None = None
        for c in conditions:
            found = self.cast(self.value(c), BOOL)
            result = (
                found if result is None else self.pointwise(np.logical_and, [result, found], BOOL)
            )
        return result

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


def _copy(x: Array, out: Array) -> None:
    np.copyto(out, x, casting="unsafe")
