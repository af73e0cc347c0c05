"""One instance of a kernel in numbers, as far as its loops are bounded by them.

Arrays have a dimension for each axis of the kernel, in their order, of length 1 where a value does
not vary; an axis has the lanes that exist. Tiles are computed when they are asked for: those of
small tensors and of what follows from them. Others (products, what a loop leaves) are not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np

from cascade.diagnostics import input_error
from cascade.ir.expr import Expr
from cascade.ir.extents import Number
from cascade.schedule.disjuncts import Interval
from cascade.schedule.numbers import Value, evaluate
from cascade.schedule.program import (
    Fold,
    For,
    Let,
    Load,
    Mask,
    Node,
    Pick,
    Place,
    Seq,
    Store,
    lanes_of,
    results,
)
from cascade.schedule.segments import Bounds, Segments, segments

Array = np.ndarray[Any, Any]

FOLDS: dict[str, Callable[..., Value]] = {
    "sum": np.sum,
    "prod": np.prod,
    "max": np.max,
    "min": np.min,
    "any": np.any,
    "all": np.all,
}


@dataclass(frozen=True)
class Instance:
    """Numbers at a point of the grid, or at a visit of a loop there.

    `lengths` are the lanes of each axis that exist here, `makers` the node that makes each tile,
    `made` the tiles so far.
    """

    axes: tuple[str, ...]
    scalars: Mapping[str, Number]
    places: Mapping[str, Place]
    lengths: Mapping[str, int]
    makers: Mapping[str, Node]
    arrays: Mapping[str, Array]
    made: dict[str, Value] = field(default_factory=dict)

    # -- elsewhere
    def placed(self, places: Iterable[Place]) -> Instance:
        """With more places; an axis has the lanes at which all places of it alone exist."""
        here = replace(self, places={**self.places, **{p.rank: p for p in places}})
        lengths = dict(self.lengths)
        for place in places:
            axes = lanes_of(place.value)
            if len(axes) == 1:
                there = np.less(here.value(place.value), here.value(place.extent))
                there = np.broadcast_to(there, here._shape(axes))
                lengths[axes[0]] = min(lengths[axes[0]], int(np.count_nonzero(there)))
        return replace(here, lengths=lengths)

    def visiting(self, loop: For, start: int, size: int) -> Instance:
        """Inside a visit of a loop over tiles."""
        return replace(
            self,
            scalars={**self.scalars, loop.scalar: start},
            places={**self.places, loop.place.rank: loop.place},
            lengths={**self.lengths, loop.axis: size},
            made=dict(self.made),
        )

    def at_step(self, loop: Seq, step: int) -> Instance:
        """Inside a step of an ordered loop."""
        scalars = {**self.scalars, loop.scalar: step}
        return replace(self, scalars=scalars, made=dict(self.made)).placed(loop.places)

    def ahead(self, nodes: Iterable[Node]) -> None:
        """Compute the tiles of nodes now, so that they are not computed again at every visit."""
        for node in nodes:
            for name in results(node) if isinstance(node, Let | Load | Mask | Fold | Pick) else ():
                self._tile(name)

    # -- values
    def number(self, e: Expr) -> int:
        return int(np.asarray(self.value(e)).item())

    def value(self, e: Expr) -> Value:
        return evaluate(e, self._coordinate, self._tile, self.scalars)

    def stored(self, node: Store) -> list[int]:
        """What a store of integers writes, in the order of its lanes."""
        there, value = np.broadcast_arrays(self._all(node.present), self.value(node.value))
        return [int(n) for n in value[there]]

    def segments(self, loop: For, intervals: tuple[Interval, ...]) -> Segments:
        """What a loop visits."""
        extent = self.number(loop.place.extent)
        bounds = [self._bounds(i) for i in intervals]
        return segments(bounds, True, loop.tile, loop.part, extent)

    def _bounds(self, i: Interval) -> Bounds:
        low = reduce(np.maximum, [self.value(e) for e in i.low])
        high = reduce(np.minimum, [self.value(e) for e in i.high])
        row = reduce(np.logical_and, [self.value(c) for c in i.row], True)
        return Bounds(np.asarray(low), np.asarray(high), np.asarray(row), bool(i.residual))

    def _coordinate(self, rank: str) -> Value:
        if not rank.startswith("#"):
            return self.value(self.places[rank].value)
        axis = rank[1:]
        along = [-1 if a == axis else 1 for a in self.axes]
        return np.arange(self.lengths[axis]).reshape(along)

    def _tile(self, name: str) -> Value:
        if name not in self.made:
            self.made[name] = self._make(name)
        return self.made[name]

    def _make(self, name: str) -> Value:
        match self.makers[name]:
            case Let(_, e):
                return self.value(e)
            case Load() as node:
                return self._load(node)
            case Mask(_, e, conditions, fill):
                return np.where(self._all(conditions), self.value(e), fill.value)
            case Fold(_, op, e, axes):
                whole = self._whole(self.value(e), axes)
                return FOLDS[op](whole, axis=self._dimensions(axes), keepdims=True)
            case Pick(_, e, axis, at):
                here = np.equal(self._coordinate(f"#{axis}"), self.value(at))
                picked = self._whole(np.where(here, self.value(e), 0), (axis,))
                return picked.sum(self._dimensions((axis,)), keepdims=True)
            case _:
                raise input_error("missing-input", f"`{name}`, which only a run computes")

    def _load(self, node: Load) -> Value:
        if node.tensor not in self.arrays:
            message = f"`{node.tensor}`, whose values are not given"
            raise input_error("missing-input", message, f"give the array of `{node.tensor}`")
        array = self.arrays[node.tensor]
        if array.dtype.kind in "iu":
            array = array.astype(np.int64)
        if not node.index:
            return array[()]
        index = [np.asarray(self.value(i)) for i in node.index]
        there = self._all(node.present)
        for i, extent in zip(index, array.shape, strict=True):
            there = there & (i >= 0) & (i < extent)
        safe = [np.clip(i, 0, max(n - 1, 0)) for i, n in zip(index, array.shape, strict=True)]
        found = array[tuple(safe)] if array.size else np.zeros((), array.dtype)
        if array.dtype.kind == "f":
            found = found.astype(np.float32)  # as kernels compare it
        return np.where(there, found, np.zeros((), array.dtype))

    def _all(self, conditions: tuple[Expr, ...]) -> Value:
        return reduce(np.logical_and, [self.value(c) for c in conditions], np.True_)

    # -- dimensions
    def _dimensions(self, axes: Iterable[str]) -> tuple[int, ...]:
        return tuple(self.axes.index(a) for a in axes)

    def _shape(self, axes: Iterable[str]) -> tuple[int, ...]:
        return tuple(self.lengths[a] if a in axes else 1 for a in self.axes)

    def _whole(self, value: Value, axes: tuple[str, ...]) -> Array:
        """A value with every lane of some axes."""
        array = np.asarray(value)
        array = array.reshape([1] * (len(self.axes) - array.ndim) + list(array.shape))
        return np.broadcast_to(array, np.broadcast_shapes(array.shape, self._shape(axes)))
