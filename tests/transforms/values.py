"""A cascade point by point in another arithmetic: float32, with every intermediate result rounded,
or mpmath, with as many digits as it takes. Absent points are None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any

import mpmath
import numpy as np

from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Symbol, Where
from cascade.ir.extents import bind
from cascade.ir.ops import DECIDING
from cascade.ir.walk import conjuncts, free_ranks, substitute

Place = tuple[int, ...]
Maps = Mapping[str, Callable[..., Any]]

COMMON: dict[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "neg": lambda a: -a,
    "max": max,
    "min": min,
    "abs": abs,
    "relu": lambda a: a if a > 0 else 0 * a,
    "clamp": lambda a, low, high: min(max(a, low), high),
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
}


def _divided(a: Any, b: Any) -> Any:
    if b:
        return a / b
    return mpmath.nan if a == 0 or mpmath.isnan(a) else mpmath.inf * a


def _power(a: Any, b: Any) -> Any:
    return _divided(1, a**-b) if b < 0 else a**b


def _exp(a: Any) -> Any:
    """exp; beyond 10^(10^6) it is infinite, since mpmath would compute every digit."""
    if abs(a) > 10**6:
        return mpmath.inf if a > 0 else mpmath.mpf(0)
    return mpmath.exp(a)


EXACT: Maps = {
    **COMMON,
    "/": _divided,
    "**": _power,
    "exp": _exp,
    "log": lambda a: mpmath.log(a) if a > 0 else -mpmath.inf if a == 0 else mpmath.nan,
    "sqrt": lambda a: mpmath.sqrt(a) if a >= 0 else mpmath.nan,
    "rsqrt": lambda a: _divided(1, mpmath.sqrt(a)) if a >= 0 else mpmath.nan,
    "sigmoid": lambda a: 1 / (1 + mpmath.exp(-a)),
    "tanh": mpmath.tanh,
}

SINGLE: Maps = {
    **COMMON,
    "/": lambda a, b: np.float32(a) / np.float32(b),
    "**": lambda a, b: a**b,
    "exp": lambda a: np.exp(np.float32(a)),
}


class Values:
    """Values of tensors on demand. `number` takes a real into the arithmetic."""

    def __init__(
        self,
        c: Cascade,
        inputs: Mapping[str, Any],
        settings: Mapping[str, Any],
        maps: Maps,
        number: Callable[[Any], Any],
    ):
        self.cascade, self.maps, self.number = c, maps, number
        self.inputs = {n: np.asarray(a) for n, a in inputs.items()}
        self.bindings = bind(c, {n: a.shape for n, a in self.inputs.items()}, settings)
        self.known: dict[tuple[str, Place], Any] = {}
        self.asked: dict[Expr, tuple[Expr, ...]] = {}
        self.slots = {e.tensor: e.step for e in c.einsums}

    def at(self, tensor: str, place: Place) -> Any:
        if tensor in self.inputs:
            array = self.inputs[tensor]
            if not all(0 <= i < n for i, n in zip(place, array.shape, strict=True)):
                return None
            return self._taken(array[place].item() if array.dtype != np.float32 else array[place])
        key = tensor, place
        if key not in self.known:
            slot = self.slots[tensor]
            for start in range(place[slot]) if slot is not None else ():  # keeps recursion shallow
                earlier = tuple(start if n == slot else i for n, i in enumerate(place))
                if (tensor, earlier) not in self.known:
                    self.known[tensor, earlier] = self._defined(tensor, earlier)
            self.known[key] = self._defined(tensor, place)
        return self.known[key]

    def _taken(self, value: Any) -> Any:
        return value if isinstance(value, bool | int) else self.number(value)

    def _defined(self, tensor: str, place: Place) -> Any:
        for e in self.cascade.einsums:
            if e.tensor == tensor and (e.step is None or e.init == (place[e.step] == 0)):
                at = list(place)
                if e.step is not None and not e.init:
                    at[e.step] -= 1
                return self.of(e.body, dict(zip(e.ranks, at, strict=True)))
        raise AssertionError(tensor)

    def of(self, e: Expr, at: Mapping[str, int]) -> Any:
        match e:
            case Const(value):
                return self._taken(value)
            case Coordinate(rank):
                if rank in at:
                    return at[rank]
                whole = next(p for p in self.cascade.partitions if p.rank == rank)
                return self.of(whole.expression, at)
            case Symbol(name):
                return self._taken(self.bindings.values[name])
            case Read(tensor, index):
                places = [self.of(i, at) for i in index]
                return None if None in places else self.at(tensor, tuple(int(i) for i in places))
            case Where(body, condition):
                return self.of(body, at) if self.of(condition, at) else None
            case Reduce(op, ranks, body):
                passing = [c for c in self._asked(body) if not set(free_ranks(c)) & set(ranks)]
                if not all(self.of(c, at) for c in passing):
                    return None
                return self._reduced(op, [self.of(body, p) for p in self._points(ranks, at)])
            case Map("select", (condition, yes, no)):
                chosen = self.of(condition, at)
                return None if chosen is None else self.of(yes if chosen else no, at)
            case Map("??", (value, other)):
                found = self.of(value, at)
                return found if found is not None else self.of(other, at)
            case Map(op, args):
                values = [self.of(a, at) for a in args]
                return None if any(v is None for v in values) else self.maps[op](*values)
            case _:
                raise AssertionError(e)

    def _asked(self, e: Expr) -> tuple[Expr, ...]:
        """Conditions without which an expression is absent at every point, those of the statements
        that it reads included.
        """
        if e not in self.asked:
            self.asked[e] = tuple(self._conditions(e))
        return self.asked[e]

    def _conditions(self, e: Expr) -> Iterator[Expr]:
        match e:
            case Where(body, condition):
                yield from (*conjuncts(condition), *self._asked(body))
            case Read(tensor, index):
                made = [x for x in self.cascade.einsums if x.tensor == tensor]
                if len(made) == 1 and made[0].step is None:
                    places = dict(zip(made[0].ranks, index, strict=True))
                    yield from (substitute(c, places) for c in self._asked(made[0].body))
            case Reduce(_, ranks, body):
                yield from (c for c in self._asked(body) if not set(free_ranks(c)) & set(ranks))
            case Map(op, args) if op not in DECIDING:
                yield from (c for a in args for c in self._asked(a))

    def _points(self, ranks: tuple[str, ...], at: Mapping[str, int]) -> Iterable[dict[str, int]]:
        extents = [range(self.bindings.extents[r]) for r in ranks]
        tails = [p for p in self.cascade.partitions if set(p.parts) & set(ranks)]
        for place in product(*extents):
            point = {**at, **dict(zip(ranks, place, strict=True))}
            inside = (
                self.of(p.expression, point) < self.bindings.extents[p.rank]
                for p in tails
                if set(p.parts) <= set(point)
            )
            if all(inside):
                yield point

    def _reduced(self, op: str, values: list[Any]) -> Any:
        values = [v for v in values if v is not None]
        if op == "count":
            return sum(v is not False for v in values)
        if op == "any":
            return any(values)
        if op == "sum":
            total = self.number(0)
            if isinstance(total, np.float32):
                return np.sum(np.array(values, np.float32), dtype=np.float32)
            return sum(values, total)
        lowest = self.number(math.inf if op == "min" else -math.inf)
        if any(v != v for v in values):
            return self.number(math.nan)
        return (min if op == "min" else max)([*values, lowest])
