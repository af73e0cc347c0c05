"""Kinds: whether an expression is a real number, an integer or a truth value.

Inputs without a type are `any`; an index, `//` or `and` asks them to be what is needed, and the
arguments are checked when they arrive (`required_kinds`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import TypeGuard

from cascade.diagnostics import Diagnostic, Span
from cascade.ir.cascade import Cascade, Einsum, OutputType
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.ops import MAPS, REDUCERS, SELECTIONS
from cascade.ir.order import evaluation_order, strongly_connected
from cascade.ir.printer import print_expr
from cascade.ir.walk import symbols, transform

INTEGER_TYPES = ("int", "i64", "i32", "i16", "i8", "u8")
EIGHT_BITS = ("f8e4m3", "f8e5m2", "i8", "u8")  # numbers that a real of 16 bits holds exactly
LEAST, MOST = -(2**63), 2**63 - 1  # integers have 64 bits
PLURAL = {"real": "real numbers", "int": "integers", "bool": "truth values"}
TYPES_OF = {
    "real": "types of real outputs: real, f64, f32, bf16, f16",
    "int": f"types of integers: {', '.join(INTEGER_TYPES)}",
    "bool": "truth values are `bool`",
}
WORDS = {"real": "a real number", "int": "an integer", "bool": "a truth value", "any": "any value"}


def declared_kind(dtype: str | None) -> str:
    """The kind of a declared type; `any` where none is declared."""
    if dtype is None:
        return "any"
    return "int" if dtype in INTEGER_TYPES else "bool" if dtype == "bool" else "real"


def declared_width(dtype: str | None) -> str | None:
    """A declared type, where it says how wide a number is."""
    return None if dtype in ("real", "int") else dtype


def is_wide_real(dtype: str | None) -> bool:
    """Whether a type is that of real numbers of 16 bits or more, as far as it says."""
    return declared_kind(dtype) in ("real", "any") and dtype not in EIGHT_BITS


def is_whole_exponent(e: Expr) -> bool:
    """Whether an integer to the power of this is an integer: so it is of a literal that is no less
    than 0. Every other power is real, whatever its values.
    """
    return isinstance(e, Const) and not isinstance(e.value, float) and e.value >= 0


def check_kinds(c: Cascade) -> Iterator[Diagnostic]:
    yield from _Kinds(c).findings


@lru_cache(maxsize=64)
def required_kinds(c: Cascade) -> dict[str, str]:
    """What the statements need each undeclared input to be: `int`, `bool` or nothing."""
    return dict(_Kinds(c).needed)


def check_settings_kinds(c: Cascade, settings: Mapping[str, str]) -> list[Diagnostic]:
    """What is wrong with a cascade when some params have other kinds than their defaults."""
    return _Kinds(c, settings).findings


@lru_cache(maxsize=64)
def tensor_kinds(c: Cascade) -> dict[str, str]:
    """The kind of every tensor, as far as it is known without the arguments."""
    return dict(_Kinds(c).kind)


class _Kinds:
    """One pass over the statements in an order that meets definitions before reads where it can."""

    def __init__(self, c: Cascade, settings: Mapping[str, str] | None = None):
        self.findings: list[Diagnostic] = []
        self.needed: dict[str, str] = {}
        self.kind = {t.name: declared_kind(t.dtype) for t in c.inputs}
        self.inputs = {t.name: t for t in c.inputs}
        self.bodies: dict[str, list[Expr]] = {}
        for statement in c.einsums:
            self.bodies.setdefault(statement.tensor, []).append(statement.body)
        self.params = dict(settings or {})
        values = {p.name: p.value for p in c.params}
        edges = {n: sorted(symbols(v) & set(values)) if v else [] for n, v in values.items()}
        for name in chain(*strongly_connected([*edges], edges)):
            value = values[name]
            if name not in self.params:
                self.params[name] = "any" if value is None else self.of(value)
        for requirement in c.requirements:
            self._want(requirement.condition, "bool", "a requirement")
        for rank in c.ranks:
            self._want(rank.extent, "int", f"the extent of `{rank.name}`")
        for group in evaluation_order(c):
            statements = (*group.inits, *group.einsums)
            findings, needed = [*self.findings], {**self.needed}  # before the kinds are settled
            while self._meet(statements) and group.rank is not None:
                self.findings, self.needed = [*findings], {**needed}
        for t in c.types:
            self._output(t)

    def _output(self, t: OutputType) -> None:
        """An output is of the kind of its type, and has room for what is computed."""
        found, kind = self.kind.get(t.tensor, "any"), declared_kind(t.dtype)
        if found == "any" and kind != "real":
            for body in self.bodies.get(t.tensor, ()):
                self._need(body, kind)
        elif found not in (kind, "any"):
            message = f"the output `{t.tensor}` is {WORDS[found]}, and `{t.dtype}` is a type of "
            self._report("type", f"{message}{PLURAL[kind]}", t.span, TYPES_OF[found])
        elif t.dtype in ("f8e4m3", "f8e5m2"):
            message = f"no output is rounded to 8 bits, and `{t.dtype}` has no more"
            self._report("type", message, t.span, TYPES_OF["real"])

    def _meet(self, statements: tuple[Einsum, ...]) -> bool:
        """Whether statements give a tensor another kind than was known of it."""
        before = dict(self.kind)
        for e in statements:
            found = self.of(e.body)
            self.kind[e.tensor] = _join(self.kind.get(e.tensor, found), found)
        return self.kind != before

    def _report(self, code: str, message: str, span: Span | None, *hints: str) -> None:
        self.findings.append(Diagnostic(code, message, span, hints=hints))

    def of(self, e: Expr) -> str:
        match e:
            case Const(value):
                return (
                    "bool"
                    if isinstance(value, bool)
                    else "int"
                    if isinstance(value, int)
                    else "real"
                )
            case Coordinate():
                return "int"
            case Symbol(name):
                return self.params.get(name, "int")
            case Read(tensor, index):
                for i in index:
                    self._index(i, tensor)
                return self.kind.get(tensor, "any")
            case Map():
                return self._map(e)
            case Reduce(op, _, body):
                return self._reduce(op, body, e.span)
            case Select(op, _, _, body):
                found = self.of(body)
                if found == "bool":
                    hint = f"write `select({print_expr(body)}, 1, 0)`"
                    self._report("kind", f"`{op}` orders numbers, not truth values", e.span, hint)
                return found if SELECTIONS[op] == "same" else "int"
            case Where(body, condition):
                self._want(condition, "bool", "a condition")
                return self.of(body)

    def _index(self, e: Expr, tensor: str) -> None:
        found = self.of(e)
        if found in ("int", "any"):
            self._need(e, "int")
            return
        hint = f"`floor({print_expr(e)})` makes an integer"
        whole = transform(e, lambda n: Map("//", n.args, n.span) if _divides(n) else None)
        if found == "bool":
            hint = f"write `select({print_expr(e)}, 1, 0)`"
        elif whole != e:
            hint = f"a quotient of integers is written `//`: `{print_expr(whole)}`"
        elif isinstance(e, Read) and e.tensor in self.inputs:
            hint = f"declare it as integers: `{self._declared(e.tensor, 'int')}`"
        message = f"the index `{print_expr(e)}` of `{tensor}` is {WORDS[found]}, not an integer"
        self._report("index-kind", message, e.span, hint)

    def _declared(self, name: str, dtype: str) -> str:
        ranks = self.inputs[name].ranks
        return f"input {name}[{','.join(ranks)}]: {dtype}" if ranks else f"input {name}: {dtype}"

    def _as_condition(self, e: Expr) -> tuple[str, ...]:
        """Hints for a number that stands where a truth value is needed."""
        compare = f"compare it: `{print_expr(e)} != 0`"
        if isinstance(e, Read) and e.tensor in self.inputs:
            return compare, f"or declare `{self._declared(e.tensor, 'bool')}`"
        return (compare,)

    def _need(self, e: Expr, kind: str) -> None:
        """Remember that an untyped input must have a kind: the one read, or those it is made of."""
        if isinstance(e, Read) and self.kind.get(e.tensor) == "any":
            known = e.tensor in self.needed
            before = self.needed.setdefault(e.tensor, kind)
            if not known:
                for body in self.bodies.get(e.tensor, ()):
                    self._need(body, kind)
            elif before != kind:
                message = f"`{e.tensor}` is {WORDS[kind]} here, and {WORDS[before]} elsewhere"
                self._report(
                    "kind", message, e.span, "make two inputs of it, or compare one of them"
                )
        elif isinstance(e, Where):
            self._need(e.body, kind)
        elif isinstance(e, Map) and MAPS[e.op].gives == "same" and self._may_be(e, kind):
            for arg in e.args[1:] if e.op == "select" else e.args:
                self._need(arg, kind)

    def _may_be(self, e: Map, kind: str) -> bool:
        """Whether a map whose kind is that of its operands can be of a kind."""
        return kind == "int" or MAPS[e.op].takes != "number"

    def _want(self, e: Expr, kind: str, what: str) -> None:
        found = self.of(e)
        if found == "any":
            self._need(e, kind)
        elif found != kind and not (kind == "real" and found == "int"):
            hints = self._as_condition(e) if kind == "bool" else ()
            if kind == "int":
                whole = transform(e, lambda n: Map("//", n.args, n.span) if _divides(n) else None)
                hints = (f"write `{print_expr(whole if whole != e else Map('floor', (e,)))}`",)
            message = f"{what} is {WORDS[kind]}, and `{print_expr(e)}` is {WORDS[found]}"
            self._report("kind", message, e.span, *hints)

    def _map(self, e: Map) -> str:
        op = MAPS[e.op]
        if op.takes == "select":
            self._want(e.args[0], "bool", "the condition of `select`")
            return self._same(e, e.args[1:])
        if op.takes == "same":
            kind = self._same(e, e.args)
            return kind if op.gives == "same" else op.gives
        kinds = [self.of(a) for a in e.args]
        for arg, found in zip(e.args, kinds, strict=True):
            self._operand(e, op.takes, arg, found)
        if op.gives == "same":
            if e.op == "**" and "real" not in kinds and not is_whole_exponent(e.args[1]):
                return "real"
            result = kinds[0]
            for found in kinds[1:]:
                result = _join(result, found)
            return "real" if result == "bool" else result
        return op.gives

    def _operand(self, e: Map, takes: str, arg: Expr, found: str) -> None:
        name = f"`{MAPS[e.op].symbol or e.op}`"
        if found == "any":
            if takes in ("int", "bool"):
                self._need(arg, takes)
            return
        if takes == "bool" and found != "bool":
            message = f"{name} joins truth values, and `{print_expr(arg)}` is {WORDS[found]}"
            self._report("kind", message, arg.span or e.span, *self._as_condition(arg))
        elif takes == "int" and found != "int":
            message = f"{name} takes integers, and `{print_expr(arg)}` is {WORDS[found]}"
            a, b = map(print_expr, e.args)
            hint = f"for real numbers write `floor({a} / {b})`"
            if e.op == "%":
                hint = f"for real numbers write `{a} - {b} * floor({a} / {b})`"
            self._report("kind", message, arg.span or e.span, hint)
        elif takes == "number" and found == "bool":
            message = f"{name} takes numbers, and `{print_expr(arg)}` is a truth value"
            hint = f"write `select({print_expr(arg)}, 1, 0)`"
            self._report("kind", message, arg.span or e.span, hint)

    def _same(self, e: Map, args: tuple[Expr, ...]) -> str:
        kinds = [self.of(a) for a in args]
        known = [k for k in kinds if k != "any"]
        if "bool" in known and any(k != "bool" for k in known):
            name = MAPS[e.op].symbol or e.op
            hint = "both must be numbers, or both truth values"
            self._report("kind", f"`{name}` is given a truth value and a number", e.span, hint)
        if not known:
            return "any"
        if len(known) < len(kinds):
            return "any"
        return "real" if "real" in known else known[0]

    def _reduce(self, op: str, body: Expr, span: Span | None) -> str:
        reducer = REDUCERS[op]
        found = self.of(body)
        if reducer.takes == "number" and found == "bool":
            hint = "count the true points with `count`" if op == "sum" else "write `any` or `all`"
            self._report(
                "kind", f"`{op}` reduces numbers, and its operand is a truth value", span, hint
            )
        elif reducer.takes == "bool" and found not in ("bool", "any"):
            message = f"`{op}` reduces truth values, and its operand is {WORDS[found]}"
            self._report("kind", message, span, *self._as_condition(body))
        return found if reducer.gives == "same" else reducer.gives


def _join(a: str, b: str) -> str:
    if a == b:
        return a
    return "any" if "any" in (a, b) and "real" not in (a, b) else "real"


def _divides(e: Expr) -> TypeGuard[Map]:
    return isinstance(e, Map) and e.op == "/"
