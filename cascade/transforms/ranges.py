"""What is known of signs and sizes: which values are positive, and which are bounded.

Bounds decide between deferral and streaming: an exponent proved bounded needs no shift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from cascade.analysis.normalise import Step
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol, Where
from cascade.ir.printer import print_expr
from cascade.ir.walk import free_ranks, substitute, walk
from cascade.transforms.normal_form import (
    UNIT,
    Atom,
    Indicator,
    Monomial,
    Opaque,
    Poly,
    Total,
    atom,
    multiply,
    normal_form,
    of_monomial,
)

LOWEST = -1000  # exp of it is 0 in float64
INF = math.inf
LARGEST_EXPONENT = 64  # float32 overflows at 88; the rest is room for a sum of many


@dataclass(frozen=True)
class Range:
    """low <= value <= high, with the argument that shows it. `finite` where both ends are known
    numbers or fixed for a whole run (an extent, a param).
    """

    low: float = -INF
    high: float = INF
    why: str = ""
    symbolic: bool = False  # bounded by something fixed for the run, whose size is not known here

    @property
    def bounded(self) -> bool:
        return self.symbolic or (self.low > -INF and self.high < INF)

    @property
    def fits_exponent(self) -> bool:
        """Whether exp of it, and sums of many of them, are far from both ends of a float."""
        known = self.low > -INF and self.high < INF
        return known and max(-self.low, self.high) <= LARGEST_EXPONENT


class Ranges:
    """Intervals of expressions, through the definitions of the tensors they read."""

    def __init__(self, steps: dict[str, Step]):
        self.steps = steps
        self.known: dict[str, Range] = {}

    def of(self, e: Expr) -> Range:
        match e:
            case Const(value):
                return Range(float(value), float(value), print_expr(e))
            case Symbol(name):
                return Range(-INF, INF, f"{name} is fixed", symbolic=True)
            case Coordinate(rank):
                return Range(0, INF, f"{rank} is a coordinate")
            case Where(body, _):
                return self.of(body)
            case Read(tensor, _):
                return self._read(tensor)
            case Map(op, args):
                return self._map(e, op, [self.of(a) for a in args])
            case _:
                return Range()

    def _read(self, tensor: str) -> Range:
        if tensor not in self.known:
            self.known[tensor] = Range()  # recurrences know nothing of themselves
            step = self.steps.get(tensor)
            if step is not None and step.recurs is None:
                inner = self.of(step.body)
                if step.op in (None, "top"):
                    self.known[tensor] = inner
                elif step.op in ("max", "min", "mean"):
                    self.known[tensor] = inner
                elif step.op == "sum" and (bound := self._product_of_units(step)) is not None:
                    self.known[tensor] = bound
                elif step.op == "sum" and inner.low >= 0:
                    self.known[tensor] = Range(
                        0, INF, f"{tensor} sums values that are not negative"
                    )
        return self.known[tensor]

    def _product_of_units(self, step: Step) -> Range | None:
        """The inequality of Cauchy and Schwarz: a dot product of vectors of at most unit length."""
        term = normal_form(step.body).single()
        if term is None or term[0].exponent is not None or len(step.bound) != 1:
            return None
        units, fixed = [], False
        for a, n in term[0].powers:
            if isinstance(a, Read) and n in (1, 2) and self._is_unit(a, step.bound[0]):
                units += [a] * int(n)
            elif isinstance(a, Symbol):
                fixed = True
            else:
                return None
        if len(units) != 2:
            return None
        names = " and ".join(dict.fromkeys(u.tensor for u in units))
        size = abs(float(term[1]))
        why = f"a dot product of unit vectors ({names}) lies in [-1, 1]"
        return Range(why=why, symbolic=True) if fixed else Range(-size, size, why)

    def _is_unit(self, read: Read, rank: str) -> bool:
        """Whether the squares of `read` sum to at most 1 over a rank: x / sqrt(sum(x**2) + c)."""
        step = self.steps.get(read.tensor)
        if step is None or step.op is not None or step.recurs is not None:
            return False
        if [free_ranks(i) for i in read.index].count((rank,)) != 1:
            return False
        slot = next((n for n, i in enumerate(read.index) if i == Coordinate(rank)), None)
        term = normal_form(step.body).single()
        if slot is None or term is None or term[0].exponent is not None or abs(term[1]) > 1:
            return False
        own = step.ranks[slot]
        for a, n in term[0].powers:
            if n != Fraction(-1, 2):
                continue
            parts = list(a.poly.terms if isinstance(a, Total) else atom(a).terms)
            sums = [m for m, c in parts if c == 1 and m != UNIT]
            if len(sums) != 1 or any(c < 0 for m, c in parts if m == UNIT) or len(parts) > 2:
                return False
            rest = of_monomial(Monomial(term[0].powers - {(a, n)}))
            return self._sums_square(sums[0], multiply(rest, rest), own)
        return False

    def _sums_square(self, total: Monomial, square: Poly, rank: str) -> bool:
        """Whether `total` is a sum of `square` over a rank."""
        if len(total.powers) != 1 or total.exponent is not None:
            return False
        ((a, n),) = total.powers
        step = self.steps.get(a.tensor) if isinstance(a, Read) else None
        if step is None or step.op != "sum" or len(step.bound) != 1 or n != 1:
            return False
        assert isinstance(a, Read)
        if any(isinstance(node, Where) for node in walk(step.body)):
            return False
        places = dict(zip(step.ranks, a.index, strict=True))
        body = substitute(step.body, {**places, step.bound[0]: Coordinate(rank)})
        return normal_form(body) == square

    def _map(self, e: Map, op: str, a: list[Range]) -> Range:
        text = print_expr(e)
        match op:
            case "tanh" | "sin" | "cos" | "erf":
                return Range(-1, 1, f"{op} lies in [-1, 1]")
            case "sigmoid":
                return Range(0, 1, "sigmoid lies in [0, 1]")
            case "clamp":
                fixed = a[1].bounded and a[2].bounded
                return Range(a[1].low, a[2].high, f"{text} is clamped", symbolic=fixed)
            case "exp" | "exp2":
                top = math.exp(min(a[0].high, 700)) if a[0].high < 700 else INF
                return Range(0, top, a[0].why, symbolic=a[0].symbolic)
            case "softplus" | "relu" | "abs" | "sqrt":
                return Range(0, INF, "", symbolic=a[0].bounded)
            case "neg":
                return Range(-a[0].high, -a[0].low, a[0].why, a[0].symbolic)
            case "+" | "-" | "*" | "/":
                return self._arithmetic(e, op, a)
            case "**" if isinstance(e.args[1], Const) and e.args[1].value == 2:
                return Range(0, INF, "a square", symbolic=a[0].bounded)
            case "select":
                both = a[1].bounded and a[2].bounded
                low, high = min(a[1].low, a[2].low), max(a[1].high, a[2].high)
                return Range(low, high, "", symbolic=both)
            case "min" | "max":
                low = max(r.low for r in a) if op == "max" else min(r.low for r in a)
                high = max(r.high for r in a) if op == "max" else min(r.high for r in a)
                return Range(low, high, "", all(r.bounded for r in a))
            case _:
                return Range()

    def _arithmetic(self, e: Map, op: str, a: list[Range]) -> Range:
        x, y = a
        both = x.bounded and y.bounded
        why = x.why if not isinstance(e.args[0], Symbol | Const) else y.why
        if op == "+":
            return Range(x.low + y.low, x.high + y.high, why, both)
        if op == "-":
            return Range(x.low - y.high, x.high - y.low, why, both)
        if op == "*":
            if x.low > -INF and x.high < INF and y.low > -INF and y.high < INF:
                ends = [p * q for p in (x.low, x.high) for q in (y.low, y.high)]
                return Range(min(ends), max(ends), why)
            if e.args[0] == e.args[1] or (x.low >= 0 and y.low >= 0):
                return Range(0, INF, why, both)
            return Range(-INF, INF, why, both)
        nonnegative = x.low >= 0 and y.low >= 0
        return Range(
            0 if nonnegative else -INF, INF, why, both and isinstance(e.args[1], Const | Symbol)
        )

    # -- atoms of the normal form
    def is_positive(self, a: Atom) -> bool:
        """Whether a value is positive wherever it is finite and there is something to reduce."""
        match a:
            case Symbol():
                return False
            case Opaque("exp" | "exp2" | "sigmoid" | "softplus" | "sqrt" | "rsqrt", _):
                return True
            case Total(poly) | Opaque("**", (poly, _)):
                return self.poly_positive(poly)
            case Indicator():
                return False
            case Read(tensor, _):
                step = self.steps.get(tensor)
                return step is not None and step.op in ("sum", "mean") and self._body_positive(step)
            case _:
                return False

    def _body_positive(self, step: Step) -> bool:
        body = step.body.body if isinstance(step.body, Where) else step.body
        return self.poly_positive(normal_form(body, self.is_positive), reading=True)

    def poly_positive(self, p: Poly, reading: bool = False) -> bool:
        """A sum of positive terms: exponentials, squares, positive atoms, positive constants."""
        strict = False
        for monomial, coefficient in p.terms:
            if coefficient <= 0:
                return False
            parts = [
                self._factor_sign(a, n.denominator == 1 and n.numerator % 2 == 0)
                for a, n in monomial.powers
            ]
            if None in parts:
                return False
            strict |= all(parts)
        return strict

    def _factor_sign(self, a: Atom, even: bool) -> bool | None:
        """True: positive; False: not negative; None: unknown."""
        if self.is_positive(a):
            return True
        if isinstance(a, Read):
            step = self.steps.get(a.tensor)
            if step is not None and step.op is None and step.recurs is None:
                body = step.body.body if isinstance(step.body, Where) else step.body
                if self.poly_positive(normal_form(body, self.is_positive)):
                    return True
        return False if even else None
