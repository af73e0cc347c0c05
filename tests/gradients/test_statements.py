"""The derivative of each construct of the language, alone, against central differences."""

import numpy as np
import pytest

import cascade
from cascade.backends.differences import backward, differences
from cascade.backends.reference import evaluate
from cascade.diagnostics import CascadeError
from cascade.ir.ops import MAPS

UNARY = sorted(n for n, op in MAPS.items() if op.arity == (1, 1) and op.gives in ("real", "same"))
STATEMENTS = {
    "a quotient": "z[m] = x[m] / (1 + y[m]**2)",
    "powers": "z[m] = (1 + x[m]**2)**y[m] + x[m]**3 - x[m]**1",
    "a negative power": "z[m] = (1 + x[m]**2)**-2",
    "largest of three": "z[m] = max(x[m], y[m], 0.3)",
    "smallest of two": "z[m] = min(x[m], y[m])",
    "bounds": "z[m] = clamp(x[m], -0.5, y[m]**2)",
    "a choice": "z[m] = select(x[m] > 0, x[m] * y[m], y[m]**2)",
    "a choice whose other branch is not defined": "z[m] = select(x[m] > 0, log(x[m]), 0)",
    "x log x": "import std\nz[m] = xlogx(relu(x[m]))",
    "a default": "z[m] = (x[m] * y[m] where m > 0) ?? y[m]",
    "a default out of range": "z[m] = x[m+1] ?? (2 * x[m])",
    "a condition": "z[m] = x[m] * y[m] where y[m] > 0",
    "a sum": "z = sum[m](x[m] * y[m])",
    "a filtered sum": "z[p] = sum[m](x[m] * q[p] where m <= p)",
    "a row that is left out": "z[p] = sum[m](x[m] * q[p] where p > 1)",
    "a product": "z = prod[m](x[m])",
    "a product over two ranks": "z = prod[m,p](x[m] + q[p])",
    "a product of what stands elsewhere": "z = prod[m](x[m % 2])",
    "a mean": "z = mean[m](x[m]**2)",
    "a filtered mean": "z[p] = mean[m](x[m] * y[m] where m <= p)",
    "a mean of nothing": "z[p] = mean[m](x[m] where m < p) ?? 1",
    "a largest": "z[p] = max[m](x[m] * q[p] where m <= p)",
    "a smallest": "z = min[m](x[m] + y[m])",
    "the largest, deferred": "GM = max[m](x[m])\nz = sum[m](exp(x[m] - GM) * y[m])",
    "best of all": "param J = 2\nz[j] = top[m -> j](x[m] * y[m])",
    "best of some": "param J = 3\nz[p,j] = top[m -> j](x[m] * q[p] where m <= p)",
    "the value at the best": "param J = 2\na[j] = argtop[m -> j](x[m])\nz[j] = y[a[j]]",
    "a shift": "z[m] = x[m-1] * y[m]",
    "a window": "rank w < 3\nz[m] = sum[w](x[m + w - 1] * y[m])",
    "the other direction": "z[m] = x[M-1-m] * y[m]",
    "a ring": "z[m] = x[(m + 1) % M] * y[m]",
    "an edge that repeats": "z[m] = x[clamp(m - 1, 0, M - 1)] * y[m]",
    "shared by a group": "z[m] = x[m // 2] * y[m]",
    "one coordinate": "z[m] = x[0] * y[m]",
    "a diagonal": "a[m,n] = x[m] * y[n]\nz[m] = a[m,m]",
    "a part of an extent": "rank t < M + 1\nz[t] = x[t] ?? 0",
    "tiles": "rank m = m1*M0 + m0\nparam M0 = 2\na[m1] = sum[m0](x[m] * y[m])\nz[m1] = a[m1]**2",
    "a tile of products": "rank m = m1*M0 + m0\nparam M0 = 2\nz[m1,m0] = x[m] * y[m1*M0]",
    "a recurrence": "init S[0] = 0\nS[m+1] = 0.5 * S[m] + x[m] * y[m]\nz[m] = S[m+1]**2",
    "the end of a recurrence": "init S[0] = y[0]\nS[m+1] = S[m] * x[m] + y[m]\nz = S[M]",
    "every slot": "init S[0] = 1\nS[m+1] = S[m] * x[m]\noutput S",
    "slots before": "init S[0] = 1\nS[m+1] = S[m] * x[m] + 0.5 * (S[m-1] ?? 0)\nz[m] = S[m] * y[m]",
    "slots from the end": "init S[0] = 1\nS[m+1] = S[m] + x[m] * y[m]\nz[m] = S[M-m] * y[m]",
    "two states": (
        "init S[0] = 0, T[0] = 1\nS[m+1] = S[m] + x[m] * T[m]\n"
        "T[m+1] = T[m] * y[m] + S[m]\nz[m] = S[m+1] * T[m+1]"
    ),
    "a step that keeps its state": (
        "init S[0] = 0\nS[m+1] = (S[m] * y[m] + x[m] where x[m] > 0) ?? S[m]\nz = S[M]"
    ),
    "a running maximum": (
        "init RM[0] = -inf, RD[0] = 0\nRM[m+1] = max(RM[m], x[m])\n"
        "P[m] = (exp(RM[m] - RM[m+1]) where RM[m] > -inf) ?? 0\n"
        "RD[m+1] = RD[m] * P[m] + exp(x[m] - RM[m+1])\nz = log(RD[M]) + RM[M]"
    ),
    "a triangular system": ("z[m] = y[m] - sum[n](0.3 * x[m] * x[n] * z[n] where n < m)"),
    "a mean of earlier values": "z[m] = y[m] + (mean[n](x[m] * z[n] where n < m) ?? 0)",
    "a value used twice": "a[m] = x[m] * y[m]\nz[m] = a[m] + a[m]**2\noutput z, a",
    "a state that is summed, from an integer": (
        "init S[0,m] = 0\nS[p+1,m] = sum[n](S[p,n]) / M + x[m] * q[p]\nz[m] = y[m] * S[P,m]\n"
        "rank n < M"
    ),
    "a state that moves along": (
        "rank n < M\ninit S[0,m] = 0\nA[p,m] = sum[n](S[p,n] where n == m - 1)\n"
        "S[p+1,m] = A[p,m] + x[m] * q[p]\nz[m] = y[m] * S[P,m]"
    ),
}


def parsed(name):
    text = STATEMENTS[name]
    needed = [n for n in ("x[m]", "y[m]", "q[p]") if f"{n[0]}[" in text]
    if "z[p" in text and "q[p]" not in needed:
        needed.append("q[p]")
        text = text.replace("x[m]", "x[m] * q[p]", 1) if "q[p]" not in text else text
    if "output" not in text:
        text += "\noutput z"
    return cascade.parse(f"input {', '.join(needed)}\n{text}\n", "spec.cascade")


@pytest.mark.parametrize("name", STATEMENTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_statement(name):
    made = parsed(name)
    trials = differences(made, cascade.gradient(made), 3, 16)
    wrong = [t for t in trials if not t.ok]
    assert not wrong, (wrong[0], str(cascade.gradient(made).backward))
    assert sum(t.smooth and t.scale > 1e-3 for t in trials) >= 6


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_function(op):
    positive = "x[m]**2 + 0.5" if op in ("log", "log2", "sqrt", "rsqrt") else "x[m]"
    call = f"-({positive})" if op == "neg" else f"{op}({positive})"
    made = cascade.parse(f"input x[m]\nz[m] = {call}\noutput z\n")
    assert all(t.ok for t in differences(made, cascade.gradient(made), 1, 8))


def gradient(text, inputs, cotangents, settings=None):
    made = cascade.parse(text, "spec.cascade")
    found = cascade.gradient(made)
    outputs = evaluate(found.forward, inputs, settings)
    given = {found.cotangents[o]: np.asarray(c, float) for o, c in cotangents.items()}
    result = backward(found, inputs, outputs, given, settings or {}, {})
    return {n: result[d] for n, d in found.gradients.items()}


ROWS = """
import std
input Q[p,e], K[m,e], V[m,f], length: int
QK[p,m] = Q[p,e] * K[m,e]   where m < length and m <= p
A[p,m] = softmax[m](QK[p,m])
O[p,f] = A[p,m] * V[m,f]
LSE[p] = logsumexp[m](QK[p,m])
output O, LSE
"""


@pytest.mark.parametrize("length", [0, 1, 3])
@pytest.mark.parametrize("m", [0, 1, 5])
def test_empty_rows_have_gradient_zero(length, m):
    chance = np.random.default_rng(0)
    shapes = {"Q": (4, 3), "K": (m, 3), "V": (m, 2)}
    inputs = {n: chance.standard_normal(s) for n, s in shapes.items()} | {"length": length}
    found = gradient(
        ROWS, inputs, {"O": chance.standard_normal((4, 2)), "LSE": chance.standard_normal(4)}
    )
    assert all(np.isfinite(g).all() for g in found.values())
    if length == 0 or m == 0:
        assert all((g == 0).all() for g in found.values())
    else:
        assert (found["K"][length:] == 0).all() and (found["V"][length:] == 0).all()
        assert (found["Q"] != 0).all()


def test_ties_share():
    found = gradient("input x[m]\nz = max[m](x[m])\noutput z\n", {"x": [1.0, 2.0, 2.0]}, {"z": 1.0})
    assert found["x"].tolist() == [0.0, 0.5, 0.5]
    found = gradient("input a, b\nz = max(a, b)\noutput z\n", {"a": 2.0, "b": 2.0}, {"z": 1.0})
    assert (found["a"], found["b"]) == (0.5, 0.5)


@pytest.mark.parametrize(("op", "sign"), [("max", 1.0), ("min", -1.0)])
def test_the_first_of_computed_values_has_it_all(op, sign):
    text = f"input x[p,m], w[m]\ny[p,m] = x[p,m] * w[m]\nz[p] = {op}[m](y[p,m] where m < p)"
    given = {"x": sign * np.array([[1.0, 2.0, 2.0]] * 4), "w": [1.0, 1.0, 1.0]}
    found = gradient(f"{text}\noutput z\n", given, {"z": [1.0, 2.0, 3.0, 4.0]})
    assert found["x"].tolist() == [[0, 0, 0], [2, 0, 0], [0, 3, 0], [0, 4, 0]]


def test_a_branch_that_is_not_taken_spoils_nothing():
    text = "input x[m]\nr[m] = 1 / x[m]\nz[m] = select(x[m] != 0, r[m], 0)\noutput z\n"
    found = gradient(text, {"x": [0.0, 2.0]}, {"z": [1.0, 1.0]})
    assert found["x"].tolist() == [0.0, -0.25]


def test_an_input_that_no_output_depends_on():
    text = "input x[m], y[m]\nz[m] = x[m] where y[m] > 0\noutput z\n"
    found = gradient(text, {"x": [1.0, 2.0], "y": [1.0, -1.0]}, {"z": [3.0, 3.0]})
    assert found["x"].tolist() == [3.0, 0.0]
    assert found["y"].tolist() == [0.0, 0.0]


def test_params_are_differentiated_by_name():
    made = cascade.parse("input x[m]\nparam a = 2.0\nz[m] = exp(a * x[m])\noutput z\n")
    found = cascade.gradient(made, ["a"])
    x, cotangent = np.array([0.5, -1.0]), np.array([1.0, 2.0])
    out = evaluate(found.forward, {"x": x}, {"a": 3.0})
    result = backward(found, {"x": x}, out, {"dz": cotangent}, {"a": 3.0}, {})
    assert result["da"] == pytest.approx((cotangent * x * np.exp(3 * x)).sum())


@pytest.mark.parametrize(
    ("wrt", "code", "words"),
    [
        (["n"], "no-derivative", "integers"),
        (["X"], "gradient", "`spec` has no input or param `X`"),
    ],
)
def test_what_has_no_gradient(wrt, code, words):
    made = cascade.parse("cascade spec\ninput x[m], n[m]: int\nz[m] = x[m] * n[m]\noutput z\n")
    with pytest.raises(CascadeError) as error:
        cascade.gradient(made, wrt)
    assert error.value.diagnostics[0].code == code
    assert words in str(error.value)
