"""The Python builder makes the very cascades that the language makes, with the same messages."""

from pathlib import Path

import numpy as np
import pytest

from cascade.api import parse
from cascade.diagnostics import CascadeError
from cascade.frontends import builder
from cascade.frontends.builder import (
    Builder,
    Expression,
    argtop,
    clamp,
    count,
    exp,
    inf,
    max_,
    maximum,
    order,
    pi,
    reduce,
    select,
    sqrt,
    std,
    sum_,
    top,
)
from cascade.ir import ops

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name):
    return parse((EXAMPLES / f"{name}.cascade").read_text(), name)


def heads(c):
    """The ranks, inputs and scale that attention begins with."""
    b, h, p, m, e, f = ranks = c.ranks("b h p m e f")
    tensors = c.input("Q", b, h, p, e), c.input("K", b, h, m, e), c.input("V", b, h, m, f)
    return ranks, tensors, c.param("scale", 1 / sqrt(c.extent(e)))


def causal():
    c = Builder("causal")
    (b, h, p, m, e, f), (Q, K, V), scale = heads(c)
    QK = c.let("QK", (b, h, p, m), scale * Q[b, h, p, e] * K[b, h, m, e], where=m <= p)
    A = c.let("A", (b, h, p, m), std.softmax(m, QK[b, h, p, m]))
    O = c.let("O", (b, h, p, f), A[b, h, p, m] * V[b, h, m, f])  # noqa: E741
    LSE = c.let("LSE", (b, h, p), std.logsumexp(m, QK[b, h, p, m]))
    return c.build(outputs=[O, LSE], types={"LSE": "f32"})


def attention_3pass():
    c = Builder("attention_3pass")
    (b, h, p, m, e, f), (Q, K, V), scale = heads(c)
    QK = c.let("QK", (b, h, p, m), scale * Q[b, h, p, e] * K[b, h, m, e])
    GM = c.let("GM", (b, h, p), max_(m)(QK[b, h, p, m]))
    SN = c.let("SN", (b, h, p, m), exp(QK[b, h, p, m] - GM[b, h, p]))
    SD = c.let("SD", (b, h, p), reduce("sum", m)(SN[b, h, p, m]))
    A = c.let("A", (b, h, p, m), SN[b, h, p, m] / SD[b, h, p])
    return c.build(outputs=c.let("O", (b, h, p, f), A[b, h, p, m] * V[b, h, m, f]))


def attention_1pass():
    c = Builder("attention_1pass")
    (b, h, p, m, e, f), (Q, K, V), scale = heads(c)
    m1, m0 = c.ranks("m1 m0")
    M0 = c.param("M0", 128)
    c.partition(m, m1 * M0 + m0)
    RM = c.init("RM", (b, h, 0, p), -inf)
    RD = c.init("RD", (b, h, 0, p), 0)
    RNV = c.init("RNV", (b, h, 0, p, f), 0)
    BQK = c.let("BQK", (b, h, p, m1, m0), scale * Q[b, h, p, e] * K[b, h, m, e])
    LM = c.let("LM", (b, h, m1, p), max_(m0)(BQK[b, h, p, m1, m0]))
    c.let("RM", (b, h, m1 + 1, p), maximum(RM[b, h, m1, p], LM[b, h, m1, p]))
    SLN = c.let("SLN", (b, h, p, m1, m0), exp(BQK[b, h, p, m1, m0] - RM[b, h, m1 + 1, p]))
    SLD = c.let("SLD", (b, h, m1, p), sum_(m0)(SLN[b, h, p, m1, m0]))
    SLNV = c.let("SLNV", (b, h, m1, p, f), sum_(m0)(SLN[b, h, p, m1, m0] * V[b, h, m, f]))
    moved = exp(RM[b, h, m1, p] - RM[b, h, m1 + 1, p]).where(RM[b, h, m1, p] > -inf)
    PRM = c.let("PRM", (b, h, m1, p), moved.default(0))
    c.let("RD", (b, h, m1 + 1, p), SLD[b, h, m1, p] + RD[b, h, m1, p] * PRM[b, h, m1, p])
    c.let(
        "RNV",
        (b, h, m1 + 1, p, f),
        SLNV[b, h, m1, p, f] + RNV[b, h, m1, p, f] * PRM[b, h, m1, p],
    )
    M1 = c.extent(m1)
    value = RNV[b, h, M1, p, f] / RD[b, h, M1, p]
    return c.build(outputs=c.let("O", (b, h, p, f), value, where=RD[b, h, M1, p] > 0))


def topk_attention():
    c = Builder("topk_attention")
    (b, h, p, m, e, f), (Q, K, V), scale = heads(c)
    c.param("J", 16)
    (j,) = c.ranks("j")
    QK = c.let("QK", (b, h, p, m), scale * Q[b, h, p, e] * K[b, h, m, e])
    S = c.let("S", (b, h, p, j), top(m, j)(QK[b, h, p, m]))
    AT = c.let("AT", (b, h, p, j), argtop(m, j)(QK[b, h, p, m]))
    A = c.let("A", (b, h, p, j), std.softmax(j, S[b, h, p, j]))
    return c.build(outputs=c.let("O", (b, h, p, f), A[b, h, p, j] * V[b, h, AT[b, h, p, j], f]))


def neighbourhood_1d():
    c = Builder("neighbourhood_1d")
    b, h, p, e, f = c.ranks("b, h, p, e, f")
    Q, K, V = c.input("Q", b, h, p, e), c.input("K", b, h, p, e), c.input("V", b, h, p, f)
    scale, W = c.param("scale", 1 / sqrt(c.extent(e))), c.param("W", 7)
    w = c.rank("w", W)

    def first(position, width, length):
        return clamp(position - width // 2, 0, length - width)

    key = first(p, W, c.extent(p)) + w
    QK = c.let("QK", (b, h, p, w), scale * Q[b, h, p, e] * K[b, h, key, e])
    A = c.let("A", (b, h, p, w), std.softmax(w, QK[b, h, p, w]))
    c.let("O", (b, h, p, f), A[b, h, p, w] * V[b, h, key, f])
    return c.build(outputs=["O"])


SPELT = """
cascade spelt
input X[i,m], U[m], class[m]: int, keep[m]: bool, s
param width = 0.5, M0 = 4
rank m = m1*M0 + m0
require M % 2 == 0 and I >= 1, "an even width"

N[i]   = count[m](X[i,m] where class[m] == 2 or not keep[m])
Y[i,m] = (X[i,m] where X[i,m] > -1.5 and X[i,m] < s) ?? U[m]
Z[i,m] = select(m // 2 != i % 3, abs(Y[i,m]) ** 2, -Y[i, m-1] - 1e-06) where m <= i and keep[m]
L[i]   = (sum[m](Z[i,m] where class[m] >= 1) + N[i]) * width
T      = max[i](L[i])
B[i]   = sum[m1,m0](X[i,m] * U[m])
R[i]   = X[i,0] + sum[m](R[m] * U[m] where m < i)
F[i]   = 2 ** std[i] * select(true, 1 * N[i] + pi, T)
std[i] = order[i](N[i]) / 2

output L, T, B, R, F
"""


def spelt():
    c = Builder("spelt")
    i, m, m1, m0 = c.ranks("i m m1 m0")
    X, U, group = c.input("X", i, m), c.input("U", m), c.input("class", m, dtype="int")
    keep, s = c.input("keep", m, dtype="bool"), c.input("s")
    width, M0 = c.param("width", 0.5), c.param("M0", 4)
    c.partition(m, m1 * M0 + m0)
    c.require((c.extent(m) % 2 == 0) & (c.extent(i) >= 1), "an even width")
    N = c.let("N", i, count(m)(X[i, m].where((group[m] == 2) | ~keep[m])))
    between = (X[i, m] > np.float64(-1.5)) & (X[i, m] < s)
    Y = c.let("Y", (i, m), X[i, m].where(between).default(U[m]))
    value = select((m // 2).ne(i % 3), abs(Y[i, m]) ** 2, -Y[i, m - 1] - 1e-6)
    Z = c.let("Z", (i, m), value, where=(m <= i) & keep[m])
    L = c.let("L", i, (sum_(m)(Z[i, m].where(group[m] >= 1)) + N[i]) * width)
    T = c.let("T", (), max_(i)(L[i]))
    B = c.let("B", i, sum_(m1, m0)(X[i, m] * U[m]))
    R, one = c.tensor("R"), np.arange(2)[1]
    c.let("R", i, X[i, 0] + sum_(m)((R[m] * U[m]).where(m < i)))
    F = c.let("F", i, 2 ** c.tensor("std")[i] * select(True, one * N[i] + pi, T))
    c.let("std", i, order(i)(N[i]) / 2)
    return c.build(outputs=[L, T, B, R, F])


@pytest.mark.parametrize(
    "build", [causal, attention_3pass, attention_1pass, topk_attention, neighbourhood_1d]
)
def test_equals_the_example(build):
    assert build() == example(build.__name__)


def test_equals_the_text():
    assert spelt() == parse(SPELT)


def test_every_word_of_the_language_can_be_written():
    python = {"abs": "__abs__", "min": "minimum", "max": "maximum"}
    functions = {python.get(name, name) for name, op in ops.MAPS.items() if not op.symbol}
    reducers = {name if hasattr(builder, name) else f"{name}_" for name in ops.REDUCERS}
    for name in functions | reducers | set(ops.SELECTIONS):
        assert hasattr(builder, name) or hasattr(Expression, name), name
    m, x = builder.Rank("m"), builder.Tensor("x")
    for name in ops.REDUCERS:
        written = getattr(builder, name, None) or getattr(builder, f"{name}_")
        assert written(m)(x).node.name == name
    for name, op in ops.MAPS.items():
        if not op.symbol and name != "abs":
            assert getattr(builder, python.get(name, name))(x).node.name == name


def small(body):
    """A builder with one statement, whose right side is `body(x, m, c)`."""
    c = Builder("small")
    i, m = c.ranks("i m")
    x = c.input("x", i, m)
    c.let("y", i, body(x, i, m))
    return c.build("y")


def told(body):
    with pytest.raises(CascadeError) as raised:
        small(body)
    return raised.value.diagnostics[0]


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (lambda x, i, m: 1 + x[i] * 2, "slots", "x[i]"),
        (lambda x, i, m: sum_(m)(x[i, m].where(exp(x[i, 0]))), "kind", "exp(x[i, 0])"),
        (lambda x, i, m: 2.0 * exp(x[i, m]), "implicit-sum", "exp(x[i, m])"),
        (lambda x, i, m: std.softmax(x[i, m]), "macro", "std.softmax(x[i, m])"),
        (lambda x, i, m: x + 1, "bare-tensor", "x + 1"),
        (lambda x, i, m: x[i, "m"], "value", 'x[i, "m"]'),
        (lambda x, i, m: x[i, 0] * float("nan"), "value", 'x[i, 0] * float("nan")'),
        (lambda x, i, m: x[i, 0] + 2**70, "value", "x[i, 0] + 2**70"),
        (lambda x, i, m: "é" and x[i, "é"], "value", 'x[i, "é"]'),
    ],
)
def test_an_error_points_at_the_python_expression(body, code, text):
    found = told(body)
    assert found.code == code, found.render()
    assert found.span.source.name == __file__
    assert found.span.text == text
    assert Path(__file__).read_text().split("\n")[found.span.line - 1] in found.span.source.text


def test_an_error_of_a_statement_points_at_its_call():
    c = Builder("late")
    c.let("y", c.ranks("m"), 1)
    with pytest.raises(CascadeError, match="nothing bounds rank `m`") as raised:
        c.build("y")
    (found,) = raised.value.diagnostics
    assert found.span and found.span.text == 'c.let("y", c.ranks("m"), 1)'
    c.let("y", (), 2)
    with pytest.raises(CascadeError) as raised:
        c.build(["y", "z"])
    assert {d.code for d in raised.value.diagnostics} == {"slots"}


def test_a_text_out_of_reach_still_gives_its_line():
    program = "from cascade.frontends.builder import Builder\n\nBuilder('a b')\n"
    with pytest.raises(CascadeError, match=r"nowhere\.py:3:1") as raised:
        exec(compile(program, "nowhere.py", "exec"), {})
    assert raised.value.diagnostics[0].code == "name"


@pytest.mark.parametrize(
    "misuse",
    [
        lambda x, i, m: x[i, m].where(0 <= m <= i),
        lambda x, i, m: x[i, m] if m <= i else 0,
        lambda x, i, m: x[i, m].where(m <= i and m > 0),
        lambda x, i, m: x[i, m].where(not m <= i),
        lambda x, i, m: max(x[i, m], x[i, 0]),
    ],
)
def test_an_expression_has_no_truth_value(misuse):
    found = told(misuse)
    assert found.code == "truth-value"
    assert any("(a <= m) & (m <= b)" in hint for hint in found.hints)


@pytest.mark.parametrize("name", ["where", "a b", "é", "2x", ""])
def test_names_are_those_of_the_language(name):
    for declare in (Builder, Builder("c").input, Builder("c").param, builder.Rank):
        with pytest.raises(CascadeError):
            declare(name)


def test_a_tensor_is_no_sequence_and_the_library_knows_its_names():
    with pytest.raises(TypeError):
        iter(builder.Tensor("x"))
    with pytest.raises(AttributeError, match="did you mean `softmax`"):
        _ = std.sofmax
    with pytest.raises(CascadeError, match="a rank is wanted"):
        Builder("c").input("x", *[builder.Tensor("y")])  # type: ignore[arg-type]
    with pytest.raises(CascadeError, match="double quotes"):
        Builder("c").require(True, 'a "quote"')


def test_a_type_belongs_to_an_output():
    c = Builder("typed")
    (m,) = c.ranks("m")
    x = c.input("x", m)
    y = c.let("y", m, 2.0 * x[m])
    with pytest.raises(CascadeError, match="`z`, which is no output"):
        c.build(y, types={"z": "f32"})
    with pytest.raises(CascadeError, match="there is no type `float32`"):
        c.build(y, types={"y": "float32"})
