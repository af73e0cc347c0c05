"""Predicates written in the language, as the Program has them, and where they hold."""

import numpy as np

from cascade.api import parse
from cascade.ir.expr import Read, Symbol
from cascade.ir.walk import children, conjuncts, transform, unfiltered, walk
from cascade.schedule.bounds import solve
from cascade.schedule.numbers import evaluate
from cascade.schedule.segments import Bounds

SPEC = """cascade t
input A[p,m], window[p]: int, first[p]: int, length[p]: int, gate[p]: bool, ragged[m]: int
param W = 1, L = 1, R = 1, D = 1, ratio = 0.5
Z[p] = sum[m](A[p,m] where {})
Y[p] = sum[m](A[p,m] where gate[p] and ragged[m] > window[p] + first[p] + length[p] and W*L*R*D > m)
X[p] = ratio * Z[p]
output Z, Y, X
"""

PREDICATES = {
    "causal": "m <= p",
    "strictly causal": "not p <= m",
    "window": "m <= p and p - m < W",
    "window by row": "m <= p and p - m < window[p]",
    "window or sinks": "m <= p and (p - m < window[p] or m < L)",
    "prefix": "m <= p or m < L",
    "prefix by row": "m <= max(p, length[p] - 1)",
    "strided": "m <= p and (p - m < W or (p - m) % D == 0)",
    "dilated": "m <= p and p - m < W*D and (p - m) % D == 0",
    "neighbourhood": "m >= clamp(p - W//2, 0, M - W) and m < clamp(p - W//2, 0, M - W) + W",
    "block": "m // R == p // R",
    "blocks before": "m // R < p // R",
    "near blocks": "p // R - 1 <= (m + 1) // R and (m + 1) // R <= p // R + 1",
    "landmark": "m <= p and (m // L < p // L or not m % L == L - 1)",
    "cross attention": "m <= first[p] + p",
    "far offsets": "first[p] - p < m and m < first[p] + 2*W",
    "padding": "m < length[p] and p < length[p]",
    "distance": "abs(p - m) < W",
    "far away": "abs(p - m) >= W",
    "three intervals": "m < L or abs(m - first[p]) < W or m >= M - R",
    "row condition": "m <= p and gate[p]",
    "either side by row": "select(gate[p], m <= p, m >= p)",
    "neither side by row": "not select(gate[p], m <= p, m >= p)",
    "no point": "m < p and m > p",
    "no point by row": "m < window[p] and m > window[p] + 1",
    "one point": "m == p",
    "all but one": "m != p",
    "scaled": "3*m <= 2*p + 1 and 2*m >= p - W",
    "halves": "2*m < 3*p and 2*m >= 4*first[p] - 20",
    "on both sides": "3*m - p < m + W and p - m <= 2*m",
    "nested quotient": "(2*m + p) // 3 // R <= W - 2",
    "negative divisor": "m // (0 - 3) >= 0 - W",
    "quotients of both": "m // 4 + p <= m + W",
    "twice a quotient": "2*(m // 4) + p <= m + W",
    "products": "m*R <= p*W and m*R + p >= L",
    "minima": "min(m, p) < W and max(m + 1, p) > L",
    "clamped": "clamp(m - p, 0 - W, W) == m - p",
    "relu": "relu(m - p) < W and relu(p - m) <= L",
    "data of the stream": "m <= p and ragged[m] == p // R",
    "fractions": "m < ratio * p",
    "false": "false and m < 3",
    "true": "true or m < 3",
    "chained": "0 <= p - m < W",
    "five intervals": "m == 1 or m == 3 or m == 5 or m == 7 or m == p",
    "chosen number": "m < select(gate[p], p, W) and select(m < W, p, 3) < L",
    "all or nothing": "(m <= p) == gate[p]",
}
POSITIVE = frozenset({"W", "L", "R", "D"})
REAL = frozenset({"ratio"})


def predicate(text):
    """The conjuncts of a condition; a tensor is the tile of its name."""
    (summed,) = children(parse(SPEC.format(text)).einsums[0].body)
    _, filters = unfiltered(summed)
    return tuple(transform(e, as_tile) for f in filters for e in conjuncts(f))


def as_tile(e):
    return Read(e.tensor, ()) if isinstance(e, Read) else None


def known(e):
    return Read("ragged", ()) not in walk(e)


def intervals(conditions):
    return solve(conditions, "m", Symbol("M"), known, POSITIVE, REAL)


class Shape:
    """Random sizes and tiles: rows from `start`, of which some do not exist; all of the stream."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.extent = int(rng.choice([0, 1, *rng.integers(2, 90, 8)]))
        self.rows = int(rng.choice([1, *rng.integers(2, 24, 4)]))
        self.start = int(rng.integers(0, 60))
        self.part = int(rng.integers(1, 9))
        self.tile = self.part * int(rng.integers(1, 5))
        self.exists = np.arange(self.rows)[:, None] < rng.integers(0, self.rows + 8)
        by_row = (self.rows, 1)
        self.tiles = {
            "window": rng.integers(-2, 30, by_row),
            "first": rng.integers(-40, 120, by_row),
            "length": rng.integers(0, self.extent + 3, by_row),
            "gate": rng.random(by_row) < 0.7,
            "ragged": rng.integers(0, 6, (1, self.extent)),
        }
        sizes = {n: int(rng.integers(1, 14)) for n in ("W", "L", "R", "D")}
        self.scalars = {**sizes, "M": self.extent, "ratio": 0.75}
        self.p = self.start + np.arange(self.rows)[:, None]
        self.m = np.arange(self.extent)[None, :]

    def value(self, e):
        places = {"p": self.p, "m": self.m}
        return evaluate(e, places.__getitem__, self.tiles.__getitem__, self.scalars)

    def all(self, conditions):
        """Rows by coordinates: where every condition holds."""
        found = np.ones((self.rows, self.extent), bool)
        for c in conditions:
            found = found & self.value(c)
        return found

    def bounds(self, interval):
        """An interval in numbers, for each row."""
        low = np.max([self.value(e) + 0 * self.p for e in interval.low], axis=0)
        high = np.min([self.value(e) + 0 * self.p for e in interval.high], axis=0)
        row = np.ones((self.rows, 1), bool)
        for c in interval.row:
            row = row & self.value(c)
        return Bounds(low, high, row, bool(interval.residual))

    def within(self, interval):
        """Rows by coordinates: where an interval says that the predicate holds."""
        b = self.bounds(interval)
        return (b.low <= self.m) & (self.m < b.high) & b.row & self.all(interval.residual)
