"""Truth values as a person would write them: no `not not`, no `true and`."""

from __future__ import annotations

from cascade.ir.expr import Const, Expr, Map
from cascade.ir.walk import transform


def shortest(e: Expr) -> Expr:
    """The same value at every point: a constant is neither absent nor unknown, so it may go."""
    return transform(e, _rule)


def _rule(e: Expr) -> Expr | None:
    match e:
        case Map("not", (Map("not", (x,)),)):
            return x
        case Map("not", (Const(bool(value)),)):
            return Const(not value)
        case Map("and" | "or" as op, (a, b)):
            idle = op == "and"  # `true and b`, `false or b`
            if isinstance(a, Const) and a.value is idle:
                return b
            if isinstance(b, Const) and b.value is idle:
                return a
    return None
