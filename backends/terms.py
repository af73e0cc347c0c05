"""Expressions to be evaluated at a point: a value, and the conditions of its presence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cascade.ir.cascade import Einsum
from cascade.ir.expr import Expr, Map
from cascade.ir.walk import children, free_ranks

Ranks = frozenset[str]
Point = dict[str, int]  # rank -> coordinate
Place = tuple[int, ...]  # the coordinates of a tensor, slot by slot


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


class Statement:
    """A statement with its term, and its conditions by the ranks they mention."""

    def __init__(self, e: Einsum, term: Term):
        self.einsum, self.term = e, term
        self.levels = levels(e.body)
        self.conditions: dict[Ranks, tuple[Condition, ...]] = {}
        step = frozenset[str]() if e.step is None else frozenset({e.ranks[e.step]})
        for c in term.conditions:  # an iterative tensor is present or absent step by step
            mentions = c.ranks | step
            self.conditions[mentions] = (*self.conditions.get(mentions, ()), c)

    def point(self, mentions: Ranks | None, place: Place) -> Point | None:
        """The coordinates of the left side, None if this is not the statement that writes there."""
        e = self.einsum
        ranks = [r for r in e.ranks if mentions is None or r in mentions]
        at = dict(zip(ranks, place, strict=True))
        if e.step is None:
            return at
        at[e.ranks[e.step]] -= 1
        return at if e.init == (at[e.ranks[e.step]] < 0) else None


def ranks_of(e: Expr) -> Ranks:
    return frozenset(free_ranks(e))


def levels(e: Expr) -> int:
    return 1 + max(map(levels, children(e)), default=0)


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


def joined(e: Map, terms: list[Term]) -> Term:
    """`??`, `select`, `and`, `or`: all that decides about presence becomes one condition."""
    value, present = _JOINED[e.op]
    ranks = mentioned(conditions_of(terms)).union(*(ranks_of(a) for a in _deciding(e)))
    bare = [not term.conditions for term in terms]
    always = any(bare) if e.op == "??" else all(bare)
    condition = Condition(ranks, lambda at: present(at, *terms))
    return Term(lambda at: value(at, *terms), () if always else (condition,))


def _deciding(e: Map) -> tuple[Expr, ...]:
    """The operands whose value, not only whose presence, says whether the result is present."""
    return {"??": (), "select": e.args[:1], "and": e.args, "or": e.args}[e.op]


def _choose(at: Point, condition: Term, yes: Term, no: Term) -> Term:
    return yes if condition.value(at) else no


def _kleene(at: Point, a: Term, b: Term, decisive: bool) -> Any:
    """True or false if one operand settles it or both are known, else None."""
    x = a.value(at) if a.present(at) else None
    if x is decisive:
        return decisive
    y = b.value(at) if b.present(at) else None
    return None if x is None and y is not decisive else y


_JOINED: dict[str, tuple[Callable[..., Any], Callable[..., bool]]] = {
    "??": (
        lambda at, x, y: (x if x.present(at) else y).value(at),
        lambda at, x, y: x.present(at) or y.present(at),
    ),
    "select": (
        lambda at, c, x, y: _choose(at, c, x, y).value(at),
        lambda at, c, x, y: c.present(at) and _choose(at, c, x, y).present(at),
    ),
    "or": (
        lambda at, a, b: _kleene(at, a, b, True),
        lambda at, a, b: _kleene(at, a, b, True) is not None,
    ),
    "and": (
        lambda at, a, b: _kleene(at, a, b, False),
        lambda at, a, b: _kleene(at, a, b, False) is not None,
    ),
}
