"""One lane of an axis, and the largest along an axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cascade.backends.tiled.machine import Machine
from cascade.backends.tiled.scope import Scope
from cascade.backends.tiled.tape import INT, Array, Run, Step, Value
from cascade.ir.expr import Coordinate, Expr
from cascade.schedule.program import Best, Pick


def pick(scope: Scope, node: Pick) -> Value:
    """`value` at one lane; 0 where there is no such lane."""
    value = scope.value(node.value)
    if node.axis not in value.axes:
        return value
    renamed = _renamed(scope, value, node)
    if renamed is not None:
        return renamed
    at = scope.cast(scope.value(node.at), INT)
    return _fixed(scope, value, node.axis, at) if not at.axes else _each(scope, value, node, at)


def _renamed(scope: Scope, value: Value, node: Pick) -> Value | None:
    if not isinstance(node.at, Coordinate):
        return None
    offset = scope.offset(node.at)
    if offset is None or offset[0] is None or scope.number(offset[1]) != 0:
        return None
    new = offset[0]
    position = value.axes.index(node.axis)
    length = scope.lengths[new]
    if new in value.axes or length > value.shape[position]:
        return None
    axes = tuple(new if a == node.axis else a for a in value.axes)
    shape = (*value.shape[:position], length, *value.shape[position + 1 :])
    key = (*[slice(None)] * position, slice(length))
    return scope.tape.view(value, axes, shape, lambda x: x[key])


def _fixed(scope: Scope, value: Value, axis: str, at: Value) -> Value:
    position = value.axes.index(axis)
    length = value.shape[position]
    axes = tuple(a for a in value.axes if a != axis)
    shape = tuple(n for a, n in zip(value.axes, value.shape, strict=True) if a != axis)
    before: tuple[Any, ...] = (slice(None),) * position

    def make(m: Machine) -> Callable[[], Array]:
        source, place = m[value], m[at]

        def find() -> Array:
            lane = int(place.array)
            if not 0 <= lane < length:
                return np.zeros(shape, value.dtype)
            return np.asarray(source.array[(*before, lane)])

        return find

    return scope.tape.moving(make, (value, at), (axes, shape, value.dtype), value)


def _each(scope: Scope, value: Value, node: Pick, at: Value) -> Value:
    """Each element of `at` picks its own lane."""
    axes = scope.sorted({*(a for a in value.axes if a != node.axis), *at.axes})
    length = value.shape[value.axes.index(node.axis)]
    shape = tuple(scope.lengths[a] for a in axes)
    source = scope.spread(value, (*axes, node.axis))
    lanes = scope.spread(at, axes)

    def run(x: Array, i: Array, out: Array) -> None:
        i = np.broadcast_to(i, shape)
        there = (i >= 0) & (i < length)
        if not length:
            out[...] = 0
            return
        wide = np.broadcast_to(x, (*shape, length))
        found = np.take_along_axis(wide, np.where(there, i, 0)[..., None], -1)[..., 0]
        out[...] = np.where(there, found, np.zeros((), x.dtype))

    return scope.tape.compute(run, (source, lanes), (axes, shape, value.dtype))


def best(scope: Scope, node: Best, conditions: tuple[Expr, ...]) -> tuple[Value, Value]:
    """The largest along an axis where the conditions hold, descending, equal ones by place."""
    value = scope.cast(scope.value(node.value), scope.real)
    place = scope.cast(scope.value(node.place), INT)
    passing = scope.all_of(conditions)
    parts = [value, place] + ([passing] if passing is not None else [])
    earlier = [scope.tile(n) for n in node.before] if node.before is not None else []
    kept = scope.sorted(
        {a for v in parts for a in v.axes if a != node.axis}
        | {a for v in earlier for a in v.axes if a != node.target}
    )
    rows = tuple(scope.lengths[a] for a in kept)
    lanes = scope.lengths[node.axis]
    count = scope.lengths[node.target]
    shown = [scope.spread(v, (*kept, node.axis)) for v in parts]
    old = [scope.spread(v, (*kept, node.target)) for v in earlier]
    axes = scope.sorted({*kept, node.target})
    turn = [(*kept, node.target).index(a) for a in axes]
    outs = (Value(*scope.like(axes, scope.real)), Value(*scope.like(axes, INT)))

    def make(m: Machine) -> Run:
        here, there, made = [m[v] for v in shown], [m[v] for v in old], [m[v] for v in outs]

        def run() -> None:
            values, places, *rest = (np.broadcast_to(x.array, (*rows, lanes)) for x in here)
            present = rest[0] if rest else np.ones((*rows, lanes), np.bool_)
            values, places, present = _candidates(values, places, present, count)
            if there:
                first, second = (np.broadcast_to(x.array, (*rows, count)) for x in there)
                values = np.concatenate([first, values], -1)
                places = np.concatenate([second, places], -1)
                present = np.concatenate([second >= 0, present], -1)
            found = _largest(values, places, present, count)
            for out, array in zip(made, found, strict=True):
                out.array[...] = array.transpose(turn)

        return run

    scope.tape.emit(Step(make, tuple([*shown, *old]), outs))
    return outs


def _candidates(
    values: Array, places: Array, present: Array, count: int
) -> tuple[Array, Array, Array]:
    """Only the lanes that reach the value at rank `count`, where these are just so many."""
    lanes = values.shape[-1]
    if not count or lanes <= 2 * count:
        return values, places, present
    key = np.where(present, values, -np.inf)
    least = np.partition(key, lanes - count, -1)[..., lanes - count, None]
    reached = key >= least
    if not (reached.sum(-1) == count).all():  # equal ones, or a NaN
        return values, places, present
    at = np.nonzero(reached)[-1].reshape(*values.shape[:-1], count)
    return (
        np.take_along_axis(values, at, -1),
        np.take_along_axis(places, at, -1),
        np.take_along_axis(present, at, -1),
    )


def _largest(values: Array, places: Array, present: Array, count: int) -> tuple[Array, Array]:
    order = np.lexsort((places, -values, ~present), axis=-1)[..., :count]
    chosen = np.take_along_axis(present, order, -1)
    top = np.where(chosen, np.take_along_axis(values, order, -1), -np.inf)
    where = np.where(chosen, np.take_along_axis(places, order, -1), -1)
    short = count - order.shape[-1]
    if short > 0:
        padding = [(0, 0)] * (top.ndim - 1) + [(0, short)]
        top = np.pad(top, padding, constant_values=-np.inf)
        where = np.pad(where, padding, constant_values=-1)
    return top, where
