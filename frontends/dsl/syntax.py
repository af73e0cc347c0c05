"""The syntax tree: what the text says, before names mean anything. Every node has its span.

Expressions: Number Name Index Call Unary Binary Compare Filter. Statements:  Header Import Inputs
Outputs Params RankBounds PartitionDecl Inits Require Define Assign. `lower.py` turns the tree into
the IR; `format.py` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from cascade.diagnostics import Span


def _span() -> Span:
    return field(compare=False, repr=False)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Number:
    text: str
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Name:
    text: str
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Rebind:
    """`e := expression` inside the brackets of a macro argument."""

    rank: str
    value: Expr
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Index:
    """`K[h, p+w-W, e]`."""

    name: str
    indices: tuple[Expr | Rebind, ...]
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Call:
    """`exp(x)`, `sum[m](x)`, `top[m -> j](x)`: a function, reduction, selection or macro."""

    name: str
    binders: tuple[Expr | Rebind, ...]
    targets: tuple[Expr | Rebind, ...]
    args: tuple[Expr, ...]
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Unary:
    op: str
    operand: Expr
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Binary:
    op: str
    left: Expr
    right: Expr
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Compare:
    """`a <= b < c`."""

    first: Expr
    rest: tuple[tuple[str, Expr], ...]
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Filter:
    """`body where condition`."""

    body: Expr
    condition: Expr
    span: Span | None = _span()


Expr: TypeAlias = Number | Name | Index | Call | Unary | Binary | Compare | Filter


@dataclass(frozen=True, slots=True)
class Header:
    name: str
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Import:
    name: str
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class InputDecl:
    name: str
    ranks: tuple[Name, ...]
    dtype: str | None
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Inputs:
    items: tuple[InputDecl, ...]
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class OutputDecl:
    name: str
    dtype: str | None
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Outputs:
    items: tuple[OutputDecl, ...]
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class ParamDecl:
    name: str
    value: Expr | None
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Params:
    items: tuple[ParamDecl, ...]
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class RankBound:
    name: str
    extent: Expr
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class RankBounds:
    items: tuple[RankBound, ...]
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class PartitionDecl:
    """`rank m = m1*M0 + m0`."""

    name: str
    value: Expr
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Assign:
    """`Z[m,n] = expression`; `indices` is None for a scalar."""

    name: str
    indices: tuple[Expr | Rebind, ...] | None
    value: Expr
    left: Span | None = _span()
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Inits:
    items: tuple[Assign, ...]
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Require:
    condition: Expr
    message: str
    span: Span | None = _span()


@dataclass(frozen=True, slots=True)
class Define:
    """`def softmax[m](x) = …`."""

    name: str
    binders: tuple[Name, ...]
    args: tuple[Name, ...]
    body: Expr
    span: Span | None = _span()


Statement: TypeAlias = (
    Header
    | Import
    | Inputs
    | Outputs
    | Params
    | RankBounds
    | PartitionDecl
    | Assign
    | Inits
    | Require
    | Define
)


@dataclass(frozen=True, slots=True)
class Comment:
    text: str
    line: int
    own_line: bool


@dataclass(frozen=True, slots=True)
class File:
    """A parsed file. Comments are kept beside the tree so that formatting loses none."""

    statements: tuple[Statement, ...]
    comments: tuple[Comment, ...] = field(default=(), compare=False)
