"""Where the values of a body are kept: as few buffers as their lives allow.

A value takes the memory of an operand that dies with the step that makes it, else a buffer that
nothing uses, else a new one. What a loop carries is at the end of a visit in its own buffer, and
is computed there where that is possible.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from cascade.backends.tiled.machine import Machine
from cascade.backends.tiled.tape import Array, Cell, Step, Tape, Value


@dataclass(eq=False)
class _Slot:
    """One buffer. `home` is the carried value it belongs to, if any."""

    size: int
    home: Value | None = None
    tenants: list[Value] = field(default_factory=list)


class Placing:
    """The assignment for one tape. `carried` pairs what a loop carries with what it becomes."""

    def __init__(self, tape: Tape, carried: Sequence[tuple[Value, Value]]):
        self.carried = carried
        self.slots: list[_Slot] = []
        self.homes = {c: _Slot(c.size, c) for c, _ in carried}
        self.slot_of: dict[Value, _Slot] = dict(self.homes)
        self.free: list[_Slot] = []
        self.last = {c: -1 for c in self.homes}
        self.ours = set(self.homes)
        self.steady = [v for step in tape.entry for v in step.outputs]
        for n, step in enumerate(tape.body):
            for v in step.inputs:
                self.last[v.memory] = n
        self.kept = {following.memory for _, following in carried}
        self.target = {
            following: c
            for c, following in reversed(carried)
            if following.root is None and following.like(c)
        }
        self.free += [s for c, s in self.homes.items() if self.last[c] < 0]
        for n, step in enumerate(tape.body):
            self._step(n, step)

    def bind(self, machine: Machine, depth: int, owner: Hashable) -> None:
        """Give buffers: those of a depth are shared by all its bodies, one at a time; those for
        what stays the same through the visits of a body are its own.
        """
        for number, value in enumerate(self.steady):
            _bind(machine[value], value, machine.buffer((owner, number), value.size))
        for number, slot in enumerate(self.slots):
            buffer = machine.buffer((depth, number), slot.size)
            for value in slot.tenants:
                _bind(machine[value], value, buffer)
        for carry, slot in self.homes.items():
            home = machine[carry].buffer
            assert home is not None
            for value in slot.tenants:
                _bind(machine[value], value, home)

    @property
    def copied(self) -> list[tuple[Value, Value]]:
        """What is carried and becomes something that is elsewhere."""
        return [
            (c, following)
            for c, following in self.carried
            if self.slot_of.get(following) is not self.homes.get(c)
        ]

    def _new(self, value: Value) -> _Slot:
        slot = _Slot(value.size)
        self.slots.append(slot)
        self._settle(value, slot)
        return slot

    def _settle(self, value: Value, slot: _Slot) -> None:
        slot.size = max(slot.size, value.size)
        slot.tenants.append(value)
        self.slot_of[value] = slot

    def _step(self, n: int, step: Step) -> None:
        dying = {
            v.memory: self.slot_of[v.memory]
            for v in step.inputs
            if v.memory in self.slot_of and self._dies(v.memory, n)
        }
        for out in step.outputs:
            self.ours.add(out)
            slot = self._choose(out, step, dying)
            if slot is None:
                slot = self._new(out)
            else:
                self._settle(out, slot)
            if slot in self.free:
                self.free.remove(slot)
            dying = {v: s for v, s in dying.items() if s is not slot}
        self.free += [s for s in dict.fromkeys(dying.values()) if s not in self.free]
        for out in step.outputs:
            if out not in self.kept and out not in self.last:
                self.free.append(self.slot_of[out])

    def _dies(self, value: Value, n: int) -> bool:
        return value in self.ours and value not in self.kept and self.last[value] == n

    def _choose(self, out: Value, step: Step, dying: dict[Value, _Slot]) -> _Slot | None:
        home = self.homes.get(self.target[out]) if out in self.target else None
        inplace = [
            dying[v] for v in step.into if v in dying and v.root is None and v.size == out.size
        ]
        if home is not None and (home in self.free or home in inplace):
            return home
        stays = out in self.kept
        for slot in inplace:
            if slot.home is None or not stays:
                return slot
        fitting = [
            s
            for s in self.free
            if (s.home is None and not s.size < out.size) or (s.home and s.size >= out.size)
        ]
        fitting = [s for s in fitting if s.home is None or not stays]
        if fitting:
            return min(fitting, key=lambda s: s.size)
        growing = [s for s in self.free if s.home is None]
        return max(growing, key=lambda s: s.size, default=None)


def _bind(cell: Cell, value: Value, buffer: Array) -> None:
    cell.buffer = buffer
    cell.array = buffer[: value.size].view(value.dtype).reshape(value.shape)
