"""One Python thread for each instance at a time, and BLAS kept to what is left of the machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")

_lock = threading.Lock()
_running: dict[str, Any] = {"number": 0, "limits": None}


def available() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def blas_limited(threads: int) -> Iterator[None]:
    """BLAS on so many threads; as before once the last of several runs at a time is over."""
    with _lock:
        _running["number"] += 1
        if _running["number"] == 1:
            _running["limits"] = _controller().limit(limits=threads, user_api="blas")
    try:
        yield
    finally:
        with _lock:
            _running["number"] -= 1
            if _running["number"] == 0:
                _running["limits"].restore_original_limits()
                _running["limits"] = None


def for_each(items: Iterable[T], make: Callable[[], Callable[[T], None]], threads: int) -> None:
    """Run every item, the first ones first, on so many threads; each makes its own runner."""
    if threads <= 1:
        run = make()
        for item in items:
            run(item)
        return
    queue = iter(items)
    lock = threading.Lock()
    stopped = threading.Event()

    def work() -> None:
        try:
            run = make()
            while not stopped.is_set():
                with lock:
                    item = next(queue, stopped)
                if item is stopped:
                    return
                run(item)  # type: ignore[arg-type]
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(threads)]:
            future.result()
