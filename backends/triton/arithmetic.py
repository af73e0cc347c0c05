"""Expressions over extents and params as Python, for the function that launches kernels."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cascade.backends.triton.writer import scalar
from cascade.ir.expr import Const, Expr, Map, Symbol
from cascade.ir.kinds import is_whole_exponent

INFIX = ("+", "-", "*", "/", "//", "%", "**", "<", "<=", ">", ">=", "==", "!=", "and", "or")
OF_MATH = ("exp", "sqrt", "tanh", "erf", "sin", "cos", "floor", "ceil")
PYTHON = {
    **{op: f"({{}} {op} {{}})" for op in INFIX},
    **{f: f"math.{f}({{}})" for f in OF_MATH},
    "neg": "(-{})",
    "not": "(not {})",
    "??": "{0}",
    "select": "({1} if {0} else {2})",
    "exp2": "(2.0 ** {})",
    "log": "_log({})",
    "log2": "(_log({}) / math.log(2))",
    "rsqrt": "_ratio(1, math.sqrt({}))",
    "sigmoid": "(0.5 + 0.5 * math.tanh(0.5 * {}))",
    "silu": "({0} * (0.5 + 0.5 * math.tanh(0.5 * {0})))",
    "gelu": "({0} * 0.5 * (1 + math.erf({0} * 0.7071067811865476)))",
    "softplus": "(max({0}, 0) + math.log1p(math.exp(-abs({0}))))",
    "relu": "max({}, 0)",
    "abs": "abs({})",
    "sign": "(({0} > 0) - ({0} < 0))",
    "clamp": "min(max({}, {}), {})",
}
HELPERS = {
    "_log": '''
def _log(x):
    """log(x), also at 0."""
    return math.log(x) if x else -math.inf
''',
    "_ratio": '''
def _ratio(a, b):
    """a / b, also where b is 0."""
    return a / b if b or not a else math.copysign(math.inf, a) * math.copysign(1, b)
''',
}


def python(e: Expr, widths: Mapping[str, int] | None = None) -> str:
    """An expression as Python text. `widths` are extents and params that are known."""
    known = widths or {}
    match e:
        case Const(value):
            if isinstance(value, float) and value in (float("inf"), float("-inf")):
                return f'float("{value}")'
            return repr(value)
        case Symbol(name):
            return scalar(name)
        case Map("/", (a, b)) if not _is_positive(b, known):
            return f"_ratio({python(a, known)}, {python(b, known)})"
        case Map("**", (a, b)) if not is_whole_exponent(b):
            return f"(float({python(a, known)}) ** {python(b, known)})"
        case Map(op, args):
            parts = [python(a, known) for a in args]
            if op in ("min", "max"):
                return f"{op}({', '.join(parts)})"
            return PYTHON[op].format(*parts)
        case _:
            raise AssertionError(type(e).__name__)


def _is_positive(e: Expr, known: Mapping[str, int]) -> bool:
    match e:
        case Const(value):
            return value > 0
        case Symbol(name):
            return known.get(name, 0) > 0
        case Map("sqrt" | "*" | "+" | "max" | "min" | "exp", args):
            return all(_is_positive(a, known) for a in args)
        case _:
            return False


def helpers(source: str) -> str:
    """The functions that a source calls, each with two empty lines after it."""
    used = (n for n in sorted(HELPERS) if re.search(rf"\b{n}\(", source))
    return "".join(HELPERS[n].strip("\n") + "\n\n\n" for n in used)
