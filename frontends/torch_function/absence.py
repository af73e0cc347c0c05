"""What PyTorch has where a traced value is absent.

Scores that are set to minus infinity are absent, and so are the weights made of them, which are 0
in PyTorch. Each operation either is absent for a reason, with a number that it stands for, or is
given that number (`filled`): `exp` of an absent score stands for 0, and 1 more than it is 1.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cascade.frontends.torch_function.traced import Graph, Traced
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.walk import conjuncts, free_ranks

LOW = -math.inf


@dataclass(frozen=True)
class Absence:
    """The number that an absent point stands for, and the conditions that make it present."""

    value: float
    conditions: frozenset[Expr]


DROPPED = {"sum": 0.0, "max": LOW, "argmax": LOW}  # what a reduction may leave out
SELECTED = {"top": LOW, "argtop": -1.0}
NUMBERS: dict[str, Callable[..., float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
    "neg": operator.neg,
    "max": max,
    "min": min,
    "abs": abs,
    "exp": math.exp,
    "exp2": lambda x: 2.0**x,
    "log": lambda x: math.log(x) if x else LOW,
    "log2": lambda x: math.log2(x) if x else LOW,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)) if x > LOW else 0.0,
    "relu": lambda x: max(x, 0.0),
    "sign": lambda x: math.copysign(1.0, x) if x else 0.0,
}


def absence(graph: Graph, e: Expr) -> Absence | None:
    """None where the value is always there."""
    match e:
        case Const() | Coordinate() | Symbol():
            return None
        case Read():
            return _of_read(graph, e)
        case Where():
            inner = absence(graph, e.body)
            more = frozenset(conjuncts(e.condition))
            return Absence(LOW, more | inner.conditions if inner else more)
        case Reduce():
            return _of_reduction(graph, e)
        case Select():
            found = absence(graph, e.body)
            return found and Absence(SELECTED[e.op], frozenset({e}))
        case Map():
            parts = [absence(graph, a) for a in e.args]
            value = stand_in(e.op, e.args, parts)
            if value is None:
                return None
            if e.op in ("select", "??"):  # joined into one condition
                return Absence(value, frozenset({e}))
            return Absence(value, frozenset(c for p in parts if p for c in p.conditions))


def _of_read(graph: Graph, e: Read) -> Absence | None:
    """That of the statement, at the index."""
    if e.tensor not in graph.absences:
        found = next((s for s in graph.einsums if s.tensor == e.tensor), None)
        graph.absences[e.tensor] = found and absence(graph, found.body)
    known: Absence | None = graph.absences[e.tensor]
    if known is None:
        return None
    ranks = next(s.ranks for s in graph.einsums if s.tensor == e.tensor)
    at = dict(zip(ranks, e.index, strict=True))
    return Absence(known.value, frozenset(graph.put(c, at) for c in known.conditions))


def _of_reduction(graph: Graph, e: Reduce) -> Absence | None:
    """A condition on the rank that is reduced drops points; another one passes through."""
    found = absence(graph, e.body)
    if found is None:
        return None
    if e.op == "argmax":
        return Absence(0.0, frozenset({e}))
    left = [c for c in found.conditions if not set(e.ranks) & set(free_ranks(c))]
    return Absence(DROPPED.get(e.op, 0.0), frozenset(left)) if left else None


def stand_in(op: str, args: Sequence[Expr], parts: Sequence[Absence | None]) -> float | None:
    """What a map stands for where an operand is absent; NaN where there is no such number.

    None where the map is always present.
    """
    some = [p for p in parts if p is not None]
    if op == "??":
        return parts[1].value if parts[1] else None
    if not some:
        return None
    values = {p.value for p in some}
    if op == "select":
        return values.pop() if len(values) == 1 and parts[0] is None else math.nan
    if op == "*" and values == {0.0}:
        return 0.0
    if op == "+" and values == {LOW}:
        return LOW
    if op in ("-", "/") and parts[0] and _follows(parts[1], parts[0]):
        if parts[0].value == (LOW if op == "-" else 0.0):
            return parts[0].value
    if op in ("*", "/") and values == {LOW} and len(some) == 1 and (op == "*" or parts[0]):
        if all(p is not None or positive(a) for a, p in zip(args, parts, strict=True)):
            return LOW
    return _number(op, args, parts)


def _number(op: str, args: Sequence[Expr], parts: Sequence[Absence | None]) -> float:
    """The map of numbers, where one operand is absent and the others are constants."""
    known = []
    for a, p in zip(args, parts, strict=True):
        if p is not None:
            known.append(p.value)
        elif isinstance(a, Const):
            known.append(float(a.value))
    one = sum(p is not None for p in parts) == 1
    if op not in NUMBERS or len(known) < len(args) or not one:
        return math.nan
    try:
        return float(NUMBERS[op](*known))
    except (ValueError, ZeroDivisionError, OverflowError, TypeError):
        return math.nan


def _follows(second: Absence | None, first: Absence) -> bool:
    """Whether the second is absent only where the first is: the sum of a row that has no points."""
    return second is None or second.conditions <= first.conditions


def positive(e: Expr) -> bool:
    """Whether a number is positive, as sizes and what is made of them are."""
    match e:
        case Const():
            return e.value > 0
        case Symbol():
            return True
        case Map("**", args):
            return positive(args[0])
        case Map(op, args):
            made = op in ("+", "*", "/", "sqrt") and all(positive(a) for a in args)
            return made or op in ("exp", "sigmoid")
    return False


def filled(x: Traced, allowed: float | None = None) -> Traced:
    """The value with numbers where it is absent, unless they are the one that is allowed."""
    found = absence(x.graph, x.expr)
    if found is None or found.value == allowed:
        return x
    assert not math.isnan(found.value), x.expr
    number = int(found.value) if x.kind == "int" else found.value
    return Traced(x.graph, Map("??", (x.expr, Const(number))), x.dims, x.kind)
