"""Masks to bounds: the coordinates of a rank at which a predicate can hold, as intervals.

A predicate over tiles of rows and a stream rank is brought to disjunctions of intervals: negations
go to the comparisons, comparisons are solved for the rank (`cascade.schedule.atoms`), `and` and
`or` intersect and unite. What stays on the other side of a bound is any expression of the row: a
window read from memory, a quotient, a minimum. What has no such form is residual.

    m <= p and (p - m < W or m < 4)     0, p - W + 1 <= m < M, p + 1
                                    or  0 <= m < M, p + 1, 4
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cascade.ir.expr import Const, Expr, Map
from cascade.ir.walk import conjuncts, free_ranks
from cascade.schedule.atoms import Solver
from cascade.schedule.disjuncts import (
    ALWAYS,
    NEVER,
    Disjunction,
    Interval,
    both,
    either,
    is_empty,
    tested,
    tidy,
)
from cascade.schedule.sums import is_integer

OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


def solve(
    predicate: tuple[Expr, ...],
    rank: str,
    extent: Expr,
    known: Callable[[Expr], bool],
    positive: frozenset[str] = frozenset(),
    real: frozenset[str] = frozenset(),
) -> tuple[Interval, ...]:
    """The coordinates of `rank`, from 0 and below `extent`, at which every conjunct holds.

    `known` says of a condition whether all that it reads is there before the loop; other conditions
    are residual. `positive` names symbols that are 1 or more, by which a rank may be divided, and
    `real` the tiles and symbols that may hold fractions: comparisons of such with the rank are
    residual. No interval at all means that the predicate never holds.
    """
    solver = _Predicates(rank, known, positive, real)
    parts = [(solver.truth(c, True), c) for e in predicate for c in conjuncts(e)]
    found = (
        Interval(
            tidy((Const(0), *i.low), largest=True),
            tidy((extent, *i.high), largest=False),
            i.row,
            i.residual,
        )
        for i in both(parts)
    )
    return tuple(i for i in found if not is_empty(i))


@dataclass(frozen=True)
class _Predicates:
    """Boolean structure. `truth(e, holds)` is where a condition holds, or where it does not."""

    rank: str
    known: Callable[[Expr], bool]
    positive: frozenset[str]
    real: frozenset[str]

    def truth(self, e: Expr, holds: bool) -> Disjunction:
        whole = e if holds else Map("not", (e,))
        if isinstance(e, Const):
            return ALWAYS if bool(e.value) == holds else NEVER
        if self.rank not in free_ranks(e):
            return (Interval(row=(whole,)),) if self.known(e) else tested(whole)
        match e:
            case Map("not", (a,)):
                return self.truth(a, not holds)
            case Map("and" | "or" as op, (a, b)):
                parts = [(self.truth(x, holds), x if holds else Map("not", (x,))) for x in (a, b)]
                return (
                    both(parts) if (op == "and") == holds else either((p for p, _ in parts), whole)
                )
            case Map("select", (c, a, b)):
                return self._select(c, a, b, holds, whole)
            case Map(op, (a, b)) if op in OPPOSITE and self._solvable(e, a, b):
                return self._compare(e if holds else Map(OPPOSITE[op], (a, b)))
            case _:
                return tested(whole)

    def _select(self, c: Expr, a: Expr, b: Expr, holds: bool, whole: Expr) -> Disjunction:
        cases = []
        for chosen, x in ((True, a), (False, b)):
            condition = c if chosen else Map("not", (c,))
            value = x if holds else Map("not", (x,))
            parts = [(self.truth(c, chosen), condition), (self.truth(x, holds), value)]
            cases.append(both(parts))
        return either(cases, whole)

    def _solvable(self, e: Expr, a: Expr, b: Expr) -> bool:
        return self.known(e) and is_integer(a, self.real) and is_integer(b, self.real)

    def _compare(self, e: Map) -> Disjunction:
        """A comparison. What of it is residual is the comparison itself."""
        solver = Solver(e, self.rank, self.positive, self.truth)
        found = solver.compared(e.op, e.args[0], e.args[1])
        if not any(i.residual for i in found):
            return found
        if e.op == "!=":
            return tested(e)
        exact = tuple(Interval(i.low, i.high, i.row, (e,)) if i.residual else i for i in found)
        return either([exact], e)


__all__ = ["Interval", "solve"]
