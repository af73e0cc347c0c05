"""Dimensions: which rank each has, and what broadcasting, indexing and reshaping do to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from cascade.frontends.torch_function.absence import filled
from cascade.frontends.torch_function.sizes import expr_of
from cascade.frontends.torch_function.traced import Graph, Traced, refuse
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.walk import symbols

Dims = Sequence[str | None]
NOWHERE = -1.0  # what `argtop` stands for past the values that are there: what it indexes is absent


def one(size: Any) -> bool:
    """Whether a size is 1 whatever the examples are: such a dimension has no rank."""
    return expr_of(size) == Const(1)


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
        graph.merged[b] = a
        for rank, extent in graph.extents.items():
            graph.extents[rank] = graph.rooted(extent)
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


def axis(x: Traced, dim: Any, more: int = 0) -> int:
    """A dimension counted from the front; `more` for one that is to be made."""
    number = len(x.dims) + more
    if not isinstance(dim, int) or not -max(number, 1) <= dim < max(number, 1):
        refuse(f"dimension {dim!r} of a tensor of {len(x.dims)} dimensions")
    return int(dim) % max(number, 1)


def permuted(x: Traced, order: Sequence[int]) -> Traced:
    at = [axis(x, n) for n in order]
    if sorted(at) != list(range(len(x.dims))):
        refuse(f"a permutation {tuple(order)} of {len(x.dims)} dimensions")
    return Traced(x.graph, x.expr, [x.dims[n] for n in at], x.kind)


def unsqueezed(x: Traced, dim: int) -> Traced:
    at = axis(x, dim, 1)
    return Traced(x.graph, x.expr, [*x.dims[:at], None, *x.dims[at:]], x.kind)


# -- indexing


def indexed(x: Traced, index: Any) -> Traced:
    """`x[index]` with None, an ellipsis, integers, slices of step 1 and tensors of integers."""
    dims: list[Any] = []  # a tensor of integers in its place
    values: dict[str, Expr] = {}
    gathers: list[tuple[str | None, Traced]] = []
    left = list(x.dims)
    for part in _full_index(x, index):
        if part is None:
            dims.append(None)
            continue
        rank = left.pop(0)
        if isinstance(part, slice):
            dims.append(_sliced(x.graph, rank, part, values))
        elif isinstance(part, Traced) and part.kind == "bool":
            refuse("an index by truth values: the size of its result depends on them")
        elif isinstance(part, Traced) and part.dims:
            gathers.append((rank, filled(part, NOWHERE)))
            dims.append(part)
        elif isinstance(part, Traced | int) and not isinstance(part, bool):
            _chosen(x.graph, rank, part, values)
        else:
            refuse(f"an index of type {type(part).__name__}")
    return _gathered(x, dims, values, gathers)


def _full_index(x: Traced, index: Any) -> list[Any]:
    """An index for each dimension."""
    parts = list(index) if isinstance(index, tuple) else [index]
    real = sum(1 for p in parts if p is not None and p is not Ellipsis)
    if real > len(x.dims):
        refuse(f"{real} indices of {len(x.dims)} dimensions")
    rest = [slice(None)] * (len(x.dims) - real)
    at = next((n for n, p in enumerate(parts) if p is Ellipsis), None)
    return [*parts, *rest] if at is None else [*parts[:at], *rest, *parts[at + 1 :]]


def _chosen(graph: Graph, rank: str | None, part: Any, values: dict[str, Expr]) -> None:
    """One point of a dimension."""
    size = 1 if rank is None else graph.sizes[rank]
    if isinstance(part, int) and not -size <= part < size:
        refuse(f"index {int(part)} of a dimension of size {size}")
    if rank is None:
        return
    if isinstance(part, Traced):
        values[rank] = wrapped(graph, filled(part, NOWHERE).expr, rank)
    elif part < 0:
        values[rank] = Map("-", (graph.extents[rank], Const(-int(part))))
    else:
        values[rank] = expr_of(part)


def _sliced(graph: Graph, rank: str | None, part: slice, values: dict[str, Expr]) -> str | None:
    """The rank of a part of a dimension; none where one point is left."""
    if part.step not in (None, 1):
        refuse("a slice with a step", "reshape, then take one of the new dimension")
    size = 1 if rank is None else graph.sizes[rank]
    first, last, _ = part.indices(size)
    if last <= first:
        refuse("a slice without a point")
    if rank is None:
        return None
    start = _bound(graph, rank, part.start, Const(0))
    stop = _bound(graph, rank, part.stop, graph.extents[rank])
    ends = [_from_end(graph, rank, b) for b in (start, stop)]
    if last - first == 1 and ends in ([False, False], [True, True]):  # at all sizes
        values[rank] = start
        return None
    if start == Const(0) and stop == graph.extents[rank]:
        return rank
    length = stop if start == Const(0) else Map("-", (stop, start))
    new = graph.rank(last - first, length)
    moved = Coordinate(new)
    values[rank] = moved if start == Const(0) else Map("+", (moved, start))
    return new


def _from_end(graph: Graph, rank: str, bound: Expr) -> bool | None:
    """Whether a bound is counted from the end of a dimension; None for one that is computed."""
    if not symbols(bound):
        return False
    if isinstance(bound, Map) and bound.op == "-" and isinstance(bound.args[1], Const):
        bound = bound.args[0]
    return True if bound == graph.extents[rank] else None


def _bound(graph: Graph, rank: str, value: Any, default: Expr) -> Expr:
    """A bound of a slice: past an end it is that end."""
    if value is None:
        return default
    size, extent = graph.sizes[rank], graph.extents[rank]
    if value >= size:
        return extent
    if value < -size:
        return Const(0)
    return Map("-", (extent, Const(-int(value)))) if value < 0 else expr_of(value)


def _gathered(
    x: Traced,
    places: Sequence[Any],
    values: dict[str, Expr],
    gathers: Sequence[tuple[str | None, Traced]],
) -> Traced:
    """Dimensions indexed by tensors of integers, whose own dimensions are broadcast together."""
    graph, dims = x.graph, list(places)
    if gathers:
        at = [n for n, p in enumerate(dims) if isinstance(p, Traced)]
        parts, common = broadcast(graph, [p for _, p in gathers])
        kept = [p for p in dims if not isinstance(p, Traced)]
        common = [graph.copy(d) if d is not None and d in kept else d for d in common]
        for (rank, _), part in zip(gathers, parts, strict=True):
            if rank is not None:
                values[rank] = wrapped(graph, _along(graph, part, common).expr, rank)
        together = at[-1] - at[0] == len(at) - 1
        first = at[0] if together else 0  # where they stand apart, PyTorch puts them in front
        kept[first:first] = common
        dims = kept
    return Traced(graph, graph.put(x.expr, values), dims, x.kind)


def _along(graph: Graph, part: Traced, dims: Dims) -> Traced:
    """A value over these ranks, where it has a rank of its own."""
    return merge(graph, part, [d if own is not None else None
                               for own, d in zip(part.dims, dims, strict=True)])  # fmt: skip


def wrapped(graph: Graph, index: Expr, rank: str) -> Expr:
    """An index that counts from the end where it is negative.

    A tensor of integers is taken to have no negative ones if its example has none.
    """
    found = bounds(graph, index)
    if found is None:
        return index
    low, high = found
    if isinstance(index, Coordinate) and high >= graph.sizes[rank]:
        refuse(f"an index up to {high} of a dimension of size {graph.sizes[rank]}")
    if low >= 0:
        return index
    moved = Map("+", (index, graph.extents[rank]))
    return moved if high < 0 else Map("select", (Map("<", (index, Const(0))), moved, index))


FAR = 1 << 62


def bounds(graph: Graph, e: Expr) -> tuple[int, int] | None:
    """The least and the largest value of an index at the sizes of the examples, where known."""
    match e:
        case Const(value) if isinstance(value, int):
            return int(value), int(value)
        case Coordinate(rank):
            return 0, graph.sizes[rank] - 1
        case Read(name):
            return graph.lows.get(name, 0), FAR
        case Symbol(name):
            own = graph.sizes.get(name.lower())
            return None if own is None else (own, own)
        case Map("select", (_, *branches)):
            parts = [bounds(graph, b) for b in branches]
        case Map(_, args):
            parts = [bounds(graph, a) for a in args]
        case _:
            return None
    if None in parts:
        return None
    return _interval(e.op, [p for p in parts if p is not None])


def _interval(op: str, parts: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    (a, b), (c, d) = parts[0], parts[-1]
    match op:
        case "+":
            return a + c, b + d
        case "-":
            return a - d, b - c
        case "neg":
            return -b, -a
        case "*":
            products = (a * c, a * d, b * c, b * d)
            return min(products), max(products)
        case "//" if c == d and c > 0:
            return a // c, b // c
        case "%" if c > 0:
            return 0, d - 1
        case "abs":
            return max(a, -b, 0), max(b, -a)
        case "max":
            return max(a, c), max(b, d)
        case "min":
            return min(a, c), min(b, d)
        case "select":
            return min(a, c), max(b, d)
    return None


# -- reshaping


def reshaped(x: Traced, shape: Sequence[Any]) -> Traced:
    """Dimensions merged and split: `n // H` and `n % H`, or `a*H + b`."""
    target = list(shape)
    if any(isinstance(s, int) and int(s) == -1 for s in target):
        rest = _quotient(x, [s for s in target if int(s) != -1])
        if int(rest) == 1 and not one(rest):
            refuse("a view with -1 for a size that is 1 here only", "trace larger examples")
        target = [rest if int(s) == -1 else s for s in target]
    if _product(target) != _product(x.shape):
        refuse(f"a view of {tuple(map(int, x.shape))} as {tuple(map(int, shape))}")
    values: dict[str, Expr] = {}
    dims: list[str | None] = []
    source = [(d, s) for d, s in zip(x.dims, x.shape, strict=True) if d is not None]
    while target:
        size = target.pop(0)
        if int(size) == 1 and not (source and int(source[0][1]) == 1):
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
    if source:
        refuse("a view without a dimension that is 1 here only", "trace larger examples")
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


__all__ = [
    "NOWHERE", "align", "axis", "broadcast", "equal", "indexed", "merge", "one", "permuted",
    "reshaped", "unsqueezed", "wrapped",
]  # fmt: skip
