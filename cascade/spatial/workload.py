"""Workloads are data files: the extents of one attention layer and its linear layers.

A file gives the extents of ranks, the ranks that have the length of the sequence, the ranks whose
product is the number of tokens, and the weights (rows x columns) of the linear layers around the
attention. The shipped ones are those of FuseMax, section 6: BERT, TrXL, T5 and XLM.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Any

from cascade.diagnostics import InputError, did_you_mean, input_error


@dataclass(frozen=True)
class Workload:
    """`widths` are the extents that do not change with the length; `linear` gives each layer's
    weight as (rows, columns).
    """

    name: str
    widths: tuple[tuple[str, int], ...]
    length_ranks: tuple[str, ...]
    token_ranks: tuple[str, ...]
    linear: tuple[tuple[str, int, int], ...]

    def extents(self, length: int) -> dict[str, int]:
        """Extent by rank, for a sequence of `length` positions."""
        return {**dict(self.widths), **dict.fromkeys(self.length_ranks, length)}

    def tokens(self, length: int) -> int:
        extents = self.extents(length)
        return prod(extents[r] for r in self.token_ranks)


def shipped_workloads() -> tuple[str, ...]:
    """The names of the workloads that come with the package."""
    folder = files("cascade") / "spatial" / "workloads"
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml")))


def load_workload(name: str) -> Workload:
    """A shipped workload by name, or a .toml file by path. Raises `InputError`."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise input_error("workload", f"there is no workload file {name}")
        text = path.read_text()
    elif name.lower() in shipped_workloads():
        folder = files("cascade") / "spatial" / "workloads"
        text = (folder / f"{name.lower()}.toml").read_text()
    else:
        known = shipped_workloads()
        raise input_error(
            "workload",
            f"there is no workload `{name}`",
            *did_you_mean(name, known),
            f"workloads: {', '.join(known)}, or a path to a .toml file",
        )
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise input_error("workload", f"{name} is not a workload file: {e}") from None
    return _workload(name, data)


def _workload(name: str, data: dict[str, Any]) -> Workload:
    def wrong(what: str) -> InputError:
        return input_error("workload", f"{name}: {what}")

    widths = data.get("extents")
    if not isinstance(widths, dict) or not all(_count(v) for v in widths.values()):
        raise wrong("`[extents]` must give a positive whole number for each rank")
    lengths, tokens = data.get("length", []), data.get("tokens", [])
    for key, ranks in (("length", lengths), ("tokens", tokens)):
        if not isinstance(ranks, list) or not all(isinstance(r, str) for r in ranks):
            raise wrong(f"`{key}` must be a list of ranks")
    for rank in tokens:
        if rank not in widths and rank not in lengths:
            raise wrong(f"`tokens` names rank {rank}, which has no extent")
    linear = data.get("linear", {})
    if not isinstance(linear, dict):
        raise wrong("`[linear]` must give [rows, columns] for each layer")
    for layer, shape in linear.items():
        if not isinstance(shape, list) or len(shape) != 2 or not all(_count(n) for n in shape):
            raise wrong(f"layer {layer} must be [rows, columns], two positive whole numbers")
    return Workload(
        str(data.get("name", name)),
        tuple(widths.items()),
        tuple(lengths),
        tuple(tokens),
        tuple((layer, shape[0], shape[1]) for layer, shape in linear.items()),
    )


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
