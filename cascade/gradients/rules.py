"""The derivative of every pointwise operator, as factors of a product and conditions.

`partial(e, k, value)` is the derivative of the map `e` by its k-th operand; `value` is an
expression for e itself, where one is at hand. Conditions leave out the points where the operand
does not count: they are absent, so that no factor of theirs is ever formed (0 * inf is no
gradient). Where a maximum is reached by several operands they share it equally.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cascade.gradients.build import compare, minus, negative, plus, times
from cascade.ir.expr import Const, Expr, Map

Factor = tuple[Expr, int]  # an expression and its power, 1 or below 0


@dataclass(frozen=True)
class Partial:
    """A product of factors, at the points that meet the conditions."""

    factors: tuple[Factor, ...] = ()
    conditions: tuple[Expr, ...] = ()


def partial(e: Map, k: int, value: Expr) -> Partial | None:
    """The derivative by operand k; None where it is 0 everywhere."""
    x = e.args[k]
    match e.op:
        case "+":
            return Partial()
        case "-":
            return Partial() if k == 0 else _times(Const(-1))
        case "neg":
            return _times(Const(-1))
        case "*":
            return _times(e.args[1 - k])
        case "/":
            above, below = e.args
            if k == 0:
                return Partial(((below, -1),))
            return Partial(((Const(-1), 1), (above, 1), (below, -2)))
        case "**":
            return _power(e.args, k, value)
        case "max" | "min":
            return _shared(e, x, value)
        case "clamp":
            return _clamp(e.args, k)
        case "relu":
            return Partial((), (compare(">", x, Const(0)),))
        case "abs":
            return _times(Map("sign", (x,)))
        case "select":
            raise AssertionError("a choice has no factor")
        case _:
            found = _function(e.op, x, value)
            return None if found is None else Partial(found)


def _times(e: Expr) -> Partial:
    return Partial(((e, 1),))


def _power(args: tuple[Expr, ...], k: int, value: Expr) -> Partial | None:
    x, n = args
    if k == 1:
        return Partial(((value, 1), (Map("log", (x,)), 1)), (compare(">", x, Const(0)),))
    match n:
        case Const(1) | Const(1.0):
            return Partial()
        case Const(2) | Const(2.0):
            return Partial(((Const(2), 1), (x, 1)))
        case Const(0) | Const(0.0):
            return None
        case Const(v) if not isinstance(v, bool):
            return Partial(((n, 1), (Map("**", (x, Const(v - 1))), 1)))
    return Partial(((n, 1), (Map("**", (x, minus(n, Const(1)))), 1)))


def _shared(e: Map, x: Expr, value: Expr) -> Partial:
    ties: Expr | None = None
    for arg in e.args:
        one = Map("select", (compare("==", arg, value), Const(1), Const(0)))
        ties = one if ties is None else plus(ties, one)
    assert ties is not None
    return Partial(((ties, -1),), (compare("==", x, value),))


def _clamp(args: tuple[Expr, ...], k: int) -> Partial:
    x, low, high = args
    if k == 0:
        return Partial((), (compare("<=", low, x), compare("<=", x, high)))
    return Partial((), (compare("<", x, low) if k == 1 else compare(">", x, high),))


def _function(op: str, x: Expr, z: Expr) -> tuple[Factor, ...] | None:
    one = Const(1)
    match op:
        case "exp":
            return ((z, 1),)
        case "exp2":
            return ((z, 1), (Const(math.log(2)), 1))
        case "log":
            return ((x, -1),)
        case "log2":
            return ((Const(1 / math.log(2)), 1), (x, -1))
        case "sqrt":
            return ((Const(0.5), 1), (z, -1))
        case "rsqrt":
            return ((Const(-0.5), 1), (z, 1), (z, 1), (z, 1))
        case "tanh":
            return ((minus(one, times(z, z)), 1),)
        case "sigmoid":
            return ((z, 1), (minus(one, z), 1))
        case "silu":
            s = Map("sigmoid", (x,))
            return ((s, 1), (plus(one, times(x, minus(one, s))), 1))
        case "gelu":
            half = times(Const(0.5), plus(one, Map("erf", (times(Const(math.sqrt(0.5)), x),))))
            bell = times(
                Const(1 / math.sqrt(2 * math.pi)), Map("exp", (times(Const(-0.5), times(x, x)),))
            )
            return ((plus(half, times(x, bell)), 1),)
        case "softplus":
            return ((Map("sigmoid", (x,)), 1),)
        case "erf":
            square = Map("exp", (negative(times(x, x)),))
            return ((Const(2 / math.sqrt(math.pi)), 1), (square, 1))
        case "sin":
            return ((Map("cos", (x,)), 1),)
        case "cos":
            return ((Const(-1), 1), (Map("sin", (x,)), 1))
    return None  # sign, floor, ceil, //, %: flat wherever they have a derivative
