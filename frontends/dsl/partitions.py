"""Partitions: `rank m = m1*M0 + m0` read as parts and strides, and the condition of the ragged
tail.
"""

from __future__ import annotations

from collections.abc import Callable

from cascade.diagnostics import CascadeError, Span, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.names import Names, is_extent_name
from cascade.ir.cascade import Partition, extent_symbol
from cascade.ir.expr import Coordinate, Expr, Map, Read, Reduce, Select, Where
from cascade.ir.ops import MAPS
from cascade.ir.walk import bound_ranks, children, conjunction, conjuncts, rebuild


def partition_of(
    item: s.PartitionDecl, names: Names, extent: Callable[[s.Expr], Expr]
) -> Partition:
    """Checks the form `m1*M0 + m0`: parts from the outermost to the innermost."""
    terms = _terms(item.value)
    parts: list[str] = []
    expression: Expr | None = None
    for n, term in enumerate(terms):
        part, stride = _part(term, item)
        if (stride is None) != (n == len(terms) - 1):
            raise _form(item, term.span)
        parts.append(part.text)
        value: Expr = Coordinate(part.text, part.span)
        if stride is not None:
            value = Map("*", (value, extent(stride)), term.span)
        expression = value if expression is None else Map("+", (expression, value), item.value.span)
    if len(parts) < 2 or len(set(parts)) != len(parts) or item.name in parts:
        raise _form(item, item.span)
    assert expression is not None
    return Partition(item.name, tuple(parts), expression, item.span)


def _terms(e: s.Expr) -> list[s.Expr]:
    if isinstance(e, s.Binary) and e.op == "+":
        return [*_terms(e.left), e.right]
    return [e]


def _part(term: s.Expr, item: s.PartitionDecl) -> tuple[s.Name, s.Expr | None]:
    match term:
        case s.Name(text) if not is_extent_name(text):
            return term, None
        case s.Binary("*", s.Name(text) as part, stride) if not is_extent_name(text):
            return part, stride
        case s.Binary("*", s.Binary("*") as inner, last):
            part, outer = _part(inner, item)
            assert outer is not None
            return part, s.Binary("*", outer, last, term.span)
        case _:
            raise _form(item, term.span)


def _form(item: s.PartitionDecl, span: Span | None) -> CascadeError:
    m = item.name
    return fail(
        "partition",
        f"this is no partition of `{m}`",
        span,
        hints=(
            f"the form is `rank {m} = {m}1*{m.upper()}0 + {m}0`: parts with strides, outermost "
            "first",
            f"a rank with a given extent is declared as `rank {m} < {m.upper()}`",
        ),
    )


def guard_tails(
    body: Expr, scope: tuple[str, ...], active: tuple[Partition, ...], names: Names
) -> Expr:
    """Make the points past the extent absent wherever all parts have a coordinate."""
    for partition in active:
        body = _guard(body, set(scope), partition, names)
    return body


def tail(partition: Partition) -> Expr:
    return Map("<", (partition.expression, extent_symbol(partition.rank)), partition.span)


def _guard(e: Expr, scope: set[str], partition: Partition, names: Names) -> Expr:
    parts = set(partition.parts)
    if parts <= scope:
        return e if _guaranteed(e, partition, names) else _filtered(e, tail(partition))
    inner = scope | set(bound_ranks(e))
    if bound_ranks(e) and parts <= inner:
        (body,) = children(e)
        if _guaranteed(body, partition, names):
            return e
        return rebuild(e, (_filtered(body, tail(partition)),))
    return rebuild(e, tuple(_guard(child, inner, partition, names) for child in children(e)))


def _filtered(e: Expr, condition: Expr) -> Expr:
    if isinstance(e, Where):
        return Where(e.body, conjunction((*conjuncts(e.condition), condition)), e.span)
    return Where(e, condition, e.span)


def _guaranteed(e: Expr, partition: Partition, names: Names) -> bool:
    """Whether every point past the extent is absent already, by a read or a condition."""
    match e:
        case Read(tensor, index):
            if tensor in names.inputs:
                ranks = tuple(r.text for r in names.inputs[tensor].ranks)
            else:
                ranks = names.left.get(tensor, ())
            at = zip(index, ranks, strict=False)
            if any(i == partition.expression and r == partition.rank for i, r in at):
                return True
            if tensor in names.inputs:
                return False
            held = {i.rank for i in index if isinstance(i, Coordinate)}
            return set(partition.parts) <= held
        case Map(op, args):
            return MAPS[op].absence == "strict" and any(
                _guaranteed(a, partition, names) for a in args
            )
        case Where(body, condition):
            return tail(partition) in conjuncts(condition) or _guaranteed(body, partition, names)
        case Reduce() | Select():
            return not set(bound_ranks(e)) & set(partition.parts) and _guaranteed(
                e.body, partition, names
            )
        case _:
            return False
