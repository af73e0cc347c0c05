"""A Program as one Python file that needs torch and triton alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from cascade.backends.triton.host import host
from cascade.backends.triton.layout import broken, packed
from cascade.backends.triton.loops import loop
from cascade.backends.triton.nodes import write
from cascade.backends.triton.scalars import extents_of, scalar_kinds
from cascade.backends.triton.spell import helpers
from cascade.backends.triton.writer import DOT_LEAST, Writer, ident, position, scalar
from cascade.diagnostics import CascadeError, Diagnostic
from cascade.ir.expr import Expr, Read
from cascade.ir.extents import evaluate
from cascade.ir.kinds import is_wide_real
from cascade.ir.walk import free_ranks, symbols
from cascade.schedule.base_two import in_base_two
from cascade.schedule.facts import tile_axes
from cascade.schedule.operands import operands
from cascade.schedule.program import (
    Contract,
    For,
    GridAxis,
    Kernel,
    Load,
    Program,
    Seq,
    Store,
    inside,
)
from cascade.schedule.prune import expressions
from cascade.schedule.signs import Signs

ALIGNMENT = 16  # a stride that is a multiple of it is compiled for
FEW = 4  # rows of a tile that is as small as it can be: matrix units then take no more of them


@dataclass(frozen=True)
class Options:
    """Choices of a launch, for each kernel by name or for all. `descriptors`: loads in loops go by
    tensor descriptors where they can, which asks for aligned tensors. `specialised`: warps of their
    own load, and others compute.
    """

    num_warps: int = 4
    num_stages: int = 2
    descriptors: bool = False
    specialised: bool = False
    kernels: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # warps and stages

    def of(self, kernel: str) -> tuple[int, int]:
        return self.kernels.get(kernel, (self.num_warps, self.num_stages))


@dataclass(frozen=True)
class Signature:
    """What a kernel is called with, in this order: tensors, strides, then numbers."""

    name: str
    tensors: tuple[str, ...]
    strides: tuple[tuple[str, int], ...]
    scalars: tuple[str, ...]
    grid: tuple[Expr, ...]


def emit(program: Program, options: Options | None = None) -> str:
    """The source. Extents of axes that tiles hold whole must be in `program.widths`.

    Raises `CascadeError` where one of them is not known.
    """
    options = options or Options()
    signs = Signs.of(program)
    if not _is_single(program):
        program = in_base_two(program, signs)
    kinds = scalar_kinds(program)
    parts, signatures = [], []
    described: set[str] = set()
    for kernel in program.kernels:
        signature = signature_of(program, kernel)
        signatures.append(signature)
        w = _writer(program, kernel, kinds, signs, options)
        parts.append(_kernel(w, kernel, signature))
        described |= w.described
    body = "\n\n\n".join(parts)
    title = f'"""{program.name}: kernels written by cascade. Needs torch and triton."""'
    imports = "import math\n\nimport torch\nimport triton\nimport triton.language as tl\n"
    loaded, positive = frozenset(described), frozenset(signs.used)
    tail = host(program, tuple(signatures), kinds, options.of, loaded, positive)
    blocks = (f"{title}\n\n{imports}", helpers(body).strip(), body, tail)
    return "\n\n\n".join(b.rstrip("\n") for b in blocks if b) + "\n"


def _is_single(program: Program) -> bool:
    """Whether every real input is known to have 32 bits or more: one more rounding, that of
    `scale * log2(e)`, would then be seen.
    """
    real = [b.dtype for b in program.buffers if b.kind == "in" and is_wide_real(b.dtype)]
    return bool(real) and all(t in ("f32", "f64") for t in real)


def signature_of(program: Program, kernel: Kernel) -> Signature:
    tensors: dict[str, None] = {}
    needed: dict[str, None] = {}
    known = {g.scalar for g in kernel.grid}
    for node in inside(kernel.body):
        if isinstance(node, Load | Store):
            tensors[node.tensor] = None
        if isinstance(node, For | Seq):
            known.add(node.scalar)
        if isinstance(node, For):
            tensors |= dict.fromkeys(t for found in node.lists for t in (found.number, found.tiles))
    shown = [e for node in inside(kernel.body) for e in expressions(node)]
    shown += [e for p in kernel.places for e in (p.value, p.extent)]
    shown += [g.count for g in kernel.grid]
    for node in inside(kernel.body):
        if isinstance(node, Seq):
            shown += [p.extent for p in node.places]
    widths = dict(program.widths)
    for e in shown:
        for s in sorted(symbols(e)):
            if s not in known and s not in widths:
                needed[s] = None
    strides = tuple((t, n) for t in tensors for n in range(len(program.buffer[t].shape)))
    grid = tuple(g.count for g in kernel.grid)
    return Signature(kernel.name, tuple(tensors), strides, tuple(sorted(needed)), grid)


def stepping(program: Program, signature: Signature) -> tuple[tuple[str, int], ...]:
    """The strides of which a kernel must not be compiled for some values: those that change with
    lengths from a multiple of 16 to another number, or to 1, in a tensor without gaps.
    """
    widths = dict(program.widths)
    found = []
    for tensor, slot in signature.strides:
        inner = program.buffer[tensor].shape[slot + 1 :]
        known = (evaluate(e, widths.__getitem__) for e in inner if symbols(e) <= widths.keys())
        if inner and prod(map(int, known)) % ALIGNMENT:
            found.append((tensor, slot))
    return tuple(found)


def lanes(program: Program, kernel: Kernel) -> tuple[dict[str, int], dict[str, int]]:
    """The number of lanes of each axis, a power of two; and how many of them can exist."""
    widths = dict(program.widths)
    contracted = _contracted(kernel)
    tiled = (p.value for p in kernel.places if symbols(p.value))
    rows = {r.removeprefix("#") for value in tiled for r in free_ranks(value)}
    sizes: dict[str, int] = {}
    actual: dict[str, int] = {}
    missing = sorted({s for axis in kernel.axes for s in symbols(axis.size)} - set(widths))
    if missing:
        raise CascadeError(*map(_unknown_width, missing))
    for axis in kernel.axes:
        size = int(evaluate(axis.size, widths.__getitem__))
        few = size <= FEW and axis.name in rows
        sizes[axis.name] = whole_lanes(size, axis.name in contracted and not few)
        actual[axis.name] = size
    return sizes, actual


def _unknown_width(extent: str) -> Diagnostic:
    message = f"the extent `{extent}` must be known when a kernel is made"
    return Diagnostic("width", message, hints=(f"set it: `--set {extent}=64`",))


def whole_lanes(size: int, contracted: bool) -> int:
    """A power of two of lanes; not fewer than a matrix product takes, where there may be one."""
    return max(DOT_LEAST if contracted else 1, 1 << max(0, size - 1).bit_length())


def _contracted(kernel: Kernel) -> set[str]:
    """Axes of contractions of two wide factors, which matrix units may take."""
    axes = tile_axes(kernel)
    found: set[str] = set()
    for node in inside(kernel.body):
        if isinstance(node, Contract) and len(node.factors) > 1:
            for f in node.factors:
                if isinstance(f, Read) and len(axes.get(f.tensor, ())) == 2:
                    found |= set(axes[f.tensor])
            found |= _single(node, axes)
    return found


def _single(node: Contract, axes: Mapping[str, frozenset[str]]) -> set[str]:
    """The axes of a batch of matrix products that are a dimension of a matrix by themselves."""
    own = [axes.get(f.tensor, frozenset()) if isinstance(f, Read) else None for f in node.factors]
    pair = operands([a for a in own if a is not None], node.axes) if None not in own else None
    if pair is None or not pair[0].axes & pair[1].axes - set(node.axes):
        return set()
    left, right = (s.axes for s in pair)
    sides = (left - right, right - left, frozenset(node.axes))
    return {a for side in sides if len(side) == 1 for a in side}


def _writer(
    program: Program, kernel: Kernel, kinds: Mapping[str, str], signs: Signs, options: Options
) -> Writer:
    sizes, actual = lanes(program, kernel)
    w = Writer(
        program, kernel, sizes, actual, dict(program.widths), kinds, signs, extents_of(program)
    )
    w.places = {p.rank: p for p in kernel.places}
    w.by_descriptor, w.specialised = options.descriptors, options.specialised
    return w


def _kernel(w: Writer, kernel: Kernel, signature: Signature) -> str:
    numbers = [scalar(s) for s in signature.scalars]
    free = [*numbers, *(f"{ident(t)}_s{n}" for t, n in stepping(w.program, signature))]
    names = packed([f'"{n}"' for n in free], "    ")
    decorator = ["@triton.jit"]
    if len(names) == 1:
        decorator = [f"@triton.jit(do_not_specialize=[{names[0].strip().rstrip(',')}])"]
    elif names:
        decorator = ["@triton.jit(do_not_specialize=[", *names, "])"]
    _position(w, kernel)
    for axis in kernel.axes:
        name = ident(axis.name)
        w.line(f"l_{name} = tl.arange(0, {w.sizes[axis.name]})")
    w.head = len(w.lines)
    write(w, kernel.body, frozenset(), loop)
    body = [part for line in _without_unused(w.lines) for part in broken(line)]
    pointers = [f"{ident(t)}_ptr" for t in signature.tensors]
    strides = [f"{ident(t)}_s{n}" for t, n in signature.strides]
    head = [*decorator, f"def {ident(kernel.name)}_kernel("]
    head += [line for kind in (pointers, strides, numbers) for line in packed(kind, "    ")]
    return "\n".join([*head, "):", *body])


def _position(w: Writer, kernel: Kernel) -> None:
    """The point of the grid, from one number; the last dimension runs fastest."""
    if not kernel.grid:
        return
    w.line("rest = tl.program_id(0)")
    for g in reversed(kernel.grid[1:]):
        count = w.code(g.count).text
        w.scalars.add(g.scalar)
        w.line(f"{position(g.scalar)} = {_from_either_end(g, count, f'rest % {count}')}")
        w.line(f"rest = rest // {count}")
    first = kernel.grid[0]
    w.scalars.add(first.scalar)
    count = w.code(first.count).text if first.descending else ""
    w.line(f"{position(first.scalar)} = {_from_either_end(first, count, 'rest')}")


def _from_either_end(g: GridAxis, count: str, number: str) -> str:
    """The position of the instance of this number; devices start instances by number."""
    return f"{count} - 1 - {number}" if g.descending else number


def _without_unused(lines: list[str]) -> list[str]:
    """The lines, without lanes that nothing reads."""
    text = "\n".join(lines)
    kept = []
    for line in lines:
        name = line.strip().split(" = ")[0]
        if line.strip().startswith("l_") and "tl.arange" in line:
            if len(re.findall(rf"\b{re.escape(name)}\b", text)) == 1:
                continue
        kept.append(line)
    return kept
