"""The finite-rank test: is a body a finite sum of (function of results) x (function of streamed
values)?

    g(r, c) = sum_k rho_k(r) * chi_k(c)      then      sum_m g = sum_k rho_k * (sum_m chi_k)

Each accumulator `sum_m chi_k` needs no result, so the reduction joins the pass of the results it
reads (deferral). A monomial with a factor, or a term of an exponent, in which a result meets a
streamed value has no such form; that factor is the explanation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from cascade.ir.expr import Coordinate, Read
from cascade.ir.printer import print_expr
from cascade.transforms.normal_form import (
    ONE,
    ZERO,
    Atom,
    Indicator,
    Monomial,
    Opaque,
    Poly,
    Total,
    add,
    atoms,
    from_terms,
    of_monomial,
    scale,
)
from cascade.transforms.spell import atom_expr, in_order, to_expr


@dataclass(frozen=True)
class Classes:
    """Which leaves are streamed values (X) and which are results of the present pass (R)."""

    is_streamed: Callable[[Atom], bool]
    is_result: Callable[[Atom], bool]

    def of(self, a: Atom) -> tuple[bool, bool]:
        match a:
            case Opaque(_, args):
                found = [self.of(x) for p in args for x in atoms(p)]
            case Total(poly):
                found = [self.of(x) for x in atoms(poly)]
            case _:
                return self.is_streamed(a), self.is_result(a)
        return any(x for x, _ in found), any(r for _, r in found)

    def of_monomial(self, m: Monomial) -> tuple[bool, bool]:
        found = [self.of(a) for a, _ in m.powers]
        if m.exponent is not None:
            found += [self.of(a) for a in atoms(m.exponent)]
        return any(x for x, _ in found), any(r for _, r in found)


@dataclass(frozen=True)
class Refusal:
    """Why a body does not separate, in the words of the spec."""

    part: str
    reason: str

    def __str__(self) -> str:
        return f"{self.part}: {self.reason}"


Separated = tuple[tuple[Poly, Poly], ...]  # (chi, rho) pairs


def separate(body: Poly, classes: Classes) -> Separated | Refusal:
    """The pairs (chi, rho) with body = sum of rho * chi, as few as exact proportionality shows."""
    by_chi: dict[Monomial, Poly] = {}
    for monomial, coefficient in in_order(body):
        split = _split(monomial, classes)
        if isinstance(split, Refusal):
            return split
        chi, rho = split
        by_chi[chi] = add(by_chi.get(chi, ZERO), of_monomial(rho, coefficient))
    return _merged({chi: rho for chi, rho in by_chi.items() if not rho.is_zero})


def _split(m: Monomial, classes: Classes) -> tuple[Monomial, Monomial] | Refusal:
    chi: list[tuple[Atom, Fraction]] = []
    rho: list[tuple[Atom, Fraction]] = []
    for a, n in m.powers:
        streamed, result = classes.of(a)
        if streamed and result:
            return _mixed_factor(a, n)
        (chi if streamed else rho).append((a, n))
    above: list[tuple[Monomial, Fraction]] = []
    below: list[tuple[Monomial, Fraction]] = []
    for term, coefficient in in_order(m.exponent) if m.exponent is not None else ():
        streamed, result = classes.of_monomial(term)
        if streamed and result:
            return _mixed_exponent(term)
        (above if streamed else below).append((term, coefficient))
    return (
        Monomial(frozenset(chi), from_terms(above) if above else None),
        Monomial(frozenset(rho), from_terms(below) if below else None),
    )


def _mixed_factor(a: Atom, power: Fraction) -> Refusal:
    text = print_expr(atom_expr(a))
    match a:
        case Opaque(op, _):
            reason = f"no addition theorem takes {op} of a result and a streamed value apart"
        case Total() if power > 0 and power.denominator == 1:
            reason = "a power of a sum of a result and a streamed value is not written out so far"
        case Total(poly) if len(poly.terms) == 1:
            reason = "a root of a product comes apart only where its factors are proved positive"
        case Total():
            reason = "a power of a sum of a result and a streamed value has infinite rank"
        case Indicator():
            reason = "the condition compares a streamed value with a result"
        case Read(_, index) if all(isinstance(i, Coordinate) for i in index):
            reason = "it has a value at each streamed point and depends on a result of this pass"
        case _:
            reason = "it is indexed by a streamed coordinate and depends on a result of this pass"
    return Refusal(text, reason)


def _mixed_exponent(term: Monomial) -> Refusal:
    text = print_expr(to_expr(of_monomial(term)))
    return Refusal(
        f"exp of {text}",
        "a result times a streamed value inside an exponential has infinite rank",
    )


def _merged(by_chi: dict[Monomial, Poly]) -> Separated:
    """Join the chis whose rhos are equal up to a number."""
    groups: dict[Poly, list[tuple[Monomial, Fraction]]] = {}
    for chi, rho in by_chi.items():
        lead = min((c for _, c in rho.terms), key=lambda c: (abs(c), c))
        unit = Poly(frozenset((m, c / lead) for m, c in rho.terms))
        groups.setdefault(unit, []).append((chi, lead))
    return tuple(_scaled(chis, rho) for rho, chis in groups.items())


def _scaled(chis: list[tuple[Monomial, Fraction]], rho: Poly) -> tuple[Poly, Poly]:
    """The pair with 1 as the first coefficient of chi, so that equal accumulators look equal."""
    first = min(chis, key=lambda item: print_expr(to_expr(of_monomial(item[0]))))[1]
    chi = add(*(of_monomial(m, c / first) for m, c in chis))
    return chi, scale(rho, first)


def is_trivial(separated: Separated) -> bool:
    """Whether the body reads no result: one accumulator, used as it is."""
    return len(separated) == 1 and separated[0][1] == ONE
