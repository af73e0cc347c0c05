"""Epochs as a Gantt picture: a lane for each array, a bar for each statement of a few tiles."""

from __future__ import annotations

from typing import Any

from cascade.backends.canvas import figure
from cascade.spatial.epoch import Epoch, Placed
from cascade.spatial.epoch_text import Plan

COLOURS = (
    "#2a6f97",
    "#d98200",
    "#00875f",
    "#b8568f",
    "#857500",
    "#3e9bd1",
    "#c1121f",
    "#6a3d9a",
    "#7f5539",
    "#8d99ae",
    "#52b788",
    "#ffb703",
)


def draw(plan: Plan, path: str, tiles: int = 4) -> None:
    """Write the first tiles of every epoch to an .svg or .png file. Raises `InputError`."""
    with figure(path, (9, 1.0 + 1.6 * len(plan.epochs))) as made:
        every = made.subplots(len(plan.epochs), 1, squeeze=False)
        for axes, epoch in zip(every[:, 0], plan.epochs, strict=True):
            _epoch(axes, epoch, tiles)
        made.suptitle(f"{plan.name} on {plan.target.name}", fontsize=10)


def _epoch(axes: Any, epoch: Epoch, tiles: int) -> None:
    first = min(p.start for p in epoch.items)
    for n, p in enumerate(epoch.items):
        lane = epoch.arrays.index(p.bound.array)
        low, height = _place(epoch, p, lane)
        bars = [
            (start - first + tile * epoch.interval, length)
            for tile in range(tiles)
            for start, length in _runs(p)
        ]
        name = p.bound.statement.name.removeprefix("~")
        axes.broken_barh(
            bars,
            (low, height),
            facecolors=COLOURS[n % len(COLOURS)],
            edgecolor="white",
            linewidth=0.4,
            label=name,
        )
    axes.set_yticks(range(len(epoch.arrays)), [f"{a} array" for a in epoch.arrays], fontsize=8)
    axes.invert_yaxis()
    for tile in range(tiles + 1):
        axes.axvline(tile * epoch.interval, color="#999999", linewidth=0.5, linestyle=":")
    axes.set_xlabel(f"cycles; a tile starts every {epoch.interval}", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=6, frameon=False, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _place(epoch: Epoch, p: Placed, lane: int) -> tuple[float, float]:
    """Statements that are interleaved share the height of the lane."""
    mates = [q for q in epoch.items if q.bound.array == p.bound.array and _interleaved(epoch, p, q)]
    if not mates:
        return lane - 0.4, 0.8
    everyone = sorted([p, *mates], key=lambda q: epoch.items.index(q))
    height = 0.8 / len(everyone)
    return lane - 0.4 + everyone.index(p) * height, height


def _interleaved(epoch: Epoch, p: Placed, q: Placed) -> bool:
    """Whether cycles of one lie between those of the other in the steady state."""
    if p is q or (_dense(p) and _dense(q)):
        return False

    def reach(r: Placed) -> set[int]:
        return {t % epoch.interval for t in range(r.start, r.end)}

    return bool(reach(p) & reach(q))


def _dense(p: Placed) -> bool:
    return len(p.slots) == p.end - p.start


def _runs(p: Placed) -> list[tuple[int, int]]:
    """Bars of one tile: cycles with short gaps are one bar."""
    runs: list[list[int]] = []
    for t in p.slots:
        if runs and t - runs[-1][1] <= 4:
            runs[-1][1] = t
        else:
            runs.append([t, t])
    return [(a, b - a + 1) for a, b in runs]
