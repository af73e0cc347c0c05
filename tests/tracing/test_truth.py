"""Masks of a traced function read as a person would write them."""

import pytest

import cascade
from cascade.frontends.torch_function.truth import shortest
from cascade.ir.expr import Const, Coordinate, Map

torch = pytest.importorskip("torch")

LATER = Map("<=", (Coordinate("m"), Coordinate("p")))


@pytest.mark.parametrize(
    ("long", "short"),
    [
        (Map("not", (Map("not", (LATER,)),)), LATER),
        (Map("and", (Const(True), LATER)), LATER),
        (Map("or", (LATER, Const(False))), LATER),
        (Map("and", (Const(False), LATER)), Map("and", (Const(False), LATER))),
        (Map("not", (Map("not", (Map("and", (LATER, Const(True))),)),)), LATER),
        (Map("not", (LATER,)), Map("not", (LATER,))),
    ],
)
def test_shortest(long, short):
    assert shortest(long) == short


def test_a_mask_of_ones_below_the_diagonal():
    def attend(q, k):
        scores = q @ k.transpose(-1, -2)
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        return torch.softmax(scores.masked_fill(~mask, float("-inf")), -1)

    found = str(cascade.trace(attend, torch.randn(7, 3), torch.randn(9, 3)))
    assert "where p <= b\n" in found and "not" not in found and "true" not in found
