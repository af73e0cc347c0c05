"""Ranks that tiles hold whole, whatever the inputs: windows, classes, what is selected.

Such a rank has no input and few coordinates by itself. Several of them beside a vector can be more
than a tile holds (64 pages of 16 keys, each of 64 numbers); the longest that something is reduced
over is then one to run along.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Coordinate, Expr, Read, Reduce, Symbol
from cascade.ir.walk import free_ranks, reads, walk

WIDTH = 256  # the largest extent of a width that is no contraction
MATRIX = 2**15  # the most elements of a matrix that a tile holds whole
USUAL = 64  # the length of a vector of which nothing is known


def small_ranks(
    cascade: Cascade, extents: Mapping[str, int], free: frozenset[str] = frozenset()
) -> frozenset[str]:
    """Ranks that no input has, whose extent is a small number, and of which a tile can hold all.
    `free` are parts whose extent is ours to choose: they leave room for others.
    """
    small = _small(cascade, extents)
    fixed = {r: n for r, n in small.items() if r not in free}
    return frozenset(small) - _run_along(cascade, fixed, extents)


def _small(cascade: Cascade, extents: Mapping[str, int]) -> dict[str, int]:
    carried = {r for t in cascade.inputs for r in t.ranks}
    found = {}
    for r in cascade.ranks:
        known = constant(cascade, r.name)
        size = extents.get(r.name, known)
        if known is not None and r.name not in carried and size is not None and size <= WIDTH:
            found[r.name] = size
    return found


def constant(cascade: Cascade, rank: str) -> int | None:
    """The extent of a rank where the spec says it, as a number or as that of a param."""
    extent: Expr | None = cascade.rank[rank].extent
    if isinstance(extent, Symbol):
        name = extent.name
        extent = next((p.value for p in cascade.params if p.name == name), None)
    return int(extent.value) if isinstance(extent, Const) else None


def _run_along(
    cascade: Cascade, small: Mapping[str, int], extents: Mapping[str, int]
) -> frozenset[str]:
    """Small ranks that make a matrix too large for a tile, the longest first. A part stays, as its
    rank is run along by the others.
    """
    bodies = [e.body for e in cascade.einsums]
    reduced = {r for b in bodies for n in walk(b) if isinstance(n, Reduce) for r in n.ranks}
    parts = {r for p in cascade.partitions for r in p.parts}
    found: set[str] = set()
    for read in (r for b in bodies for r in reads(b)):
        own = {r: small[r] for r in free_ranks(read) if r in small and r not in found}
        ours = sorted(own.keys() & reduced - parts, key=lambda r: (own[r], r))
        while ours and prod(own.values()) * _vector(read, cascade, small, extents) > MATRIX:
            longest = ours.pop()
            found.add(longest)
            del own[longest]
    return frozenset(found)


def _vector(
    read: Read, cascade: Cascade, small: Mapping[str, int], extents: Mapping[str, int]
) -> int:
    """How many numbers a tensor has along memory at each coordinate of the others."""
    match read.index[-1:]:
        case (Coordinate(r),) if r not in small:
            return extents.get(r, constant(cascade, r)) or USUAL
    return 1
