"""Energy by action: operations, rows of the buffer, bytes of memory, words of register files.

Two accounts (docs/fusemax.md, "Energy"). *published* is the one behind the figures of FuseMax: the
register files of the 2D array cost nothing, only values that pass between two statements of the 1D
array are charged a register access, and operations that a target lists as `uncharged` are free.
*charged* counts a register access for every operand and result of every operation, and every
operation. Energies are in picojoules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cascade.diagnostics import InputError, input_error

PICO = 1e-12


@dataclass(frozen=True)
class Register:
    """A register file: picojoules of an access, and accesses of one operation."""

    read: float
    write: float
    reads: float
    writes: float

    @property
    def operation(self) -> float:
        return self.read * self.reads + self.write * self.writes


@dataclass(frozen=True)
class Energy:
    """The `[energy]` table of a target. `operations` are picojoules an operation; an operation in
    `made_of` costs its cycles times the operation named there. `registers` are by array; `passes`
    names the arrays whose values between statements the published account charges.
    """

    operations: Mapping[str, float]
    made_of: Mapping[str, str]
    uncharged: tuple[str, ...]
    passes: tuple[str, ...]
    memory_byte: float
    row_words: int
    row_read: float
    row_write: float
    registers: Mapping[str, Register] = field(default_factory=dict)

    def operation(self, name: str, cycles: float) -> float:
        """Picojoules of one operation that takes `cycles`. Raises `InputError`."""
        if name in self.made_of:
            return cycles * self.operations[self.made_of[name]]
        if name not in self.operations:
            raise input_error(
                "target",
                f"the target has no energy for the operation `{name}`",
                f"add `{name} = …` (picojoules) to `[energy.operations]`",
            )
        return self.operations[name]


@dataclass(frozen=True)
class Actions:
    """What a run does. `operations`: (array, operation, cycles of one) -> count; `passed`: words
    written to and read from the registers of an array between two of its statements.
    """

    operations: Mapping[tuple[str, str, float], float]
    rows_read: float
    rows_written: float
    memory_bytes: float
    passed: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Actions) -> Actions:
        return Actions(
            _sum(self.operations, other.operations),
            self.rows_read + other.rows_read,
            self.rows_written + other.rows_written,
            self.memory_bytes + other.memory_bytes,
            _sum(self.passed, other.passed),
        )


def _sum(a: Mapping[Any, float], b: Mapping[Any, float]) -> dict[Any, float]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}}


@dataclass(frozen=True)
class Joules:
    """Energy of a run by where it goes, in joules."""

    operations: Mapping[str, float]
    registers: float
    buffer: float
    memory: float

    @property
    def total(self) -> float:
        return sum(self.operations.values()) + self.registers + self.buffer + self.memory


def published(energy: Energy, actions: Actions) -> Joules:
    """The account of the published figures."""
    registers = sum(
        words * (energy.registers[array].read + energy.registers[array].write)
        for array, words in actions.passed.items()
        if array in energy.passes and array in energy.registers
    )
    return _joules(energy, actions, registers, energy.uncharged)


def charged(energy: Energy, actions: Actions) -> Joules:
    """Every operation, and the registers of every operation."""
    registers = sum(
        count * energy.registers[array].operation * cycles_of(energy, name, cycles)
        for (array, name, cycles), count in actions.operations.items()
        if array in energy.registers
    )
    return _joules(energy, actions, registers, ())


def cycles_of(energy: Energy, name: str, cycles: float) -> float:
    """Operations of the unit behind one operation: an exponential of 6 multiply-accumulates has
    the register accesses of 6; a unit of its own those of one.
    """
    return cycles if name in energy.made_of else 1


def _joules(energy: Energy, actions: Actions, registers: float, free: tuple[str, ...]) -> Joules:
    operations: dict[str, float] = {}
    for (_, name, cycles), count in actions.operations.items():
        if name not in free:
            spent = PICO * count * energy.operation(name, cycles)
            operations[name] = operations.get(name, 0.0) + spent
    rows = actions.rows_read * energy.row_read + actions.rows_written * energy.row_write
    memory = actions.memory_bytes * energy.memory_byte
    return Joules(operations, PICO * registers, PICO * rows, PICO * memory)


def read_energy(name: str, data: Mapping[str, Any]) -> Energy:
    """The `[energy]` table of a target. Raises `InputError` with what is wrong in it."""
    operations = _numbers(name, "[energy.operations]", data.get("operations"))
    made_of = data.get("made_of", {})
    if not isinstance(made_of, dict) or not all(v in operations for v in made_of.values()):
        raise _wrong(name, "`[energy.made_of]` must name operations that have an energy")
    lists = {key: data.get(key, []) for key in ("uncharged", "passes")}
    for key, found in lists.items():
        if not isinstance(found, list) or not all(isinstance(o, str) for o in found):
            raise _wrong(name, f"`[energy] {key}` must be a list of names")
    words = data.get("row_words")
    if not isinstance(words, int) or isinstance(words, bool) or words <= 0:
        raise _wrong(name, "`[energy] row_words` must be a positive whole number")
    registers = data.get("registers", {})
    if not isinstance(registers, dict):
        raise _wrong(name, "`[energy.registers]` must give a table for each array")
    known = ("read", "write", "reads", "writes")
    files: dict[str, Register] = {}
    for array, table in registers.items():
        numbers = _numbers(name, f"[energy.registers.{array}]", table, known)
        files[array] = Register(*(numbers[key] for key in known))
    keys = ("memory_byte", "row_read", "row_write")
    scalars = _numbers(name, "[energy]", {k: data.get(k) for k in keys}, keys)
    return Energy(
        operations,
        {str(k): str(v) for k, v in made_of.items()},
        tuple(lists["uncharged"]),
        tuple(lists["passes"]),
        scalars["memory_byte"],
        words,
        scalars["row_read"],
        scalars["row_write"],
        files,
    )


def _numbers(name: str, table: str, data: object, keys: tuple[str, ...] = ()) -> dict[str, float]:
    if not isinstance(data, dict):
        raise _wrong(name, f"`{table}` must be a table of numbers")
    for key in (*data, *keys):
        value = data.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e30:
            raise _wrong(name, f"`{table} {key}` must be a number of picojoules or accesses")
    return {str(key): float(value) for key, value in data.items()}


def _wrong(name: str, what: str) -> InputError:
    return input_error("target", f"{name}: {what}")
