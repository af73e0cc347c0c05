"""The time of one tile that overlaps with no other on the main array (+Architecture of FuseMax).

Statements run as soon as their operands are complete and their array is idle. Statements that hand
elements to each other along a rank that is time on both arrays advance together, at the rate of the
busier array. What no statement of the main array waits for overlaps the next tile and is left out;
one fill of the array is not hidden.
"""

from __future__ import annotations

from cascade.spatial.binding import Bound
from cascade.spatial.shape import Shape
from cascade.spatial.target import SpatialTarget


def tile_span(items: tuple[Bound, ...], shape: Shape, target: SpatialTarget) -> int:
    """Cycles from the start of a tile to the start of the next."""
    main = target.main
    groups = stream_groups(items, shape)
    needed = _needed(items, groups, main.name)
    made = {b.statement.write.tensor: n for n, b in enumerate(items)}
    idle = {a.name: 0 for a in target.arrays}
    done: dict[int, int] = {}
    for group in _ordered(items, groups, made):
        members = [items[n] for n in group]
        if not set(group) & needed:
            continue
        start = max((done[n] for n in _waits(items, group, made) if n in done), default=0)
        loads: dict[str, int] = {}
        for b in members:
            loads[b.array] = loads.get(b.array, 0) + b.cycles
        start = max(start, *(idle[a] for a in loads))
        end = start + max(loads.values())
        for a in loads:
            idle[a] = end
        done |= dict.fromkeys(group, end)
    return idle[main.name] + main.rows


def stream_groups(items: tuple[Bound, ...], shape: Shape) -> tuple[tuple[int, ...], ...]:
    """Statements joined where one array feeds another element by element."""
    made = {b.statement.write.tensor: n for n, b in enumerate(items)}
    root = list(range(len(items)))

    def find(n: int) -> int:
        while root[n] != n:
            n = root[n]
        return n

    joined = set()
    for n, b in enumerate(items):
        for o in b.statement.reads:
            other = made.get(o.tensor)
            if other is None or o.offset != 0 or other == n:
                continue
            if items[other].array != b.array and _shared(items[other], b, shape):
                joined.add(n)
                root[find(other)] = find(n)
    for n in joined:  # what feeds a joined statement at the same rate on its own array
        for o in items[n].statement.reads:
            other = made.get(o.tensor)
            if other is None or o.offset != 0 or other == n:
                continue
            if items[other].array == items[n].array and _shared(items[other], items[n], shape):
                root[find(other)] = find(n)
    found: dict[int, list[int]] = {}
    for n in range(len(items)):
        found.setdefault(find(n), []).append(n)
    return tuple(tuple(g) for g in found.values())


def _shared(producer: Bound, consumer: Bound, shape: Shape) -> bool:
    """A rank of the value handed over that is time on both arrays, and long."""
    inside = shape.inside(consumer.statement)
    time = set(producer.statement.write.ranks) & set(inside)
    time -= {*producer.laid, *consumer.laid, *producer.statement.reduced}
    return any(inside[r] > 1 for r in time)


def _needed(items: tuple[Bound, ...], groups: tuple[tuple[int, ...], ...], main: str) -> set[int]:
    """Statements of the main array and what they wait for."""
    made = {b.statement.write.tensor: n for n, b in enumerate(items)}
    group_of = {n: g for g in groups for n in g}
    wanted: set[int] = set()
    stack = [n for n, b in enumerate(items) if b.array == main]
    while stack:
        n = stack.pop()
        if n not in wanted:
            wanted |= set(group_of[n])
            stack += _waits(items, group_of[n], made)
    return wanted


def _waits(items: tuple[Bound, ...], group: tuple[int, ...], made: dict[str, int]) -> list[int]:
    """Statements of this tile whose results a group reads."""
    found = []
    for n in group:
        for o in items[n].statement.reads:
            other = made.get(o.tensor)
            if other is None or other in group:
                continue
            if o.offset == items[other].statement.write.offset:
                found.append(other)
    return found


def _ordered(
    items: tuple[Bound, ...], groups: tuple[tuple[int, ...], ...], made: dict[str, int]
) -> list[tuple[int, ...]]:
    """Groups after those they wait for, in the order of the cascade."""
    left, placed, order = list(groups), set(), []
    while left:
        group = next((g for g in left if all(n in placed for n in _waits(items, g, made))), left[0])
        left.remove(group)
        placed |= set(group)
        order.append(group)
    return order
