"""Every example's gradient against central differences in float64, saved and made again."""

import random

import numpy as np
import pytest

import cascade
from cascade import api
from cascade.backends.differences import differences
from cascade.diagnostics import CascadeError
from cascade.ir.kinds import tensor_kinds
from tests.examples.test_examples import NAMES, spec
from tests.property.generate import generate

REFUSED = {"no-derivative", "input-type"}


@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_examples(name, save):
    found = cascade.gradient(spec(name), save=save)
    checked = api.check_gradient(spec(name), found, trials=6)
    assert checked["ok"], checked
    assert checked["smooth"] >= 4, checked
    assert set(found.gradients) == {
        t.name for t in spec(name).inputs if t.dtype not in ("int", "bool")
    }
    if not save:
        assert found.saved == () and found.forward == spec(name)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_text_that_reads_back(name):
    found = cascade.gradient(spec(name))
    for made in (found.forward, found.backward):
        assert cascade.parse(str(made)) == made


def check_random(seed):
    made = cascade.parse(generate(random.Random(seed)).text)
    kinds = tensor_kinds(made)
    if not any(kinds.get(o) in ("real", "any") for o in made.outputs):
        return None
    try:
        found = cascade.gradient(made)
    except CascadeError as error:
        assert {d.code for d in error.diagnostics} <= REFUSED, error
        return False
    with np.errstate(all="ignore"):
        try:
            trials = differences(made, found, 0, 6)
        except CascadeError as error:  # an untyped input drawn as reals where integers are needed
            assert {d.code for d in error.diagnostics} <= REFUSED, error
            return False
    wrong = [t for t in trials if t.defined and not t.ok]
    assert not wrong, (seed, wrong[0], str(made), str(found.backward))
    return True


@pytest.mark.parametrize("block", range(5))
def test_random_cascades(block):
    done = [check_random(seed) for seed in range(25 * block, 25 * block + 25)]
    assert sum(d is True for d in done) > 15


@pytest.mark.slow
@pytest.mark.parametrize("block", range(5, 24))
def test_more_random_cascades(block):
    for seed in range(25 * block, 25 * block + 25):
        check_random(seed)
