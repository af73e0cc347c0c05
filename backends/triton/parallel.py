"""Compiles the kernels of several emitted modules at once, in threads, and launches none.

A module is called as it is to be run, with its kernels replaced by what compiles them for the same
arguments: what a later call needs is then there. Most of a compilation is outside of Python.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import ModuleType
from typing import Any

LATE = "not compiled in time"
Job = tuple[ModuleType, Callable[[], object]]  # a module, and a call of it


def compile_all(jobs: Sequence[Job], seconds: float) -> list[str]:
    """What kept each job from being compiled, "" where nothing did. After so many seconds no
    further compilation is begun; that of the first job is, in any case.
    """
    import triton

    if not hasattr(triton, "AsyncCompileMode"):  # of triton 3.4 and later
        return [""] * len(jobs)
    until = time.monotonic() + seconds
    found: list[str] = []
    pending: list[list[Future[Any]]] = []
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        triton.AsyncCompileMode(pool, ignore_errors=True) as mode,
    ):
        for module, call in jobs:
            begun = len(mode.raw_futures)
            try:
                with _compiling(module):
                    call()
                found.append("")
            except Exception as error:  # of the arguments: running it says the same
                found.append(described(error))
            pending.append(mode.raw_futures[begun:])
        for futures in pending[:1]:
            wait(futures)
        wait(mode.raw_futures, timeout=max(0.0, until - time.monotonic()))
        for future in mode.raw_futures:
            future.cancel()
    return [text or _reason(futures) for text, futures in zip(found, pending, strict=True)]


def _reason(futures: list[Future[Any]]) -> str:
    if any(f.cancelled() for f in futures):
        return LATE
    errors = (f.exception() for f in futures)
    return next((described(e) for e in errors if e is not None), "")


def described(error: BaseException) -> str:
    """An error on one line of a table."""
    lines = str(error).strip().splitlines() or [""]
    reason = lines[-1] if lines[0].startswith("at ") else lines[0]  # after an excerpt of the source
    return f"{type(error).__name__}: {reason.strip()[:60]}"


@contextmanager
def _compiling(module: ModuleType) -> Iterator[None]:
    """The module with kernels that are compiled where they would be launched."""
    from triton.runtime.jit import JITFunction

    kernels = {n: k for n, k in vars(module).items()
               if n.endswith("_kernel") and isinstance(k, JITFunction)}  # fmt: skip
    vars(module).update((n, _Compiled(k)) for n, k in kernels.items())
    try:
        yield
    finally:
        vars(module).update(kernels)


class _Compiled:
    def __init__(self, kernel: Any):
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        return lambda *args, **options: self.kernel.warmup(*args, grid=grid, **options)
