"""Spatial targets are data files: arrays of units, a buffer, memory, and how a tile is laid out.

A target is a file of `cascade/targets/` or one's own, with `kind = "array"`:

    clock = 940e6              cycles per second
    on_chip, bandwidth, word   bytes of buffer, bytes per second, bytes of a word
    [arrays.2d]                rows, columns, layout, [operations]: cycles of each, and `fuse`
    [mapping]                  which form runs, how it is tiled, what overlaps
    [energy], [search]         see energy.py and flat.py
    [area]                     square micrometres of a unit of each array, and of `buffer_byte`

`layout` says which rank lies on the rows and on the columns of an array: "stream" (the part of the
streamed rank inside a tile) or "query"; "free" lets every statement lie as it takes least.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from cascade.analysis.targets import shipped_targets
from cascade.diagnostics import InputError, did_you_mean, input_error
from cascade.spatial.energy import Energy, read_energy
from cascade.spatial.flat import Space, read_space
from cascade.spatial.fusing import PAIRS

STREAM, QUERY, FREE = "stream", "query", "free"
FALLBACK = {"reciprocal": "div", "sub": "add", "min": "max"}
DATAFLOWS = ("stream", "blocks", "separate")
FORMS = ("derived", "written")
OVERLAPS = ("pipelined", "none")


@dataclass(frozen=True)
class Array:
    """`rows` x `columns` units. `operations`: cycles of each operation a unit has; `fused`: cycles
    of operations run one after another that take less together (`sub_exp`).
    """

    name: str
    rows: int
    columns: int
    operations: Mapping[str, int]
    fused: Mapping[str, int] = field(default_factory=dict)
    layout: tuple[str, ...] = (STREAM, QUERY)
    registers: int = 0

    @property
    def units(self) -> int:
        return self.rows * self.columns

    @property
    def is_free(self) -> bool:
        return self.layout == (FREE,)

    def unit(self, operation: str) -> str | None:
        """The operation of this array that does `operation`, or None."""
        if operation in self.operations:
            return operation
        other = FALLBACK.get(operation)
        return other if other in self.operations else None

    def cycles(self, operations: tuple[str, ...]) -> int | None:
        """Cycles of these operations at one point; None if a unit lacks one of them."""
        if "_".join(operations) in self.fused:
            return self.fused["_".join(operations)]
        units = [self.unit(o) for o in operations]
        return None if None in units else sum(self.operations[u] for u in units if u)


@dataclass(frozen=True)
class SpatialTarget:
    """Arrays around one buffer. `chunk_buffer` is what the query tiles may fill; `links`: arrays
    hand values to each other directly; `fuse`: pairs such as `mul_add` that run as one operation;
    `transit`: cycles from one array to another.
    """

    name: str
    arrays: tuple[Array, ...]
    clock: float
    bandwidth: float
    buffer: int
    chunk_buffer: int
    word: int
    dataflow: str
    form: str
    overlap: str
    links: bool
    ragged: bool
    transit: int
    fuse: tuple[str, ...]
    energy: Energy
    space: Space | None = None
    areas: Mapping[str, float] = field(default_factory=dict)

    @property
    def main(self) -> Array:
        """The array with the most units: its dimensions are those of a tile."""
        return max(self.arrays, key=lambda a: a.units)

    def array(self, name: str) -> Array:
        return next(a for a in self.arrays if a.name == name)

    def resized(self, rows: int, columns: int) -> SpatialTarget:
        """The same target with a main array of other dimensions; arrays of one row follow its
        columns.
        """
        arrays = tuple(
            replace(a, rows=rows if a.name == self.main.name else a.rows, columns=columns)
            for a in self.arrays
        )
        return replace(self, arrays=arrays)

    def with_operation(self, name: str, cycles: int) -> SpatialTarget:
        """The same target with another cost of one operation, on every array that has it."""
        arrays = tuple(
            replace(a, operations={**a.operations, name: cycles}) if name in a.operations else a
            for a in self.arrays
        )
        return replace(self, arrays=arrays)

    def with_unit(self, array: str, name: str, cycles: int) -> SpatialTarget:
        """The same target with an operation that one array did not have."""
        arrays = tuple(
            replace(a, operations={**a.operations, name: cycles}) if a.name == array else a
            for a in self.arrays
        )
        return replace(self, arrays=arrays)

    def with_fusion(self, pair: str) -> SpatialTarget:
        """The same target where a pair of operations runs as one."""
        return replace(self, fuse=(*self.fuse, pair))

    @property
    def area(self) -> float:
        """Square centimetres of the arrays and the buffer, as far as the target gives areas."""
        units = sum(a.units * self.areas.get(a.name, 0.0) for a in self.arrays)
        return (units + self.buffer * self.areas.get("buffer_byte", 0.0)) * 1e-8

    def with_buffer(self, size: int) -> SpatialTarget:
        return replace(self, buffer=size, chunk_buffer=size)


def load_spatial(name: str) -> SpatialTarget:
    """A shipped target by name, or a .toml file by path. Raises `InputError` with what is wrong."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise input_error("target", f"there is no target file {name}")
        text = path.read_text()
    elif name in shipped_targets():
        text = (files("cascade") / "targets" / f"{name}.toml").read_text()
    else:
        raise input_error(
            "target",
            f"there is no target `{name}`",
            *did_you_mean(name, shipped_targets()),
            f"targets: {', '.join(spatial_targets())}, or a path to a .toml file",
        )
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise input_error("target", f"{name} is not a target file: {e}") from None
    return read_spatial(name, data)


def is_spatial(name: str) -> bool:
    """Whether a target (a name or a path) describes an array."""
    try:
        shipped = files("cascade") / "targets" / f"{name}.toml"
        path = Path(name) if name.endswith(".toml") else shipped
        return "arrays" in tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return False


def spatial_targets() -> tuple[str, ...]:
    """The shipped targets that are arrays."""
    return tuple(name for name in shipped_targets() if is_spatial(name))


def read_spatial(name: str, data: Mapping[str, Any]) -> SpatialTarget:
    """A parsed target file. Raises `InputError` with what is wrong in it."""
    if "arrays" not in data:
        raise input_error(
            "target",
            f"{name} is no array: it has no `[arrays]`",
            f"arrays: {', '.join(spatial_targets())}, or a path to a .toml file",
        )
    arrays = data["arrays"]
    if not isinstance(arrays, dict) or not arrays:
        raise _wrong(name, "`[arrays]` must describe at least one array")
    mapping = _table(name, data, "mapping")
    buffer = _count(name, data, "on_chip")
    dataflow = _choice(name, mapping, "dataflow", DATAFLOWS)
    fuse = _texts(name, mapping, "fuse")
    if not set(fuse) <= set(PAIRS):
        raise _wrong(name, f"`[mapping] fuse` must list some of: {', '.join(PAIRS)}")
    search = data.get("search")
    if dataflow == "blocks" and not isinstance(search, dict):
        raise _wrong(name, 'the dataflow "blocks" needs a `[search]` table')
    return SpatialTarget(
        str(data.get("name", name)),
        tuple(_array(name, str(key), table) for key, table in arrays.items()),
        _positive(name, data, "clock"),
        _positive(name, data, "bandwidth"),
        buffer,
        _count(name, mapping, "chunk_buffer", buffer),
        _count(name, data, "word", 2),
        dataflow,
        _choice(name, mapping, "form", FORMS),
        _choice(name, mapping, "overlap", OVERLAPS),
        _flag(name, mapping, "links", True),
        _flag(name, mapping, "ragged", False),
        _count(name, mapping, "transit", 0, least=0),
        tuple(fuse),
        read_energy(name, _table(name, data, "energy")),
        read_space(name, search) if isinstance(search, dict) else None,
        {str(k): _positive(name, data["area"], str(k)) for k in data.get("area", {})},
    )


def _array(name: str, key: str, table: object) -> Array:
    where = f"[arrays.{key}]"
    if not isinstance(table, dict):
        raise _wrong(name, f"`{where}` must be a table")
    layout = _texts(name, table, "layout") or [STREAM, QUERY]
    if layout != [FREE] and (len(layout) != 2 or not set(layout) <= {STREAM, QUERY, ""}):
        allowed = '["free"], or "stream", "query" or "" for the rows and the columns'
        raise _wrong(name, f"`{where} layout` must be {allowed}")
    operations = _cycles(name, f"[arrays.{key}.operations]", table.get("operations"))
    if not operations:
        raise _wrong(name, f"`{where}` must have at least one operation")
    return Array(
        key,
        _count(name, table, "rows"),
        _count(name, table, "columns"),
        operations,
        _cycles(name, f"[arrays.{key}.fused]", table.get("fused", {})),
        tuple(layout),
        _count(name, table, "registers", 0, least=0),
    )


def _cycles(name: str, where: str, table: object) -> dict[str, int]:
    if not isinstance(table, dict):
        raise _wrong(name, f"`{where}` must give the cycles of each operation")
    for key, value in table.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise _wrong(name, f"`{where} {key}` must be a positive whole number of cycles")
    return {str(k): int(v) for k, v in table.items()}


def _table(name: str, data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = data.get(key)
    if not isinstance(found, dict):
        raise _wrong(name, f"`[{key}]` is missing")
    return found


def _positive(name: str, data: Mapping[str, Any], key: str) -> float:
    value = data.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
        raise _wrong(name, f"`{key}` must be a positive number")
    return float(value)


def _count(
    name: str, data: Mapping[str, Any], key: str, default: int | None = None, least: int = 1
) -> int:
    value = data.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        kind = "positive" if least else "non-negative"
        raise _wrong(name, f"`{key}` must be a {kind} whole number")
    return value


def _choice(name: str, data: Mapping[str, Any], key: str, known: tuple[str, ...]) -> str:
    value = data.get(key, known[0])
    if value not in known:
        raise _wrong(name, f"`[mapping] {key}` must be one of: {', '.join(known)}")
    return str(value)


def _flag(name: str, data: Mapping[str, Any], key: str, default: bool) -> bool:
    value = data.get(key, default)
    if not isinstance(value, bool):
        raise _wrong(name, f"`[mapping] {key}` must be true or false")
    return value


def _texts(name: str, data: Mapping[str, Any], key: str) -> list[str]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise _wrong(name, f"`{key}` must be a list of words")
    return value


def _wrong(name: str, what: str) -> InputError:
    return input_error("target", f"{name}: {what}")
