"""Powers of scores under their own softmax: sums that move with the running maximum by powers of
its steps. Before the first key there is no maximum, and a step from there is no number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cascade
from cascade.backends.kernel import TiledKernel

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from cascade.backends.triton.launch import TritonKernel  # noqa: E402

# The interpreter takes scalars out of arrays of one element.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MOMENTS = """cascade moments
import std
input S[p,m], V[m,f]
A[p,m]   = softmax[m](S[p,m] where m <= p + 1{})
LSE[p]   = logsumexp[m](S[p,m])
TWO[p]   = sum[m](A[p,m] * S[p,m]**2)
THREE[p] = sum[m](A[p,m] * S[p,m] * S[p,m] * S[p,m])
LOGS[p]  = sum[m](A[p,m] * log(A[p,m])**2)
VAR[p]   = sum[m](A[p,m] * (S[p,m] - LSE[p])**2)
O[p,f]   = sum[m](A[p,m] * S[p,m]**2 * V[m,f])
output TWO, THREE, LOGS, VAR, O
"""
ONLINE = """cascade online
input S[p,m]
param M0 = 16
rank m = m1*M0 + m0
init R[p,0] = -inf
init A[p,0] = 0
init B[p,0] = 0
init C[p,0] = 0
T[p,m1]   = max[m0](S[p,m])
R[p,m1+1] = max(R[p,m1], T[p,m1])
K[p,m1]   = select(-inf < R[p,m1] and R[p,m1] < inf, R[p,m1], 0)
N[p,m1]   = select(-inf < R[p,m1+1] and R[p,m1+1] < inf, R[p,m1+1], 0)
D[p,m1]   = select(-inf < R[p,m1], exp(R[p,m1] - R[p,m1+1]), 0)
A[p,m1+1] = A[p,m1] * D[p,m1] + sum[m0](exp(S[p,m] - N[p,m1]))
B[p,m1+1] = B[p,m1] * D[p,m1] + A[p,m1] * D[p,m1] * (K[p,m1] - N[p,m1]) +
            sum[m0](exp(S[p,m] - N[p,m1]) * (S[p,m] - N[p,m1]))
C[p,m1+1] = C[p,m1] * D[p,m1] + 2 * B[p,m1] * D[p,m1] * (K[p,m1] - N[p,m1]) +
            A[p,m1] * D[p,m1] * (K[p,m1] - N[p,m1])**2 +
            sum[m0](exp(S[p,m] - N[p,m1]) * (S[p,m] - N[p,m1])**2)
VAR[p]    = C[p,M1] / A[p,M1] - (B[p,M1] / A[p,M1])**2
output VAR
"""


def scores(length: int, offset: float, size: float) -> np.ndarray:
    random = np.random.default_rng(length)
    return (offset + size * random.standard_normal((length, length))).astype(np.float32)


def agrees(spec: str, made: Any, given: dict[str, np.ndarray]) -> None:
    source = cascade.parse(spec)
    exact = {n: x.astype(np.float64) for n, x in given.items()}
    with np.errstate(all="ignore"):
        wanted = cascade.run(source, exact)
    for name in source.outputs:
        out = np.asarray(made[name], dtype=np.float64)
        assert np.isfinite(wanted[name]).all()
        size = np.abs(wanted[name]).max() + np.abs(given["S"]).max() ** 2
        assert np.abs(out - wanted[name]).max() <= 2e-5 * size, name


VALUES = [(0.0, 1.0), (-300.0, 2.0), (3000.0, 50.0), (0.0, 0.0)]


@pytest.mark.parametrize("offset, size", VALUES)
@pytest.mark.parametrize("mask", ["", " and m > p - 3", " and p % 3 > 0"])
def test_programs(offset: float, size: float, mask: str) -> None:
    spec = MOMENTS.format(mask)
    for length in (1, 2, 40, 150):
        S = scores(length, offset, size)
        given = {"S": S, "V": scores(length, 0.0, 1.0)[:, :2].copy()}
        for split in (1, 2):
            kernel = TiledKernel(cascade.parse(spec), {"m": 16, "p": 16}, split=split)
            agrees(spec, kernel.run(given, {}).outputs, given)


@pytest.mark.parametrize("offset, size", VALUES)
def test_interpreter(offset: float, size: float) -> None:
    spec = MOMENTS.format(" and p % 3 > 0")
    for length in (1, 40):
        given = {"S": scores(length, offset, size), "V": scores(length, 0.0, 1.0)[:, :2].copy()}
        agrees(spec, interpreted(spec, given), given)


def interpreted(spec: str, given: dict[str, np.ndarray]) -> dict[str, Any]:
    source = cascade.parse(spec)
    kernel = TritonKernel(source, {"m": 16, "p": 16})
    with np.errstate(all="ignore"):  # rows beyond the last are computed, too
        made = kernel(**{n: torch.from_numpy(x) for n, x in given.items()})
    return made if isinstance(made, dict) else {source.outputs[0]: made}


def test_a_loop_that_a_person_wrote() -> None:
    """In its own order, from -inf and with all of its guards."""
    given = {"S": scores(50, 2.0, 1.0)}
    agrees(ONLINE, TiledKernel(cascade.parse(ONLINE)).run(given, {}).outputs, given)
    agrees(ONLINE, interpreted(ONLINE, given), given)


WEIGHTED = """cascade weighted
import std
input S[p,m], X[m], Y[m,f]
A[p,m]  = softmax[m](S[p,m] where {})
a[p]    = sum[m](A[p,m] * X[m])
b[p,f]  = sum[m](A[p,m] * Y[m,f])
i[p]    = sum[m](A[p,m] * m)
v[p]    = sum[m](A[p,m] * (X[m] - a[p])**2)
u[p,f]  = sum[m](A[p,m] * (Y[m,f] - b[p,f])**2)
c[p,f]  = sum[m](A[p,m] * (X[m] - a[p]) * (Y[m,f] - b[p,f]))
k[p]    = sum[m](A[p,m] * (X[m] - a[p])**3)
j[p]    = sum[m](A[p,m] * (m - i[p])**2)
r[p,f]  = c[p,f] / sqrt(v[p] * u[p,f] + 1e-6)
output v, u, c, k, j, r
"""
FAR = """cascade far
import std
input S[p,m]
A[p,m] = softmax[m](S[p,m])
i[p]   = sum[m](A[p,m] * m)
v[p]   = sum[m](A[p,m] * (m - i[p])**2)
output v
"""


def far(length: int) -> dict[str, np.ndarray]:
    """Weights at the last keys, where values are far from those of the others."""
    random = np.random.default_rng(length)
    S = random.standard_normal((length, length)) - 60
    X, Y = random.standard_normal(length), random.standard_normal((length, 2))
    S[:, -5:] += 60
    X[-5:] += 1000
    Y[-5:] -= 300
    return {n: x.astype(np.float32) for n, x in (("S", S), ("X", X), ("Y", Y))}


def near(spec: str, made: Any, given: dict[str, np.ndarray]) -> None:
    exact = {n: x.astype(np.float64) for n, x in given.items()}
    wanted = cascade.run(cascade.parse(spec), exact)
    for name, x in wanted.items():
        np.testing.assert_allclose(made[name], x, rtol=2e-3, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("mask", ["m >= 0", "p % 3 > 0", "m != p and p % 3 > 0"])
def test_variances_far_from_the_plain_mean(mask: str) -> None:
    spec = WEIGHTED.format(mask)
    for length in (1, 2, 40, 150):
        given = far(length)
        for split in (1, 2):
            kernel = TiledKernel(cascade.parse(spec), {"m": 16, "p": 16}, split=split)
            near(spec, kernel.run(given, {}).outputs, given)
    given = far(40)
    near(spec, interpreted(spec, given), given)


def test_no_weights_and_no_keys() -> None:
    spec = WEIGHTED.format("m >= 0")
    given = far(40)
    given["S"][:, :20] = -np.inf
    for split in (1, 2):
        kernel = TiledKernel(cascade.parse(spec), {"m": 16, "p": 16}, split=split)
        near(spec, kernel.run(given, {}).outputs, given)
        nothing = {"S": given["S"][:, :0], "X": given["X"][:0], "Y": given["Y"][:0]}
        for out in kernel.run(nothing, {}).outputs.values():
            assert not np.any(out)


def test_positions_of_a_long_row() -> None:
    m = np.arange(65536)
    S = (-((m - 60000.0) ** 2) / 8).astype(np.float32)[None]
    for split in (1, 4):
        kernel = TiledKernel(cascade.parse(FAR), split=split)
        (v,) = kernel.run({"S": S}, {}).outputs["v"]
        assert abs(v - 4) < 1e-3
