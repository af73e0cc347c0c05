"""A comparison as a picture: a bar of time for each candidate, ours first, and the roofline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cascade.backends.canvas import canvas

OURS, PEER, FLOOR = "#2a6f97", "#b8b8b8", "#c1121f"


def draw(found: Mapping[str, Any], path: str) -> None:
    """Write the rows of `cascade bench` to an .svg or .png file. Raises `InputError`."""
    rows = [r for r in found["rows"] if r["name"] != "cascade again"]
    times = [1e3 * r["median_s"] for r in rows]
    with canvas(path, (7, 1.2 + 0.4 * len(rows))) as axes:
        colours = [OURS if r["name"] == "cascade" else PEER for r in rows]
        bars = axes.barh([r["name"] for r in rows], times, color=colours)
        axes.bar_label(bars, [f"{r['ratio']:.2f}" for r in rows], padding=4)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel("median time in ms; the number is the time of a peer by ours")
        if found["roofline"] is not None:
            floor = found["roofline"]
            axes.axvline(1e3 * floor["floor_s"], color=FLOOR, linestyle="--")
            axes.set_xlabel(f"{axes.get_xlabel()}; dashed: {floor['target']}")
        extents = ", ".join(f"{n}={v}" for n, v in found["extents"].items() if v is not None)
        axes.set_title(f"{found['spec']}, {found['dtype']}, {extents}", loc="left", size=10)
