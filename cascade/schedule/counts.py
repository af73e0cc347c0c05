"""Counts of what a Program does: tiles and bytes moved, and visits of loops. All are integers.

A *visit* is one execution of a loop's body. A load or a store counts once for each visit of the
body that it is in: one tile, and the bytes of the lanes that exist, of the axes in its index. A
condition never makes it less; an axis that the index does not have counts 1. What caches do is not
counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cascade.schedule.program import Buffer

BYTES = {
    "f64": 8, "i64": 8, "f32": 4, "i32": 4, "bf16": 2, "f16": 2, "i16": 2, "f8": 1, "i8": 1,
    "u8": 1, "bool": 1,
}  # fmt: skip
USUAL = {"real": "f32", "any": "f32", "int": "i64"}  # where no argument decides


def item_size(buffer: Buffer, dtypes: Mapping[str, str]) -> int:
    """Bytes of an element. `dtypes` are the types of the arguments."""
    like = dtypes.get(buffer.like) if buffer.like is not None else None
    dtype = dtypes.get(buffer.name) or like or USUAL.get(buffer.dtype, buffer.dtype)
    return BYTES["f8" if dtype.startswith("f8") else dtype]


@dataclass(frozen=True)
class Traffic:
    """What is moved of one tensor."""

    tiles_loaded: int = 0
    bytes_loaded: int = 0
    tiles_stored: int = 0
    bytes_stored: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.tiles_loaded + other.tiles_loaded,
            self.bytes_loaded + other.bytes_loaded,
            self.tiles_stored + other.tiles_stored,
            self.bytes_stored + other.bytes_stored,
        )

    def to_dict(self) -> dict[str, int]:
        return {
            "tiles_loaded": self.tiles_loaded,
            "bytes_loaded": self.bytes_loaded,
            "tiles_stored": self.tiles_stored,
            "bytes_stored": self.bytes_stored,
        }


@dataclass(frozen=True)
class Visits:
    """How often the body of a loop runs. The steps of an ordered loop are partial visits."""

    full: int = 0
    partial: int = 0

    def to_dict(self) -> dict[str, int]:
        return {"full_visits": self.full, "partial_visits": self.partial}


@dataclass(frozen=True)
class KernelCounts:
    """Of one kernel: traffic by tensor, visits by the scalar of the loop."""

    name: str
    instances: int
    tensors: Mapping[str, Traffic]
    loops: Mapping[str, Visits]

    def to_dict(self) -> dict[str, Any]:
        return {
            "instances": self.instances,
            "tensors": {n: t.to_dict() for n, t in self.tensors.items()},
            "loops": {n: v.to_dict() for n, v in self.loops.items()},
        }


@dataclass(frozen=True)
class Counts:
    """Of all kernels, in the order of their launches."""

    kernels: tuple[KernelCounts, ...]

    @property
    def kernel(self) -> dict[str, KernelCounts]:
        return {k.name: k for k in self.kernels}

    @property
    def tensors(self) -> dict[str, Traffic]:
        """Traffic by tensor, over all kernels."""
        found: dict[str, Traffic] = {}
        for k in self.kernels:
            for name, traffic in k.tensors.items():
                found[name] = found.get(name, Traffic()) + traffic
        return found

    @property
    def total(self) -> Traffic:
        return sum(self.tensors.values(), Traffic())

    def to_dict(self) -> dict[str, Any]:
        return {
            "kernels": {k.name: k.to_dict() for k in self.kernels},
            "tensors": {n: t.to_dict() for n, t in self.tensors.items()},
            "total": self.total.to_dict(),
        }


@dataclass
class Tally:
    """Counts of one kernel as they are made."""

    name: str
    instances: int = 0
    loads: Counter[str] = field(default_factory=Counter)
    loaded: Counter[str] = field(default_factory=Counter)
    stores: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    full: Counter[str] = field(default_factory=Counter)
    partial: Counter[str] = field(default_factory=Counter)

    def load(self, tensor: str, size: int, times: int) -> None:
        self.loads[tensor] += times
        self.loaded[tensor] += times * size

    def store(self, tensor: str, size: int, times: int) -> None:
        self.stores[tensor] += times
        self.stored[tensor] += times * size

    def counts(self, tensors: Iterable[str], loops: Iterable[str]) -> KernelCounts:
        moved = {
            n: Traffic(self.loads[n], self.loaded[n], self.stores[n], self.stored[n])
            for n in tensors
        }
        visits = {n: Visits(self.full[n], self.partial[n]) for n in loops}
        return KernelCounts(self.name, self.instances, moved, visits)
