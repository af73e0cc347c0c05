"""What has no form with fewer passes: the passes stay, and the reason is the right one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import cascade
from tests.transforms.check import TOLERANCE, arrays, derived, difference, extents, passes_of, tiles


@dataclass(frozen=True)
class Case:
    name: str
    text: str
    before: int  # passes over m
    after: int
    statement: str  # the reduction that has to wait
    part: str  # what does not separate
    reason: str


CASES = [
    Case(
        "exponential_of_a_quotient",
        "input c[p,m]\nR[p] = sum[m](c[p,m]**2)\nT[p] = sum[m](exp(c[p,m] / R[p]))\noutput T",
        2,
        2,
        "T",
        "exp of c[p,m] / R[p]",
        "inside an exponential has infinite rank",
    ),
    Case(
        "softmax_of_a_standardised_score",
        "input c[p,m]\nV[p] = mean[m]((c[p,m] - mean[m](c[p,m]))**2)\n"
        "T[p] = sum[m](exp(c[p,m] * rsqrt(V[p] + 1)))\noutput T",
        3,
        2,
        "T",
        "exp of c[p,m]",
        "inside an exponential has infinite rank",
    ),
    Case(
        "sigmoid_of_a_difference",
        "input c[p,m]\nR[p] = max[m](c[p,m])\nT[p] = sum[m](sigmoid(c[p,m] - R[p]))\noutput T",
        2,
        2,
        "T",
        "exp(",
        "infinite rank",
    ),
    Case(
        "sparsemax",
        "input c[p,m]\nR[p] = mean[m](c[p,m])\nT[p] = sum[m](relu(c[p,m] - R[p])**2)\noutput T",
        2,
        2,
        "T",
        "relu(c[p,m]",
        "no addition theorem takes relu",
    ),
    Case(  # the threshold of a row from the order of its values, as published
        "sparsemax_from_sorted_values",
        "input z[p,m], v[m,f]\nrank n < M\n"
        "C[p,m] = sum[n](z[p,n] where z[p,n] >= z[p,m])\n"
        "L[p,m] = count[n](z[p,n] where z[p,n] >= z[p,m])\n"
        "k[p] = max[m](L[p,m] where 1 + L[p,m] * z[p,m] > C[p,m])\n"
        "R[p] = (sum[m](z[p,m] where L[p,m] <= k[p]) - 1) / k[p]\n"
        "T[p,f] = sum[m](relu(z[p,m] - R[p]) * v[m,f])\noutput T",
        3,  # over m; z is paired with itself, and gone through once over n at each m
        3,
        "T",
        "relu(z[p,m] - R[p])",
        "no addition theorem takes relu",
    ),
    Case(
        "gaussian_around_a_result",
        "input c[p,m]\nR[p] = mean[m](c[p,m])\nT[p] = sum[m](exp(-((c[p,m] - R[p])**2)))\noutput T",
        2,
        2,
        "T",
        "exp of",
        "inside an exponential has infinite rank",
    ),
    Case(
        "share_of_a_result",
        "input c[p,m]\nR[p] = sum[m](exp(c[p,m]))\n"
        "T[p] = sum[m](c[p,m] / (c[p,m] + R[p]))\noutput T",
        2,
        2,
        "T",
        "c[p,m]",
        "a power of a sum of a result and a streamed value has infinite rank",
    ),
    Case(
        "root_of_a_product",
        "input c[p,m]\nR[p] = sum[m](c[p,m]**2)\nT[p] = sum[m](sqrt(c[p,m] * R[p]))\noutput T",
        2,
        2,
        "T",
        "R[p] * c[p,m]",
        "only where its factors are proved positive",
    ),
    Case(  # of finite rank, which the reason must not deny
        "ninth_moment",
        "input c[p,m]\nR[p] = mean[m](c[p,m])\nT[p] = sum[m]((c[p,m] - R[p])**9)\noutput T",
        2,
        2,
        "T",
        "c[p,m] - R[p]",
        "is not written out so far",
    ),
    Case(
        "inside_another_recurrence",
        "input c[i,m]\ninit H[0] = 0\nX[i,m] = c[i,m] + H[i]\n"
        "T[i] = sum[m](exp(X[i,m] - max[m](X[i,m])))\nH[i+1] = H[i] / 2 + T[i]\nY = H[I]\n"
        "output Y",
        2,
        2,
        "T",
        "T",
        "it is part of a recurrence over i",
    ),
    Case(
        "larger_of_two_under_a_maximum",
        "input c[p,m], d[p,m]\nR[p] = sum[m](d[p,m])\n"
        "T[p] = max[m](max(c[p,m], d[p,m] * R[p]))\noutput T",
        2,
        2,
        "T",
        "max(c[p,m], R[p] * d[p,m])",
        "no addition theorem takes max",
    ),
    Case(
        "two_factors_under_a_maximum",
        "input c[p,m], d[p,m]\nR[p] = sum[m](exp(d[p,m]))\n"
        "T[p] = max[m](c[p,m] + d[p,m] * R[p])\noutput T",
        2,
        2,
        "T",
        "R[p] * d[p,m]",
        "the position of the max can change",
    ),
    Case(
        "sign_under_a_maximum",
        "input c[p,m]\nR[p] = sum[m](c[p,m])\nT[p] = max[m](c[p,m] * R[p])\noutput T",
        2,
        2,
        "T",
        "R[p]",
        "the sign of this factor of a max is not known",
    ),
    Case(
        "median",
        "input c[p,m]\nN[p,m] = order[m](c[p,m])\n"
        "R[p] = sum[m](c[p,m] where N[p,m] == M // 2)\n"
        "T[p] = sum[m](abs(c[p,m] - R[p]))\noutput T",
        3,
        3,
        "T",
        "abs(c[p,m] - R[p])",
        "no addition theorem takes abs",
    ),
    Case(
        "threshold_by_a_result",
        "input c[p,m]\nR[p] = mean[m](c[p,m])\nT[p] = sum[m](c[p,m] where c[p,m] > R[p])\noutput T",
        2,
        2,
        "T",
        "c[p,m] > R[p]",
        "the condition compares with a result of this pass",
    ),
    Case(
        "gated_by_a_result",
        "input c[p,m], d[p,m], v[m,f]\nR[p] = sum[m](d[p,m])\nG[p] = max[m](c[p,m])\n"
        "D[p] = sum[m](exp(c[p,m] - G[p]))\n"
        "O[p,f] = sum[m](exp(c[p,m] - G[p]) / D[p] * sigmoid(d[p,m] * R[p]) * v[m,f])\noutput O",
        3,
        2,
        "O",
        "exp(",
        "infinite rank",
    ),
    Case(
        "sinkhorn",
        "input c[p,m], v[m,f]\nA[p,m] = exp(c[p,m])\nR[p] = sum[m](A[p,m])\n"
        "B[p,m] = A[p,m] / R[p]\nC[m] = sum[p](B[p,m])\nD[p,m] = B[p,m] / C[m]\n"
        "S[p] = sum[m](D[p,m])\nE1[p,m] = D[p,m] / S[p]\nH[m] = sum[p](E1[p,m])\n"
        "O[p,f] = sum[m](E1[p,m] / H[m] * v[m,f])\noutput O",
        3,
        3,
        "S",
        "C[m]",
        "it has a value at each streamed point and depends on a result",
    ),
    Case(
        "normalised_across_queries",
        "input c[p,m], v[m,f]\nG[p] = max[m](c[p,m])\nN[p,m] = exp(c[p,m] - G[p])\n"
        "D[p] = sum[m](N[p,m])\nA[p,m] = N[p,m] / D[p]\nC[m] = sum[p](A[p,m])\n"
        "O[p,f] = sum[m](A[p,m] / C[m] * v[m,f])\noutput O",
        3,
        2,
        "O",
        "C[m]",
        "it has a value at each streamed point and depends on a result",
    ),
]

EACH = pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])


@EACH
def test_refused_with_the_reason(case):
    c = cascade.parse(f"cascade {case.name}\n{case.text}\n")
    found = derived(c)
    assert passes_of(cascade.parse(str(found.result)))["m"] == case.after, str(found)
    assert passes_of(c)["m"] == case.before
    reasons = [
        o
        for o in found.obstacles
        if o.statement == case.statement and case.part in o.part and case.reason in o.reason
    ]
    assert reasons, [(o.statement, o.part, o.reason) for o in found.obstacles]
    text = str(found)
    assert "Barriers that remain" in text and reasons[0].part in text and reasons[0].remedy in text


WRITTEN_OUT = {
    "an output": (
        "input c[p,m]\nG[p] = max[m](c[p,m])\nA[p,m] = exp(c[p,m] - G[p])\noutput A",
        "m", "A", "it has a value at each m and reads G",
    ),
    "another rank is reduced": (
        "input K[m,e], Q[e]\nU[e] = max[m](K[m,e])\nT[m] = sum[e](Q[e] * tanh(K[m,e] * U[e]))\n"
        "output T",
        "m", "T", "it reduces e at each m and reads U",
    ),
    "a recurrence over another rank": (
        "input k[m,f], x[i,f]\ninit H[0,f] = 0\nS[i,m] = sum[f]((x[i,f] + H[i,f]) * k[m,f])\n"
        "G[i] = max[m](S[i,m])\nO[i,f] = sum[m](exp(S[i,m] - G[i]) * k[m,f])\n"
        "H[i+1,f] = H[i,f] + O[i,f]\nY[f] = H[I,f]\noutput Y",
        "m", "O", "it is part of a recurrence over i",
    ),
    "half partitioned": (
        "input x[p,m]\nparam M0 = 3\nrank m = m1*M0 + m0\nL[p,m1] = max[m0](x[p,m])\n"
        "G[p] = max[m1](L[p,m1])\nD[p] = sum[m](exp(x[p,m] - G[p]))\noutput D",
        "m1", "D", "it is written over m as a whole, while m1 is what is streamed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_what_waits_without_a_refusal_has_a_reason(name):
    text, rank, statement, reason = WRITTEN_OUT[name]
    found = derived(cascade.parse(f"cascade x\n{text}\n"))
    said = [(o.rank, o.statement, o.reason) for o in found.obstacles]
    assert any(s[:2] == (rank, statement) and s[2].startswith(reason) for s in said), said
    assert "No barrier remains" not in found.explanation()


def test_an_input_that_cancels_stays_and_is_named():
    c = cascade.parse(
        "cascade x\ninput x[p,m]\nD[p] = sum[m](0 * x[p,m])\n"
        "Y[p] = sum[m](x[p,m] - x[p,m] + D[p])\noutput Y\n"
    )
    assert "an input cancels altogether" in derived(c).explanation()


@EACH
def test_the_rest_is_still_right(case):
    c = cascade.parse(f"cascade {case.name}\n{case.text}\n")
    found = derived(c)
    for n, length in enumerate((0, 1, 5, 9)):
        inputs = arrays(c, extents(c, "m", length, n, {}), n)
        for tile in tiles(found):
            assert difference(c, found.result, inputs, {}, tile) < TOLERANCE, (length, tile)


LARGEST = """
input S[p,m]
n[p] = {largest}
L[p] = n[p] * sqrt(sum[m]((S[p,m] / n[p])**2))
output L
"""


@pytest.mark.parametrize("largest", ["max[m](abs(S[p,m]))", "max[m](abs(S[p,m])) + 1e-6"])
def test_a_scaling_that_keeps_squares_in_range_is_not_deferred(largest: str):
    spec = cascade.parse(LARGEST.format(largest=largest))
    assert "powers of that may overflow" in derived(spec).explanation()
    scores = np.random.default_rng(0).standard_normal((2, 9)) * 1e25
    wanted = cascade.run(spec, {"S": scores})["L"]
    found = cascade.compile(spec)(S=scores.astype(np.float32))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_sum_of_first_powers_is_deferred():
    text = LARGEST.replace("**2", "").format(largest="max[m](abs(S[p,m]))")
    assert derived(cascade.parse(text)).passes_after["m"] == 1
