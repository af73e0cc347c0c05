"""Extents as sympy expressions, for printing and for arithmetic on costs. sympy is imported at
first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Expr, Map, Symbol
from cascade.ir.printer import print_expr

if TYPE_CHECKING:
    import sympy


def to_sympy(e: Expr) -> sympy.Expr:
    """An expression over extents and params. `(A + B - 1) // B` becomes ceiling(A/B)."""
    import sympy as sp

    match e:
        case Const(value):
            return sp.sympify(value)
        case Symbol(name):
            return sp.Symbol(name, integer=True, nonnegative=True)
        case Map("//", (Map("-", (Map("+", (a, b)), Const(1))), c)) if b == c:
            return sp.ceiling(to_sympy(a) / to_sympy(b))
        case Map(op, args):
            return _function(op)(*(to_sympy(a) for a in args))
        case _:
            return sp.Symbol(print_expr(e))


def _function(op: str) -> Any:
    import sympy as sp

    table: dict[str, Any] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
        "//": lambda a, b: sp.floor(a / b),
        "%": sp.Mod,
        "**": lambda a, b: a**b,
        "neg": lambda a: -a,
        "min": sp.Min,
        "max": sp.Max,
        "clamp": lambda x, low, high: sp.Min(sp.Max(x, low), high),
        "abs": sp.Abs,
        "rsqrt": lambda a: 1 / sp.sqrt(a),
        "exp2": lambda a: 2**a,
    }
    for name in ("exp", "log", "sqrt", "floor", "ceiling", "tanh", "erf", "sin", "cos", "sign"):
        table.setdefault(name, getattr(sp, name))
    table["ceil"] = sp.ceiling
    return table.get(op, sp.Function(op))


def extent(cascade: Cascade, rank: str) -> sympy.Expr:
    """The extent of a rank as a sympy expression."""
    return to_sympy(cascade.rank[rank].extent)
