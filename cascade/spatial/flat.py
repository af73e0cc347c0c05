"""FLAT-like arrays: two contractions on the 2D array around vector statements on the 1D array.

FLAT (Kao et al., ASPLOS 2023) runs attention a block of rows at a time: the first contraction, the
vector statements between (the softmax), the second contraction. Which operands live on chip, how
many rows a block has and what stays in the units is found by a search whose space is part of the
target. Traffic and footprint follow FuseMax (section 6): what does not fit is spilled by the share
that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

from cascade.diagnostics import input_error

OUTPUT, WEIGHT = "output", "weight"
ON, OFF = "on", "off"
HEAD, ROW = "head", "row"


@dataclass(frozen=True)
class Space:
    """What may be chosen, each in the order in which it is tried; the first of equals wins."""

    granularity: tuple[str, ...]
    rows: tuple[int, ...]
    scores: tuple[str, ...]
    stationary: tuple[str, ...]
    operands: tuple[str, ...]


CHOICES = {
    "granularity": (HEAD, ROW),
    "scores": (ON, OFF),
    "stationary": (OUTPUT, WEIGHT),
    "operands": (ON, OFF),
}


def read_space(name: str, data: Mapping[str, Any]) -> Space:
    """The `[search]` table of a target. Raises `InputError` with what is wrong in it."""
    for key, known in CHOICES.items():
        found = data.get(key)
        if not isinstance(found, list) or not found or not set(map(str, found)) <= set(known):
            allowed = ", ".join(known)
            raise input_error("target", f"{name}: `[search] {key}` must list some of: {allowed}")
    rows = data.get("rows")
    if not isinstance(rows, list) or not rows:
        raise input_error("target", f"{name}: `[search] rows` must list numbers of rows")
    if not all(isinstance(r, int) and not isinstance(r, bool) and r > 0 for r in rows):
        raise input_error("target", f"{name}: `[search] rows` must be positive whole numbers")
    lists = {key: tuple(map(str, data[key])) for key in CHOICES}
    return Space(rows=tuple(rows), **lists)


@dataclass(frozen=True)
class Problem:
    """Two contractions around vector statements, `batch` times: scores[p,m] = left[p,e] *
    right[m,e], result[p,f] = weights[p,m] * value[m,f].

    `passes` gives, for each pass over the scores on the 1D array, how many tensors with a value at
    each score it reads and writes; `live` is the share of tiles that have a point at all.
    `row_values` is the number of results with one value a row.
    """

    batch: int
    m: int
    p: int
    e: int
    f: int
    passes: tuple[tuple[int, int], ...]
    row_values: int = 0
    live: float = 1.0

    @property
    def scores(self) -> float:
        return self.batch * self.m * self.p * self.live

    @property
    def reads(self) -> int:
        return sum(r for r, _ in self.passes)

    @property
    def writes(self) -> int:
        return sum(w for _, w in self.passes)

    def words(self) -> dict[str, int]:
        """Words of each operand and of the result."""
        left, right = self.batch * self.p * self.e, self.batch * self.m * self.e
        return {
            "left": left,
            "right": right,
            "value": self.batch * self.m * self.f,
            "result": self.batch * self.p * self.f,
        }


@dataclass(frozen=True)
class Machine:
    """What the search needs of a target: dimensions of the 2D array, bytes of buffer and of a word,
    cycles and bytes per second.
    """

    rows: int
    columns: int
    buffer: int
    word: int
    clock: float
    bandwidth: float


@dataclass(frozen=True)
class Tiling:
    """One point of the space. `block` is the number of rows; flags say what is on chip."""

    granularity: str
    block: int
    scores: str
    stationary: str
    left: str
    right: str
    value: str
    result: str

    def at(self, operand: str) -> str:
        return str(getattr(self, operand))


@dataclass(frozen=True)
class Cost:
    """Cycles of the 2D array, bytes moved by the contractions and by the vector statements, and the
    share of the scores that is spilled.
    """

    cycles: float
    contraction_bytes: float
    vector_bytes: float
    spilled: float

    @property
    def traffic(self) -> float:
        return self.contraction_bytes + self.vector_bytes


def search(problem: Problem, machine: Machine, space: Space) -> tuple[Tiling, Cost]:
    """The tiling that needs the least time for the contractions, the vector statements left out:
    the first of equals. Raises `InputError` if nothing fits.
    """
    best: tuple[float, Tiling, Cost] | None = None
    for tiling in candidates(problem, space):
        found = cost(problem, machine, tiling)
        if found is None:
            continue
        time = max(found.cycles / machine.clock, found.contraction_bytes / machine.bandwidth)
        if best is None or time < best[0]:
            best = time, tiling, found
    if best is None:
        raise input_error(
            "array-buffer",
            f"no tiling of the search space fits the buffer of {machine.buffer} bytes",
            "allow fewer rows or scores on chip in `[search]`",
        )
    return best[1], best[2]


def candidates(problem: Problem, space: Space) -> Iterator[Tiling]:
    blocks: list[tuple[str, int]] = []
    for granularity in space.granularity:
        rows = (problem.p,) if granularity == HEAD else space.rows
        blocks += [(granularity, min(r, problem.p)) for r in rows]
    for (granularity, block), scores, stationary in product(blocks, space.scores, space.stationary):
        if scores == ON and stationary != OUTPUT:
            continue  # scores that never leave the chip stay in the units that make them
        for places in product(space.operands, repeat=4):
            yield Tiling(granularity, block, scores, stationary, *places)


def cost(problem: Problem, machine: Machine, tiling: Tiling) -> Cost | None:
    """What a tiling costs; None if scores live off chip and the operands do not fit."""
    needed = footprint(problem, machine, tiling)
    spilled = max(0.0, 1 - machine.buffer / needed)
    if tiling.scores == OFF and spilled > 0:
        return None
    words = sum(operand_words(problem, machine, tiling, spilled).values())
    if tiling.scores == ON:
        words += 2 * problem.scores * spilled
        vector = problem.scores * spilled * (problem.reads + problem.writes)
    else:
        words += 2 * problem.scores
        vector = 2 * problem.scores if problem.passes else 0.0
    cycles = contraction_cycles(problem, machine, tiling.stationary)
    return Cost(cycles, machine.word * words, machine.word * vector, spilled)


def footprint(problem: Problem, machine: Machine, tiling: Tiling) -> int:
    """Bytes: the scores of a block, and two buffers of a tile, or of all its rows, an operand."""
    total = machine.word * tiling.block * problem.m if tiling.scores == ON else 0
    widths = {"left": problem.e, "right": problem.e, "value": problem.f, "result": problem.f}
    whole = {"left": tiling.block, "result": tiling.block, "right": problem.m, "value": problem.m}
    tile = {
        "left": machine.columns,
        "result": machine.columns,
        "right": machine.rows,
        "value": machine.rows,
    }
    for operand, width in widths.items():
        rows = whole[operand] if tiling.at(operand) == ON else tile[operand]
        total += 2 * machine.word * rows * width
    return total


def trips(problem: Problem, machine: Machine, tiling: Tiling) -> dict[str, int]:
    """How often each operand is read when it lives off chip."""
    queries, keys = ceil(problem.p / machine.columns), ceil(problem.m / machine.rows)
    if tiling.stationary == OUTPUT:
        return {"left": keys, "right": queries, "value": queries, "result": 1}
    blocks = ceil(problem.p / tiling.block)
    return {"left": keys, "right": blocks, "value": blocks, "result": 2 * keys - 1}


def operand_words(
    problem: Problem, machine: Machine, tiling: Tiling, spilled: float
) -> dict[str, float]:
    found = {}
    for operand, words in problem.words().items():
        times = trips(problem, machine, tiling)[operand]
        if tiling.at(operand) == ON:
            found[operand] = words * (1 - spilled + spilled * times)
        else:
            found[operand] = float(words * max(1.0, times * problem.live))
    return found


def contraction_cycles(problem: Problem, machine: Machine, stationary: str) -> float:
    """Reserved cycles of the 2D array: the stationary tensor lies on it, the third rank is time."""
    queries, keys = ceil(problem.p / machine.columns), ceil(problem.m / machine.rows)
    results = ceil(problem.f / machine.columns)
    if stationary == OUTPUT:
        first = problem.e * queries * keys
        second = problem.m * queries * results
    else:
        first = problem.p * keys * ceil(problem.e / machine.columns)
        second = problem.p * keys * results
    return problem.batch * problem.live * (first + second)


def buffer_rows(
    problem: Problem, machine: Machine, tiling: Tiling, row_words: int
) -> tuple[float, float]:
    """Rows read from and written to the buffer. Operands off chip go past it; each pass of the
    vector statements reads and writes its tensors there.
    """
    keys, queries = ceil(problem.m / machine.rows), ceil(problem.p / machine.columns)
    words = problem.words()
    reads = problem.scores * problem.reads + problem.row_values * problem.batch * problem.p
    writes = problem.scores * problem.writes + problem.row_values * problem.batch * problem.p
    if tiling.scores == ON:
        reads, writes = reads + problem.scores, writes + problem.scores
    uses = {"left": keys, "right": queries, "value": queries}
    for operand, times in uses.items():
        if tiling.at(operand) == ON:
            reads += words[operand] * max(1.0, times * problem.live)
            writes += words[operand]
    if tiling.result == ON:
        partial = keys if tiling.stationary == WEIGHT else 1
        writes += words["result"] * partial
        reads += words["result"] * (partial - 1)
    return reads / row_words, writes / row_words
