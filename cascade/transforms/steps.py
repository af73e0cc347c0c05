"""Weights of a distance: `gamma**(p - m)` and `exp(rate * (p - m))`, as products of steps.

A weight of n steps is the product of those of its parts, so the way from a column to a row passes
the boundary of a chunk, and every part has a distance of at least 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from cascade.ir.expr import Const, Coordinate, Expr, Map
from cascade.ir.walk import free_ranks
from cascade.transforms.normal_form import Monomial, Opaque, Poly, from_terms
from cascade.transforms.spell import atom_expr, to_expr


@dataclass(frozen=True)
class Steps:
    """`rate**(count*n + extra)`, or `exp(rate * n)` where `count` is 0."""

    rate: Expr
    count: int = 0
    extra: int = 0

    def of(self, n: Expr, start: bool = False) -> Expr:
        """The weight of n steps; the extra ones belong to the start of the way."""
        if not self.count:
            return Map("exp", (Map("*", (self.rate, n)),))
        power = n if self.count == 1 else Map("*", (Const(self.count), n))
        if start and self.extra > 0:
            power = Map("+", (power, Const(self.extra)))
        elif start and self.extra < 0:
            power = Map("-", (power, Const(-self.extra)))
        return Map("**", (self.rate, power))


def take_steps(m: Monomial, row: str, column: str) -> tuple[Monomial, tuple[Steps, ...]]:
    """A monomial without its weights of `row - column`, and those weights."""
    found: list[Steps] = []
    powers = []
    for a, n in m.powers:
        steps = _power(a, row, column) if isinstance(a, Opaque) and n == 1 else None
        if steps is None:
            powers.append((a, n))
        else:
            found.append(steps)
    rate, exponent = _rate(m.exponent, row, column)
    if rate is not None:
        found.append(Steps(to_expr(rate)))
    return Monomial(frozenset(powers), exponent), tuple(sorted(found, key=repr))


def _power(a: Opaque, row: str, column: str) -> Steps | None:
    if a.op != "**":
        return None
    base, distance = to_expr(a.args[0]), dict(a.args[1].terms)
    if {row, column} & set(free_ranks(base)):
        return None
    count = distance.pop(_coordinate(row), Fraction(0))
    back = distance.pop(_coordinate(column), Fraction(0))
    extra = distance.pop(Monomial(frozenset()), Fraction(0))
    if distance or count != -back or count <= 0:
        return None
    if count.denominator != 1 or extra.denominator != 1 or extra < -count:
        return None
    return Steps(base, int(count), int(extra))


def _coordinate(rank: str) -> Monomial:
    return Monomial(frozenset({(Coordinate(rank), Fraction(1))}))


def _rate(exponent: Poly | None, row: str, column: str) -> tuple[Poly | None, Poly | None]:
    """The factor of `row - column` in an exponent, and the rest of it."""
    if exponent is None:
        return None, None
    terms = dict(exponent.terms)
    rate: list[tuple[Monomial, Fraction]] = []
    here, there = (Coordinate(row), Fraction(1)), (Coordinate(column), Fraction(1))
    for m, c in exponent.terms:
        if there not in m.powers or m.exponent is not None:
            continue
        others = m.powers - {there}
        ranks = {r for a, _ in others for r in free_ranks(atom_expr(a))}
        opposite = Monomial(others | {here})
        if {row, column} & ranks or terms.get(opposite) != -c:
            continue
        del terms[m], terms[opposite]
        rate.append((Monomial(others), -c))
    rest = from_terms(terms.items())
    return (from_terms(rate) if rate else None), (None if rest.is_zero else rest)
