"""What a body does, as a flat list: values, and the steps that make them.

A value is a tile with its axes, described once for all threads; each thread has a *cell* for it,
which its steps read when they run. A value either has memory of its own, assigned by `memory`, or
is a view: of another value, bound with it, or of a tensor, and then *moving*, bound at every visit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cascade.backends.tiled.machine import Machine

Array = np.ndarray[Any, Any]
Run = Callable[[], None]

INT = np.dtype(np.int64)
BOOL = np.dtype(np.bool_)
UNBOUND: Array = np.zeros(())


@dataclass(eq=False, slots=True)
class Cell:
    """Where the numbers of a value are on one thread, and the buffer they were given."""

    array: Array = field(default_factory=lambda: UNBOUND)
    buffer: Array | None = None

    def shares(self, other: Cell) -> bool:
        """Whether both have been given the same buffer."""
        return self.buffer is not None and self.buffer is other.buffer


@dataclass(eq=False, slots=True)
class Value:
    """A tile in a plan. `root` is the value whose memory this one shows; None for its own. `cell`
    is that of a constant, the same on all threads.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    root: Value | None = None
    moving: bool = False
    cell: Cell | None = None

    @property
    def constant(self) -> Array | None:
        return self.cell.array if self.cell is not None else None

    @property
    def memory(self) -> Value:
        value = self
        while value.root is not None:
            value = value.root
        return value

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def like(self, other: Value) -> bool:
        return self.axes == other.axes and self.shape == other.shape and self.dtype == other.dtype


@dataclass(eq=False, slots=True)
class Step:
    """One call, made for each thread. `outputs` need memory; that of an input of `into` may be
    taken if it dies here.
    """

    make: Callable[[Machine], Run]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...] = ()
    into: tuple[Value, ...] = ()


class Tape:
    """The steps of one body. `entry` holds those that need nothing of `changing`: they run once
    for all visits. `binding` makes views of values whose memory is fixed: it runs once for ever.
    """

    def __init__(self, changing: Iterable[Value] = ()):
        self.changing = set(changing)
        self.binding: list[Step] = []
        self.entry: list[Step] = []
        self.body: list[Step] = []

    def emit(self, step: Step, every_visit: bool = False) -> None:
        if every_visit or any(v in self.changing for v in step.inputs):
            self.body.append(step)
            self.changing.update(step.outputs)
        else:
            self.entry.append(step)

    def compute(
        self,
        function: Callable[..., Any],
        inputs: tuple[Value, ...],
        like: tuple[tuple[str, ...], tuple[int, ...], np.dtype[Any]],
        into: tuple[Value, ...] = (),
    ) -> Value:
        """A value that `function(*inputs, out)` writes."""
        out = Value(*like)
        self.emit(Step(lambda m: _call(function, [m[v] for v in inputs], m[out]),
                       inputs, (out,), into))  # fmt: skip
        return out

    def view(
        self, of: Value, axes: tuple[str, ...], shape: tuple[int, ...], function: Callable[..., Any]
    ) -> Value:
        """The same memory seen in another way."""
        out = Value(axes, shape, of.dtype, of, of.moving)

        def make(m: Machine) -> Run:
            source, target = m[of], m[out]

            def run() -> None:
                target.array = function(source.array)

            return run

        step = Step(make, (of,))
        if of.cell is not None:
            out.cell = Cell(function(of.cell.array))
        elif of.moving:
            self.emit(step)
        else:
            self.binding.append(step)
        if of in self.changing:
            self.changing.add(out)
        return out

    def moving(
        self,
        finder: Callable[[Machine], Callable[[], Array]],
        inputs: tuple[Value, ...],
        like: tuple[tuple[str, ...], tuple[int, ...], np.dtype[Any]],
        root: Value | None = None,
    ) -> Value:
        """A value that is bound at every visit to what `finder` makes return."""
        out = Value(*like, root=root, moving=True)

        def make(m: Machine) -> Run:
            find, target = finder(m), m[out]

            def run() -> None:
                target.array = find()

            return run

        self.emit(Step(make, inputs), every_visit=True)
        self.changing.add(out)
        return out


def _call(function: Callable[..., Any], inputs: list[Cell], out: Cell) -> Run:
    match inputs:
        case [a]:

            def one() -> None:
                function(a.array, out.array)

            return one
        case [a, b]:

            def two() -> None:
                function(a.array, b.array, out.array)

            return two
        case _:

            def several() -> None:
                function(*(v.array for v in inputs), out.array)

            return several


def constant(value: Any, dtype: np.dtype[Any], axes: tuple[str, ...] = ()) -> Value:
    array = np.asarray(value).astype(dtype)
    return Value(axes, array.shape, dtype, cell=Cell(array))
