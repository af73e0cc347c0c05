"""Which statement runs on which array.

Every statement of a tile gets an array such that the largest load (cycles of one tile) is least;
among equals the one that reserves the fewest unit-cycles (cycles x units of the array). The search
keeps, statement by statement, every pair of loads that no other dominates, so it is exact. What
runs once a query tile, after the last step, is placed afterwards (FuseMax, section 4.3, counts it
neither).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from math import ceil, prod

from cascade.diagnostics import fail
from cascade.spatial.shape import Shape
from cascade.spatial.statements import Statement, Statements
from cascade.spatial.target import QUERY, STREAM, Array, SpatialTarget


@dataclass(frozen=True)
class Bound:
    """A statement on an array: `cycles` of one tile (of one query tile for an `epilogue`), and the
    ranks that lie on its rows and columns.
    """

    statement: Statement
    array: str
    cycles: int
    each: int
    laid: tuple[str, ...]
    epilogue: bool = False


@dataclass(frozen=True)
class Binding:
    """Every statement with its array."""

    items: tuple[Bound, ...]
    arrays: tuple[str, ...]

    def load(self, array: str, phase: int | None = None, epilogue: bool = False) -> int:
        """Cycles of one tile on an array (of one query tile for the epilogue)."""
        return sum(
            b.cycles
            for b in self.items
            if b.array == array
            and b.epilogue == epilogue
            and (phase is None or b.statement.phase == phase)
        )

    def of(self, name: str) -> Bound:
        return next(b for b in self.items if b.statement.name == name)


def bind_statements(found: Statements, shape: Shape, target: SpatialTarget) -> Binding:
    """The best binding of every phase. Raises `CascadeError` for an operation that no array has."""
    items: dict[int, Bound] = {}
    numbered = list(enumerate(found.items))
    for phase in range(found.phases):
        here = [(n, s) for n, s in numbered if s.phase == phase and found.is_tile(s)]
        for (n, _), bound in zip(here, _best([s for _, s in here], shape, target), strict=True):
            items[n] = bound
    for n, s in numbered:
        if n not in items:
            choices = _choices(s, shape, target)
            least = min(choices, key=lambda b: (b.cycles * target.array(b.array).units, b.cycles))
            items[n] = Bound(s, least.array, least.cycles, least.each, least.laid, True)
    return Binding(tuple(items[n] for n, _ in numbered), tuple(a.name for a in target.arrays))


def _best(statements: list[Statement], shape: Shape, target: SpatialTarget) -> tuple[Bound, ...]:
    """An exact sweep: loads by array -> the least unit-cycles that reach them, and how."""
    names = [a.name for a in target.arrays]
    states: dict[tuple[int, ...], tuple[int, tuple[Bound, ...]]] = {(0,) * len(names): (0, ())}
    for s in statements:
        grown: dict[tuple[int, ...], tuple[int, tuple[Bound, ...]]] = {}
        for loads, (spent, chosen) in states.items():
            for b in _choices(s, shape, target):
                at = names.index(b.array)
                new = (*loads[:at], loads[at] + b.cycles, *loads[at + 1 :])
                cost = spent + b.cycles * target.array(b.array).units
                if new not in grown or cost < grown[new][0]:
                    grown[new] = (cost, (*chosen, b))
        states = _pareto(grown)
    best = min(states.items(), key=lambda item: (max(item[0]), item[1][0]))
    return best[1][1]


def _pareto(
    states: Mapping[tuple[int, ...], tuple[int, tuple[Bound, ...]]],
) -> dict[tuple[int, ...], tuple[int, tuple[Bound, ...]]]:
    """States that no other beats in every load and in unit-cycles."""
    kept: dict[tuple[int, ...], tuple[int, tuple[Bound, ...]]] = {}
    for loads, state in sorted(states.items(), key=lambda i: (i[0], i[1][0])):
        dominated = any(
            s[0] <= state[0] and all(a <= b for a, b in zip(k, loads, strict=True))
            for k, s in kept.items()
        )
        if not dominated:
            kept[loads] = state
    return kept


def _choices(s: Statement, shape: Shape, target: SpatialTarget) -> list[Bound]:
    found = []
    for array in target.arrays:
        each = array.cycles(s.operations)
        if each is not None:
            laid, trips = lay(shape.inside(s), array, shape)
            found.append(Bound(s, array.name, each * trips, each, laid))
    if not found:
        lacking = [o for o in s.operations if all(a.unit(o) is None for a in target.arrays)]
        what = lacking[0] if lacking else "-".join(s.operations)
        raise fail(
            "array-operation",
            f"no array of {target.name} has the operation `{what}`, which {s.name} needs",
            s.span,
            hints=(
                f"add `{what} = …` (cycles) to the `operations` of an array of the target",
                "arrays have: " + "; ".join(_has(a) for a in target.arrays),
            ),
        )
    return found


def _has(array: Array) -> str:
    return f"{array.name}: {', '.join(array.operations)}"


def lay(inside: Mapping[str, int], array: Array, shape: Shape) -> tuple[tuple[str, ...], int]:
    """The ranks on the rows and columns ("" for none), and the steps that are left to time."""
    if not array.is_free:
        roles = {STREAM: shape.inner, QUERY: QUERY}
        laid = tuple(roles.get(r, "") if roles.get(r) in inside else "" for r in array.layout)
        return laid, _trips(inside, laid, array)
    ranks = [*inside, "", ""]
    ways: Iterable[tuple[str, ...]] = dict.fromkeys(permutations(ranks, 2))
    best = min(ways, key=lambda w: (_trips(inside, w, array), sum(r != "" for r in w)))
    return best, _trips(inside, best, array)


def _trips(inside: Mapping[str, int], laid: tuple[str, ...], array: Array) -> int:
    sizes = dict(zip(laid, (array.rows, array.columns), strict=True))
    return prod(ceil(n / sizes[r]) if r in sizes else n for r, n in inside.items())
