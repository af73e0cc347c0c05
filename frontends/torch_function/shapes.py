"""Dimensions: which rank each has, and what broadcasting, indexing and reshaping do to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from cascade.frontends.torch_function.sizes import expr_of
from cascade.frontends.torch_function.traced import Graph, Traced, refuse
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol

Dims = Sequence[str | None]


def align(a: Dims, b: Dims, number: int) -> Iterator[tuple[str | None, str | None]]:
    """Pairs of dimensions from the right; None where one has none or size 1."""
    full_a = [None] * (number - len(a)) + list(a)
    full_b = [None] * (number - len(b)) + list(b)
    return zip(full_a, full_b, strict=True)


def equal(graph: Graph, a: str, b: str) -> None:
    """Make the extents of two ranks one: an input that has b declares a in its place."""
    if a == b or graph.extents[a] == graph.extents[b]:
        return
    if graph.sizes[a] != graph.sizes[b]:
        refuse(f"sizes {graph.sizes[a]} and {graph.sizes[b]} in one dimension")
    if graph.own(a) and graph.own(b):
        old, new = graph.extents[b], graph.extents[a]
        for rank, extent in graph.extents.items():
            if extent == old:
                graph.extents[rank] = new
        for n, t in enumerate(graph.inputs):
            if b in t.ranks and a not in t.ranks:
                graph.inputs[n] = replace(t, ranks=tuple(a if r == b else r for r in t.ranks))
        return
    known = a if _given(graph, a) else b if _given(graph, b) else None
    if known is not None:  # what follows from others is what an input says
        follows = graph.extents[b if known == a else a]
        for rank, extent in graph.extents.items():
            if extent == follows:
                graph.extents[rank] = graph.extents[known]


def _given(graph: Graph, rank: str) -> bool:
    """Whether the extent of a rank is that of an input."""
    extent = graph.extents[rank]
    return any(extent == Symbol(r.upper()) for t in graph.inputs for r in t.ranks)


def merge(graph: Graph, x: Traced, dims: Dims) -> Traced:
    """The value with these ranks for its dimensions, whose extents become one."""
    for own, new in zip(x.dims, dims, strict=True):
        if own is not None and new is not None:
            equal(graph, new, own)
    values: dict[str, Expr] = {
        own: Coordinate(new)
        for own, new in zip(x.dims, dims, strict=True)
        if own is not None and new is not None and own != new
    }
    return Traced(graph, graph.put(x.expr, values), dims, x.kind)


def broadcast(graph: Graph, values: Sequence[Traced]) -> tuple[list[Traced], list[str | None]]:
    """The values over the same ranks, and these."""
    number = max(len(v.dims) for v in values)
    dims: list[str | None] = [None] * number
    for v in values:
        for n, (mine, theirs) in enumerate(align(dims, v.dims, number)):
            if theirs is None or mine == theirs:
                continue
            if mine is None or (graph.own(theirs) and not graph.own(mine)):
                dims[n] = graph.copy(theirs) if theirs in dims else theirs
    made = []
    for v in values:
        wanted = zip(v.dims, dims[number - len(v.dims) :], strict=True)
        made.append(merge(graph, v, [w if d is not None else None for d, w in wanted]))
    return made, dims


def permuted(x: Traced, order: Sequence[int]) -> Traced:
    return Traced(x.graph, x.expr, [x.dims[n] for n in order], x.kind)


def unsqueezed(x: Traced, dim: int) -> Traced:
    at = dim % (len(x.dims) + 1)
    return Traced(x.graph, x.expr, [*x.dims[:at], None, *x.dims[at:]], x.kind)


# -- indexing


def indexed(x: Traced, index: Any) -> Traced:
    """`x[index]` with None, an ellipsis, integers, slices of step 1 and one tensor of integers."""
    parts = list(index) if isinstance(index, tuple) else [index]
    real = sum(1 for p in parts if p is not None and p is not Ellipsis)
    if Ellipsis in [p for p in parts if not isinstance(p, Traced)]:
        at = next(n for n, p in enumerate(parts) if p is Ellipsis)
        parts[at : at + 1] = [slice(None)] * (len(x.dims) - real)
    else:
        parts += [slice(None)] * (len(x.dims) - real)
    dims: list[str | None] = []
    expr, left = x.expr, list(x.dims)
    for part in parts:
        if part is None:
            dims.append(None)
            continue
        rank = left.pop(0)
        if isinstance(part, slice):
            expr, new = _sliced(x.graph, expr, rank, part)
            dims.append(new)
        elif isinstance(part, Traced):
            expr, more = _gathered(x, expr, rank, part, [*dims, *left])
            dims += more
        elif isinstance(part, int):
            if rank is not None:
                chosen = expr_of(part)
                if part < 0:
                    chosen = Map("-", (x.graph.extents[rank], Const(-int(part))))
                expr = x.graph.put(expr, {rank: chosen})
        else:
            refuse(f"an index of type {type(part).__name__}")
    return Traced(x.graph, expr, dims, x.kind)


def _sliced(graph: Graph, expr: Expr, rank: str | None, part: slice) -> tuple[Expr, str | None]:
    if part == slice(None) or rank is None:
        return expr, rank
    if part.step not in (None, 1):
        refuse("a slice with a step", "reshape, then take one of the new dimension")
    size, extent = graph.sizes[rank], graph.extents[rank]

    def bound(value: Any, default: Expr, usual: int) -> tuple[Expr, int]:
        if value is None:
            return default, usual
        if value < 0:
            return Map("-", (extent, Const(-int(value)))), size + int(value)
        return expr_of(value), min(int(value), size)

    start, first = bound(part.start, Const(0), 0)
    stop, last = bound(part.stop, extent, size)
    length = stop if first == 0 and start == Const(0) else Map("-", (stop, start))
    new = graph.rank(max(last - first, 0), length)
    moved: Expr = Coordinate(new)
    if start != Const(0):
        moved = Map("+", (moved, start))
    return graph.put(expr, {rank: moved}), new


def _gathered(
    x: Traced, expr: Expr, rank: str | None, part: Traced, used: Dims
) -> tuple[Expr, list[str | None]]:
    """A dimension indexed by a tensor of integers, or chosen by nothing else."""
    if part.kind == "bool":
        refuse("an index by truth values: the size of its result depends on them")
    dims = [x.graph.copy(d) if d is not None and d in used else d for d in part.dims]
    index = merge(x.graph, part, dims)
    if rank is None:
        return expr, dims
    return x.graph.put(expr, {rank: index.expr}), dims


# -- reshaping


def reshaped(x: Traced, shape: Sequence[Any]) -> Traced:
    """Dimensions merged and split: `n // H` and `n % H`, or `a*H + b`."""
    target = list(shape)
    if any(isinstance(s, int) and int(s) == -1 for s in target):
        rest = _quotient(x, [s for s in target if int(s) != -1])
        target = [rest if int(s) == -1 else s for s in target]
    values: dict[str, Expr] = {}
    dims: list[str | None] = []
    source = [(d, s) for d, s in zip(x.dims, x.shape, strict=True) if d is not None]
    while target:
        size = target.pop(0)
        if int(size) == 1:
            dims.append(None)
            continue
        if not source:
            refuse(f"a view of {tuple(map(int, x.shape))} as {tuple(map(int, shape))}")
        rank, own = source.pop(0)
        if int(own) == int(size):
            dims.append(rank)
        elif int(own) > int(size):
            dims += _split(x.graph, rank, own, size, target, values)
        else:
            dims.append(_join(x, rank, own, size, source, values))
    expr = x.graph.put(x.expr, values)
    made = Traced(x.graph, expr, dims, x.kind)
    return made


def _quotient(x: Traced, known: Sequence[Any]) -> Any:
    """The size that is left when those that are known are divided out."""
    above, below = [s for s in x.shape if int(s) != 1], []
    for size in known:
        same = next((n for n, s in enumerate(above) if expr_of(s) == expr_of(size)), None)
        if same is not None:
            del above[same]
        elif int(size) != 1:
            below.append(size)
    total: Any = above[0] if above else 1
    for s in above[1:]:
        total = total * s
    for s in below:
        total = total // s
    return total


def _split(
    graph: Graph, rank: str, own: Any, size: Any, target: list[Any], values: dict[str, Expr]
) -> list[str | None]:
    parts = [size]
    while _product(parts) < int(own):
        if not target:
            refuse("this view")
        parts.append(target.pop(0))
    if _product(parts) != int(own):
        refuse("a view that splits a dimension unevenly")
    ranks = [None if int(p) == 1 else graph.rank(int(p), expr_of(p)) for p in parts]
    place: Expr | None = None
    for part, new in zip(parts, ranks, strict=True):
        here: Expr = Const(0) if new is None else Coordinate(new)
        place = here if place is None else Map("+", (Map("*", (place, expr_of(part))), here))
    assert place is not None
    values[rank] = place
    return list(ranks)


def _join(
    x: Traced, rank: str, own: Any, size: Any, source: list[Any], values: dict[str, Expr]
) -> str:
    ranks, sizes = [rank], [own]
    while _product(sizes) < int(size):
        if not source:
            refuse("this view")
        more, s = source.pop(0)
        ranks.append(more)
        sizes.append(s)
    if _product(sizes) != int(size):
        refuse("a view that joins dimensions unevenly")
    extent = x.graph.extents[ranks[0]]
    for r in ranks[1:]:
        extent = Map("*", (extent, x.graph.extents[r]))
    new = x.graph.rank(int(size), extent)
    rest: Expr = Coordinate(new)
    for n in reversed(range(len(ranks))):
        step = x.graph.extents[ranks[n]]
        values[ranks[n]] = rest if n == 0 else Map("%", (rest, step))
        rest = Map("//", (rest, step))
    return new


def _product(sizes: Sequence[Any]) -> int:
    total = 1
    for s in sizes:
        total *= int(s)
    return total


__all__ = ["Read", "align", "broadcast", "equal", "indexed", "merge", "permuted", "reshaped"]
