"""Chunked forms mean what quadratic forms and recurrences mean, at any chunk size and length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import cascade
from cascade.backends.compare import compare
from cascade.ir.cascade import Cascade
from cascade.transforms.chunk import Chunked, chunk

Inputs = Mapping[str, np.ndarray[Any, Any]]
Make = Callable[[int], dict[str, np.ndarray[Any, Any]]]

SIZES = (1, 16, 64)
LENGTHS = (0, 1, 5, 131)
RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape)


def uniform(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.random(shape)


def unit(*shape: int) -> np.ndarray[Any, Any]:
    x = normal(*shape)
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def attention(**more: Callable[[int], np.ndarray[Any, Any]]) -> Make:
    """Queries, keys and values of two heads, and what else a mechanism takes."""

    def make(n: int) -> dict[str, np.ndarray[Any, Any]]:
        own = {"Q": normal(1, 2, n, 3), "K": normal(1, 2, n, 3), "V": normal(1, 2, n, 4)}
        return own | {name: value(n) for name, value in more.items()}

    return make


PREFIX = "input Q[b,h,p,e], K[b,h,m,e], V[b,h,m,f]"
STEPS = "input Q[b,h,i,e], K[b,h,i,e], V[b,h,i,f]"
START = "init S[b,h,0,e,f] = 0"
READ = "O[b,h,i,f] = Q[b,h,i,e] * S[b,h,i+1,e,f]\noutput O"

SPECS: dict[str, tuple[str, Make]] = {
    "linear": (
        f"""{PREFIX}
        A[b,h,p,m] = Q[b,h,p,e] * K[b,h,m,e]   where m <= p
        O[b,h,p,f] = A[b,h,p,m] * V[b,h,m,f]
        output O""",
        attention(),
    ),
    "linear, features, normalised": (
        f"""{PREFIX}
        PQ[b,h,p,e] = select(Q[b,h,p,e] > 0, Q[b,h,p,e] + 1, exp(min(Q[b,h,p,e], 0)))
        PK[b,h,m,e] = select(K[b,h,m,e] > 0, K[b,h,m,e] + 1, exp(min(K[b,h,m,e], 0)))
        A[b,h,p,m] = PQ[b,h,p,e] * PK[b,h,m,e]   where m <= p
        N[b,h,p]   = sum[m](A[b,h,p,m])
        O[b,h,p,f] = sum[m](A[b,h,p,m] / N[b,h,p] * V[b,h,m,f])
        output O, N""",
        attention(),
    ),
    "linear, strict, keys of the queries' rank": (
        f"""{STEPS}
        O[b,h,i,f] = sum[j](sum[e](Q[b,h,i,e] * K[b,h,j,e]) * V[b,h,j,f] where j < i)
        output O""",
        attention(),
    ),
    "linear, strict, normalised": (  # row 0 has no column, and no normaliser
        f"""{PREFIX}
        A[b,h,p,m] = sum[e](exp(Q[b,h,p,e]) * exp(K[b,h,m,e]))   where m < p
        N[b,h,p]   = sum[m](A[b,h,p,m])
        O[b,h,p,f] = sum[m](A[b,h,p,m] / N[b,h,p] * V[b,h,m,f])
        output O""",
        attention(),
    ),
    "linear, normalised over few columns": (
        f"""{PREFIX}, keep[b,m]: bool
        A[b,h,p,m] = sum[e](exp(Q[b,h,p,e]) * exp(K[b,h,m,e]))   where m <= p and keep[b,m]
        N[b,h,p]   = sum[m](A[b,h,p,m])
        O[b,h,p,f] = sum[m](A[b,h,p,m] / N[b,h,p] * V[b,h,m,f])
        output O""",
        attention(keep=lambda n: (np.arange(n) % 40 == 37)[None]),
    ),
    "retention, quadratic": (
        f"""{STEPS}
        param scale = 1 / sqrt(E)
        gamma[h]   = 1 - exp2(-5 - h)
        A[b,h,p,m] = scale * sum[e](Q[b,h,p,e] * K[b,h,m,e]) * gamma[h]**(p - m)   where m <= p
        O[b,h,p,f] = A[b,h,p,m] * V[b,h,m,f]
        output O""",
        attention(),
    ),
    "powers of any sign": (
        f"""{STEPS}, gamma[h]
        A[b,h,i,j] = gamma[h]**(2 * (i - j) - 1) * sum[e](Q[b,h,i,e] * K[b,h,j,e])   where j < i
        O[b,h,i,f] = A[b,h,i,j] * V[b,h,j,f]   where i > 2
        output O""",
        attention(gamma=lambda n: np.array([0.0, -0.9])),
    ),
    "retention": (
        f"""{STEPS}
        {START}
        decay[h]       = 1 - exp2(-5 - h)
        S[b,h,i+1,e,f] = decay[h] * S[b,h,i,e,f] + K[b,h,i,e] * V[b,h,i,f]
        {READ}""",
        attention(),
    ),
    "slopes": (
        f"""{PREFIX}, s[h]
        W[b,h,p,m] = exp(-s[h] * (p - m))
        A[b,h,p,m] = Q[b,h,p,e] * K[b,h,m,e]   where m <= p
        O[b,h,p,f] = sum[m](A[b,h,p,m] * W[b,h,p,m] * V[b,h,m,f])
        output O""",
        attention(s=lambda n: np.array([0.5, 40.0])),
    ),
    "slopes and decay": (
        f"""{STEPS}, F[b,h,i]
        W[b,h,i,j] = exp(exp2(-(h + 1)) * (j - i) + F[b,h,i] - F[b,h,j])
        O[b,h,i,f] = sum[j,e](Q[b,h,i,e] * K[b,h,j,e] * W[b,h,i,j] * V[b,h,j,f] where i >= j)
        output O""",
        attention(F=lambda n: np.cumsum(-9 * uniform(1, 2, n), -1)),
    ),
    "decay of a step, quadratic": (
        f"""{PREFIX}, G[b,h,p]
        A[b,h,p,m] = Q[b,h,p,e] * K[b,h,m,e]   where m <= p
        O[b,h,p,f] = sum[m](A[b,h,p,m] * exp(G[b,h,p] - G[b,h,m]) * V[b,h,m,f])
        output O""",
        attention(G=lambda n: np.cumsum(-60 * uniform(1, 2, n), -1)),
    ),
    "scalar decay": (
        """input X[b,h,i,f], B[b,i,e], C[b,i,e], A[h], dt[b,h,i]
        init S[b,h,0,e,f] = 0
        S[b,h,i+1,e,f] = exp(dt[b,h,i] * A[h]) * S[b,h,i,e,f] + dt[b,h,i] * B[b,i,e] * X[b,h,i,f]
        Y[b,h,i,f]     = C[b,i,e] * S[b,h,i+1,e,f]
        output Y""",
        lambda n: {
            "X": normal(1, 2, n, 4),
            "B": normal(1, n, 3),
            "C": normal(1, n, 3),
            "A": -np.array([1.0, 30.0]),
            "dt": uniform(1, 2, n),
        },
    ),
    "selective state": (
        """input U[b,t,d], raw[b,t,d], A[d,s], B[b,t,s], C[b,t,s], skip[d]
        init S[b,0,d,s] = 0
        DT[b,t,d]    = softplus(raw[b,t,d])
        S[b,t+1,d,s] = exp(DT[b,t,d] * A[d,s]) * S[b,t,d,s] + DT[b,t,d] * B[b,t,s] * U[b,t,d]
        Y[b,t,d]     = sum[s](C[b,t,s] * S[b,t+1,d,s]) + skip[d] * U[b,t,d]
        output Y""",
        lambda n: {
            "U": normal(2, n, 3),
            "raw": normal(2, n, 3),
            "A": -abs(normal(3, 4)),
            "B": normal(2, n, 4),
            "C": normal(2, n, 4),
            "skip": normal(3),
        },
    ),
    "decay of a channel, quadratic": (
        f"""{STEPS}, B[b,h,i,e]
        A[b,h,i,j] = sum[e](Q[b,h,i,e] * K[b,h,j,e] * exp(B[b,h,i,e] - B[b,h,j,e]))   where j <= i
        O[b,h,i,f] = A[b,h,i,j] * V[b,h,j,f]
        output O""",
        attention(B=lambda n: np.cumsum(-60 * uniform(1, 2, n, 3), -2)),
    ),
    "decay of a channel": (
        f"""{STEPS}, g[b,h,i,e]
        {START}
        a[b,h,i,e]     = exp(g[b,h,i,e])
        S[b,h,i+1,e,f] = a[b,h,i,e] * S[b,h,i,e,f] + K[b,h,i,e] * V[b,h,i,f]
        {READ}""",
        attention(g=lambda n: -60 * uniform(1, 2, n, 3)),
    ),
    "gate of a channel": (
        f"""{STEPS}, g[b,h,i,e]
        {START}
        S[b,h,i+1,e,f] = sigmoid(g[b,h,i,e])**(1/16) * S[b,h,i,e,f] + K[b,h,i,e] * V[b,h,i,f]
        {READ}""",
        attention(g=lambda n: 9 * normal(1, 2, n, 3)),
    ),
    "any factor": (
        f"""{STEPS}, a[b,h,i]
        {START}
        S[b,h,i+1,e,f] = a[b,h,i] * S[b,h,i,e,f] + K[b,h,i,e] * V[b,h,i,f]
        {READ}""",
        attention(a=lambda n: np.where(uniform(1, 2, n) < 0.1, 0, 2 * uniform(1, 2, n) - 1)),
    ),
    "forgetting all": (
        f"""{STEPS}, g[b,h,i]
        {START}
        S[b,h,i+1,e,f] = exp(g[b,h,i]) * S[b,h,i,e,f] + K[b,h,i,e] * V[b,h,i,f]
        O[b,h,p,f]     = Q[b,h,p,e] * S[b,h,p+1,e,f]
        output O""",
        attention(g=lambda n: np.where(uniform(1, 2, n) < 0.2, -np.inf, -uniform(1, 2, n))),
    ),
    "start, end, earlier state": (
        f"""{STEPS}, S0[b,h,e,f], g[b,h,i]
        init S[b,h,0,e,f] = S0[b,h,e,f]
        S[b,h,i+1,e,f] = exp(g[b,h,i]) * S[b,h,i,e,f] + K[b,h,i,e] * V[b,h,i,f]
        O[b,h,i,f]     = sum[e](Q[b,h,i,e] * S[b,h,i,e,f]) + V[b,h,i,f]
        F[b,h,e,f]     = S[b,h,I,e,f]
        output O, F""",
        attention(S0=lambda n: normal(1, 2, 3, 4), g=lambda n: -uniform(1, 2, n)),
    ),
    "a vector state": (
        """input x[i], a[i]
        init s[0] = 1
        s[i+1] = a[i] * s[i] + x[i] + 1
        y[i]   = s[i+1]**2 + s[i]
        z      = s[I]
        output y, z""",
        lambda n: {"x": normal(n), "a": 2 * uniform(n) - 1},
    ),
    "two recurrences": (
        f"""{STEPS}
        {START}
        init Z[b,h,0,e] = 0
        PQ[b,h,i,e]    = exp(Q[b,h,i,e])
        PK[b,h,i,e]    = exp(K[b,h,i,e])
        S[b,h,i+1,e,f] = S[b,h,i,e,f] + PK[b,h,i,e] * V[b,h,i,f]
        Z[b,h,i+1,e]   = Z[b,h,i,e] + PK[b,h,i,e]
        O[b,h,i,f]     = sum[e](PQ[b,h,i,e] * S[b,h,i+1,e,f]) / sum[e](PQ[b,h,i,e] * Z[b,h,i+1,e])
        output O""",
        attention(),
    ),
    "steps passed over": (
        f"""{STEPS}, a[b,h,i], keep[b,i]: bool
        {START}
        S[b,h,i+1,e,f] = select(keep[b,i], a[b,h,i] * S[b,h,i,e,f] + K[b,h,i,e] * V[b,h,i,f],
            S[b,h,i,e,f])
        {READ}""",
        attention(a=lambda n: uniform(1, 2, n), keep=lambda n: uniform(1, n) < 0.5),
    ),
    "choices of one side": (
        f"""{PREFIX}, keep[b,m]: bool
        A[b,h,p,m] = sum[e](select(Q[b,h,p,e] > 0, 1 + Q[b,h,p,e], exp(Q[b,h,p,e])) * K[b,h,m,e])
        B[b,h,p,m] = A[b,h,p,m] * ((exp(K[b,h,m,0]) where keep[b,m]) ?? 2)   where m <= p
        U[b,h,m,f] = select(keep[b,m], V[b,h,m,f], (V[b,h,m+1,f] ?? -1))
        O[b,h,p,f] = sum[m](B[b,h,p,m] * U[b,h,m,f] * select(keep[b,m], 1, 1 / 3))
        output O""",
        attention(Q=lambda n: 900 * uniform(1, 2, n, 3), keep=lambda n: uniform(1, n) < 0.5),
    ),
    "taylor": (
        f"""{PREFIX}
        param eps = 1e-12
        Z[b,h,p,m] = Q[b,h,p,e] * K[b,h,m,e] / sqrt(E)
        T[b,h,p,m] = 1 + Z[b,h,p,m] + Z[b,h,p,m]**2 / 2   where m <= p
        O[b,h,p,f] = sum[m](T[b,h,p,m] * V[b,h,m,f]) / (sum[m](T[b,h,p,m]) + eps)
        output O""",
        attention(),
    ),
    "input and forget gates": (
        f"""{PREFIX}, F[b,h,p], I[b,h,m]
        D[b,h,p,m] = F[b,h,p] - F[b,h,m] + I[b,h,m]
        O[b,h,p,f] = sum[m,e](exp(D[b,h,p,m]) * Q[b,h,p,e] * K[b,h,m,e] * V[b,h,m,f] where m <= p)
        output O""",
        attention(
            F=lambda n: np.cumsum(-3 * uniform(1, 2, n), -1) + 1e3, I=lambda n: 5 * normal(1, 2, n)
        ),
    ),
    "delta": (
        f"""{STEPS}, beta[b,h,i]
        {START}
        NK[b,h,i,e]    = K[b,h,i,e] / sqrt(sum[e](K[b,h,i,e]**2) + 1e-6)
        R[b,h,i,f]     = NK[b,h,i,e] * S[b,h,i,e,f]
        S[b,h,i+1,e,f] = S[b,h,i,e,f] + beta[b,h,i] * NK[b,h,i,e] * (V[b,h,i,f] - R[b,h,i,f])
        {READ}, R""",
        attention(beta=lambda n: uniform(1, 2, n)),
    ),
    "delta, keys of length 1": (
        f"""{STEPS}
        {START}
        NK[b,h,i,e]    = K[b,h,i,e] / sqrt(sum[e](K[b,h,i,e]**2))
        R[b,h,i,f]     = sum[n](NK[b,h,i,n] * S[b,h,i,n,f])
        S[b,h,i+1,e,f] = S[b,h,i,e,f] + NK[b,h,i,e] * (V[b,h,i,f] - R[b,h,i,f])
        {READ}""",
        attention(),
    ),
    "gated delta": (
        f"""{STEPS}, beta[b,h,i], g[b,h,i]
        {START}
        R[b,h,i,f]     = K[b,h,i,e] * S[b,h,i,e,f]
        W[b,h,i,e,f]   = beta[b,h,i] * K[b,h,i,e] * R[b,h,i,f]
        S[b,h,i+1,e,f] = (exp(g[b,h,i]) * (S[b,h,i,e,f] - W[b,h,i,e,f])
            + beta[b,h,i] * K[b,h,i,e] * V[b,h,i,f])
        {READ}""",
        attention(
            K=lambda n: unit(1, 2, n, 3),
            beta=lambda n: uniform(1, 2, n),
            g=lambda n: -60 * uniform(1, 2, n) ** 4,
        ),
    ),
    "diagonal and low rank": (
        f"""{STEPS}, w[b,h,i,e], a[b,h,i,e]
        {START}
        S[b,h,i+1,e,f] = (exp(-exp(w[b,h,i,e])) * S[b,h,i,e,f]
            - a[b,h,i,e] * K[b,h,i,e] * sum[e](K[b,h,i,e] * S[b,h,i,e,f])
            + K[b,h,i,e] * V[b,h,i,f])
        {READ}""",
        attention(
            K=lambda n: unit(1, 2, n, 3),
            w=lambda n: normal(1, 2, n, 3),
            a=lambda n: uniform(1, 2, n, 3),
        ),
    ),
    "low rank from the other side": (
        """input q[i,f], k[i,e], u[i,e,f], w[i,f], c[f]
        init S[0,e,f] = 0
        S[i+1,e,f] = c[f] * S[i,e,f] + u[i,e,f] * sum[f](w[i,f] * S[i,e,f]) + k[i,e]
        y[i,e]     = sum[f](q[i,f] * S[i+1,e,f])
        output y""",
        lambda n: {
            "q": normal(n, 3),
            "k": normal(n, 2),
            "u": 0.3 * normal(n, 2, 3),
            "w": 0.5 * normal(n, 3),
            "c": uniform(3),
        },
    ),
}


def chunked(text: str) -> tuple[Cascade, Chunked]:
    source = cascade.parse(f"cascade x\n{text}\n")
    found = chunk(source)
    assert found is not None
    return source, found


def agree(source: Cascade, result: Cascade, inputs: Inputs, size: int | None = None) -> None:
    """Equal to 1e-10 of the sum of absolute terms."""
    new = [p.name for p in result.params if p not in source.params]
    positive = {k: abs(v) if k in ("Q", "K", "V") else v for k, v in inputs.items()}
    expected, scale = cascade.run(source, inputs), cascade.run(source, positive)
    found = cascade.run(result, inputs, {} if size is None else dict.fromkeys(new, size))
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert np.isfinite(found[name]).all()
        if value.size:
            error = abs(found[name] - value).max()
            assert error <= 1e-10 * max(abs(scale[name]).max(), abs(value).max()), (name, size)


@pytest.mark.parametrize("name", SPECS)
def test_the_chunked_form_means_the_same(name: str) -> None:
    text, make = SPECS[name]
    source, found = chunked(text)
    assert found.changed and not found.refusals
    assert cascade.parse(str(found.result)) == found.result
    for length in LENGTHS:
        inputs = make(length)
        for size in SIZES:
            agree(source, found.result, inputs, size)


@pytest.mark.parametrize("name", SPECS)
def test_no_whole_square_is_left(name: str) -> None:
    """No tensor has rows and columns of the whole length, and no state is kept at every step."""
    _, found = chunked(SPECS[name][0])
    long = {
        n: sum(r in ("p", "m", "i", "t") for r in t.ranks) for n, t in found.result.tensors.items()
    }
    assert max(long.values()) <= 1
    assert not any(t.iterative is not None and long[n] for n, t in found.result.tensors.items())


@pytest.mark.parametrize("name", [n for n in SPECS if n != "scalar decay"])
def test_no_finite_value_is_lost(name: str) -> None:
    """Random extents, those of 0 among them, and extreme values. (A decay above 1 that is infinite
    has no value in a chunk.)
    """
    source, found = chunked(SPECS[name][0])
    compared = compare(source, found.result, 5, 21)
    assert [c for c in compared if not c.ok] == [] and sum(c.compared for c in compared) > 0


def test_a_normaliser_without_a_predicate_needs_a_column() -> None:
    source, found = chunked("""
        input Q[p,e], K[m,e], V[m,f], keep[m]: bool
        A[p,m] = sum[e](exp(Q[p,e]) * exp(K[m,e]))   where keep[m]
        N[p]   = sum[m](A[p,m])
        O[p,f] = sum[m](A[p,m] / N[p] * V[m,f])
        output O""")
    assert any("whatever the factor of the row" in says for says, _ in found.steps[-1].conditions)
    for n in (0, 1, 5):
        x = {"Q": normal(4, 2), "K": normal(n, 2), "V": normal(n, 3), "keep": np.zeros(n, bool)}
        agree(source, found.result, x)


@pytest.mark.parametrize("more", [-7, 0, 9])
def test_rows_and_columns_of_other_lengths(more: int) -> None:
    """Grouped heads, a length for each batch, columns that end before or after the rows."""
    source, found = chunked("""
        input Q[b,h,p,e], K[b,g,m,e], V[b,g,m,f], G[b,g,m], length[b]: int
        A[b,h,p,m] = sum[e](Q[b,h,p,e] * K[b,h // (H // 2),m,e])   where m <= p and m < length[b]
        O[b,h,p,f] = sum[m](A[b,h,p,m] * exp(G[b,h // 2,m]) * V[b,h // 2,m,f])
        D[b,h,p]   = sum[m](A[b,h,p,m] * exp(G[b,h // 2,m]) where m < p)
        C[p]       = sum[m](1 where m <= p)
        output O, D, C""")
    for n in (0, 1, 5, 131):
        m = max(n + more, 0)
        inputs = {
            "Q": normal(2, 4, n, 3),
            "K": normal(2, 2, m, 3),
            "V": normal(2, 2, m, 4),
            "G": 30 * normal(2, 2, m),
            "length": np.array([n // 2, n]),
        }
        for size in SIZES:
            agree(source, found.result, inputs, size)


def test_without_a_predicate_the_sum_is_reassociated() -> None:
    """Exponents of rows and columns, a mask of keys, and a row without any."""
    source, found = chunked("""
        input Q[b,h,p,e], K[b,h,m,e], V[b,h,m,f], W[r,e], keep[b,m]: bool
        XQ[b,h,p,r] = sum[e](W[r,e] * Q[b,h,p,e]) - sum[e](Q[b,h,p,e]**2) / 2
        XK[b,h,m,r] = sum[e](W[r,e] * K[b,h,m,e]) - sum[e](K[b,h,m,e]**2) / 2
        A[b,h,p,m]  = sum[r](exp(XQ[b,h,p,r]) * exp(XK[b,h,m,r]))   where keep[b,m]
        O[b,h,p,f]  = sum[m](A[b,h,p,m] * V[b,h,m,f])
        N[b,h,p]    = sum[m](A[b,h,p,m])   where p > 0
        output O, N""")
    assert {s.law for s in found.steps} == {"reassociate"}
    assert cascade.parse(str(found.result)) == found.result
    assert not any({"p", "m"} <= set(t.ranks) for t in found.result.tensors.values())
    for n in LENGTHS:
        inputs = attention(W=lambda _: normal(5, 3))(n)
        agree(source, found.result, inputs | {"keep": uniform(1, n) < 0.6})
        agree(source, found.result, inputs | {"keep": np.zeros((1, n), bool)})


def test_exponents_are_anchored() -> None:
    """Growing exponents on either side, whose exponentials alone have no number."""
    source, found = chunked(f"""{PREFIX}, G[b,h,p]
        A[b,h,p,m] = Q[b,h,p,e] * K[b,h,m,e]   where m <= p
        O[b,h,p,f] = sum[m](A[b,h,p,m] * exp(G[b,h,p] - G[b,h,m]) * V[b,h,m,f])
        output O""")
    assert any("running maximum" in says for s in found.steps for says, _ in s.conditions)
    for start in (-1e6, 1e6):
        slope = np.cumsum(-uniform(1, 2, 131), -1) + start
        for size in SIZES:
            agree(source, found.result, attention(G=lambda _, g=slope: g)(131), size)  # type: ignore[misc]


STATE = """input K[i,e], V[i,f]
init S[0,e,f] = 0
{update}
O[i,f] = K[i,e] * S[i+1,e,f]
output O"""

REFUSED = {
    "a choice on values of p and of m": f"""{PREFIX}
        QK[b,h,p,m] = Q[b,h,p,e] * K[b,h,m,e]
        O[b,h,p,f]  = sum[m](select(m <= p, QK[b,h,p,m], 0) * V[b,h,m,f])
        output O""",
    "inside an exponential": f"""{PREFIX}
        QK[b,h,p,m] = Q[b,h,p,e] * K[b,h,m,e]   where m <= p
        A[b,h,p,m]  = exp(QK[b,h,p,m]) / sum[m](exp(QK[b,h,p,m]))
        O[b,h,p,f]  = A[b,h,p,m] * V[b,h,m,f]
        output O""",
    "to the power -1": f"""{PREFIX}
        QK[b,h,p,m] = Q[b,h,p,e] * K[b,h,m,e]
        O[b,h,p,f]  = sum[m](sigmoid(QK[b,h,p,m]) * V[b,h,m,f])
        output O""",
    "no prefix": f"""{PREFIX}
        QK[b,h,p,m] = Q[b,h,p,e] * K[b,h,m,e]   where p - m < 8
        O[b,h,p,f]  = QK[b,h,p,m] * V[b,h,m,f]
        output O""",
    "not linear": STATE.format(update="S[i+1,e,f] = tanh(S[i,e,f]) + K[i,e] * V[i,f]"),
    "multiplied with itself": STATE.format(update="S[i+1,e,f] = S[i,e,f]**2 + K[i,e] * V[i,f]"),
    "more than one step": STATE.format(
        update="S[i+1,e,f] = S[i,e,f] + S[i-1,e,f] + K[i,e] * V[i,f]"
    ),
    "may be absent": STATE.format(
        update="S[i+1,e,f] = S[i,e,f] + K[i,e] * V[i,f] where V[i,f] > 0"
    ),
    "more than one vector": STATE.format(
        update="S[i+1,e,f] = S[i,e,f] - K[i,e] * sum[e](K[i,e] * S[i,e,f]) - sum[e](S[i,e,f])"
        " + V[i,f]"
    ),
    "another place": STATE.format(update="S[i+1,e,f] = S[i,(e+1) % E,f] + K[i,e] * V[i,f]"),
    "full transition": """input T[e,d], x[i,e]
        init S[0,e] = 0
        S[i+1,e] = sum[d](T[e,d] * S[i,d]) + x[i,e]
        O[i,e]   = S[i+1,e]
        output O""",
    "a full transition of the state": """input a[i,e], x[i]
        init S[0,e] = 0
        rank d < E
        S[i+1,e] = a[i,e] * S[i,e] + sum[d](S[i,d] where d == e - 1) + x[i]
        O[i,e]   = S[i+1,e]
        output O""",
    "step together": """input x[i]
        init S[0] = 0, T[0] = 0
        S[i+1] = T[i] + x[i]
        T[i+1] = S[i]
        O[i]   = S[i+1]
        output O""",
    "in an exponential": """input x[i,e]
        init S[0,e] = 0
        S[i+1,e] = S[i,e] + x[i,e]
        O[i]     = sum[e](exp(S[i+1,e]))
        output O""",
    "partitioned already": """input x[i]
        param I0 = 4
        rank i = i1*I0 + i0
        init S[0] = 0
        S[i+1] = S[i] + x[i]
        L[i1]  = max[i0](x[i])
        O[i]   = S[i+1]
        output O, L""",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals_name_the_reason(reason: str) -> None:
    source, found = chunked(REFUSED[reason])
    assert not found.changed and found.result is source
    assert any(reason in r.reason for r in found.refusals), found.refusals


def test_one_refusal_keeps_the_rest() -> None:
    source, found = chunked(f"""{PREFIX}
        QK[b,h,p,m] = Q[b,h,p,e] * K[b,h,m,e]   where m <= p
        O[b,h,p,f]  = QK[b,h,p,m] * V[b,h,m,f]
        N[b,h,p]    = sum[m](exp(QK[b,h,p,m]))
        output O, N""")
    assert [s.statement for s in found.steps] == ["O"]
    assert [r.statement for r in found.refusals] == ["N"]
    agree(source, found.result, attention()(37), 16)


def test_nothing_to_do() -> None:
    assert chunk(cascade.parse("input x[m]\ny = sum[m](x[m] * x[m])\noutput y\n")) is None


@pytest.mark.parametrize("name", ["taylor", "gated delta", "slopes and decay"])
def test_the_order_is_stable(name: str) -> None:
    first = str(chunked(SPECS[name][0])[1])
    assert first == str(chunked(SPECS[name][0])[1])
    assert "because" in first and "identity" in first


@pytest.mark.parametrize(
    "body",
    [
        "W[p,m] * V[m,f] / sum[m](W[p,m])",
        "W[p,m] * V[m,f] / count[m](W[p,m])",
        "W[p,m] * V[m,f] / max[m](abs(W[p,m]))",
        "sum[m]((W[p,m] - mean[m](W[p,m])) * V[m,f])",
        "sum[m](W[p,m] * V[m,f] / (1 + sum[p](abs(W[p,m]))))",
        "sum[m](W[p,m] * V[m,f] / sum[m](W[p,m]))",
        "sum[m](W[p,m] * V[m,f] * exp(-max[m](W[p,m])))",
        "sum[m](W[p,m] * V[m,f] / (1 + exp(-sum[m](W[p,m]))))",
        "sum[m](W[p,m] * V[m,f] / sum[m](W[p,m] * sum[m](W[p,m])))",
        "sum[m](W[p,m] * V[m,f] * (0.9**(p-m) / sum[m](0.9**(p-m) where m <= p)))",
    ],
)
def test_a_rank_of_the_same_name_is_another_one(body: str) -> None:
    """A sum within a sum may name its rank as that one does, and is of other coordinates."""
    source, found = chunked(
        "input Q[p,e], K[m,e], V[m,f]\nW[p,m] = Q[p,e] * K[m,e] where m <= p\n"
        f"O[p,f] = {body}\noutput O"
    )
    assert found.changed
    for length in (1, 9, 30):
        draw = np.random.default_rng(length).uniform
        inputs = {
            "Q": draw(size=(length, 4)),
            "K": draw(size=(length, 4)),
            "V": draw(size=(length, 3)),
        }
        for size in (1, 4, 64):
            agree(source, found.result, inputs, size)


@pytest.mark.parametrize(
    ("gate", "open_at", "closed_at"),
    [
        ("sigmoid(g[i,e])", 4, -30),
        ("sigmoid(g[i,e])", 4, -100),
        ("sigmoid(g[i,e])", 4, -2000),
        ("exp(-g[i,e])", 0.02, 1e4),
        ("exp(-exp(g[i,e]))", -4, 12),
    ],
)
def test_closed_gates_leave_their_digits_to_open_ones(
    gate: str, open_at: float, closed_at: float
) -> None:
    """Kernels add in float32: a sum of the logarithms of closed gates has few digits left."""
    source = cascade.parse(
        f"""input q[i,e], k[i,e], v[i,f], g[i,e]
        init S[e,f,0] = 0
        S[e,f,i+1] = {gate} * S[e,f,i] + k[i,e] * v[i,f]
        O[i,f] = q[i,e] * S[e,f,i+1]
        output O"""
    )
    made = cascade.compile(source)
    x = {n: normal(256, 16).astype(np.float32) for n in "qkv"}
    x["g"] = np.where(uniform(256, 16) < 0.5, closed_at, open_at).astype(np.float32)
    expected = cascade.run(source, {n: a.astype(float) for n, a in x.items()})["O"]
    np.testing.assert_allclose(made(**x), expected, rtol=0, atol=1e-6 * abs(expected).max())
