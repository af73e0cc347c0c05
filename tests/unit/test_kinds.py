"""Kinds of tensors: real numbers, integers, truth values."""

import pytest

import cascade
from cascade.ir.kinds import tensor_kinds


def kinds(text: str) -> dict[str, str]:
    return tensor_kinds(cascade.parse(text))


def test_a_state_is_as_real_as_what_comes_in() -> None:
    """Whatever its start is, and whatever reads it before the step does."""
    found = kinds("""
        input x[i]: real
        init S[0] = 0
        TWICE[i] = 2 * S[i]
        S[i+1]   = TWICE[i] + x[i]
        O        = S[I]
        output O
    """)
    assert found["S"] == found["TWICE"] == found["O"] == "real"


def test_a_counter_is_an_integer() -> None:
    found = kinds("""
        input x[i]
        init N[0] = 0
        N[i+1] = N[i] + select(x[i] > 0, 1, 0)
        O      = N[I]
        output O
    """)
    assert found["N"] == found["O"] == "int"


def test_a_mistake_in_a_recurrence_is_told_once() -> None:
    with pytest.raises(cascade.CascadeError) as raised:
        cascade.parse("""
            input x[i]: real, y[m]
            init S[0] = 0
            S[i+1] = S[i] + x[i] + y[x[i]]
            O      = S[I]
            output O
        """)
    assert str(raised.value).count("index-kind") == 1
