"""What waits for what in an epoch, and the least interval that circuits of it allow.

An edge per tensor that is read. What is handed over between arrays element by element is a stream
edge; it needs both statements to go over the same ranks in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from cascade.spatial.binding import Bound
from cascade.spatial.shape import Shape
from cascade.spatial.statements import FINAL
from cascade.spatial.target import SpatialTarget


@dataclass(frozen=True)
class Edge:
    """`consumer` reads what `producer` made `distance` tiles before. `delay`: cycles on the way. A
    stream edge holds element by element, another from the last element to the first.
    """

    producer: int
    consumer: int
    distance: int
    delay: int
    stream: bool = False


def make_edges(
    items: tuple[Bound, ...],
    groups: tuple[tuple[int, ...], ...],
    shape: Shape,
    target: SpatialTarget,
    between: int,
) -> tuple[Edge, ...]:
    """What waits for what. Carried state comes from the step before, `between` tiles ago."""
    made = {b.statement.write.tensor: n for n, b in enumerate(items)}
    together = {(a, b) for g in groups for a in g for b in g}
    found = []
    for n, b in enumerate(items):
        for o in b.statement.reads:
            producer = made.get(o.tensor)
            if producer is None or o.offset == FINAL:
                continue
            written = items[producer].statement.write.offset
            steps = int(written) - int(o.offset)
            delay = target.transit if items[producer].array != b.array else 0
            stream = (producer, n) in together and _in_step(items[producer], b, shape, target)
            found.append(Edge(producer, n, steps * between, delay, stream))
    return tuple(dict.fromkeys(found))


def _in_step(producer: Bound, consumer: Bound, shape: Shape, target: SpatialTarget) -> bool:
    """Whether element by element is possible: both go over the same ranks in time, and what is
    handed over is complete at each point of them.
    """
    made, read = (_in_time(b, shape, target) for b in (producer, consumer))
    complete = not set(made) & set(producer.statement.reduced)
    return complete and made == read and producer.each == consumer.each


def _in_time(b: Bound, shape: Shape, target: SpatialTarget) -> dict[str, int]:
    """The ranks that a statement goes over in time, with the steps of each."""
    array = target.array(b.array)
    sizes = dict(zip(b.laid, (array.rows, array.columns), strict=True))
    steps = {r: ceil(n / sizes.get(r, 1)) for r, n in shape.inside(b.statement).items()}
    return {r: n for r, n in steps.items() if n != 1}


def recurrence_bound(items: tuple[Bound, ...], edges: tuple[Edge, ...]) -> int:
    """The longest circuit by its distance: the least interval at which no circuit is too long,
    found by testing for positive cycles (Bellman and Ford).
    """
    if not any(e.distance for e in edges):
        return 0
    low, high = 0, 1 + sum(b.cycles for b in items) + sum(e.delay for e in edges)
    while low < high:
        middle = (low + high) // 2
        if _has_positive_cycle(items, edges, middle):
            low = middle + 1
        else:
            high = middle
    return low


def _has_positive_cycle(items: tuple[Bound, ...], edges: tuple[Edge, ...], interval: int) -> bool:
    far = [0] * len(items)
    for _ in range(len(items) + 1):
        changed = False
        for e in edges:
            cycles = 1 if e.stream else items[e.producer].cycles
            at = far[e.producer] + cycles + e.delay - e.distance * interval
            if at > far[e.consumer]:
                far[e.consumer], changed = at, True
        if not changed:
            return False
    return True


def edge_holds(
    e: Edge, producer: tuple[int, ...], consumer: tuple[int, ...], interval: int
) -> bool:
    """Whether a dependence holds between tiles that are `distance` apart."""
    shift = e.distance * interval
    if e.stream:
        return all(c + shift > p + e.delay for p, c in zip(producer, consumer, strict=True))
    return consumer[0] + shift > producer[-1] + e.delay
