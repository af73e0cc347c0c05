"""Runs a Program over NumPy arrays, kernel after kernel, and counts what it does.

    result = run(program, {"Q": q, "K": k, "V": v}, {"B": 1, "H": 4, "P": 4096, ...})
    result.outputs["O"], result.counters

Real numbers are float32: other inputs are converted tile by tile, never as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.backends.tiled.counters import Counters
from cascade.backends.tiled.instance import Plan, Point, Worker
from cascade.backends.tiled.known import Context
from cascade.backends.tiled.tape import BOOL, INT, Array
from cascade.backends.tiled.threads import available, blas_limited, for_each
from cascade.backends.tiled.weigh import heavy_first
from cascade.ir.extents import Number, evaluate
from cascade.ir.kinds import declared_kind
from cascade.schedule.program import Buffer, For, Kernel, Program, Seq, inside

TYPES = {
    "f64": np.float64, "f16": np.float16, "i64": np.int64, "i32": np.int32, "i16": np.int16,
    "i8": np.int8, "u8": np.uint8, "bool": np.bool_,
}  # fmt: skip
WORTHWHILE = 2**17  # numbers in all tensors, from which on threads pay

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
    real = np.dtype(dtype)
    threads = threads or _threads(program, scalars)
    tensors = {b.name: _memory(b, arrays, scalars, real) for b in program.buffers}
    counters = Counters(threads=threads)
    report = _Report(program, scalars, progress)
    with np.errstate(all="ignore"):
        for kernel in program.kernels:
            _launch(kernel, tensors, scalars, real, counters, report)
    outputs = {b.name: tensors[b.name] for b in program.buffers if b.kind == "out"}
    return Result(outputs, counters)


def _threads(program: Program, scalars: Mapping[str, Number]) -> int:
    """One for tensors so small that a second thread costs more than it does."""
    sizes = (
        math.prod(int(evaluate(e, scalars.__getitem__)) for e in b.shape) for b in program.buffers
    )
    return available() if sum(sizes) >= WORTHWHILE else 1


def _launch(
    kernel: Kernel,
    tensors: Mapping[str, Array],
    scalars: Mapping[str, Number],
    real: np.dtype[Any],
    counters: Counters,
    report: _Report,
) -> None:
    context = Context(kernel, scalars, tensors, real)
    counts = _grid(kernel, scalars)
    number = math.prod(counts)
    if not number:
        return
    threads = min(counters.threads, number)
    plan = Plan(context)
    workers: list[Worker] = []

    def worker() -> Callable[[Point], None]:
        made = Worker(plan)
        workers.append(made)

        def run(point: Point) -> None:
            made.run(point)
            report.after()

        return run

    with blas_limited(max(1, counters.threads // threads)):
        for_each(heavy_first(context, counts), worker, threads)
    for node in inside(kernel.body):
        match node:
            case For(place=place):
                counters.passes[kernel.name, place.rank] += 1
            case Seq(places=(first, *_)):
                counters.passes[kernel.name, first.rank] += 1
    held: dict[Hashable, int] = {}
    for w in workers:
        w.count(counters)
        for key, size in w.held().items():
            held[key] = max(size, held.get(key, 0))
    counters.peak_bytes = max(counters.peak_bytes, threads * sum(held.values()))


def _grid(kernel: Kernel, scalars: Mapping[str, Number]) -> list[int]:
    return [int(evaluate(g.count, scalars.__getitem__)) for g in kernel.grid]


class _Report:
    """Tells how far a run is, after each instance."""

    def __init__(self, program: Program, scalars: Mapping[str, Number], progress: Progress | None):
        self.progress = progress
        self.done = self.total = 0
        if progress is not None:
            self.total = sum(math.prod(_grid(k, scalars)) for k in program.kernels)

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
