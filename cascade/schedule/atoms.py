"""Comparisons of integers, solved for one rank.

Every comparison of integers is `s <= 0` for a sum s (`a < b` is `a - b + 1 <= 0`). It is solved by
laws that are equivalences, with m the rank, x any sum with m in it and n a positive number:

    m + r <= 0            m < 1 - r
    n*m + r <= 0          m < (n - r) // n            floor division
    r - n*m <= 0          m >= (r + n - 1) // n
    x//n + r <= 0         x <= n - 1 - n*r        m may be in r too
    x*n + r <= 0          x <= (-r) // n          n any positive expression
    r - x//n <= 0         n*r - x <= 0
    max(x, y) + r <= 0    x + r <= 0 and y + r <= 0
    min(x, y) + r <= 0    x + r <= 0 or y + r <= 0
    select(c, x, y) + r <= 0    c and x + r <= 0, or not c and y + r <= 0

and `abs(x) = max(x, -x)`, `clamp(x, l, h) = min(max(x, l), h)`, `relu(x) = max(x, 0)`. What remains
(a remainder of m, a product of two terms with m) makes the comparison residual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cascade.ir.expr import Const, Coordinate, Expr, Map, Symbol
from cascade.ir.walk import free_ranks
from cascade.schedule.disjuncts import (
    ALWAYS,
    NEVER,
    Disjunction,
    Interval,
    both,
    either,
    tested,
)
from cascade.schedule.sums import Sum, linear, quotient


@dataclass(frozen=True)
class Solver:
    """Solves the atom `whole` for `rank`. `positive` are symbols known to be 1 or more; `truth`
    solves a condition, or its negation.
    """

    whole: Expr
    rank: str
    positive: frozenset[str]
    truth: Callable[[Expr, bool], Disjunction]

    def compared(self, op: str, a: Expr, b: Expr) -> Disjunction:
        """Where `a op b` holds, both integers."""
        left, right = linear(a), linear(b)
        match op:
            case "<=":
                return self.at_most_zero(left - right)
            case "<":
                return self.at_most_zero((left - right).plus(1))
            case ">=":
                return self.at_most_zero(right - left)
            case ">":
                return self.at_most_zero((right - left).plus(1))
            case "==":
                return self._all([left - right, right - left])
            case _:
                return self._any([(left - right).plus(1), (right - left).plus(1)])

    def at_most_zero(self, s: Sum) -> Disjunction:
        inside = [(t, c) for t, c in s.terms if self.rank in free_ranks(t)]
        if not inside:
            return _decided(s)
        for term, c in inside:
            solved = self._split(term, c, s.without(term))
            if solved is not None:
                return solved
        alone = len(inside) == 1
        for term, c in inside:
            solved = self._peeled(term, c, s.without(term), alone)
            if solved is not None:
                return solved
        return tested(self.whole)

    def _any(self, sums: list[Sum]) -> Disjunction:
        return either([self.at_most_zero(s) for s in sums], self.whole)

    def _all(self, sums: list[Sum]) -> Disjunction:
        return both([(self.at_most_zero(s), self.whole) for s in sums])

    def _split(self, term: Expr, c: int, rest: Sum) -> Disjunction | None:
        """`c*term + rest <= 0` where the term is one of several values."""
        match term:
            case Map("min" | "max" as op, args):
                sums = [linear(a).times(c) + rest for a in args]
                return self._any(sums) if (op == "min") == (c > 0) else self._all(sums)
            case Map("abs", (a,)):
                return self._split(Map("max", (a, Map("neg", (a,)))), c, rest)
            case Map("relu", (a,)):
                return self._split(Map("max", (a, Const(0))), c, rest)
            case Map("clamp", (a, low, high)):
                return self._split(Map("min", (Map("max", (a, low)), high)), c, rest)
            case Map("select", (condition, a, b)):
                return self._selected(
                    condition, linear(a).times(c) + rest, linear(b).times(c) + rest
                )
            case _:
                return None

    def _selected(self, condition: Expr, a: Sum, b: Sum) -> Disjunction:
        cases = [
            both([(self.truth(condition, holds), self.whole), (self.at_most_zero(s), self.whole)])
            for holds, s in ((True, a), (False, b))
        ]
        return either(cases, self.whole)

    def _peeled(self, term: Expr, c: int, rest: Sum, alone: bool) -> Disjunction | None:
        """`c*term + rest <= 0` where the term is the rank, a quotient or a multiple. With `alone`
        the rank is not in `rest`.
        """
        match term:
            case Coordinate() if alone:
                return (_bound(c, rest),)
            case Map("//", (x, n)) if not linear(n).terms and linear(n).constant < 0:
                up = Map("//", (Map("neg", (x,)), Const(-linear(n).constant)))
                return self._peeled(up, c, rest, alone)
            case Map("//", (x, n)) if self._is_positive(n) and (alone or abs(c) == 1):
                return self._quotient(linear(x), n, c, rest)
            case Map("*", (x, n)) if alone and self._is_positive(n):
                return self._multiple(linear(x), n, c, rest)
            case Map("*", (n, x)) if alone and self._is_positive(n):
                return self._multiple(linear(x), n, c, rest)
            case _:
                return None

    def _multiple(self, x: Sum, n: Expr, c: int, rest: Sum) -> Disjunction:
        limit = _limit(c, rest)
        if c > 0:  # x*n <= l is x <= l//n
            return self.at_most_zero(x - linear(quotient(limit, n)))
        up = limit + linear(n).plus(-1)  # x*n >= l is x >= (l + n - 1)//n
        return self.at_most_zero(linear(quotient(up, n)) - x)

    def _quotient(self, x: Sum, n: Expr, c: int, rest: Sum) -> Disjunction:
        if c > 0:  # x//n <= l is x <= n*l + n - 1
            return self.at_most_zero(x - _times(_limit(c, rest), n) - linear(n).plus(-1))
        return self.at_most_zero(_times(_limit(c, rest), n) - x)  # x//n >= l is x >= n*l

    def _is_positive(self, e: Expr) -> bool:
        match e:
            case Const(value):
                return isinstance(value, int) and value >= 1
            case Symbol(name):
                return name in self.positive
            case Map("*" | "+", (a, b)):
                return self._is_positive(a) and self._is_positive(b)
            case Map("min" | "max", args):
                return all(self._is_positive(a) for a in args)
            case _:
                return False


def _limit(c: int, rest: Sum) -> Sum:
    """The largest x with `c*x + rest <= 0` for c > 0, the smallest for c < 0."""
    if abs(c) == 1:
        return rest.times(-c)
    if c > 0:
        return linear(quotient(rest.times(-1), Const(c)))
    return linear(quotient(rest.plus(-c - 1), Const(-c)))


def _bound(c: int, rest: Sum) -> Interval:
    if c > 0:
        return Interval(high=(quotient(rest.times(-1).plus(c), Const(c)),))
    return Interval(low=(quotient(rest.plus(-c - 1), Const(-c)),))


def _times(s: Sum, n: Expr) -> Sum:
    """A sum times a divisor, term by term."""
    factor = linear(n)
    if not factor.terms:
        return s.times(factor.constant)
    result = factor.times(s.constant)
    for term, c in s.terms:
        result = result + Sum(((Map("*", (term, n)), c),))
    return result


def _decided(s: Sum) -> Disjunction:
    """A comparison without the rank: true, false, or a condition of the row."""
    if not s.terms:
        return ALWAYS if s.constant <= 0 else NEVER
    a, b = s.sides()
    return (Interval(row=(Map("<=", (a, b)),)),)
