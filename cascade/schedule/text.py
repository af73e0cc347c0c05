"""A Program as pseudo-code, to be read: kernels, places, and nodes in the order of execution.

A tile prints as its name, a lane of an axis as `#axis`, `m < M` in the line of a place as what
exists. The text is not parsed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from cascade.ir import text
from cascade.ir.expr import Coordinate, Expr, Map
from cascade.ir.printer import print_expr, spell
from cascade.schedule.program import (
    Best,
    Buffer,
    Carry,
    Contract,
    Fold,
    For,
    GridAxis,
    Kernel,
    Let,
    Load,
    Mask,
    Node,
    Pick,
    Place,
    Program,
    Seq,
    Store,
    TileList,
    lane,
)

INDENT = "    "
WIDTH = 100  # columns, where lines can be broken at commas


def print_program(program: Program) -> str:
    """The program, a block for its tensors and one for each kernel."""
    blocks = [[f"program {program.name}", *_tensors(program.buffers), *_values(program)]]
    blocks += [list(_kernel(k)) for k in program.kernels]
    blocks += [[f"note: {n}" for n in program.notes]]
    return "\n\n".join("\n".join(b) for b in blocks if b) + "\n"


def _tensors(buffers: tuple[Buffer, ...]) -> Iterator[str]:
    words = {"in": "input", "out": "output", "temp": "temporary"}
    for kind, found in groupby(sorted(buffers, key=lambda b: list(words).index(b.kind)),
                               key=lambda b: b.kind):  # fmt: skip
        yield from _listed(f"{INDENT}{words[kind]} ", [_buffer(b) for b in found])


def _buffer(b: Buffer) -> str:
    plain = all(print_expr(n) == r.upper() for n, r in zip(b.shape, b.ranks, strict=True))
    slots = b.ranks if plain else tuple(text.tight(print_expr(n)) for n in b.shape)
    shape = f"[{','.join(slots)}]" if slots else ""
    return f"{b.name}{shape}: {f'as {b.like}' if b.like else b.dtype}"


def _values(program: Program) -> Iterator[str]:
    fixed = [f"{name} = {number}" for name, number in program.widths]
    yield from _listed(f"{INDENT}fixed ", fixed)
    given = dict(program.widths)
    names = [(n, e) for n, e in program.values if n not in given]
    yield from _listed(f"{INDENT}with ", [f"{name} = {print_expr(e)}" for name, e in names])


def _kernel(kernel: Kernel) -> Iterator[str]:
    points = [_points(g) for g in kernel.grid]
    yield from _listed(f"kernel {kernel.name}" + " for each " * bool(points), points, always=True)
    axes = [f"#{a.name} < {_operand(a.size)}" for a in kernel.axes]
    yield from _listed(f"{INDENT}lanes ", axes)
    yield from _places(kernel.places, INDENT)
    yield from _nodes(kernel.body, INDENT)


def _points(g: GridAxis) -> str:
    return f"{g.scalar} < {_operand(g.count)}" + " from the last" * g.descending


def _places(places: tuple[Place, ...], indent: str) -> Iterator[str]:
    """Where each rank is; the extent only where a tile can pass it."""
    yield from _listed(f"{indent}at ", [_place(p) for p in places])


def _place(p: Place) -> str:
    return f"{p.rank} = {print_expr(p.value)}" + f" < {_operand(p.extent)}" * (not _is_safe(p))


def _is_safe(p: Place) -> bool:
    """A lane of an axis that has just the coordinates of its rank, or a point of the grid."""
    return p.value == lane(p.rank) or not isinstance(p.value, Coordinate | Map)


def _nodes(nodes: tuple[Node, ...], indent: str) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, For | Seq):
            yield from _loop(node, indent)
        else:
            yield f"{indent}{_node(node)}"


def _node(node: Node) -> str:
    match node:
        case Let(name, e):
            return f"{name} = {print_expr(e)}"
        case Load(name, tensor, index, present):
            return f"{name} = load {_element(tensor, index)}{_where(present)}"
        case Mask(name, e, conditions, fill):
            return f"{name} = {print_expr(e)}{_where(conditions)} else {print_expr(fill)}"
        case Fold(name, op, e, axes):
            return f"{name} = {op}[{','.join(axes)}]({print_expr(e)})"
        case Contract(name, factors, axes):
            return f"{name} = sum[{','.join(axes)}]({' * '.join(map(_factor, factors))})"
        case Pick(name, e, axis, at):
            return f"{name} = {print_expr(e)} at #{axis} = {print_expr(at)}"
        case Best():
            found = f"best[{node.axis} -> {node.target}]({print_expr(node.value)})"
            before = f" and {', '.join(node.before)}" if node.before else ""
            place = f" with {print_expr(node.place)}"
            return f"{', '.join(node.names)} = {found}{place}{_where(node.conditions)}{before}"
        case Store(tensor, index, e, present):
            return f"store {_element(tensor, index)} = {print_expr(e)}{_where(present)}"
        case For() | Seq():
            raise AssertionError("a loop is more than a line")


def _loop(loop: For | Seq, indent: str) -> Iterator[str]:
    start = [f"{c.name}[{','.join(c.axes)}] = {print_expr(c.init)}" for c in loop.carries]
    yield from _listed(f"{indent}carry ", start)
    inner = indent + INDENT
    match loop:
        case For():
            tiles = f"tiles of {loop.tile}" + f" and {loop.part}" * (loop.part != loop.tile)
            head = f"{indent}for {loop.place.rank} in {tiles}{_where(_shown(loop))}"
            if loop.lists:
                yield f"{head},"
                head = f"{inner}{INDENT}listed in {' and '.join(map(_list, loop.lists))}"
            yield f"{head}:"
            yield f"{inner}at {_place(loop.place)}"
        case Seq():
            yield f"{indent}for {loop.scalar} = 0 .. {print_expr(loop.count)} - 1, in order:"
            yield from _places(loop.places, inner)
    yield from _nodes(loop.body, inner)
    yield from _listed(f"{inner}next ", [f"{c.name} = {c.next}" for c in loop.carries if _moves(c)])


def _list(found: TileList) -> str:
    return _element(found.tiles, found.index)


def _moves(c: Carry) -> bool:
    return c.name != c.next


def _shown(loop: For) -> tuple[Expr, ...]:
    """The predicate without the end of the rank, which the place says."""
    end = Map("<", (Coordinate(loop.place.rank), loop.place.extent))
    return tuple(c for c in loop.predicate if c != end)


def _where(conditions: tuple[Expr, ...]) -> str:
    if len(conditions) < 2:
        return "".join(f" where {print_expr(c)}" for c in conditions)
    return f" where {' and '.join(_conjunct(c) for c in conditions)}"


def _conjunct(e: Expr) -> str:
    return text.paren(spell(e), spell(Map("and", (e, e))).precedence)


def _factor(e: Expr) -> str:
    return text.paren(spell(e), spell(Map("*", (e, e))).precedence)


def _operand(e: Expr) -> str:
    """An expression on the right of a comparison."""
    return text.paren(spell(e), spell(Map("<", (e, e))).precedence + 1)


def _element(tensor: str, index: tuple[Expr, ...]) -> str:
    return f"{tensor}[{','.join(text.tight(print_expr(i)) for i in index)}]" if index else tensor


def _listed(head: str, parts: Iterable[str], always: bool = False) -> Iterator[str]:
    """Items after a head, on as many lines as they need."""
    items = list(parts)
    if not items:
        if always:
            yield head
        return
    line, first = head, True
    for item in [*(f"{i}," for i in items[:-1]), items[-1]]:
        if not first and len(line) + 1 + len(item) > WIDTH:
            yield line
            line, first = " " * len(head), True
        line += item if first else f" {item}"
        first = False
    yield line
