"""A factor of a contraction: its gradient reads the contraction, and needs no loop of its own."""

import numpy as np
import pytest

import cascade
from cascade.api import run_program
from cascade.gradients.flatten import flatten
from cascade.gradients.names import Names
from cascade.ir.expr import Reduce

SPEC = """
cascade x
import std
input Q[b,h,p,e], K[b,h,m,e], V[b,h,m,f], {inputs}
QK[b,h,p,m] = {scores}   where m <= p
A[b,h,p,m]  = softmax[m](QK[b,h,p,m])
O[b,h,p,f]  = A[b,h,p,m] * V[b,h,m,f]
output O
"""
CASES = {
    "a temperature": ("tau[h]", "Q[b,h,p,e] * K[b,h,m,e] / (tau[h] * sqrt(E))"),
    "its square": ("tau[h]", "Q[b,h,p,e] * K[b,h,m,e] / (tau[h] * tau[h])"),
    "a gain of keys": ("g[b,m]", "sum[e](Q[b,h,p,e] * g[b,m] * K[b,h,m,e] / sqrt(E))"),
    "both sides": ("g[h]", "sum[e](g[h] * Q[b,h,p,e] * g[h] * K[b,h,m,e])"),
}


@pytest.mark.parametrize("name", CASES)
def test_is_read_where_it_is(name: str) -> None:
    inputs, scores = CASES[name]
    spec = cascade.parse(SPEC.format(inputs=inputs, scores=scores))
    found = cascade.gradient(spec)
    assert cascade.api.check_gradient(spec, found)["ok"]
    names = {e.tensor: e for e in found.backward.einsums}
    widest = max(
        len({*e.ranks, *e.body.ranks}) for e in names.values() if isinstance(e.body, Reduce)
    )
    assert widest <= 5  # b, h, p, m and one of e and f: no sum of all ranks at once
    draw = np.random.default_rng(0)
    extents = {"b": 2, "h": 2, "p": 70, "m": 70, "e": 4, "f": 3}
    arrays = {
        t.name: draw.uniform(0.5, 1.5, [extents[r] for r in t.ranks])
        for t in (*spec.inputs, *found.backward.inputs)
    }
    outputs = cascade.run(found.forward, {t.name: arrays[t.name] for t in spec.inputs})
    given = {**arrays, **{n: outputs[n] for n in found.saved}}
    given = {t.name: given[t.name] for t in found.backward.inputs}
    wanted = cascade.run(found.backward, given)
    result, _ = run_program(found.backward, given, {}, {})
    for key, value in wanted.items():
        np.testing.assert_allclose(result[key], value, rtol=2e-5, atol=2e-5 * abs(value).max())


def test_is_not_read_where_the_sum_is_another() -> None:
    """The same factors over other points: a filter on the rank, another rank, a factor more."""
    spec = cascade.parse("""
        cascade x
        input A[i,e], B[j,e], g[j], w[e]
        S[i,j] = sum[e](g[j] * A[i,e] * B[j,e] where e > 0)
        T[i,j] = sum[e](g[j] * A[i,e] * B[j,e])
        U[i,j] = sum[e](g[j] * w[e] * A[i,e] * B[j,e])
        Y[i]   = sum[j](S[i,j] + T[i,j] * U[i,j])
        output Y""")
    assert cascade.api.check_gradient(spec, cascade.gradient(spec))["ok"]
    flat = flatten(spec, Names(spec))
    assert {e.tensor for e in flat.einsums} >= {"S", "T", "U"}


TEMPERATURE = """
import std
input Q[h,p,e], K[h,m,e], V[h,m,f], t[h]
S[h,p,m] = Q[h,p,e] * K[h,m,e] / softplus(t[h])   where m <= p
A[h,p,m] = softmax[m](S[h,p,m])
O[h,p,f] = A[h,p,m] * V[h,m,f]
output O
"""


def test_a_sum_that_no_pass_waits_for_is_not_taken_apart():
    """The temperature of a head is summed where its terms are made: nothing more is saved."""
    found = cascade.gradient(cascade.parse(TEMPERATURE))
    assert found.saved == ("O", "A_sum_log")
    assert found.passes["m"] == 1
