"""A run of an epoch, cycle by cycle: what the schedule promises is checked, not assumed."""

from __future__ import annotations

from dataclasses import dataclass

from cascade.spatial.epoch import Epoch


@dataclass(frozen=True)
class Simulated:
    """`cycles` from the first to the last; `busy` cycles by array; mistakes as sentences."""

    tiles: int
    cycles: int
    busy: dict[str, int]
    mistakes: tuple[str, ...]

    def utilisation(self, array: str) -> float:
        return self.busy[array] / self.cycles if self.cycles else 0.0


def simulate(epoch: Epoch, tiles: int) -> Simulated:
    """Start a tile every interval; in each cycle every array does at most one thing, and only with
    operands that have arrived.
    """
    events: dict[int, list[tuple[int, int, int]]] = {}
    for tile in range(tiles):
        for n, p in enumerate(epoch.items):
            for element, slot in enumerate(p.slots):
                at = slot + tile * epoch.interval
                events.setdefault(at, []).append((tile, n, element))
    done: dict[tuple[int, int], list[int]] = {}
    busy = dict.fromkeys(epoch.arrays, 0)
    mistakes: list[str] = []
    for cycle in sorted(events):
        working: dict[str, int] = {}
        for tile, n, element in events[cycle]:
            array = epoch.items[n].bound.array
            name = epoch.items[n].bound.statement.name
            if array in working:
                mistakes.append(f"cycle {cycle}: {array} runs {name} and another statement")
            working[array] = n
            busy[array] += 1
            mistakes += _early(epoch, done, cycle, tile, n, element)
        for tile, n, _ in events[cycle]:
            done.setdefault((tile, n), []).append(cycle)
    cycles = max(events) - min(events) + 1 if events else 0
    return Simulated(tiles, cycles, busy, tuple(mistakes))


def _early(
    epoch: Epoch,
    done: dict[tuple[int, int], list[int]],
    cycle: int,
    tile: int,
    n: int,
    element: int,
) -> list[str]:
    """Operands that are not there yet."""
    found = []
    for e in epoch.edges:
        source = tile - e.distance
        if e.consumer != n or source < 0:
            continue
        made = done.get((source, e.producer), [])
        producer = epoch.items[e.producer]
        whole = len(producer.slots)
        needed = element + 1 if e.stream else whole
        if len(made) < needed or made[needed - 1] + e.delay >= cycle:
            reader = epoch.items[n].bound.statement.name
            made_by = producer.bound.statement.name
            found.append(f"cycle {cycle}: {reader} of tile {tile} reads {made_by} too early")
    return found
