"""Numbers that remember how they came from extents: a size that is 64 here is `E`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from cascade.ir.expr import Const, Expr, Map


def expr_of(value: Any) -> Expr:
    """The expression of a number, a size or a scalar."""
    found = getattr(value, "expr", None)
    if found is not None:
        return found  # type: ignore[no-any-return]
    return Const(value)


class Size(int):
    """An extent with its expression; arithmetic keeps it."""

    expr: Expr

    def __new__(cls, value: int, expr: Expr) -> Size:
        made = super().__new__(cls, value)
        made.expr = expr
        return made

    def __neg__(self) -> Any:
        return Size(-int(self), Map("neg", (self.expr,)))

    def __hash__(self) -> int:
        return int.__hash__(self)


class Scalar(float):
    """A real number with its expression."""

    expr: Expr

    def __new__(cls, value: float, expr: Expr) -> Scalar:
        made = super().__new__(cls, value)
        made.expr = expr
        return made

    def __neg__(self) -> Any:
        return Scalar(-float(self), Map("neg", (self.expr,)))


OPERATORS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "add": ("+", operator.add),
    "sub": ("-", operator.sub),
    "mul": ("*", operator.mul),
    "truediv": ("/", operator.truediv),
    "pow": ("**", operator.pow),
    "floordiv": ("//", operator.floordiv),
    "mod": ("%", operator.mod),
}


def _bare(value: float) -> float:
    return int(value) if isinstance(value, int) else float(value)


def _operators(cls: type, names: tuple[str, ...]) -> None:
    """Python's operators on numbers, which keep the expression of what they give."""

    def made(op: str, function: Callable[[Any, Any], Any], swapped: bool) -> Any:
        def method(self: Any, other: Any) -> Any:
            if not isinstance(other, int | float):
                return NotImplemented
            a, b = (other, self) if swapped else (self, other)
            value = function(_bare(a), _bare(b))
            expr = Map(op, (expr_of(a), expr_of(b)))
            return Size(value, expr) if isinstance(value, int) else Scalar(value, expr)

        return method

    for name in names:
        setattr(cls, f"__{name}__", made(*OPERATORS[name], False))
        setattr(cls, f"__r{name}__", made(*OPERATORS[name], True))


_operators(Size, tuple(OPERATORS))
_operators(Scalar, ("add", "sub", "mul", "truediv", "pow"))
