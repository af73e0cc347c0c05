"""Numbers that remember how they came from extents: a size that is 64 here is `E`."""

from __future__ import annotations

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

    def _with(self, op: str, other: Any, value: Any, swapped: bool = False) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        a, b = expr_of(self), expr_of(other)
        expr = Map(op, (b, a) if swapped else (a, b))
        return Size(value, expr) if isinstance(value, int) else Scalar(value, expr)

    def __add__(self, other: Any) -> Any:
        return self._with("+", other, int(self) + other)

    def __radd__(self, other: Any) -> Any:
        return self._with("+", other, other + int(self), True)

    def __sub__(self, other: Any) -> Any:
        return self._with("-", other, int(self) - other)

    def __rsub__(self, other: Any) -> Any:
        return self._with("-", other, other - int(self), True)

    def __mul__(self, other: Any) -> Any:
        return self._with("*", other, int(self) * other)

    def __rmul__(self, other: Any) -> Any:
        return self._with("*", other, other * int(self), True)

    def __floordiv__(self, other: Any) -> Any:
        return self._with("//", other, int(self) // other)

    def __truediv__(self, other: Any) -> Any:
        return self._with("/", other, int(self) / other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._with("/", other, other / int(self), True)

    def __mod__(self, other: Any) -> Any:
        return self._with("%", other, int(self) % other)

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        return self._with("**", other, int(self) ** other)

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

    def _with(self, op: str, other: Any, value: float, swapped: bool = False) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        a, b = expr_of(self), expr_of(other)
        return Scalar(value, Map(op, (b, a) if swapped else (a, b)))

    def __add__(self, other: Any) -> Any:
        return self._with("+", other, float(self) + other)

    def __mul__(self, other: Any) -> Any:
        return self._with("*", other, float(self) * other)

    def __rmul__(self, other: Any) -> Any:
        return self._with("*", other, other * float(self), True)

    def __truediv__(self, other: Any) -> Any:
        return self._with("/", other, float(self) / other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._with("/", other, other / float(self), True)

    def __neg__(self) -> Any:
        return Scalar(-float(self), Map("neg", (self.expr,)))
