"""Live tiles and useful points against every point, one by one."""

import numpy as np
import pytest

from cascade import api
from cascade.backends.reference import evaluate
from cascade.spatial.live import Axis, live_tiles
from cascade.spatial.lowering import statements

MASKS = [
    "m <= p",
    "m < p",
    "p - m < 5 and m <= p",
    "m <= p and (p - m < 7 or m < 2)",
    "m // 4 == p // 4",
    "m % 3 == 0",
    "(m + p) % 5 != 0",
    "not (m <= p)",
    "m * 2 <= p + 6",
    "abs(m - p) <= 4",
    "min(m, p) < 5",
    "m - p > 0 - 3 and max(m, p) >= 9",
    "m < 0",
    "m >= 0",
]


def spec_of(mask):
    return api.parse(
        f"input Q[p,e], K[m,e]\nS[p,m] = Q[p,e] * K[m,e] where {mask}\n"
        "O[p] = sum[m](S[p,m])\noutput O, S\n"
    )


def points(mask, queries, keys):
    """Where the reference has a value: a score of ones is absent, hence 0, elsewhere."""
    found = evaluate(spec_of(mask), {"Q": np.ones((queries, 1)), "K": np.ones((keys, 1))})
    return found["S"] != 0


@pytest.mark.parametrize(("queries", "keys", "size"), [(16, 16, 4), (13, 22, 5), (7, 3, 8)])
@pytest.mark.parametrize("mask", MASKS)
def test_masks(mask, queries, keys, size):
    exact = points(mask, queries, keys)
    found = statements(spec_of(mask), split=False)
    live = live_tiles(
        found.conditions, Axis("p", size, queries), Axis("m", size, keys), ("", "m"), {}
    )
    assert live.points == pytest.approx(exact.mean())
    tiles = np.array(
        [
            [exact[a : a + size, b : b + size].any() for b in range(0, keys, size)]
            for a in range(0, queries, size)
        ]
    )
    mine = np.ones_like(tiles) if live.tiles is None else live.tiles
    assert (mine >= tiles).all()  # no tile with a point is left out
    if "and" not in mask and "%" not in mask:
        assert (mine == tiles).all()  # one linear condition: none is kept in vain


def test_values_of_tensors_come_from_the_settings():
    spec = api.parse(
        "input Q[h,p,e], K[h,m,e], w[h]: int\n"
        "S[h,p,m] = Q[h,p,e] * K[h,m,e] where m <= p and p - m < w[h]\n"
        "O[h,p] = sum[m](S[h,p,m])\noutput O\n"
    )
    conditions = statements(spec, split=False).conditions
    axes = Axis("p", 4, 64), Axis("m", 4, 64)
    known = live_tiles(conditions, *axes, ("", "m"), {"w": 4})
    unknown = live_tiles(conditions, *axes, ("", "m"), {})
    assert known.share == pytest.approx((16 + 15) / 256)
    assert unknown.share == pytest.approx(16 * 17 / 2 / 256)


def test_chunks_read_the_steps_that_one_of_their_tiles_needs():
    """Causal, 8 tiles a side, 4 query tiles on chip: half of the keys, then all."""
    conditions = statements(spec_of("m <= p"), split=False).conditions
    live = live_tiles(conditions, Axis("p", 4, 32), Axis("m", 4, 32), ("", "m"), {})
    assert live.streamed(4) == pytest.approx(1.5)
    assert live.streamed(8) == pytest.approx(1.0)
    assert live.streamed(1) == pytest.approx(sum(range(1, 9)) / 8)
