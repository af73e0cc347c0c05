"""The epoch: checked by a simulation that knows nothing of how it was found."""

from dataclasses import replace
from math import ceil

import pytest

from cascade.diagnostics import CascadeError, InputError
from cascade.spatial.binding import Bound
from cascade.spatial.dependences import edge_holds, make_edges
from cascade.spatial.epoch import LONGEST, live_tiles, make_epoch, make_epochs
from cascade.spatial.epoch_text import line
from cascade.spatial.model import lower, plan
from cascade.spatial.simulate import simulate
from cascade.spatial.statements import FINAL, Operand, Statement
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


def steps(bound, shape, array):
    """Steps in time, by rank: what does not lie on the rows or columns."""
    sizes = dict(zip(bound.laid, (array.rows, array.columns), strict=True))
    inside = shape.inside(bound.statement).items()
    return {r: n for r, n in ((r, ceil(n / sizes.get(r, 1))) for r, n in inside) if n > 1}


def waits(epoch, shape, target, between):
    """Reads that come too early, from the statements alone and not from the edges of the epoch."""
    made = {p.bound.statement.write.tensor: p for p in epoch.items}
    for p in epoch.items:
        for o in p.bound.statement.reads:
            q = made.get(o.tensor)
            if q is None or o.offset == FINAL:
                continue
            apart = (q.bound.statement.write.offset - o.offset) * between * epoch.interval
            way = target.transit if q.bound.array != p.bound.array else 0
            here, there = (steps(x.bound, shape, target.array(x.bound.array)) for x in (p, q))
            each = here == there and not set(there) & set(q.bound.statement.reduced)
            if each and len(p.slots) == len(q.slots):
                early = any(b + apart <= a + way for a, b in zip(q.slots, p.slots, strict=True))
            else:
                early = p.slots[0] + apart <= q.slots[-1] + way
            if early:
                yield f"{p.bound.statement.name} reads {q.bound.statement.name} too early"


@pytest.mark.parametrize("transit", [0, 64, 256])
@pytest.mark.parametrize("between", [1, 3])
@pytest.mark.parametrize("name", [*CASES, "entropy", "differential_attention", "alibi"])
def test_dependences_by_the_statements(example, name, between, transit):
    """Derived forms too: every operand of every statement is there in time."""
    target, settings, *_ = CASES.get(name, ("fusemax", SQUARE))
    array = replace(load_spatial(target), transit=transit)
    _, found, shape, binding = lower(example(name), array, settings)
    for epoch in make_epochs(found, binding, shape, array, between):
        assert list(waits(epoch, shape, array, between)) == []
        assert epoch.interval == max(epoch.resource_bound, epoch.recurrence_bound)
        assert simulate(epoch, epoch.stages + 3).mistakes == ()


def test_the_derived_2_pass_cascade(example):
    """Two maxima run along, each with its correction: the chains of the sums are not stretched."""
    found = plan(example("attention_2pass"), load_spatial("fusemax"), SQUARE)
    assert [(e.interval, e.resource_bound) for e in found.epochs] == [(149, 149)]


def test_a_circuit_between_the_arrays_sets_the_interval(example):
    """Sums on one array and their corrections on the other: two ways, 128 cycles and 2 of work."""
    array = replace(load_spatial("fusemax_free"), transit=64)
    _, found, shape, binding = lower(example("alibi"), array, {**SQUARE, "P": 1})
    (epoch,) = make_epochs(found, binding, shape, array, 1)
    assert (epoch.interval, epoch.resource_bound, epoch.recurrence_bound) == (130, 13, 130)
    (other,) = make_epochs(found, binding, shape, array, 3)
    assert other.interval == ceil(130 / 3)


def test_what_does_not_fit_the_bounds_takes_longer(example):
    """Where the search misses the bounds the schedule is slower, and correct."""
    array = load_spatial("fusemax")
    settings = {"B": 1, "H": 2, "I": 4096, "J": 16, "X": 64, "Y": 64, "E": 64, "F": 64}
    _, _, shape, binding = lower(example("neighbourhood_2d"), array, settings)
    items = tuple(b for b in binding.items if b.statement.phase == 1 and not b.epilogue)
    epoch = make_epoch(items, shape, array, 1)
    assert epoch.interval >= epoch.recurrence_bound > epoch.resource_bound
    assert list(waits(epoch, shape, array, 1)) == []


def test_an_empty_rank_takes_no_cycles(example):
    (epoch,) = epochs(example, "attention_1pass", F=0)
    assert epoch.interval == 64 + 1 + 7 + 1
    assert {p.bound.statement.name for p in epoch.items} & {"SLNV", "RNV"} == set()


def test_a_stream_goes_over_the_same_ranks(example):
    """Equal counts are not enough: a value that is summed in time is there at the end only."""
    array = load_spatial("fusemax")
    _, _, shape, _ = lower(example("attention_1pass"), array, SQUARE)
    x, y = Operand("X", ("f", "p")), Operand("Y", ("f", "p"))
    maker = Statement("Y", ("mac",), ("f", "e", "p"), (x,), y, reduced=("e",))
    reader = Statement("Z", ("mul",), ("f", "e", "p"), (y,), Operand("Z", ("f", "e", "p")))
    alike = replace(maker, ranks=("f", "p"), reduced=())
    for first, second, stream in (
        (maker, reader, False),
        (alike, replace(reader, ranks=("f", "p")), True),
        (alike, reader, False),
    ):
        items = (
            Bound(first, "2d", 64, 1, ("", "query")),
            Bound(second, "1d", 64, 1, ("", "query")),
        )
        (edge,) = make_edges(items, ((0, 1),), shape, array, 1)
        assert edge.stream is stream


def test_too_few_registers_are_said(example):
    """The epoch of retention keeps 11 tiles of values when the arrays are 256 cycles apart."""
    target, settings, *_ = CASES["retention"]
    array = load_spatial(target)
    assert "too few" not in str(plan(example("retention"), array, settings))
    far = plan(example("retention"), replace(array, transit=256), settings)
    needs = sum(far.to_dict()["epochs"][0]["registers"].values())
    assert needs > far.to_dict()["registers"] == 10
    assert f"it has 10, too few for {needs}" in str(far)


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
