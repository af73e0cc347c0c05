"""Sums of products: common factors, terms apart, and factors that leave a sum over some points."""

import numpy as np

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
