"""Where the values of a body are kept: as few buffers as their lives allow.

A value takes the memory of an operand that dies with the step that makes it, else a buffer that
nothing uses, else a new one. What a loop carries is at the end of a visit in its own buffer, and
is computed there where that is possible.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cascade.backends.tiled.tape import Array, Step, Tape, Value

ALIGNMENT = 64


class Arena:
    """The buffers of one thread: those that all bodies of a loop depth share, by their number, and
    those of a single body, for what stays the same through its visits.
    """

    def __init__(self) -> None:
        self.buffers: dict[Hashable, Array] = {}

    def buffer(self, key: Hashable, size: int) -> Array:
        found = self.buffers.get(key)
        if found is None or found.nbytes < size:
            raw = np.empty(size + ALIGNMENT, np.uint8)
            start = -raw.ctypes.data % ALIGNMENT
            found = self.buffers[key] = raw[start : start + size]
        return found


@dataclass(eq=False)
class _Slot:
    """One buffer. `home` is the carried value it belongs to, if any."""

    size: int
    home: Value | None = None
    tenants: list[Value] = field(default_factory=list)


def place(
    tape: Tape,
    carried: Sequence[tuple[Value, Value]],
    arena: Arena,
    depth: int,
    owner: Hashable,
) -> set[Value]:
    """Give memory to every value of a tape and bind its views. `carried` pairs what a loop carries
    with what it becomes; returns those of the former that need no copy.
    """
    placing = _Placing(tape, carried)
    for number, value in enumerate(placing.steady):
        _bind(value, arena.buffer((owner, number), value.size))
    for number, slot in enumerate(placing.slots):
        buffer = arena.buffer((depth, number), slot.size)
        for value in slot.tenants:
            _bind(value, buffer)
    for carry, slot in placing.homes.items():
        assert carry.buffer is not None
        for value in slot.tenants:
            _bind(value, carry.buffer)
    for step in tape.binding:
        step.run()
    return {c for c, following in carried if placing.slot_of.get(following) is placing.homes.get(c)}


def _bind(value: Value, buffer: Array) -> None:
    value.buffer = buffer
    value.array = buffer[: value.size].view(value.dtype).reshape(value.shape)


class _Placing:
    def __init__(self, tape: Tape, carried: Sequence[tuple[Value, Value]]):
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
