"""What tiles hold at lanes that do not exist, so that only those that need it are masked again.

A lane does not exist where a place is past its extent, or where an axis has more lanes than its
size. A load gives 0 there, a mask its fill; what follows from these is followed through pointwise
operations: `exp(masked - top)` is 0 where `masked` is -inf. Numbers that do not vary along the
lanes in question are those of a row that exists, and are taken to be finite: where they are not,
the row is NaN by its other lanes as well, if it has any.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cascade.backends.spelling import MAPS
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read
from cascade.schedule.program import Contract, Fold, Let, Load, Mask, Node, Pick, Place

if TYPE_CHECKING:
    from cascade.backends.triton.writer import Writer

Held = dict[str, float]  # by the rank of a place: the value where that place is past its extent


def note(w: Writer, node: Node) -> None:
    """Remember what the tile of a node holds at lanes that do not exist."""
    match node:
        case Load(name):
            w.held[name] = {p.rank: 0.0 for p in w.missing(w.tiles[name].axes)}
        case Mask(name, value, conditions, fill):
            places = w.missing(w.tiles[name].axes)
            found = {p.rank: held(w, value, p) for p in places}
            for p in places:
                if Map("<", (Coordinate(p.rank), p.extent)) in conditions:
                    found[p.rank] = float(fill.value)
                elif found[p.rank] != float(fill.value):
                    found[p.rank] = None
            w.held[name] = {r: v for r, v in found.items() if v is not None}
        case Let(name, value):
            if not w.tiles[name].axes:
                w.numbers[name] = value
            found = {p.rank: held(w, value, p) for p in w.missing(w.tiles[name].axes)}
            w.held[name] = {r: v for r, v in found.items() if v is not None}
        case Contract(name, factors):
            places = w.missing(w.tiles[name].axes)
            product = Map("*", factors) if len(factors) > 1 else factors[0]
            found = {p.rank: held(w, product, p) for p in places}
            w.held[name] = {r: 0.0 for r, v in found.items() if v == 0}
        case Fold(name) | Pick(name):
            w.held[name] = {}
        case _:
            pass


def held(w: Writer, e: Expr, place: Place) -> float | None:
    """The value of an expression where a place is past its extent; None where that is not known."""
    match e:
        case Const(value):
            return float(value)
        case Read(name, ()):
            return w.held.get(name, {}).get(place.rank)
        case Map("<", (Coordinate(rank), extent)) if (rank, extent) == (place.rank, place.extent):
            return 0.0
        case Map(op, args):
            return _map(w, op, args, place)
        case _:
            return None


def _map(w: Writer, op: str, args: tuple[Expr, ...], place: Place) -> float | None:
    values = [held(w, a, place) for a in args]
    match op, values:
        case "*", _ if 0.0 in values and all(_is_tame(w, a, place) for a in args):
            return 0.0
        case "*", [x, None] if x == -math.inf and _is_positive(w, args[1]):
            return x
        case "/", [0.0, None] if not w.varies(args[1], place):
            return 0.0
        case "-", [x, None] if x == -math.inf:
            return x
        case "+", _ if -math.inf in values and math.inf not in values:
            return -math.inf
        case "and", _ if 0.0 in values:
            return 0.0
        case "select", [None, x, y]:
            return x if x == y else None
        case "select", [c, x, y]:
            return x if c else y
    if any(v is None for v in values) or op == "select":
        return None
    try:
        with np.errstate(all="ignore"):
            return float(MAPS[op](*values))
    except (ArithmeticError, ValueError, KeyError, TypeError):
        return None


def _is_positive(w: Writer, e: Expr) -> bool:
    number = w.numbers.get(e.tensor) if isinstance(e, Read) else None
    return number is not None and w.signs.positive(number)


def _is_tame(w: Writer, e: Expr, place: Place) -> bool:
    """Whether an expression is finite where a place is past its extent."""
    value = held(w, e, place)
    if value is not None:
        return math.isfinite(value)
    return not w.varies(e, place) and not w.is_empty(place)
