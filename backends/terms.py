"""Expressions to be evaluated at a point: a value, and the conditions of its presence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cascade.ir.expr import Expr, Map
from cascade.ir.walk import children, free_ranks

Ranks = frozenset[str]
Point = dict[str, int]  # rank -> coordinate


@dataclass(frozen=True, slots=True)
class Condition:
    """One conjunct of what it takes to be present, with the ranks it mentions."""

    ranks: Ranks
    holds: Callable[[Point], bool]


@dataclass(frozen=True, slots=True)
class Term:
    """A value, to be asked for only where every condition holds."""

    value: Callable[[Point], Any]
    conditions: tuple[Condition, ...] = ()

    def present(self, at: Point) -> bool:
        return hold(self.conditions, at)

    def get(self, at: Point) -> Any:
        """The value, None where it is absent."""
        return self.value(at) if hold(self.conditions, at) else None


def named(e: Expr) -> Ranks:
    return frozenset(free_ranks(e))


def levels(e: Expr) -> int:
    return 1 + max(map(_levels, children(e)), default=0)


def hold(conditions: tuple[Condition, ...], at: Point) -> bool:
    for c in conditions:  # in order: a filter stands before the conditions of what it filters
        if not c.holds(at):
            return False
    return True


def conditions_of(terms: list[Term]) -> tuple[Condition, ...]:
    return tuple(c for term in terms for c in term.conditions)


def mentioned(conditions: tuple[Condition, ...]) -> Ranks:
    return frozenset[str]().union(*(c.ranks for c in conditions))


def through(body: Term, ranks: tuple[str, ...]) -> tuple[Condition, ...]:
    """The conditions that a reduction over the ranks leaves alone."""
    return tuple(c for c in body.conditions if c.ranks.isdisjoint(ranks))


def filtering(body: Term, ranks: tuple[str, ...]) -> Ranks:
    """The other ranks on which it depends which points a reduction sees."""
    filters = tuple(c for c in body.conditions if not c.ranks.isdisjoint(ranks))
    return mentioned(filters) - frozenset(ranks)


def inside(index: Term, extent: int) -> Callable[[Point], bool]:
    return lambda at: not index.present(at) or 0 <= index.value(at) < extent


def applied(function: Callable[..., Any], terms: list[Term]) -> Callable[[Point], Any]:
    return lambda at: function(*[term.value(at) for term in terms])


def _default(at: Point, x: Term, otherwise: Term) -> Any:
    return x.get(at) if x.present(at) else otherwise.get(at)


def _choice(at: Point, condition: Term, yes: Term, no: Term) -> Any:
    chosen = condition.get(at)
    return None if chosen is None else (yes if chosen else no).get(at)


def _either(at: Point, a: Term, b: Term) -> Any:
    """Kleene: true if one is, else unknown if one is."""
    x = a.get(at)
    if x is True:
        return True
    y = b.get(at)
    return y if y is True or x is not None else None


def _both(at: Point, a: Term, b: Term) -> Any:
    x = a.get(at)
    if x is False:
        return False
    y = b.get(at)
    return y if y is False or x is not None else None


_CHOICES: dict[str, Callable[..., Any]] = {
    "??": _default,
    "select": _choice,
    "or": _either,
    "and": _both,
}


def joined(e: Map, terms: list[Term]) -> Term:
    """`??`, `select`, `and`, `or`: all that decides about presence becomes one condition."""
    choose = _CHOICES[e.op]
    present = Condition(_deciding(e, terms), lambda at: choose(at, *terms) is not None)
    bare = [not term.conditions for term in terms]
    never = any(bare) if e.op == "??" else all(bare)
    return Term(lambda at: choose(at, *terms), () if never else (present,))


def _deciding(e: Map, terms: list[Term]) -> Ranks:
    """The ranks of all conditions, and of the operands whose value says which of them count."""
    values = {"??": 0, "select": 1, "or": 2, "and": 2}[e.op]
    return mentioned(conditions_of(terms)).union(*(named(a) for a in e.args[:values]))
