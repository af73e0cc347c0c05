"""Cascades written in Python: the syntax tree of the language, so that all checks are shared.

    c = Builder("attention")
    b, h, p, m, e = c.ranks("b h p m e")
    Q, K = c.input("Q", b, h, p, e), c.input("K", b, h, m, e)
    QK = c.let("QK", (b, h, p, m), Q[b, h, p, e] * K[b, h, m, e], where=m <= p)
    A = c.let("A", (b, h, p, m), std.softmax(m, QK[b, h, p, m]))
    spec = c.build(outputs=A)

Everything is spelled as in a `.cascade` file but for `.where(…)`, `.default(…)` (`??`), `&`, `|`,
`~` (`and`, `or`, `not`), `sum_(m)(x)` (`sum[m](x)`) and `top(m, j)(x)` (`top[m -> j](x)`). A Python
function serves as a macro. Errors point at the Python expression.
"""

from __future__ import annotations

import itertools
import linecache
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from numbers import Integral, Real
from typing import TypeAlias

from cascade.diagnostics import Source, Span, did_you_mean, fail
from cascade.frontends.dsl import lower
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.mistakes import KEYWORDS
from cascade.frontends.dsl.names import WORDS, library, walk
from cascade.ir.cascade import Cascade

LARGEST = 2**63  # integer in a spec

Value: TypeAlias = "Expression | int | float | bool"
Several: TypeAlias = "tuple[Value, ...]"


# -- where in the user's Python
def _here() -> Span:
    """The expression that the caller outside this file is evaluating."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    name, number = frame.f_code.co_filename, frame.f_lineno
    lines = linecache.getlines(name, frame.f_globals)
    if number > len(lines):  # the text is out of reach: the line number is all there is
        return Span(_source(name, "\n" * (number - 1)), number - 1, number - 1)
    source = _source(name, "".join(lines))
    positions = frame.f_code.co_positions()
    first, last, start, end = next(itertools.islice(positions, frame.f_lasti // 2, None))
    if first is None or last is None or start is None or end is None or last > len(lines):
        line = lines[number - 1]
        first = last = number
        start, end = len(line) - len(line.lstrip()), len(line.encode())
    return Span(source, _offset(lines, first, start), _offset(lines, last, end))


_source = lru_cache(maxsize=64)(Source)


def _offset(lines: list[str], line: int, column: int) -> int:
    """The character at a line and a column; Python counts columns in bytes of UTF-8."""
    before = lines[line - 1].encode()[:column].decode(errors="ignore").rstrip("\n")
    return sum(map(len, lines[: line - 1])) + len(before)


# -- expressions
def _infix(op: str, reflected: bool = False) -> Callable[[Expression, Value], Expression]:
    def method(self: Expression, other: Value) -> Expression:
        span = _here()
        left, right = _node(self, span), _node(other, span)
        return Term(s.Binary(op, *((right, left) if reflected else (left, right)), span))

    return method


def _prefix(op: str) -> Callable[[Expression], Expression]:
    def method(self: Expression) -> Expression:
        span = _here()
        return Term(s.Unary(op, _node(self, span), span))

    return method


def _comparison(op: str) -> Callable[[Expression, Value], Expression]:
    def method(self: Expression, other: Value) -> Expression:
        span = _here()
        return Term(s.Compare(_node(self, span), ((op, _node(other, span)),), span))

    return method


class Expression:
    """A value of the cascade. It stands for many numbers and has no truth value in Python."""

    __array_ufunc__ = None  # `numpy_number * expression` comes to `__rmul__`
    __iter__ = None  # otherwise Python would try Q[0], Q[1], … without end
    __hash__ = object.__hash__

    def __init__(self, node: s.Expr):
        self.node = node

    __add__, __radd__ = _infix("+"), _infix("+", reflected=True)
    __sub__, __rsub__ = _infix("-"), _infix("-", reflected=True)
    __mul__, __rmul__ = _infix("*"), _infix("*", reflected=True)
    __truediv__, __rtruediv__ = _infix("/"), _infix("/", reflected=True)
    __floordiv__, __rfloordiv__ = _infix("//"), _infix("//", reflected=True)
    __mod__, __rmod__ = _infix("%"), _infix("%", reflected=True)
    __pow__, __rpow__ = _infix("**"), _infix("**", reflected=True)
    __and__, __rand__ = _infix("and"), _infix("and", reflected=True)
    __or__, __ror__ = _infix("or"), _infix("or", reflected=True)
    __neg__, __invert__ = _prefix("neg"), _prefix("not")
    __lt__, __le__ = _comparison("<"), _comparison("<=")
    __gt__, __ge__ = _comparison(">"), _comparison(">=")
    __eq__ = eq = _comparison("==")  # type: ignore[assignment]
    __ne__ = ne = _comparison("!=")  # type: ignore[assignment]
    default = _infix("??")

    def where(self, condition: Value) -> Expression:
        """Absent where the condition is not true."""
        span = _here()
        return Term(s.Filter(_node(self, span), _node(condition, span), span))

    def __abs__(self) -> Expression:
        return _call("abs", (), (), (self,))

    def __bool__(self) -> bool:
        raise fail(
            "truth-value",
            "an expression of a cascade is neither true nor false in Python",
            _here(),
            hints=(
                "write a chain `a <= m <= b` as `(a <= m) & (m <= b)`",
                "write `&`, `|`, `~` for `and`, `or`, `not`, and comparisons in parentheses",
                "write `select(condition, a, b)` or `.where(condition)` for `if`",
            ),
        )


class Term(Expression):
    """What operators and functions make. Ranks and tensors are its siblings, not subclasses: of
    `a < b` with a subclass on the right, Python would make `b > a`.
    """


class Rank(Expression):
    """A rank; in an expression, the coordinate along it."""

    def __init__(self, name: str):
        span = _here()
        super().__init__(s.Name(_checked(name, span), span))


class Tensor(Expression):
    """An input or the result of a statement: read as `K[b, h, m, e]`, a scalar as it stands."""

    def __init__(self, name: str):
        span = _here()
        super().__init__(s.Name(_checked(name, span), span))
        self.name = name

    def __getitem__(self, index: Value | Several) -> Expression:
        span = _here()
        return Term(s.Index(self.name, _nodes(_tuple(index), span), span))


def _node(value: object, span: Span) -> s.Expr:
    """The syntax of an operand; names are placed where they are used."""
    match value:
        case Expression(node=s.Name(text)):
            return s.Name(text, span)
        case Expression():
            return value.node
        case bool():
            return s.Name(str(value).lower(), span)
        case Integral() if abs(int(value)) <= LARGEST:
            return _signed(str(abs(int(value))), int(value) < 0, span)
        case Real() if not isinstance(value, Integral) and not math.isnan(value):
            if math.isinf(value):
                return _signed("inf", value < 0, span)
            return _signed(repr(abs(float(value))), value < 0, span)
    what = f"the number {value}" if isinstance(value, Real) else f"a `{type(value).__name__}`"
    raise fail("value", f"{what} cannot stand in a cascade", span)


def _signed(text: str, negative: bool, span: Span) -> s.Expr:
    node = s.Name(text, span) if text == "inf" else s.Number(text, span)
    return s.Unary("neg", node, span) if negative else node


def _nodes(values: Iterable[object], span: Span) -> tuple[s.Expr, ...]:
    return tuple(_node(value, span) for value in values)


def _tuple(values: Value | Several) -> Several:
    return values if isinstance(values, tuple) else (values,)


def _checked(name: str, span: Span) -> str:
    if name in KEYWORDS or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        hint = "a name is made of letters, digits and `_`, and is no word of the language"
        raise fail("name", f"`{name}` is no name", span, hints=(hint,))
    return name


# -- functions, reductions, selections, the library
def _call(name: str, binders: Several, targets: Several, args: Several) -> Expression:
    span = _here()
    inside = _nodes(binders, span), _nodes(targets, span), _nodes(args, span)
    return Term(s.Call(name, *inside, span))


def _function(name: str) -> Callable[..., Expression]:
    return lambda *args: _call(name, (), (), args)


exp, exp2, log, log2, sqrt, rsqrt = map(_function, ("exp", "exp2", "log", "log2", "sqrt", "rsqrt"))
tanh, sigmoid, silu, gelu = map(_function, ("tanh", "sigmoid", "silu", "gelu"))
softplus, erf, sin, cos, relu = map(_function, ("softplus", "erf", "sin", "cos", "relu"))
sign, floor, ceil, select, clamp = map(_function, ("sign", "floor", "ceil", "select", "clamp"))
minimum, maximum = map(_function, ("min", "max"))
inf, pi = Term(s.Name("inf", None)), Term(s.Name("pi", None))


def reduce(op: str, *ranks: Rank) -> Callable[[Value], Expression]:
    """`op[ranks](x)`, as `reduce("sum", m)(x)`."""
    return lambda x: _call(op, ranks, (), (x,))


def _reduction(op: str) -> Callable[..., Callable[[Value], Expression]]:
    return lambda *ranks: reduce(op, *ranks)


def _selection(op: str) -> Callable[[Rank, Rank], Callable[[Value], Expression]]:
    return lambda rank, target: lambda x: _call(op, (rank,), (target,), (x,))


sum_, max_, min_, prod, any_, all_ = map(_reduction, ("sum", "max", "min", "prod", "any", "all"))
count, argmax, mean, order = map(_reduction, ("count", "argmax", "mean", "order"))
top, argtop = map(_selection, ("top", "argtop"))


class _Library:
    """The macros of `import std`: `std.softmax(m, x)` is `softmax[m](x)`, `std.finite(x)` as is."""

    def __getattr__(self, name: str) -> Callable[..., Expression]:
        macros = {d.name: d for d in library("std")}
        if name not in macros:
            hints = did_you_mean(name, macros)
            raise AttributeError("; ".join((f"the library has no macro `{name}`", *hints)))
        count = len(macros[name].binders)

        def expand(*args: Value | Several) -> Expression:
            binders = tuple(rank for arg in args[:count] for rank in _tuple(arg))
            return _call(name, binders, (), tuple(v for arg in args[count:] for v in _tuple(arg)))

        return expand


std = _Library()


# -- statements
class Builder:
    """Collects the declarations and statements of one cascade, in order."""

    def __init__(self, name: str):
        span = _here()
        self.statements: list[s.Statement] = [s.Header(_checked(name, span), span)]

    def ranks(self, names: str) -> tuple[Rank, ...]:
        """Ranks to write statements with; inputs, `rank` or `partition` give their extents."""
        return tuple(Rank(name) for name in names.replace(",", " ").split())

    def rank(self, name: str, extent: Value) -> Rank:
        """`rank name < extent`."""
        span, rank = _here(), Rank(name)
        self.statements.append(s.RankBounds((s.RankBound(name, _node(extent, span), span),), span))
        return rank

    def extent(self, rank: Rank) -> Expression:
        """The extent of a rank: `M` of `m`."""
        span = _here()
        return Term(s.Name(_name(rank, span).text.upper(), span))

    def partition(self, rank: Rank, value: Value) -> None:
        """`rank m = m1*M0 + m0`."""
        span = _here()
        self.statements.append(s.PartitionDecl(_name(rank, span).text, _node(value, span), span))

    def input(self, name: str, *ranks: Rank, dtype: str | None = None) -> Tensor:
        span, tensor = _here(), Tensor(name)
        slots = tuple(_name(rank, span) for rank in ranks)
        self.statements.append(s.Inputs((s.InputDecl(name, slots, dtype, span),), span))
        return tensor

    def param(self, name: str, value: Value | None = None) -> Expression:
        span = _here()
        node = None if value is None else _node(value, span)
        self.statements.append(s.Params((s.ParamDecl(_checked(name, span), node, span),), span))
        return Term(s.Name(name, span))

    def require(self, condition: Value, message: str = "") -> None:
        span = _here()
        if '"' in message or "\n" in message:
            raise fail("name", "the message is one line without double quotes", span)
        self.statements.append(s.Require(_node(condition, span), message, span))

    def tensor(self, name: str) -> Tensor:
        """A tensor that a later `let` defines, for statements that read it before."""
        return Tensor(name)

    def let(
        self, name: str, index: Value | Several, value: Value, where: Value | None = None
    ) -> Tensor:
        """`name[index] = value where …`; `i + 1` in the index makes rank i iterative."""
        assign, tensor = self._assign(name, index, value, where)
        self.statements.append(assign)
        return tensor

    def init(
        self, name: str, index: Value | Several, value: Value, where: Value | None = None
    ) -> Tensor:
        """`init name[0, …] = value where …`: the start of an iterative rank."""
        assign, tensor = self._assign(name, index, value, where)
        self.statements.append(s.Inits((assign,), assign.span))
        return tensor

    def _assign(
        self, name: str, index: Value | Several, value: Value, where: Value | None
    ) -> tuple[s.Assign, Tensor]:
        span, tensor = _here(), Tensor(name)
        body = _node(value, span)
        if where is not None:
            body = s.Filter(body, _node(where, span), span)
        return s.Assign(name, _nodes(_tuple(index), span) or None, body, span, span), tensor

    def build(
        self,
        outputs: Tensor | str | Iterable[Tensor | str],
        types: Mapping[str, str] | None = None,
    ) -> Cascade:
        """The checked cascade. `types` are those of outputs that declare one. Raises `CascadeError`
        with every mistake found.
        """
        span = _here()
        several = (outputs,) if isinstance(outputs, (Tensor, str)) else outputs
        names = [t.name if isinstance(t, Tensor) else str(t) for t in several]
        for name in types or {}:
            if name not in names:
                message = f"a type is given for `{name}`, which is no output"
                raise fail("unknown-output", message, span, hints=did_you_mean(name, names))
        items = tuple(s.OutputDecl(name, (types or {}).get(name), span) for name in names)
        output = s.Outputs(items, span)
        imports = (s.Import("std", span),) if any(map(_uses_library, self.statements)) else ()
        return lower(s.File((*imports, *self.statements, output)))


def _name(rank: object, span: Span) -> s.Name:
    if isinstance(rank, Rank) and isinstance(rank.node, s.Name):
        return s.Name(rank.node.text, span)
    raise fail("rank-name", f"a rank is wanted here, not a `{type(rank).__name__}`", span)


def _uses_library(statement: s.Statement) -> bool:
    assigns = statement.items if isinstance(statement, s.Inits) else (statement,)
    return any(
        isinstance(node, s.Call) and node.name not in WORDS
        for assign in assigns
        if isinstance(assign, s.Assign)
        for node in walk(assign.value)
    )
