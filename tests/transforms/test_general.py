"""General random cascades: what derive and chunk give is well formed and has the same outputs."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

import cascade
from cascade.ir.cascade import Cascade
from cascade.ir.order import evaluation_order
from cascade.transforms.chunk import chunk
from cascade.transforms.derive import derive
from tests.property.generate import Case, generate
from tests.transforms.check import arrays, difference

TOLERANCE = 1e-7
TILES = (1, 2, 3, 64)
RARE = (586, 1016, 2875, 6041, 6580, 6814, 10243, 10400, 11284, 13057, 13282, 15651, 16670)


def same(c: Cascade, other: Cascade, case: Case) -> None:
    evaluation_order(other)
    again = cascade.parse(str(other))
    assert again == other
    known = {p.name for p in c.params}
    fresh = [p.name for p in other.params if p.name not in known]
    for n in TILES if fresh else TILES[:1]:
        new = dict.fromkeys(fresh, n)
        found = difference(c, again, case.inputs, {}, new)
        assert found < TOLERANCE, (new, found)


def campaign(seeds: range) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        case = generate(random.Random(seed))
        c = cascade.parse(case.text)
        for name, transform in (("derive", derive), ("chunk", chunk)):
            stage = "rewriting"
            try:
                found = transform(c)
                if found is not None and found.result != c:
                    stage = "comparing"
                    counts[name] += 1
                    with np.errstate(all="ignore"):
                        same(c, found.result, case)
            except Exception as error:
                text = f"{name}, seed {seed}, {stage}: {error}\n{case.text}"
                raise AssertionError(text) from error
    print(dict(counts))
    return counts


def test_general_cascades():
    counts = campaign(range(700))
    assert counts["derive"] > 10 and counts["chunk"] > 2


def test_cascades_that_once_failed():
    for seed in RARE:
        campaign(range(seed, seed + 1))


@pytest.mark.slow
def test_many_general_cascades():
    counts = campaign(range(700, 3700))
    assert counts["derive"] > 150 and counts["chunk"] > 20


CASES = {
    "a substitution is left as it is": (
        "derive",
        """
        input A[p], C[m]
        Z[m] = C[m] - sum[p](A[p] * sum[p](A[p]) * Z[p] where p < m)
        output Z
        """,
    ),
    "a start is left as it is": (
        "derive",
        """
        input A[p]
        rank i < 3
        r = sum[p](A[p])
        init S[0] = sum[p](A[p] * r)
        S[i+1] = S[i] * 0.5
        output S
        """,
    ),
    "selections along two ranks": (
        "derive",
        """
        input A[p,m]
        rank h < 2
        Z[h,m] = top[p -> m](exp(top[m -> h](A[p,m]) - max[p](top[m -> h](A[p,m]))) /
            sum[p](exp(top[m -> h](A[p,m]) - max[p](top[m -> h](A[p,m])))))
        output Z
        """,
    ),
    "tails of accumulators": (
        "derive",
        """
        input C[m,p], N[h]
        rank h = h1*H0 + h0
        param H0 = 2
        Z[h1] = max[h0](mean[p]((C[h,p] - mean[p](C[h,p]))**2) + N[h])
        output Z
        """,
    ),
    "an index with a condition": (
        "derive",
        """
        input A[h], N[h]: int
        k[h] = N[h] % (count[h](A[h] > 0) + 1)  where h > 0
        Y[h] = A[k[h]] * count[h](A[h] > 0)
        Z = sum[h](exp(Y[h] - max[h](Y[h])))
        output Z
        """,
    ),
    "two classes at one rank": (
        "derive",
        """
        input C[p], G[p]: int, H[p]: int
        rank m < 3
        W[m] = sum[p](C[p] where G[p] == m)
        Z = sum[p](C[p] * W[G[p]] * W[H[p]])
        output Z
        """,
    ),
    "a class that not every point has": (
        "derive",
        """
        input C[p], G[p]: int
        rank m < 2
        W[m] = sum[p](C[p] where G[p] == m)
        Z = sum[p](C[p] * (W[G[p] + 1] ?? 1))
        output Z
        """,
    ),
    "a Gram of softmaxes read at its diagonal": (
        "derive",
        """
        input U[c,m]
        rank i < C
        A[c,m]   = exp(U[c,m] - max[m](U[c,m])) / sum[m](exp(U[c,m] - max[m](U[c,m])))
        DOT[c,i] = A[c,m] * A[i,m]
        Z[c,i]   = DOT[c,i] / sqrt(DOT[c,c] * DOT[i,i])
        output Z
        """,
    ),
    "a Gram of masked sums at a fresh anchor": (
        "derive",
        """
        input U[c,m], G[c,m]
        rank i < C
        A[c,m]   = exp(U[c,m]) / sum[m](exp(U[c,m]) where G[c,m] > 0)
        Z[c,i]   = sum[m](A[c,m] * A[i,m] where G[c,m] > 0 and G[i,m] > 0)
        output Z
        """,
    ),
    "a moment about the mean of another row": (
        "derive",
        """
        input U[c,m]
        rank i < C
        V[c]   = sum[m](exp(U[c,m]) * (U[c,m] - mean[m](U[c,m]))**2)
        Z[c,i] = V[i] / V[c]
        output Z
        """,
    ),
    "a maximum of an earlier pass as anchor": (
        "derive",
        """
        input U[m]
        AT[m] = order[m](U[m])
        T  = max[m](U[m])
        SD = sum[m](exp(U[m] - T) where AT[m] >= 1)
        Z  = sum[m](exp(U[m] - T) / SD where AT[m] >= 1)
        output Z
        """,
    ),
    "a result of another row without points": (
        "derive",
        """
        input U[c,m]
        rank i < C
        A[c]   = sum[m](U[c,m] / sum[m](exp(U[c,m]) where m < c) where m < c)
        Z[c,i] = sum[m](U[c,m] * A[i] where m < c)
        output Z
        """,
    ),
    "a condition on a bound rank": (
        "chunk",
        """
        input A[m], N[m,h]: int
        Y[h]   = A[N[1,h]]
        X[p,m,h] = log(abs(sum[h](Y[h])) + 1) + Y[h]  where p == p
        Z[p,m] = A[m] * X[p,m,h]
        rank p < 2
        output Z
        """,
    ),
    "a condition on another summed rank": (
        "chunk",
        """
        input A[p,h], C[e]
        X[p,e,h] = C[e] * A[p,h]
        Z[e] = sum[p,h](X[p,e,h] where h != e)
        output Z
        """,
    ),
    "a step that forgets": (
        "chunk",
        """
        input A[p]
        rank i < 4
        init S[p,0] = A[p] / (p - p)
        S[p,i+1] = A[p] * i
        Z[p,i] = S[p,i]
        output Z
        """,
    ),
    "an update that is absent in rows": (
        "chunk",
        """
        input A[p]
        rank i < 4
        init S[p,0] = A[p]
        S[p,i+1] = 0.5 * S[p,i] + (A[p] where p > 1)
        Z[p,i] = S[p,i]
        output Z
        """,
    ),
    "a state read at its step": (
        "chunk",
        """
        input A[p]
        rank i < 4
        init S[p,0] = A[p]
        S[p,i+1] = 0.5 * S[p,i] + A[p]
        Z[i] = S[i,i]
        output Z
        """,
    ),
    "a selection along the chunked rank": (
        "chunk",
        """
        input C[p]
        rank h < 4
        Z[h] = sum[p](top[h -> p](C[h]) where h >= p)
        output Z
        """,
    ),
    "a state whose weights a refused one has too": (
        "chunk",
        """
        input A[p,r], B[p,r]
        init D[0,r] = 1, R[0,r] = 0
        D[p+1,r] = D[p,r] * exp(-A[p,r]**2) + B[p,r]**2 + 1
        R[p+1,r] = R[p,r] * exp(-A[p,r]**2) + A[p,r]
        Z[p]     = sum[r](R[p+1,r] / D[p+1,r])
        output Z
        """,
    ),
    "a copy of two extents": (
        "chunk",
        """
        input C[h,m], T[m,h]
        rank p < 2
        X[p,m] = p + min[m](sum[p](C[m,p]) + T[m,0])
        Z[p] = C[h,m] * C[h,m] * X[p,m]
        output Z
        """,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_found_once(name: str) -> None:
    kind, text = CASES[name]
    c = cascade.parse(text)
    found = derive(c) if kind == "derive" else chunk(c)
    result = c if found is None else found.result
    for seed, length in enumerate((1, 2, 3, 4, 4)):
        extents = {r: length for t in c.inputs for r in t.ranks}
        same(c, result, Case(text, arrays(c, extents, seed)))
