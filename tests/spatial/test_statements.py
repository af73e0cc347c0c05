"""A cascade as statements of one operation."""

import pytest

from cascade import api
from cascade.diagnostics import CascadeError
from cascade.spatial.lowering import statements
from cascade.spatial.model import form_of
from cascade.spatial.statements import FINAL


def operations(found):
    return [("-".join(s.operations), s.reduced) for s in found.items]


ONE_PASS = [
    ("mac", ("e",)),
    ("max", ("m0",)),
    ("max", ()),
    ("sub-exp", ()),
    ("sub-exp", ()),
    ("add", ("m0",)),
    ("mul", ()),
    ("add", ()),
    ("mac", ("m0",)),
    ("mul", ()),
    ("add", ()),
    ("div", ()),
]


@pytest.mark.parametrize("name", ["attention_3pass", "attention_1pass", "attention"])
def test_the_paper_s_cascade_comes_from_any_form(example, name):
    """Cascade 5 written by hand, and what is derived from textbook attention, are the same work."""
    found = statements(form_of(example(name), "derived"))
    assert sorted(operations(found)) == sorted(ONE_PASS)
    assert (found.outer, found.inner, found.query) == ("m1", "m0", ("p",))
    assert len(found.carried) == 3
    assert found.phases == 1


def test_carried_state_is_read_at_its_step(example):
    found = statements(example("attention_1pass"))
    by_name = {s.name: s for s in found.items}
    assert [o.offset for o in by_name["SLN"].reads] == [0, 1]
    assert [o.offset for o in by_name["PRM"].reads] == [0, 1]
    assert by_name["RM"].write.offset == 1
    assert [o.offset for o in by_name["O"].reads] == [FINAL, FINAL]


def test_whole_rows(example):
    """An array that takes whole rows gets the three passes as three phases."""
    found = statements(example("attention_3pass"), split=False)
    assert [s.phase for s in found.items] == [0, 0, 1, 1, 2, 2]
    assert operations(found)[2] == ("sub-exp", ())


def test_two_passes(example):
    """The division of the weights is taken on the factors without a key first."""
    found = statements(example("attention_2pass"))
    phases = [[s.name for s in found.items if s.phase == n] for n in range(found.phases)]
    assert phases == [["BQK", "LM", "SLN", "SLD", "GM"], ["PLM", "SD"], ["A:1", "A", "O:1", "O"]]
    ranks = {s.name: s.ranks for s in found.items}
    assert "m0" not in ranks["A:1"]


def test_masks_and_guards_are_free(example):
    causal = statements(form_of(example("causal"), "derived"))
    plain = statements(form_of(example("attention_3pass"), "derived"))
    tile = [s.operations for s in causal.items if causal.is_tile(s)]
    assert tile == [s.operations for s in plain.items if plain.is_tile(s)]
    assert causal.conditions


def test_a_position_bias_costs_its_operations(example):
    """A factor that is one number is free; one that differs from point to point is not."""
    found = statements(form_of(example("alibi"), "derived"))
    plain = statements(form_of(example("attention_3pass"), "derived"))
    more = [s.operations for s in found.items]
    for s in plain.items:
        more.remove(s.operations)
    assert sorted(more) == [("mul",), ("sub",)]


def test_sigmoid_accumulates(example):
    found = statements(form_of(example("sigmoid_attention"), "derived"))
    assert [o for s in found.items for o in s.operations] == [
        "mac",
        "exp",
        "add",
        "reciprocal",
        "mac",
        "add",
    ]


def test_nothing_streams():
    spec = api.parse("input x[p]\n\ny[p] = exp(x[p])\n\noutput y\n")
    with pytest.raises(CascadeError, match="nothing streams past the array"):
        statements(spec)


def test_selection_is_no_operation_of_an_array(example):
    with pytest.raises(CascadeError, match="no operation of an array"):
        statements(example("topk_attention"))


def test_equal_values_are_made_once(example):
    """Two outputs of one softmax share its exponentials and their sum."""
    found = statements(example("causal"), split=False)
    assert [s.operations for s in found.items].count(("sub", "exp")) == 1
    assert [s.operations for s in found.items].count(("add",)) == 2  # the sum, and that of LSE


def test_sums_over_different_points_are_not_equal():
    spec = api.parse(
        "input Q[p,e], K[m,e], c[m]: int\n\nS[p,m] = Q[p,e] * K[m,e]\n"
        "a[p] = sum[m](exp(S[p,m]) where c[m] == 0)\n"
        "b[p] = sum[m](exp(S[p,m]) where c[m] == 1)\n\noutput a, b\n"
    )
    found = statements(spec, split=False)
    assert [s.operations for s in found.items].count(("add",)) == 2
