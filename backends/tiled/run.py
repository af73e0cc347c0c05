"""Runs a Program over NumPy arrays, kernel after kernel, and counts what it does.

    result = run(program, {"Q": q, "K": k, "V": v}, {"B": 1, "H": 4, "P": 4096, ...})
    result.outputs["O"], result.counters

Real numbers are float32: other inputs are converted tile by tile, never as a whole. A `Prepared`
Program keeps what its first run planned and bound for the next ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cascade.backends.tiled.counters import Counters
from cascade.backends.tiled.instance import Plan, Point, Worker
from cascade.backends.tiled.known import Context
from cascade.backends.tiled.tape import BOOL, INT, UNBOUND, Array, Cell
from cascade.backends.tiled.threads import available, blas_limited, for_each
from cascade.backends.tiled.weigh import heavy_first
from cascade.ir.extents import Number, evaluate
from cascade.ir.kinds import declared_kind
from cascade.schedule.program import Buffer, For, Program, Seq, inside

TYPES = {
    "f64": np.float64, "f16": np.float16, "i64": np.int64, "i32": np.int32, "i16": np.int16,
    "i8": np.int8, "u8": np.uint8, "bool": np.bool_,
}  # fmt: skip
WORTHWHILE = 2**17  # numbers in all tensors, from which on threads pay
REMEMBERED = 2**12  # instances whose order is kept

Progress = Callable[[int, int], None]  # instances done, instances in all


@dataclass(frozen=True, eq=False)
class Result:
    """The outputs by their names, and what was counted."""

    outputs: dict[str, Array]
    counters: Counters


def run(
    program: Program,
    arrays: Mapping[str, Array],
    scalars: Mapping[str, Number],
    threads: int | None = None,
    progress: Progress | None = None,
    dtype: Any = np.float32,
) -> Result:
    """Run every kernel. `scalars` has the value of every extent and param; `threads` is the number
    of instances at a time, by default that of the processors where there is enough to do; `dtype`
    is the type of real numbers.
    """
    return Prepared(program, scalars, threads, dtype).run(arrays, progress)


class Prepared:
    """A Program for one set of scalars, and for arrays of the shapes, types and strides of its
    first run. One run at a time.
    """

    def __init__(
        self,
        program: Program,
        scalars: Mapping[str, Number],
        threads: int | None = None,
        dtype: Any = np.float32,
    ):
        self.program, self.scalars, self.real = program, scalars, np.dtype(dtype)
        self.threads = threads or _threads(program, scalars)
        self.tensors = {b.name: Cell() for b in program.buffers}
        contexts = [Context(k, scalars, self.tensors, self.real) for k in program.kernels]
        self.launches = [_Launch(c, self.threads) for c in contexts]

    def run(self, arrays: Mapping[str, Array], progress: Progress | None = None) -> Result:
        counters = Counters(threads=self.threads)
        report = _Report(sum(launch.instances for launch in self.launches), progress)
        for b in self.program.buffers:
            self.tensors[b.name].array = _memory(b, arrays, self.scalars, self.real)
        try:
            with np.errstate(all="ignore"):
                for launch in self.launches:
                    launch.run(counters, report)
            outputs = [b.name for b in self.program.buffers if b.kind == "out"]
            return Result({n: self.tensors[n].array for n in outputs}, counters)
        finally:
            self._release()

    def _release(self) -> None:
        """Hold on to no array of the caller's."""
        for tensor in self.tensors.values():
            tensor.array = UNBOUND
        for launch in self.launches:
            for worker in launch.workers:
                worker.release()


def _threads(program: Program, scalars: Mapping[str, Number]) -> int:
    """One for tensors so small that a second thread costs more than it does."""
    sizes = (
        math.prod(int(evaluate(e, scalars.__getitem__)) for e in b.shape) for b in program.buffers
    )
    return available() if sum(sizes) >= WORTHWHILE else 1


class _Launch:
    """One kernel over its grid: a plan for all threads, and a worker for each."""

    def __init__(self, context: Context, threads: int):
        self.context, self.kernel = context, context.kernel
        self.counts = [
            int(evaluate(g.count, context.scalars.__getitem__)) for g in self.kernel.grid
        ]
        self.instances = math.prod(self.counts)
        self.threads = threads
        self.workers: list[Worker] = []

    @cached_property
    def plan(self) -> Plan:
        return Plan(self.context)  # asks for the layout of tensors, which are there in a run only

    def run(self, counters: Counters, report: _Report) -> None:
        if not self.instances:
            return
        threads, plan = min(self.threads, self.instances), self.plan
        idle = iter(self.workers.copy())

        def worker() -> Callable[[Point], None]:
            made = next(idle, None)
            if made is None:
                made = Worker(plan)
                self.workers.append(made)

            def run(point: Point) -> None:
                made.run(point)
                report.after()

            return run

        with blas_limited(max(1, self.threads // threads)):
            for_each(self._points(), worker, threads)
        self._count(counters, threads)

    def _points(self) -> Iterable[Point]:
        listed = any(isinstance(n, For) and n.lists for n in inside(self.kernel.body))
        if listed or self.instances > REMEMBERED:
            return heavy_first(self.context, self.counts)
        return self._order

    @cached_property
    def _order(self) -> list[Point]:
        return list(heavy_first(self.context, self.counts))

    def _count(self, counters: Counters, threads: int) -> None:
        for node in inside(self.kernel.body):
            match node:
                case For(place=place):
                    counters.passes[self.kernel.name, place.rank] += 1
                case Seq(places=(first, *_)):
                    counters.passes[self.kernel.name, first.rank] += 1
        held: dict[Hashable, int] = {}
        for w in self.workers:
            w.count(counters)
            for key, size in w.held().items():
                held[key] = max(size, held.get(key, 0))
        counters.peak_bytes = max(counters.peak_bytes, threads * sum(held.values()))


class _Report:
    """Tells how far a run is, after each instance."""

    def __init__(self, total: int, progress: Progress | None):
        self.progress, self.total = progress, total
        self.done = 0

    def after(self) -> None:
        if self.progress is not None:
            self.done += 1
            self.progress(self.done, self.total)


def _memory(
    buffer: Buffer, arrays: Mapping[str, Array], scalars: Mapping[str, Number], real: np.dtype[Any]
) -> Array:
    """The argument, or new memory for what the program writes."""
    shape = tuple(int(evaluate(e, scalars.__getitem__)) for e in buffer.shape)
    if buffer.kind == "in":
        array = np.asarray(arrays[buffer.name])
        if array.shape != shape:
            raise ValueError(f"`{buffer.name}` has shape {array.shape}, and needs {shape}")
        return array
    return np.zeros(shape, _type_of(buffer, arrays, real))


def _type_of(buffer: Buffer, arrays: Mapping[str, Array], real: np.dtype[Any]) -> np.dtype[Any]:
    if buffer.kind == "out" and buffer.dtype in TYPES:
        return np.dtype(TYPES[buffer.dtype])
    kind = "real" if buffer.dtype in ("real", "any") else declared_kind(buffer.dtype)
    if kind != "real":
        return INT if kind == "int" else BOOL
    if buffer.kind == "temp" and buffer.like is not None:
        like = np.asarray(arrays[buffer.like]).dtype
        if like.kind == "f" and like.itemsize <= real.itemsize:
            return like
    return real
