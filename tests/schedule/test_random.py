"""Random cascades by their Programs: equal to the reference, or refused with a reason."""

import random

import numpy as np
import pytest

import cascade
from cascade.backends.arrays import as_inputs, checked_inputs
from cascade.backends.kernel import typed
from cascade.backends.reference import evaluate
from cascade.backends.tiled.run import run
from cascade.diagnostics import CascadeError
from cascade.schedule.choose import schedule
from cascade.schedule.sizes import Sizes
from tests.property.generate import generate as any_cascade
from tests.schedule.naive import Naive
from tests.transforms.campaign import generate as streamed_cascade


def outcome(case, tiles: int) -> str:
    c = cascade.parse(case.text)
    try:
        wanted = evaluate(c, case.inputs)
    except CascadeError:
        return "no meaning"
    c = typed(c, checked_inputs(c, case.inputs))
    inputs = as_inputs(c, case.inputs)
    try:
        made = schedule(c, Sizes(rows=tiles, stream=tiles))
    except CascadeError as reason:
        assert [d.code for d in reason.diagnostics] == ["no-schedule"], case.text
        return "refused"
    values = made.bind({n: a.shape for n, a in inputs.items()})
    compare(Naive(made.program, inputs, values).run(), wanted, case.text)
    compare(run(made.program, inputs, values, 1, dtype=np.float64).outputs, wanted, case.text)
    return "equal"


def compare(found, wanted, text: str) -> None:
    for name, expected in wanted.items():
        actual = found[name]
        assert actual.shape == expected.shape, text
        with np.errstate(all="ignore"):
            close = np.abs(actual - expected.astype(float)) <= 1e-6 * (1 + np.abs(expected))
        both = (actual == expected) | (np.isnan(actual.astype(float)) & np.isnan(expected * 1.0))
        assert (close | both | ~np.isfinite(expected * 1.0)).all(), f"{name}\n{text}"


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_streamed_cascades(first):
    found = [outcome(streamed_cascade(random.Random(s)), 2) for s in range(first, first + 20)]
    assert found.count("equal") == len(found) - found.count("no meaning")


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_any_cascades(first):
    found = [outcome(any_cascade(random.Random(s)), 2) for s in range(first, first + 20)]
    assert found.count("equal") > len(found) / 3  # many recur in ways that kernels do not


@pytest.mark.slow
@pytest.mark.parametrize("first", range(120, 1320, 100))
def test_many_streamed_cascades(first):
    found = [outcome(streamed_cascade(random.Random(s)), 2) for s in range(first, first + 100)]
    refused = found.count("refused")  # a reduction that reads what a later loop makes
    assert found.count("equal") == len(found) - found.count("no meaning") - refused
    assert refused <= 2
