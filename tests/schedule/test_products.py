"""Sums of products: common factors, terms apart, and factors that leave a sum over some points."""

import numpy as np
import pytest

import cascade
from cascade.backends.tiled.run import run
from cascade.ir.expr import Const, Map, Symbol
from cascade.ir.extents import bind
from cascade.schedule.choose import schedule
from cascade.schedule.facts import tile_axes
from cascade.schedule.products import added, factors, product, terms
from cascade.schedule.sizes import Sizes
from tests.schedule.test_random import compare

A, B, C = Symbol("a"), Symbol("b"), Symbol("c")

OUTER = """
input q[i,j,e], o[i,j,f], k[i,j,e], r[i,j,f]
S[i,e,f] = sum[j](q[i,j,e] * o[i,j,f] - k[i,j,e] * r[i,j,f])
output S
"""
SOME = """
input x[i,j], g[i,e], q[j,e]
O[i,e] = sum[j](x[i,j] * g[i,e] * q[j,e] where j < i)
output O
"""


def test_what_terms_have_in_common_is_a_factor():
    difference = Map("-", (Map("*", (A, B)), Map("*", (C, A))))
    assert factors(difference) == [A, Map("-", (B, C))]
    assert factors(Map("+", (A, Map("*", (A, B))))) == [A, Map("+", (Const(1), B))]
    assert factors(Map("+", (A, B))) == [Map("+", (A, B))]
    assert factors(Map("+", (Const(2.0), Const(2.0)))) == [Map("+", (Const(2.0), Const(2.0)))]


def test_terms_have_their_signs():
    e = Map("-", (A, Map("-", (B, C))))
    assert list(terms(e)) == [A, Map("neg", (B,)), Map("neg", (Map("neg", (C,)),))]
    assert added([A, Map("neg", (B,))]) == Map("-", (A, B))
    assert product([]) == Const(1)


def checked(text: str, arrays, most: int) -> None:
    """No tile has more axes than `most`, and the values are those of the reference."""
    spec = cascade.parse(text)
    shapes = {n: a.shape for n, a in arrays.items()}
    made = schedule(spec, Sizes(bind(spec, shapes).extents, rows=4, stream=4))
    tiles = [axes for k in made.program.kernels for _, axes in _every_tile(k)]
    assert max(len(axes) for axes in tiles) == most, str(made)
    wanted = cascade.run(spec, arrays)
    found = run(made.program, arrays, made.bind(shapes), 1, dtype=np.float64).outputs
    compare(found, wanted, text)


def _every_tile(kernel):
    return tile_axes(kernel).items()


def test_a_sum_of_outer_products_is_a_sum_of_contractions():
    chance = np.random.default_rng(0)
    sizes = {"q": (3, 9, 5), "o": (3, 9, 6), "k": (3, 9, 5), "r": (3, 9, 6)}
    checked(OUTER, {n: chance.standard_normal(s) for n, s in sizes.items()}, 2)


def test_a_factor_of_the_rows_leaves_a_sum_over_some_points():
    chance = np.random.default_rng(1)
    sizes = {"x": (11, 9), "g": (11, 5), "q": (9, 5)}
    arrays = {n: chance.standard_normal(s) for n, s in sizes.items()}
    checked(SOME, arrays, 2)
    arrays["g"][0] = np.inf  # a row without a point is 0, whatever it would be multiplied with
    assert (cascade.run(cascade.parse(SOME), arrays)["O"][0] == 0).all()
    checked(SOME, arrays, 2)


DIVIDED = {
    "by itself": "O[p] = sum[m](X[p,m] * y[m] / X[p,m])",
    "by another": "O[p] = sum[m](y[m] / x[m] + y[m] * X[p,m] where m < 2)",
    "by one of the row": "O[p] = sum[m](X[p,m] / r[p] where m <= p)",
    "by one of the row, outside": "O[p,f] = sum[m](X[p,m] * V[m,f] / r[p])",
    "a product": "O[p] = sum[m](-y[m] * X[p,m] / X[p,m])",
    "a row by a tile": "O[p] = sum[m](y[m] / X[p,m])",
    "over a rank of one kernel": "O = sum[p,m](y[m] / X[p,m])",
}
RANKS = {"X": "p,m", "V": "m,f", "x": "m", "y": "m", "r": "p"}


@pytest.mark.parametrize("name", DIVIDED)
def test_a_quotient_is_no_product_with_a_reciprocal(name: str):
    """1e-40 has no reciprocal in float32."""
    tiny = np.array([1e-40, 3e-40, 1e-39], np.float32)
    every = {"X": tiny[None], "V": np.ones((3, 2), np.float32), "x": tiny, "y": tiny, "r": tiny[:1]}
    used = [n for n in every if f"{n}[" in DIVIDED[name]]
    inputs = ", ".join(f"{n}[{RANKS[n]}]" for n in used)
    spec = cascade.parse(f"input {inputs}\n{DIVIDED[name]}\noutput O")
    arrays = {n: every[n] for n in used}
    wanted = cascade.run(spec, {n: a.astype(np.float64) for n, a in arrays.items()})["O"]
    np.testing.assert_allclose(cascade.compile(spec)(**arrays), wanted, rtol=1e-4)


def test_a_sum_in_a_loop_is_multiplied_by_the_reciprocals_of_its_rows():
    """One for each key, not a division for each pair of a query and a key."""
    spec = cascade.parse("""
        input Q[p,e], K[m,e], r[m]
        S[p,m] = sum[e](Q[p,e] * K[m,e] / r[m])
        O[p]   = sum[m](exp(-abs(S[p,m])))
        output O""")
    assert "1.0 / r\n" in str(schedule(spec, Sizes({})).program)
