"""Instances with most to do start first: read off the bounds of loops, and true of the visits."""

from dataclasses import replace

import numpy as np
import pytest

from cascade.api import parse
from cascade.backends.tiled import run
from cascade.backends.tiled.known import Context
from cascade.backends.tiled.weigh import heavy_first as points_of
from cascade.schedule.choose import schedule
from cascade.schedule.order import heavy_first
from cascade.schedule.predict import _Kernel
from cascade.schedule.program import GridAxis, Kernel, Program
from cascade.schedule.sizes import Sizes
from tests.schedule import programs as P
from tests.schedule.predicates import PREDICATES
from tests.schedule.test_predict import attention, sizes, tensors
from tests.schedule.test_tiled import close, diagonal, expected, operands

GROW = {  # predicates of which more keys hold in later rows
    "m <= p",
    "m < p",
    "m <= p + 3",
    "m // 4 <= p // 4",
    "m <= min(p, 30)",
    "m <= p and m % 3 == 0",
    "m < 2 * p + 1",
    "p >= m or m < 4",
    "m <= p or m >= 20",
}
STAY = {  # those where this is not so, or not known
    "m >= p",
    "m <= p and p - m < 8",
    "m <= 40 - p",
    "m < length[p]",
    "m <= p + first[p]",
    "m <= p % 16",
    "m <= p and gate[p]",
}


def descending(program: Program) -> list[str]:
    return [g.scalar for k in program.kernels for g in k.grid if g.descending]


@pytest.mark.parametrize("text", sorted(GROW))
def test_rows_that_see_more_come_first(text):
    assert descending(heavy_first(attention(text))) == ["p_tile"]


@pytest.mark.parametrize("text", sorted(STAY))
def test_other_rows_keep_their_order(text):
    assert descending(heavy_first(attention(text))) == []


ALL = {*PREDICATES.values(), *GROW} - {PREDICATES["data of the stream"]}


@pytest.mark.parametrize("text", sorted(ALL))
def test_what_is_visited_falls_from_instance_to_instance(text):
    program = heavy_first(attention(text))
    if not descending(program):
        return
    for seed in range(5):
        rng = np.random.default_rng(seed)
        scalars = sizes(rng)
        visited = visited_by_instance(program, scalars, tensors(rng, scalars))
        assert visited == sorted(visited, reverse=True)


def visited_by_instance(program, scalars, arrays):
    """Coordinates of one head, in the order in which its instances start."""
    (kernel,) = program.kernels
    small = {n: a for n, a in arrays.items() if a.dtype.kind in "iub"}
    found = []
    for n in range((scalars["P"] + 7) // 8)[::-1]:
        counting = _Kernel(program, kernel, scalars, small, {})
        point = counting._instance({"b_at": 0, "h_at": 0, "p_tile": n})
        counting._body(kernel.body, point, 1)
        tally = counting.tally
        found.append(16 * sum(tally.full.values()) + 4 * sum(tally.partial.values()))
    return found


SPEC = """
input Q[h, p, e], K[h, m, e], V[h, m, f]
output O
S[h,p,m] = Q[h,p,e] * K[h,m,e]
A[h,p,m] = exp(S[h,p,m] where {where})
O[h,p,f] = A[h,p,m] * V[h,m,f]
"""


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("m <= p", ["p_tile"]),
        ("m <= p + M - P", ["p_tile"]),
        ("m >= p", []),
        ("m <= p + 4 * h", ["h_at", "p_tile"]),
        ("m <= p and p - m < 100", []),
        ("true", []),
    ],
)
def test_of_a_spec(where, found):
    made = schedule(parse(SPEC.format(where=where)), Sizes())
    assert descending(made.program) == found
    assert ("from the last" in str(made)) == bool(found)
    grid = made.to_dict()["program"]["kernels"][-1]["grid"]  # type: ignore[index]
    assert [g["scalar"] for g in grid if g["descending"]] == found


def test_splits_of_a_causal_loop_keep_the_order_of_their_rows():
    made = schedule(parse(SPEC.format(where="m <= p")), Sizes(split=4))
    assert "m_split_at" not in descending(made.program)


def test_the_executor_starts_where_the_program_says():
    program = P.attention(16, 16)
    turned = tuple(replace(k, grid=tuple(replace(g, descending=g.scalar == "p_tile")
                                         for g in k.grid)) for k in program.kernels)  # fmt: skip
    arrays, scalars = operands(40, 40)
    for kernel, first in ((program.kernels[0], 0), (turned[0], 2)):
        points = list(points_of(Context(kernel, scalars, arrays, np.dtype("f4")), [1, 2, 3]))
        assert len(set(points)) == 6
        assert points[0] == (0, 0, first) and points[1] == (0, 0, 1) and points[3] == (0, 1, first)


def test_counters_and_values_do_not_depend_on_the_order():
    plain = P.attention(32, 32, 8, P.CAUSAL)
    ordered = heavy_first(plain)
    assert descending(ordered) == ["p_tile"]
    arrays, scalars = operands(122, 122)
    results = [run(p, arrays, scalars, 1) for p in (plain, ordered)]
    assert results[0].counters.to_dict() == results[1].counters.to_dict()
    for r in results:
        close(r.outputs["O"], expected(arrays, scalars["scale"], diagonal(122, 122)))


def test_a_kernel_without_a_loop_keeps_its_order():
    kernel = Kernel("Z", (GridAxis("p_at", P.s("P")),), (), (), ())
    program = Program("z", (), (kernel,), ())
    assert heavy_first(program) == program
