"""Attention written from its projections: one input read as rows and as columns."""

import numpy as np
import pytest

import cascade
from cascade.api import run_program
from cascade.backends.kernel import TiledKernel
from cascade.transforms.check import check
from cascade.transforms.derive import derive

PROJECTED = """
import std
{inputs}, WQ[h,d,e], WK[h,d,e], WV[h,d,f]
Q[b,h,p,e]  = X[b,p,d] * WQ[h,d,e]
K[b,h,m,e]  = {source}[b,m,d] * WK[h,d,e]
V[b,h,m,f]  = {source}[b,m,d] * WV[h,d,f]
QK[b,h,p,m] = sum[e](Q[b,h,p,e] * K[b,h,m,e] / sqrt(E))   where m <= p
A[b,h,p,m]  = softmax[m](QK[b,h,p,m])
O[b,h,p,f]  = A[b,h,p,m] * V[b,h,m,f]
output O
"""
SPECS = {
    "self": cascade.parse(PROJECTED.format(inputs="input X[b,p,d]", source="X")),
    "cross": cascade.parse(PROJECTED.format(inputs="input X[b,p,d], Y[b,m,d]", source="Y")),
    "shared query and key": cascade.parse("""
        import std
        input K[m,e], V[m,f]
        S[p,m] = K[p,e] * K[m,e]
        O[p,f] = sum[m](softmax[m](S[p,m]) * V[m,f])
        output O"""),
}


@pytest.mark.parametrize("name", SPECS)
def test_one_pass_over_the_columns(name: str) -> None:
    found = derive(SPECS[name])
    assert (found.passes_before["m"], found.passes_after["m"]) == (3, 1)
    assert found.passes_after["p"] == 1
    assert check(found).ok


@pytest.mark.parametrize("name", SPECS)
def test_kernels_hold_no_scores(name: str) -> None:
    """No kernel leaves a value for every pair of a row and a column, nor a product of weights."""
    spec = SPECS[name]
    draw = np.random.default_rng(0).standard_normal
    extents = {"b": 2, "h": 3, "p": 150, "m": 150, "d": 20, "e": 8, "f": 5}
    arrays = {t.name: draw([extents[r] for r in t.ranks]) / 2 for t in spec.inputs}
    found, _ = run_program(spec, arrays, {}, {})
    np.testing.assert_allclose(found["O"], cascade.run(spec, arrays)["O"], rtol=2e-5, atol=2e-5)
    kernels = TiledKernel(spec).schedule(arrays, {}).program
    temporary = [b for b in kernels.buffers if b.kind == "temp"]
    assert not any({"p", "m"} <= set(b.ranks) or "d" in b.ranks for b in temporary)


def test_an_unpaired_tensor_is_one_traversal() -> None:
    """Two names of one rank that never meet in a step: the second waits for the first."""
    spec = cascade.parse("""
        input x[i]
        S    = sum[j](x[j])
        y[i] = x[i] / S
        output y""")
    assert cascade.analyse(spec).passes.of_rank()["i"] == 2
