"""Integer and boolean expressions over arrays: bounds, places and extents as numbers.

Division and remainder are floor division and its remainder, by 0 they are 0 (as in a statement).
Arrays broadcast against each other; the caller gives every axis its own dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np

from cascade.diagnostics import fail
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.extents import Number
from cascade.ir.printer import print_expr

Value = Any  # a number, or an array of integers or truth values


def _floor_divide(a: Value, b: Value) -> Value:
    return np.where(np.equal(b, 0), 0, np.floor_divide(a, np.where(np.equal(b, 0), 1, b)))


def _remainder(a: Value, b: Value) -> Value:
    return np.where(np.equal(b, 0), 0, np.remainder(a, np.where(np.equal(b, 0), 1, b)))


def _divide(a: Value, b: Value) -> Value:
    with np.errstate(all="ignore"):
        return np.true_divide(a, b)


def _rounded(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    def evaluate(a: Value) -> Value:
        array = np.asarray(a)
        return array if array.dtype.kind in "iub" else function(array).astype(np.int64)

    return evaluate


NUMPY: dict[str, Callable[..., Value]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": _divide,
    "//": _floor_divide,
    "%": _remainder,
    "**": np.power,
    "neg": np.negative,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "select": np.where,
    "abs": np.abs,
    "sign": np.sign,
    "relu": lambda a: np.maximum(a, 0),
    "floor": _rounded(np.floor),
    "ceil": _rounded(np.ceil),
    "min": lambda *args: reduce(np.minimum, args),
    "max": lambda *args: reduce(np.maximum, args),
    "clamp": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "sqrt": np.sqrt,
}


def evaluate(
    e: Expr,
    coordinate: Callable[[str], Value],
    tile: Callable[[str], Value],
    scalars: Mapping[str, Number],
) -> Value:
    """The value of an expression of a Program; a rank, a lane, a tile may be an array."""
    match e:
        case Const(value):
            return value
        case Symbol(name):
            return scalars[name]
        case Coordinate(rank):
            return coordinate(rank)
        case Read(name, ()):
            return tile(name)
        case Map(op, args) if op in NUMPY:
            return NUMPY[op](*(evaluate(a, coordinate, tile, scalars) for a in args))
        case _:
            raise fail("extent", f"`{print_expr(e)}` is no integer or truth value", e.span)
