"""Integer expressions as sums: `3*m - p + 1` is {m: 3, p: -1} and 1.

A *term* is whatever is not itself a sum or a multiple: a coordinate, a tile, a quotient, a minimum.
Equal terms are gathered, so a rank that stands on both sides of a comparison has one coefficient.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol


@dataclass(frozen=True, slots=True)
class Sum:
    """The sum of terms times integers, and an integer. No coefficient is 0."""

    terms: tuple[tuple[Expr, int], ...]
    constant: int = 0

    def __add__(self, other: Sum) -> Sum:
        return _gathered((*self.terms, *other.terms), self.constant + other.constant)

    def __sub__(self, other: Sum) -> Sum:
        return self + other.times(-1)

    def times(self, c: int) -> Sum:
        return _gathered(tuple((t, c * n) for t, n in self.terms), c * self.constant)

    def plus(self, c: int) -> Sum:
        return Sum(self.terms, self.constant + c)

    def without(self, term: Expr) -> Sum:
        return Sum(tuple((t, n) for t, n in self.terms if t != term), self.constant)

    def sides(self) -> tuple[Expr, Expr]:
        """Two expressions without a minus: this sum is the first less the second."""
        ours = tuple((t, n) for t, n in self.terms if n > 0)
        theirs = tuple((t, -n) for t, n in self.terms if n < 0)
        first, second = max(self.constant, 0), max(-self.constant, 0)
        return expression(Sum(ours, first)), expression(Sum(theirs, second))


def linear(e: Expr) -> Sum:
    """An integer expression as a sum of its terms."""
    match e:
        case Const(bool()):
            return Sum(((e, 1),))
        case Const(int() as value):
            return Sum((), value)
        case Map("+", (a, b)):
            return linear(a) + linear(b)
        case Map("-", (a, b)):
            return linear(a) - linear(b)
        case Map("neg", (a,)):
            return linear(a).times(-1)
        case Map("*", (a, b)):
            return _product(e, linear(a), linear(b))
        case _:
            return Sum(((e, 1),))


def _product(e: Expr, a: Sum, b: Sum) -> Sum:
    if not a.terms:
        return b.times(a.constant)
    if not b.terms:
        return a.times(b.constant)
    return Sum(((e, 1),))


def _gathered(terms: Iterable[tuple[Expr, int]], constant: int) -> Sum:
    found: dict[Expr, int] = {}
    for term, n in terms:
        found[term] = found.get(term, 0) + n
    return Sum(tuple((t, n) for t, n in found.items() if n), constant)


def expression(s: Sum) -> Expr:
    """A sum as an expression, what is added before what is taken away."""
    ordered = sorted(s.terms, key=lambda t: t[1] < 0)
    result: Expr | None = None
    for term, n in ordered:
        part = term if abs(n) == 1 else Map("*", (Const(abs(n)), term))
        if result is None:
            result = part if n > 0 else Map("neg", (part,))
        else:
            result = Map("+" if n > 0 else "-", (result, part))
    if result is None or not s.constant:
        return Const(s.constant) if result is None else result
    if isinstance(result, Map) and result.op == "neg":
        return Map("-", (Const(s.constant), result.args[0]))
    return Map("+" if s.constant > 0 else "-", (result, Const(abs(s.constant))))


def quotient(s: Sum, divisor: Expr) -> Expr:
    """The floor of a sum over a positive divisor."""
    match divisor:
        case Const(1):
            return expression(s)
        case Const(int() as c) if not s.terms:
            return Const(s.constant // c)
        case Const(int() as c) if all(n % c == 0 for _, n in s.terms):
            return expression(Sum(tuple((t, n // c) for t, n in s.terms), s.constant // c))
        case _:
            return Map("//", (expression(s), divisor))


def is_integer(e: Expr, real: frozenset[str]) -> bool:
    """Whether a value is surely an integer; `real` names the tiles and symbols that may not be."""
    match e:
        case Const(value):
            return isinstance(value, int) and not isinstance(value, bool)
        case Coordinate():
            return True
        case Symbol(name) | Read(name, ()):
            return name not in real
        case Map("+" | "-" | "*" | "neg" | "//" | "%" | "abs" | "sign" | "relu", args):
            return all(is_integer(a, real) for a in args)
        case Map("min" | "max" | "clamp", args):
            return all(is_integer(a, real) for a in args)
        case Map("select", (_, a, b)):
            return is_integer(a, real) and is_integer(b, real)
        case Map("floor" | "ceil", _):
            return True
        case _:
            return False
