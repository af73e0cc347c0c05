"""Sums over several long ranks: one after the other, and as one where another sum has left them."""

import numpy as np
import pytest

import cascade
from cascade.api import run_program
from cascade.gradients import Gradients
from cascade.ir.expr import Const, Read, Reduce
from cascade.ir.printer import print_expr
from cascade.schedule.choose import schedule
from cascade.schedule.facts import tile_axes
from cascade.schedule.program import Contract, For, Kernel, Store, inside
from cascade.schedule.sizes import Sizes
from tests.examples.test_examples import spec

VALUES = """
cascade values
input A[b,p,m], V[b,m,f], scale[b]
O[b,p,f] = A[b,p,m] * (V[b,m,f] * scale[b])
output O
"""
CHOSEN = """
cascade chosen
input Q[b,p,e], K[n,e], which[b,j]: int
S[b,p,j] = Q[b,p,e] * K[which[b,j],e]
output S
"""
PAGED = """
cascade paged
input Q[b,p,e], K[n,r,e], page[b,j]: int
rank  m < {places}
S[b,p,m] = Q[b,p,e] * K[page[b, m//R], m%R, e]
output S
"""
WHOLE, PART = PAGED.format(places="J*R"), PAGED.format(places="J*R - 1")
EXTENTS = {"b": 3, "p": 5, "e": 4, "f": 4, "n": 7, "j": 2, "r": 3}


def summed(found: Gradients) -> dict[str, tuple[str, ...]]:
    bodies = {e.tensor: e.body for e in found.backward.einsums}
    return {n: b.ranks for n, b in bodies.items() if isinstance(b, Reduce)}


def test_vectors_come_first() -> None:
    """By a scale of each matrix of values: a product of matrices, and then short sums."""
    found = cascade.gradient(cascade.parse(VALUES), wrt=["scale"])
    assert summed(found) == {"dscale_m": ("f",), "dscale_p": ("m",), "dscale": ("p",)}


def test_what_is_chosen_is_summed_last() -> None:
    """By keys in a store: for each place that is read, then over all of these as one rank."""
    found = cascade.gradient(cascade.parse(CHOSEN), wrt=["K"])
    sums = summed(found)
    assert sums["dK_j"] == ("p",)
    (points,) = sums["dK"]
    assert print_expr(found.backward.rank[points].extent) == "B * J"


@pytest.mark.parametrize("text", [WHOLE, PART])
def test_a_remainder_that_is_given(text: str) -> None:
    """Keys in pages: `m % R == r` says all of m but its page."""
    sums = summed(cascade.gradient(cascade.parse(text), wrt=["K"]))
    assert all(len(ranks) == 1 for ranks in sums.values())


@pytest.mark.parametrize("text", [VALUES, CHOSEN, WHOLE, PART])
def test_values(text: str) -> None:
    given = cascade.parse(text)
    found = cascade.gradient(given)
    assert cascade.api.check_gradient(given, found)["ok"]
    draw = np.random.default_rng(0)
    extents = {**EXTENTS, "m": 5 if text == PART else 6}
    arrays = {
        t.name: draw.integers(-1, 8, [extents[r] for r in t.ranks])
        if t.dtype == "int"
        else draw.standard_normal([extents[r] for r in t.ranks])
        for t in found.backward.inputs
    }
    wanted = cascade.run(found.backward, arrays)
    result, _ = run_program(found.backward, arrays, {}, {})
    for key, value in wanted.items():
        np.testing.assert_allclose(result[key], value, rtol=2e-5, atol=2e-5 * abs(value).max())


def test_no_tile_holds_a_long_rank_whole() -> None:
    """Gradients of pages and of scales: axes are rows, loops and vectors."""
    for name in ("paged_keys", "quantised_keys"):
        program = schedule(cascade.gradient(spec(name)).backward, Sizes({})).program
        whole = {a.name for k in program.kernels for a in k.axes if not isinstance(a.size, Const)}
        assert whole <= {"e", "f"}


def test_rows_chosen_by_numbers_are_a_product_of_matrices() -> None:
    """`sum[b,j](dK_m where page[b,j] == n)`: ones where a page is n, times the rows of pages."""
    program = schedule(cascade.gradient(spec("paged_keys")).backward, Sizes({})).program
    (kernel,) = (k for k in program.kernels if "dK" in {n.tensor for n in stores(k)})
    (loop,) = (n for n in kernel.body if isinstance(n, For))
    products = [n for n in loop.body if isinstance(n, Contract)]
    axes = tile_axes(kernel)
    read = [f.tensor for n in products for f in n.factors if isinstance(f, Read)]
    assert read and all(len(axes[name]) == 2 for name in read)


def stores(kernel: Kernel) -> list[Store]:
    return [n for n in inside(kernel.body) if isinstance(n, Store)]
