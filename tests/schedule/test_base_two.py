"""Exponentials in base 2: the same values, and nothing left to multiply in a loop."""

from dataclasses import replace

import numpy as np
import pytest

from cascade.api import gradient, parse
from cascade.backends.tiled import run
from cascade.ir.expr import Expr, Map, Read, Symbol
from cascade.ir.walk import walk
from cascade.schedule.base_two import LOG2E, in_base_two
from cascade.schedule.choose import schedule
from cascade.schedule.program import Contract, For, Let, Program, inside, tile
from cascade.schedule.prune import expressions
from cascade.schedule.signs import Signs
from cascade.schedule.sizes import Sizes
from tests.schedule.test_tiled import close, diagonal, expected, operands

ATTENTION = """cascade attention
import std
input  Q[b,h,p,e], K[b,h,m,e], V[b,h,m,f]
param  scale = {scale}, cap = 2.0
S[b,h,p,m] = {scores}
A[b,h,p,m] = softmax[m](S[b,h,p,m])
O[b,h,p,f] = A[b,h,p,m] * V[b,h,m,f]
output O
"""
PRODUCT = "scale * Q[b,h,p,e] * K[b,h,m,e]"
SCORES = {
    "plain": PRODUCT,
    "causal": f"{PRODUCT} where m <= p",
    "window": f"{PRODUCT} where m <= p and p - m < 9",
    "cap": f"cap * tanh(sum[e]({PRODUCT}) / cap) where m <= p",
    "bias": f"sum[e]({PRODUCT}) - 0.3 * (p - m) where m <= p",
}


def program(scores: str, scale: str = "1/sqrt(E)") -> Program:
    text = ATTENTION.format(scale=scale, scores=SCORES[scores])
    made = schedule(parse(text), Sizes({"e": 16, "f": 24}, 32, 32)).program
    return replace(made, widths=(("E", 16), ("F", 24)))


def weights(program: Program) -> list[Map]:
    """Exponentials in loops."""
    return [
        e
        for kernel in program.kernels
        for node in inside(kernel.body)
        if isinstance(node, For)
        for n in node.body
        for part in expressions(n)
        for e in walk(part)
        if isinstance(e, Map) and e.op in ("exp", "exp2")
    ]


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("scale", ["1/sqrt(E)", "-1/sqrt(E)", "0 * E"])
def test_values_are_the_same(scores, scale):
    arrays, sizes = operands(37, 45, e=16, f=24)
    sizes |= {"scale": {"1": 0.25, "-": -0.25, "0": 0.0}[scale[0]], "cap": 2.0, "M0": 32, "M1": 2}
    made = program(scores, scale)
    found = in_base_two(made, Signs.of(made))
    assert found != made
    assert all(e.op == "exp2" for e in weights(found))
    close(run(found, arrays, sizes).outputs["O"], run(made, arrays, sizes).outputs["O"])


@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_large_logits_and_blind_rows(factor):
    arrays, sizes = operands(40, 33, e=16, f=24)
    arrays["Q"] *= factor
    sizes |= {"scale": 0.25, "cap": 2.0, "M0": 32, "M1": 2}
    made = program("causal")
    found = run(in_base_two(made, Signs.of(made)), arrays, sizes).outputs["O"]
    close(found, expected(arrays, 0.25, diagonal(40, 33)), 2e-6 * factor)


def in_loops(program: Program) -> set[Expr]:
    loops = [n for k in program.kernels for n in inside(k.body) if isinstance(n, For)]
    nodes = [n for loop in loops for n in loop.body]
    return {e for n in nodes for part in expressions(n) for e in walk(part)}


@pytest.mark.parametrize("scores", ["plain", "causal", "window", "cap"])
def test_a_positive_factor_is_left_out_of_the_maximum(scores):
    made = program(scores)
    signs = Signs.of(made)
    found = in_base_two(made, signs)
    assert signs.used == ({"cap"} if scores == "cap" else {"scale"})
    assert not {LOG2E, *map(Symbol, signs.used)} & (in_loops(found) - _inside_tanh(found))


def _inside_tanh(program: Program) -> set[Expr]:
    """What a soft cap divides by before it multiplies."""
    return {
        e
        for root in in_loops(program)
        if isinstance(root, Map) and root.op == "tanh"
        for e in walk(root)
    }


@pytest.mark.parametrize("scale", ["-1/sqrt(E)", "0 * E", "1 - E", "E - 1"])
def test_a_factor_that_may_not_be_positive_stays(scale):
    made = program("causal", scale)
    if scale == "E - 1":  # not seen to be positive, but for the width that is known
        made = replace(made, widths=(("F", 24),))
    signs = Signs.of(made)
    assert Symbol("scale") in in_loops(in_base_two(made, signs))
    assert not signs.used


def test_a_maximum_that_is_read_otherwise_stays():
    text = ATTENTION.format(scale="1/sqrt(E)", scores=PRODUCT)
    text = text.replace("output O", "T[b,h,p] = sum[m](-A[b,h,p,m] * log(A[b,h,p,m]))\noutput O, T")
    made = schedule(parse(text), Sizes({"e": 16, "f": 24})).program
    assert in_base_two(made, Signs.of(made)) == made


@pytest.mark.parametrize("n", [0, 1, 3])
def test_an_extent_that_may_be_0_stays(n):
    text = ATTENTION.format(scale="sqrt(1.0 * N)", scores=SCORES["causal"])
    text = text.replace("input  ", "input  Z[n], ").replace(
        "output O", "T = sum[n](Z[n])\noutput O, T"
    )
    made = schedule(parse(text), Sizes({"e": 16, "f": 24}, 32, 32)).program
    made = replace(made, widths=(("E", 16), ("F", 24)))
    arrays, sizes = operands(37, 45, e=16, f=24)
    arrays["Z"] = np.zeros(n)
    sizes |= {"scale": n**0.5, "cap": 2.0, "M0": 32, "M1": 2, "N": n}
    signs = Signs.of(made)
    found = run(in_base_two(made, signs), arrays, sizes).outputs["O"]
    assert not signs.used
    close(found, expected(arrays, n**0.5, diagonal(37, 45)))


@pytest.mark.parametrize("split", [1, 2])
def test_a_maximum_that_is_an_output_is_one_of_the_scores(split):
    text = """
    input S[p,m], V[m,f]
    X[p]   = max[m](S[p,m] where m <= p)
    N[p,m] = exp(S[p,m] - X[p])   where m <= p
    O[p,f] = sum[m](N[p,m] * V[m,f]) / sum[m](N[p,m])
    output O, X
    """
    made = schedule(parse(text), Sizes({"f": 8}, 16, 16, split=split))
    chance = np.random.default_rng(0)
    scores = chance.standard_normal((40, 40)).astype(np.float32)
    arrays = {"S": scores, "V": chance.standard_normal((40, 8)).astype(np.float32)}
    program = in_base_two(made.program, Signs.of(made.program))
    sizes = made.bind({n: a.shape for n, a in arrays.items()})
    found = run(program, arrays, sizes).outputs["X"]
    assert np.array_equal(found, np.where(np.tri(40, dtype=bool), scores, -np.inf).max(1))


def test_a_factor_of_the_step_of_a_loop_stays_in_it():
    text = """
    input Q[p,e], K[m,e], V[m,f], L[p]
    rank m = m1*M0 + m0
    param M0 = 8
    T[p,m1,m0] = m1 * Q[p,e] * K[m,e]
    O[p,f]     = sum[m1](sum[m0](exp(T[p,m1,m0] - L[p]) * V[m,f]))
    output O
    """
    made = schedule(parse(text), Sizes({"e": 4, "f": 4}, 8, 8))
    program = in_base_two(made.program, Signs.of(made.program))
    chance = np.random.default_rng(0)
    shapes = {"Q": (9, 4), "K": (21, 4), "V": (21, 4), "L": (9,)}
    arrays = {n: chance.standard_normal(s, np.float32) for n, s in shapes.items()}
    sizes = made.bind({n: a.shape for n, a in arrays.items()})
    found = run(program, arrays, sizes).outputs["O"]
    assert any(e.op == "exp2" for e in weights(program))
    close(found, run(made.program, arrays, sizes).outputs["O"])


def test_the_gradient_multiplies_once():
    """What a row was normalised by is in base 2 where it is loaded, and `scale` multiplies sums."""
    text = ATTENTION.format(scale="1/sqrt(E)", scores=SCORES["causal"])
    backward = gradient(parse(text)).backward
    made = schedule(backward, Sizes({"e": 16, "f": 24}, 32, 32)).program
    made = replace(made, widths=(("E", 16), ("F", 24)))
    signs = Signs.of(made)
    found = in_base_two(made, signs)
    assert not signs.used  # the maximum is gone
    weighed = weights(found)
    assert len(weighed) == 2 and all(e.op == "exp2" for e in weighed)
    assert Symbol("scale") not in in_loops(found)
    for kernel in found.kernels:
        for loop in (n for n in kernel.body if isinstance(n, For)):
            nodes = {n.name: n for n in loop.body if isinstance(n, Let | Contract)}
            for carry in loop.carries:  # a matrix unit adds to what was carried
                following = nodes[carry.next]
                assert isinstance(following, Let) and isinstance(following.value, Map)
                (added,) = (a for a in following.value.args if a != tile(carry.name))
                assert isinstance(added, Read) and isinstance(nodes[added.tensor], Contract)
