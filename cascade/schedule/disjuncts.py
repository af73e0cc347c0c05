"""Unions of intervals along one rank: what a predicate is solved into, and its two connectives.

A predicate becomes a *disjunction* of at most `LIMIT` intervals; a point counts where one of them
holds. What cannot be said by an interval is *residual*: it is tested at every point, and no tile
counts as a whole where there is one. Dropping a bound and keeping the condition it came from as a
residual is always right, so nothing here can fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cascade.ir.expr import Const, Expr

LIMIT = 4  # disjuncts; more cost more to evaluate in each kernel than they save


@dataclass(frozen=True, slots=True)
class Interval:
    """`max(low) <= m < min(high)` where all of `row` hold, at points where all of `residual` hold.

    `low`, `high` and `row` do not mention the rank `m`: they are known before its loop.
    """

    low: tuple[Expr, ...] = ()
    high: tuple[Expr, ...] = ()
    row: tuple[Expr, ...] = ()
    residual: tuple[Expr, ...] = ()


Disjunction = tuple[Interval, ...]

ALWAYS: Disjunction = (Interval(),)
NEVER: Disjunction = ()


def either(parts: Iterable[Disjunction], whole: Expr) -> Disjunction:
    """The union. Where it has too many intervals, `whole`, which it stands for, is residual."""
    found = _pruned(tuple(i for part in parts for i in part))
    return found if len(found) <= LIMIT else tested(whole)


def both(parts: Iterable[tuple[Disjunction, Expr]]) -> Disjunction:
    """The intersection. Each part comes with the condition that it stands for, which is residual
    where the part would make too many intervals: those with the fewest intervals come first.
    """
    found = ALWAYS
    for part, whole in sorted(parts, key=lambda p: len(p[0])):
        product = _pruned(tuple(_meet(a, b) for a in found for b in part))
        if len(product) > LIMIT:
            product = tuple(_meet(a, tested(whole)[0]) for a in found)
        found = product
    return found


def tested(condition: Expr) -> Disjunction:
    """Everywhere, with a condition that is tested at every point."""
    return (Interval(residual=(condition,)),)


def tidy(numbers: tuple[Expr, ...], *, largest: bool) -> tuple[Expr, ...]:
    """Bounds without repetition, and a single constant among them: the one that binds."""
    constants = [e.value for e in numbers if isinstance(e, Const)]
    others = [e for e in dict.fromkeys(numbers) if not isinstance(e, Const)]
    if not constants:
        return tuple(others)
    return (Const(max(constants) if largest else min(constants)), *others)


def is_empty(i: Interval) -> bool:
    """Whether constants alone show that no point is in an interval."""
    lows = [e.value for e in i.low if isinstance(e, Const)]
    highs = [e.value for e in i.high if isinstance(e, Const)]
    if lows and highs and max(lows) >= min(highs):
        return True
    return bool(set(i.low) & set(i.high))


def _meet(a: Interval, b: Interval) -> Interval:
    return Interval(
        tidy(a.low + b.low, largest=True),
        tidy(a.high + b.high, largest=False),
        tuple(dict.fromkeys(a.row + b.row)),
        tuple(dict.fromkeys(a.residual + b.residual)),
    )


def _pruned(found: Disjunction) -> Disjunction:
    """Without intervals that are empty, or within another one."""
    kept: list[Interval] = []
    for i in found:
        if is_empty(i) or any(_within(i, j) for j in kept):
            continue
        kept = [*(j for j in kept if not _within(j, i)), i]
    return tuple(kept)


def _within(a: Interval, b: Interval) -> bool:
    """Whether every bound and condition of `b` is one of `a`, so that `a` says no less."""
    pairs = ((a.low, b.low), (a.high, b.high), (a.row, b.row), (a.residual, b.residual))
    return all(set(theirs) <= set(ours) for ours, theirs in pairs)
