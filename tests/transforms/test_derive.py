"""The fewest-pass form of known cascades: passes by the analyser, results by the reference."""

from __future__ import annotations

import numpy as np
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
from tests.transforms.values import SINGLE, Values

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
    for sizes, seed, size, gone in situations(c, spec.rank, spec.large, spec.settings):
        inputs = arrays(c, sizes, seed, size, gone, spec.positive)
        for tile in tiles(found):
            given = {k: v for k, v in spec.settings.items() if k.lower() not in sizes}
            worst = difference(c, found.result, inputs, given, tile)
            assert worst < TOLERANCE, (sizes, size, gone, tile)


def spec_named(name):
    return next(s for s in SPECS if s.name == name)


@pytest.mark.parametrize("length", [1, 5, 40])
@pytest.mark.parametrize("tile", [1, 3, 128])
def test_a_softmax_written_without_max_does_not_overflow(length, tile):
    found = derived(spec_named("softmax_without_max").cascade)
    chance = np.random.default_rng(length)
    inputs = {
        "c": chance.standard_normal((4, length)) * 1e4,
        "v": chance.standard_normal((length, 3)),
        "low": np.array([0, 0, 1, 2]),
        "high": np.array([length, 1, length, 0]),
    }
    seen = (inputs["low"][:, None] <= np.arange(length)) & (
        np.arange(length) < inputs["high"][:, None]
    )
    logits = np.where(seen, inputs["c"], -np.inf)
    top = logits.max(1, keepdims=True)
    weights = np.where(seen, np.exp(logits - np.where(np.isfinite(top), top, 0)), 0)
    total = weights.sum(1, keepdims=True)
    expected = weights / np.where(total, total, 1) @ inputs["v"]
    output = cascade.run(found.result, inputs, {"M0": tile})["O"]
    assert np.allclose(output, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tile", [1, 4, 128])
def test_an_exponent_beside_the_maximum_does_not_overflow(tile):
    found = derived(spec_named("performer").cascade)
    chance = np.random.default_rng(1)
    c, v = chance.standard_normal((3, 11)) * 1e3, chance.standard_normal((11, 2))
    d = chance.standard_normal(11) * 40  # exp(c - max c - d**2 / 2) is 0 at every point
    x = c - d**2 / 2
    weights = np.exp(x - x.max(1, keepdims=True))
    output = cascade.run(found.result, {"c": c, "d": d, "v": v}, {"M0": tile})["O"]
    expected = weights / weights.sum(1, keepdims=True) @ v
    assert np.allclose(output, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("tile", [1, 4, 128])
def test_a_sum_of_sums_at_several_maxima_does_not_overflow(tile):
    c = cascade.parse("""
        input U[m], W[m]
        Q = max[m](max(U[m], W[m]))
        D = sum[m](exp(U[m] - Q)) + sum[m](exp(W[m] - Q))
        output D
    """)
    chance = np.random.default_rng(1)
    inputs = {n: 1e4 + chance.standard_normal(9) for n in ("U", "W")}
    assert difference(c, derived(c).result, inputs, {}, {"M0": tile}) < 1e-11


@pytest.mark.parametrize("tile", [1, 3, 64])
def test_a_group_of_low_scores_keeps_its_weight(tile):
    found = derived(spec_named("grouped_softmax").cascade)
    group = np.arange(9) % 3
    chance = np.random.default_rng(2)
    c = chance.standard_normal((2, 9)) + np.array([0, -1e4, 1e4])[group]
    v = chance.standard_normal((9, 2))
    worst = difference(
        spec_named("grouped_softmax").cascade,
        found.result,
        {"c": c, "v": v, "group": group},
        {},
        {"M0": tile},
    )
    assert worst < 1e-12


@pytest.mark.parametrize("tile", [1, 64, 4096])
def test_variance_far_from_zero_in_single_precision(tile):
    """Sums of powers give about -208 here."""
    found = derived(spec_named("variance").cascade)
    x = (np.random.default_rng(0).standard_normal((1, 4096)) + 1e4).astype(np.float32)
    true = float(np.var(x.astype(np.float64)))
    result = Values(found.result, {"X": x}, {"D0": tile}, SINGLE, np.float32).at("VAR", (0,))
    assert isinstance(result, np.float32)
    assert abs(float(result) - true) < 1e-3 * true


def test_bounded_scores_need_no_maximum():
    """Scores of unit vectors lie in [-1, 1], by the inequality of Cauchy and Schwarz."""
    c = cascade.parse(
        "cascade cosine\nimport std\ninput Q[p,e], K[m,e], V[m,f]\n"
        "A[p,e] = l2norm[e](Q[p,e], 1e-6)\nB[m,e] = l2norm[e](K[m,e], 1e-6)\n"
        "S[p,m] = 10 * A[p,e] * B[m,e]\n"
        "G[p] = max[m](S[p,m])\nN[p,m] = exp(S[p,m] - G[p])\n"
        "O[p,f] = N[p,m] / sum[m](N[p,m]) * V[m,f]\noutput O"
    )
    found = derived(c)
    assert passes_of(found.result)["m"] == 1
    assert not any(s.anchors for s in found.states)
    assert "needs no maximum" in str(found) and "unit" in str(found)
    for length in (0, 1, 7):
        inputs = arrays(c, {"p": 3, "m": length, "e": 4, "f": 2}, length)
        assert difference(c, found.result, inputs, {}, {}) < TOLERANCE


def test_weights_that_stand_for_themselves_get_no_maximum():
    found = derived(spec_named("sigmoid_attention").cascade)
    assert found.steps == () and "max" not in str(found.result)
