"""`cascade zoo --roofline`: the time floor of each mechanism of the zoo on GPUs, and what sets it.

Everything is counted for the spec as written: its operations, and each input and output moved once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade import api
from cascade.analysis.tables import seconds, table
from cascade.analysis.targets import Target, load_target
from cascade.analysis.traffic import Roofline, roofline
from cascade.diagnostics import input_error
from cascade.ir.expr import Symbol
from cascade.zoo import Entry, Number, check_names, entries, entry, priced, settings_of

# Extents at which a spec is priced where neither its file nor the user says otherwise: a layer of a
# model of 8 billion parameters over 4,096 tokens.
USUAL: Mapping[str, int] = {
    "B": 1,
    "H": 32,
    "G": 8,
    "R": 4,
    "P": 4096,
    "M": 4096,
    "E": 128,
    "F": 128,
    "D": 4096,
    "N": 4096,
    "I": 4096,
    "J": 64,
}


@dataclass(frozen=True)
class Priced:
    """A mechanism as written on a target, or why it has no price: an extent is not known, or it
    refuses the extents.
    """

    entry: Entry
    roof: Roofline | None
    extents: Mapping[str, int]
    missing: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Times in seconds, `speed` and `peak` in operations per second, a mac being two."""
        row: dict[str, Any] = {"name": self.entry.name, "extents": dict(self.extents)}
        if self.roof is None:
            return row | {"missing": self.missing}
        r = self.roof
        return row | {
            "target": r.target.name,
            "operations": r.operations,
            "bytes": r.moved,
            "intensity": r.intensity,
            "balance": r.target.balance,
            "peak": 2 * r.target.rate["mac"],
            "memory_s": r.seconds["memory"],
            "compute_s": r.compute,
            "floor_s": r.floor,
            "bound": r.bound,
            "speed": r.operations / r.floor if r.floor else 0.0,
        }


def compute(
    targets: Sequence[str],
    settings: Mapping[str, Number] | None = None,
    names: Sequence[str] | None = None,
) -> list[Priced]:
    """Every mechanism, or those named, on every target. Raises `InputError` for an unknown target.

    Extents are those of `settings`, of the file (`# Sizes: …`) and `USUAL`, in this order.
    """
    machines = [load_target(t) for t in targets]
    wanted = list(entries()) if names is None else [entry(n) for n in names]
    check_names(wanted, settings or {})
    return [found for e in wanted for found in _priced(e, machines, settings or {})]


def _priced(e: Entry, machines: Sequence[Target], given: Mapping[str, Number]) -> Iterator[Priced]:
    spec = api.parse(e.text, f"{e.name}.cascade")
    defined = {p.name for p in spec.params if p.value is not None}
    free = {r.name.upper() for r in spec.ranks if r.extent == Symbol(r.name.upper())} - defined
    sizes: dict[str, Number] = {n: v for n, v in USUAL.items() if n in free}
    report, refused = priced(spec, sizes | dict(e.sizes) | settings_of(spec, given))
    if refused or report.extents is None:
        yield Priced(e, None, {}, refused or "; ".join(report.missing))
        return
    for machine in machines:
        roof = roofline(machine, report.work, report.traffic, report.extents)
        yield Priced(e, roof, report.extents)


def text(found: Sequence[Priced]) -> str:
    """A row for each mechanism, for the screen: its floor on each target and what bounds it. With
    one target, the times of memory and of the busiest unit of arithmetic too.
    """
    by_name: dict[str, list[Roofline]] = {}
    for p in found:
        if p.roof is not None:
            by_name.setdefault(p.entry.name, []).append(p.roof)
    targets = [r.target for r in next(iter(by_name.values()), [])]
    alone = len(targets) == 1
    header = ["name", "operations/byte", *(["memory", "compute"] if alone else [])]
    header += [f"{t.name} ({t.balance:.3g})" for t in targets]
    rows = []
    for name, roofs in by_name.items():
        parts = [roofs[0].seconds["memory"], roofs[0].compute] if alone else []
        floors = [f"{seconds(r.floor)}, {r.bound}" for r in roofs]
        rows.append([name, f"{roofs[0].intensity:.3g}", *map(seconds, parts), *floors])
    lines = [table(header, rows, indent="")] if rows else []
    lines += [f"{p.entry.name}: {p.missing}" for p in found if p.roof is None]
    return "\n".join(lines)


def draw(found: Sequence[Priced], path: str) -> None:
    """Write a picture of the roofs with the mechanisms under them. Raises `InputError`."""
    from cascade.backends.costs import draw_roofs

    rows = [p.to_dict() for p in found if p.roof is not None and p.roof.operations]
    if not rows:
        raise input_error("plot", "there is nothing to draw", "set the extents: `--set M=4096,…`")
    draw_roofs(rows, Path(path))
