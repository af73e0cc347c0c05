"""Results of `cascade model` as pictures: bars of utilisation, lines over a sweep, and area against
latency.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cascade.backends.canvas import COLOURS, canvas
from cascade.diagnostics import input_error

KINDS = ("utilisation", "latency", "speedup", "energy", "pareto")

Row = Mapping[str, Any]


def draw(
    rows: list[Row] | list[dict[str, Any]], names: tuple[str, ...], kind: str, path: str
) -> None:
    """Write rows to an .svg or .png file. `names` are the swept extents. Raises `InputError`."""
    with canvas(path, (7, 3.6)) as axes:
        if kind == "utilisation":
            _bars(axes, rows, names)
        elif kind == "pareto":
            _pareto(axes, rows)
        else:
            _lines(axes, rows, names, kind)


def _label(row: Row, rows: list[Any]) -> str:
    specs = {r["spec"] for r in rows}
    targets = {r["target"] for r in rows}
    parts = [row["spec"]] if len(specs) > 1 else []
    parts += [row["target"]] if len(targets) > 1 or not parts else []
    return ", ".join(parts)


def _short(value: int) -> str:
    for unit, size in (("M", 2**20), ("K", 2**10)):
        if value % size == 0 and value:
            return f"{value // size}{unit}"
    return str(value)


def _bars(axes: Any, rows: list[Any], names: tuple[str, ...]) -> None:
    arrays = [k for k in rows[0] if k.startswith("utilisation_")]
    width = 0.8 / len(arrays)
    labels = ["\n".join([_label(r, rows), *([_short(r[names[0]])] if names else [])]) for r in rows]
    for n, array in enumerate(arrays):
        places = [i + (n - (len(arrays) - 1) / 2) * width for i in range(len(rows))]
        name = array.removeprefix("utilisation_").upper() + " array"
        axes.bar(places, [r[array] for r in rows], width, color=COLOURS[n], label=name)
    axes.set_xticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("utilisation")
    axes.figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=8)


def _value(row: Row, kind: str) -> float:
    if kind == "latency":
        return float(row["latency_s"])
    if kind == "speedup":
        return float(row["speedup"])
    ratio = row.get("energy_ratio")
    return float(ratio["published"] if ratio else row["energy_j"]["published"])


def _lines(axes: Any, rows: list[Any], names: tuple[str, ...], kind: str) -> None:
    if not names:
        raise input_error(
            "plot", f"a picture of {kind} needs a sweep", "add `--sweep M=1024:65536`"
        )
    if kind == "speedup" and "speedup" not in rows[0]:
        raise input_error("plot", "a speedup needs a baseline", "add `--baseline flat`")
    lines: dict[str, list[tuple[int, float]]] = {}
    for r in rows:
        lines.setdefault(_label(r, rows), []).append((r[names[0]], _value(r, kind)))
    for n, (label, points) in enumerate(lines.items()):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker="o", markersize=3, color=COLOURS[n % len(COLOURS)], label=label)
    axes.set_xscale("log", base=2)
    values = sorted({r[names[0]] for r in rows})
    axes.set_xticks(values, [_short(v) for v in values], fontsize=8)
    axes.minorticks_off()
    if kind == "latency":
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    against = f" against {rows[0]['baseline']}" if "baseline" in rows[0] else ""
    units = {"latency": "seconds", "speedup": f"speedup{against}"}
    energy = f"energy{against}" if against else "energy, J"
    axes.set_ylabel(units.get(kind, f"{energy} (published account)"))
    axes.set_xlabel(names[0])
    axes.figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=8)


def _pareto(axes: Any, rows: list[Any]) -> None:
    """Area against latency, points that no other beats in both joined."""
    points = sorted((r["area_cm2"], r["latency_s"], _label(r, rows)) for r in rows)
    best: list[tuple[float, float]] = []
    for area, latency, _ in points:
        if not best or latency < best[-1][1]:
            best.append((area, latency))
    axes.plot(*zip(*best, strict=True), color=COLOURS[0], linewidth=1)
    for area, latency, label in points:
        axes.plot([area], [latency], marker="o", color=COLOURS[0])
        axes.annotate(label, (area, latency), textcoords="offset points", xytext=(5, 4), fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("area, cm² (arrays and buffer)")
    axes.set_ylabel("seconds")
