"""Cascades that once went wrong: each derived form agrees on random and extreme inputs."""

from __future__ import annotations

import pytest

import cascade
from cascade.backends.compare import compare
from cascade.transforms.check import check
from tests.transforms.check import derived

ODD = {
    "a mean of none passes a sum over a rank that its conditions do not mention": (
        "input y[p,m], w[m], V[m,f], low[p]: int\n"
        "R[p] = sum[m](y[p,m])\nU[p,f] = mean[m](R[p] * V[m,f] where m < low[p])\n"
        "Z[p] = sum[f](U[p,f])\nT[p] = max[m](exp2(Z[p] * (w[m-1] ?? 1)))\noutput U, T"
    ),
    "a mean of exponentials": (
        "input x[p,m], w[m], q[p], V[m,f], low[p]: int\n"
        "R[p,f] = mean[m](exp(V[m,0] - x[p,m]) * V[m,f] where m < low[p])\nZ[p] = sum[f](R[p,f])\n"
        "T[p,f] = max[m](exp(Z[p] - q[p]) * w[m] * V[m,f] where m < low[p])\noutput R, T"
    ),
    "a class split is of sums only": (
        "input x[p,m], g[m]: int, low[p]: int\nrank c < 3\n"
        "R[p,c] = sum[m](x[p,m] where g[m] == c)\nQ[p] = sum[m](x[p,m] where low[p] <= m)\n"
        "T[p] = min[m](Q[p] + R[p,g[m]])\nZ[p] = max[m](Q[p] + R[p,g[m]] + x[p,m])\noutput T, Z"
    ),
    "a rank of an input that drops out": (
        "input x[p,m], y[p,m], V[m,f]\nD[p,m] = x[p,m] * V[m,0]\nR[p] = sum[m](exp(x[p,m]))\n"
        "E[p,m] = D[p,m] * 2\nT[p] = sum[m](y[p,m] * R[p])\noutput T"
    ),
    "a factor beside an exponential under a maximum": (
        "input x[p,m], w[m]\nR[p] = sum[m](w[m])\n"
        "T[p] = max[m](exp(x[p,m] - R[p]**2) * w[m])\noutput T"
    ),
    "a number before an exponential under a maximum": (
        "input x[p,m]\nR[p] = max[m](x[p,m])\nT[p] = max[m](3 * exp(x[p,m] - R[p]))\noutput T"
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_agrees(name):
    c = cascade.parse(f"cascade odd\n{ODD[name]}\n")
    found = derived(c)
    assert check(found).ok
    compared = compare(c, found.result, 1, 42)
    assert [x for x in compared if not x.ok] == []
    assert sum(x.compared for x in compared) > 50


def test_a_number_before_an_exponential_does_not_stop_it():
    c = cascade.parse(
        "cascade odd\n" + ODD["a number before an exponential under a maximum"] + "\n"
    )
    assert derived(c).passes_after["m"] == 1
