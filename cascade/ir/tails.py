"""The ragged tail of a partition: points past the extent, absent wherever the parts are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cascade.ir.cascade import Cascade, Einsum, Partition, extent_symbol
from cascade.ir.expr import Coordinate, Expr, Map, Read, Reduce, Select, Where
from cascade.ir.ops import MAPS
from cascade.ir.walk import bound_ranks, children, conjunction, conjuncts, rebuild

Slots = Callable[[str], tuple[Sequence[str], bool]]
"""The ranks of a tensor's slots (any other text where one is no plain rank), and whether it is an
input.
"""


def with_tails(cascade: Cascade) -> Cascade:
    """The cascade with the tails that its text would be read with."""
    inputs = {t.name for t in cascade.inputs}
    ranks = {t.name: t.ranks for t in cascade.inputs}
    for name, statements in cascade.definitions.items():
        e = statements[0]
        ranks[name] = tuple("" if n == e.step else r for n, r in enumerate(e.ranks))

    def guarded(e: Einsum) -> Einsum:
        body = guard_tails(
            e.body, e.scope, cascade.partitions, lambda t: (ranks.get(t, ()), t in inputs)
        )
        return e if body is e.body else replace(e, body=body)

    return replace(cascade, einsums=tuple(map(guarded, cascade.einsums)))


def guard_tails(
    body: Expr, scope: tuple[str, ...], partitions: tuple[Partition, ...], slots: Slots
) -> Expr:
    """Make the points past the extent absent wherever all parts have a coordinate."""
    for partition in partitions:
        body = _guard(body, set(scope), partition, slots)
    return body


def tail(partition: Partition) -> Expr:
    return Map("<", (partition.expression, extent_symbol(partition.rank)), partition.span)


def _guard(e: Expr, scope: set[str], partition: Partition, slots: Slots) -> Expr:
    parts = set(partition.parts)
    if parts <= scope:
        return e if _guaranteed(e, partition, slots) else _filtered(e, tail(partition))
    inner = scope | set(bound_ranks(e))
    if bound_ranks(e) and parts <= inner:
        (body,) = children(e)
        if _guaranteed(body, partition, slots):
            return e
        return rebuild(e, (_filtered(body, tail(partition)),))
    return rebuild(e, tuple(_guard(child, inner, partition, slots) for child in children(e)))


def _filtered(e: Expr, condition: Expr) -> Expr:
    if isinstance(e, Where):
        return Where(e.body, conjunction((*conjuncts(e.condition), condition)), e.span)
    return Where(e, condition, e.span)


def _guaranteed(e: Expr, partition: Partition, slots: Slots) -> bool:
    """Whether every point past the extent is absent already, by a read or a condition."""
    match e:
        case Read(tensor, index):
            ranks, is_input = slots(tensor)
            at = zip(index, ranks, strict=False)
            if any(i == partition.expression and r == partition.rank for i, r in at):
                return True
            if is_input:
                return False
            held = {i.rank for i in index if isinstance(i, Coordinate)}
            return set(partition.parts) <= held
        case Map(op, args):
            return MAPS[op].absence == "strict" and any(
                _guaranteed(a, partition, slots) for a in args
            )
        case Where(body, condition):
            return tail(partition) in conjuncts(condition) or _guaranteed(body, partition, slots)
        case Reduce() | Select():
            return not set(bound_ranks(e)) & set(partition.parts) and _guaranteed(
                e.body, partition, slots
            )
        case _:
            return False
