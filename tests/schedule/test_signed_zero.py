"""A param of -0.0 is not one of 0.0, although they are equal."""

import numpy as np

import cascade

INVERSE = "input S[p]\nparam a = 0.0\nO[p] = S[p] / a\noutput O"


def test_each_call_has_its_own_zero() -> None:
    kernel = cascade.compile(cascade.parse(INVERSE))
    found = [float(kernel(S=np.ones(1), a=a)[0]) for a in (0.0, -0.0, 0.0)]
    assert found == [float("inf"), float("-inf"), float("inf")]
