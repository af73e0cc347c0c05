"""Exp-polynomials: the normal form in which rewrites decide (docs/derivations.md).

    Poly      a sum of monomials with rational coefficients
    Monomial  product of atom^power, times exp(Poly)
    Atom      a value the algebra does not look into: a read, an opaque function of polys,
              a sum under a fractional power, or the indicator of a condition

Two polys are equal iff their dictionaries are. On independent atoms the form is complete; on opaque
ones it is conservative: it may call equal things different, never different things equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.walk import transform

MAX_POWER = 8  # of a sum that is expanded
LINEAR = ("select", "+", "-", "neg", "*")  # a choice inside is a sum of products already
MAX_TERMS = 512  # of a poly; beyond, an expression is opaque


@dataclass(frozen=True)
class Opaque:
    """A function the algebra does not look into, of arguments in normal form."""

    op: str
    args: tuple[Poly, ...]


@dataclass(frozen=True)
class Total:
    """A sum of several terms, as a single value (under a power that cannot be expanded)."""

    poly: Poly


@dataclass(frozen=True)
class Indicator:
    """1 where the condition is true, 0 elsewhere."""

    condition: Expr


Leaf: TypeAlias = Read | Symbol | Coordinate | Const | Reduce | Select | Where | Map
Atom: TypeAlias = Leaf | Opaque | Total | Indicator


@dataclass(frozen=True)
class Monomial:
    """prod(atom^power) * exp(exponent)."""

    powers: frozenset[tuple[Atom, Fraction]]
    exponent: Poly | None = None


@dataclass(frozen=True)
class Poly:
    """A sum of coefficient * monomial; no coefficient is 0."""

    terms: frozenset[tuple[Monomial, Fraction]]

    @property
    def is_zero(self) -> bool:
        return not self.terms

    def single(self) -> tuple[Monomial, Fraction] | None:
        """The only term, if there is just one."""
        return next(iter(self.terms)) if len(self.terms) == 1 else None


UNIT = Monomial(frozenset())
ZERO = Poly(frozenset())
ONE = Poly(frozenset({(UNIT, Fraction(1))}))


def constant(value: int | Fraction) -> Poly:
    return Poly(frozenset({(UNIT, Fraction(value))})) if value else ZERO


def of_monomial(m: Monomial, coefficient: int | Fraction = 1) -> Poly:
    return Poly(frozenset({(m, Fraction(coefficient))})) if coefficient else ZERO


def atom(a: Atom, power: int | Fraction = 1) -> Poly:
    return Poly(frozenset({(Monomial(frozenset({(a, Fraction(power))})), Fraction(1))}))


def from_terms(terms: Iterable[tuple[Monomial, Fraction]]) -> Poly:
    found: dict[Monomial, Fraction] = {}
    for monomial, coefficient in terms:
        found[monomial] = found.get(monomial, Fraction(0)) + coefficient
    return Poly(frozenset((m, c) for m, c in found.items() if c))


def add(*polys: Poly) -> Poly:
    return from_terms(t for p in polys for t in p.terms)


def scale(p: Poly, factor: int | Fraction) -> Poly:
    return Poly(frozenset((m, c * factor) for m, c in p.terms)) if factor else ZERO


def subtract(p: Poly, q: Poly) -> Poly:
    return add(p, scale(q, -1))


def times(a: Monomial, b: Monomial) -> Monomial | None:
    """The product; None where two indicators exclude each other."""
    powers = dict(a.powers)
    for base, power in b.powers:
        powers[base] = powers.get(base, Fraction(0)) + power
    for base in list(powers):
        if isinstance(base, Indicator):
            powers[base] = Fraction(1)
    if _exclude([base.condition for base in powers if isinstance(base, Indicator)]):
        return None
    exponents = [m.exponent for m in (a, b) if m.exponent is not None]
    exponent = add(*exponents) if exponents else None
    if exponent is not None and exponent.is_zero:
        exponent = None
    return Monomial(frozenset((x, n) for x, n in powers.items() if n), exponent)


def _exclude(conditions: list[Expr]) -> bool:
    """Whether two say that one value equals two different constants."""
    seen: dict[Expr, int | float | bool] = {}
    for condition in conditions:
        if isinstance(condition, Map) and condition.op == "==":
            a, b = condition.args
            if isinstance(a, Const):
                a, b = b, a
            if isinstance(b, Const) and seen.setdefault(a, b.value) != b.value:
                return True
    return False


def multiply(p: Poly, q: Poly) -> Poly:
    terms = []
    for a, x in p.terms:
        for b, y in q.terms:
            product = times(a, b)
            if product is not None:
                terms.append((product, x * y))
    return from_terms(terms)


def exponential(p: Poly) -> Poly:
    """exp of a poly; `exp(q log a)` is `a^q`."""
    powers: dict[Atom, Fraction] = {}
    rest = []
    for monomial, coefficient in p.terms:
        base = _logarithm_of(monomial)
        if base is None:
            rest.append((monomial, coefficient))
        else:
            powers[base] = powers.get(base, Fraction(0)) + coefficient
    exponent = from_terms(rest)
    monomial = Monomial(
        frozenset((a, n) for a, n in powers.items() if n), None if exponent.is_zero else exponent
    )
    return Poly(frozenset({(monomial, Fraction(1))}))


def _logarithm_of(monomial: Monomial) -> Atom | None:
    """`a` if the monomial is exactly log(a)."""
    if monomial.exponent is not None or len(monomial.powers) != 1:
        return None
    ((base, power),) = monomial.powers
    if power == 1 and isinstance(base, Opaque) and base.op == "log":
        inner = base.args[0].single()
        if inner is not None and inner[1] == 1 and len(inner[0].powers) == 1:
            if inner[0].exponent is None:
                ((a, n),) = inner[0].powers
                return a if n == 1 else None
        return Total(base.args[0])
    return None


def power(p: Poly, n: Fraction, positive: Callable[[Atom], bool]) -> Poly:
    """p^n. Sums expand for small natural n; else a common monomial leaves and the rest is one
    atom.
    """
    if n == 1:
        return p
    if n == 0:
        return ONE
    single = p.single()
    if single is not None:
        raised = _monomial_power(single[0], single[1], n, positive)
        if raised is not None:
            return raised
    if n.denominator == 1 and 0 < n <= MAX_POWER and len(p.terms) ** int(n) <= MAX_TERMS:
        result = ONE
        for _ in range(int(n)):
            result = multiply(result, p)
        return result
    if p.is_zero:
        return ZERO if n > 0 else atom(Total(p), n)
    common, rest = take_out(p)
    if common != UNIT and rest.single() is None:
        outside = _monomial_power(common, Fraction(1), n, positive)
        if outside is not None:
            return multiply(outside, power(rest, n, positive))
    return atom(Total(p), n)


def _monomial_power(
    m: Monomial, c: Fraction, n: Fraction, positive: Callable[[Atom], bool]
) -> Poly | None:
    """(c * m)^n; fractional powers distribute over positive factors only."""
    if n.denominator != 1:
        if c < 0 or not all(positive(a) for a, _ in m.powers):
            return None
        root = _rational_power(c, n)
        if root is None:
            return None
    else:
        root = Fraction(c ** int(n)) if c or n > 0 else None
        if root is None:
            return None
    exponent = None if m.exponent is None else scale(m.exponent, n)
    powers = frozenset((a, k * n) for a, k in m.powers)
    return Poly(frozenset({(Monomial(powers, exponent), Fraction(root))}))


def _rational_power(c: Fraction, n: Fraction) -> Fraction | None:
    """c^n where it is rational."""
    if c == 1:
        return Fraction(1)
    if n.denominator != 2:
        return None
    top, bottom = math.isqrt(c.numerator), math.isqrt(c.denominator)
    if top * top == c.numerator and bottom * bottom == c.denominator:
        return Fraction(top, bottom) ** n.numerator
    return None


def take_out(p: Poly) -> tuple[Monomial, Poly]:
    """The monomial common to all terms, and what is left."""
    monomials = [m for m, _ in p.terms]
    first = monomials[0]
    shared: dict[Atom, Fraction] = {}
    for a, n in first.powers:
        others = [dict(m.powers).get(a) for m in monomials]
        known = [k for k in others if k is not None]
        if len(known) == len(others) and not isinstance(a, Indicator):
            shared[a] = min(known) if n > 0 else max(known)
            if (min(known) > 0) != (max(known) > 0):
                del shared[a]
    exponent = _shared_exponent(monomials)
    common = Monomial(frozenset(shared.items()), exponent)
    if common == UNIT:
        return UNIT, p
    inverse = Monomial(
        frozenset((a, -n) for a, n in shared.items()),
        None if exponent is None else scale(exponent, -1),
    )
    rest = from_terms((r, c) for m, c in p.terms if (r := times(m, inverse)) is not None)
    return common, rest


def factored(p: Poly) -> Poly:
    """The same value, without indicators, with the common monomial outside: infinite factors then
    meet one sum.

    Exponents stay whole: of exp(a - c) + exp(b - c), exp(a) may overflow while a - c does not.
    """
    if len(p.terms) < 2:
        return p
    common, rest = take_out(p)
    if common.exponent is not None and any(m.exponent is not None for m, _ in rest.terms):
        rest = multiply(rest, exponential(common.exponent))
        common = Monomial(common.powers)
    if common == UNIT:
        return p
    return multiply(of_monomial(common), atom(Total(rest)))


def _shared_exponent(monomials: list[Monomial]) -> Poly | None:
    if any(m.exponent is None for m in monomials):
        return None
    shared = {t for m in monomials[:1] if m.exponent is not None for t in m.exponent.terms}
    for m in monomials[1:]:
        if m.exponent is not None:
            shared &= m.exponent.terms
    return Poly(frozenset(shared)) if shared else None


def normal_form(
    e: Expr,
    positive: Callable[[Atom], bool] = lambda a: False,
    whole: Callable[[Expr], bool] = lambda e: False,
) -> Poly:
    """The normal form of an expression.

    `positive` says which atoms are proved positive, `whole` which maps stay atoms.
    """
    normal = _Normal(positive, whole)
    return normal.settled(normal.of(e))


class _Normal:
    def __init__(self, positive: Callable[[Atom], bool], whole: Callable[[Expr], bool]):
        self.positive = positive
        self.whole = whole

    def of(self, e: Expr) -> Poly:
        match e:
            case Map() if self.whole(e):
                return atom(e)
            case Const(value):
                return self._constant(e, value)
            case Map(op, args):
                choice = None if op in LINEAR else self._choice(args)
                if choice is not None:  # f(select(c, a, b)) = select(c, f(a), f(b))
                    condition, yes, no = choice.args
                    ways = (_replaced(e, choice, way) for way in (yes, no))
                    return self._select((condition, *ways))
                return self._map(op, args)
            case _:
                return atom(e)

    def _choice(self, args: tuple[Expr, ...]) -> Map | None:
        """The first choice inside that does not stay whole."""
        for arg in args:
            if isinstance(arg, Map) and not self.whole(arg):
                if arg.op == "select":
                    return arg
                found = self._choice(arg.args)
                if found is not None:
                    return found
        return None

    def _constant(self, e: Const, value: int | float | bool) -> Poly:
        if isinstance(value, bool) or value != value or value in (math.inf, -math.inf):
            return atom(Const(value))
        return constant(Fraction(str(value)) if isinstance(value, float) else value)

    def _map(self, op: str, args: tuple[Expr, ...]) -> Poly:
        if op == "select":
            return self._select(args)
        parts = [self.of(a) for a in args]
        p = parts[0]
        match op:
            case "+":
                return add(*parts)
            case "-":
                return subtract(p, parts[1])
            case "neg":
                return scale(p, -1)
            case "*":
                if len(p.terms) * len(parts[1].terms) > MAX_TERMS:
                    return multiply(_whole(p), _whole(parts[1]))
                return multiply(p, parts[1])
            case "/":
                return multiply(p, power(parts[1], Fraction(-1), self.positive))
            case "**":
                return self._power(p, parts[1])
            case "exp":
                return exponential(p)
            case "exp2":
                return exponential(multiply(p, atom(Opaque("log", (constant(2),)))))
            case "sqrt":
                return power(p, Fraction(1, 2), self.positive)
            case "rsqrt":
                return power(p, Fraction(-1, 2), self.positive)
            case "log":
                return self._log(p)
            case "abs" if p.is_zero:
                return ZERO
            case "abs":
                return self._abs_of_sum(p)
            case "sigmoid":
                return power(add(ONE, exponential(scale(p, -1))), Fraction(-1), self.positive)
            case "tanh":
                inverse = power(add(ONE, exponential(scale(p, 2))), Fraction(-1), self.positive)
                return subtract(ONE, scale(inverse, 2))
            case _:
                return atom(Opaque(op, tuple(parts)))

    def _power(self, p: Poly, q: Poly) -> Poly:
        single = q.single()
        if q.is_zero:
            return ONE
        if single is not None and single[0] == UNIT:
            return power(p, single[1], self.positive)
        base = p.single()
        if base is not None and base[1] > 0 and all(self.positive(a) for a, _ in base[0].powers):
            sums = frozenset((a, n) for a, n in base[0].powers if isinstance(a, Read))
            meeting = of_monomial(Monomial(sums, base[0].exponent), base[1])
            result = exponential(multiply(q, self._log(meeting)))
            for a, n in base[0].powers - sums:
                result = multiply(result, atom(Opaque("**", (atom(a, n), q))))
            return result
        return atom(Opaque("**", (p, q)))

    def _abs_of_sum(self, p: Poly) -> Poly:
        """|m (x + y)| = |m| |x + y|, and |x + y| = x + y where every term is positive."""
        if p.single() is not None:
            return self._abs(p)
        common, rest = take_out(p)
        if all(c > 0 and all(self.positive(a) for a, _ in m.powers) for m, c in rest.terms):
            return multiply(self._abs(of_monomial(common)), rest)
        if common == UNIT or rest.single() is not None:
            return atom(Opaque("abs", (p,)))
        return multiply(self._abs(of_monomial(common)), atom(Opaque("abs", (rest,))))

    def _abs(self, p: Poly) -> Poly:
        """|c x^n y exp(z)| = |c| |x|^n |y| exp(z), for whole powers."""
        ((monomial, coefficient),) = p.terms
        if any(n.denominator != 1 for _, n in monomial.powers):
            return atom(Opaque("abs", (p,)))
        result = of_monomial(Monomial(frozenset(), monomial.exponent), abs(coefficient))
        for a, n in monomial.powers:
            bare = n.numerator % 2 == 0 or self.positive(a) or _is_absolute(a)
            result = multiply(result, atom(a if bare else Opaque("abs", (atom(a),)), n))
        return result

    def _log(self, p: Poly) -> Poly:
        single = p.single()
        if single is None:
            return atom(Opaque("log", (p,)))
        monomial, coefficient = single
        if coefficient <= 0 or not all(self.positive(a) for a, _ in monomial.powers):
            return atom(Opaque("log", (p,)))
        parts = [scale(atom(Opaque("log", (atom(a),))), n) for a, n in monomial.powers]
        if coefficient != 1:
            parts.append(atom(Opaque("log", (constant(coefficient),))))
        if monomial.exponent is not None:
            parts.append(monomial.exponent)
        return add(*parts)

    def _select(self, args: tuple[Expr, ...]) -> Poly:
        condition, yes, no = args
        chosen = self.of(yes)
        other = self.of(no)
        if chosen == other:
            return chosen
        here = atom(Indicator(condition))
        there = atom(Indicator(negated(condition)))
        return add(multiply(here, chosen), multiply(there, other))

    def settled(self, p: Poly) -> Poly:
        """`p` without the conditions that an exponential is positive, where it is a factor."""
        terms = []
        for monomial, c in p.terms:
            for a, n in monomial.powers:
                if isinstance(a, Indicator) and self._vanishes(a.condition, monomial):
                    monomial = Monomial(monomial.powers - {(a, n)}, monomial.exponent)
            terms.append((monomial, c))
        return from_terms(terms)

    def _vanishes(self, condition: Expr, m: Monomial) -> bool:
        match condition:
            case Map("!=" | ">", (x, Const(0))) | Map("not", (Map("<=", (x, Const(0))),)):
                term = self.of(x).single()
                return (
                    term is not None
                    and term[0].exponent is not None
                    and term[1] > 0
                    and all(self.positive(a) for a, _ in term[0].powers)
                    and _divides(term[0], m)
                )
            case _:
                return False


def _divides(x: Monomial, m: Monomial) -> bool:
    powers = dict(m.powers)
    if any(powers.get(a, Fraction(0)) / n < 1 for a, n in x.powers):
        return False
    return x.exponent is None or (m.exponent is not None and x.exponent.terms <= m.exponent.terms)


def _replaced(e: Expr, old: Expr, new: Expr) -> Expr:
    return transform(e, lambda n: new if n == old else None)


def _is_absolute(a: Atom) -> bool:
    return isinstance(a, Opaque) and a.op == "abs"


def _whole(p: Poly) -> Poly:
    return p if p.single() is not None else atom(Total(p))


OPPOSITE = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}


def negated(condition: Expr) -> Expr:
    """`not c`. Comparisons are turned round where no side can be NaN, of which all are false but
    `!=`.
    """
    match condition:
        case Map("==" | "!=" as op, args, span):
            return Map(OPPOSITE[op], args, span)
        case Map("<" | "<=" | ">" | ">=" as op, args, span) if not any(map(_may_be_nan, args)):
            return Map(OPPOSITE[op], args, span)
        case Map("not", (inner,)):
            return inner
    return Map("not", (condition,), condition.span)


def _may_be_nan(e: Expr) -> bool:
    """Whether `e` is anything but a whole number made of coordinates and extents."""
    match e:
        case Coordinate() | Symbol():
            return False
        case Const(value):
            return not isinstance(value, int)
        case Map("+" | "-" | "*" | "neg", args):
            return any(map(_may_be_nan, args))
        case _:
            return True


def by_guard(p: Poly) -> dict[frozenset[Expr], Poly]:
    """The terms of a poly by the conditions under which they count."""
    found: dict[frozenset[Expr], Poly] = {}
    for monomial, coefficient in p.terms:
        guards = frozenset(a.condition for a, _ in monomial.powers if isinstance(a, Indicator))
        rest = frozenset((a, n) for a, n in monomial.powers if not isinstance(a, Indicator))
        term = of_monomial(Monomial(rest, monomial.exponent), coefficient)
        found[guards] = add(found.get(guards, ZERO), term)
    return found


def atoms(p: Poly) -> Iterable[Atom]:
    """The atoms of a poly, those in exponents included."""
    for monomial, _ in p.terms:
        for a, _ in monomial.powers:
            yield a
        if monomial.exponent is not None:
            yield from atoms(monomial.exponent)


def every_atom(p: Poly) -> Iterable[Atom]:
    """The atoms of a poly, those inside functions included."""
    for a in atoms(p):
        yield a
        match a:
            case Opaque(_, args):
                yield from (b for x in args for b in every_atom(x))
            case Total(poly):
                yield from every_atom(poly)


def replace_atoms(
    p: Poly, rule: Callable[[Atom], Poly | None], positive: Callable[[Atom], bool]
) -> Poly:
    """Substitute polys for atoms, everywhere, and normalise again."""
    result = ZERO
    for monomial, coefficient in p.terms:
        term = constant(coefficient)
        for a, n in monomial.powers:
            value = rule(a)
            if value is None:
                value = _inside(a, rule, positive)
            term = multiply(term, power(value, n, positive))
        if monomial.exponent is not None:
            term = multiply(term, exponential(replace_atoms(monomial.exponent, rule, positive)))
        result = add(result, term)
    return result


def _inside(a: Atom, rule: Callable[[Atom], Poly | None], positive: Callable[[Atom], bool]) -> Poly:
    match a:
        case Opaque(op, args):
            return atom(Opaque(op, tuple(replace_atoms(x, rule, positive) for x in args)))
        case Total(poly):
            return _whole(replace_atoms(poly, rule, positive))
        case _:
            return atom(a)
