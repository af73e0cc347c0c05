"""Random cascades: the reference and the pointwise evaluator agree, and the text reads back."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cascade
from cascade.diagnostics import CascadeError
from tests.property.compare import compare
from tests.property.generate import generate

CASES = st.randoms(use_true_random=False).map(generate)
STEADY = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


def agree(case):
    c = cascade.parse(case.text)  # every generated text is well typed
    assert cascade.parse(str(c)) == c
    try:
        compare(c, case.inputs)
    except CascadeError as error:
        raise AssertionError(f"{error}\n{case.text}") from None


@settings(STEADY, max_examples=600)
@given(CASES)
def test_evaluators_agree(case):
    agree(case)


@pytest.mark.slow
@settings(STEADY, max_examples=6000)
@given(CASES)
def test_evaluators_agree_on_many(case):
    agree(case)


@pytest.mark.slow
def test_evaluators_agree_on_long_cascades():
    for seed in range(2500):  # without shrinking in mind, the choices are less often the smallest
        agree(generate(random.Random(seed)))


def test_the_generator_reaches_every_construct():
    texts = "".join(generate(random.Random(seed)).text for seed in range(400))
    words = ["sum[", "max[", "min[", "prod[", "mean[", "any[", "all[", "count[", "argmax["]
    words += ["top[", "argtop[", "order[", "select(", " ?? ", " where ", "init ", "M0", "//", " % "]
    words += ["clamp(", "softmax[", "logsumexp[", "floor(", "not ", " or ", "-1", "inf", ": bool"]
    assert [w for w in words if w not in texts] == []


@pytest.mark.parametrize(
    "text",
    [
        "input x[p,m]\nZ = sum[p,m](x[p,m] where p < 1 and (m < 2 and p != m))\noutput Z\n",
        "input v[m]\nrank m1 < 2\nrank m = m1*M0 + m0\nparam M0 = 2\n"
        "Z[m1] = sum[m0](v[m])\noutput Z\n",
    ],
)
def test_text_reads_back(text):
    c = cascade.parse(text, "1-pass spec.cascade")
    assert cascade.parse(str(c)) == c
