"""What a run on an array costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cascade.spatial.energy import Actions, Joules


@dataclass(frozen=True)
class Use:
    """One statement: its array, reserved cycles of one tile, and useful cycles of the whole run
    (operations x cycles of one, over all units of the array).
    """

    statement: str
    operations: tuple[str, ...]
    array: str
    cycles: int
    useful: float
    epilogue: bool = False
    phase: int = 0


@dataclass(frozen=True)
class Result:
    """Costs of a run: `cycles` are those in which an array is reserved, `useful` those in which all
    its units would work; seconds, bytes, and energy in both accounts. `mapping` says how the run
    was tiled. `bound` is what takes longest: an array, or memory.
    """

    name: str
    target: str
    cycles: Mapping[str, float]
    useful: Mapping[str, float]
    clock: float
    latency: float
    traffic: float
    bound: str
    uses: tuple[Use, ...]
    actions: Actions
    published: Joules
    charged: Joules
    mapping: Mapping[str, Any]

    def utilisation(self, array: str) -> float:
        """Share of the unit-cycles of an array that do useful work."""
        time = self.latency * self.clock
        return self.useful.get(array, 0.0) / time if time else 0.0

    def statement_utilisation(self) -> dict[str, float]:
        """The same for each statement, of its own array."""
        time = self.latency * self.clock
        return {u.statement: u.useful / time if time else 0.0 for u in self.uses}

    def __add__(self, other: Result) -> Result:
        """One run after the other."""
        return Result(
            f"{self.name} + {other.name}",
            self.target,
            _sum(self.cycles, other.cycles),
            _sum(self.useful, other.useful),
            self.clock,
            self.latency + other.latency,
            self.traffic + other.traffic,
            self.bound if self.latency >= other.latency else other.bound,
            self.uses + other.uses,
            self.actions + other.actions,
            _joules(self.published, other.published),
            _joules(self.charged, other.charged),
            self.mapping,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "cascade": self.name,
            "target": self.target,
            "latency_s": self.latency,
            "bound": self.bound,
            "traffic_bytes": self.traffic,
            **{f"cycles_{a}": c for a, c in self.cycles.items()},
            **{f"utilisation_{a}": self.utilisation(a) for a in self.cycles},
            "energy_j": {"published": self.published.total, "charged": self.charged.total},
            "mapping": dict(self.mapping),
            "statements": [
                {
                    "statement": u.statement,
                    "operations": list(u.operations),
                    "array": u.array,
                    "cycles_per_tile": u.cycles,
                    "epilogue": u.epilogue,
                    "phase": u.phase + 1,
                    "utilisation": u.useful / (self.latency * self.clock) if self.latency else 0.0,
                }
                for u in self.uses
            ],
        }


def _sum(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {key: a.get(key, 0.0) + b.get(key, 0.0) for key in {**a, **b}}


def _joules(a: Joules, b: Joules) -> Joules:
    return Joules(
        _sum(a.operations, b.operations),
        a.registers + b.registers,
        a.buffer + b.buffer,
        a.memory + b.memory,
    )
