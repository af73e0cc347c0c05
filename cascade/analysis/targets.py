"""Targets are data files: what a machine can do per second, and how much it holds on chip."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cascade.diagnostics import did_you_mean, input_error


@dataclass(frozen=True)
class Target:
    """Rates in operations per second by kind (`mac`, `exp`, `other`), bandwidth in bytes per
    second, `on_chip` bytes of one multiprocessor (or of the whole buffer of an array).
    """

    name: str
    kind: str
    bandwidth: float
    on_chip: int
    multiprocessors: int
    rate: dict[str, float]

    def rate_of(self, kind: str) -> float:
        return self.rate.get(kind, self.rate["other"])

    @property
    def balance(self) -> float:
        """Operations for each byte of traffic at the peaks, a multiply-accumulate being two: where
        the roof turns from memory to arithmetic.
        """
        return 2 * self.rate["mac"] / self.bandwidth


def shipped_targets() -> tuple[str, ...]:
    """The names of the targets that come with the package."""
    folder = files("cascade") / "targets"
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml")))


def gpu_targets() -> tuple[str, ...]:
    """The names of the shipped targets that are GPUs."""
    return tuple(name for name in shipped_targets() if load_target(name).kind == "gpu")


def load_target(name: str) -> Target:
    """A shipped target by name, or a .toml file by path. Raises `InputError` with what is wrong
    in it.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise input_error("target", f"there is no target file {name}")
        text = path.read_text()
    elif name in shipped_targets():
        text = (files("cascade") / "targets" / f"{name}.toml").read_text()
    else:
        known = shipped_targets()
        raise input_error(
            "target",
            f"there is no target `{name}`",
            *did_you_mean(name, known),
            f"targets: {', '.join(known)}, or a path to a .toml file",
        )
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise input_error("target", f"{name} is not a target file: {e}") from None
    return _target(name, data)


def _target(name: str, data: dict[str, Any]) -> Target:
    rate = data.get("rate", {})
    for key in ("bandwidth", "on_chip"):
        if not isinstance(data.get(key), int | float) or data[key] <= 0:
            raise input_error("target", f"{name}: `{key}` must be a positive number")
    for kind in ("mac", "exp", "other"):
        if (
            not isinstance(rate, dict)
            or not isinstance(rate.get(kind), int | float)
            or rate[kind] <= 0
        ):
            raise input_error("target", f"{name}: `[rate] {kind}` must be a positive number")
    return Target(
        str(data.get("name", name)),
        str(data.get("kind", "gpu")),
        float(data["bandwidth"]),
        int(data["on_chip"]),
        int(data.get("multiprocessors", 1)),
        {str(k): float(v) for k, v in rate.items()},
    )
