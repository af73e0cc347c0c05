"""Expressions that are linear in the state of a recurrence, taken apart into terms."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from cascade.ir.cascade import Einsum
from cascade.ir.expr import Const, Expr, Map, Read, Symbol
from cascade.ir.order import offset
from cascade.ir.printer import print_expr
from cascade.ir.walk import free_ranks, reads
from cascade.transforms.draft import NotChunkable
from cascade.transforms.normal_form import Monomial, Poly, from_terms, of_monomial
from cascade.transforms.products import Opener
from cascade.transforms.spell import atom_expr, to_expr
from cascade.transforms.tiles import mentions, summed, times


@dataclass(frozen=True)
class Term:
    """sum[bound](value * S[index] where conditions), linear in the state; `index` has no step."""

    bound: tuple[str, ...]
    value: Poly
    index: tuple[Expr, ...]
    conditions: tuple[Expr, ...]


class StateTerms:
    """Knows the state `name`, iterative at `slot` along `rank`, and what is made in its step."""

    def __init__(self, opener: Opener, name: str, slot: int, rank: str, members: dict[str, Einsum]):
        self.opener = opener
        self.name, self.slot, self.rank = name, slot, rank
        self.members = members

    def holds(self, e: Expr) -> bool:
        return any(r.tensor == self.name for r in reads(e))

    def linear(
        self, e: Expr, shift: int, hidden: tuple[str, ...]
    ) -> tuple[list[Term], list[list[Expr]]]:
        """An expression as terms with the state at `rank + shift` and products without it."""
        value = self.opener.inlined(e, lambda r: self.members.get(r.tensor))
        taken = {*hidden, self.rank}
        products = self.opener.products(value, lambda r: r.op == "sum" and self.holds(r), taken)
        terms: dict[tuple[tuple[str, ...], tuple[Expr, ...], tuple[Expr, ...]], Poly] = {}
        inputs: list[list[Expr]] = []
        for p in products:
            conditions = tuple(c for c in p.conditions if not self.holds(c))
            for m, c in sorted(p.value.terms, key=lambda t: print_expr(to_expr(of_monomial(*t)))):
                index, rest = self._state_in(m, shift)
                if index is not None:
                    key = (p.bound, index, conditions)
                    old = terms.get(key, Poly(frozenset()))
                    terms[key] = from_terms([*old.terms, (rest, c)])
                elif p.bound:
                    inputs.append(_summed_factors(p.bound, factors(m, c), conditions))
                else:
                    inputs.append(factors(m, c))
        found = [Term(b, v, i, c) for (b, i, c), v in terms.items() if not v.is_zero]
        return found, inputs

    def _state_in(self, m: Monomial, shift: int) -> tuple[tuple[Expr, ...] | None, Monomial]:
        """The index of the state in a monomial, and what it is multiplied with."""
        index: tuple[Expr, ...] | None = None
        rest = []
        for a, n in m.powers:
            if isinstance(a, Read) and a.tensor == self.name:
                if n != 1 or index is not None:
                    raise NotChunkable(print_expr(a), "the state is multiplied with itself")
                if offset(a.index[self.slot], self.rank) != shift:
                    raise NotChunkable(print_expr(a), "more than one step of the state is read")
                index = tuple(i for k, i in enumerate(a.index) if k != self.slot)
                continue
            if self.holds(atom_expr(a)):
                raise NotChunkable(print_expr(atom_expr(a)), "not linear in the state")
            rest.append((a, n))
        if m.exponent is not None and self.holds(to_expr(m.exponent)):
            raise NotChunkable(print_expr(to_expr(m.exponent)), "the state is in an exponential")
        return index, Monomial(frozenset(rest), m.exponent)


def _summed_factors(
    bound: tuple[str, ...], product: list[Expr], conditions: tuple[Expr, ...]
) -> list[Expr]:
    """The factors of a sum: those that it does not run over, and the sum of the others."""
    inner = [f for f in product if mentions(f, set(bound)) or is_setting(f)]
    return [*(f for f in product if f not in inner), summed(bound, times(*inner), conditions)]


def is_setting(e: Expr) -> bool:
    """A param or an extent stays in the sum that it was in: 1/sqrt(E) has no value for E = 0."""
    return isinstance(e, Symbol) or (
        isinstance(e, Map) and not free_ranks(e) and not any(True for _ in reads(e))
    )


def factors(m: Monomial, c: Fraction) -> list[Expr]:
    """A term as a list of factors; its sign is one of them."""
    found = [
        to_expr(of_monomial(Monomial(frozenset({power}))))
        for power in sorted(m.powers, key=lambda p: print_expr(atom_expr(p[0])))
    ]
    if m.exponent is not None:
        found.append(to_expr(of_monomial(Monomial(frozenset(), m.exponent))))
    if abs(c) != 1 or not found:
        found.insert(0, to_expr(of_monomial(Monomial(frozenset()), abs(c))))
    return [Const(-1), *found] if c < 0 else found
