"""The epoch: checked by a simulation that knows nothing of how it was found."""

from dataclasses import replace

import pytest

from cascade.diagnostics import CascadeError, InputError
from cascade.spatial.epoch import LONGEST, edge_holds, live_tiles, make_epochs
from cascade.spatial.epoch_text import line
from cascade.spatial.model import lower, plan
from cascade.spatial.simulate import simulate
from cascade.spatial.target import load_spatial

SQUARE = {"B": 2, "H": 4, "M": 4096, "P": 4096, "E": 64, "F": 64}
CASES = {
    "attention_1pass": ("fusemax", SQUARE, None, [138]),
    "attention_3pass": ("fusemax", SQUARE, None, [138]),
    "causal": ("fusemax", SQUARE, None, [138]),
    "sliding_window": ("fusemax", SQUARE, None, [138]),
    "sigmoid_attention": ("fusemax", SQUARE, None, [256]),
    "retention": ("fusemax_free", {"B": 2, "H": 4, "I": 4096, "E": 64, "F": 64}, None, [258]),
    "grouped_query": ("fusemax", {**SQUARE, "P": 1, "G": 1}, None, [138]),
    "attention_2pass": ("fusemax", SQUARE, "written", [73, 7, 65]),
}


def epochs(example, name, transit=64, between=1, **more):
    target, settings, form, _ = CASES[name]
    array = replace(load_spatial(target), transit=transit)
    _, found, shape, binding = lower(example(name), array, {**settings, **more}, form)
    return make_epochs(found, binding, shape, array, between)


@pytest.mark.parametrize("between", [1, 2, 16])
@pytest.mark.parametrize("name", CASES)
def test_simulation(example, name, between):
    """Down to one query tile on chip the interval is the resource bound; all dependences hold."""
    found = epochs(example, name, between=between)
    assert [e.interval for e in found] == CASES[name][3]
    for epoch in found:
        assert epoch.interval == epoch.resource_bound >= epoch.recurrence_bound
        tiles = 2 * epoch.stages + 3 + between
        run = simulate(epoch, tiles)
        assert run.mistakes == ()
        assert run.cycles == tiles * epoch.interval + epoch.fill_and_drain
        for array in epoch.arrays:
            load = sum(len(p.slots) for p in epoch.items if p.bound.array == array)
            assert run.busy[array] == tiles * load


@pytest.mark.parametrize("width", [32, 64, 96, 128])
def test_other_widths(example, width):
    (epoch,) = epochs(example, "attention_3pass", E=width, F=width)
    assert epoch.interval == 2 * width + 10
    assert simulate(epoch, 8).mistakes == ()


@pytest.mark.parametrize("transit", [0, 1, 8, 16, 64, 137, 256])
def test_the_way_between_the_arrays_costs_stages_not_time(example, transit):
    (epoch,) = epochs(example, "attention_1pass", transit)
    assert epoch.interval == 138
    assert simulate(epoch, 12).mistakes == ()
    # A tile crosses three times: 1D waits for the maximum, 2D for the running one, 1D for the sums.
    assert epoch.makespan >= 138 + 2 * transit


@pytest.mark.parametrize("name", CASES)
def test_a_long_way(example, name):
    """256 cycles between the arrays: still the resource bound, with two query tiles on chip."""
    for epoch in epochs(example, name, 256, between=2):
        assert epoch.interval == epoch.resource_bound
        assert simulate(epoch, epoch.stages + 6).mistakes == ()


def test_stages_and_registers_grow_with_the_way(example):
    found = [epochs(example, "attention_1pass", t)[0] for t in (0, 1, 64, 256)]
    assert [e.stages for e in found] == [2, 3, 4, 8]
    assert [live_tiles(e, "BQK") for e in found] == [1, 2, 2, 5]


def test_no_recurrence_crosses_the_arrays(example):
    """Why FuseMax pipelines: its circuits take a cycle or two, far less than a tile."""
    assert epochs(example, "attention_1pass")[0].recurrence_bound == 2
    assert epochs(example, "attention_1pass", 256)[0].recurrence_bound == 2


def test_the_simulation_finds_mistakes(example):
    """A schedule that is too early, or that uses an array twice, does not pass."""
    (epoch,) = epochs(example, "attention_1pass")
    crowded = replace(epoch, interval=epoch.interval - 1)
    assert any("and another statement" in m for m in simulate(crowded, 4).mistakes)
    last = max(range(len(epoch.items)), key=lambda n: epoch.items[n].start)
    moved = replace(epoch.items[last], slots=tuple(s - 300 for s in epoch.items[last].slots))
    items = (*epoch.items[:last], moved, *epoch.items[last + 1 :])
    assert any("too early" in m for m in simulate(replace(epoch, items=items), 4).mistakes)


def test_every_edge_of_the_cascade_is_in_the_graph(example):
    (epoch,) = epochs(example, "attention_1pass")
    names = [p.bound.statement.name for p in epoch.items]
    edges = {(names[e.producer], names[e.consumer], e.distance) for e in epoch.edges}
    assert {("BQK", "LM", 0), ("RM", "SLN", 0), ("RM", "PRM", 0), ("RM", "PRM", 1)} <= edges
    assert {("RD", "RD:1", 1), ("RNV", "RNV:1", 1), ("SLNV", "RNV", 0)} <= edges
    for e in epoch.edges:
        producer, consumer = epoch.items[e.producer], epoch.items[e.consumer]
        assert edge_holds(e, producer.slots, consumer.slots, epoch.interval)


def test_the_paper_s_interleaving(example):
    """Figure 4: SLNV and BQK of different tiles take turns; SPNV and RNV feed each other.

    RNV follows SLNV by the way between the arrays; the figure draws it an epoch later, as tile `a`
    beside SLNV of `b`.
    """
    (epoch,) = epochs(example, "attention_1pass")
    assert line(epoch, "2d") == "(SLNV[a] | BQK[c]) -> LM[c] -> SLN[b] -> SLD[b]"
    assert line(epoch, "1d").startswith("(RNV:1[a] | RNV[a]) -> ")


def test_a_tile_that_is_too_long(example):
    with pytest.raises(CascadeError, match="too many to interleave"):
        plan(example("retention"), load_spatial("fusemax"), CASES["retention"][1])
    assert LONGEST < 65536


@pytest.mark.parametrize("target", ["flat", "unfused", "fusemax_architecture"])
def test_arrays_without_epochs(example, target):
    with pytest.raises(InputError, match="it has no epochs"):
        plan(example("attention"), load_spatial(target), SQUARE)


@pytest.mark.parametrize("name", CASES)
def test_text_and_data(example, name):
    target, settings, form, _ = CASES[name]
    found = plan(example(name), load_spatial(target), settings, form)
    text, data = str(found), found.to_dict()
    for epoch in data["epochs"]:
        assert f"every {epoch['interval']} cycles" in text
        assert {s["array"] for s in epoch["statements"]} <= {"2d", "1d"}
        assert min(s["tile"] for s in epoch["statements"]) == "a"
