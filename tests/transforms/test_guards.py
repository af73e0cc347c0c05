"""Choices by a guard: the branch that is not taken has no say, whatever its value is."""

from __future__ import annotations

import numpy as np
import pytest

import cascade
from cascade.transforms.derive import derive

INF = np.inf
A = "A[p,m] = relu(S[p,m])\nZ[p] = sum[m](A[p,m])\n"
E = "A[p,m] = sigmoid(S[p,m])\nZ[p] = sum[m](A[p,m])\n"
ROWS = {
    "none": -np.ones((2, 3)),
    "some": np.array([[-1.0, -2, -3, 4], [1, 2, 3, 4], [-1, -2, -1, -1], [0, 0, 0, 0]]),
    "all": np.array([[1.0, 2, 0.5]]),
    "small": np.array([[-800.0, -900], [1, 2]]),
    "gone": np.array([[-INF, -INF, -INF], [1, 2, -INF]]),
}

GUARDS = {  # what comes before, the sum, and the passes over m of the derived form
    "a quotient": (A, "select(Z[p] > 0, A[p,m] / Z[p], 0)", 1),
    "the other way round": (A, "select(Z[p] == 0, 0, A[p,m] / Z[p])", 1),
    "where and ??": (A, "((A[p,m] / Z[p] where Z[p] > 0) ?? 0)", 1),
    "or an even share": (A, "((A[p,m] / Z[p] where Z[p] > 0) ?? (1 / M))", 1),
    "a root": (A, "select(Z[p] > 0, S[p,m] * rsqrt(Z[p]), 0)", 1),
    "a logarithm": (A, "select(Z[p] > 0, A[p,m] * log(Z[p]), 0)", 1),
    "a difference": (A, "select(Z[p] > 0, S[p,m] - log(Z[p]), 0)", 1),
    "two branches": (A, "select(Z[p] > 1e-6, S[p,m] / Z[p], S[p,m])", 1),
    "three branches": (
        A,
        "select(Z[p] > 2, A[p,m] / Z[p], select(Z[p] > 0, S[p,m] * Z[p], 1))",
        1,
    ),
    "inside a square": (A, "(select(Z[p] > 0, A[p,m] / Z[p], 0) + A[p,m])**2", 1),
    "a guard in a streamed choice": (
        A,
        "select(S[p,m] > 0.1, select(Z[p] > 0, S[p,m] / Z[p], 0), 2)",
        1,
    ),
    "a count": (
        "k[p] = count[m](S[p,m] where S[p,m] > 0)\n",
        "((S[p,m] / k[p] where k[p] > 0) ?? S[p,m])",
        1,
    ),
    "a masked maximum": (
        "X[p] = max[m](S[p,m] where m < p)\n",
        "select(X[p] > -inf, exp(S[p,m] - X[p]), 1)",
        1,
    ),
    "rows without a point": (
        "L[p] = logsumexp[m](S[p,m] where m < p)\n",
        "select(p > 0, exp(S[p,m] - L[p]), 0)",
        1,
    ),
    "a recommended guard": (
        "L[p] = logsumexp[m](S[p,m])\n",
        "((exp(S[p,m] - L[p]) where L[p] > -inf) ?? 0)",
        1,
    ),
    "a root of what is negative": (
        "Y[p] = sqrt(sum[m](S[p,m]))\n",
        "select(Y[p] > 1, S[p,m], 2 * S[p,m])",
        1,
    ),
    "streamed values that are NaN": (
        "Z[p] = sum[m](S[p,m])\n",
        "select(sqrt(S[p,m]) > 1, Z[p], 2 * Z[p])",
        1,
    ),
    "a sum that underflows": (E, "select(Z[p] > 0, A[p,m] / Z[p], 0)", 1),
    "a sum that underflows, with a share": (E, "((A[p,m] / Z[p] where Z[p] != 0) ?? (1 / M))", 1),
    "a power of a sum that underflows": (E, "(A[p,m] / Z[p]**alpha)", 1),
    "streamed powers": (E, "(softplus(S[p,m])**alpha * Z[p])", 1),
    "a choice inside an exponential": (
        "X[p] = max[m](S[p,m])\n",
        "exp(select(X[p] > -inf, S[p,m] - X[p], -inf))",
        1,
    ),
    "a choice inside a size": (
        "Z[p] = sum[m](abs(S[p,m]))\n",
        "select(Z[p] != 0, abs(S[p,m] / Z[p]), 1 / M)",
        1,
    ),
    "x log x, whose choice says nothing": (
        "L[p] = logsumexp[m](S[p,m])\n",
        "xlogx(exp(S[p,m] - L[p]))",
        1,
    ),
    "no harm at all": (A, "select(Z[p] > 0, S[p,m], 2 * S[p,m])", 1),
}


def spec(name: str) -> cascade.Cascade:
    before, body, _ = GUARDS[name]
    param = "param alpha = 0.0\n" if "alpha" in body else ""
    return cascade.parse(
        f"cascade guards\nimport std\ninput S[p,m], V[m]\n{param}{before}"
        f"O[p] = sum[m]({body} * V[m])\noutput O\n"
    )


def arrays(rows: str) -> dict[str, np.ndarray]:
    scores = ROWS[rows]
    return {"S": scores, "V": np.random.default_rng(0).standard_normal(scores.shape[1])}


def assert_agrees(c: cascade.Cascade, inputs: dict[str, np.ndarray]) -> None:
    """Where the spec as written has a number, so do its derived form and its program."""
    with np.errstate(all="ignore"):
        expected = cascade.run(c, inputs)["O"]
        derived = cascade.run(derive(c).result, inputs)["O"]
        program = cascade.compile(c)(**inputs)
    program = np.asarray(program["O"] if isinstance(program, dict) else program)
    there = np.isfinite(expected)
    np.testing.assert_allclose(derived[there], expected[there], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(program[there], expected[there], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GUARDS)
def test_guards(name: str) -> None:
    c = spec(name)
    assert derive(c).passes_after["m"] == GUARDS[name][2]
    for rows in ROWS:
        assert_agrees(c, arrays(rows))


def test_the_branch_that_is_not_taken_is_no_factor() -> None:
    text = str(derive(spec("a quotient")).result)
    assert "select(Z[p] > 0, Os[p] / Z[p], 0)" in text


def test_both_branches_of_a_guard_are_one_choice() -> None:
    text = str(derive(spec("two branches")).result)
    assert "select(Z[p] > 1e-06, Os[p] / Z[p], Os[p])" in text


def test_a_difference_under_a_guard_without_rows() -> None:
    c = cascade.parse(
        "cascade guards\ninput S[m], V[m]\nmu = mean[m](S[m])\n"
        "O = sum[m](select(mu > 0, S[m] - mu, 0) * V[m])\noutput O\n"
    )
    assert derive(c).passes_after["m"] == 1
    for row in ([1.0, 2, 4], [-1.0, -2, 1], [0.0, 0, 0]):
        assert_agrees(c, {"S": np.array(row), "V": np.array([1.0, -2, 3])})


def test_a_guard_of_a_class() -> None:
    c = cascade.parse(
        "cascade guards\ninput S[m], V[m,f], g[m]: int\nrank c < 3\n"
        "Z[c] = sum[m](relu(S[m]) where g[m] == c)\n"
        "O[f] = sum[m](select(Z[g[m]] > 0, S[m] / Z[g[m]], 0) * V[m,f])\noutput O\n"
    )
    assert derive(c).passes_after["m"] == 1
    classes = np.array([0, 1, 2, 0, 0, 2])
    scores = np.array([1.0, -1, 2, -3, 0.5, -1])
    assert_agrees(c, {"S": scores, "V": np.arange(12.0).reshape(6, 2), "g": classes})


def test_a_guarded_result_is_not_inverted_term_by_term() -> None:
    c = cascade.parse(
        f"cascade guards\ninput S[p,m], V[m]\n{A}"
        "B[p] = sum[m](select(Z[p] > 0, A[p,m] / Z[p], 0) * V[m])\n"
        "O[p] = sum[m](S[p,m] / (B[p] + 1))\noutput O\n"
    )
    for rows in ROWS:
        assert_agrees(c, arrays(rows))


@pytest.mark.parametrize("after", ["tanh(A[p])", "max(A[p], -1)", "(A[p] ?? 0) + 1", "abs(A[p])"])
def test_a_function_of_a_result_without_a_point(after: str) -> None:
    c = cascade.parse(
        "cascade guards\nimport std\ninput S[p,m], V[m]\nT[p] = sum[m](S[p,m])\n"
        "W[p,m] = softmax[m](S[p,m] where S[p,m] > T[p])\nA[p] = W[p,m] * V[m]\n"
        f"O[p] = {after}\noutput O\n"
    )
    for rows in ROWS:
        assert_agrees(c, arrays(rows))
