"""How the pointwise operators are computed with NumPy's own loops, which write where they are told.

What has no loop of its own is written with others, as an expression.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cascade.backends.spelling import erf
from cascade.ir.expr import Const, Expr, Map
from cascade.ir.ops import MAPS

LOOPS: dict[str, Callable[..., Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "//": np.floor_divide,
    "%": np.mod,
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
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "softplus": lambda x, out: np.logaddexp(x, np.zeros((), x.dtype), out),
    "erf": lambda x, out: np.copyto(out, erf(x), casting="unsafe"),
    "sin": np.sin,
    "cos": np.cos,
    "abs": np.absolute,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "min": np.minimum,
    "max": np.maximum,
}

FOLDS: dict[str, Any] = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "any": np.logical_or,
    "all": np.logical_and,
}

# erf in float32: x * P(x*x) / Q(x*x) for |x| <= 4, highest power first
_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def expand(op: str, args: tuple[Expr, ...], exact: bool) -> Expr | None:
    """An operator by means of others; None for one that has a loop. `exact` is for float64."""
    match op, args:
        case "sigmoid", (x,):
            return _divide(Const(1), _add(Const(1), Map("exp", (Map("neg", (x,)),))))
        case "silu", (x,):
            return _multiply(x, Map("sigmoid", (x,)))
        case "gelu", (x,):
            inner = Map("erf", (_multiply(x, Const(math.sqrt(0.5))),))
            return _multiply(_multiply(x, Const(0.5)), _add(Const(1), inner))
        case "erf", (x,) if not exact:
            return _erf(x)
        case "rsqrt", (x,):
            return _divide(Const(1), Map("sqrt", (x,)))
        case "relu", (x,):
            return Map("max", (x, Const(0)))
        case "clamp", (x, low, high):
            return Map("min", (Map("max", (x, low)), high))
        case "??", (x, _):
            return x
        case (("min" | "max"), (x, y, *rest)) if rest:
            return Map(op, (Map(op, (x, y)), *rest))
        case _:
            return None


def _erf(x: Expr) -> Expr:
    x = Map("clamp", (x, Const(-4.0), Const(4.0)))
    square = _multiply(x, x)
    return _divide(_multiply(x, _horner(_P, square)), _horner(_Q, square))


def _horner(coefficients: tuple[float, ...], x: Expr) -> Expr:
    result: Expr = Const(coefficients[0])
    for c in coefficients[1:]:
        result = _add(_multiply(result, x), Const(c))
    return result


def _add(a: Expr, b: Expr) -> Expr:
    return Map("+", (a, b))


def _multiply(a: Expr, b: Expr) -> Expr:
    return Map("*", (a, b))


def _divide(a: Expr, b: Expr) -> Expr:
    return Map("/", (a, b))


def is_real(op: str) -> bool:
    """Whether operands are taken as real numbers, whatever they are."""
    return MAPS[op].gives == "real" or op in ("floor", "ceil")
