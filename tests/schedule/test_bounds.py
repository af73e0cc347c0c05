"""Predicates are solved into intervals that say exactly the same, with few of them residual."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.ir.expr import FALSE, Const, Coordinate, Map, Read, Symbol
from cascade.ir.printer import print_expr
from cascade.ir.walk import free_ranks
from cascade.schedule.bounds import solve
from cascade.schedule.disjuncts import LIMIT, Interval, either
from tests.schedule.predicates import PREDICATES, REAL, Shape, intervals, known, predicate

RESIDUAL = {
    "strided",
    "dilated",
    "landmark",
    "twice a quotient",
    "data of the stream",
    "fractions",
    "five intervals",
    "all or nothing",
}


def spelled(found):
    """Each interval on a line: `low <= m < high if row, tested`."""
    lines = []
    for i in found:
        line = f"{', '.join(map(print_expr, i.low))} <= m < {', '.join(map(print_expr, i.high))}"
        line += f" if {' and '.join(map(print_expr, i.row))}" * bool(i.row)
        lines.append(
            line + f" testing {' and '.join(map(print_expr, i.residual))}" * bool(i.residual)
        )
    return lines


@pytest.mark.parametrize("name", PREDICATES)
def test_intervals_say_what_the_predicate_says(name):
    conditions = predicate(PREDICATES[name])
    found = intervals(conditions)
    assert len(found) <= LIMIT
    for seed in range(30):
        shape = Shape(seed)
        said = np.zeros((shape.rows, shape.extent), bool)
        for i in found:
            said |= shape.within(i)
        np.testing.assert_array_equal(said, shape.all(conditions))


@pytest.mark.parametrize("name", PREDICATES)
def test_what_is_solved_is_known_before_the_loop(name):
    for i in intervals(predicate(PREDICATES[name])):
        for e in (*i.low, *i.high, *i.row):
            assert "m" not in free_ranks(e) and known(e)
        assert i.low and i.high


@pytest.mark.parametrize("name", PREDICATES)
def test_only_what_has_no_bounds_is_residual(name):
    found = intervals(predicate(PREDICATES[name]))
    assert any(i.residual for i in found) == (name in RESIDUAL)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("m <= p", ["0 <= m < M, p + 1"]),
        ("m < M", ["0 <= m < M"]),
        ("m < 5 and m < 3 and m >= 2 and m > -4", ["2 <= m < 3, M"]),
        ("m // R == p // R", ["0, p // R * R <= m < M, p // R * R + R"]),
        ("m // 4 == p", ["0, 4 * p <= m < M, 4 * p + 4"]),
        ("m <= p or m < 4 or m <= p and m > 2", ["0 <= m < M, p + 1", "0 <= m < 4, M"]),
        ("m <= p and m > 2 or m < 4 or m <= p", ["0 <= m < 4, M", "0 <= m < M, p + 1"]),
        ("gate[p] or m <= p", ["0 <= m < M if gate", "0 <= m < M, p + 1"]),
        ("not (gate[p] and m <= p)", ["0 <= m < M if not gate", "0, p + 1 <= m < M"]),
        ("p < 3 or p > 7 or gate[p]", ["0 <= m < M if p < 3 or p > 7 or gate"]),
        ("m <= p and (m + p) % 8 == 0", ["0 <= m < M, p + 1 testing (m + p) % 8 == 0"]),
        ("not m % 2 == 0", ["0 <= m < M testing m % 2 != 0"]),
        ("m <= p and m > p", []),
        ("m < 3 and m > 2", []),
    ],
)
def test_intervals_read_as_they_would_be_written(text, lines):
    assert spelled(intervals(predicate(text))) == lines


def test_too_many_intervals_keep_the_conjuncts_that_are_few():
    many = "m == 1 or m == 3 or m == 5 or m == 7 or m == p"
    assert spelled(intervals(predicate(f"m <= p and ({many})"))) == [
        f"0 <= m < M, p + 1 testing {many}"
    ]
    assert spelled(intervals(predicate(f"gate[p] and ({many}) or m < 2"))) == [
        f"0 <= m < M if gate testing {many}",
        "0 <= m < 2, M",
    ]
    assert either([(Interval(high=(Const(n),), row=(Const(n),)),) for n in range(5)], FALSE) == (
        Interval(residual=(FALSE,)),
    )
    twice = "(m < 3 or m > p) and (m < 5 or m > p + 2) and (m != 7 or gate[p])"
    found = intervals(predicate(twice))
    assert len(found) <= LIMIT
    assert all(i.residual for i in found)


def test_a_divisor_must_be_known_to_be_positive():
    conditions = predicate("m // R == p // R")
    (found,) = solve(conditions, "m", Symbol("M"), known)
    assert found == Interval((Const(0),), (Symbol("M"),), (), conditions)


def test_fractions_are_not_solved_for_but_may_be_conditions_of_the_row():
    row = Map("<", (Symbol("ratio"), Coordinate("p")))
    (found,) = solve((Map("not", (row,)),), "m", Symbol("M"), known, real=REAL)
    assert found.row == (Map("not", (row,)),)  # where one side is NaN this is not `ratio >= p`
    mixed = Map("<", (Coordinate("m"), Read("scores", ())))
    (found,) = solve((mixed,), "m", Symbol("M"), known, real=frozenset({"scores"}))
    assert found.residual == (mixed,)


def test_an_extent_of_nothing_has_no_interval():
    assert solve((), "m", Const(0), known) == ()
    assert solve((FALSE,), "m", Symbol("M"), known) == ()
    assert solve((), "m", Const(1), known) == (Interval((Const(0),), (Const(1),)),)


# -- random conditions
def _pair(op):
    return lambda args: Map(op, args)


INTEGERS = st.recursive(
    st.one_of(
        st.integers(-3, 9).map(Const),
        st.sampled_from([Coordinate("m"), Coordinate("m"), Coordinate("p")]),
        st.sampled_from([Read("window", ()), Symbol("W"), Symbol("R")]),
    ),
    lambda inner: st.one_of(
        *(st.tuples(inner, inner).map(_pair(op)) for op in ("+", "-", "min", "max")),
        st.tuples(inner, st.integers(-3, 4).map(Const)).map(_pair("*")),
        st.tuples(inner, st.sampled_from([Symbol("R"), Symbol("D")])).map(_pair("*")),
        st.tuples(inner, st.sampled_from([-2, 1, 2, 5]).map(Const)).map(_pair("//")),
        st.tuples(inner, st.sampled_from([Symbol("R"), Const(3)])).map(_pair("//")),
        st.tuples(inner, st.just(Const(3))).map(_pair("%")),
        st.tuples(inner).map(_pair("abs")),
        st.tuples(inner).map(_pair("neg")),
        st.tuples(inner, inner, inner).map(_pair("clamp")),
        st.tuples(st.just(Read("gate", ())), inner, inner).map(_pair("select")),
    ),
    max_leaves=5,
)
CONDITIONS = st.recursive(
    st.one_of(
        *(
            st.tuples(INTEGERS, INTEGERS).map(_pair(op))
            for op in ("<", "<=", ">", ">=", "==", "!=")
        ),
        st.just(Read("gate", ())),
    ),
    lambda inner: st.one_of(
        *(st.tuples(inner, inner).map(_pair(op)) for op in ("and", "or", "==")),
        st.tuples(inner).map(_pair("not")),
        st.tuples(inner, inner, inner).map(_pair("select")),
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(CONDITIONS, min_size=1, max_size=2), st.integers(0, 10**6))
def test_random_conditions_are_solved_into_the_same(conditions, seed):
    shape = Shape(seed)
    said = np.zeros((shape.rows, shape.extent), bool)
    for i in intervals(tuple(conditions)):
        said |= shape.within(i)
    np.testing.assert_array_equal(said, shape.all(conditions))
