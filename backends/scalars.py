"""Operations on single Python numbers, as IEEE arithmetic has them: no exception, NaN passes on."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from cascade.ir.extents import SCALAR, Number


def _divide(a: Number, b: Number) -> float:
    if b != 0:
        return float(a) / float(b)
    return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1, b)


def _by_zero(function: Callable[[int, int], int]) -> Callable[[int, int], int]:
    return lambda a, b: function(a, b) if b else 0


def _integer(function: Callable[[float], int]) -> Callable[[float], int]:
    """Rounding; what is not finite becomes the least 64-bit integer, which no index reaches."""
    return lambda a: function(a) if math.isfinite(a) else -(2**63)


def _power(a: Number, b: Number) -> Number:
    if isinstance(a, int) and isinstance(b, int) and 0 <= b <= 1024:
        result: int = a**b
        return result
    return real_power(a, b)


def real_power(a: Number, b: Number) -> float:
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf
    except ValueError:
        if a != 0:
            return math.nan
        return math.copysign(math.inf, a) if b % 2 == 1 else math.inf


def _guarded(
    function: Callable[[float], float], *, overflow: float = math.inf, pole: float = math.nan
) -> Callable[[float], float]:
    """A function of `math`, with a value where it raises: too large, at 0, out of domain."""

    def evaluate(a: float) -> float:
        try:
            return function(a)
        except OverflowError:
            return overflow
        except (ValueError, ZeroDivisionError):
            return pole if a == 0 else math.nan

    return evaluate


def _nan_or(function: Callable[..., Number]) -> Callable[..., Number]:
    """A comparison-based operation; one NaN among the operands is the result."""

    def evaluate(*args: Number) -> Number:
        for a in args:
            if a != a:
                return a
        return function(*args)

    return evaluate


def _sum(values: Sequence[Number]) -> Number:
    if all(isinstance(v, int) for v in values):
        return sum(values)
    try:
        return math.fsum(values)
    except (ValueError, OverflowError):  # infinities of both signs; a partial sum out of range
        return sum(values)


def _argmax(values: Sequence[Number]) -> int:
    """The position of the largest value, or of the first NaN; ties to the lower position."""
    return next((n for n, v in enumerate(values) if v != v), descending(values)[0])


def descending(values: Sequence[Number]) -> list[int]:
    """Positions from the largest value to the smallest, then NaN; ties to the lower position."""
    return sorted(
        range(len(values)),
        key=lambda n: (values[n] != values[n], 0 if values[n] != values[n] else -values[n], n),
    )


OPERATIONS: dict[str, Callable[..., Any]] = {
    **SCALAR,
    "/": _divide,
    "//": _by_zero(operator.floordiv),
    "%": _by_zero(operator.mod),
    "floor": _integer(math.floor),
    "ceil": _integer(math.ceil),
    "**": _power,
    "exp": _guarded(math.exp),
    "exp2": _guarded(lambda a: math.pow(2, a)),
    "log": _guarded(math.log, pole=-math.inf),
    "log2": _guarded(math.log2, pole=-math.inf),
    "sqrt": _guarded(math.sqrt),
    "rsqrt": _guarded(lambda a: _divide(1.0, math.sqrt(a))),
    "sin": _guarded(math.sin),
    "cos": _guarded(math.cos),
    "softplus": _nan_or(SCALAR["softplus"]),
    "relu": _nan_or(SCALAR["relu"]),
    "sign": _nan_or(SCALAR["sign"]),
    "min": _nan_or(SCALAR["min"]),
    "max": _nan_or(SCALAR["max"]),
    "clamp": _nan_or(SCALAR["clamp"]),
}

REDUCTIONS: dict[str, Callable[[Sequence[Any]], Any]] = {
    "sum": _sum,
    "max": lambda values: OPERATIONS["max"](-math.inf, *values) if values else -math.inf,
    "min": lambda values: OPERATIONS["min"](math.inf, *values) if values else math.inf,
    "prod": math.prod,
    "any": any,
    "all": all,
    "count": lambda values: sum(v is not False for v in values),
    "argmax": _argmax,
    "mean": lambda values: _divide(_sum(values), len(values)),
}
