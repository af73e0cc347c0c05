"""A term of a gradient: linear in one cotangent, summed over ranks, at points that meet conditions.

Everything that reverse mode makes is a sum of such terms, because a gradient is linear in what
comes in. Factors are expressions of the forward cascade with a power; `read` is the cotangent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cascade.gradients.build import negative, times, where
from cascade.gradients.rules import Factor
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce
from cascade.ir.walk import free_ranks, substitute


@dataclass(frozen=True)
class Term:
    """sum over `bound` of product(factors) * read, where the conditions hold.

    `chosen`: it came through a choice, so it may be 0 for a value that was never taken.
    """

    read: Read
    factors: tuple[Factor, ...] = ()
    bound: tuple[str, ...] = ()
    conditions: tuple[Expr, ...] = ()
    chosen: bool = False

    @property
    def pointwise(self) -> bool:
        return not self.bound

    def times(self, factors: Iterable[Factor], conditions: Iterable[Expr] = ()) -> Term:
        return replace(
            self,
            factors=(*self.factors, *factors),
            conditions=tuple(dict.fromkeys((*self.conditions, *conditions))),
        )

    def over(self, bound: Iterable[str]) -> Term:
        return replace(self, bound=(*self.bound, *bound))

    def ranks(self) -> tuple[str, ...]:
        """Every rank that occurs free in a part of the term."""
        found: dict[str, None] = {}
        for e in self.parts():
            found.update(dict.fromkeys(free_ranks(e)))
        return tuple(found)

    def parts(self) -> tuple[Expr, ...]:
        return (self.read, *(e for e, _ in self.factors), *self.conditions)

    def moved(self, values: Mapping[str, Expr]) -> Term:
        """Other coordinates in every part; the bound ranks stay as they are."""
        inner = dict(values)
        read = substitute(self.read, inner)
        assert isinstance(read, Read)
        return Term(
            read,
            tuple((substitute(e, inner), n) for e, n in self.factors),
            self.bound,
            tuple(dict.fromkeys(substitute(c, inner) for c in self.conditions)),
            self.chosen,
        )

    def renamed(self, names: Mapping[str, str]) -> Term:
        """Other names for ranks, bound ones included."""
        moved = self.moved({r: Coordinate(n) for r, n in names.items()})
        return replace(moved, bound=tuple(names.get(r, r) for r in self.bound))

    def expr(self) -> Expr:
        """The term as an expression of its free ranks."""
        body = where(product(self.factors, self.read), self.conditions)
        return Reduce("sum", self.bound, body) if self.bound else body


def product(factors: Iterable[Factor], last: Expr | None = None) -> Expr:
    """The product of factors, negative powers below the line and the sign in front."""
    constant: int | float = 1
    above: list[Expr] = []
    below: list[Expr] = []
    powers: dict[Expr, int] = {}
    for e, n in factors:
        if isinstance(e, Const) and not isinstance(e.value, bool):
            constant *= e.value**n
        else:
            powers[e] = powers.get(e, 0) + n
    for e, n in powers.items():
        if n > 0:
            above += [e] * n
        elif n < 0:
            below.append(e if n == -1 else Map("**", (e, Const(-n))))
    if last is not None:
        above.append(last)
    result = times(Const(abs(constant)), *above)
    for e in below:
        result = Map("/", (result, e))
    return negative(result) if constant < 0 else result
