"""Numbers for symbols: extents from the shapes of the inputs, params from defaults or settings.

`bind` is the one place where a wrong shape is found; the message names the tensor, the rank and
both extents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cascade.diagnostics import CascadeError, did_you_mean, fail, input_error
from cascade.ir.cascade import Cascade, Tensor
from cascade.ir.expr import Const, Expr, Map, Symbol
from cascade.ir.printer import print_expr
from cascade.ir.walk import symbols

Number = int | float | bool

SCALAR: dict[str, Callable[..., Number]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: _quotient(a, b),
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "**": lambda a, b: _power(a, b),
    "neg": lambda a: -a,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
    "??": lambda a, b: a,
    "select": lambda c, a, b: a if c else b,
    "exp": math.exp,
    "exp2": lambda a: 2.0**a,
    "log": lambda a: math.log(a) if a else -math.inf,
    "log2": lambda a: math.log2(a) if a else -math.inf,
    "sqrt": math.sqrt,
    "rsqrt": lambda a: _quotient(1, math.sqrt(a)),
    "tanh": math.tanh,
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)) if a >= 0 else math.exp(a) / (1 + math.exp(a)),
    "silu": lambda a: a * SCALAR["sigmoid"](a),
    "gelu": lambda a: a * 0.5 * (1 + math.erf(a / math.sqrt(2))),
    "softplus": lambda a: max(a, 0) + math.log1p(math.exp(-abs(a))),
    "erf": math.erf,
    "sin": math.sin,
    "cos": math.cos,
    "relu": lambda a: max(a, 0),
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "floor": math.floor,
    "ceil": math.ceil,
    "min": min,
    "max": max,
    "clamp": lambda x, low, high: min(max(x, low), high),
}


def _quotient(a: Number, b: Number) -> Number:
    """IEEE, as in a statement: `1/sqrt(E)` is infinite where E is 0, and multiplies no point
    there.
    """
    if b or not a:
        return a / b
    return math.copysign(math.inf, a) * math.copysign(1, b)


def _power(a: Number, b: Number) -> Number:
    if abs(a) > 1 and abs(b) > 1024 and isinstance(a, int) and isinstance(b, int):
        raise OverflowError
    result: Number = a**b
    return result


@dataclass(frozen=True)
class Bindings:
    """The extent of every rank and the value of every param."""

    extents: dict[str, int]
    values: dict[str, Number]

    def of(self, e: Expr) -> Number:
        """The value of an expression over extents and params."""
        return evaluate(e, self.values.__getitem__)


def evaluate(e: Expr, lookup: Callable[[str], Number]) -> Number:
    """The number an expression over symbols stands for."""
    match e:
        case Const(value):
            return value
        case Symbol(name):
            return lookup(name)
        case Map("and" | "or" as op, (a, b)):
            first = evaluate(a, lookup)
            return bool(first) if bool(first) == (op == "or") else bool(evaluate(b, lookup))
        case Map("select", (c, a, b)):
            return evaluate(a if evaluate(c, lookup) else b, lookup)
        case Map(op, args):
            return SCALAR[op](*(evaluate(a, lookup) for a in args))
        case _:
            raise fail("extent", f"`{print_expr(e)}` is no number", e.span)


class _Binding:
    """Looks symbols up on demand: settings, shapes, defaults, then the ranks' own expressions."""

    def __init__(self, cascade: Cascade, settings: Mapping[str, Number]):
        self.cascade = cascade
        self.known: dict[str, Number] = dict(settings)
        self.source: dict[str, str] = {name: f"set to {settings[name]}" for name in settings}
        self.params = {p.name: p for p in cascade.params}
        self.extent_of = {r.name.upper(): r for r in cascade.ranks}
        self.pending: list[str] = []

    def value(self, name: str) -> Number:
        if name in self.known:
            return self.known[name]
        if name in self.pending:
            chain = " -> ".join([*self.pending, name])
            raise fail("extent", f"`{name}` is defined by itself: {chain}")
        self.pending.append(name)
        self.known[name] = self._define(name)
        self.pending.pop()
        return self.known[name]

    def _define(self, name: str) -> Number:
        param, rank = self.params.get(name), self.extent_of.get(name)
        if param is not None and param.value is not None:
            return self.of(param.value)
        if rank is not None and rank.extent != Symbol(name):
            return self.of(rank.extent)
        if rank is not None:
            raise input_error(
                "unknown-extent",
                f"the extent `{name}` of rank `{rank.name}` is not known",
                f"set it: `--set {name}=…`, or give an input that has rank `{rank.name}`",
            )
        raise input_error(
            "unknown-param", f"the param `{name}` has no value", f"set it: `--set {name}=…`"
        )

    def of(self, e: Expr) -> Number:
        try:
            return evaluate(e, self.value)
        except (ArithmeticError, ValueError):
            raise input_error(
                "extent", f"`{print_expr(e)}` has no value for these extents"
            ) from None

    def extent(self, rank: str) -> int:
        e = self.cascade.rank[rank].extent
        value = self.of(e)
        if isinstance(value, bool) or not math.isfinite(value) or value != int(value) or value < 0:
            raise input_error(
                "extent",
                f"the extent of rank `{rank}` is {value}; it must be a whole number, 0 or more",
            )
        return int(value)


def bind(
    cascade: Cascade,
    shapes: Mapping[str, tuple[int, ...]],
    settings: Mapping[str, Number] | None = None,
) -> Bindings:
    """Extents and params from input shapes and settings, checked against each other.

    Raises `InputError` where a shape is wrong, something is missing, or a requirement fails.
    """
    settings = settings or {}
    check_settings(cascade, settings)
    binding = _Binding(cascade, settings)
    checks: list[tuple[Tensor, int, int]] = []
    for tensor in cascade.inputs:
        if tensor.name not in shapes:
            continue
        shape = shapes[tensor.name]
        if len(shape) != len(tensor.ranks):
            raise input_error(
                "shape",
                f"`{tensor.name}` has {len(shape)} dimensions {tuple(shape)}, and the spec "
                "gives it "
                f"{len(tensor.ranks)}: [{','.join(tensor.ranks)}]",
            )
        for slot, extent in enumerate(shape):
            _learn(binding, tensor, slot, int(extent), checks)
    for tensor, slot, extent in checks:
        _compare(binding, tensor, slot, extent)
    extents = {r.name: binding.extent(r.name) for r in cascade.ranks}
    values: dict[str, Number] = {p.name: binding.value(p.name) for p in cascade.params}
    values |= {name.upper(): extent for name, extent in extents.items()}
    for p in cascade.partitions:
        for stride in symbols(p.expression):
            if binding.value(stride) <= 0:
                raise input_error(
                    "extent",
                    f"the stride `{stride}` of the partition of `{p.rank}` must be positive",
                )
    _check_requirements(cascade, binding)
    return Bindings(extents, values)


def check_settings(cascade: Cascade, settings: Mapping[str, Number]) -> None:
    known = {p.name for p in cascade.params} | {r.name.upper() for r in cascade.ranks}
    free = {s for r in cascade.ranks for s in symbols(r.extent)}
    free |= {s for p in cascade.partitions for s in symbols(p.expression)}
    for name, value in settings.items():
        if name not in known | free:
            raise input_error(
                "setting", f"there is no extent or param `{name}`", *did_you_mean(name, known)
            )
        if isinstance(value, float) and math.isnan(value):
            raise input_error("setting", f"`{name}` is set to NaN")
        rank = next((r for r in cascade.ranks if r.name.upper() == name), None)
        if rank is None:
            continue
        if rank.extent != Symbol(name):
            raise input_error(
                "setting",
                f"`{name}` follows from other extents ({print_expr(rank.extent)}) and cannot be "
                "set",
            )
        if not isinstance(value, int) or value < 0:
            raise input_error("setting", f"`{name}` is an extent: a whole number, 0 or more")


def _learn(
    binding: _Binding, tensor: Tensor, slot: int, extent: int, checks: list[tuple[Tensor, int, int]]
) -> None:
    e = binding.cascade.rank[tensor.ranks[slot]].extent
    if isinstance(e, Symbol) and e.name not in binding.known:
        param = binding.params.get(e.name)
        if param is None or param.value is None:
            binding.known[e.name] = extent
            binding.source[e.name] = f"in `{tensor.name}`"
            return
    checks.append((tensor, slot, extent))


def _compare(binding: _Binding, tensor: Tensor, slot: int, extent: int) -> None:
    rank = tensor.ranks[slot]
    expected = binding.extent(rank)
    if expected != extent:
        e = binding.cascade.rank[rank].extent
        where = (
            binding.source.get(e.name, "by its param")
            if isinstance(e, Symbol)
            else f"as {print_expr(e)}"
        )
        raise input_error(
            "shape",
            f"rank `{rank}` of `{tensor.name}` has extent {extent}, and {expected} {where}",
            f"`{tensor.name}` is declared as {tensor.name}[{','.join(tensor.ranks)}]",
        )


def _check_requirements(cascade: Cascade, binding: _Binding) -> None:
    for r in cascade.requirements:
        try:
            holds = evaluate(r.condition, binding.value)
        except CascadeError:
            raise
        except (ArithmeticError, ValueError):
            holds = False
        if not holds:
            reason = f": {r.message}" if r.message else ""
            given = ", ".join(f"{s} = {binding.value(s)}" for s in sorted(symbols(r.condition)))
            raise input_error(
                "requirement", f"`{print_expr(r.condition)}` does not hold{reason} ({given})"
            )
