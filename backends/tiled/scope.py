"""Expressions over tiles, coordinates and scalars as values of a tape.

Equal expressions are computed once; those over extents and params are numbers. All arithmetic is in
the real type, in integers or in truth values, and writes where it is told to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cascade.backends.tiled.known import Known
from cascade.backends.tiled.machine import Machine
from cascade.backends.tiled.spell import LOOPS, expand, is_real
from cascade.backends.tiled.tape import BOOL, INT, Array, Run, Step, Value, constant
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.extents import Number
from cascade.ir.kinds import is_whole_exponent
from cascade.ir.ops import COMPARISONS, MAPS


class Scope(Known):
    """One body of a kernel: the kernel's own, or that of a loop for one size of its tile."""

    def __init__(self, *known: Any, **more: Any):
        super().__init__(*known, **more)
        self.memo: dict[Expr, Value] = {}

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
                if all(v.cell is not None and not v.axes for v in values):
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
        if op in COMPARISONS and common == INT:
            common = self.shortest(args)
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
        if op == "**" and not is_whole_exponent(args[1]):
            return self.real
        if all(v.dtype == BOOL for v in values) and op in ("==", "!="):
            return BOOL
        return INT

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
        if v.constant is not None:
            return constant(v.constant, dtype, v.axes)
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

        def make(m: Machine) -> Run:
            test, first, second, target = m[where], m[a], m[b], m[out]

            def run() -> None:
                if not target.shares(second):
                    np.copyto(target.array, second.array)
                np.copyto(target.array, first.array, where=test.array)

            return run

        apart = b.memory is not where.memory and (b.axes, b.shape, b.dtype) == like
        self.tape.emit(Step(make, (where, a, b), (out,), (b,) if apart else ()))
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


def _copy(x: Array, out: Array) -> None:
    np.copyto(out, x, casting="unsafe")
