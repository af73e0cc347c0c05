"""Partitions: `rank m = m1*M0 + m0` read as parts and strides."""

from __future__ import annotations

from collections.abc import Callable

from cascade.diagnostics import CascadeError, Diagnostic, Span, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.names import Names, check_rank_name, index_text, is_extent_name
from cascade.frontends.dsl.names import walk as walk_syntax
from cascade.ir.cascade import Partition
from cascade.ir.expr import Coordinate, Expr, Map

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
