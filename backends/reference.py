"""The meaning of a cascade: whole tensors in NumPy, float64, absence exactly as the language says.

A `Value` is an array over named axes plus its *conditions*: for each set of axes that a condition
mentions, the truth array over them. A point is present where all are true. Reductions drop the
points that fail a condition mentioning a reduced axis; every other condition passes through to the
result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cascade.backends.arrays import Labelled, align, as_inputs, combine, contract, spread
from cascade.backends.spelling import MAPS
from cascade.ir.cascade import Cascade, Einsum
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.extents import Bindings, Number, bind
from cascade.ir.kinds import is_whole_exponent
from cascade.ir.ops import DECIDING, REDUCERS
from cascade.ir.order import Group, evaluation_order
from cascade.ir.walk import conjuncts, free_ranks

Conditions = dict[frozenset[str], Labelled]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Value:
    """A number at every point, and the conditions under which it is there."""

    data: Labelled
    conditions: Conditions


@dataclass
class Stored:
    """A tensor: its array, and conditions by the slots they mention (axes in slot order)."""

    array: np.ndarray[Any, Any]
    conditions: dict[tuple[int, ...], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Axes:
    """What ranks mean here: the axis of each rank in scope, and the coordinates along each axis."""

    of: dict[str, str]
    coordinates: dict[str, np.ndarray[Any, Any]]

    def enter(self, rank: str, extent: int) -> Axes:
        """A fresh axis for a rank that a reduction binds; it hides an outer axis of that rank."""
        axis = rank
        while axis in self.coordinates:
            axis += "'"
        return Axes(self.of | {rank: axis}, self.coordinates | {axis: np.arange(extent)})

    def named(self, e: Expr) -> frozenset[str]:
        """The axes of the ranks that an expression mentions, whether or not its value varies."""
        return frozenset(self.of[r] for r in free_ranks(e))


def evaluate(
    cascade: Cascade,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Number] | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of a cascade, in float64, int64 or bool; absent points are 0, -1 or false.

    `inputs` maps tensor names to arrays; `settings` gives extents and params (`{"M0": 64}`).
    Raises `InputError` for a missing input, a wrong shape or a wrong type.
    """
    arrays = as_inputs(cascade, inputs)
    bindings = bind(cascade, {n: a.shape for n, a in arrays.items()}, settings)
    tensors = run(cascade, arrays, bindings, progress)
    return {name: filled(tensors[name]) for name in cascade.outputs}


def run(
    cascade: Cascade,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    bindings: Bindings,
    progress: Progress | None = None,
) -> dict[str, Stored]:
    """Every tensor of the cascade, with its conditions."""
    evaluation = _Evaluation(cascade, bindings, {n: Stored(a, {}) for n, a in arrays.items()})
    groups = evaluation_order(cascade)
    weights = [1 if g.rank is None else max(1, bindings.extents[g.rank]) for g in groups]
    done, total = 0, sum(weights)
    with np.errstate(all="ignore"):  # arithmetic is IEEE; absent points may hold anything
        for group, weight in zip(groups, weights, strict=True):
            for step in evaluation.group(group):
                if progress is not None:
                    progress(done + step, total)
            done += weight
    return evaluation.tensors


def filled(tensor: Stored) -> np.ndarray[Any, Any]:
    """The array with absent points written as 0, false or -1."""
    array = tensor.array
    if not tensor.conditions:
        return array.copy()
    present = np.ones(array.shape, bool)
    for slots, truth in tensor.conditions.items():
        shape = [n if slot in slots else 1 for slot, n in enumerate(array.shape)]
        present &= truth.reshape(shape)
    absent = -1 if array.dtype.kind == "i" else array.dtype.type(0)
    return np.where(present, array, absent)


class _Evaluation:
    """Evaluates groups of statements into `tensors`."""

    def __init__(self, cascade: Cascade, bindings: Bindings, tensors: dict[str, Stored]):
        self.cascade = cascade
        self.bindings = bindings
        self.tensors = tensors

    # -- statements
    def group(self, group: Group) -> Any:
        if group.rank is None:
            (einsum,) = group.einsums
            value = self.expr(einsum.body, self._axes(einsum))
            self.tensors[einsum.tensor] = self._store(einsum, value)
            yield 1
            return
        steps = self.bindings.extents[group.rank]
        for init in group.inits:
            self._write(init, 0, self.expr(init.body, self._axes(init)))
        for einsum in group.einsums:
            if einsum.tensor not in self.tensors:
                self._write(einsum, None, None)
        while self._conditions_to_come(group):
            pass
        for step in range(steps):
            for einsum in group.einsums:
                axes = self._axes(einsum, {group.rank: range(step, step + 1)})
                self._write(einsum, step, self.expr(einsum.body, axes), group.rank)
            yield step + 1
        if not steps:
            self._without_steps(group)

    def _conditions_to_come(self, group: Group) -> bool:
        """Conditions of a recurrence mention the same ranks at each step: make room for them."""
        new = False
        for einsum in group.einsums:
            assert group.rank is not None
            stored = self.tensors[einsum.tensor]
            value = self.expr(einsum.body, self._axes(einsum, {group.rank: range(0)}))
            for mentioned in value.conditions:
                key = _slots(einsum, mentioned)
                if key not in stored.conditions:
                    new = True
                    stored.conditions[key] = np.ones([stored.array.shape[n] for n in key], bool)
        return new

    def _without_steps(self, group: Group) -> None:
        """A recurrence of no steps has the types of its first step, and the conditions of no
        rank.
        """
        for einsum in group.einsums:
            value = self.expr(einsum.body, self._axes(einsum))
            if einsum.step is None:
                self.tensors[einsum.tensor] = self._store(einsum, value)
                continue
            stored = self.tensors[einsum.tensor]
            kind = np.result_type(stored.array.dtype, value.data.array.dtype)
            stored.array = stored.array.astype(kind)

    def _axes(self, einsum: Einsum, fixed: Mapping[str, range] | None = None) -> Axes:
        coordinates = {r: np.arange(self.bindings.extents[r]) for r in einsum.scope}
        coordinates |= {rank: np.array(steps, np.int64) for rank, steps in (fixed or {}).items()}
        return Axes({r: r for r in coordinates}, coordinates)

    def _store(self, einsum: Einsum, value: Value) -> Stored:
        shape = tuple(self.bindings.extents[r] for r in einsum.ranks)
        array = np.broadcast_to(spread(value.data, einsum.ranks), shape)
        conditions = {}
        for mentioned, truth in value.conditions.items():
            slots = tuple(n for n, r in enumerate(einsum.ranks) if r in mentioned)
            ranks = tuple(einsum.ranks[n] for n in slots)
            conditions[slots] = np.broadcast_to(
                spread(truth, ranks), tuple(shape[n] for n in slots)
            )
        return Stored(np.ascontiguousarray(array).reshape(shape), conditions)

    def _write(
        self, einsum: Einsum, step: int | None, value: Value | None, rank: str | None = None
    ) -> None:
        """Write one step of a recurrence; the conditions of an iterative tensor mention its
        rank.
        """
        slot = einsum.step if rank is None else einsum.ranks.index(rank)
        shape = [self.bindings.extents[r] for r in einsum.ranks]
        if einsum.step is not None:
            shape[einsum.step] += 1
        stored = self.tensors.get(einsum.tensor)
        if value is None or stored is None:
            kind = value.data.array.dtype if value is not None else np.float64
            stored = self.tensors[einsum.tensor] = Stored(np.zeros(shape, kind), {})
        if value is None:
            return
        assert slot is not None and step is not None
        if stored.array.dtype != np.result_type(stored.array.dtype, value.data.array.dtype):
            stored.array = stored.array.astype(
                np.result_type(stored.array.dtype, value.data.array.dtype)
            )
        elif step == 0 and einsum.step is None and stored.array.dtype != value.data.array.dtype:
            stored.array = stored.array.astype(value.data.array.dtype)
        where = step if einsum.init or einsum.step is None else step + 1
        others = tuple(r for n, r in enumerate(einsum.ranks) if n != slot)
        at = tuple(where if n == slot else slice(None) for n in range(len(shape)))
        stored.array[at] = spread(_drop(value.data, einsum.ranks[slot]), others)
        for mentioned, truth in value.conditions.items():
            key = _slots(einsum, mentioned)
            if key not in stored.conditions:
                stored.conditions[key] = np.ones([shape[n] for n in key], bool)
            at = tuple(where if n == slot else slice(None) for n in key)
            others = tuple(einsum.ranks[n] for n in key if n != slot)
            stored.conditions[key][at] &= spread(_drop(truth, einsum.ranks[slot]), others)

    # -- expressions
    def expr(self, e: Expr, axes: Axes) -> Value:
        match e:
            case Const(value):
                return Value(Labelled(np.asarray(value), ()), {})
            case Symbol(name):
                return Value(Labelled(np.asarray(self.bindings.values[name]), ()), {})
            case Coordinate(rank):
                axis = axes.of[rank]
                return Value(Labelled(axes.coordinates[axis], (axis,)), {})
            case Read():
                return self._read(e, axes)
            case Map(op, args):
                values = [self.expr(a, axes) for a in args]
                if op == "**" and not is_whole_exponent(args[1]):
                    values[0] = _real(values[0])
                if op in DECIDING and any(v.conditions for v in values):
                    return _joined(op, values, [axes.named(a) for a in args])
                return _map(op, values)
            case Where(body, condition):
                return self._where(body, condition, axes)
            case Reduce():
                return self._reduce(e, axes)
            case Select():
                return self._select(e, axes)

    def _where(self, body: Expr, condition: Expr, axes: Axes) -> Value:
        value = self.expr(body, axes)
        conditions = value.conditions
        for part in conjuncts(condition):
            conditions = _join(conditions, self._condition(part, axes))
        return Value(value.data, conditions)

    def _condition(self, part: Expr, axes: Axes) -> Conditions:
        """One conjunct as one condition: true, and known."""
        value = self.expr(part, axes)
        truth = combine(np.logical_and, [value.data, *value.conditions.values()])
        return {axes.named(part): truth}

    def _read(self, e: Read, axes: Axes) -> Value:
        stored = self.tensors[e.tensor]
        indices: list[Labelled] = []
        conditions: Conditions = {}
        for extent, i in zip(stored.array.shape, e.index, strict=True):
            value = self.expr(i, axes)
            conditions = _join(conditions, value.conditions)
            index = replace(value.data, array=value.data.array.astype(np.int64))
            if not (isinstance(i, Coordinate) and self.bindings.extents[i.rank] <= extent):
                inside = (index.array >= 0) & (index.array < extent)
                conditions = _join(conditions, {axes.named(i): Labelled(inside, index.axes)})
                index = Labelled(np.clip(index.array, 0, max(extent - 1, 0)), index.axes)
            indices.append(index)
        for slots, truth in stored.conditions.items():
            own = _gather(truth, [indices[s] for s in slots])
            mentioned = frozenset(a for s in slots for a in axes.named(e.index[s]))
            conditions = _join(conditions, {mentioned: own})
        return Value(_gather(stored.array, indices), conditions)

    def _reduce(self, e: Reduce, axes: Axes) -> Value:
        inner = axes
        for rank in e.ranks:
            inner = inner.enter(rank, self.bindings.extents[rank])
        gone = tuple(inner.of[r] for r in e.ranks)
        extents = {a: len(inner.coordinates[a]) for a in gone}
        if e.op == "sum":
            fast = self._contraction(e.body, inner, gone, extents)
            if fast is not None:
                return fast
        body = self.expr(e.body, inner)
        mask, passing = _split(body.conditions, gone)
        data, mask = align([body.data, mask], with_axes=gone, extents=extents)
        where = tuple(data.axes.index(a) for a in gone)
        kept = tuple(a for a in data.axes if a not in gone)
        array, present = np.broadcast_arrays(data.array, mask.array)
        result = _fold(e.op, array, present, where)
        if REDUCERS[e.op].identity is None:
            number, mentioned = _count(body.conditions, gone, extents)
            some = Labelled(np.asarray(number.array > 0), number.axes)
            passing = _join(passing, {mentioned: some})
        return Value(Labelled(result, kept), passing)

    def _contraction(
        self, body: Expr, axes: Axes, gone: tuple[str, ...], extents: dict[str, int]
    ) -> Value | None:
        """A sum of a product without the whole product in memory; None where it cannot be exact."""
        extra: Conditions = {}
        if isinstance(body, Where):
            for part in conjuncts(body.condition):
                extra = _join(extra, self._condition(part, axes))
            body = body.body
        parts = _factors(body)
        if len(parts) < 2:
            return None
        values = [self.expr(p, axes) for p in parts]
        conditions = extra
        for value in values:
            conditions = _join(conditions, value.conditions)
        filters = {k: v for k, v in conditions.items() if k & set(gone)}
        passing = {k: v for k, v in conditions.items() if not k & set(gone)}
        result = contract([v.data for v in values], list(filters.values()), gone, extents)
        return None if result is None else Value(result, passing)

    def _select(self, e: Select, axes: Axes) -> Value:
        inner = axes.enter(e.rank, self.bindings.extents[e.rank])
        axis = inner.of[e.rank]
        body = self.expr(e.body, inner)
        extents = {axis: len(inner.coordinates[axis])}
        mask, passing = _split(body.conditions, (axis,))
        data, mask = align([body.data, mask], with_axes=(axis,), extents=extents)
        array, present = np.broadcast_arrays(data.array, mask.array)
        order, kept = _descending(array, present, data.axes, axis)
        if e.op == "order":
            outer = axes.of[e.rank]
            position = np.argsort(order, axis=-1, kind="stable")
            conditions = {
                frozenset(outer if a == axis else a for a in key): _take_steps(
                    truth.rename(axis, outer), outer, axes
                )
                for key, truth in body.conditions.items()
            }
            return Value(_take_steps(Labelled(position, (*kept, outer)), outer, axes), conditions)
        target = axes.of[e.target]
        order = _resized(order, self.bindings.extents[e.target])
        if e.op == "top":
            moved = np.moveaxis(array, data.axes.index(axis), -1)
            picked = (
                np.take_along_axis(moved, order, -1)
                if moved.shape[-1]
                else np.zeros(order.shape, array.dtype)
            )
        else:
            picked = order
        number, mentioned = _count(body.conditions, (axis,), extents)
        enough = combine(np.less, [Labelled(axes.coordinates[target], (target,)), number])
        passing = _join(passing, {mentioned | {target}: enough})
        return Value(_take_steps(Labelled(picked, (*kept, target)), target, axes), passing)


def _slots(einsum: Einsum, mentioned: frozenset[str]) -> tuple[int, ...]:
    """The slots that a condition mentions; that of an iterative rank always among them."""
    return tuple(n for n, r in enumerate(einsum.ranks) if r in mentioned or n == einsum.step)


def _join(a: Conditions, b: Conditions) -> Conditions:
    """Both sets of conditions; those that mention the same axes become one.

    One that always holds still mentions its axes, and costs nothing.
    """
    if not b:
        return a
    result = dict(a)
    for key, truth in b.items():
        if truth.array.all():
            result.setdefault(key, Labelled(np.asarray(True), ()))
        else:
            result[key] = combine(np.logical_and, [result[key], truth]) if key in result else truth
    return result


def _count(
    conditions: Conditions, gone: tuple[str, ...], extents: Mapping[str, int]
) -> tuple[Labelled, frozenset[str]]:
    """How many points along the reduced axes are present, and the axes on which that depends."""
    mask, _ = _split(conditions, gone)
    (mask,) = align([mask], with_axes=gone, extents=extents)
    number = mask.array.sum(tuple(mask.axes.index(a) for a in gone))
    kept = tuple(a for a in mask.axes if a not in gone)
    mentioned = {a for key in conditions if key & set(gone) for a in key} - set(gone)
    return Labelled(np.asarray(number), kept), frozenset(mentioned)


def _split(conditions: Conditions, gone: tuple[str, ...]) -> tuple[Labelled, Conditions]:
    """The mask over reduced axes, and the conditions that do not mention them."""
    filters = [v for k, v in conditions.items() if k & set(gone)]
    mask = combine(np.logical_and, filters) if filters else Labelled(np.asarray(True), ())
    return mask, {k: v for k, v in conditions.items() if not k & set(gone)}


def _map(op: str, args: list[Value]) -> Value:
    conditions: Conditions = {}
    for a in args:
        conditions = _join(conditions, a.conditions)
    return Value(combine(MAPS[op], [a.data for a in args]), conditions)


def _real(v: Value) -> Value:
    return Value(Labelled(v.data.array * np.float64(1), v.data.axes), v.conditions)


def _joined(op: str, args: list[Value], named: list[frozenset[str]]) -> Value:
    """Operators whose result may be present where an operand is absent."""
    data = [a.data for a in args]
    always = Labelled(np.asarray(True), ())
    known = [combine(np.logical_and, [always, *a.conditions.values()]) for a in args]
    mentioned = frozenset(axis for a in args for key in a.conditions for axis in key)
    mentioned = mentioned.union(*named[: DECIDING[op]])
    if op == "??":
        result = combine(np.where, [known[0], *data])
        if not all(a.conditions for a in args):
            return Value(result, {})
        return Value(result, _join({}, {mentioned: combine(np.logical_or, known)}))
    there = combine(PRESENT[op], [*data[: DECIDING[op]], *known])
    operands = data if op == "select" else [*data, *known]
    return Value(combine(CHOSEN[op], operands), _join({}, {mentioned: there}))


PRESENT: dict[str, Callable[..., Any]] = {
    "select": lambda choice, c, x, y: c & np.where(choice, x, y),
    "or": lambda x, y, a, b: (x & a) | (y & b) | (a & b),
    "and": lambda x, y, a, b: (~x & a) | (~y & b) | (a & b),
}
CHOSEN: dict[str, Callable[..., Any]] = {
    "select": np.where,
    "or": lambda x, y, a, b: (x & a) | (y & b),
    "and": lambda x, y, a, b: ~((~x & a) | (~y & b)),
}


def _drop(value: Labelled, axis: str) -> Labelled:
    """Remove a size-1 axis (the fixed step of a recurrence)."""
    if axis not in value.axes:
        return value
    position = value.axes.index(axis)
    return Labelled(value.array.squeeze(position), tuple(a for a in value.axes if a != axis))


def _gather(array: np.ndarray[Any, Any], indices: list[Labelled]) -> Labelled:
    if not indices:
        return Labelled(array, ())
    aligned = align(indices)
    axes = aligned[0].axes
    if array.size == 0:
        shape = np.broadcast_shapes(*(i.array.shape for i in aligned))
        return Labelled(np.zeros(shape, array.dtype), axes)
    plain = [
        i.axes[0] if len(i.axes) == 1 and np.array_equal(i.array, np.arange(n)) else None
        for i, n in zip(indices, array.shape, strict=True)
    ]
    if None not in plain and len(set(plain)) == len(plain):
        return Labelled(array, tuple(str(a) for a in plain))
    return Labelled(array[tuple(i.array for i in aligned)], axes)


def _factors(e: Expr) -> list[Expr]:
    if isinstance(e, Map) and e.op == "*":
        return [*_factors(e.args[0]), *_factors(e.args[1])]
    return [e]


def _fold(
    op: str, array: np.ndarray[Any, Any], present: np.ndarray[Any, Any], where: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """The reduction over axes of the present points; anything where it is absent."""
    number = present.sum(where)
    if op == "count":
        counted = present & array if array.dtype.kind == "b" else present
        return np.asarray(counted.sum(where))
    if op == "mean":
        total = np.where(present, array, 0).sum(where)
        return np.asarray(total / number)
    if op == "argmax":
        (axis,) = where
        if array.shape[axis] == 0:
            return np.zeros(number.shape, np.int64)
        best = np.where(present, array, -np.inf).max(axis, keepdims=True)
        hit = present & ((array == best) | (np.isnan(array) & np.isnan(best)))
        return np.asarray(hit.argmax(axis))
    identity: Any = REDUCERS[op].identity
    if op in ("max", "min") and array.dtype.kind == "i" and not (number > 0).all():
        array = array.astype(np.float64)
    if op in ("max", "min") and array.dtype.kind == "i":
        limits = np.iinfo(array.dtype)
        identity = limits.min if op == "max" else limits.max
    reducer = {"sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply}
    logical = {"any": np.logical_or, "all": np.logical_and}
    ufunc: Any = reducer.get(op) or logical[op]
    chosen = np.where(present, array, identity)
    return np.asarray(ufunc.reduce(chosen, axis=where, initial=identity))


def _descending(
    array: np.ndarray[Any, Any], present: np.ndarray[Any, Any], axes: tuple[str, ...], axis: str
) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Indices along an axis from the largest present value down; ties to the lower index."""
    position = axes.index(axis)
    moved = np.moveaxis(array, position, -1)
    there = np.moveaxis(present, position, -1)
    kept = tuple(a for a in axes if a != axis)
    return np.lexsort((-moved, ~there), axis=-1), kept


def _resized(order: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    if order.shape[-1] >= count:
        return order[..., :count]
    padding = [(0, 0)] * (order.ndim - 1) + [(0, count - order.shape[-1])]
    return np.pad(order, padding)


def _take_steps(value: Labelled, axis: str, axes: Axes) -> Labelled:
    """Restrict to the coordinates an axis has here (one, inside a recurrence)."""
    if axis not in value.axes:
        return value
    position = value.axes.index(axis)
    coordinates = axes.coordinates[axis]
    if len(coordinates) == value.array.shape[position]:
        return value
    return Labelled(value.array.take(coordinates, position), value.axes)
