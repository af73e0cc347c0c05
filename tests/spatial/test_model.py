"""The model against the closed forms of FuseMax for any width and length, and by hand."""

from math import ceil

import pytest

from cascade.diagnostics import CascadeError, InputError
from cascade.spatial.model import model
from cascade.spatial.target import load_spatial, read_spatial, spatial_targets

K = 1024
CLOCK, BANDWIDTH, UNITS = 940e6, 400 * 2**30, 256 * 256
POINTS = [(e, n) for e in (32, 64, 96, 128) for n in (K, 2 * K, 3 * K, 16 * K, 96 * K, 512 * K)]


def run(example, target, e, length, name="attention_3pass", **more):
    settings = {"B": 4, "H": 3, "M": length, "P": length, "E": e, "F": e, **more}
    return model(example(name), load_spatial(target), settings)


def unit(length):
    """Cycles in which every unit of the 2D array does one operation at every score."""
    return 12 * length * length / UNITS


def last(e, length):
    """Cycles of the division at the end."""
    return 12 * e * length / 256


@pytest.mark.parametrize(("e", "length"), POINTS)
def test_fusemax(example, e, length):
    found = run(example, "fusemax", e, length)
    cycles = (2 * e + 10) * unit(length) + last(e, length)
    traffic = 2 * 12 * e * length * (2 + 2 * found.mapping["p2"])
    latency = max(cycles / CLOCK, traffic / BANDWIDTH)
    assert found.traffic == pytest.approx(traffic)
    assert found.latency == pytest.approx(latency)
    used = (2 * e + 9) * unit(length) / (CLOCK * latency)
    assert found.utilisation("2d") == pytest.approx(used)
    assert found.utilisation("1d") == pytest.approx(cycles / CLOCK / latency)


@pytest.mark.parametrize(("e", "length"), POINTS)
def test_architecture(example, e, length):
    found = run(example, "fusemax_architecture", e, length)
    assert found.mapping["span"] == e + 2 * e + 10 + 256
    assert found.latency == pytest.approx((3 * e + 266) * unit(length) / CLOCK)


@pytest.mark.parametrize(("e", "length"), POINTS)
def test_cascade_on_flat_s_arrays(example, e, length):
    found = run(example, "fusemax_cascade", e, length)
    cycles = (1029 + 2 * e) * unit(length) + last(e, length)
    traffic = 2 * 12 * e * length * (2 + 2 * found.mapping["p2"])
    assert found.cycles["1d"] == pytest.approx(cycles)
    assert found.cycles["2d"] == pytest.approx(2 * e * unit(length))
    assert found.latency == pytest.approx(max(cycles / CLOCK, traffic / BANDWIDTH))


@pytest.mark.parametrize(("e", "length"), POINTS)
def test_flat(example, e, length):
    """1024 cycles of softmax a tile, until memory takes longer."""
    found = run(example, "flat", e, length)
    cycles = 1024 * unit(length)
    assert found.cycles["1d"] == pytest.approx(cycles)
    contractions = (e + 256) * unit(length)
    if found.mapping["stationary"] == "weight":
        contractions = 512 * unit(length)
    assert found.cycles["2d"] == pytest.approx(contractions)
    longest = max(cycles / CLOCK, contractions / CLOCK, found.traffic / BANDWIDTH)
    assert found.latency == pytest.approx(longest)


@pytest.mark.parametrize(("e", "length"), POINTS)
def test_unfused(example, e, length):
    found = run(example, "unfused", e, length)
    scores, operand = 12 * length * length, 12 * e * length
    moved = 2 * scores + 2 * operand + 2 * operand * found.mapping["p2"]
    contraction = max(moved / BANDWIDTH, e * unit(length) / CLOCK)
    softmax = max(4 * scores / BANDWIDTH, 1024 * unit(length) / CLOCK)
    assert found.latency == pytest.approx(2 * contraction + softmax)
    assert found.traffic == pytest.approx(2 * moved + 4 * scores)


@pytest.mark.parametrize(("e", "length"), [(64, 16 * K), (128, 4 * K)])
def test_energy_actions(example, e, length):
    """Operations and rows of FuseMax (section 5.7 of the model): tile by tile, by hand."""
    found = run(example, "fusemax", e, length).actions
    tiles, scores, operand = unit(length), 12 * length**2, 12 * e * length
    per_tile = 256 * tiles  # one value a query and step
    counts: dict[str, float] = {}
    for (_, operation, _), count in found.operations.items():
        counts[operation] = counts.get(operation, 0) + count
    assert counts["mac"] == pytest.approx(2 * e * scores)
    assert counts["exp"] == pytest.approx(scores + per_tile)
    assert counts["mul"] == pytest.approx((1 + e) * per_tile)
    assert counts["sub"] + counts["add"] == pytest.approx(2 * scores + (2 + e) * per_tile)
    assert counts["max"] == pytest.approx(scores + per_tile)
    assert counts["div"] == pytest.approx(operand)
    read = (4 * e + 2) * tiles + (operand + 12 * length) / 256
    assert found.rows_read == pytest.approx(read)
    assert found.rows_written == pytest.approx(3 * operand / 256 + (e + 2) * tiles)


def test_both_accounts(example):
    found = run(example, "fusemax", 64, 16 * K)
    flat = run(example, "flat", 64, 16 * K)
    published = found.published.total / flat.published.total
    charged = found.charged.total / flat.charged.total
    assert published == pytest.approx(0.775, abs=0.001)
    assert charged > published + 0.05
    cascade = run(example, "fusemax_cascade", 64, 16 * K)
    assert "exp" not in cascade.published.operations
    assert cascade.charged.operations["exp"] > 0


@pytest.mark.parametrize("length", [K, 16 * K, 64 * K])
def test_causal_runs_the_tiles_up_to_the_diagonal(example, length):
    tiles = length // 256
    found = run(example, "fusemax", 64, length, "causal")
    assert found.mapping["live_tiles"] == pytest.approx((tiles + 1) / (2 * tiles))
    assert found.mapping["useful_points"] == pytest.approx((length + 1) / (2 * length), rel=1e-3)
    plain = run(example, "fusemax", 64, length)
    assert 1.4 < plain.latency / found.latency < 2


def test_sliding_window(example):
    """1024 keys and their own tile, and the tile of the sinks."""
    found = run(example, "fusemax", 64, 16 * K, "sliding_window", window=K)
    tiles = 64
    live = sum(min(q + 1, 5) + (q >= 5) for q in range(tiles))
    assert found.mapping["live_tiles"] == pytest.approx(live / tiles**2)
    more = run(example, "fusemax", 64, 16 * K, "sliding_window")
    assert more.mapping["live_tiles"] > found.mapping["live_tiles"]  # without a width: causal


@pytest.mark.parametrize(("heads", "groups"), [(12, 12), (12, 3), (12, 1), (64, 1)])
def test_grouped_decoding_shares_the_keys(example, heads, groups):
    """One query a head: any group of up to 256 heads runs as one tile, the keys are read once."""
    settings = {"B": 4, "H": heads, "G": groups, "M": 4 * K, "P": 1, "E": 64, "F": 64}
    found = model(example("grouped_query"), load_spatial("fusemax"), settings)
    assert found.mapping["tiles"] == 4 * groups * 16
    keys, queries = 2 * 4 * groups * 4 * K * 64, 2 * 4 * heads * 64
    assert found.traffic == 2 * (keys + queries)


def test_two_passes_spill_when_the_scores_do_not_fit(example):
    short = model(example("attention_2pass"), load_spatial("fusemax"), _self(16 * K), "written")
    long = model(example("attention_2pass"), load_spatial("fusemax"), _self(64 * K), "written")
    assert (short.mapping["spilled"], long.mapping["spilled"]) == ([], ["SLN"])
    assert short.bound != "memory"
    assert long.bound == "memory"
    assert long.traffic > 2 * 2 * 12 * (64 * K) ** 2  # written once and read once


def _self(length):
    return {"B": 4, "H": 3, "M": length, "P": length, "E": 64, "F": 64}


@pytest.mark.parametrize("length", [1, 7, 255, 257, 1000])
@pytest.mark.parametrize("target", ["fusemax", "flat", "unfused", "fusemax_cascade"])
def test_ragged_lengths_waste_the_rest_of_a_tile(example, target, length):
    found = run(example, target, 64, length)
    assert 0 < found.utilisation("2d") <= 1
    assert 0 < found.utilisation("1d") <= 1
    if target == "fusemax":
        tiles = ceil(length / 256)
        assert found.mapping["tiles"] == 12 * tiles**2


def test_an_empty_sequence_is_an_error(example):
    with pytest.raises(InputError, match="nothing streams"):
        run(example, "fusemax", 64, 0)


def test_a_missing_extent_is_an_error(example):
    with pytest.raises(InputError, match="extent `E`"):
        model(example("attention"), load_spatial("fusemax"), {"B": 1, "H": 1, "M": 256, "P": 256})


def test_flat_needs_two_contractions(example):
    retention = {"B": 1, "H": 1, "I": 1024, "E": 64, "F": 64}
    with pytest.raises(CascadeError, match="does not have the two contractions"):
        model(example("retention"), load_spatial("flat"), retention)


def test_every_shipped_array_loads():
    assert {load_spatial(name).dataflow for name in spatial_targets()} == {
        "stream",
        "blocks",
        "separate",
    }


def _data():
    return {
        "clock": 1e9,
        "bandwidth": 1e9,
        "on_chip": 2**20,
        "arrays": {"2d": {"rows": 8, "columns": 8, "operations": {"mac": 1}}},
        "mapping": {},
        "energy": {
            "operations": {"mac": 1.0},
            "memory_byte": 1,
            "row_words": 8,
            "row_read": 1,
            "row_write": 1,
        },
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arrays": None}, "at least one array"),
        ({"clock": 0}, "`clock` must be a positive number"),
        ({"on_chip": 1.5}, "`on_chip` must be a positive whole number"),
        ({"arrays": {"2d": {"rows": 0, "columns": 1, "operations": {"mac": 1}}}}, "`rows`"),
        ({"arrays": {"2d": {"rows": 1, "columns": 1, "operations": {}}}}, "one operation"),
        ({"arrays": {"2d": {"rows": 1, "columns": 1, "operations": {"mac": 0}}}}, "mac"),
        ({"mapping": {"dataflow": "magic"}}, "dataflow"),
        ({"mapping": {"dataflow": "blocks"}}, r"needs a `\[search\]` table"),
        ({"mapping": {"fuse": ["exp_exp"]}}, "fuse"),
        ({"mapping": {"links": 3}}, "links"),
        ({"energy": None}, r"`\[energy\]` is missing"),
        ({"energy": {"operations": {"mac": -1}}}, "picojoules"),
    ],
)
def test_wrong_targets(change, message):
    read_spatial("mine.toml", _data())
    with pytest.raises(InputError, match=message):
        read_spatial("mine.toml", {**_data(), **change})


def test_an_operation_without_energy(example):
    data = _data()
    data["arrays"]["2d"]["operations"] = dict.fromkeys(
        ("mac", "add", "mul", "max", "exp", "div"), 1
    )
    with pytest.raises(InputError, match="has no energy for the operation"):
        model(example("attention"), read_spatial("mine.toml", data), _self(64))
