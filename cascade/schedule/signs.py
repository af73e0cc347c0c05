"""Which numbers of a run are positive, and which are finite, as far as their definitions say."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from cascade.ir.expr import Expr, Map, Symbol
from cascade.ir.extents import evaluate
from cascade.ir.walk import symbols
from cascade.schedule.program import Program


class Signs:
    """Which scalars are positive: known widths, and params that are defined so. An extent may be 0
    unless it is one of `extents`. `used` are the params of which that was asked, and true.
    """

    def __init__(
        self,
        values: Mapping[str, Expr],
        widths: Mapping[str, int] | None = None,
        extents: Collection[str] = (),
    ):
        self.values = values
        self.widths = widths or {}
        self.extents = extents
        self.used: set[str] = set()

    @classmethod
    def of(cls, program: Program, extents: Collection[str] = ()) -> Signs:
        return cls(dict(program.values), dict(program.widths), extents)

    def positive(self, e: Expr) -> bool:
        """Whether an expression over scalars is a positive number. What that takes is noted."""
        needed: set[str] = set()
        found = self._positive(e, needed)
        if found:
            self.used |= needed
        return found

    def _positive(self, e: Expr, needed: set[str]) -> bool:
        known = self._number(e)
        if known is not None:
            return 0 < known < math.inf
        match e:
            case Symbol(name) if name in self.values:
                needed.add(name)
                return self._positive(self.values[name], set())
            case Symbol(name):
                return name in self.extents
            case Map("select", (condition, a, b)) if self._number(condition) is not None:
                return self._positive(a if self._number(condition) else b, needed)
            case Map("*" | "/" | "+" | "sqrt" | "rsqrt" | "exp" | "exp2" | "min", args):
                return all(self._positive(a, needed) for a in args)
            case _:
                return False

    def finite(self, e: Expr) -> bool:
        """Whether an expression over scalars is a finite number; those that are given are."""
        known = self._number(e)
        if known is not None:
            return math.isfinite(known)
        match e:
            case Symbol(name):
                return name not in self.values or self.finite(self.values[name])
            case Map("/", (a, b)):
                return self.finite(a) and self.positive(b)
            case Map("**", (a, b)):
                return self.positive(a) and self.finite(b)
            case Map("sqrt" | "rsqrt" | "log" | "log2", (a,)):
                return self.positive(a)
            case Map("select", (_, a, b)):
                return self.finite(a) and self.finite(b)
            case Map("*" | "+" | "-" | "neg" | "abs" | "min" | "max" | "tanh" | "sigmoid", args):
                return all(self.finite(a) for a in args)
            case _:
                return False

    def _number(self, e: Expr) -> float | None:
        if not symbols(e) <= set(self.widths):
            return None
        try:
            return float(evaluate(e, self.widths.__getitem__))
        except (ArithmeticError, ValueError):
            return None
