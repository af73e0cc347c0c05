"""The fewest-pass form of known cascades: passes by the analyser, results by the reference."""

from __future__ import annotations

import pytest

import cascade
from tests.transforms.check import (
    TOLERANCE,
    arrays,
    derived,
    difference,
    passes_of,
    situations,
    tiles,
)
from tests.transforms.specs import SPECS

EACH = pytest.mark.parametrize("spec", SPECS, ids=[s.name for s in SPECS])


@EACH
def test_passes(spec):
    c = spec.cascade
    found = derived(c)
    assert passes_of(c)[spec.rank] == spec.before
    assert passes_of(cascade.parse(str(found.result)))[spec.rank] == spec.after
    if spec.anchored is not None:
        assert any(s.anchors for s in found.states) == spec.anchored
    for text in spec.says:
        assert text in str(found)


@EACH
def test_results(spec):
    c = spec.cascade
    found = derived(c)
    for sizes, seed, size, gone in situations(c, spec.rank, spec.large):
        inputs = arrays(c, sizes, seed, size, gone, spec.positive)
        for tile in tiles(found):
            given = dict(spec.settings)
            worst = difference(c, found.result, inputs, given, tile)
            assert worst < TOLERANCE, (sizes, size, gone, tile)
