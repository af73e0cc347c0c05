"""Cascades whose kernels once failed or were missing: equal to the reference at any length."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

import cascade
from cascade.backends.tiled.run import run
from cascade.ir.extents import bind
from cascade.schedule.choose import schedule
from cascade.schedule.scale import scaled_operands
from cascade.schedule.sizes import Sizes
from tests.schedule.test_random import compare

CASES = {
    "a reduction over the whole rank of a loop": (
        """
        import std
        input Q[p,e], K[p,e], V[p,f]
        param L = 3
        rank y < (P + L - 1) // L, t < (P + L - 1) // L, c < L
        CK[y,c,e] = max[t](K[t*L+c,e] where t < y)
        COL[p,t]  = Q[p,e] * K[t*L+p%L,e]    where t < p//L
        FAR[p]    = sum[c,e](Q[p,e] * CK[p//L,c,e] where c != p%L and p//L > 0)
        A[p,t]    = softmax[t](COL[p,t])
        O[p,f]    = sum[t](A[p,t] * V[t*L+p%L,f]) + FAR[p]
        output O
        """,
        ({"p": 13, "e": 2, "f": 3}, {"p": 4, "e": 1, "f": 1}, {"p": 1, "e": 3, "f": 2}),
    ),
    "scores times the number of a tile": (
        """
        input Q[p,e], K[m,e], V[m,f], L[p]
        rank m = m1*M0 + m0
        param M0 = 4
        T[p,m1,m0] = m1 * Q[p,e] * K[m,e]
        O[p,f]     = sum[m1](sum[m0](exp(T[p,m1,m0] - L[p]) * V[m,f]))
        output O
        """,
        ({"p": 13, "m": 11, "e": 2, "f": 3}, {"p": 4, "m": 3, "e": 1, "f": 1}),
    ),
    "a tensor that is named as a scaled operand": (
        """
        import std
        input Q[p,e], K[m,e], V[m,f]
        param scale = 0.5
        Q_scaled[p,e] = 2 * tanh(Q[p,e])
        S[p,m] = scale * Q[p,e] * K[m,e]
        T[p,m] = scale * Q_scaled[p,e] * K[m,e]
        A[p,m] = softmax[m](S[p,m])
        B[p,m] = softmax[m](T[p,m])
        O[p,f] = sum[m]((A[p,m] + B[p,m]) * V[m,f])
        output O
        """,
        ({"p": 13, "m": 11, "e": 2, "f": 3}, {"p": 4, "m": 3, "e": 1, "f": 1}),
    ),
    "loops that need each other's results in turn": (
        """
        input Q[y,x,e], K[v,u,e], V[v,u,f]
        S1[y,x,u] = Q[y,x,e] * K[y,u,e]    where u <= x
        S2[y,x,v] = Q[y,x,e] * K[v,x,e]    where v < y
        GM[y,x]   = max(max[u](S1[y,x,u]), max[v](S2[y,x,v]))
        N1[y,x,u] = exp(S1[y,x,u] - GM[y,x])
        N2[y,x,v] = exp(S2[y,x,v] - GM[y,x])
        SD[y,x]   = sum[u](N1[y,x,u]) + sum[v](N2[y,x,v])
        O[y,x,f]  = (sum[u](N1[y,x,u] * V[y,u,f]) + sum[v](N2[y,x,v] * V[v,x,f])) / SD[y,x]
        output O
        """,
        (
            {"y": 5, "x": 7, "v": 5, "u": 7, "e": 3, "f": 2},
            {"y": 3, "x": 1, "v": 3, "u": 1, "e": 1, "f": 1},
            {"y": 1, "x": 2, "v": 1, "u": 2, "e": 2, "f": 3},
        ),
    ),
    "a selection among the tiles of a partition": (
        """
        input K[p,m], V[m]
        param L = 3, J = 2
        rank m = n*L + l
        MEAN[p,n] = mean[l](K[p,m])
        IDX[p,j]  = argtop[n -> j](MEAN[p,n] where n != 1)
        BEST[p,j] = top[n -> j](MEAN[p,n] where n != 1)
        WHERE[p]  = argmax[n](MEAN[p,n])
        SUM[p,n]  = K[p,m] * V[m]
        O[p]      = sum[j](SUM[p,IDX[p,j]])
        output IDX, BEST, WHERE, O
        """,
        ({"p": 5, "m": 13}, {"p": 1, "m": 2}, {"p": 3, "m": 6}),
    ),
    "a selection among the steps of a recurrence": (
        """
        input K[p,m]
        param L = 3, J = 2
        rank m = n*L + l
        init  S[p,0] = 0
        MOST[p,n]  = max[l](K[p,m])
        S[p,n+1]   = S[p,n] + exp(MOST[p,n])
        IDX[p,j]   = argtop[n -> j](MOST[p,n])
        O[p]       = S[p,N]
        output IDX, O
        """,
        ({"p": 5, "m": 13}, {"p": 1, "m": 2}, {"p": 3, "m": 6}),
    ),
    "selections among the same scores": (
        """
        input K[p,m]
        param J = 2, L = 3
        rank j < J, l < L
        A[p]   = argmax[m](K[p,m])
        B[p]   = argmax[m](K[p,m]) + 1
        I[p,j] = argtop[m -> j](K[p,m])
        S[p,l] = top[m -> l](K[p,m])
        output A, B, I, S
        """,
        ({"p": 5, "m": 13}, {"p": 1, "m": 4}, {"p": 3, "m": 6}),
    ),
    "a tensor of the name of an extent": (
        """
        import std
        input V[p,v], W[v]
        O[p] = sum[v](softmax[v](V[p,v]) * W[v])
        output O
        """,
        ({"p": 5, "v": 7}, {"p": 1, "v": 1}, {"p": 3, "v": 0}),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("known", [False, True])
def test_equal_to_the_reference(name, known):
    text, draws = CASES[name]
    c = cascade.parse(text)
    for seed, extents in enumerate(draws):
        chance = np.random.default_rng(seed)
        inputs = {t.name: chance.standard_normal([extents[r] for r in t.ranks]) for t in c.inputs}
        shapes = {n: a.shape for n, a in inputs.items()}
        made = schedule(c, Sizes(bind(c, shapes).extents if known else {}, rows=2, stream=2))
        values = made.bind(shapes)
        wanted = cascade.run(c, inputs)
        for program in (made.program, scaled_operands(made.program)):
            found = run(program, inputs, values, 1, dtype=np.float64).outputs
            compare(found, wanted, text)


FACTORS = {
    "an extent of another input": ("1 / N", "z[n]", {"z": np.zeros(0)}, {}),
    "a param as it is set": ("scale", "", {}, {"scale": math.inf}),
    "a param that follows from one": ("1 / (scale - 2)", "", {}, {"scale": 2.0}),
}


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("condition", ["m < p", "m < p and m < n[p]"])
def test_a_sum_without_a_point_is_0_whatever_multiplies_it(name, condition):
    factor, extra, given, settings = FACTORS[name]
    spec = cascade.parse(f"""
        input G[p,m], K[m,e], n[p]: int{", " + extra if extra else ""}
        param scale = 3.0
        O[p,e] = sum[m]({factor} * G[p,m] * K[m,e] where {condition})
        T      = {"sum[n](z[n])" if extra else "scale"} + sum[p](1.0 * n[p])
        output O, T
        """)
    arrays = {"G": np.ones((19, 37)), "K": np.ones((37, 8)), "n": np.arange(19) % 3, **given}
    wanted = cascade.run(spec, arrays, settings)["O"]
    assert (wanted[0] == 0).all() and np.isinf(wanted).any()
    found = cascade.compile(spec, tiles={"p": 8, "m": 16})(**arrays, **settings)["O"]
    assert np.array_equal(found, wanted)


def test_a_value_that_is_rounded_twice_stands_once_in_an_order():
    """A contraction of 1 row and of 17 rows may differ in the last bit."""
    c = cascade.parse("""
        import std
        input W[c,r], G[m,r], X[m,d]
        U[c,m]  = W[c,r] * G[m,r]
        AT[c,m] = order[m](U[c,m])
        A[c,m]  = softmax[m](U[c,m] where AT[c,m] >= 2)
        Z[c,d]  = A[c,m] * X[m,d]
        output Z
    """)
    extents = {"c": 3, "r": 33, "m": 17, "d": 2}
    made = schedule(c, Sizes(extents, rows=16, stream=1))
    for seed in range(5):
        chance = np.random.default_rng(seed)
        shapes = {t.name: tuple(extents[r] for r in t.ranks) for t in c.inputs}
        inputs = {n: chance.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
        found = run(made.program, inputs, made.bind(shapes), 1).outputs["Z"]
        assert np.allclose(found, cascade.run(c, inputs)["Z"], atol=1e-4)


ORDERED = {
    "several outputs": """
        import std
        input Q[p,e], K[m,e], V[m,f]
        S[p,m]  = Q[p,e] * K[m,e]
        A[p,m]  = softmax[m](S[p,m])
        I[m]    = sum[p](A[p,m])
        O[p,f]  = A[p,m] * V[m,f]
        output O, I
    """,
    "several conditions of one statement": """
        import std
        input U[c,m], draw[c,m]
        rank i < C
        S[c,m]     = U[c,m] where draw[c,m] > 0
        A[c,m]     = softmax[m](S[c,m])
        N[c]       = A[c,m] * A[c,m]
        DOT[c,i]   = A[c,m] * A[i,m]
        ALIKE[c,i] = DOT[c,i] / sqrt(N[c] * N[i])
        output ALIKE
    """,
}


@pytest.mark.parametrize("text", ORDERED.values(), ids=ORDERED)
def test_a_program_is_the_same_in_every_process(text):
    """Kernels are kept by their source: no order may be that of a set."""
    code = "import cascade, sys; print(cascade.schedule(cascade.parse(sys.argv[1])))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code, text],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in range(4)
    }
    assert len(found) == 1
