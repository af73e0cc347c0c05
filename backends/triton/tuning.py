"""Candidates timed where they run, and what was found kept on disk.

Timing goes through a `Timer`, a function from a call to seconds: on a device that of `by_events`.
What is found for a kind of call is a small JSON file, named after a hash of its key: the text of
the cascade, device, types, extents up to a power of two, what is set by hand, versions. A file is
written whole or not at all, and one that is not what it should be counts as none. Of several
processes that want the same, one measures and the others wait for what it finds.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cascade.analysis.tables import seconds as shown_seconds
from cascade.analysis.tables import table
from cascade.backends.triton.parallel import described
from cascade.backends.triton.tiles import Candidate

Call = Callable[[], object]
Timer = Callable[[Call], float]
Key = Mapping[str, Any]

FORMAT = 1  # of the files
ROUNDS, LEAST_ROUNDS = 15, 3
LONGEST = 0.15  # seconds in which a candidate is called again and again
USUAL_CACHE = 2**26  # bytes of the second-level cache, where nothing says another number
AHEAD = 8  # times that twice the cache is written over before a call: about 0.3 ms on an H100
LARGEST = 4096  # rows or coordinates of a tile in a file that is believed


@dataclass(frozen=True)
class Tried:
    """A candidate, what the model says of it, and what was measured, or why nothing was."""

    candidate: Candidate
    predicted: float | None
    seconds: float | None
    error: str = ""


@dataclass(frozen=True)
class Tuning:
    """What was tried for one kind of call. `chosen` is None where nothing could be run: then the
    model chooses. `left_out` counts candidates that cannot fit, by what they lack.
    """

    name: str
    device: str
    tried: tuple[Tried, ...]
    chosen: Candidate | None
    left_out: Mapping[str, int] = field(default_factory=dict)
    kept: bool = False  # whether it comes from a file

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(found: Mapping[str, Any]) -> Tuning:
        """From a dictionary. Raises `ValueError`, `KeyError` or `TypeError` for another one."""
        tried = tuple(
            Tried(
                _candidate(t["candidate"]), _time(t["predicted"]), _time(t["seconds"]),
                str(t["error"]),
            )
            for t in found["tried"]
        )  # fmt: skip
        chosen = _candidate(found["chosen"])
        if not any(t.candidate == chosen and t.seconds is not None for t in tried):
            raise ValueError("what is chosen was not measured")
        left_out = {str(n): int(v) for n, v in found["left_out"].items()}
        return Tuning(str(found["name"]), str(found["device"]), tried, chosen, left_out, True)

    def __str__(self) -> str:
        header = ["rows", "stream", "warps", "stages", "model", "measured", ""]
        rows = [_row(t, t.candidate == self.chosen) for t in self.tried]
        source = "from an earlier run" if self.kept else "measured now"
        lines = [f"{self.name} on {self.device}, {source}"]
        lines += [table(header, rows, indent="")] if rows else []
        lines += [f"left out for lack of {what}: {n}" for what, n in self.left_out.items()]
        return "\n".join(lines)


def _row(t: Tried, is_chosen: bool) -> list[str]:
    c = t.candidate
    times = [shown_seconds(s) if s is not None else "-" for s in (t.predicted, t.seconds)]
    return [
        str(c.rows), str(c.stream), str(c.warps), str(c.stages), *times,
        "chosen" if is_chosen else t.error,
    ]  # fmt: skip


def _candidate(found: Mapping[str, Any]) -> Candidate:
    made = Candidate(*(found[n] for n in ("rows", "stream", "warps", "stages")))
    for n in (made.rows, made.stream, made.warps):
        if type(n) is not int or not 0 < n <= LARGEST or n & (n - 1):
            raise ValueError(f"{n!r} is no size")
    if type(made.stages) is not int or not 0 < made.stages < 16 or made.warps > 32:
        raise ValueError("no launch has these")
    return made


def _time(found: object) -> float | None:
    if found is None:
        return None
    if type(found) not in (int, float) or not 0 < found < math.inf:  # type: ignore[operator]
        raise ValueError(f"{found!r} is no time")
    return float(found)  # type: ignore[arg-type]


# -- measuring
def measured(
    candidates: Sequence[tuple[Candidate, float | None]],
    build: Callable[[Candidate], Call],
    timer: Timer,
    dropped: Mapping[Candidate, str] | None = None,
) -> tuple[tuple[Tried, ...], Candidate | None]:
    """Every candidate timed, and the fastest. One that cannot be built or run is dropped, as are
    those that are known to fail, with the reason.
    """
    known = dropped or {}
    tried = tuple(
        Tried(c, predicted, None, known[c]) if c in known else _tried(c, predicted, build, timer)
        for c, predicted in candidates
    )
    ran = [t for t in tried if t.seconds is not None]
    best = min(ran, key=lambda t: t.seconds or math.inf, default=None)
    return tried, best.candidate if best is not None else None


def _tried(
    candidate: Candidate,
    predicted: float | None,
    build: Callable[[Candidate], Call],
    timer: Timer,
) -> Tried:
    try:
        return Tried(candidate, predicted, _time(timer(build(candidate))))
    except Exception as error:  # of the compiler, the assembler, the driver: whatever it is
        return Tried(candidate, predicted, None, described(error))


def by_events(call: Call) -> float:
    """Seconds of a call on the current device: the median of several rounds."""
    return statistics.median(times for (times,) in times_by_events([call], ROUNDS, LONGEST))


def times_by_events(
    calls: Sequence[Call], rounds: int, longest: float = math.inf
) -> list[list[float]]:
    """Seconds of each call, one after another in each round; fewer rounds where a call takes more
    than `longest` seconds in all of them. A first call of each, which may compile, is not counted.

    Before each call the second-level cache is written over, several times: the device is then
    behind the processor, and does not wait for a launch between two events.
    """
    import torch

    for call in calls:
        call()
    other = _other_memory()
    event: Any = torch.cuda.Event

    def a_round() -> list[tuple[Any, Any]]:
        pairs = []
        for call in calls:
            for _ in range(AHEAD):
                other.zero_()
            pairs.append((event(enable_timing=True), event(enable_timing=True)))
            pairs[-1][0].record()
            call()
            pairs[-1][1].record()
        return pairs

    def seconds(pairs: list[tuple[Any, Any]]) -> list[float]:
        torch.cuda.synchronize()
        return [float(start.elapsed_time(end)) / 1e3 for start, end in pairs]

    first = seconds(a_round())
    if longest < math.inf:
        rounds = min(rounds, max(LEAST_ROUNDS, int(longest / max(*first, 1e-6))))
    return [seconds(pairs) for pairs in [a_round() for _ in range(rounds)]]


def _other_memory() -> Any:
    """Memory that fills the second-level cache, if there is so much left."""
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    cache = getattr(properties, "L2_cache_size", 0) or USUAL_CACHE
    try:
        return torch.empty(2 * cache, dtype=torch.int8, device="cuda")
    except torch.cuda.OutOfMemoryError:
        return torch.empty(0, dtype=torch.int8, device="cuda")


# -- on disk
def bucket(extent: int) -> int:
    """The next power of two: what is found for one length is used up to there."""
    return 1 << max(0, extent - 1).bit_length()


@dataclass(frozen=True)
class Store:
    """Files of a folder. What cannot be read or written is as if it were not there."""

    folder: Path

    def path(self, key: Key) -> Path:
        text = json.dumps(key, sort_keys=True)
        return self.folder / f"tuning_{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def read(self, key: Key) -> Tuning | None:
        try:
            found = json.loads(self.path(key).read_text(encoding="utf-8"))
            if found["format"] != FORMAT or found["key"] != json.loads(json.dumps(key)):
                return None
            return Tuning.of(found["tuning"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, key: Key, tuning: Tuning) -> None:
        entry = {"format": FORMAT, "key": key, "tuning": tuning.to_dict()}
        new: str | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=self.folder, delete=False, suffix=".tmp", encoding="utf-8"
            ) as file:
                new = file.name
                json.dump(entry, file, indent=2)
            os.replace(new, self.path(key))  # whole or not at all, whoever else writes it
        except OSError:
            if new is not None:
                Path(new).unlink(missing_ok=True)

    @contextmanager
    def locked(self, key: Key) -> Iterator[None]:
        """Of several processes one at a time. The lock of a process that dies is free."""
        handle = self._lock(key)
        try:
            yield
        finally:
            if handle is not None:
                _release(handle)

    def _lock(self, key: Key) -> int | None:
        try:
            import fcntl
        except ImportError:
            return None
        handle: int | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.path(key).with_suffix(".lock")
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: processes may then measure twice
            if handle is not None:
                os.close(handle)
            return None
        return handle


def _release(handle: int) -> None:
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_UN)  # a process that was forked meanwhile has it, too
    os.close(handle)


def tuned(store: Store, key: Key, measure: Callable[[], Tuning]) -> Tuning:
    """What is on disk for a key, else what is measured now."""
    found = store.read(key)
    if found is not None:
        return found
    with store.locked(key):
        found = store.read(key)  # another process may have been first
        if found is not None:
            return found
        made = replace(measure(), kept=False)
        if made.chosen is not None:
            store.write(key, made)
        return made


def versions() -> dict[str, str]:
    """Of what a kernel is made by."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        compiler = version("triton")
    except PackageNotFoundError:
        compiler = ""
    return {"cascade": sys.modules["cascade"].__version__, "triton": compiler}
