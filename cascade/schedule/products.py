"""Expressions as products: their factors, what terms have in common taken out, and their terms.

`a*b - a*c` has the factors `a` and `b - c`: one contraction with `a` instead of two, and a factor
that does not vary along a sum can leave it.

Among factors `1/y` says that they are divided by `y`. It is not to be computed: it overflows where
`y` is small, and `x/y` need not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cascade.ir.expr import Const, Expr, Map
from cascade.schedule.facts import is_number


def factors(e: Expr) -> list[Expr]:
    """The factors of a product; a quotient has the reciprocal of its denominator."""
    match e:
        case Map("*", (a, b)):
            return [*factors(a), *factors(b)]
        case Map("/", (a, b)):
            return [*factors(a), Map("/", (Const(1.0), b))]
        case Map("neg", (a,)):
            return [Const(-1), *factors(a)]
        case Map("+" | "-" as op, (a, b)):
            return _of_sum(e, op, factors(a), factors(b))
        case _:
            return [e]


def _of_sum(e: Expr, op: str, a: list[Expr], b: list[Expr]) -> list[Expr]:
    """The factors of a sum or a difference of two products: the common ones, and what is left. A
    quotient is not taken apart for that.
    """
    common: list[Expr] = []
    left, right = [], list(b)
    for f in a:
        if f in right and not isinstance(f, Const):
            right.remove(f)
            common.append(f)
        else:
            left.append(f)
    if not common or any(divisor(f) is not None for f in (*left, *right)):
        return [e]
    return [*common, Map(op, (product(left), product(right)))]


def divisor(f: Expr) -> Expr | None:
    """What a factor divides by. A number of the run is none: its reciprocal is a number, too."""
    match f:
        case Map("/", (Const(1), below)) if not is_number(below):
            return below
    return None


def product(parts: Sequence[Expr]) -> Expr:
    """The product of factors; 1 of none."""
    over = [f for f in parts if divisor(f) is None] or [Const(1)]
    result = over[0]
    for part in over[1:]:
        result = Map("*", (result, part))
    for part in parts:
        below = divisor(part)
        if below is not None:
            result = Map("/", (result, below))
    return result


def terms(e: Expr) -> Iterator[Expr]:
    """The terms of a sum, with their signs."""
    match e:
        case Map("+", (a, b)):
            yield from terms(a)
            yield from terms(b)
        case Map("-", (a, b)):
            yield from terms(a)
            yield from (Map("neg", (t,)) for t in terms(b))
        case _:
            yield e


def added(parts: Sequence[Expr]) -> Expr:
    """The sum of terms; one with a minus is taken away."""
    result = parts[0]
    for part in parts[1:]:
        match part:
            case Map("*", (Const(-1), rest)) | Map("neg", (rest,)):
                result = Map("-", (result, rest))
            case _:
                result = Map("+", (result, part))
    return result
