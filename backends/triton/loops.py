"""Loops: over the tiles at which a predicate can hold, and over steps in order.

A predicate is solved to intervals of the rank for each row. Over the rows of a tile they give an
*outer* range, outside of which nothing holds, and a *full* range, in which everything does. One
loop runs over full tiles without the predicate, one over the rest with it, however many intervals
there are: the k-th visit finds its tile by comparing k with the number of tiles before each range.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

from cascade.backends.triton.nodes import address, write
from cascade.backends.triton.writer import EXTENT, LONG, Code, Writer, ident, position
from cascade.ir.expr import Const, Coordinate, Expr, Read, Symbol
from cascade.ir.walk import walk
from cascade.schedule.bounds import solve
from cascade.schedule.disjuncts import Interval
from cascade.schedule.facts import made_in
from cascade.schedule.program import Best, Carry, For, Seq, inside

BEYOND = 2**30  # past every coordinate


def loop(w: Writer, node: For | Seq, holding: frozenset[Expr]) -> None:
    carries(w, node.carries)
    if isinstance(node, Seq):
        _steps(w, node, holding)
    else:
        _tiles(w, node, holding)
    _begin(w, node.carries)


def carries(w: Writer, found: tuple[Carry, ...]) -> None:
    """What a loop carries, before its first step."""
    for c in found:
        axes = w.ordered(c.axes)
        dtype = _carried(w, c).dtype
        init = w.code(c.init)
        if init.axes:
            text = _of_type(w.full(init, axes), init, dtype)
        elif axes:
            text = f"tl.full({w.shape(axes)}, {init.text}, {dtype})"
        else:
            text = f"tl.cast({init.text}, {dtype})"
        w.assign(f"t_{ident(c.name)}", text)


def _carried(w: Writer, c: Carry) -> Code:
    """What a loop carries, by its name; places of the largest are coordinates."""
    places = {n.before[1] for n in inside(w.kernel.body) if isinstance(n, Best) and n.before}
    wide = c.kind == "int" and c.name not in places
    bits = LONG if wide else EXTENT
    return Code(f"t_{ident(c.name)}", w.ordered(c.axes), c.kind, bits, wide)


def _of_type(text: str, code: Code, dtype: str) -> str:
    return text if code.dtype == dtype else f"tl.cast({text}, {dtype})"


def _begin(w: Writer, found: tuple[Carry, ...]) -> None:
    for c in found:
        w.held.pop(c.name, None)
        w.tiles[c.name] = _carried(w, c)
        w.loaded.pop(c.name, None)


def _advance(w: Writer, found: tuple[Carry, ...]) -> None:
    """All carries move at once: one that follows from another takes what that was before."""
    moved: set[str] = set()
    for c in found:
        if c.next in moved:
            w.line(f"before_{ident(c.next)} = t_{ident(c.next)}")
            w.tiles[c.next] = replace(w.tiles[c.next], text=f"before_{ident(c.next)}")
        moved.add(c.name)
    for c in found:
        code = w.code(Read(c.next, ()))
        value = _of_type(w.full(code, w.ordered(c.axes)), code, _carried(w, c).dtype)
        if value != f"t_{ident(c.name)}":
            w.line(f"t_{ident(c.name)} = {value}")


def _steps(w: Writer, node: Seq, holding: frozenset[Expr]) -> None:
    w.scalars.add(node.scalar)
    count = w.code(node.count).text
    with w.block(f"for {position(node.scalar)} in range(0, {count}):"):
        _begin(w, node.carries)
        for p in node.places:
            w.places[p.rank] = p
        write(w, node.body, holding, loop)
        _advance(w, node.carries)


def _tiles(w: Writer, node: For, holding: frozenset[Expr]) -> None:
    w.scalars.add(node.scalar)
    if node.lists:
        _listed(w, node, holding)
        return
    intervals = _intervals(w, node)
    name = f"{ident(node.axis)}_{w.depth}_{len(w.lines)}"
    if w.specialised and w.depth == 1:
        _specialised(w, node, intervals, name, holding)
        return
    ranges = _ranges(w, node, intervals, name)
    full = holding | frozenset(node.predicate)
    if any(not i.residual for i in intervals):
        with w.block(f"for k_{name} in range(0, {ranges.full_tiles}):"):
            w.line(f"{position(node.scalar)} = {ranges.full_start}")
            w.whole.add(node.axis)
            _body(w, node, full)
            w.whole.discard(node.axis)
    with _lanes(w, node, name), w.block(f"for k_{name} in range(0, {ranges.partial_tiles}):"):
        w.line(f"{position(node.scalar)} = {ranges.partial_start}")
        _body(w, node, holding)


def _specialised(
    w: Writer, node: For, intervals: tuple[Interval, ...], name: str, holding: frozenset[Expr]
) -> None:
    """One loop over full and partial tiles alike, in which every tile is tested: the compiler gives
    the loads of a single loop to warps of their own.
    """
    with _lanes(w, node, name):
        if _is_all(node, intervals):
            extent = w.code(node.place.extent).text
            number = f"({extent} + {node.part - 1}) // {node.part}"
            start = f"k_{name} * {node.part}"
        else:
            outer = _outer_ranges(w, node, intervals, name)
            number, start = _numbered(w, outer, node.part, f"n_{name}", f"k_{name}")
        with w.block(f"for k_{name} in tl.range(0, {number}, warp_specialize=True):"):
            w.line(f"{position(node.scalar)} = {start}")
            _body(w, node, holding)


def _is_all(node: For, intervals: tuple[Interval, ...]) -> bool:
    """Whether every row has all of the rank."""
    return intervals == (Interval((Const(0),), (node.place.extent,)),)


def _outer_ranges(
    w: Writer, node: For, intervals: tuple[Interval, ...], name: str
) -> list[tuple[str, str]]:
    """Where some row has a point, in order and apart; the ends of each row have names, too."""
    for n, interval in enumerate(intervals):
        _outer(w, interval, *_ends(w, interval), f"{name}_{n}", node.part)
    outer = [(f"os_{name}_{n}", f"oe_{name}_{n}") for n in range(len(intervals))]
    _chain(w, outer)
    return outer


def _listed(w: Writer, node: For, holding: frozenset[Expr]) -> None:
    """Over the tiles of a list, one loop for full ones and one for the others."""
    name = f"{ident(node.axis)}_{w.depth}_{len(w.lines)}"
    with _lanes(w, node, name):
        for found in node.lists:
            full = found is node.full
            k = f"k_{'f' if full else 's'}_{name}"
            number, _ = address(w, found.number, found.index, [])
            first, _ = address(w, found.tiles, found.index, [])
            step = f"{ident(found.tiles)}_s{len(found.index)}"
            w.line(f"n{k} = tl.load({number}).to(tl.int32)")
            with w.block(f"for {k} in range(0, n{k}):"):
                listed = f"tl.load({first} + {k} * {step}).to(tl.int32)"
                w.line(f"{position(node.scalar)} = {listed} * {node.tile}")
                if full:
                    w.whole.add(node.axis)
                _body(w, node, holding | frozenset(node.predicate) if full else holding)
                w.whole.discard(node.axis)


@contextmanager
def _lanes(w: Writer, node: For, name: str) -> Iterator[None]:
    """Partial visits may have fewer lanes than full ones."""
    axis, part = node.axis, node.part
    if part == w.actual[axis]:
        yield
        return
    kept = w.sizes[axis], w.actual[axis]
    w.sizes[axis], w.actual[axis] = 1 << max(0, part - 1).bit_length(), part
    w.lanes[axis] = f"l_{name}"
    w.line(f"l_{name} = tl.arange(0, {w.sizes[axis]})")
    yield
    w.sizes[axis], w.actual[axis] = kept
    del w.lanes[axis]


def _body(w: Writer, node: For, holding: frozenset[Expr]) -> None:
    _begin(w, node.carries)
    w.places[node.place.rank] = node.place
    w.given.discard(node.place.rank)
    write(w, node.body, holding, loop)
    _advance(w, node.carries)


def _intervals(w: Writer, node: For) -> tuple[Interval, ...]:
    made = made_in(node)

    def known(e: Expr) -> bool:
        for n in walk(e):
            match n:
                case Read(name, ()) if name in made:
                    return False
                case Coordinate(rank) if rank == f"#{node.axis}":
                    return False
                case Symbol(name) if name == node.scalar:
                    return False
        return True

    real = frozenset(n for n, c in w.tiles.items() if c.kind == "real")
    real |= {n for n, kind in w.kinds.items() if kind == "real"}
    positive = frozenset(n for n, kind in w.kinds.items() if kind == "int")
    place = node.place
    return solve(node.predicate, place.rank, place.extent, known, positive, real)


class Ranges:
    """Texts for the number of full and partial tiles, and for where the k-th starts."""

    full_tiles: str
    full_start: str
    partial_tiles: str
    partial_start: str


def _ranges(w: Writer, node: For, intervals: tuple[Interval, ...], name: str) -> Ranges:
    size, part = node.tile, node.part
    extent = w.code(node.place.extent).text
    if _is_all(node, intervals):
        return _plain(extent, size, part, f"k_{name}")
    outer = _outer_ranges(w, node, intervals, name)
    full: list[tuple[str, str]] = []
    for n, interval in enumerate(intervals):
        _full(w, interval, *_ends(w, interval), f"{name}_{n}", size)
        full.append((f"fs_{name}_{n}", f"fe_{name}_{n}"))
    _chain(w, full)
    ranges = Ranges()
    ranges.full_tiles, ranges.full_start = _numbered(w, full, size, f"nf_{name}", f"k_{name}")
    gaps = _gaps(w, outer, full, extent, part, name)
    if len(intervals) == 1 and intervals[0].low == (Const(0),) and not intervals[0].residual:
        gaps = gaps[1:]  # every row begins at 0: nothing is partial before the full tiles
    ranges.partial_tiles, ranges.partial_start = _numbered(w, gaps, part, f"np_{name}", f"k_{name}")
    return ranges


def _plain(extent: str, size: int, part: int, k: str) -> Ranges:
    """All of a rank: the tiles that it fills, then the rest."""
    ranges = Ranges()
    ranges.full_tiles, ranges.full_start = f"{extent} // {size}", f"{k} * {size}"
    ranges.partial_tiles = f"({extent} % {size} + {part - 1}) // {part}"
    ranges.partial_start = f"{extent} // {size} * {size} + {k} * {part}"
    return ranges


def _ends(w: Writer, interval: Interval) -> tuple[Code, Code]:
    def joined(parts: tuple[Expr, ...], function: str) -> Code:
        codes = [w.code(p) for p in parts]
        axes = w.ordered({a for c in codes for a in c.axes})
        text = w.spread(codes[0], axes)
        for c in codes[1:]:
            text = f"{function}({text}, {w.spread(c, axes)})"
        if any(c.wide for c in codes):
            text = f"tl.cast(tl.minimum(tl.maximum({text}, {-BEYOND}), {BEYOND}), tl.int32)"
        return Code(text, axes, "int")

    return joined(interval.low, "tl.maximum"), joined(interval.high, "tl.minimum")


def _reduced(code: Code, function: str) -> str:
    """A number for all rows."""
    text = code.text
    for n in reversed(range(len(code.axes))):
        text = f"{function}({text}, {n})"
    return text


def _outer(w: Writer, i: Interval, low: Code, high: Code, name: str, part: int) -> None:
    """Where some row has a point: from the least start to the last end, in whole pieces."""
    lo, hi = Code(f"lo_{name}", low.axes, "int"), Code(f"hi_{name}", high.axes, "int")
    w.line(f"{lo.text} = {low.text}")
    w.line(f"{hi.text} = {high.text}")
    rows = w.every(i.row)
    axes = w.ordered({*low.axes, *high.axes, *(a for r in rows for a in r.axes)})
    tests = [*rows, *w.exists(axes)]
    axes = w.ordered({*axes, *(a for t in tests for a in t.axes)})
    some = [Code(f"({w.spread(lo, axes)} < {w.spread(hi, axes)})", axes, "bool"), *tests]
    here = Code(f"some_{name}", axes, "bool")
    w.line(f"{here.text} = {w.together(some, axes)}")
    first = Code(f"tl.where({here.text}, {w.spread(lo, axes)}, {BEYOND})", axes)
    last = Code(f"tl.where({here.text}, {w.spread(hi, axes)}, 0)", axes)
    w.line(f"os_{name} = {_reduced(first, 'tl.min')} // {part} * {part}")
    w.line(f"oe_{name} = ({_reduced(last, 'tl.max')} + {part - 1}) // {part} * {part}")


def _full(w: Writer, i: Interval, low: Code, high: Code, name: str, size: int) -> None:
    """Where every row has all points: from the last start to the first end, in whole tiles."""
    if i.residual:
        w.line(f"fs_{name} = 0")
        w.line(f"fe_{name} = 0")
        return
    lo, hi = Code(f"lo_{name}", low.axes, "int"), Code(f"hi_{name}", high.axes, "int")
    rows = w.every(i.row)
    axes = w.ordered({*low.axes, *high.axes, *(a for r in rows for a in r.axes)})
    exist = w.exists(axes)
    axes = w.ordered({*axes, *(a for t in exist for a in t.axes)})
    start, end = w.spread(lo, axes), w.spread(hi, axes)
    if rows:
        end = f"tl.where({w.together(rows, axes)}, {end}, 0)"
    if exist:
        start = f"tl.where({w.together(exist, axes)}, {start}, 0)"
        end = f"tl.where({w.together(exist, axes)}, {end}, {BEYOND})"
    w.line(f"fs_{name} = ({_reduced(Code(start, axes), 'tl.max')} + {size - 1}) // {size} * {size}")
    w.line(f"fe_{name} = {_reduced(Code(end, axes), 'tl.min')} // {size} * {size}")


def _chain(w: Writer, ranges: list[tuple[str, str]]) -> None:
    """Sort ranges by their starts, and let each begin where those before it end."""
    for n in range(len(ranges)):
        for m in range(len(ranges) - 1 - n):
            (s, e), (s2, e2) = ranges[m], ranges[m + 1]
            w.line(f"swap = {s} > {s2}")
            w.line(f"{s}, {s2} = tl.where(swap, {s2}, {s}), tl.where(swap, {s}, {s2})")
            w.line(f"{e}, {e2} = tl.where(swap, {e2}, {e}), tl.where(swap, {e}, {e2})")
    for (_, e), (s2, e2) in pairwise(ranges):
        w.line(f"{s2} = tl.maximum({s2}, {e})")
        w.line(f"{e2} = tl.maximum({e2}, {e})")


def _gaps(
    w: Writer,
    outer: list[tuple[str, str]],
    full: list[tuple[str, str]],
    extent: str,
    part: int,
    name: str,
) -> list[tuple[str, str]]:
    """The outer ranges without the full ones."""
    starts = ["0", *(f"tl.maximum({s}, {e})" for s, e in full)]
    ends = [*(s for s, _ in full), f"({extent} + {part - 1}) // {part} * {part}"]
    found = []
    for i, (s, e) in enumerate(outer):
        for j, (gs, ge) in enumerate(zip(starts, ends, strict=True)):
            key = f"{name}_{i}_{j}"
            w.line(f"ps_{key} = tl.maximum({s}, {gs})")
            w.line(f"pe_{key} = tl.minimum({e}, {ge})")
            found.append((f"ps_{key}", f"pe_{key}"))
    return found


def _numbered(
    w: Writer, ranges: list[tuple[str, str]], size: int, total: str, k: str
) -> tuple[str, str]:
    """The number of tiles of chained ranges, and the start of the k-th."""
    if not ranges:
        return "0", "0"
    counts = []
    for n, (s, e) in enumerate(ranges):
        w.line(f"{total}_{n} = tl.maximum({e} - {s}, 0) // {size}")
        counts.append(f"{total}_{n}")
    w.line(f"{total} = {' + '.join(counts)}")
    start = f"{ranges[-1][0]} + ({_rest(k, counts[:-1])}) * {size}"
    for n in range(len(ranges) - 2, -1, -1):
        before = " + ".join(counts[: n + 1])
        here = f"{ranges[n][0]} + ({_rest(k, counts[:n])}) * {size}"
        start = f"tl.where({k} < {before}, {here}, {start})"
    return total, start


def _rest(k: str, counts: list[str]) -> str:
    return " - ".join([k, *counts])
