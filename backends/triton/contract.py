"""Contractions: a matrix product where the factors fall into two operands, else a product and sums.

Factors without a summed axis multiply the result. An operand that is a tile of a tensor keeps its
type; a computed one takes the type of the tile that it meets, so that 16-bit inputs meet on the
matrix units, with float32 sums. What another kernel computed and left in float32 counts as computed
here: matrix units take no float32 whole. Tiles of 8 bits take the type of the other operand as
well: a computed operand would lose too much in theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite

from cascade.backends.triton.layout import grouped
from cascade.backends.triton.missing import held
from cascade.backends.triton.writer import (
    COMPUTED,
    DOT_LEAST,
    LONG,
    Axes,
    Code,
    Writer,
    fitting,
    ident,
)
from cascade.ir.expr import Const, Expr, Map, Read
from cascade.ir.kinds import EIGHT_BITS, is_wide_real
from cascade.schedule.facts import tile_axes
from cascade.schedule.operands import operands
from cascade.schedule.program import Contract, Load, Place, inside, lane

Masks = dict[Expr, list[Place]]  # factors, and the places past whose extents they are made 0


@dataclass
class Operand:
    """Factors of one side of a matrix product, and the axes that they have together."""

    axes: Axes
    factors: list[Expr]
    masks: Masks = field(default_factory=dict)


def contract(w: Writer, node: Contract) -> None:
    summed = set(node.axes)
    inside = [f for f in node.factors if summed & set(w.code(f).axes)]
    outside = [f for f in node.factors if f not in inside]
    inside += _uncovered(w, node, inside)
    masks = masks_of(w, inside, node.axes)
    whole = all(w.code(f).kind != "real" for f in inside)
    pair = _operands(w, inside, summed)
    if pair is not None:
        for operand in pair:
            operand.masks = masks
    if pair is not None and whole and len(node.axes) == 1:
        result = _exact(w, node, *pair)
    elif pair is not None and not whole:
        result = _dot(w, node, *pair)
    else:
        result = _sum(w, inside, node.axes, masks)
    for f in outside:
        code = w.code(f)
        axes = w.ordered({*code.axes, *result.axes})
        kind = "int" if result.kind != "real" != code.kind else "real"
        text = f"({w.spread(result, axes)} * {w.spread(code, axes)})"
        result = replace(result, text=text, axes=axes, kind=kind)
    text = f"t_{ident(node.name)}"
    w.assign(text, result.text)
    w.tiles[node.name] = replace(result, text=text)


def _uncovered(w: Writer, node: Contract, inside: list[Expr]) -> list[Expr]:
    """A factor 1 for each summed axis that no factor has: its lanes count."""
    covered = {a for f in inside for a in w.axes(f)}
    ones = (Map("+", (Map("*", (lane(a), Const(0))), Const(1))) for a in node.axes)
    return [one for a, one in zip(node.axes, ones, strict=True) if a not in covered]


def _operands(w: Writer, factors: list[Expr], summed: set[str]) -> tuple[Operand, Operand] | None:
    """Two operands that a matrix product takes; else None."""
    pair = operands([w.code(f).axes for f in factors], summed)
    if pair is None or _flat(w, tuple(summed)) < DOT_LEAST:
        return None
    a, b = (Operand(w.ordered(set(s.axes)), [factors[n] for n in s.factors]) for s in pair)
    own = [tuple(x for x in o.axes if x not in other.axes) for o, other in ((a, b), (b, a))]
    batched = set(a.axes) & set(b.axes) - summed
    if batched and min(_flat(w, axes) for axes in own) < DOT_LEAST:
        return None
    return (a, b) if w.ordered(set(own[0] + own[1]))[0] in own[0] else (b, a)


def _dot(w: Writer, node: Contract, a: Operand, b: Operand) -> Code:
    """The product of two matrices, or of a batch of them; axes of one side run as one."""
    summed = w.ordered(node.axes)
    batch = tuple(x for x in a.axes if x in b.axes and x not in summed)
    left = tuple(x for x in a.axes if x not in b.axes)
    right = tuple(x for x in b.axes if x not in a.axes)
    kept = _type(w, a, b)
    texts = []
    for operand, sides in ((a, (batch, left, summed)), (b, (batch, summed, right))):
        code = _product(w, operand, kept)
        text = permuted(code.text, code.axes, tuple(x for side in sides for x in side))
        texts.append(_with_sides(w, text, sides))
    axes = (*batch, *left, *right)
    text = f'tl.dot({texts[0]}, {texts[1]}, input_precision="ieee")'
    if any(len(side) > 1 for side in (batch, left, right)):
        text = f"tl.reshape({text}, {w.shape(axes)})"
    return Code(permuted(text, axes, w.ordered(axes)), w.ordered(axes))


def _exact(w: Writer, node: Contract, a: Operand, b: Operand) -> Code:
    """The product of two matrices of integers: one column and one row after another."""
    (summed,) = node.axes
    n, at = ident(node.name), w.code(lane(summed))
    axes = w.ordered({*a.axes, *b.axes} - {summed})
    parts = []
    for letter, operand in zip("ab", (a, b), strict=True):
        factors = [_wide(_factor(w, f, operand.masks)) for f in operand.factors]
        text = " * ".join(w.spread(f, operand.axes) for f in factors)
        own = Code(f"{letter}_{n}", operand.axes, "int", LONG, True)
        w.assign(own.text, text)
        here = f"{w.spread(at, own.axes)} == j_{n}"
        one = f"tl.sum(tl.where({here}, {own.text}, 0), {own.axes.index(summed)})"
        kept = tuple(x for x in own.axes if x != summed)
        parts.append(w.spread(Code(one, kept), axes))
    w.line(f"s_{n} = tl.zeros({w.shape(axes)}, tl.int64)")
    w.line(f"for j_{n} in range(0, {w.sizes[summed]}):")
    w.line(f"    s_{n} += {parts[0]} * {parts[1]}")
    return Code(f"s_{n}", axes, "int", LONG, True)


def _wide(p: Code) -> Code:
    return fitting(replace(p, kind="int"), LONG)


def _with_sides(w: Writer, text: str, sides: tuple[Axes, ...]) -> str:
    """A tile with one dimension for each side; a batch is left out where there is none."""
    if all(len(side) == 1 for side in sides[1:]) and len(sides[0]) <= 1:
        return text
    sizes = [str(_flat(w, side)) for side in sides[0 if sides[0] else 1 :]]
    return f"tl.reshape({text}, [{', '.join(sizes)}])"


def permuted(text: str, axes: Axes, order: Axes) -> str:
    """The text of a tile with its axes in another order."""
    if axes == order:
        return text
    if len(axes) == 2:
        return f"tl.trans({text})"
    return f"tl.permute({text}, {tuple(axes.index(a) for a in order)})"


def _flat(w: Writer, axes: Axes) -> int:
    size = 1
    for a in axes:
        size *= w.sizes[a]
    return size


def _type(w: Writer, a: Operand, b: Operand) -> str:
    """The type in which two operands meet: that of a tile of a tensor, if one of them is."""
    for operand in (b, a):
        name = _tile(w, operand)
        if name is not None and _has_own_type(w, name):
            return f"{w.tiles[name].text}.dtype"
    for operand in (b, a):
        for f in operand.factors:
            name = _wide_tile(w, f)
            if name is not None and w.axes(f) == operand.axes:
                return f"{w.tiles[name].text}.dtype"
    return _usual_type(w)


def _wide_tile(w: Writer, f: Expr) -> str | None:
    """The tile that a factor is, if it is of a tensor of more than 8 bits as it was loaded."""
    name = f.tensor if isinstance(f, Read) else ""
    return name if name in w.loaded and _has_own_type(w, name) else None


def _has_own_type(w: Writer, name: str) -> bool:
    """Whether other operands take the type of a tile that was loaded."""
    return w.loaded[name] not in (*EIGHT_BITS, COMPUTED)


def _usual_type(w: Writer) -> str:
    """The type of the first real input that the kernel loads: that of two computed operands.

    Numbers of 8 bits are operands in another type: in that of an input that is an operand itself
    (a scale beside them may be wider than it need be), else in bfloat16, which holds them exactly.
    """
    loads = [n for n in inside(w.kernel.body) if isinstance(n, Load)]
    inputs = [n for n in loads if w.program.buffer[n.tensor].kind == "in"]
    operands = [n for n in inputs if n.name in _operand_tiles(w)]
    narrow = any(_dtype(w, n) in EIGHT_BITS for n in operands)
    for node in operands if narrow else inputs:
        if is_wide_real(_dtype(w, node)):
            return f"{ident(node.tensor)}_ptr.dtype.element_ty"
    return "tl.bfloat16" if narrow else "tl.float32"


def _dtype(w: Writer, node: Load) -> str:
    return w.program.buffer[node.tensor].dtype


def _operand_tiles(w: Writer) -> set[str]:
    """Tiles of two axes or more that contractions of the kernel multiply."""
    axes = tile_axes(w.kernel)
    return {
        f.tensor
        for node in inside(w.kernel.body)
        if isinstance(node, Contract)
        for f in node.factors
        if isinstance(f, Read) and len(axes.get(f.tensor, ())) > 1
    }


def _tile(w: Writer, operand: Operand) -> str | None:
    """The tile that an operand is as it was loaded."""
    if len(operand.factors) != 1:
        return None
    (f,) = operand.factors
    if f in operand.masks:
        return None
    return f.tensor if isinstance(f, Read) and f.tensor in w.loaded else None


def _product(w: Writer, operand: Operand, kept: str) -> Code:
    name = _tile(w, operand)
    if name is not None:
        code = w.tiles[name]
        own = f"{code.text}.dtype"
        return code if own == kept or not kept else Code(f"{code.text}.to({kept})", code.axes)
    parts = [_factor(w, f, operand.masks) for f in operand.factors]
    text = w.spread(parts[0], operand.axes)
    for p in parts[1:]:
        text = f"{text} * {w.spread(p, operand.axes)}"
    code = Code(grouped(text), operand.axes)
    return Code(f"{code.text}.to({kept})", code.axes) if kept else code


# -- lanes that do not exist add 0
def masks_of(w: Writer, factors: list[Expr], axes: Axes) -> Masks:
    """The places at which factors must be masked: all are finite there then, and one is 0."""
    found: Masks = {}
    for place in w.missing(axes):
        those = [f for f in factors if w.varies(f, place)]
        values = {f: held(w, f, place) for f in those}
        masked = [f for f, v in values.items() if v is None or not isfinite(v)]
        if not masked and 0.0 not in values.values():
            masked = sorted(those, key=lambda f: len(w.axes(f)))[:1]
        for f in masked:
            found.setdefault(f, []).append(place)
    return found


def _factor(w: Writer, f: Expr, masks: Masks) -> Code:
    code = w.code(f)
    if f not in masks:
        return code
    tests = w.tests(masks[f])
    axes = w.ordered({*code.axes, *(a for t in tests for a in t.axes)})
    zero = "0.0" if code.kind == "real" else "0"
    text = f"tl.where({w.together(tests, axes)}, {w.spread(code, axes)}, {zero})"
    return replace(code, text=text, axes=axes, kind="real" if code.kind == "real" else "int")


def _sum(w: Writer, factors: list[Expr], axes: Axes, masks: Masks) -> Code:
    """The product over all axes, then sums from the last."""
    parts = [_factor(w, f, masks) for f in factors]
    exact = all(p.kind != "real" for p in parts)
    if exact:
        parts = [_wide(p) for p in parts]
    whole = w.ordered({*axes, *(a for p in parts for a in p.axes)})
    text = " * ".join(w.spread(p, whole) for p in parts)
    code = Code(f"({text})", w.ordered({a for p in parts for a in p.axes}))
    if exact:
        code = replace(code, kind="int", bits=LONG, wide=True)
    text = w.full(code, whole)
    for a in reversed(w.ordered(axes)):
        text = f"tl.sum({text}, {whole.index(a)})"
        whole = tuple(x for x in whole if x != a)
    return replace(code, text=text, axes=whole)
