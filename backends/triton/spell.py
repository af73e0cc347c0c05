"""How Triton spells each pointwise operator of `cascade.ir.ops.MAPS`, on float32, integers and
truth values; and the functions of the emitted file that some of them call.

Exponentials and logarithms go through base 2, which is what the hardware has. `//` and `%` of
Triton truncate towards zero; those of the language floor.
"""

from __future__ import annotations

import re
from collections.abc import Callable

LOG2E = "1.4426950408889634"
LN2 = "0.6931471805599453"

HELPERS = {
    "_quotient": '''
@triton.jit
def _quotient(a, b):
    """a // b, rounded down; 0 where b is 0."""
    q = a // tl.where(b == 0, 1, b)
    lower = (q * b != a) & ((a < 0) != (b < 0))
    return tl.where(b == 0, 0, tl.where(lower, q - 1, q))
''',
    "_remainder": '''
@triton.jit
def _remainder(a, b):
    """a % b, of the sign of b; 0 where b is 0."""
    r = a % tl.where(b == 0, 1, b)
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
''',
    "_power": '''
@triton.jit
def _power(x, y):
    """x ** y; of a negative x for whole y."""
    size = tl.exp2(y * tl.log2(tl.abs(x)))
    odd = tl.abs(y - 2 * tl.floor(y / 2)) == 1
    whole = tl.floor(y) == y
    signed = tl.where(whole, tl.where(odd, -size, size), float("nan"))
    return tl.where(y == 0, 1.0, tl.where(x < 0, signed, size))
''',
    "_whole_power": '''
@triton.jit
def _whole_power(x, n: tl.constexpr, bits: tl.constexpr):
    """x ** n, for an integer n of so many bits, by squares."""
    result = x * 0 + 1
    for bit in tl.static_range(bits):
        if (n >> bit) % 2 == 1:
            result = result * x
        x = x * x
    return result
''',
    "_sigmoid": """
@triton.jit
def _sigmoid(x):
    small = tl.exp2(-tl.abs(x) * 1.4426950408889634)
    return tl.where(x < 0, small, 1.0) / (1 + small)
""",
    "_tanh": """
@triton.jit
def _tanh(x):
    \"\"\"tanh x; near 0, where the quotient would cancel, a polynomial (Cephes).\"\"\"
    small = tl.exp2(-tl.abs(x) * 2.8853900817779268)
    size = (1 - small) / (1 + small)
    q = x * x
    tail = 0.133314422036 + q * (-5.37397155531e-2 + q * (2.06390887954e-2 - q * 5.70498872745e-3))
    near = x + x * q * (q * tail - 0.333332819422)
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0, -size, size))
""",
    "_softplus": """
@triton.jit
def _softplus(x):
    small = tl.exp2(-tl.abs(x) * 1.4426950408889634)
    return tl.maximum(x, 0.0) + tl.log2(1 + small) * 0.6931471805599453
""",
    "_sine": """
@triton.jit
def _sine(x, quarter):
    \"\"\"sin(x + quarter*pi/2): the nearest multiple of pi/2 leaves (Cody and Waite), then a
    polynomial of the rest. The library's function needs memory for its reduction.
    \"\"\"
    turns = tl.floor(x * 0.6366197723675814 + 0.5)
    r = ((x - turns * 1.5703125) - turns * 4.837512969970703e-4) - turns * 7.549789948768648e-8
    q = r * r
    sine = r + r * q * (-0.16666654611 + q * (8.3321608736e-3 - q * 1.9515295891e-4))
    tail = 4.166664568298827e-2 + q * (-1.388731625493765e-3 + q * 2.443315711809948e-5)
    cosine = 1 - 0.5 * q + q * q * tail
    n = turns + quarter
    n = n - 4 * tl.floor(n * 0.25)
    size = tl.where((n == 1) | (n == 3), cosine, sine)
    return tl.where(n >= 2, -size, size)
""",
    "_times": """
@triton.jit
def _times(a, b):
    return a * b
""",
}


def _binary(symbol: str) -> Callable[..., str]:
    return lambda a, b: f"({a} {symbol} {b})"


def _fold(function: str) -> Callable[..., str]:
    def spelled(*args: str) -> str:
        result = args[0]
        for a in args[1:]:
            result = f"{function}({result}, {a})"
        return result

    return spelled


SPELL: dict[str, Callable[..., str]] = {
    "+": _binary("+"),
    "-": _binary("-"),
    "*": _binary("*"),
    "/": _binary("/"),
    "//": lambda a, b: f"_quotient({a}, {b})",
    "%": lambda a, b: f"_remainder({a}, {b})",
    "**": lambda a, b: f"_power({a}, {b})",
    "neg": lambda a: f"(-{a})",
    "<": _binary("<"),
    "<=": _binary("<="),
    ">": _binary(">"),
    ">=": _binary(">="),
    "==": _binary("=="),
    "!=": _binary("!="),
    "and": _binary("&"),
    "or": _binary("|"),
    "not": lambda a: f"({a} == 0)",
    "select": lambda c, a, b: f"tl.where({c}, {a}, {b})",
    "exp": lambda a: f"tl.exp2({a} * {LOG2E})",
    "exp2": lambda a: f"tl.exp2({a})",
    "log": lambda a: f"(tl.log2({a}) * {LN2})",
    "log2": lambda a: f"tl.log2({a})",
    "sqrt": lambda a: f"tl.sqrt({a})",
    "rsqrt": lambda a: f"(1.0 / tl.sqrt({a}))",
    "tanh": lambda a: f"_tanh({a})",
    "sigmoid": lambda a: f"_sigmoid({a})",
    "silu": lambda a: f"({a} * _sigmoid({a}))",
    "gelu": lambda a: f"({a} * 0.5 * (1 + tl.erf({a} * 0.7071067811865476)))",
    "softplus": lambda a: f"_softplus({a})",
    "erf": lambda a: f"tl.erf({a})",
    "sin": lambda a: f"_sine({a}, 0)",
    "cos": lambda a: f"_sine({a}, 1)",
    "relu": lambda a: f"tl.maximum({a}, 0)",
    "abs": lambda a: f"tl.abs({a})",
    "sign": lambda a: f"(({a} > 0).to(tl.int32) - ({a} < 0).to(tl.int32))",
    "floor": lambda a: f"tl.floor({a}).to(tl.int64)",
    "ceil": lambda a: f"tl.ceil({a}).to(tl.int64)",
    "min": _fold("tl.minimum"),
    "max": _fold("tl.maximum"),
    "clamp": lambda x, low, high: f"tl.minimum(tl.maximum({x}, {low}), {high})",
}

REAL = frozenset(  # operators whose operands must be float32
    ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "silu", "gelu", "softplus",
     "erf", "sin", "cos", "floor", "ceil", "/", "**")
)  # fmt: skip


def helpers(source: str) -> str:
    """The functions that a source names, in the order of their names."""
    used = [n for n in sorted(HELPERS) if re.search(rf"\b{n}\b", source)]
    return "\n\n\n".join(HELPERS[n].strip("\n") for n in used)
