"""FLAT's configurations are found by a search whose space is data."""

import csv
from importlib.resources import files

import pytest

from cascade.diagnostics import InputError
from cascade.spatial.flat import Machine, Problem, Space, Tiling, cost, read_space, search

SPACE = Space(("head", "row"), (1024, 512, 256), ("on", "off"), ("output", "weight"), ("off", "on"))
CLOUD = Machine(256, 256, 32 * 2**20, 2, 940e6, 400 * 2**30)
SOFTMAX = ((1, 0), (1, 1), (1, 1))  # maximum; exponential and its sum; division


def published():
    text = (files("cascade") / "spatial" / "published" / "flat_configurations.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


def problem(row):
    batch = int(row["B"]) * int(row["H"])
    m, p, e, f = (int(row[k]) for k in "MPEF")
    return Problem(batch, m, p, e, f, SOFTMAX, 2)


def chosen(row):
    """The published configuration as a tiling."""
    places = [row[f"{k}_loc"].removesuffix("chip") for k in ("QK", "Q", "K", "V", "AV")]
    head = row["fusion_granularity"] == "head"
    block = int(row["P"]) if head else int(row["P1"])
    return Tiling(row["fusion_granularity"], block, places[0], row["QK_stationarity"], *places[1:])


@pytest.mark.parametrize("row", published(), ids=lambda r: f"{r['models']}-{r['seq_len']}")
def test_search_finds_the_published_cost(row):
    shape = problem(row)
    known = cost(shape, CLOUD, chosen(row))
    _, found = search(shape, CLOUD, SPACE)
    assert known is not None
    assert found == pytest.approx(known)
    assert known.spilled == pytest.approx(float(row["proportion_spilled"]), abs=1e-9)


def test_fewer_rows_in_the_space_cost_more():
    """At 64K a block of 256 rows is the only one whose scores fit: without it they are spilled."""
    shape = Problem(768, 65536, 65536, 64, 64, SOFTMAX, 2)
    narrow = Space(SPACE.granularity, (1024,), SPACE.scores, SPACE.stationary, SPACE.operands)
    assert search(shape, CLOUD, narrow)[1].traffic > search(shape, CLOUD, SPACE)[1].traffic


def test_off_chip_scores_must_leave_room_for_the_operands():
    small = Machine(256, 256, 1024, 2, 940e6, 400 * 2**30)
    space = Space(("row",), (256,), ("off",), ("output",), ("off",))
    with pytest.raises(InputError, match="no tiling of the search space fits"):
        search(Problem(1, 1024, 1024, 64, 64, SOFTMAX), small, space)


@pytest.mark.parametrize(
    ("key", "value"),
    [("rows", [0]), ("rows", []), ("rows", "all"), ("scores", ["near"]), ("operands", None)],
)
def test_bad_space(key, value):
    data = {
        "granularity": ["head"],
        "rows": [256],
        "scores": ["on"],
        "stationary": ["output"],
        "operands": ["off"],
    }
    with pytest.raises(InputError, match=f"`\\[search\\] {key}`"):
        read_space("mine.toml", {**data, key: value})
