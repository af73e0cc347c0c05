"""A cascade statement by statement in float32, every intermediate result rounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np

from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Symbol, Where
from cascade.ir.extents import bind

Place = tuple[int, ...]

MAPS: dict[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: np.float32(a) / np.float32(b),
    "//": lambda a, b: a // b,
    "neg": lambda a: -a,
    "**": lambda a, b: a**b,
    "max": max,
    "min": min,
    "exp": lambda a: np.exp(np.float32(a)),
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "and": lambda a, b: a and b,
}


class Single:
    """Values of tensors on demand. Absent points are None."""

    def __init__(self, c: Cascade, inputs: Mapping[str, Any], settings: Mapping[str, Any]):
        self.cascade = c
        self.inputs = {n: np.asarray(a, np.float32) for n, a in inputs.items()}
        self.bindings = bind(c, {n: a.shape for n, a in self.inputs.items()}, settings)
        self.known: dict[tuple[str, Place], Any] = {}
        self.slots = {e.tensor: e.step for e in c.einsums}

    def at(self, tensor: str, place: Place) -> Any:
        if tensor in self.inputs:
            inside = all(0 <= i < n for i, n in zip(place, self.inputs[tensor].shape, strict=True))
            return self.inputs[tensor][place] if inside else None
        key = tensor, place
        if key not in self.known:
            slot = self.slots[tensor]
            for start in range(place[slot]) if slot is not None else ():  # keeps recursion shallow
                earlier = (*place[:slot], start, *place[slot + 1 :])  # type: ignore[misc, operator]
                if (tensor, earlier) not in self.known:
                    self.known[tensor, earlier] = self._defined(tensor, earlier)
            self.known[key] = self._defined(tensor, place)
        return self.known[key]

    def _defined(self, tensor: str, place: Place) -> Any:
        for e in self.cascade.einsums:
            if e.tensor != tensor:
                continue
            at = list(place)
            if e.step is not None:
                if e.init != (place[e.step] == 0):
                    continue
                at[e.step] -= 0 if e.init else 1
            value = self.of(e.body, dict(zip(e.ranks, at, strict=True)))
            return np.float32(value) if isinstance(value, float) else value
        raise AssertionError(tensor)

    def of(self, e: Expr, at: dict[str, int]) -> Any:
        match e:
            case Const(value):
                return np.float32(value) if isinstance(value, float) else value
            case Coordinate(rank):
                return at[rank]
            case Symbol(name):
                known = self.bindings.values[name]
                return np.float32(known) if isinstance(known, float) else known
            case Read(tensor, index):
                return self.at(tensor, tuple(int(self.of(i, at)) for i in index))
            case Where(body, condition):
                return self.of(body, at) if self.of(condition, at) else None
            case Reduce(op, ranks, body):
                extents = [range(self.bindings.extents[r]) for r in ranks]
                points = [
                    self.of(body, at | dict(zip(ranks, p, strict=True))) for p in product(*extents)
                ]
                return _reduced(op, [p for p in points if p is not None])
            case Map("select", (condition, yes, no)):
                return self.of(yes if self.of(condition, at) else no, at)
            case Map("??", (value, other)):
                found = self.of(value, at)
                return found if found is not None else self.of(other, at)
            case Map(op, args):
                values = [self.of(a, at) for a in args]
                return None if None in [v if v is None else 0 for v in values] else MAPS[op](*values)
            case _:
                raise AssertionError(e)


def _reduced(op: str, values: list[Any]) -> Any:
    if op == "count":
        return len(values)
    if op == "sum":
        return np.sum(np.array(values, np.float32), dtype=np.float32)
    return max(values, default=np.float32(-math.inf))
