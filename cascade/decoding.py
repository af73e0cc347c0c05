"""`cascade decode`: the eFLOPs of generating text with a spec that is one step of decoding, as the
output grows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade import api
from cascade.analysis.effective import Decoding, Run, decode
from cascade.analysis.tables import scaled, table
from cascade.analysis.targets import Target, load_target
from cascade.diagnostics import input_error
from cascade.ir.cascade import Cascade
from cascade.ir.extents import Number


@dataclass(frozen=True)
class Result:
    """The run of one spec on a target."""

    spec: str
    target: Target
    decoding: Decoding
    run: Run

    def to_dict(self) -> dict[str, Any]:
        points = [
            {
                "tokens": p.tokens,
                "parameters": p.parameters,
                "compute": p.attention.compute,
                "memory": p.attention.memory,
                "share": p.share,
            }
            for p in self.run.points
        ]
        return {
            "spec": self.spec,
            "target": self.target.name,
            "balance": self.target.balance,
            "grows": self.decoding.grows,
            "from": self.decoding.first,
            "points": points,
            "overtakes": self.run.overtakes,
        }


def read_growth(text: str) -> tuple[str, int, int]:
    """`M=1024:33792` as a name, the first extent and the last. Raises `InputError`."""
    name, _, ends = text.partition("=")
    first, _, last = ends.partition(":")
    if not (name.strip().isidentifier() and first.strip().isdigit() and last.strip().isdigit()):
        raise input_error(
            "sweep", f"{text!r} is no growth", "write `M=1024:33792`: the first extent and the last"
        )
    if int(first) >= int(last):
        raise input_error("sweep", f"{name.strip()} does not grow from {first} to {last}")
    return name.strip(), int(first), int(last)


def compute(
    specs: Sequence[str], target: str, settings: Mapping[str, Number], decoding: Decoding
) -> list[Result]:
    """A result for each spec, with those of the settings that it has. Raises `CascadeError`."""
    machine = load_target(target)
    loaded = [api.load(path) for path in specs]
    unknown = set(settings) - {name for spec in loaded for name in _names(spec)}
    if unknown:
        raise input_error("setting", f"no spec has an extent or param `{min(unknown)}`")
    found = []
    for spec in loaded:
        if decoding.grows not in _names(spec):
            raise input_error("setting", f"{spec.name} has no extent `{decoding.grows}` to grow")
        own = {n: v for n, v in settings.items() if n in _names(spec)}
        run = decode(api.analyse(spec), machine, own, decoding)
        found.append(Result(spec.name, machine, decoding, run))
    return found


def _names(spec: Cascade) -> set[str]:
    return {r.name.upper() for r in spec.ranks} | {p.name for p in spec.params}


def text(results: Sequence[Result]) -> str:
    """A table of the lengths for each spec, and where attention overtakes the parameters."""
    header = ["spec", "tokens", "parameters", "compute", "memory", "attention"]
    rows, notes = [], []
    for r in results:
        for p in r.run.points:
            own = [p.parameters, p.attention.compute, p.attention.memory]
            rows.append([r.spec, f"{p.tokens:,}", *map(scaled, own), f"{p.share:.1%}"])
        notes.append(f"{r.spec}: {_overtaking(r.run)}")
    first = results[0]
    head = f"eFLOPs on {first.target.name}: a byte counts as {first.target.balance:.5g} FLOPs"
    return "\n".join([head, "", table(header, rows, indent=""), "", *notes])


def _overtaking(run: Run) -> str:
    if run.overtakes is None:
        return "attention stays below the parameters"
    if run.overtakes < 1:
        return "attention costs more than the parameters from the first token on"
    return f"attention overtakes the parameters at {run.overtakes:,.0f} tokens"


def draw(results: Sequence[Result], path: str) -> None:
    """Write a picture of the runs. Raises `InputError`."""
    from cascade.backends.costs import draw_decoding

    draw_decoding([r.to_dict() for r in results], Path(path))
