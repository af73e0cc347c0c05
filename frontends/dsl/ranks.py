"""The extent of every rank: given by inputs, declared, a part of a partition, or taken from a
slot.
"""

from __future__ import annotations

from collections.abc import Callable

from cascade.diagnostics import CascadeError, Diagnostic, Span, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.names import Names
from cascade.ir.cascade import Einsum, Partition, Rank, Tensor, extent_symbol
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Select
from cascade.ir.printer import print_expr
from cascade.ir.walk import bound_ranks, walk

Extents = dict[str, Expr]


def bound_ranks_of_file(
    names: Names,
    partitions: tuple[Partition, ...],
    inputs: tuple[Tensor, ...],
    einsums: tuple[Einsum, ...],
    lower_extent: Callable[[s.Expr], Expr],
) -> tuple[Rank, ...]:
    """Every rank that a statement, an input or a partition uses, in order of first mention."""
    extents: Extents = {r: extent_symbol(r) for r in names.given}
    extents |= {name: lower_extent(bound.extent) for name, bound in names.bounds.items()}
    parts: Extents = {}
    for partition in partitions:
        for part, extent in _part_extents(partition, extents).items():
            if parts.setdefault(part, extent) != extent:
                raise _two_strides(part, parts[part], extent, partition)
            extents.setdefault(part, extent)
    used = _used_ranks(inputs, einsums, partitions, names)
    _from_slots(extents, inputs, einsums, used)
    missing = [r for r in used if r not in extents]
    if missing:
        raise CascadeError(*(_unbound(r, used[r], names) for r in missing))
    return tuple(Rank(r, extents[r], r in names.bounds, names.ranks.get(r)) for r in used)


def _unbound(rank: str, span: Span | None, names: Names) -> Diagnostic:
    return Diagnostic(
        "unbound-rank",
        f"nothing bounds rank `{rank}`",
        names.ranks.get(rank) or span,
        hints=(f"index an input with it, or declare its extent: `rank {rank} < {rank.upper()}`",),
    )


def _used_ranks(
    inputs: tuple[Tensor, ...],
    einsums: tuple[Einsum, ...],
    partitions: tuple[Partition, ...],
    names: Names,
) -> dict[str, Span | None]:
    used: dict[str, Span | None] = {r: t.span for t in inputs for r in t.ranks}
    for partition in partitions:
        for rank in (partition.rank, *partition.parts):
            used.setdefault(rank, partition.span)
    for name in names.bounds:
        used.setdefault(name, names.ranks.get(name))
    for e in einsums:
        for rank in e.ranks:
            used.setdefault(rank, e.span)
        for node in walk(e.body):
            for rank in _named(node):
                used.setdefault(rank, node.span)
    return used


def _named(node: Expr) -> tuple[str, ...]:
    if isinstance(node, Coordinate):
        return (node.rank,)
    return (*bound_ranks(node), node.target) if isinstance(node, Select) else bound_ranks(node)


def _part_extents(partition: Partition, extents: Extents) -> Extents:
    """m0 < M0 and m1 < ceil(M / M0); a middle part is bounded by the quotient of its strides."""
    strides = _strides(partition.expression)
    whole = extents.setdefault(partition.rank, extent_symbol(partition.rank))
    at = partition.span
    top = Map("-", (Map("+", (whole, strides[0]), at), Const(1)), at)
    parts: Extents = {partition.parts[0]: Map("//", (top, strides[0]), at)}
    for n, part in enumerate(partition.parts[1:], 1):
        inner = strides[n] if n < len(strides) else Const(1)
        parts[part] = _quotient(strides[n - 1], inner)
    return parts


def _two_strides(part: str, a: Expr, b: Expr, partition: Partition) -> CascadeError:
    return fail(
        "two-extents",
        f"`{part}` is a part of two partitions: {print_expr(a)} coordinates and {print_expr(b)}",
        partition.span.word(part) if partition.span else None,
        hints=("give each partition parts of its own",),
    )


def _strides(expression: Expr) -> list[Expr]:
    match expression:
        case Map("+", (left, right)):
            return _strides(left) + _strides(right)
        case Map("*", (_, stride)):
            return [stride]
        case _:
            return []


def _quotient(outer: Expr, inner: Expr) -> Expr:
    if inner == Const(1):
        return outer
    match outer:
        case Map("*", (a, b)) if b == inner:
            return a
        case Map("*", (a, b)) if a == inner:
            return b
        case _:
            return Map("//", (outer, inner))


def _from_slots(
    extents: Extents,
    inputs: tuple[Tensor, ...],
    einsums: tuple[Einsum, ...],
    used: dict[str, Span | None],
) -> None:
    """A rank without an extent of its own takes that of the slots it indexes; they must agree."""
    tensors = {t.name: t for t in inputs}
    for e in einsums:
        tensors.setdefault(e.tensor, Tensor(e.tensor, e.ranks, None, e.step))
    open_ranks = {r for r in used if r not in extents}
    uses: dict[str, list[tuple[str, bool, Read]]] = {r: [] for r in open_ranks}
    for e in einsums if open_ranks else ():
        for node in walk(e.body):
            if not isinstance(node, Read) or node.tensor not in tensors:
                continue
            t = tensors[node.tensor]
            for slot, index in enumerate(node.index):
                if (
                    isinstance(index, Coordinate)
                    and index.rank in open_ranks
                    and t.ranks[slot] != index.rank
                ):
                    uses[index.rank].append((t.ranks[slot], slot == t.iterative, node))
    errors: list[Diagnostic] = []
    changed = True
    while changed:
        changed = False
        for rank in sorted(open_ranks):
            found = {
                Map("+", (extents[other], Const(1))) if extra else extents[other]: node
                for other, extra, node in reversed(uses[rank])
                if other in extents
            }
            if len(found) > 1:
                errors.append(_disagree(rank, found))
            if found:
                extents[rank] = next(iter(found))
                open_ranks.discard(rank)
                changed = True
    if errors:
        raise CascadeError(*errors)


def _disagree(rank: str, found: dict[Expr, Read]) -> Diagnostic:
    in_order = sorted(found.items(), key=lambda pair: pair[1].span.start if pair[1].span else 0)
    (a, first), (b, second) = in_order[:2]
    return Diagnostic(
        "two-extents",
        f"rank `{rank}` has two extents: {print_expr(a)} by `{print_expr(first)}` "
        f"and {print_expr(b)} by `{print_expr(second)}`",
        second.span,
        related=((first.span, "the other"),) if first.span else (),
        hints=(f"use two ranks, or declare which it is: `rank {rank} < {print_expr(a)}`",),
    )
