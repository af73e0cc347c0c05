"""Factors of a sum: no tile holds the outer product of two of them."""

import numpy as np
import pytest

import cascade
from cascade.api import run_program
from cascade.schedule.choose import schedule
from cascade.schedule.facts import tile_axes
from cascade.schedule.sizes import Sizes

NAMED = """
cascade named
input Q[p,e], K[m,e], V[m,f], t[p]
N[p,m,e] = Q[p,e] * K[m,e] / t[p]
S[p,m]   = sum[e](N[p,m,e])
A[p,m]   = exp(-abs(S[p,m]))
O[p,f]   = A[p,m] * V[m,f]
output O
"""
OF_ROWS = """
cascade of_rows
input Q[p,e], K[m,e], W[m,p]
D[m,e] = sum[p](K[m,e] * Q[p,e] * W[m,p] where m <= p)
output D
"""
CASES = {"a product with a name": NAMED, "a factor of rows": OF_ROWS}
EXTENTS = {"p": 70, "m": 50, "e": 8, "f": 4}


@pytest.mark.parametrize("name", CASES)
def test_no_tile_has_the_axes_of_both(name: str) -> None:
    spec = cascade.parse(CASES[name])
    for kernel in schedule(spec, Sizes({})).program.kernels:
        assert max(map(len, tile_axes(kernel).values())) == 2
    draw = np.random.default_rng(0)
    arrays = {t.name: draw.uniform(0.5, 1.5, [EXTENTS[r] for r in t.ranks]) for t in spec.inputs}
    found, _ = run_program(spec, arrays, {}, {})
    for key, value in cascade.run(spec, arrays).items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-5)


def test_a_product_along_a_tile_is_computed_once() -> None:
    """`P[m,e] = K[m,e] * t[m]` has no more axes than K has."""
    spec = cascade.parse("""
        input Q[p,e], K[m,e], t[m]
        P[m,e] = exp(K[m,e]) * t[m]
        S[p,m] = sum[e](Q[p,e] * P[m,e])
        O[p]   = sum[m](S[p,m] * S[p,m])
        output O""")
    text = str(schedule(spec, Sizes({})).program)
    assert text.count("exp(") == 1
