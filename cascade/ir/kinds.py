"""Kinds: whether an expression is a real number, an integer or a truth value.

Inputs without a type are `any`; an index, `//` or `and` asks them to be what is needed, and the
arguments are checked when they arrive (`required_kinds`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from cascade.diagnostics import Diagnostic, Span
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.ops import MAPS, REDUCERS, SELECTIONS
from cascade.ir.printer import print_expr

INTEGER_TYPES = ("int", "i64", "i32", "i16", "i8", "u8")
WORDS = {"real": "a real number", "int": "an integer", "bool": "a truth value", "any": "any value"}


def declared_kind(dtype: str | None) -> str:
    """The kind of a declared type; `any` where none is declared."""
    if dtype is None:
        return "any"
    return "int" if dtype in INTEGER_TYPES else "bool" if dtype == "bool" else "real"


def check_kinds(c: Cascade) -> Iterator[Diagnostic]:
    yield from _Kinds(c).findings


@lru_cache(maxsize=64)
def required_kinds(c: Cascade) -> dict[str, str]:
    """What the statements need each undeclared input to be: `int`, `bool` or nothing."""
    return dict(_Kinds(c).needed)


@lru_cache(maxsize=64)
def tensor_kinds(c: Cascade) -> dict[str, str]:
    """The kind of every tensor, as far as it is known without the arguments."""
    return dict(_Kinds(c).kind)


class _Kinds:
    """One pass over the statements in an order that meets definitions before reads where it can."""

    def __init__(self, c: Cascade):
        self.findings: list[Diagnostic] = []
        self.needed: dict[str, str] = {}
        self.kind = {t.name: declared_kind(t.dtype) for t in c.inputs}
        self.params = {p.name: "int" for p in c.params}
        for p in c.params:
            self.params[p.name] = "int" if p.value is None else self.of(p.value)
            if p.value is None:
                self.params[p.name] = "any"
        from cascade.ir.order import evaluation_order

        for requirement in c.requirements:
            self._want(requirement.condition, "bool", "a requirement")
        for rank in c.ranks:
            self._want(rank.extent, "int", f"the extent of `{rank.name}`")
        for group in evaluation_order(c):
            for e in (*group.inits, *group.einsums):
                found = self.of(e.body)
                self.kind[e.tensor] = _join(self.kind.get(e.tensor, found), found)

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
                    self._report("kind", f"`{op}` orders numbers, not truth values", e.span)
                return found if SELECTIONS[op] == "same" else "int"
            case Where(body, condition):
                self._want(condition, "bool", "a condition")
                return self.of(body)

    def _index(self, e: Expr, tensor: str) -> None:
        found = self.of(e)
        if found in ("int", "any"):
            self._need(e, "int")
            return
        hint = "a quotient of integers is written `//`" if "/" in _operators(e) else ""
        if found == "real" and not hint:
            hint = (
                "an index is made of ranks, extents and integer tensors; "
                "`floor(x)` makes an integer"
            )
        message = f"the index `{print_expr(e)}` of `{tensor}` is {WORDS[found]}, not an integer"
        self._report("index-kind", message, e.span, *([hint] if hint else []))

    def _need(self, e: Expr, kind: str) -> None:
        """Remember that an untyped input must have a kind."""
        if isinstance(e, Read) and self.kind.get(e.tensor) == "any":
            self.needed.setdefault(e.tensor, kind)
        elif isinstance(e, Map) and MAPS[e.op].gives == "same" and kind == "int":
            for arg in e.args:
                self._need(arg, kind)

    def _want(self, e: Expr, kind: str, what: str) -> None:
        found = self.of(e)
        if found == "any":
            self._need(e, kind)
        elif found != kind and not (kind == "real" and found == "int"):
            hints = ["compare it: `x > 0`, `x != 0`"] if kind == "bool" else []
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
            if e.op == "**" and "real" not in kinds and not _nonnegative_constant(e.args[1]):
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
            self._report("kind", message, arg.span or e.span, "compare it: `x > 0`, `x != 0`")
        elif takes == "int" and found != "int":
            message = f"{name} takes integers, and `{print_expr(arg)}` is {WORDS[found]}"
            hint = "for real numbers write `floor(a / b)`" if e.op == "//" else ""
            self._report("kind", message, arg.span or e.span, *([hint] if hint else []))
        elif takes == "number" and found == "bool":
            message = f"{name} takes numbers, and `{print_expr(arg)}` is a truth value"
            self._report("kind", message, arg.span or e.span, "write `select(condition, 1, 0)`")

    def _same(self, e: Map, args: tuple[Expr, ...]) -> str:
        kinds = [self.of(a) for a in args]
        known = [k for k in kinds if k != "any"]
        if "bool" in known and any(k != "bool" for k in known):
            name = MAPS[e.op].symbol or e.op
            self._report("kind", f"`{name}` is given a truth value and a number", e.span)
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
            self._report("kind", message, span, "compare it: `x > 0`")
        return found if reducer.gives == "same" else reducer.gives


def _join(a: str, b: str) -> str:
    if a == b:
        return a
    return "any" if "any" in (a, b) and "real" not in (a, b) else "real"


def _nonnegative_constant(e: Expr) -> bool:
    return isinstance(e, Const) and not isinstance(e.value, float) and e.value >= 0


def _operators(e: Expr) -> set[str]:
    from cascade.ir.walk import walk

    return {n.op for n in walk(e) if isinstance(n, Map)}
