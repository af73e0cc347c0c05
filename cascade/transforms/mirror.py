"""Sums over a suffix as sums over a prefix, by counting both ranks from their ends.

    dK[m] = sum[p](Q[p] * dA[p,m] where m <= p)

With `m = M - 1 - m2` and `p = M - 1 - p2`, where both have the same extent, this is a sum over
`p2 <= m2`, and has a chunked form if that one has. The gradients of causal attention are such sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cascade.analysis.conditions import upper_bounds
from cascade.ir.affine import compared, from_end, simplified
from cascade.ir.cascade import Einsum
from cascade.ir.expr import Coordinate, Expr, Map, Read, Reduce, Symbol
from cascade.ir.printer import print_expr
from cascade.ir.walk import free_ranks, transform
from cascade.transforms.draft import NotChunkable
from cascade.transforms.products import Opener
from cascade.transforms.tiles import mentions


def mirrored(opener: Opener, e: Einsum, node: Reduce) -> tuple[Einsum, Read] | None:
    """A statement for the sum, counted from the end, and the read that stands for it."""
    found = _suffix(opener, e, node)
    if found is None:
        return None
    row, column, value = found
    draft = opener.draft
    back = draft.copy(row, {row, *free_ranks(node), *e.scope, *node.ranks})
    extent = draft.ranks[row].extent
    same = {draft.ranks[column].extent: extent}

    def turned(rank: str) -> Expr:
        return from_end(extent, Coordinate(rank))

    def named(n: Expr) -> Expr | None:
        return same.get(n) if isinstance(n, Symbol) else None

    inner = opener.substituted(transform(value, named), {row: turned(back)})
    inner = compared(simplified(opener.substituted(inner, {column: turned(column)})))
    ranks = tuple(back if r == row else r for r in e.scope if r in free_ranks(node))
    name = draft.fresh(f"{e.tensor}_back")
    read = Read(name, tuple(turned(row) if r == back else Coordinate(r) for r in ranks))
    return Einsum(name, ranks, replace(node, body=inner), span=e.span), read


def _suffix(opener: Opener, e: Einsum, node: Reduce) -> tuple[str, str, Expr] | None:
    """The row and the column of a condition `row <= column`, and the body that says it."""
    for column in node.ranks:
        for row in (r for r in e.scope if r not in node.ranks and r in free_ranks(node)):
            value = opener.inlined(node.body, _seen(opener, row, column))
            conditions = opener.conditions(value, lambda r: False)
            said = next((c for c in conditions if _says(c, row, column)), None)
            if said is None:
                continue
            if not _as_long(opener, row, column):
                equal = f"require {column.upper()} == {row.upper()}"
                reason = f"a sum over a suffix is counted from the end under `{equal}` alone"
                raise NotChunkable(print_expr(said), reason)
            return row, column, value
    return None


def _seen(opener: Opener, row: str, column: str) -> Callable[[Read], Einsum | None]:
    """What a tensor over rows and columns is made of."""

    def definition(r: Read) -> Einsum | None:
        both = mentions(r, {column}) and mentions(r, {row})
        return opener.definition(r.tensor) if both else None

    return definition


def _says(condition: Expr, row: str, column: str) -> bool:
    """Whether a condition is `row <= column` or `row < column`."""
    return any(
        form == {row: 1, column: -1} and constant in (0, 1)
        for form, constant in upper_bounds(condition)
    )


def _as_long(opener: Opener, row: str, column: str) -> bool:
    """Whether two ranks have the same extent, or the spec requires it."""
    a, b = (opener.draft.ranks[r].extent for r in (row, column))
    if a == b:
        return True
    required = (r.condition for r in opener.draft.source.requirements)
    return any(c in (Map("==", (a, b)), Map("==", (b, a))) for c in required)
