"""Sums of products: two factors at a time, as a matrix product wherever that is what it is."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from cascade.backends.tiled.scope import Scope
from cascade.backends.tiled.spell import FOLDS
from cascade.backends.tiled.tape import BOOL, INT, Array, Value, constant
from cascade.ir.kinds import LEAST, MOST
from cascade.schedule.program import Contract, Fold


def contract(scope: Scope, node: Contract) -> Value:
    values = [scope.value(f) for f in node.factors]
    dtype = scope.real if any(v.dtype == scope.real for v in values) else INT
    factors = [scope.cast(v, dtype) for v in values]
    missing = [a for a in node.axes if all(a not in f.axes for f in factors)]
    if missing:
        times = math.prod(scope.lengths[a] for a in missing)
        factors.append(constant(times, dtype))
    while len(factors) > 1:
        i, j = min(
            combinations(range(len(factors)), 2),
            key=lambda pair: _cost(scope, factors[pair[0]], factors[pair[1]]),
        )
        others = [f for n, f in enumerate(factors) if n not in (i, j)]
        kept = {a for f in others for a in f.axes}
        gone = tuple(a for a in node.axes if a not in kept)
        factors = [*others, _product(scope, factors[i], factors[j], gone)]
    rest = tuple(a for a in node.axes if a in factors[0].axes)
    return _sum(scope, factors[0], rest)


def _cost(scope: Scope, a: Value, b: Value) -> tuple[int, int]:
    """A factor with some of the axes of another goes into it; then the smallest product."""
    union = {*a.axes, *b.axes}
    size = math.prod(scope.lengths[x] for x in union)
    return (size, len(union))


def _product(scope: Scope, a: Value, b: Value, gone: tuple[str, ...]) -> Value:
    """The product of two factors, summed over the axes that nothing else has."""
    a = _sum(scope, a, tuple(x for x in gone if x in a.axes and x not in b.axes))
    b = _sum(scope, b, tuple(x for x in gone if x in b.axes and x not in a.axes))
    inner = tuple(x for x in gone if x in a.axes and x in b.axes)
    rows = tuple(x for x in a.axes if x not in b.axes)
    columns = tuple(x for x in b.axes if x not in a.axes)
    if not inner:
        return scope.pointwise(np.multiply, [a, b], a.dtype)
    if not rows and not columns and len(inner) < len(a.axes):
        return _sum(scope, scope.pointwise(np.multiply, [a, b], a.dtype), inner)
    return _matmul(scope, a, b, inner)


def _matmul(scope: Scope, a: Value, b: Value, inner: tuple[str, ...]) -> Value:
    batch = scope.sorted(tuple(x for x in a.axes if x in b.axes and x not in inner))
    rows = scope.sorted(tuple(x for x in a.axes if x not in b.axes))
    columns = scope.sorted(tuple(x for x in b.axes if x not in a.axes))
    if scope.sorted((*rows, *columns)) != (*rows, *columns):
        a, b, rows, columns = b, a, columns, rows
    left = _grouped(scope, a, (batch, rows, inner))
    right = _grouped(scope, b, (batch, inner, columns))
    shape = _sizes(scope, (batch, rows, columns))

    def function(x: Array, y: Array, out: Array) -> None:
        np.matmul(x, y, out=out.reshape(shape))

    axes = (*batch, *rows, *columns)
    like = scope.like(axes, left.dtype)
    direct = np.matmul if like[1] == shape else function
    return scope.tape.compute(direct, (left, right), like)


def _sizes(scope: Scope, groups: tuple[tuple[str, ...], ...]) -> tuple[int, ...]:
    """One extent for each group of axes; the first group only if it has any."""
    sizes = [math.prod(scope.lengths[a] for a in g) for g in groups]
    return tuple(sizes if groups[0] else sizes[1:])


def _grouped(scope: Scope, v: Value, groups: tuple[tuple[str, ...], ...]) -> Value:
    """A view, or a copy if it must be, in which each group of axes is one dimension."""
    axes = tuple(a for g in groups for a in g)
    shape = _sizes(scope, groups)
    if all(len(g) <= 1 for g in groups):
        v = scope.spread(v, axes)
        if v.shape == shape:
            return v
        return scope.tape.view(v, axes, shape, lambda x: x.reshape(shape))
    if v.axes != axes:
        v = scope.copy(scope.spread(v, axes))
    elif v.moving:
        v = scope.copy(v)
    return scope.tape.view(v, axes, shape, lambda x: x.reshape(shape))


def fold(scope: Scope, node: Fold) -> Value:
    value = scope.value(node.value)
    if node.op in ("any", "all"):
        value = scope.cast(value, BOOL)
    elif value.dtype == BOOL:
        value = scope.cast(value, INT)
    missing = [a for a in node.axes if a not in value.axes]
    if missing:
        value = scope.whole(value, scope.sorted({*value.axes, *missing}))
    if node.op == "sum":
        return _sum(scope, value, node.axes)
    return _reduce(scope, node.op, value, node.axes)


def _sum(scope: Scope, v: Value, gone: tuple[str, ...]) -> Value:
    if not gone:
        return v
    if gone == v.axes[-1:] and v.dtype == scope.real and not v.moving and len(v.axes) <= 2:
        ones = constant(np.ones(v.shape[-1]), scope.real, gone)
        kept = v.axes[:-1]
        return scope.tape.compute(np.matmul, (v, ones), (kept, v.shape[:-1], v.dtype))
    return _reduce(scope, "sum", v, gone)


def _reduce(scope: Scope, op: str, v: Value, gone: tuple[str, ...]) -> Value:
    where = tuple(v.axes.index(a) for a in gone)
    kept = tuple(a for a in v.axes if a not in gone)
    shape = tuple(n for a, n in zip(v.axes, v.shape, strict=True) if a not in gone)
    ufunc = FOLDS[op]
    extra = {} if all(v.shape) or op not in ("max", "min") else {"initial": _end(op, v)}

    def function(x: Array, out: Array) -> None:
        ufunc.reduce(x, axis=where, out=out, **extra)

    return scope.tape.compute(function, (v,), (kept, shape, v.dtype))


def _end(op: str, v: Value) -> float | int:
    """What a maximum or minimum over no lanes is."""
    if v.dtype.kind == "f":
        return -np.inf if op == "max" else np.inf
    return LEAST if op == "max" else MOST
