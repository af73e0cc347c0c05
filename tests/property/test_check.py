"""`pointwise.check`: what it compares, what it finds, and long recurrences without recursion."""

import numpy as np

import cascade
from cascade.backends.pointwise import Pointwise, check

TEXT = """
input x[p,m]
A[p] = sum[m](x[p,m] where m <= p)
B[p,m] = m where x[p,m] > 0
output A, B
"""
X = np.random.default_rng(0).normal(size=(30, 40))


def run(text, inputs):
    c = cascade.parse(text)
    return c, inputs, cascade.run(c, inputs)


def checked(text, inputs, **options):
    c, inputs, outputs = run(text, inputs)
    return check(c, inputs, {}, outputs, **options)


def test_corners_come_first_and_no_point_twice():
    results = checked(TEXT, {"x": X}, samples=10)
    assert [(r.tensor, r.compared, r.points) for r in results] == [("A", 10, 30), ("B", 10, 1200)]
    assert all(r.error < 1e-12 for r in results)
    assert results[0].to_dict()["tensor"] == "A"


def test_a_wrong_value_is_found():
    c, inputs, outputs = run(TEXT, {"x": X})
    outputs["A"][-1] += 1e-3
    outputs["B"][0, 0] = 7
    first, second = check(c, inputs, {}, outputs)
    assert 1e-4 < first.error < 1e-3
    assert second.error == (np.inf if X[0, 0] <= 0 else 7)


def test_an_empty_output_has_nothing_to_compare():
    results = checked(TEXT, {"x": np.zeros((0, 4))})
    assert [(r.compared, r.points, r.error) for r in results] == [(0, 0, 0), (0, 0, 0)]


def test_the_budget_ends_it():
    assert [r.compared for r in checked(TEXT, {"x": X}, budget_seconds=0)] == [0, 0]


def test_long_recurrences_do_not_recurse():
    text = """
    input x[i,p]
    rank u < I
    init S[0,p] = 0, R[p,0] = 0
    S[i+1,p] = 0.9 * S[i,p] + x[i,p]
    R[p,i+1] = (0.2 * sum[p](R[p,i]) + x[i,p] where x[i,p] < 3) ?? R[p,i]
    O[p] = S[I,p] + R[p,I]
    F[i] = x[i,0] - 0.5 * sum[u](F[u] where u < i and i < u + 3)
    output O
    """
    c, inputs, outputs = run(text, {"x": np.random.default_rng(1).normal(size=(2000, 3))})
    assert check(c, inputs, {}, outputs, budget_seconds=60)[0].compared == 3
    assert check(c, inputs, {}, outputs, budget_seconds=60)[0].error < 1e-12
    short = {"x": inputs["x"][:400]}
    assert isinstance(Pointwise(c, short).value_at("F", (399,)), float)


def test_failed_conditions_are_told_by_their_ranks():
    c = cascade.parse("input x[p,m]\nZ[p,m] = x[p,m+1] where p > 0\noutput Z\n")
    evaluator = Pointwise(c, {"x": np.ones((2, 2))})
    assert evaluator.failed("Z", (0, 1)) == {frozenset({"p"}), frozenset({"m"})}
    assert evaluator.failed("Z", (1, 1)) == {frozenset({"m"})}
    assert evaluator.value_at("Z", (1, 1)) is None
    assert evaluator.value_at("Z", (1, 0)) == 1.0
