"""Numbers for symbols: extents from the shapes of the inputs, params from defaults or settings.

`bind` is the one place where a wrong shape is found; the message names the tensor, the rank and
both extents.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from cascade.diagnostics import (
    CascadeError,
    Diagnostic,
    InputError,
    did_you_mean,
    fail,
    input_error,
)
from cascade.ir.cascade import Cascade, Partition, Rank, Tensor
from cascade.ir.expr import Const, Expr, Map, Symbol
from cascade.ir.kinds import check_settings_kinds, is_whole_exponent
from cascade.ir.printer import print_expr
from cascade.ir.walk import symbols

Number = int | float | bool

LARGEST = 2**62  # coordinates of a rank
NOT_GIVEN = ("unknown-extent", "unknown-param")  # codes of errors that a setting mends
LONGEST_CHAIN = 100  # params and extents, each defined by the next

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
    result = a**b
    if isinstance(result, complex):
        raise ArithmeticError
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
        case Map("**", (a, b)) if not is_whole_exponent(b):
            return SCALAR["**"](float(evaluate(a, lookup)), evaluate(b, lookup))
        case Map(op, args):
            return SCALAR[op](*(evaluate(a, lookup) for a in args))
        case _:
            raise fail("extent", f"`{print_expr(e)}` is no number", e.span)


class _Binding:
    """Looks symbols up on demand: settings, shapes, defaults, then the ranks' own expressions."""

    def __init__(self, cascade: Cascade, settings: Mapping[str, Number]):
        self.cascade = cascade
        self.known: dict[str, Number] = dict(settings)
        self.source: dict[str, str] = {name: "by the settings" for name in settings}
        self.params = {p.name: p for p in cascade.params}
        self.extent_of = {r.name.upper(): r for r in cascade.ranks}
        self.pending: list[str] = []

    def value(self, name: str) -> Number:
        if name in self.known:
            return self.known[name]
        if name in self.pending:
            chain = " -> ".join([*self.pending, name])
            raise input_error("extent", f"`{name}` is defined by itself: {chain}")
        if len(self.pending) > LONGEST_CHAIN:
            raise input_error("extent", f"`{name}` follows from more than {LONGEST_CHAIN} others")
        self.pending.append(name)
        try:
            self.known[name] = self._define(name)
        finally:
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
                _how_to_know(self.cascade, rank.name),
                span=rank.span,
            )
        raise input_error(
            "unknown-param",
            f"the param `{name}` has no value",
            f"set it: `--set {name}=…`, or write its default: `param {name} = …`",
            span=param.span if param else None,
        )

    def of(self, e: Expr) -> Number:
        try:
            return evaluate(e, self.value)
        except (ArithmeticError, ValueError):
            given = ", ".join(f"{s} = {self.value(s)}" for s in sorted(symbols(e)))
            message = f"`{print_expr(e)}` has no value" + f" for {given}" * bool(given)
            raise input_error("extent", message, span=e.span) from None

    def extent(self, rank: str) -> int:
        e = self.cascade.rank[rank].extent
        value = self.of(e)
        whole = not isinstance(value, bool) and math.isfinite(value) and value == int(value)
        if not whole or not 0 <= value <= LARGEST:
            what = "too large" if whole and value > 0 else "not a whole number, 0 or more"
            message = f"the extent of rank `{rank}` is {value}, {what}"
            if e != Symbol(rank.upper()):
                message += f" (it is {print_expr(e)})"
            raise input_error("extent", message, span=self.cascade.rank[rank].span)
        return int(value)


def _how_to_know(cascade: Cascade, rank: str) -> str:
    """The hint for an extent that nothing gives."""
    name = rank.upper()
    carriers = [t.name for t in cascade.inputs if rank in t.ranks]
    if carriers:
        return f"set it: `--set {name}=…`, or give the input `{carriers[0]}`"
    return f"set it: `--set {name}=…`, or write it in the spec: `param {name} = 8`"


def bind(
    cascade: Cascade,
    shapes: Mapping[str, tuple[int, ...]],
    settings: Mapping[str, Number] | None = None,
) -> Bindings:
    """Extents and params from input shapes and settings, checked against each other.

    Raises `InputError` where a shape is wrong, something is missing, or a requirement fails.
    """
    settings = check_settings(cascade, settings or {})
    binding = _Binding(cascade, settings)
    checks: list[tuple[Tensor, int, int]] = []
    for tensor in cascade.inputs:
        if tensor.name not in shapes:
            continue
        shape = shapes[tensor.name]
        if len(shape) != len(tensor.ranks):
            raise input_error(
                "shape",
                f"`{tensor.name}` has {_dimensions(shape)}, "
                f"and the spec gives it {len(tensor.ranks)}",
                f"it is declared as `{_form(tensor)}`",
                span=tensor.span,
            )
        for slot, extent in enumerate(shape):
            _learn(binding, tensor, slot, int(extent), checks)
    missing = _Missing()
    for p in cascade.partitions:
        missing.unless(partial(_check_strides, binding, p))
    for tensor, slot, extent in checks:
        missing.unless(partial(_compare, binding, tensor, slot, extent))
    for r in cascade.ranks:
        missing.unless(partial(binding.extent, r.name))
    for param in cascade.params:
        missing.unless(partial(binding.value, param.name))
    missing.stop()
    extents = {r.name: binding.extent(r.name) for r in cascade.ranks}
    values: dict[str, Number] = {p.name: binding.value(p.name) for p in cascade.params}
    values |= {name.upper(): extent for name, extent in extents.items()}
    _check_requirements(cascade, binding)
    return Bindings(extents, values)


class _Missing:
    """Extents and params that nothing gives: a user is told of all of them at once."""

    def __init__(self) -> None:
        self.found: dict[str, Diagnostic] = {}

    def unless(self, check: Callable[[], object]) -> None:
        """Make a check, unless it needs a number that is missing. Raises its other errors."""
        try:
            check()
        except InputError as error:
            if any(d.code not in NOT_GIVEN for d in error.diagnostics):
                raise
            self.found.update({d.message: d for d in error.diagnostics})

    def stop(self) -> None:
        if self.found:
            raise InputError(*self.found.values())


def _dimensions(shape: tuple[int, ...]) -> str:
    if not shape:
        return "no dimension"
    return f"{len(shape)} dimension{'s' * (len(shape) > 1)} {shape}"


def _form(tensor: Tensor) -> str:
    return f"{tensor.name}[{','.join(tensor.ranks)}]" if tensor.ranks else tensor.name


def _check_strides(binding: _Binding, p: Partition) -> None:
    for stride in sorted(symbols(p.expression)):
        if binding.value(stride) <= 0:
            message = f"the stride `{stride}` of the partition of `{p.rank}` must be positive"
            raise input_error("extent", f"{message}, not {binding.value(stride)}", span=p.span)


def setting_names(cascade: Cascade) -> set[str]:
    """Every name of an extent or param."""
    names = {p.name for p in cascade.params} | {r.name.upper() for r in cascade.ranks}
    names |= {s for r in cascade.ranks for s in symbols(r.extent)}
    return names | {s for p in cascade.partitions for s in symbols(p.expression)}


def check_settings(cascade: Cascade, settings: Mapping[str, Number]) -> dict[str, Number]:
    """The settings as numbers of Python. Raises `InputError` for one that cannot be."""
    known = setting_names(cascade)
    checked: dict[str, Number] = {}
    if unknown := [n for n in settings if n not in known]:
        raise InputError(*(_unknown_setting(n, cascade) for n in unknown))
    for name, value in settings.items():
        checked[name] = number_of_setting(name, value)
        rank = next((r for r in cascade.ranks if r.name.upper() == name), None)
        if rank is not None:
            _check_extent(rank, name, checked[name])
    _check_kinds(cascade, checked)
    return checked


def settings_in_words(cascade: Cascade) -> str:
    """What can be set of a spec, for a hint."""
    params = [p.name for p in cascade.params]
    extents = sorted(setting_names(cascade) - {*params})
    found = [f"extents: {', '.join(extents)}"] if extents else []
    return "; ".join([*found, f"params: {', '.join(params)}"] if params else found)


def _unknown_setting(name: str, cascade: Cascade) -> Diagnostic:
    rank = name[:-1].lower()
    if rank in cascade.rank and name[-1:] in "01":  # as schedules call the parts of a rank
        hints: tuple[str, ...] = (f"the coordinates of a tile are set by `--tile {rank}=…`",)
    else:
        hints = did_you_mean(name, setting_names(cascade)) or (settings_in_words(cascade),)
    return Diagnostic("setting", f"there is no extent or param `{name}`", hints=hints)


def number_of_setting(name: str, value: object) -> Number:
    """The value as a number of Python. Raises `InputError` for what is none."""
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real) and not math.isnan(value):
        return float(value)
    raise input_error("setting", f"`{name}` is set to {value!r:.40}, which is no number")


def refuse_derived(rank: Rank) -> None:
    """Raise `InputError` where the extent of a rank follows from others."""
    name = rank.name.upper()
    if rank.extent == Symbol(name):
        return
    others = sorted(symbols(rank.extent))
    if not others:
        message = f"`{name}` is {print_expr(rank.extent)} by the spec and cannot be set"
        raise input_error("setting", message, f"leave out `{name}`", span=rank.span)
    message = f"`{name}` follows from other extents ({print_expr(rank.extent)}) and cannot be set"
    hint = f"set {' or '.join(f'`{s}`' for s in others)}"
    raise input_error("setting", message, hint, span=rank.span)


def _check_extent(rank: Rank, name: str, value: Number) -> None:
    refuse_derived(rank)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
        message = f"`{name}` is set to {value}, and an extent is a whole number from 0 to 2**62"
        raise input_error("setting", message, span=rank.span)


def _check_kinds(cascade: Cascade, settings: dict[str, Number]) -> None:
    """A param that is used as an integer or truth value is set to one."""
    kinds = {}
    for p in cascade.params:
        if p.name in settings:
            value = settings[p.name]
            if isinstance(p.value, Const) and isinstance(p.value.value, bool) and value in (0, 1):
                settings[p.name] = value = bool(value)
            kind = (
                "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "real"
            )
            kinds[p.name] = kind
    for finding in check_settings_kinds(cascade, kinds) if kinds else ():
        at_fault = ", ".join(f"`{name}` is set to {settings[name]}" for name in kinds)
        raise input_error("setting", f"{at_fault}: {finding.message}", span=finding.span)


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
    if expected == extent:
        return
    e = binding.cascade.rank[rank].extent
    if isinstance(e, Symbol):
        where = f"and {expected} {binding.source.get(e.name, f'by the param `{e.name}`')}"
    elif symbols(e):
        where = f"and {print_expr(e)} is {expected}"
    else:
        where = f"and the spec fixes it at {expected}"
    raise input_error(
        "shape",
        f"rank `{rank}` of `{tensor.name}` has extent {extent}, {where}",
        f"`{tensor.name}` is declared as `{_form(tensor)}`",
        span=tensor.span,
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
            message = f"`{print_expr(r.condition)}` does not hold{reason}" + f" ({given})" * bool(
                given
            )
            raise input_error("requirement", message, span=r.span)
