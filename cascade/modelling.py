"""`cascade model`: costs of cascades on spatial targets, at one point or over a sweep, as a table,
CSV, JSON or a picture.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cascade import api
from cascade.diagnostics import input_error
from cascade.ir.extents import Number
from cascade.spatial.epoch_text import Plan
from cascade.spatial.model import (
    form_of,
    model,
    model_linear,
    plan,
    statements_of,
    workload_settings,
)
from cascade.spatial.result import Result
from cascade.spatial.target import SpatialTarget, load_spatial
from cascade.spatial.workload import load_workload

Progress = Callable[[int, int], None]
Row = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """Names that take the same values, one after another."""

    names: tuple[str, ...] = ()
    values: tuple[int, ...] = (0,)


def read_sweep(text: str) -> Sweep:
    """`M=1024:1048576` doubles from the first to the last; `M=1024:1048576:4` takes fours;
    `M=3000,5000` takes the values given; `M,P=…` sets several. Raises `InputError`.
    """
    names, separator, values = text.partition("=")
    chosen = tuple(n.strip() for n in names.split(","))
    parts = values.split(":") if ":" in values else values.split(",")
    wrong = input_error(
        "sweep",
        f"{text!r} is no sweep",
        "write `M=1024:1048576` (doubling), `M=1024:1048576:4` (by fours) or `M=1000,3000`",
    )
    if not separator or not all(n.isidentifier() for n in chosen):
        raise wrong
    if not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        raise wrong
    numbers = [int(p) for p in parts]
    if ":" not in values:
        return Sweep(chosen, tuple(numbers))
    first, last, factor = numbers if len(numbers) == 3 else (*numbers[:2], 2)
    if len(numbers) > 3 or factor < 2 or first > last:
        raise wrong
    found = []
    while first <= last:
        found.append(first)
        first *= factor
    return Sweep(chosen, tuple(found))


@dataclass(frozen=True)
class Request:
    """What to compute: each spec on each target at each point of the sweep. Ratios are against
    `baseline` (a target), of the same spec at the same point.
    """

    specs: tuple[str, ...]
    targets: tuple[str, ...]
    settings: Mapping[str, Number]
    sweep: Sweep = Sweep()
    workload: str | None = None
    form: str | None = None
    baseline: str | None = None


def compute(request: Request, progress: Progress | None = None) -> list[Row]:
    """A row for each run, with the whole result under `result`. Raises `CascadeError`."""
    names = tuple(dict.fromkeys((*request.targets, *filter(None, [request.baseline]))))
    targets = {name: load_spatial(name) for name in names}
    loaded = {spec: api.load(spec) for spec in request.specs}
    points = [(s, v) for s in request.specs for v in request.sweep.values]
    found: list[Row] = []
    for n, (spec, value) in enumerate(points):
        runs = {
            name: _run(loaded[spec], target, request, value) for name, target in targets.items()
        }
        base = runs[request.baseline] if request.baseline else None
        for name in request.targets:
            found.append(_row(spec, name, request, value, runs[name], base))
        if progress is not None:
            progress(n + 1, len(points))
    return found


def _run(spec: Any, target: SpatialTarget, request: Request, value: int) -> Result:
    return model(spec, target, _settings(spec, target, request, value), request.form)


def _settings(spec: Any, target: SpatialTarget, request: Request, value: int) -> dict[str, Number]:
    """Extents of the workload, then those given, then those swept."""
    settings = dict(request.settings)
    length = value if request.sweep.names else None
    if request.workload is not None:
        workload = load_workload(request.workload)
        ranks = [r.upper() for r in workload.length_ranks]
        lengths = [settings[r] for r in ranks if r in settings]
        if length is None and not any(r in spec.rank for r in workload.length_ranks):
            length = 1  # the spec has no such rank
        if length is None:
            if not lengths:
                raise input_error(
                    "unknown-extent",
                    f"the workload {workload.name} has no length",
                    f"set it: `--set {ranks[0] if ranks else 'M'}=…`, or sweep it",
                )
            length = int(lengths[0])
        extents = workload_settings(workload, length)
        settings = {**{n: v for n, v in extents.items() if n.lower() in spec.rank}, **settings}
    settings |= dict.fromkeys(request.sweep.names, value) if request.sweep.names else {}
    return _completed(spec, target, settings, request.form)


def _completed(
    spec: Any, target: SpatialTarget, settings: dict[str, Number], form: str | None
) -> dict[str, Number]:
    """Self-attention where nothing else is said: a query rank without an extent is as long as the
    streamed one.
    """
    found = statements_of(form_of(spec, form or target.form), target.dataflow == "stream")
    length = settings.get(found.streamed.upper())
    if length is not None:
        for rank in found.query:
            settings.setdefault(rank.upper(), length)
    return settings


def _row(
    spec: str, target: str, request: Request, value: int, run: Result, base: Result | None
) -> Row:
    row: Row = {"spec": run.name, "target": target}
    row |= dict.fromkeys(request.sweep.names, value) if request.sweep.names else {}
    row["area_cm2"] = load_spatial(target).area
    row |= {k: v for k, v in run.to_dict().items() if k not in ("cascade", "target")}
    if base is not None:
        row["baseline"] = request.baseline
        row["speedup"] = base.latency / run.latency
        row["energy_ratio"] = {
            "published": run.published.total / base.published.total,
            "charged": run.charged.total / base.charged.total,
        }
    return row


def linear_row(workload: str, target: str, length: int) -> Row:
    """The linear layers of a workload, as a row."""
    run = model_linear(load_workload(workload), load_spatial(target), length)
    return {"spec": run.name, "target": target, **run.to_dict()}


def schedule(
    spec: str,
    target: str,
    settings: Mapping[str, Number],
    workload: str | None = None,
    form: str | None = None,
) -> Plan:
    """The schedule of a spec on a spatial target. Raises `CascadeError`."""
    loaded, array = api.load(spec), load_spatial(target)
    request = Request((spec,), (target,), settings, workload=workload, form=form)
    return plan(loaded, array, _settings(loaded, array, request, 0), form)


def draw_schedule(found: Plan, path: str) -> None:
    from cascade.backends.gantt import draw

    draw(found, path)


# -- as text
def seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def amount(value: float, unit: str) -> str:
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def table(rows: list[Row], names: tuple[str, ...]) -> Any:
    """A rich table of the rows. Energy is given in both accounts."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    found = Table(box=SIMPLE_HEAD)
    arrays = [k.removeprefix("utilisation_") for k in rows[0] if k.startswith("utilisation_")]
    for name in ("spec", "target", *names):
        found.add_column(name, justify="right" if name in names else "left")
    headings = ["latency", "bound", *(f"{a} use" for a in arrays), "traffic"]
    headings += ["energy", "charged"]
    if "speedup" in rows[0]:
        headings += ["speedup", "energy ×", "charged ×"]
    for heading in headings:
        found.add_column(heading, justify="right")
    for r in rows:
        cells = [r["spec"], r["target"], *(f"{r[n]:,}" for n in names)]
        cells += [seconds(r["latency_s"]), r["bound"]]
        cells += [f"{r[f'utilisation_{a}']:.3f}" for a in arrays]
        cells.append(amount(r["traffic_bytes"], "B"))
        cells += [amount(r["energy_j"][k], "J") for k in ("published", "charged")]
        if "speedup" in r:
            cells.append(f"{r['speedup']:.3f}")
            cells += [f"{r['energy_ratio'][k]:.3f}" for k in ("published", "charged")]
        found.add_row(*cells)
    return found


def statement_table(row: Row) -> Any:
    """The binding of one run: statements, arrays, cycles of a tile, utilisation."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    found = Table(box=SIMPLE_HEAD, title=f"{row['spec']} on {row['target']}", title_justify="left")
    for name in ("statement", "operations", "array", "phase"):
        found.add_column(name)
    for name in ("cycles", "utilisation"):
        found.add_column(name, justify="right")
    for s in row["statements"]:
        found.add_row(
            s["statement"] + (" (once a query tile)" if s["epilogue"] else ""),
            ", ".join(s["operations"]),
            s["array"],
            str(s["phase"]),
            str(s["cycles_per_tile"]),
            f"{s['utilisation']:.4f}",
        )
    return found


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line a row; nested values as columns `energy_j.published`, lists left out."""
    flat = [dict(_flattened(r)) for r in rows]
    columns = list(dict.fromkeys(k for r in flat for k in r))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _flattened(row: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            yield f"{prefix}{key}", value


def draw(rows: list[Row], names: tuple[str, ...], kind: str, path: str) -> None:
    """Write a picture of the rows. Raises `InputError`."""
    from cascade.backends import plots

    plots.draw(rows, names, kind, path)
