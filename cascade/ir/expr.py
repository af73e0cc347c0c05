"""The expression vocabulary: eight frozen nodes, the whole language on one screen.

    Const       3, 0.5, inf, true            Map     exp(x), a + b, x ?? 0, a <= b   (pointwise)
    Coordinate  m, as an integer             Reduce  sum[m](x)       opens a scope for m
    Symbol      M (an extent), scale         Select  top[m -> j](x)  the j-th largest along m
    Read        K[b,h,m,e]                   Where   (x where m <= p)  absent where false

`K[i,j]` indexes with expressions; a read outside the extent is *absent* (see docs/language.md).
Extents, predicates and index expressions are the same nodes, without Read of real tensors.
Spans are carried for messages and never take part in equality.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from cascade.diagnostics import Span


@dataclass(frozen=True, slots=True)
class Const:
    """A number or truth value."""

    value: int | float | bool
    span: Span | None = field(default=None, compare=False, repr=False)

    def __eq__(self, other: object) -> bool:  # 1, 1.0 and true are different constants
        return (
            isinstance(other, Const)
            and type(self.value) is type(other.value)
            and (self.value == other.value or (self.value != self.value != other.value))
        )

    def __hash__(self) -> int:
        return hash((type(self.value).__name__, self.value))


@dataclass(frozen=True, slots=True)
class Coordinate:
    """The integer coordinate of the current point along a rank."""

    rank: str
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A number fixed for a whole run: the extent of a rank (`M`) or a param (`scale`)."""

    name: str
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Read:
    """The value of a tensor at an index; absent outside its extents."""

    tensor: str
    index: tuple[Expr, ...]
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Map:
    """A pointwise operation; `op` is a key of `ops.MAPS`."""

    op: str
    args: tuple[Expr, ...]
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Reduce:
    """A reduction over ranks, which it binds; `op` is a key of `ops.REDUCERS`."""

    op: str
    ranks: tuple[str, ...]
    body: Expr
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Select:
    """`top`/`argtop` over `rank`, whose results lie along `target`; `order` keeps the rank."""

    op: str
    rank: str
    target: str
    body: Expr
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Where:
    """`body` where `condition` is true, absent elsewhere."""

    body: Expr
    condition: Expr
    span: Span | None = field(default=None, compare=False, repr=False)


Expr: TypeAlias = Const | Coordinate | Symbol | Read | Map | Reduce | Select | Where

TRUE = Const(True)
FALSE = Const(False)
