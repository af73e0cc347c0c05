"""One thread: a cell for every value, the buffers, and the bodies and loops bound to them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np

from cascade.backends.tiled.tape import Array, Cell, Value

if TYPE_CHECKING:
    from cascade.backends.tiled.body import Body, BoundBody
    from cascade.backends.tiled.loops import BoundLoop

ALIGNMENT = 64


class Machine(dict[Value, Cell]):
    """Cells by their values, made when they are first asked for."""

    def __init__(self) -> None:
        self.buffers: dict[Hashable, Array] = {}
        self.bodies: dict[Body, BoundBody] = {}
        self.loops: list[BoundLoop] = []

    def __missing__(self, value: Value) -> Cell:
        cell = self[value] = value.cell or Cell()
        return cell

    def scalar(self, value: Value) -> Array:
        """The memory of a scalar that is set from outside."""
        cell = self[value]
        cell.array = np.zeros((), value.dtype)
        return cell.array

    def buffer(self, key: Hashable, size: int) -> Array:
        """Memory by its key; larger than before where more is asked for."""
        found = self.buffers.get(key)
        if found is None or found.nbytes < size:
            raw = np.empty(size + ALIGNMENT, np.uint8)
            start = -raw.ctypes.data % ALIGNMENT
            found = self.buffers[key] = raw[start : start + size]
        return found
