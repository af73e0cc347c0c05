"""Normal form back to an expression that reads well: signs, quotients and square roots as people
write.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import reduce

from cascade.ir.expr import Const, Expr, Map, Symbol
from cascade.ir.printer import print_expr
from cascade.ir.walk import conjunction
from cascade.transforms.normal_form import (
    ZERO,
    Atom,
    Indicator,
    Monomial,
    Opaque,
    Poly,
    Total,
    by_guard,
    from_terms,
    negated,
    of_monomial,
)


def to_expr(p: Poly) -> Expr:
    """An expression equal to a poly, in a stable order."""
    return choices(p, _sum)


def choices(p: Poly, spelled: Callable[[Poly], Expr]) -> Expr:
    """A poly as a sum of choices: the terms under a condition have no say where it is false,
    whatever they are there. `spelled` writes terms without indicators.
    """
    groups = by_guard(p)
    free = groups.pop(frozenset(), ZERO)
    parts = [] if free.is_zero else [spelled(free)]
    rest = {conjunction(tuple(sorted(c, key=print_expr))): q for c, q in groups.items()}
    for condition in sorted(rest, key=print_expr):
        if condition in rest:
            yes, no = rest.pop(condition), rest.pop(negated(condition), ZERO)
            if isinstance(condition, Map) and condition.op == "not":
                condition, yes, no = condition.args[0], no, yes
            parts.append(Map("select", (condition, spelled(yes), spelled(no))))
    return reduce(lambda a, b: Map("+", (a, b)), parts) if parts else Const(0)


def _sum(p: Poly) -> Expr:
    if p.is_zero:
        return Const(0)
    parts = sorted(((_term(m, abs(c)), c > 0) for m, c in p.terms), key=_order)
    result: Expr | None = None
    for term, plus in parts:
        if result is None:
            result = term if plus else _negative(term)
        else:
            result = Map("+" if plus else "-", (result, term))
    assert result is not None
    return result


def in_order(p: Poly) -> list[tuple[Monomial, Fraction]]:
    """The terms of a poly in a stable order."""
    return sorted(p.terms, key=lambda t: (print_expr(_term(t[0], Fraction(1))), t[1]))


def _order(part: tuple[Expr, bool]) -> tuple[bool, int, str]:
    text = print_expr(part[0])
    return (not part[1], -len(text), text)


def _negative(e: Expr) -> Expr:
    if isinstance(e, Const) and not isinstance(e.value, bool):
        return Const(-e.value)
    return Map("neg", (e,))


def _term(m: Monomial, coefficient: Fraction) -> Expr:
    """coefficient * prod(atom^power) * exp(exponent), negative powers below the line."""
    if any(isinstance(a, Indicator) for a, _ in m.powers):
        return to_expr(of_monomial(m, coefficient))
    above: list[Expr] = []
    below: list[Expr] = []
    if coefficient.numerator != 1:
        above.append(_number(Fraction(coefficient.numerator)))
    if coefficient.denominator != 1:
        below.append(_number(Fraction(coefficient.denominator)))
    exponent, fixed = _fixed_powers(m.exponent)
    if not exponent.is_zero:
        above.append(Map("exp", (to_expr(exponent),)))
    for base, fixed_power, up in fixed:
        (above if up else below).append(Map("**", (base, fixed_power)))
    ordered = sorted(
        m.powers, key=lambda item: (str(type(item[0])), print_expr(atom_expr(item[0])))
    )
    for a, n in ordered:
        (above if n > 0 else below).append(_powered(atom_expr(a), abs(n)))
    numerator = _product(above) if above else Const(1)
    for factor in below:
        numerator = Map("/", (numerator, factor))
    return numerator


def _fixed_powers(exponent: Poly | None) -> tuple[Poly, list[tuple[Expr, Expr, bool]]]:
    """`exp(q log x)` as `x^q` for a param q, which may be 0 where x is; and what is left. The last
    says whether the power stands above the line.
    """
    rest: list[tuple[Monomial, Fraction]] = []
    found: list[tuple[Expr, Expr, bool]] = []
    for term, c in in_order(exponent) if exponent is not None else ():
        logs = [a for a, n in term.powers if isinstance(a, Opaque) and a.op == "log" and n == 1]
        others = frozenset((a, n) for a, n in term.powers if a not in logs)
        named = bool(others) and all(isinstance(a, Symbol) for a, _ in others)
        if len(logs) == 1 and named and term.exponent is None:
            power = to_expr(of_monomial(Monomial(others), abs(c)))
            found.append((to_expr(logs[0].args[0]), power, c > 0))
        else:
            rest.append((term, c))
    return from_terms(rest), found


def _product(factors: list[Expr]) -> Expr:
    result = factors[0]
    for factor in factors[1:]:
        result = Map("*", (result, factor))
    return result


def _number(value: Fraction) -> Expr:
    return Const(int(value)) if value.denominator == 1 else Const(float(value))


def _powered(e: Expr, n: Fraction) -> Expr:
    if n == 1:
        return e
    if n == Fraction(1, 2):
        return Map("sqrt", (e,))
    return Map("**", (e, _number(n)))


def atom_expr(a: Atom) -> Expr:
    match a:
        case Opaque(op, args):
            return Map(op, tuple(to_expr(x) for x in args))
        case Total(poly):
            return to_expr(poly)
        case Indicator(condition):
            return Map("select", (condition, Const(1), Const(0)))
        case _:
            return a
