"""Random cascades: the derived form has the same results, no more passes, and reads back."""

from __future__ import annotations

import random
from collections import Counter

import mpmath
import numpy as np
import pytest

import cascade
from cascade.ir.expr import Const, Expr, Map, Read
from cascade.ir.walk import free_ranks, reads
from cascade.transforms.fuse import Barrier, Plan, plan
from cascade.transforms.inline import without_conditions
from cascade.transforms.means import expand_means
from tests.transforms.campaign import Case, generate
from tests.transforms.check import TOLERANCE, derived
from tests.transforms.values import EXACT, Values

DIGITS = 120
OTHER_REASONS = ("the condition", "it is the largest")  # what a rank says nothing about
ROUNDING = 1e-12  # what float64 may lose, relative to the largest intermediate value


def compare(case: Case, counts: Counter[str]) -> None:
    """Assert what must hold of one cascade; points are counted by how they were compared."""
    c = cascade.parse(case.text)
    found = derived(c)  # passes never rise, and the text reads back
    before, after = (n.get("m", 1) for n in (found.passes_before, found.passes_after))
    counts[f"{before} -> {after}"] += 1
    known = {p.name for p in c.params}
    tiles = {p.name: case.tile for p in found.result.params if p.name not in known}
    expected = cascade.run(c, case.inputs)
    output = cascade.run(found.result, case.inputs, tiles)
    exact: list[Values] = []
    for name, array in expected.items():
        for place in np.ndindex(array.shape):
            x, y = float(array[place]), float(output[name][place])
            if np.isfinite(x) and abs(x - y) <= TOLERANCE * max(1, abs(x)):
                counts["in float64"] += 1
                continue
            if not exact:
                exact = [
                    Values(one, case.inputs, given, EXACT, mpmath.mpf)
                    for one, given in ((c, {}), (found.result, tiles))
                ]
            with mpmath.workdps(DIGITS):
                true, reached = (v.at(name, place) for v in exact)
                if true is None or not mpmath.isfinite(true):
                    counts["no value to compare"] += 1
                    continue
                scale = max(1, abs(true))
                assert reached is not None and abs(true - reached) <= 1e-40 * scale, (name, place)
                counts["exactly"] += 1
                if np.isfinite(x):  # then what differs is rounding, and the original has it too
                    lost = max(abs(true - x), ROUNDING * largest(exact))
                    assert abs(true - y) <= 1e3 * lost, (name, place, x, y, float(true))


def largest(exact: list[Values]) -> mpmath.mpf:
    """The largest value that either form meets on the way."""
    found = [abs(v) for e in exact for v in e.known.values() if isinstance(v, mpmath.mpf)]
    return max([mpmath.mpf(1), *(v for v in found if mpmath.isfinite(v))])


# -- refusals: is the body really of infinite rank?


def grows(p: Plan, barrier: Barrier) -> bool:
    """Whether the rank at 16 points is above that at 9 for some sample.

    A body of finite rank grows on no sample; one of infinite rank may look finite on a sample where
    it is too flat or too steep to tell, so several are tried.
    """
    measured = False
    for signs in (1, -1), (1,):
        for low, high in (0.3, 2.5), (0.01, 0.4), (1.0, 9.0):
            try:
                at = [rank_at(p, barrier, size, signs, low, high) for size in (9, 16)]
            except (OverflowError, ValueError, TypeError):
                continue
            measured = True
            if at[1] > at[0]:
                return True
    if not measured:
        raise ValueError
    return False


def rank_at(
    p: Plan, barrier: Barrier, size: int, signs: tuple[int, ...], low: float, high: float
) -> int:
    """The rank of body(results, streamed values) at random points, results by rows."""
    stream = p.stream
    body = without_conditions(stream.presence.chosen(stream.inlined(barrier.step.body)))
    late = set(barrier.results)
    chance = random.Random(size)
    rows: list[dict[Expr, mpmath.mpf]] = [{} for _ in range(size)]
    columns: list[dict[Expr, mpmath.mpf]] = [{} for _ in range(size)]
    fixed: dict[Expr, mpmath.mpf] = {}

    def value(e: Expr, i: int, j: int) -> mpmath.mpf:
        match e:
            case Const(number):
                return mpmath.mpf(number)
            case Map("select", (condition, yes, no)):
                return value(yes if holds(condition, j) else no, i, j)
            case Map(op, args):
                return EXACT[op](*(value(a, i, j) for a in args))
            case _:
                if isinstance(e, Read) and e.tensor in late:
                    table = rows[i]
                else:
                    table = columns[j] if "m" in free_ranks(e) else fixed
                sample = chance.uniform(low, high) * chance.choice(signs)
                return table.setdefault(e, mpmath.mpf(sample))

    def holds(condition: Expr, j: int) -> bool:
        table = columns[j] if "m" in free_ranks(condition) else fixed
        return bool(table.setdefault(condition, mpmath.mpf(chance.random())) > 0.5)

    with mpmath.workdps(DIGITS):
        matrix = [[value(body, i, j) for j in range(size)] for i in range(size)]
        if not all(mpmath.isfinite(x) for row in matrix for x in row):
            raise ValueError
        return _rank(matrix)


def _rank(matrix: list[list[mpmath.mpf]]) -> int:
    """Rows and columns are scaled to 1 first, then elimination with full pivoting."""
    size = len(matrix)
    for _ in range(2):
        tops = [max(abs(x) for x in row) or mpmath.mpf(1) for row in matrix]
        matrix = [[x / t for x in row] for row, t in zip(matrix, tops, strict=True)]
        tops = [max(abs(row[j]) for row in matrix) or mpmath.mpf(1) for j in range(size)]
        matrix = [[x / t for x, t in zip(row, tops, strict=True)] for row in matrix]
    for rank in range(size):
        places = ((i, j) for i in range(rank, size) for j in range(rank, size))
        i, j = max(places, key=lambda at: abs(matrix[at[0]][at[1]]))
        if abs(matrix[i][j]) < mpmath.mpf(10) ** -90:
            return rank
        matrix[rank], matrix[i] = matrix[i], matrix[rank]
        for row in matrix:
            row[rank], row[j] = row[j], row[rank]
        for n in range(rank + 1, size):
            factor = matrix[n][rank] / matrix[rank][rank]
            row, top = matrix[n], matrix[rank]
            matrix[n] = [x - factor * y for x, y in zip(row, top, strict=True)]
    return size


def refused(case: Case, counts: Counter[str], odd: list[str]) -> None:
    """Count the refused sums of one cascade, and those whose rank does not grow."""
    p = plan(expand_means(cascade.parse(case.text)), "m")
    for barrier in p.barriers:
        other = barrier.refusal.reason.startswith(OTHER_REASONS)
        if barrier.step.op != "sum" or other or not any(reads(barrier.step.body)):
            continue
        counts["refused"] += 1
        try:
            finite = not grows(p, barrier)
        except ValueError:
            counts["rank not measured"] += 1
            continue
        if finite:
            counts["refused with a finite rank"] += 1
            odd.append(f"{barrier.refusal}\n{case.text}")


def campaign(seeds: range) -> Counter[str]:
    counts: Counter[str] = Counter()
    odd: list[str] = []
    for seed in seeds:
        case = generate(random.Random(seed))
        try:
            compare(case, counts)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}\n{case.text}") from error
        refused(case, counts, odd)
    print(dict(counts))
    assert counts["refused with a finite rank"] * 100 <= max(100, counts["refused"]), odd
    return counts


def test_random_cascades():
    counts = campaign(range(200))
    assert counts["2 -> 1"] > 30 and counts["3 -> 1"] > 3 and counts["refused"] > 5


@pytest.mark.slow
def test_many_random_cascades():
    counts = campaign(range(200, 5200))
    assert counts["2 -> 1"] > 1000 and counts["3 -> 1"] > 100
    assert counts["in float64"] > 0.8 * (counts["in float64"] + counts["no value to compare"])
