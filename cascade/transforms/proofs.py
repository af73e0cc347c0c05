"""Expressions read in three ways, to compare them: sympy, mpmath (40 or 120 digits), IEEE numbers.

`zero` proves that two expressions are equal by sympy's `expand`, in every case of the conditions in
them; where that leaves something, it compares them at random points. `rank` is the
dimension of the space that a body spans as a function of results and streamed values. Nothing here
knows the normal form of the rewriter.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol, Where
from cascade.ir.ops import COMPARISONS
from cascade.ir.walk import walk
from cascade.transforms.elimination import matrix_rank

Leaf = Callable[[Expr], Any]
DIGITS, POINTS = 40, 16
RANK_DIGITS = 120
MAX_CASES = 10  # conditions, of which every case is proved

OPAQUE = {"//": "quotient", "%": "remainder"}  # for sympy: names of functions without laws
OPAQUE |= {op: f"{op}_" for op in ("min", "max", "clamp", "relu", "abs", "sign", "floor", "ceil")}
OPAQUE |= {op: f"{op}_" for op in ("erf", "gelu", "softplus", "sin", "cos")}


@dataclass(frozen=True)
class Verdict:
    """Whether two expressions are equal, and what shows it."""

    ok: bool
    method: str  # symbolic | numeric
    detail: str = ""


class Algebra:
    """Arithmetic of one kind of number; what differs between the kinds is overridden."""

    def __init__(self, library: Any):
        exp, log, sqrt = library.exp, library.log, library.sqrt
        self.maps: dict[str, Callable[..., Any]] = {
            "+": lambda a, b: a + b,
            "-": lambda a, b: a - b,
            "*": lambda a, b: a * b,
            "/": lambda a, b: a / b,
            "**": lambda a, b: a**b,
            "neg": lambda a: -a,
            "exp": exp,
            "exp2": lambda a: exp(a * log(self.number(2))),
            "log": log,
            "log2": lambda a: log(a) / log(self.number(2)),
            "sqrt": sqrt,
            "rsqrt": lambda a: 1 / sqrt(a),
            "sigmoid": lambda a: 1 / (1 + exp(-a)),
            "silu": lambda a: a / (1 + exp(-a)),
            "tanh": lambda a: 1 - 2 / (1 + exp(2 * a)),
        }

    def number(self, value: float | int | bool) -> Any:
        raise NotImplementedError

    def compare(self, op: str, a: Any, b: Any) -> Any:
        raise NotImplementedError

    def choose(self, c: Any, a: Any, b: Any) -> Any:
        return a if c else b

    def truth(self, e: Expr, leaf: Leaf) -> Any:
        """The value of a condition, 0 or 1."""
        match e:
            case Const(value):
                return self.number(int(bool(value)))
            case Map("and" | "or" as op, (x, y)):
                a, b = self.truth(x, leaf), self.truth(y, leaf)
                return a * b if op == "and" else a + b - a * b
            case Map("not", (x,)):
                return 1 - self.truth(x, leaf)
            case Map(op, (x, y)) if op in COMPARISONS:
                return self.compare(op, self.value(x, leaf), self.value(y, leaf))
            case _:
                return self.flag(e, leaf)

    def flag(self, e: Expr, leaf: Leaf) -> Any:
        """A truth value that is read."""
        return self.number(int(bool(leaf(e) > 0)))

    def value(self, e: Expr, leaf: Leaf) -> Any:
        """The value of an expression where it is present; `leaf` gives reads and symbols."""
        match e:
            case Const(value):
                return self.number(value)
            case Where(body, _):
                return self.value(body, leaf)
            case Map("select", (c, x, y)):
                return self.choose(self.truth(c, leaf), self.value(x, leaf), self.value(y, leaf))
            case Map("and" | "or" | "not") | Map("<" | "<=" | ">" | ">=" | "==" | "!="):
                return self.truth(e, leaf)
            case Map(op, args) if op in self.maps:
                return self.maps[op](*(self.value(a, leaf) for a in args))
            case _:
                return leaf(e)


class _Symbolic(Algebra):
    """sympy. Conditions are symbols that are 0 or 1, told apart by what they compare."""

    def __init__(self) -> None:
        super().__init__(sp)
        self.maps |= {op: sp.Function(name) for op, name in OPAQUE.items()}
        self.flags: dict[tuple[Any, ...], Any] = {}

    def number(self, value: float | int | bool) -> Any:
        return sp.Rational(str(value)) if np.isfinite(value) else sp.sympify(value)

    def compare(self, op: str, a: Any, b: Any) -> Any:
        if op in (">", "<="):
            a, b = b, a
        less, equal = _signs(a, b)
        if op in ("==", "!="):
            found = self._flag("==", a, b) if equal is None else sp.Integer(equal)
        else:
            found = self._flag("<", a, b) if less is None else sp.Integer(less)
        return 1 - found if op in ("!=", ">=", "<=") else found

    def _flag(self, *key: Any) -> Any:
        if key[0] == "==" and key[1].is_number:
            key = (key[0], key[2], key[1])
        return self.flags.setdefault(key, sp.Symbol(f"flag{len(self.flags)}", real=True))

    def flag(self, e: Expr, leaf: Leaf) -> Any:
        return self._flag("true", e)

    def choose(self, c: Any, a: Any, b: Any) -> Any:
        if c in (0, 1):
            return a if c == 1 else b
        if any(x.is_infinite for x in (a, b)):
            return sp.Function("select_")(c, a, b)
        return c * a + (1 - c) * b

    def cases(self, used: set[Any]) -> list[dict[Any, int]] | None:
        """Truth values of the conditions that do not say x == 1 and x == 2; None if too many."""
        keys = [(k, s) for k, s in self.flags.items() if s in used]
        if len(keys) > MAX_CASES:
            return None
        found = []
        for values in itertools.product((0, 1), repeat=len(keys)):
            held = [k[1] for (k, _), v in zip(keys, values, strict=True) if v and k[0] == "=="
                    and k[2].is_number]  # fmt: skip
            if len(held) == len(set(held)):
                found.append({s: v for (_, s), v in zip(keys, values, strict=True)})
        return found


def _signs(a: Any, b: Any) -> tuple[bool | None, bool | None]:
    """Whether a < b and a == b, where that is known; what is real is finite."""
    if (a.is_infinite or b.is_infinite) and (a.is_infinite or a.is_finite):
        if b.is_infinite or b.is_finite:
            return bool(a != b and (a == -sp.oo or b == sp.oo)), bool(a == b)
    difference = a - b
    below = True if difference.is_negative else None
    return False if difference.is_nonnegative else below, difference.is_zero


class _Numeric(Algebra):
    """mpmath, or numbers that follow IEEE."""

    def __init__(self, library: Any, number: Callable[[Any], Any]):
        super().__init__(library)
        self.made = number
        self.maps |= {
            "min": lambda *a: min(a),
            "max": lambda *a: max(a),
            "clamp": lambda x, low, high: min(max(x, low), high),
            "relu": lambda a: max(a, number(0)),
            "abs": abs,
            "sign": lambda a: number((a > 0) - (a < 0)),
            "floor": lambda a: number(int(mpmath.floor(a))),
            "ceil": lambda a: number(int(mpmath.ceil(a))),
            "//": lambda a, b: number(int(mpmath.floor(a / b))),
            "%": lambda a, b: a - b * int(mpmath.floor(a / b)),
            "erf": mpmath.erf,
            "gelu": lambda a: a * (1 + mpmath.erf(a / mpmath.sqrt(2))) / 2,
            "softplus": lambda a: mpmath.log(1 + mpmath.exp(a)),
            "sin": mpmath.sin,
            "cos": mpmath.cos,
        }

    def number(self, value: float | int | bool) -> Any:
        return self.made(value)

    def compare(self, op: str, a: Any, b: Any) -> Any:
        holds = {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}
        return self.number(int(bool(holds[op])))


def exact(value: float | int | bool) -> Any:
    """A constant as mpmath reads its shortest decimal form."""
    return mpmath.mpf(str(value)) if not isinstance(value, bool) else mpmath.mpf(int(value))


PRECISE = _Numeric(mpmath, exact)
IEEE = _Numeric(np, np.float64)


def ieee(e: Expr, values: Mapping[str, float]) -> float:
    """A float64 value; infinities and NaN follow IEEE."""

    def leaf(r: Expr) -> Any:
        return np.float64(values[r.tensor]) if isinstance(r, Read) else np.nan

    with np.errstate(all="ignore"):
        return float(IEEE.value(e, leaf))


class Prover:
    """Compares expressions whose leaves have signs: `sign(leaf)` gives sympy's assumptions."""

    def __init__(self, sign: Callable[[Expr], dict[str, bool]]):
        self.sign = sign
        self.symbols: dict[Expr, Any] = {}
        self.algebra = _Symbolic()

    def symbol(self, leaf: Expr) -> Any:
        if leaf not in self.symbols:
            assumptions = {"real": True} | self.sign(leaf)
            self.symbols[leaf] = sp.Symbol(f"x{len(self.symbols)}", **assumptions)
        return self.symbols[leaf]

    def symbolic(self, e: Expr) -> Any:
        return self.algebra.value(e, self.symbol)

    def expanded(self, e: Any) -> Any:
        """Expanded, conditions being 0 or 1."""
        e = sp.expand(e, power_exp=True)
        flags = set(self.algebra.flags.values())
        return e.replace(lambda p: p.is_Pow and p.base in flags and p.exp.is_positive,
                         lambda p: p.base)  # fmt: skip

    def zero(self, left: Expr, right: Expr) -> Verdict:
        """Whether two expressions are equal wherever both have a value, whatever holds."""
        a, b = self.symbolic(left), self.symbolic(right)
        compared = conditions_of(left, right)
        cases = self.algebra.cases((a - b).free_symbols)
        if cases is None:

            def both(leaf: Leaf) -> Any:
                return PRECISE.value(left, leaf), PRECISE.value(right, leaf)

            return self._at_points(both, compared)
        found = Verdict(True, "symbolic", f"{len(cases)} cases" if len(cases) > 1 else "")
        for case in cases:
            if self.expanded((a - b).subs(case)) != 0:
                found = self._at_points(self._function(a.subs(case), b.subs(case)), compared)
                if not found.ok:
                    break
        return found

    def _function(self, *values: Any) -> Callable[[Leaf], Any]:
        """sympy expressions as a function of the values of leaves."""
        leaves = {s: e for e, s in self.symbols.items()}
        used = sorted({s for v in values for s in v.free_symbols}, key=str)
        opaque = {name: PRECISE.maps[op] for op, name in OPAQUE.items()}
        opaque["select_"] = PRECISE.choose
        made = sp.lambdify(used, values, modules=[opaque, "mpmath"])
        return lambda leaf: made(*(leaf(leaves[s]) for s in used))

    def _at_points(self, both: Callable[[Leaf], Any], compared: set[Expr]) -> Verdict:
        worst = mpmath.mpf(0)
        seen = 0
        with mpmath.workdps(DIGITS):
            for seed in range(4 * POINTS):
                try:
                    a, b = both(self.sample(random.Random(seed), compared))
                except (ArithmeticError, TypeError, ValueError):
                    continue  # outside the domain of a function
                worst = max(worst, abs(a - b) / max(1, abs(a), abs(b)))
                seen += 1
                if seen == POINTS:
                    break
        text = f"largest relative difference {mpmath.nstr(worst, 3)} at {seen} points"
        return Verdict(seen > 0 and worst < mpmath.mpf(10) ** (10 - DIGITS), "numeric", text)

    def sample(self, chance: random.Random, compared: set[Expr], positive: bool = False) -> Leaf:
        """Random values of the leaves; small whole numbers where they are tested for equality."""
        known: dict[Expr, Any] = {}

        def leaf(e: Expr) -> Any:
            if e not in known:
                low = 0.3 if positive or self.symbol(e).is_positive else -2.5
                whole = isinstance(e, Coordinate | Symbol) and self.symbol(e).is_integer
                if e in compared or whole:
                    known[e] = mpmath.mpf(chance.randint(1 if low > 0 else -1, 3))
                else:
                    known[e] = mpmath.mpf(chance.uniform(low, 2.5))
            return known[e]

        return leaf

    def rank(
        self, body: Expr, result: Callable[[Expr], bool], streamed: Callable[[Expr], bool], n: int
    ) -> int:
        """The numerical rank of `body` at n random rows (results) and n columns (streamed)."""
        compared = conditions_of(body)
        makers = [self.sample(random.Random(s), compared, True) for s in range(2 * n + 1)]
        mixed = {
            (i, j): self.sample(random.Random(1000 + n * i + j), compared, True)
            for i in range(n)
            for j in range(n)
        }

        def at(i: int, j: int) -> Leaf:
            def leaf(e: Expr) -> Any:
                if result(e):
                    return mixed[i, j](e) if streamed(e) else makers[i](e)
                return makers[n + j](e) if streamed(e) else makers[2 * n](e)

            return leaf

        with mpmath.workdps(RANK_DIGITS):
            return matrix_rank(
                [[PRECISE.value(body, at(i, j)) for j in range(n)] for i in range(n)]
            )


def conditions_of(*expressions: Expr) -> set[Expr]:
    """Leaves that are tested for equality, which random reals would never show."""
    found: set[Expr] = set()
    for e in expressions:
        for node in walk(e):
            if isinstance(node, Map) and node.op in ("==", "!="):
                found |= {x for x in walk(node) if isinstance(x, Read | Symbol | Coordinate)}
    return found
