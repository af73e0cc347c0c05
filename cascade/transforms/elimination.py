"""The numerical rank of a matrix of mpmath numbers."""

from __future__ import annotations

from typing import Any

import mpmath

THRESHOLD = mpmath.mpf("1e-90")


def matrix_rank(rows: list[list[Any]]) -> int:
    """Elimination with full pivoting, after rows and columns are scaled to 1, twice."""
    for _ in range(2):
        for _ in range(2):
            tops = [max(map(abs, row)) for row in rows]
            rows = [[x / t for x in row] if t else row for row, t in zip(rows, tops, strict=True)]
            rows = [list(column) for column in zip(*rows, strict=True)]
    found = 0
    while rows and rows[0]:
        size, i, j = max((abs(x), i, j) for i, r in enumerate(rows) for j, x in enumerate(r))
        if size < THRESHOLD:
            break
        found += 1
        pivot = rows.pop(i)
        rows = [
            [
                x - row[j] / pivot[j] * y
                for n, (x, y) in enumerate(zip(row, pivot, strict=True))
                if n != j
            ]
            for row in rows
        ]
    return found
