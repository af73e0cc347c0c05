"""The results of FuseMax (MICRO 2024), computed from the cascade and the target files, beside the
published ones.

`rows` are the numbers; nothing published enters them. `figures` reads the published ones and sets
both side by side.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import mean
from typing import Any

from cascade import api
from cascade.diagnostics import InputError
from cascade.spatial.model import model, model_linear, workload_settings
from cascade.spatial.result import Result
from cascade.spatial.target import SpatialTarget, load_spatial
from cascade.spatial.workload import load_workload

SPEC = "attention_3pass"
MODELS = ("bert", "trxl", "t5", "xlm")
LENGTHS = {"1K": 2**10, "4K": 2**12, "16K": 2**14, "64K": 2**16, "256K": 2**18, "1M": 2**20}
CONFIGS = {  # the paper's name -> target
    "unfused": "unfused",
    "flat": "flat",
    "cascade": "fusemax_cascade",
    "arch": "fusemax_architecture",
    "binding": "fusemax",
}
SCOPES = ("attention", "e2e")
SIZES = (16, 32, 64, 128, 256, 512)  # Figure 12: rows and columns of the 2D array

Key = tuple[str, str, str, str]  # model, length, configuration, scope
Row = dict[str, Any]
Progress = Callable[[int, int], None]


def rows(progress: Progress | None = None) -> list[Row]:
    """Every model, length, configuration and scope: the numbers behind Figures 6 to 11."""
    return rows_of(results(progress))


def rows_of(runs: Mapping[Key, Result]) -> list[Row]:
    return [_row(runs, key) for key in runs]


def results(progress: Progress | None = None) -> dict[Key, Result]:
    spec = _spec()
    targets = {name: load_spatial(file) for name, file in CONFIGS.items()}
    found: dict[Key, Result] = {}
    for n, name in enumerate(MODELS):
        workload = load_workload(name)
        for label, length in LENGTHS.items():
            for config, target in targets.items():
                attention = model(spec, target, workload_settings(workload, length))
                both = attention + model_linear(workload, target, length)
                found[workload.name, label, config, "attention"] = attention
                found[workload.name, label, config, "e2e"] = both
        if progress is not None:
            progress(n + 1, len(MODELS))
    return found


@cache
def _spec() -> Any:
    return api.parse(api.example_text(SPEC), SPEC)


def _row(runs: Mapping[Key, Result], key: Key) -> Row:
    workload, length, config, scope = key
    run = runs[key]
    flat, unfused = (runs[workload, length, base, scope] for base in ("flat", "unfused"))
    return {
        "model": workload,
        "seq_len": length,
        "config": config,
        "scope": scope,
        "utilisation_1d": run.utilisation("1d"),
        "utilisation_2d": run.utilisation("2d"),
        "latency_s": run.latency,
        "traffic_bytes": run.traffic,
        "speedup_vs_flat": flat.latency / run.latency,
        "speedup_vs_unfused": unfused.latency / run.latency,
        "energy_vs_flat": run.published.total / flat.published.total,
        "energy_vs_unfused": run.published.total / unfused.published.total,
        "energy_j": run.published.total,
        "charged_energy_j": run.charged.total,
        "charged_energy_vs_flat": run.charged.total / flat.charged.total,
        "charged_energy_vs_unfused": run.charged.total / unfused.charged.total,
    }


@dataclass(frozen=True)
class Compared:
    """One number of a figure: ours, the published one, and how far they are apart (relative)."""

    figure: str
    model: str
    seq_len: str
    config: str
    ours: float
    published: float

    @property
    def difference(self) -> float:
        if self.published == 0:
            return 0.0 if self.ours == 0 else float("inf")
        return self.ours / self.published - 1

    def to_dict(self) -> Row:
        found: Row = {n: getattr(self, n) for n in self.__dataclass_fields__}
        return {**found, "difference": self.difference}


FIGURES = {  # file -> title, column of a row, scope
    "fig06a_util_1d": ("Figure 6a: utilisation of the 1D array", "utilisation_1d", "attention"),
    "fig06b_util_2d": ("Figure 6b: utilisation of the 2D array", "utilisation_2d", "attention"),
    "fig08_speedup_vs_unfused_attention": (
        "Figure 8: speedup over unfused, attention",
        "speedup_vs_unfused",
        "attention",
    ),
    "fig09_energy_vs_unfused_attention": (
        "Figure 9: energy by unfused, attention",
        "energy_vs_unfused",
        "attention",
    ),
    "fig10_speedup_vs_unfused_e2e": (
        "Figure 10: speedup over unfused, end to end",
        "speedup_vs_unfused",
        "e2e",
    ),
    "fig11_energy_vs_unfused_e2e": (
        "Figure 11: energy by unfused, end to end",
        "energy_vs_unfused",
        "e2e",
    ),
}


def read_published(name: str) -> list[dict[str, str]]:
    text = (files("cascade") / "spatial" / "published" / f"{name}.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


def figures(found: list[Row], runs: Mapping[Key, Result]) -> list[Compared]:
    """Every published number of Figures 6 to 12 beside ours, and the averages of the text."""
    return [
        *_by_configuration(found),
        *_by_statement(runs),
        *_averages(found),
        *_pareto(),
    ]


def _by_configuration(found: list[Row]) -> Iterator[Compared]:
    index = {(r["model"], r["seq_len"], r["config"], r["scope"]): r for r in found}
    for file, (title, column, scope) in FIGURES.items():
        for line in read_published(file):
            for config in CONFIGS:
                ours = index[line["model"], line["seq_len"], config, scope][column]
                yield Compared(
                    title, line["model"], line["seq_len"], config, ours, float(line[config])
                )


def _by_statement(runs: Mapping[Key, Result]) -> Iterator[Compared]:
    """Figure 7: the 2D array by statement. Statements are matched by their order, not by name."""
    title = "Figure 7: utilisation of the 2D array by Einsum"
    for line in read_published("fig07_util2d_breakdown_BERT"):
        run = runs["BERT", line["seq_len"], line["config"], "attention"]
        time = run.latency * run.clock
        ours = [u.useful / time for u in run.uses if u.array == "2d"]
        columns = [c for c in line if c not in ("seq_len", "config") and float(line[c])]
        for column, value in zip(columns, ours, strict=True):
            config = f"{line['config']} {column}"
            yield Compared(title, "BERT", line["seq_len"], config, value, float(line[column]))


def _averages(found: list[Row]) -> Iterator[Compared]:
    """Arithmetic means over models and lengths, as in the text of the paper."""
    for line in read_published("averages"):
        scope, _, at = line["scope"].partition("@")
        scope, _, name = scope.partition(" ")
        column = f"{line['metric']}_vs_{line['reference']}"
        values = [
            r[column]
            for r in found
            if r["config"] == line["config"]
            and r["scope"] == scope
            and (not at or r["seq_len"] == at)
            and (not name or r["model"] == name)
        ]
        title = f"Averages: {line['metric']} over {line['reference']}, {line['scope']}"
        yield Compared(
            title, name or "all", at or "all", line["config"], mean(values), float(line["arith"])
        )


def scaled(
    size: int, base: SpatialTarget, settings: Mapping[str, Any]
) -> tuple[Result, SpatialTarget]:
    """A run on an array of `size` x `size`, and that array, with the least buffer (a power of two)
    at which memory is not what takes longest (FuseMax, Figure 12).
    """
    target = base.resized(size, size)
    buffer = 2**12
    while True:
        try:
            run = model(_spec(), target.with_buffer(buffer), settings)
            if run.bound != "memory" or buffer >= base.buffer * 64:
                return run, target.with_buffer(buffer)
        except InputError:
            if buffer >= base.buffer * 64:
                raise
        buffer *= 2


def _pareto() -> Iterator[Compared]:
    title = "Figure 12: seconds by size of the 2D array, at 256K"
    base = load_spatial(CONFIGS["binding"])
    published = {(r["model"], int(r["size"])): r for r in read_published("fig12_pareto")}
    for (name, size), line in published.items():
        settings = workload_settings(load_workload(name), LENGTHS["256K"])
        run, _ = scaled(size, base, settings)
        yield Compared(title, name, "256K", f"{size}x{size}", run.latency, float(line["latency_s"]))


# -- as text
def text(compared: list[Compared], found: list[Row]) -> str:
    """Every figure beside the published one, and what the energy account decides."""
    parts = [_figure(name, [c for c in compared if c.figure == name]) for name in _names(compared)]
    return "\n\n".join([*parts, _accounts(found)])


def _names(compared: list[Compared]) -> list[str]:
    names = dict.fromkeys(c.figure for c in compared)
    return [n for n in names if not n.startswith("Averages")] + [
        n for n in names if n.startswith("Averages")
    ]


def _figure(name: str, lines: list[Compared]) -> str:
    worst = max(lines, key=lambda c: abs(c.difference))
    out = [f"{name} (largest difference {worst.difference:+.3%})"]
    out.append(f"  {'model':6} {'length':6} {'configuration':22} {'ours':>12} {'published':>12}")
    for c in lines:
        out.append(
            f"  {c.model:6} {c.seq_len:6} {c.config:22} {c.ours:12.6g} {c.published:12.6g} "
            f"{c.difference:+9.3%}"
        )
    return "\n".join(out)


def _accounts(found: list[Row]) -> str:
    """Both energy accounts of the headline."""
    out = ["FuseMax energy against FLAT and unfused, mean over models and lengths"]
    for scope in SCOPES:
        mine = [r for r in found if r["config"] == "binding" and r["scope"] == scope]
        for base in ("flat", "unfused"):
            as_published = mean(r[f"energy_vs_{base}"] for r in mine)
            charged = mean(r[f"charged_energy_vs_{base}"] for r in mine)
            out.append(
                f"  {scope:10} {base:8} as published {as_published:.4f}   "
                f"registers and every operation charged {charged:.4f}"
            )
    out.append(
        "The headline depends on the published account, in which the registers of the 2D array\n"
        "cost nothing and the exponentials of +Cascade are left out (docs/fusemax.md, Energy)."
    )
    return "\n".join(out)
