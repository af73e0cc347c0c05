"""Partitions: `rank m = m1*M0 + m0` read as parts and strides, and the condition of the ragged
tail.
"""

from __future__ import annotations

from collections.abc import Callable

from cascade.diagnostics import CascadeError, Diagnostic, Span, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.names import Names, check_rank_name, index_text, is_extent_name
from cascade.frontends.dsl.names import walk as walk_syntax
from cascade.ir.cascade import Partition, extent_symbol
from cascade.ir.expr import Coordinate, Expr, Map, Read, Reduce, Select, Where
from cascade.ir.ops import MAPS
from cascade.ir.walk import bound_ranks, children, conjunction, conjuncts, rebuild

MAX_PARTS = 16


def partition_of(
    item: s.PartitionDecl, names: Names, extent: Callable[[s.Expr], Expr]
) -> Partition:
    """Checks the form `m1*M0 + m0`: parts from the outermost to the innermost."""
    terms = _terms(item.value)
    if len(terms) < 2:
        raise _form(item, item.value.span, "one term")
    if len(terms) > MAX_PARTS:
        raise fail("partition", f"a partition has at most {MAX_PARTS} parts", item.value.span)
    parts: list[str] = []
    expression: Expr | None = None
    for n, term in enumerate(terms):
        part, stride = _part(term, item)
        if (stride is None) != (n == len(terms) - 1):
            label = (
                "only the last part has no stride"
                if stride is None
                else "the last part has a stride"
            )
            raise _form(item, term.span, label)
        if part.text in (item.name, *parts):
            label = "the rank itself" if part.text == item.name else "a second time"
            raise _form(item, part.span, label)
        check_rank_name(part.text, part.span)
        parts.append(part.text)
        value: Expr = Coordinate(part.text, part.span)
        if stride is not None:
            value = Map("*", (value, extent(stride)), term.span)
        expression = value if expression is None else Map("+", (expression, value), item.value.span)
    assert expression is not None
    return Partition(item.name, tuple(parts), expression, item.span)


def _terms(e: s.Expr) -> list[s.Expr]:
    terms: list[s.Expr] = []
    while isinstance(e, s.Binary) and e.op == "+":
        terms.append(e.right)
        e = e.left
    return [e, *reversed(terms)]


def _part(term: s.Expr, item: s.PartitionDecl) -> tuple[s.Name, s.Expr | None]:
    """The part of a term and its stride: `m1*M0*M1` is m1 and `M0*M1`."""
    factors: list[s.Expr] = []
    span = term.span
    while isinstance(term, s.Binary) and term.op == "*":
        factors.append(term.right)
        term = term.left
    if not isinstance(term, s.Name) or is_extent_name(term.text):
        raise _form(item, span, "neither a part nor a part times its stride")
    stride = factors.pop() if factors else None
    while stride is not None and factors:
        stride = s.Binary("*", stride, factors.pop(), span)
    return term, stride


def _form(item: s.PartitionDecl, span: Span | None, label: str) -> CascadeError:
    m = item.name
    hints = [f"the form is `rank {m} = {m}1*{m.upper()}0 + {m}0`: the last part has no stride"]
    if not any(
        isinstance(n, s.Name) and not is_extent_name(n.text) for n in walk_syntax(item.value)
    ):
        extent = index_text(item.value).replace("…", m.upper())
        hints = [f"a rank with a given extent is declared as `rank {m} < {extent}`"]
    return fail("partition", f"this is no partition of `{m}`", span, label, hints)


def shared_parts(partitions: tuple[Partition, ...]) -> list[Diagnostic]:
    """Partitions of one rank with a part in common: their points could not be told apart."""
    errors: list[Diagnostic] = []
    first: dict[tuple[str, str], Partition] = {}
    for partition in partitions:
        for part in partition.parts:
            other = first.setdefault((partition.rank, part), partition)
            if other is not partition:
                message = f"`{part}` is a part of two partitions of `{partition.rank}`"
                related = ((other.span, "the other"),) if other.span else ()
                where = partition.span.word(part) if partition.span else None
                hints = ("give each partition parts of its own",)
                errors.append(Diagnostic("partition", message, where, "", hints, related))
                break
    return errors


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
            at = zip(index, map(index_text, names.indices(tensor)), strict=False)
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
