"""A cascade as a Program: the form that is run, its kernels, and what they leave in memory."""

from __future__ import annotations

from functools import lru_cache
from math import prod

from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Expr, Map, Symbol
from cascade.ir.kinds import declared_width, required_kinds, tensor_kinds
from cascade.ir.walk import free_ranks, reads, symbols
from cascade.schedule.build import Builder
from cascade.schedule.errors import NoSchedule
from cascade.schedule.kernels import Draft, Partition
from cascade.schedule.loops import build
from cascade.schedule.program import Buffer, Kernel, Program
from cascade.schedule.roles import Roles
from cascade.schedule.settle import settle
from cascade.schedule.sizes import Sizes
from cascade.schedule.small import constant
from cascade.schedule.temporaries import arranged
from cascade.schedule.verify import violations

FEW = 8  # coordinates of a tile of a loop that only adds
USUAL = 64  # of a rank of which nothing is known


def lower(
    cascade: Cascade,
    sizes: Sizes,
    unordered: frozenset[str] = frozenset(),
    free: frozenset[str] = frozenset(),
) -> Program:
    """The Program of a cascade whose form is chosen. `unordered` names the ranks whose steps may be
    merged in any order: those that a derivation made. `free` names the parts whose extent is ours
    to choose.
    """
    partition = _partition(cascade, tuple(sorted(sizes.extents.items())), unordered, free)
    roles = partition.roles
    names = _kernel_names(partition.kernels)
    kernels = tuple(
        _kernel(partition, k, names[n], sizes, free) for n, k in enumerate(partition.kernels)
    )
    program = Program(
        cascade.name,
        tuple(_buffers(roles, partition)),
        kernels,
        _values(cascade),
        tuple(sorted(_widths(roles, kernels).items())),
    )
    program = arranged(program)
    for wrong in violations(program):
        raise NoSchedule(wrong)
    return program


@lru_cache(maxsize=16)  # of each size of tiles that a form has
def _partition(
    cascade: Cascade,
    extents: tuple[tuple[str, int], ...],
    unordered: frozenset[str],
    free: frozenset[str],
) -> Partition:
    return Partition(Roles(cascade, settle(cascade), dict(extents), unordered, free))


def _kernel(
    partition: Partition, draft: Draft, name: str, sizes: Sizes, free: frozenset[str]
) -> Kernel:
    several = draft.rows[-sizes.row_ranks :]
    rows = {r: _rows(partition, r, sizes.rows) if r in several else 1 for r in draft.rows}
    tiles = {r: sizes.tiles.get(r, n) for r, n in rows.items()}
    builder = Builder(partition, draft, tiles)
    loop = draft.loop
    rank = loop.rank if loop is not None else ""
    few = min(FEW, sizes.stream) if _adds_up(partition, draft) else sizes.stream
    stream = sizes.tiles.get(rank, max(1, few // _beside(partition, draft)))
    part = min(stream, sizes.part or stream)
    if loop is not None and not loop.ordered and loop.inner and not set(loop.inner) <= free:
        builder.pinned = True
        stream = part = _size_of_parts(partition.cascade, loop.inner, sizes)
    return build(builder, name, stream, part)


def _rows(partition: Partition, rank: str, rows: int) -> int:
    """The coordinates of a tile: of a width no more lanes than it has, where that is known."""
    if rank not in partition.roles.widths:
        return rows
    return min(rows, 1 << (_extent(partition.roles, rank) - 1).bit_length())


def _beside(partition: Partition, draft: Draft) -> int:
    """How many coordinates of other ranks every reduction of a loop takes at each of its own."""
    if draft.loop is None:
        return 1
    along = draft.loop.ranks
    inlined = (partition.steps[n] for n in sorted(partition.inlined(draft)))
    steps = [partition.steps[n] for n in draft.members]
    found = []
    for s in (*steps, *inlined):
        if s.iterative is None and along & set(s.bound):
            others = [r for r in s.bound if r not in along]
            found.append(prod(_extent(partition.roles, r) for r in others))
    return min(found, default=1)


def _extent(roles: Roles, rank: str) -> int:
    return roles.size(rank) or constant(roles.cascade, rank) or USUAL


def _adds_up(partition: Partition, draft: Draft) -> bool:
    """Whether a loop only adds values that have all of its ranks: rows, widths and its own. A tile
    of such has three dimensions, and gains nothing by being long.
    """
    steps = [partition.steps[n] for n in draft.members]
    for s in steps:
        whole = {*s.ranks, *s.bound}
        if s.op is None or s.iterative is not None or not set(s.ranks) & partition.roles.widths:
            return False
        if any(whole - set(free_ranks(r)) for r in reads(s.value)):
            return False
    return bool(steps)


def _size_of_parts(cascade: Cascade, inner: tuple[str, ...], sizes: Sizes) -> int:
    """How many coordinates a tile of a partition of the spec has."""
    values = {p.name: p.value for p in cascade.params}
    result = 1
    for r in inner:
        extent = cascade.rank[r].extent
        known: object = sizes.extents.get(r)
        if isinstance(extent, Symbol) and known is None:
            known = sizes.extents.get(extent.name)
            default = values.get(extent.name)
            known = default.value if known is None and isinstance(default, Const) else known
        if not isinstance(known, int):
            raise NoSchedule(f"the extent of `{r}` must be known to make tiles of it")
        result *= known
    return result


def _kernel_names(drafts: list[Draft]) -> list[str]:
    """Each kernel is named after the first tensor that it writes."""
    names: list[str] = []
    for d in drafts:
        stem = next(iter([*d.stores, *d.histories, *d.ends])).replace(".", "_")
        names.append(stem if stem not in names else f"{stem}_{len(names)}")
    return names


def _buffers(roles: Roles, partition: Partition) -> list[Buffer]:
    cascade = roles.cascade
    needed = required_kinds(cascade)
    kinds = tensor_kinds(cascade)
    buffers = []
    for t in cascade.inputs:
        shape = tuple(cascade.rank[r].extent for r in t.ranks)
        dtype = t.dtype or needed.get(t.name) or kinds.get(t.name, "any")
        buffers.append(Buffer(t.name, t.ranks, shape, dtype, "in"))
    written = dict.fromkeys(
        n for k in partition.kernels for n in (*k.stores, *k.histories, *k.ends)
    )
    ends = {n for k in partition.kernels for n in k.ends}
    for name in written:
        s = roles.steps[name]
        shape_of: list[Expr] = []
        for slot, r in enumerate(s.ranks):
            extent = cascade.rank[r].extent
            if slot != s.iterative:
                shape_of.append(extent)
            elif name not in ends:
                shape_of.append(Map("+", (extent, Const(1))))
        kind = "out" if name in cascade.outputs else "temp"
        ranks = tuple(
            r for slot, r in enumerate(s.ranks) if name not in ends or slot != s.iterative
        )
        dtype = declared_width(cascade.output_types.get(name)) or s.kind
        buffers.append(Buffer(name, ranks, tuple(shape_of), dtype, kind))
    return buffers


def _widths(roles: Roles, kernels: tuple[Kernel, ...]) -> dict[str, int]:
    """The extents of axes that tiles hold whole, where they are known."""
    found: dict[str, int] = {}
    for k in kernels:
        for axis in k.axes:
            if isinstance(axis.size, Const):
                continue
            for name in symbols(axis.size):
                size = roles.sizes.get(name.lower())
                if size is not None:
                    found[name] = size
    return found


def _values(cascade: Cascade) -> tuple[tuple[str, Expr], ...]:
    """Definitions of params and of extents that follow from others, each after what it needs."""
    defined: dict[str, Expr] = {}
    for p in cascade.params:
        if p.value is not None:
            defined[p.name] = p.value
    for r in cascade.ranks:
        name = r.name.upper()
        if r.extent != Symbol(name) and name not in defined:
            defined[name] = r.extent
    ordered: dict[str, Expr] = {}

    def visit(name: str, path: tuple[str, ...] = ()) -> None:
        if name in ordered or name not in defined or name in path:
            return
        for s in sorted(symbols(defined[name])):
            visit(s, (*path, name))
        ordered[name] = defined[name]

    for name in defined:
        visit(name)
    return tuple(ordered.items())
