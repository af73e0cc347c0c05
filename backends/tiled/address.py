"""Loads and stores. Where every index is a start plus a lane, a tile is a slice of its tensor, and
nothing is copied; otherwise its elements are gathered by their coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cascade.backends.tiled.machine import Machine
from cascade.backends.tiled.scope import Scope
from cascade.backends.tiled.tape import BOOL, INT, Array, Cell, Run, Step, Value
from cascade.ir.expr import Const, Expr, Map
from cascade.schedule.program import Load, Store

Key = tuple[int | slice, ...]


@dataclass(frozen=True, eq=False)
class _Slot:
    """A slot of a tensor: `start`, plus a lane of `axis` where there is one."""

    axis: str | None
    start: Value
    length: int
    extent: int


def load(scope: Scope, node: Load) -> Value:
    """A load as a view of its tensor, or as a copy where the type or the order asks for one."""
    tensor = scope.context.tensors[node.tensor]
    array = tensor.array
    slots = _slots(scope, node.index, array)
    value = _window(scope, tensor, slots) if slots is not None else _gather(scope, tensor, node)
    value = _typed(scope, value, array, slots)
    conditions = tuple(c for c in node.present if not _is_bound(scope, c, node.index, array))
    there = scope.all_of(conditions)
    if there is None:
        return value
    zero = scope.value(Const(0) if value.dtype == INT else Const(False if value.dtype == BOOL
                                                                 else 0.0))  # fmt: skip
    return scope.choose(there, value, zero)


def _typed(scope: Scope, value: Value, array: Array, slots: list[_Slot] | None) -> Value:
    wanted = {"f": scope.real, "b": BOOL}.get(array.dtype.kind, INT)
    if array.dtype.kind not in "fiub":
        wanted = scope.real
    if value.dtype != wanted:
        return scope.copy(value, wanted)
    if slots is not None and len(value.axes) > 1:
        along = [array.strides[n] for n, s in enumerate(slots) if s.axis and s.length > 1]
        if along and array.dtype.itemsize not in along:
            return scope.copy(value)  # no matrix product can read it in place
    return value


def _slots(scope: Scope, index: tuple[Expr, ...], array: Array) -> list[_Slot] | None:
    """Each index as a start and an axis; None where one is not of this form."""
    found: list[_Slot] = []
    seen: set[str] = set()
    for e, extent in zip(index, array.shape, strict=True):
        offset = scope.offset(e)
        if offset is None or offset[0] in seen:
            return None
        axis, start = offset
        if axis is not None:
            seen.add(axis)
        length = scope.lengths[axis] if axis is not None else 1
        found.append(_Slot(axis, scope.cast(scope.value(start), INT), length, extent))
    return found


def _window(scope: Scope, tensor: Cell, slots: list[_Slot]) -> Value:
    axes = tuple(s.axis for s in slots if s.axis is not None)
    like = (axes, tuple(s.length for s in slots if s.axis is not None), tensor.array.dtype)

    def make(m: Machine) -> Callable[[], Array]:
        key, starts = _key(slots, m), [m[s.start] for s in slots]

        def find() -> Array:
            at = key()
            array = tensor.array
            return array[at] if at is not None else _clipped(array, slots, starts)

        return find

    return scope.tape.moving(make, tuple(s.start for s in slots), like)


def _key(slots: list[_Slot], m: Machine) -> Callable[[], Key | None]:
    """What to subscript with at this visit; None where some of it is out of range."""
    fixed: list[int | slice] = []
    changing: list[tuple[int, Cell, int, int, bool]] = []
    inside = True
    for n, s in enumerate(slots):
        if s.start.constant is not None:
            start = int(s.start.constant)
            inside &= 0 <= start <= s.extent - s.length
            fixed.append(slice(start, start + s.length) if s.axis else start)
        else:
            fixed.append(0)
            latest = s.extent - s.length
            changing.append((n, m[s.start], s.length, latest, s.axis is not None))

    def key() -> Key | None:
        if not inside:
            return None
        at = fixed.copy()
        for n, cell, length, latest, along in changing:
            start = int(cell.array)
            if not 0 <= start <= latest:
                return None
            at[n] = slice(start, start + length) if along else start
        return tuple(at)

    return key


def _cut(slots: list[_Slot], starts: list[Cell]) -> tuple[Key, Key]:
    """A window that leaves its tensor: where the part inside is, in the tensor and in the tile."""
    outer: list[int | slice] = []
    inner: list[int | slice] = []
    for s, cell in zip(slots, starts, strict=True):
        start = int(cell.array)
        low = min(max(start, 0), s.extent)
        high = max(low, min(start + s.length, s.extent))
        outer.append(slice(low, high))
        inner.append(slice(low - start, high - start))
    return tuple(outer), tuple(inner)


def _clipped(array: Array, slots: list[_Slot], starts: list[Cell]) -> Array:
    outer, inner = _cut(slots, starts)
    result = np.zeros([s.length for s in slots], array.dtype)
    if array[outer].size:
        result[inner] = array[outer]
    return result.reshape([s.length for s in slots if s.axis is not None])


def _gather(scope: Scope, tensor: Cell, node: Load) -> Value:
    """Elements by their coordinates; slots with an axis of their own stay slices."""
    array = tensor.array
    values = [scope.cast(scope.value(i), INT) for i in node.index]
    axes = scope.sorted({a for v in values for a in v.axes})
    parts = _own_axes(scope, node.index, array)
    vectors = [n for n in range(len(values)) if n not in parts]
    across = scope.sorted({a for n in vectors for a in values[n].axes})
    spread = [scope.spread(values[n], across) for n in vectors]
    order = (*vectors, *parts)
    found = (*across, *(parts[n] for n in parts))
    shape = tuple(scope.lengths[a] for a in across)
    turn = [found.index(a) for a in axes]
    extents = [array.shape[n] for n in vectors]
    kept = tuple(slice(scope.lengths[parts[n]]) if n in parts else slice(None)
                 for n in range(array.ndim))  # fmt: skip

    def make(m: Machine) -> Callable[[], Array]:
        cells = [m[v] for v in spread]

        def find() -> Array:
            at = [c.array for c in cells]
            cut = tensor.array[kept].transpose(order)
            if not all(_in_range(i, n) for i, n in zip(at, extents, strict=True)):
                return _partly(cut, at, extents, shape).transpose(turn)
            result = cut[tuple(at)]
            rest = result.shape[result.ndim - len(parts) :]
            return np.broadcast_to(result, shape + rest).transpose(turn)

        return find

    return scope.tape.moving(make, tuple(spread), scope.like(axes, array.dtype))


def _own_axes(scope: Scope, index: tuple[Expr, ...], array: Array) -> dict[int, str]:
    """Slots whose index is just the lane of an axis that no other index has."""
    found: dict[int, str] = {}
    for n, e in enumerate(index):
        offset = scope.offset(e)
        if offset is None or offset[0] is None or scope.number(offset[1]) != 0:
            continue
        others = {a for k, o in enumerate(index) if k != n for a in scope.axes_of(o)}
        if offset[0] not in others and scope.lengths[offset[0]] <= array.shape[n]:
            found[n] = offset[0]
    return found


def _in_range(at: Array, extent: int) -> bool:
    return not at.size or bool(at.min() >= 0 and at.max() < extent)


def _partly(cut: Array, at: list[Array], extents: list[int], shape: tuple[int, ...]) -> Array:
    rest = cut.shape[len(at) :]
    there = np.ones(shape, np.bool_)
    for i, extent in zip(at, extents, strict=True):
        there &= (i >= 0) & (i < extent)
    result = np.zeros(shape + rest, cut.dtype)
    if there.any():
        result[there] = cut[tuple(np.broadcast_to(i, shape)[there] for i in at)]
    return result


def _is_bound(scope: Scope, condition: Expr, index: tuple[Expr, ...], array: Array) -> bool:
    """Whether a condition only says that an index lies inside its slot, as is seen to anyway."""
    match condition:
        case Map("<=", (Const(0), i)):
            return i in index
        case Map("<", (i, extent)):
            return scope.trivial(condition) or any(
                i == j and scope.number(extent) == n
                for j, n in zip(index, array.shape, strict=True)
            )
        case _:
            return False


def store(scope: Scope, node: Store) -> None:
    """Write a tile; its numbers take the type of the tensor."""
    tensor = scope.context.tensors[node.tensor]
    value, array = scope.value(node.value), tensor.array
    conditions = tuple(c for c in node.present if not _is_bound(scope, c, node.index, array))
    there = scope.all_of(conditions)
    slots = _slots(scope, node.index, array)
    if slots is None:
        _scatter(scope, tensor, node, value, there)
        return
    axes = tuple(s.axis for s in slots if s.axis is not None)
    value = scope.spread(value, axes)
    where = scope.spread(there, axes) if there is not None else None

    def make(m: Machine) -> Run:
        key, starts = _key(slots, m), [m[s.start] for s in slots]
        source, test = m[value], m[where] if where is not None else None

        def run() -> None:
            at, array = key(), tensor.array
            if at is None:
                _store_clipped(array, slots, starts, source, test)
            elif test is None:
                array[at] = source.array
            else:
                np.copyto(array[at], source.array, casting="unsafe", where=test.array)

        return run

    inputs = (value, *(s.start for s in slots), *((where,) if where is not None else ()))
    scope.tape.emit(Step(make, inputs), every_visit=True)


def _store_clipped(
    array: Array, slots: list[_Slot], starts: list[Cell], value: Cell, where: Cell | None
) -> None:
    outer, inner = _cut(slots, starts)
    if not array[outer].size:
        return
    full = [s.length for s in slots]
    shape = [s.length for s in slots if s.axis is not None]
    tile = np.broadcast_to(value.array, shape).reshape(full)[inner]
    there = True if where is None else np.broadcast_to(where.array, shape).reshape(full)[inner]
    np.copyto(array[outer], tile, casting="unsafe", where=there)


def _scatter(scope: Scope, tensor: Cell, node: Store, value: Value, there: Value | None) -> None:
    index = [scope.cast(scope.value(i), INT) for i in node.index]
    axes = scope.sorted({a for i in index for a in i.axes})
    shape = tuple(scope.lengths[a] for a in axes)
    spread = [scope.spread(i, axes) for i in index]
    value = scope.spread(value, axes)
    where = scope.spread(there, axes) if there is not None else None

    def make(m: Machine) -> Run:
        cells, source, test = (
            [m[v] for v in spread], m[value], m[where] if where is not None else None,
        )  # fmt: skip

        def run() -> None:
            array = tensor.array
            at = [np.broadcast_to(c.array, shape) for c in cells]
            mask = np.broadcast_to(True if test is None else test.array, shape)
            for i, extent in zip(at, array.shape, strict=True):
                mask = mask & (i >= 0) & (i < extent)
            array[tuple(i[mask] for i in at)] = np.broadcast_to(source.array, shape)[mask]

        return run

    inputs = (value, *spread, *((where,) if where is not None else ()))
    scope.tape.emit(Step(make, inputs), every_visit=True)
