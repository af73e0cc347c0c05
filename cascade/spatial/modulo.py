"""Modulo scheduling: places for the statements of one tile in a table of `interval` cycles.

1. Statements that hand elements to each other between arrays advance at one rate, that of the
   busier array; they are reserved first, and the rest fills the holes. This is the interleaving of
   FuseMax, Figure 4.
2. The others follow in the order of their dependences, each as early as its operands and the table
   allow; a statement may be split.
3. On a circuit, what only feeds one statement goes right before it, back to where the carried
   state is read. As early as possible would stretch the recurrence over the way between the arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from cascade.spatial.binding import Bound
from cascade.spatial.dependences import Edge, edge_holds


class Scheduler:
    """One attempt at an interval. `table[array][cycle]` says whether a cycle is taken."""

    def __init__(
        self,
        items: tuple[Bound, ...],
        groups: tuple[tuple[int, ...], ...],
        edges: tuple[Edge, ...],
        interval: int,
        arrays: tuple[str, ...],
    ):
        self.items, self.groups, self.edges, self.interval = items, groups, edges, interval
        self.table = {a: bytearray(interval) for a in arrays}
        self.slots: dict[int, tuple[int, ...]] = {}
        self.reserved: dict[int, tuple[int, dict[int, tuple[int, ...]]]] = {}
        self.group_of = {n: k for k, g in enumerate(groups) for n in g}
        self.late = self._find_late()

    def run(self) -> dict[int, tuple[int, ...]] | None:
        for k in range(len(self.groups)):
            if not self._reserve(k):
                return None
        for n in self._order():
            if n in self.slots or n in self.late:
                continue
            done = self._group(self.group_of[n]) if n in self.group_of else self._single(n)
            if not done:
                return None
        return self.slots if self._hold(self.edges) else None

    # -- stream groups
    def _reserve(self, k: int) -> bool:
        """Cycles of a group, at the first place of the table where all its members fit."""
        pattern = self._pattern(self.groups[k])
        for at in range(self.interval):
            taken = [
                (self.items[n].array, (at + s) % self.interval)
                for n, slots in pattern.items()
                for s in slots
            ]
            if len(set(taken)) == len(taken) and not any(self.table[a][s] for a, s in taken):
                for a, s in taken:
                    self.table[a][s] = 1
                self.reserved[k] = at, pattern
                return True
        return False

    def _pattern(self, group: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
        """Cycles of each member from the start of the group: one element every `rate` cycles."""
        inside = [e for e in self.edges if e.stream and {e.producer, e.consumer} <= set(group)]
        here = [e for e in inside if not e.distance]
        count = min(self.items[n].cycles for n in group)
        loads: dict[str, int] = {}
        for n in group:
            b = self.items[n]
            loads[b.array] = loads.get(b.array, 0) + ceil(b.cycles / count)
        rate = max(loads.values())
        offset: dict[int, int] = {}
        for n in sorted(group):
            offset[n] = max(
                (offset[e.producer] + 1 + e.delay for e in here if e.consumer == n), default=0
            )
        for n in sorted(group, reverse=True):  # what only feeds goes right before its reader
            readers = [offset[e.consumer] - 1 - e.delay for e in here if e.producer == n]
            if readers and not any(e.consumer == n for e in here):
                offset[n] = min(readers)
        phases: set[tuple[str, int]] = set()
        for n in sorted(group, key=lambda n: offset[n]):
            while (self.items[n].array, offset[n] % rate) in phases:
                offset[n] += 1
            phases.add((self.items[n].array, offset[n] % rate))
        first = min(offset.values())
        return {
            n: tuple(offset[n] - first + j * rate for j in range(self.items[n].cycles))
            for n in group
        }

    def _group(self, k: int) -> bool:
        at, pattern = self.reserved[k]
        ready = max((self._ready(n) - pattern[n][0] for n in self.groups[k]), default=0)
        start = at + max(0, ceil((ready - at) / self.interval)) * self.interval
        for n, slots in pattern.items():
            self.slots[n] = tuple(start + s for s in slots)
        return True

    # -- single statements
    def _single(self, n: int) -> bool:
        """As early as possible, with the late statements that lead to it right before it."""
        chain = self._chain(n)
        first: dict[int, int] = {}
        for m in (*reversed(chain), n):
            fed = [
                first[e.producer] + self.items[e.producer].cycles + e.delay
                for e in self.edges
                if e.consumer == m and e.producer in first and not e.distance
            ]
            first[m] = max(self._ready(m), *fed, 0)
        members = {n, *chain}
        touched = tuple(e for e in self.edges if members & {e.producer, e.consumer})
        start = first[n]
        while start < first[n] + 2 * self.interval:
            chosen = self._free(n, start)
            if chosen is None:
                return False
            self._take(n, chosen)
            if all(self._backwards(m, first[m]) for m in chain) and self._hold(touched):
                return True
            for m in members & set(self.slots):
                self._give_back(m)
            start = chosen[0] + 1
        return False

    def _chain(self, n: int) -> list[int]:
        """The late statements that lead to `n` alone, each after its reader."""
        chain = [n]
        for m in chain:
            chain += [e.producer for e in self.edges if e.consumer == m and e.producer in self.late]
        return chain[1:]

    def _free(self, n: int, start: int) -> tuple[int, ...] | None:
        """The first free cycles from `start` on."""
        table, need = self.table[self.items[n].array], self.items[n].cycles
        found: list[int] = []
        for t in range(start, start + self.interval):
            if not table[t % self.interval]:
                found.append(t)
                if len(found) == need:
                    return tuple(found)
        return None

    def _backwards(self, n: int, first: int) -> bool:
        """The last free cycles, from `first` on, before its reader starts."""
        table, need = self.table[self.items[n].array], self.items[n].cycles
        (reader,) = (e for e in self.edges if e.producer == n)
        last = self.slots[reader.consumer][0] - 1 - reader.delay
        found: list[int] = []
        for t in range(last, max(first, last - self.interval + 1) - 1, -1):
            if not table[t % self.interval]:
                found.append(t)
                if len(found) == need:
                    self._take(n, tuple(reversed(found)))
                    return True
        return False

    def _take(self, n: int, slots: tuple[int, ...]) -> None:
        self.slots[n] = slots
        for t in slots:
            self.table[self.items[n].array][t % self.interval] = 1

    def _give_back(self, n: int) -> None:
        for t in self.slots.pop(n):
            self.table[self.items[n].array][t % self.interval] = 0

    # -- dependences
    def _ready(self, n: int) -> int:
        """The first cycle at which the operands that are placed already are there."""
        group = set(self.groups[self.group_of[n]]) if n in self.group_of else set()
        return max(
            (
                self.slots[e.producer][-1] + 1 + e.delay - e.distance * self.interval
                for e in self.edges
                if e.consumer == n and e.producer in self.slots and e.producer not in group
            ),
            default=0,
        )

    def _find_late(self) -> set[int]:
        """What carries no state and has one reader, with which it lies on a circuit."""
        import networkx

        graph = networkx.DiGraph((e.producer, e.consumer) for e in self.edges)
        circuit = {
            n: k for k, c in enumerate(networkx.strongly_connected_components(graph)) for n in c
        }
        found = set()
        for n, b in enumerate(self.items):
            readers = [e.consumer for e in self.edges if e.producer == n]
            alone = len(readers) == 1 and not {n, *readers} & set(self.group_of)
            if alone and not b.statement.write.offset and circuit[n] == circuit[readers[0]]:
                found.add(n)
        return found

    def _order(self) -> Iterable[int]:
        """After everything that is read in the same tile; a group as one. Readers of carried state
        come after what carries it where they can.
        """
        left, order = list(range(len(self.items))), list[int]()
        done: set[int] = set()
        while left:
            able = [n for n in left if self._waits(n) <= done] or left[:1]
            n = next((n for n in able if self._waits(n, carried=True) <= done), able[0])
            members = self.groups[self.group_of[n]] if n in self.group_of else (n,)
            order += members
            done |= set(members)
            left = [m for m in left if m not in members]
        return order

    def _waits(self, n: int, carried: bool = False) -> set[int]:
        members = set(self.groups[self.group_of[n]]) if n in self.group_of else {n}
        return {
            e.producer for e in self.edges if e.consumer in members and (carried or not e.distance)
        } - members

    def _hold(self, edges: Iterable[Edge]) -> bool:
        """Whether the dependences of what is placed hold."""
        return all(
            edge_holds(e, self.slots[e.producer], self.slots[e.consumer], self.interval)
            for e in edges
            if {e.producer, e.consumer} <= self.slots.keys()
        )
