"""Constructors of expressions that leave out what does nothing."""

from __future__ import annotations

from collections.abc import Iterable

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Where
from cascade.ir.walk import conjunction

ONE, ZERO = Const(1), Const(0)


def negative(e: Expr) -> Expr:
    if isinstance(e, Const) and not isinstance(e.value, bool):
        return Const(-e.value)
    if isinstance(e, Map) and e.op == "neg":
        return e.args[0]
    return Map("neg", (e,))


def plus(a: Expr, b: Expr) -> Expr:
    if isinstance(b, Map) and b.op == "neg":
        return Map("-", (a, b.args[0]))
    return Map("+", (a, b))


def minus(a: Expr, b: Expr) -> Expr:
    return Map("-", (a, b))


def times(*parts: Expr) -> Expr:
    result: Expr | None = None
    for part in parts:
        if part == ONE or part == Const(1.0):
            continue
        result = part if result is None else Map("*", (result, part))
    return ONE if result is None else result


def over(a: Expr, b: Expr) -> Expr:
    return a if b in (ONE, Const(1.0)) else Map("/", (a, b))


def where(e: Expr, conditions: Iterable[Expr]) -> Expr:
    parts = tuple(dict.fromkeys(conditions))
    return Where(e, conjunction(parts)) if parts else e


def or_zero(e: Expr) -> Expr:
    """`e`, and 0 where it is absent."""
    return Map("??", (e, ZERO))


def point(ranks: Iterable[str]) -> tuple[Expr, ...]:
    return tuple(Coordinate(r) for r in ranks)


def at(tensor: str, ranks: Iterable[str]) -> Read:
    return Read(tensor, point(ranks))


def compare(op: str, a: Expr, b: Expr) -> Expr:
    return Map(op, (a, b))
