"""Contractions: a matrix product where the factors fall into two operands, else a product and sums.

Factors without a summed axis multiply the result. An operand that is a tile of a tensor keeps its
type; a computed one takes the type of the tile that it meets, so that 16-bit inputs meet on the
matrix units, with float32 sums.
"""

from __future__ import annotations

from dataclasses import dataclass

from cascade.backends.triton.writer import DOT_LEAST, Axes, Code, Writer, ident
from cascade.ir.expr import Expr, Read
from cascade.schedule.program import Contract


@dataclass
class Operand:
    """Factors whose axes nest: one side of a matrix product."""

    axes: Axes
    factors: list[Expr]


def contract(w: Writer, node: Contract) -> None:
    summed = set(node.axes)
    inside = [f for f in node.factors if summed & set(w.code(f).axes)]
    outside = [f for f in node.factors if f not in inside]
    pair = _operands(w, inside, summed)
    result = _dot(w, node, *pair) if pair is not None else _sum(w, inside, node.axes)
    for f in outside:
        code = w.code(f)
        axes = w.ordered({*code.axes, *result.axes})
        result = Code(f"({w.spread(result, axes)} * {w.spread(code, axes)})", axes)
    text = f"t_{ident(node.name)}"
    w.line(f"{text} = {result.text}")
    w.tiles[node.name] = Code(text, result.axes)


def _operands(w: Writer, factors: list[Expr], summed: set[str]) -> tuple[Operand, Operand] | None:
    """Two operands with one axis each of their own, and one that is summed; else None."""
    if len(summed) != 1:
        return None
    found: list[Operand] = []
    for f in sorted(factors, key=lambda f: -len(w.code(f).axes)):
        axes = w.code(f).axes
        host = next((o for o in reversed(found) if set(axes) <= set(o.axes)), None)
        if host is None:
            found.append(Operand(axes, [f]))
        else:
            host.factors.append(f)
    if len(found) != 2:
        return None
    a, b = found
    own = [set(o.axes) - summed for o in found]
    if any(len(x) != 1 for x in own) or own[0] == own[1]:
        return None
    if not all(summed <= set(o.axes) for o in found):
        return None
    (axis,) = summed
    if w.sizes[axis] < DOT_LEAST:
        return None
    first = w.ordered(own[0] | own[1])[0]
    return (a, b) if first in own[0] else (b, a)


def _dot(w: Writer, node: Contract, a: Operand, b: Operand) -> Code:
    (axis,) = node.axes
    left = next(x for x in a.axes if x != axis)
    right = next(x for x in b.axes if x != axis)
    kept = _type(w, a, b)
    texts = []
    for operand, order in ((a, (left, axis)), (b, (axis, right))):
        code = _product(w, operand, kept, (axis,))
        text = code.text
        if code.axes != order:
            text = f"tl.trans({text})"
        texts.append(text)
    precision = ', input_precision="ieee"'
    return Code(f"tl.dot({texts[0]}, {texts[1]}{precision})", (left, right))


def _type(w: Writer, a: Operand, b: Operand) -> str:
    """The type in which two operands meet: that of a tile of a tensor, if one of them is."""
    for operand in (b, a):
        name = _tile(w, operand)
        if name is not None:
            return f"{w.tiles[name].text}.dtype"
    for operand in (b, a):
        for f in operand.factors:
            if isinstance(f, Read) and f.tensor in w.loaded:
                return f"{w.tiles[f.tensor].text}.dtype"
    return ""


def _tile(w: Writer, operand: Operand) -> str | None:
    """The tile that an operand is as it was loaded."""
    if len(operand.factors) != 1:
        return None
    (f,) = operand.factors
    return f.tensor if isinstance(f, Read) and f.tensor in w.loaded else None


def _product(w: Writer, operand: Operand, kept: str, along: Axes) -> Code:
    name = _tile(w, operand)
    if name is not None:
        code = w.tiles[name]
        own = f"{code.text}.dtype"
        return code if own == kept or not kept else Code(f"{code.text}.to({kept})", code.axes)
    parts = [w.code(f) for f in operand.factors]
    text = w.spread(parts[0], operand.axes)
    for p in parts[1:]:
        text = f"{text} * {w.spread(p, operand.axes)}"
    code = Code(f"({text})", operand.axes)
    code = _zeroed(w, operand, code, along)
    return Code(f"{code.text}.to({kept})", code.axes) if kept else code


def _zeroed(w: Writer, operand: Operand, code: Code, along: Axes) -> Code:
    """A computed operand is 0 at lanes that do not exist; a loaded one is already."""
    from cascade.backends.triton.nodes import neutral

    free = tuple(a for a in along if a not in w.streams)
    if any(isinstance(f, Read) and f.tensor in w.loaded for f in operand.factors):
        return code
    return neutral(w, code, free, "0.0")


def _sum(w: Writer, factors: list[Expr], axes: Axes) -> Code:
    """The product over all axes, then sums from the last."""
    parts = [w.code(f) for f in factors]
    whole = w.ordered({a for p in parts for a in p.axes})
    text = " * ".join(w.spread(p, whole) for p in parts)
    operand = Operand(whole, list(factors))
    code = _zeroed(w, operand, Code(f"({text})", whole), tuple(axes))
    text = code.text
    for a in reversed(w.ordered(axes)):
        text = f"tl.sum({text}, {whole.index(a)})"
        whole = tuple(x for x in whole if x != a)
    return Code(text, whole)
