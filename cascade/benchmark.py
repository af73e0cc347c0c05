"""How fast cascade itself is: start-up, checking, analysis. Times are medians, and never
asserted in a test.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path

from cascade import api
from cascade.analysis.tables import seconds, table

Progress = Callable[[int, int], None]
KERNELS = ("causal", "attention", "grouped_query")
SIZES = (1_000, 2_500, 5_000, 10_000)  # statements


@dataclass(frozen=True)
class Measurement:
    """One row: what was measured, the median in seconds, and what it should stay under (None: no
    limit).
    """

    name: str
    median_s: float
    runs: int
    limit_s: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def chain_text(statements: int) -> str:
    """A spec with this many statements: scores, maps and row sums in turn, each reading the one
    before.
    """
    lines = ["cascade chain", "input Q[p,e], K[m,e]", "T0[p,m] = Q[p,e] * K[m,e] where m <= p"]
    for n in range(1, statements - 1):
        previous = f"T{n - 1}[p,m]"
        if n % 3 == 0:
            lines.append(f"T{n}[p,m] = {previous} - max[m]({previous})")
        elif n % 3 == 1:
            lines.append(f"T{n}[p,m] = tanh({previous}) * 0.5 + 1.0 where m - p <= {n}")
        else:
            lines.append(
                f"T{n}[p,m] = select(m % 2 == 0, {previous}, -{previous}) / (1 + {previous}**2)"
            )
    lines.append(f"Z[p] = sum[m](T{statements - 2}[p,m])")
    return "\n".join([*lines, "output Z", ""])


def measure(repeat: int, progress: Progress | None = None) -> list[Measurement]:
    """All measurements, each `repeat` times."""
    spec = tempfile.NamedTemporaryFile("w", suffix=".cascade", delete=False)
    with spec:
        spec.write(api.example_text("attention"))
    jobs: list[Callable[[], Measurement]] = [
        lambda: _cold("cascade --version, cold", ["--version"], 0.15, repeat),
        lambda: _cold("cascade check attention, cold", ["check", spec.name], 0.6, repeat),
        lambda: _warm(
            "parse and check, 1,000 statements", lambda: api.parse(chain_text(1000)), 2.0, repeat
        ),
    ]
    jobs += [lambda: _derivation("attention", 0.5, repeat), lambda: _slowest_derivation(repeat)]
    jobs += [lambda name=name: _source(name, 0.15, repeat) for name in KERNELS]  # type: ignore[misc]
    jobs += [lambda size=size: _analysis(size, repeat) for size in SIZES]  # type: ignore[misc]
    rows: list[Measurement] = []
    try:
        for n, job in enumerate(jobs):
            rows.append(job())
            if progress is not None:
                progress(n + 1, len(jobs))
    finally:
        Path(spec.name).unlink()
    return rows


def _derivation(name: str, limit: float, repeat: int) -> Measurement:
    spec = api.parse(api.example_text(name), f"{name}.cascade")
    api.derive(spec)
    return _warm(f"derive {name}, after import", lambda: api.derive(spec), limit, repeat)


def _source(name: str, limit: float, repeat: int) -> Measurement:
    """From the text of a spec to that of its Triton kernels; each time of another name, as forms
    are remembered.
    """
    from cascade.backends.triton.tiles import first

    text = api.example_text(name)
    numbers = count()

    def once() -> None:
        spec = api.parse(text.replace(f"cascade {name}", f"cascade {name}{next(numbers)}", 1))
        first(spec, {"e": 64, "f": 64})

    once()
    return _warm(f"Triton source of {name}, after import", once, limit, repeat)


def _slowest_derivation(repeat: int) -> Measurement:
    """The example that takes longest."""
    rows = [_derivation(name, 5.0, min(repeat, 3)) for name in api.list_examples()]
    worst = max(rows, key=lambda r: r.median_s)
    return replace(worst, name=f"{worst.name} (the slowest example)")


def _cold(name: str, arguments: list[str], limit: float, repeat: int) -> Measurement:
    """A fresh process, start to end."""
    command = [sys.executable, "-m", "cascade", *arguments]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}

    def once() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)

    once()
    return _warm(name, once, limit, max(repeat, 5))


def _warm(name: str, job: Callable[[], object], limit: float | None, repeat: int) -> Measurement:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return Measurement(name, statistics.median(times), repeat, limit)


def _analysis(size: int, repeat: int) -> Measurement:
    spec = api.parse(chain_text(size))
    result = _warm(f"analyse, {size:,} statements", lambda: api.analyse(spec), None, min(repeat, 3))
    note = f"{seconds(result.median_s / size)} a statement"
    return Measurement(result.name, result.median_s, result.runs, None, note)


def report(rows: list[Measurement]) -> str:
    lines = [
        [
            r.name,
            seconds(r.median_s),
            f"under {seconds(r.limit_s)}: {'yes' if r.median_s < r.limit_s else 'NO'}"
            if r.limit_s
            else r.note,
        ]
        for r in rows
    ]
    return table(["measurement", "median", "limit"], lines)
