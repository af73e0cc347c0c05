"""The Einsum convention: which ranks of a right side are summed without being written.

A rank on the right and not on the left is summed only where the right side is one product (or
quotient) and each factor that carries the rank is a plain read. Everything else must say
`sum[m](…)`.
"""

from __future__ import annotations

from cascade.ir.expr import Expr, Map, Read
from cascade.ir.walk import free_ranks


def factors(e: Expr) -> tuple[Expr, ...]:
    """The factors (and divisors) of a product; a single expression is its own only factor."""
    if isinstance(e, Map) and e.op in ("*", "/"):
        return factors(e.args[0]) + factors(e.args[1])
    if isinstance(e, Map) and e.op == "neg":
        return factors(e.args[0])
    return (e,)


def implicit_ranks(body: Expr, scope: tuple[str, ...]) -> tuple[str, ...]:
    """The ranks that the left side does not bind, whether or not they may be summed."""
    return tuple(r for r in free_ranks(body) if r not in scope)


def offending_factor(body: Expr, ranks: tuple[str, ...]) -> Expr | None:
    """The first factor that carries one of the ranks and is not a plain read."""
    for factor in factors(body):
        if not isinstance(factor, Read) and set(free_ranks(factor)) & set(ranks):
            return factor
    return None


def implicit_sum(body: Expr, scope: tuple[str, ...]) -> tuple[str, ...] | None:
    """The ranks summed implicitly, () if there are none, None if the convention forbids it."""
    ranks = implicit_ranks(body, scope)
    return ranks if offending_factor(body, ranks) is None else None
