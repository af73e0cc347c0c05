"""What a loop visits: every point that counts once, and no test where all points count."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.schedule.segments import Bounds, Segments, chained, segments, visits, without
from tests.schedule.predicates import PREDICATES, Shape, intervals, predicate

EXACT = {  # one interval for each row, whose ends do not go back as the row goes on
    "causal",
    "window",
    "block",
    "blocks before",
    "near blocks",
    "neighbourhood",
    "distance",
    "one point",
    "scaled",
}


def segments_of(shape, found):
    bounds = [shape.bounds(i) for i in found]
    return segments(bounds, shape.exists, shape.tile, shape.part, shape.extent)


def times_visited(shape, found):
    """How often each coordinate is visited, in full tiles and in partial ones."""
    counts = np.zeros((2, shape.extent), int)
    full, partial = visits(found, shape.tile, shape.part)
    for n, pieces in enumerate((full, partial)):
        for start, size in pieces:
            assert 0 <= start and start + size <= shape.extent and size > 0
            counts[n, start : start + size] += 1
    for start, size in full:
        assert size == shape.tile and start % shape.tile == 0
    for start, size in partial:
        assert start % shape.part == 0
        assert size == min(shape.part, shape.extent - start)
    return counts


@pytest.mark.parametrize("name", PREDICATES)
def test_every_point_is_visited_once_and_full_tiles_need_no_test(name):
    conditions = predicate(PREDICATES[name])
    found = intervals(conditions)
    for seed in range(30):
        shape = Shape(seed)
        got = segments_of(shape, found)
        counts = times_visited(shape, got)
        points = shape.all(conditions) & shape.exists
        assert counts.sum(0).max(initial=0) <= 1
        assert (counts.sum(0) >= points.any(0)).all()
        whole = (shape.all(conditions) | ~shape.exists).all(0)
        assert (whole >= (counts[0] > 0)).all()
        if not shape.exists.any():
            assert got == Segments()


@pytest.mark.parametrize("name", sorted(EXACT))
def test_one_interval_a_row_has_no_empty_visit_and_misses_no_full_tile(name):
    conditions = predicate(PREDICATES[name])
    found = intervals(conditions)
    for seed in range(30):
        shape = Shape(seed)
        got = segments_of(shape, found)
        points = shape.all(conditions) & shape.exists
        full, partial = visits(got, shape.tile, shape.part)
        gaps = _has_gap(points.any(0))
        for start, size in partial:
            assert points[:, start : start + size].any() or gaps
        whole = (shape.all(conditions) | ~shape.exists).all(0)
        if shape.exists.any():
            starts = range(0, shape.extent - shape.tile + 1, shape.tile)
            assert [s for s, _ in full] == [s for s in starts if whole[s : s + shape.tile].all()]


def _has_gap(columns):
    """Whether rows leave out coordinates between others, so that the hull is more than they are."""
    (at,) = np.nonzero(columns)
    return at.size > 0 and at[-1] - at[0] + 1 > at.size


def bounds(*pairs, rows=None, residual=False):
    low, high = np.array([pairs]).reshape(-1, 2).T
    return Bounds(low, high, np.ones(len(low), bool) if rows is None else np.array(rows), residual)


def test_a_causal_tile():
    triangle = bounds(*[(0, p + 1) for p in range(256, 384)])
    assert segments([triangle], True, 128, 128, 1000) == Segments(((0, 256),), ((256, 384),))
    assert segments([triangle], True, 128, 32, 300) == Segments(((0, 256),), ((256, 300),))
    found = segments([triangle], True, 128, 32, 300)
    assert visits(found, 128, 32) == ([(0, 128), (128, 128)], [(256, 32), (288, 12)])


def test_a_ragged_end_is_partial():
    assert segments([bounds((0, 100))], True, 32, 8, 100) == Segments(((0, 96),), ((96, 100),))
    assert segments([bounds((0, 20))], True, 32, 32, 20) == Segments((), ((0, 20),))


def test_window_and_sinks_are_two_ranges():
    found = segments([bounds((500, 600), (510, 610)), bounds((0, 64))], True, 32, 16, 1000)
    assert found == Segments(((0, 64), (512, 576)), ((496, 512), (576, 624)))


def test_a_row_without_points_makes_nothing_full():
    rows = [True, False]
    one = bounds((0, 64), (0, 64), rows=rows)
    assert segments([one], True, 32, 32, 64) == Segments((), ((0, 64),))
    assert segments([one], np.array(rows), 32, 32, 64) == Segments(((0, 64),), ())
    assert segments([one], np.array([False, False]), 32, 32, 64) == Segments()


def test_a_residual_condition_makes_nothing_full():
    tested = bounds((0, 64), residual=True)
    assert segments([tested], True, 32, 32, 64) == Segments((), ((0, 64),))
    both = [tested, bounds((0, 40))]
    assert segments(both, True, 32, 32, 64) == Segments(((0, 32),), ((32, 64),))


def test_nothing_to_visit():
    assert segments([], True, 32, 32, 64) == Segments()
    assert segments([bounds((0, 0))], True, 32, 32, 0) == Segments()
    assert segments([bounds((70, 90))], True, 32, 32, 64) == Segments()
    assert segments([bounds((0, 1))], True, 4, 1, 1) == Segments((), ((0, 1),))


def test_ranges_that_touch_are_one():
    assert chained([(4, 8), (9, 9), (0, 4), (10, 12)]) == ((0, 8), (10, 12))


RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6)


def covered(ranges):
    return {n for low, high in ranges for n in range(low, high)}


@settings(max_examples=200, deadline=None)
@given(RANGES, RANGES)
def test_ranges_unite_and_subtract_as_sets(first, second):
    united, taken = chained(first), chained(second)
    assert covered(united) == covered(first)
    left = without(united, taken)
    assert covered(left) == covered(first) - covered(second)
    for ranges in (united, left):
        assert all(low < high for low, high in ranges)
        assert all(a[1] <= b[0] for a, b in pairwise(ranges))
    assert all(a[1] < b[0] for a, b in pairwise(united))
