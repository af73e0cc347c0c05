"""What is carried along a rank."""

import pytest

from cascade.analysis.state import state
from cascade.api import derive, load, parse
from tests.examples.test_examples import FOLDER


@pytest.mark.parametrize(
    ("name", "rank", "derived", "written"),
    [
        ("attention", "m", "F + 2 per (b,h,p)", "F + 2 per (b,h,p)"),
        ("attention_1pass", "m", "F + 2 per (b,h,p)", "F + 2 per (b,h,p)"),
        ("retention", "i", "E*F per (b,h)", "E*F per (b,h)"),
        ("sigmoid_attention", "m", "F per (b,h,p)", "F per (b,h,p)"),
    ],
)
def test_examples(name, rank, derived, written):
    spec = load(FOLDER / f"{name}.cascade")
    assert str(state(spec, rank)) == written
    assert str(state(derive(spec).result, rank)) == derived


def test_what_is_not_along_the_rank_is_no_state():
    spec = parse("cascade c\ninput X[p,e]\nY[p] = X[p,e] * X[p,e]\noutput Y\n")
    assert str(state(spec, "p")) == "0"
    assert str(state(spec, "e")) == "1 per (p)"


def test_groups_of_tensors():
    spec = parse(
        "cascade c\ninput X[b,p,e], G[g,e]\nY[b,p] = max[e](X[b,p,e])\n"
        "Z[g] = sum[e](G[g,e])\nT = sum[g,e](G[g,e])\noutput Y, Z, T\n"
    )
    assert str(state(spec, "e")) == "1 per (b,p), 1 per (g), 1"
