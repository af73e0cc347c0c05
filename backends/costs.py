"""Costs as pictures: rooflines of specs on targets, and eFLOPs of decoding as the output grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.backends.canvas import COLOURS, canvas

Row = Mapping[str, Any]
NAMED = 12  # specs up to which each point has its name


def draw_decoding(results: Sequence[Row], path: Path) -> None:
    """eFLOPs of attention against the tokens made, a line for each spec, and of the parameters."""
    with canvas(path, (7, 3.6)) as axes:
        for n, r in enumerate(results):
            tokens = [p["tokens"] for p in r["points"]]
            total = [p["compute"] + p["memory"] for p in r["points"]]
            colour = COLOURS[n % len(COLOURS)]
            axes.plot(tokens, total, marker="o", markersize=3, color=colour, label=r["spec"])
        shared = results[0]["points"]
        if shared[-1]["parameters"]:
            line = [[p[k] for p in shared] for k in ("tokens", "parameters")]
            axes.plot(*line, color="black", linestyle="--", label="parameters")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("tokens")
        axes.set_ylabel(f"eFLOPs ({results[0]['target']})")
        axes.figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)


def draw_roofs(rows: Sequence[Row], path: Path) -> None:
    """The roof of each target, and each spec under it at its intensity.

    A point is at the speed of its floor: below the roof where exponentials or other operations
    bound it, and not multiply-accumulates.
    """
    roofs = {r["target"]: (r["balance"], r["peak"]) for r in rows}
    shown = [r["intensity"] for r in rows] + [balance for balance, _ in roofs.values()]
    span = (min(shown) / 2, max(shown) * 2)
    with canvas(path, (7, 4.2)) as axes:
        for n, (target, (balance, peak)) in enumerate(roofs.items()):
            colour = COLOURS[n % len(COLOURS)]
            corners = [span[0], balance, span[1]]
            heights = [peak * min(1.0, x / balance) for x in corners]
            axes.plot(corners, heights, color=colour, linewidth=1, label=target)
            own = [r for r in rows if r["target"] == target]
            x = [r["intensity"] for r in own]
            axes.plot(x, [r["speed"] for r in own], "o", markersize=3, color=colour)
        for r in own if len(own) <= NAMED else ():
            at = (r["intensity"], r["speed"])
            axes.annotate(r["name"], at, textcoords="offset points", xytext=(5, -8), fontsize=7)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("operations per compulsory byte")
        axes.set_ylabel("operations per second at the floor")
        axes.figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
