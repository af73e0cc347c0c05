"""Counts made without running are those of a run, integer by integer, and those of closed forms."""

from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from cascade.api import parse
from cascade.backends.tiled.run import run
from cascade.diagnostics import InputError
from cascade.ir.expr import Const, Coordinate, Map, Symbol
from cascade.ir.extents import evaluate
from cascade.schedule.choose import schedule
from cascade.schedule.counts import Counts, Traffic, Visits, item_size
from cascade.schedule.facts import inlined, loop_bounds, positive
from cascade.schedule.predict import predict
from cascade.schedule.program import (
    Axis,
    Buffer,
    Carry,
    Fold,
    For,
    GridAxis,
    Kernel,
    Let,
    Load,
    Mask,
    Pick,
    Place,
    Program,
    Seq,
    Store,
    lane,
    tile,
)
from cascade.schedule.sizes import Sizes
from tests.schedule import programs as P
from tests.schedule.predicates import PREDICATES, predicate

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROWS = ("window", "first", "length", "gate")


def numbers(counts):
    """Everything that is not 0, by kernel, tensor or loop, and quantity."""
    return {
        (kernel, part, name, quantity): number
        for kernel, found in counts.to_dict()["kernels"].items()
        for part in ("tensors", "loops")
        for name, quantities in found[part].items()
        for quantity, number in quantities.items()
        if number
    }


def compare(program, scalars, arrays):
    """The prediction, after it was found equal to what a run counts."""
    small = {n: a for n, a in arrays.items() if a.dtype.kind in "iub"}
    dtypes = {n: "f16" if a.dtype == np.float16 else "f32" for n, a in arrays.items()
              if a.dtype.kind == "f"}  # fmt: skip
    predicted = predict(program, scalars, small, dtypes)
    assert numbers(predicted) == numbers(run(program, arrays, scalars, threads=1).counters)
    return predicted


def attention(text, rows=8, columns=16, part=4):
    """Attention where a predicate of `tests.schedule.predicates` holds, and a tensor for each of
    its tiles.
    """
    loads = tuple(Load(n, n, (P.at("p"),)) for n in ROWS)
    kinds = {"gate": "bool"}
    extra = tuple(P.buffer(n, "p", dtype=kinds.get(n, "int")) for n in ROWS)
    conditions = (P.f("<", P.at("m"), P.s("M")), *predicate(text))
    return P.attention(rows, columns, part, conditions, loads, extra=extra)


def sizes(rng):
    scalars = dict(B=1, H=2, P=int(rng.integers(1, 40)), M=int(rng.choice([0, 1, 30, 77])))
    scalars |= {n: int(rng.integers(1, 14)) for n in ("W", "L", "R", "D")}
    return {**scalars, "E": 4, "F": 4, "scale": 0.5, "ratio": 0.75}


def tensors(rng, s):
    def real(*ranks):
        return rng.standard_normal([s[r] for r in ranks]).astype(np.float32)

    return {
        "Q": real("B", "H", "P", "E"),
        "K": real("B", "H", "M", "E"),
        "V": real("B", "H", "M", "F"),
        "window": rng.integers(-2, 30, s["P"]),
        "first": rng.integers(-40, 120, s["P"]),
        "length": rng.integers(0, s["M"] + 3, s["P"]),
        "gate": rng.random(s["P"]) < 0.7,
    }


@pytest.mark.parametrize("name", sorted(set(PREDICATES) - {"data of the stream"}))
def test_counts_are_those_of_a_run(name):
    program = attention(PREDICATES[name])
    for seed in range(3):
        rng = np.random.default_rng(seed)
        scalars = sizes(rng)
        compare(program, scalars, tensors(rng, scalars))


SPECS = {
    "entropy": {"P": 37, "M": 50},
    "grouped_query": {"P": 37, "M": 50, "H": 4, "G": 2},
    "landmark": {"P": 45, "M": 45, "L": 8},
    "retention": {"I": 70, "I0": 16},
    "pointer_network": {"P": 5, "M": 50, "D": 6, "R": 3},
    "delta_rule": {"I": 37, "I0": 16},
    "sliding_window": {"P": 37, "M": 50},
    "topk_attention": {"P": 17, "M": 50, "J": 3},
}


@pytest.mark.parametrize("name", SPECS)
def test_counts_of_a_lowered_spec_are_those_of_a_run(name):
    spec = parse((EXAMPLES / f"{name}.cascade").read_text(), name)
    program = schedule(spec, Sizes({"e": 4, "f": 4}, rows=16, stream=16, part=4)).program
    scalars: dict[str, float] = {"B": 2, "H": 2, "E": 4, "F": 4, **SPECS[name]}
    for n, e in program.values:
        scalars.setdefault(n, evaluate(e, scalars.__getitem__))
    rng = np.random.default_rng(1)
    arrays = {}
    for b in program.buffers:
        if b.kind == "in":
            shape = [int(evaluate(e, scalars.__getitem__)) for e in b.shape]
            real = rng.standard_normal(shape).astype(np.float32)
            arrays[b.name] = rng.integers(0, 40, shape) if b.dtype == "int" else real
    counts = compare(program, scalars, arrays)
    assert counts.total.tiles_loaded > 0


# -- closed forms
def dense(s, rows, columns, item=4):
    tiles = s["B"] * s["H"] * ceil(s["P"] / rows) * ceil(s["M"] / columns)
    size = s["B"] * s["H"] * ceil(s["P"] / rows) * s["M"] * s["E"] * item
    return tiles, size


def test_dense_attention_has_the_closed_form():
    s = dict(B=2, H=3, P=70, M=100, E=8, F=4, scale=1.0)
    counts = predict(P.attention(32, 32, 32), s)
    tiles, size = dense(s, 32, 32)
    assert counts.tensors["K"] == Traffic(tiles, size)
    assert counts.tensors["Q"] == Traffic(2 * 3 * 3, 2 * 3 * 70 * 8 * 4)
    assert counts.tensors["O"] == Traffic(0, 0, 2 * 3 * 3, 2 * 3 * 70 * 4 * 4)
    assert counts.kernel["O"].loops == {"m_at": Visits(2 * 3 * 3 * 3, 2 * 3 * 3)}
    assert counts.kernel["O"].instances == 2 * 3 * 3


def test_bytes_of_a_dense_stream_do_not_depend_on_its_tiles():
    s = dict(B=1, H=1, P=70, M=100, E=8, F=4, scale=1.0)
    found = [predict(P.attention(32, n, n), s).tensors["K"] for n in (16, 32, 128)]
    assert len({t.bytes_loaded for t in found}) == 1
    assert [t.tiles_loaded for t in found] == [3 * 7, 3 * 4, 3 * 1]


def test_causal_attention_by_rows_of_tiles():
    s = dict(B=1, H=2, P=200, M=200, E=8, F=8, scale=1.0)
    counts = predict(P.causal(64, 64, 16), s, dtypes={"K": "bf16"})
    full = [min(p, 200) // 64 for p in range(0, 200, 64)]  # tiles before the diagonal
    ends = [min(200, p + 64) for p in range(0, 200, 64)]
    partial = [ceil((end - 64 * n) / 16) for n, end in zip(full, ends, strict=True)]
    assert counts.kernel["O"].loops["m_at"] == Visits(2 * sum(full), 2 * sum(partial))
    assert counts.tensors["K"].bytes_loaded == 2 * sum(ends) * 8 * 2


def test_the_cost_of_a_prediction_grows_with_row_tiles_only():
    s = dict(B=64, H=64, P=4096, M=10**7, E=64, F=64, scale=1.0)
    counts = predict(P.causal(128, 128, 32), s)  # 10**12 tiles one by one would not end
    assert counts.kernel["O"].instances == 64 * 64 * 32


def test_no_instance_and_no_coordinate_count_nothing():
    s = dict(B=0, H=2, P=5, M=5, E=4, F=4, scale=1.0)
    assert numbers(predict(P.attention(8, 8), s)) == {}
    counts = predict(P.attention(8, 8), s | {"B": 1, "M": 0})
    assert counts.tensors["K"] == Traffic()
    assert counts.kernel["O"].loops["m_at"] == Visits()


# -- loops in loops, and bounds that are computed
def in_order(body, *carries, count="S"):
    return Seq("s_at", Symbol(count), (Place("s", Symbol("s_at"), Symbol(count)),), carries, body)


def summing(predicate, before=(), name="total", scalar="m_at", inner=()):
    """A loop that sums X over m where the predicate holds, into `name`."""
    place = Place("m", Map("+", (Symbol(scalar), lane("m"))), Symbol("M"))
    body = (
        Load("x", "X", (Coordinate("s"), Coordinate("m"))),
        Fold("here", "sum", tile("x"), ("m",)),
        *inner,
        Let(f"{name}_next", Map("+", (tile(name), tile("here")))),
    )
    carry = Carry(name, Const(0.0), (), f"{name}_next")
    return (*before, For(scalar, place, "m", 8, 4, predicate, (carry,), body))


def program(*body, rows=8, extra=()):
    """One kernel over tiles of p, with Z[s,p] to write."""
    axes = (Axis("p", Const(rows)), Axis("m", Const(8)), Axis("n", Symbol("N")))
    places = (P.tiled("p", rows), P.whole("n"))
    kernel = Kernel("Z", (GridAxis("p_tile", P.blocks("P", rows)),), axes, places, body)
    buffers = (P.buffer("X", "sm"), *extra, P.buffer("Z", "sp", "out", "real"))
    return Program("loops", buffers, (kernel,), ())


STORE = Store("Z", (Coordinate("s"), Coordinate("p")), tile("total"))
STEPS = {"P": 20, "M": 50, "S": 5, "N": 3}


def arrays_for(s, rng, **more):
    return {"X": rng.standard_normal((s["S"], s["M"])).astype(np.float32), **more}


def test_a_loop_whose_bounds_change_from_step_to_step():
    upto = (Map("<", (Coordinate("m"), Map("*", (Coordinate("s"), Const(9))))),)
    loops = program(in_order((*summing(upto), STORE)))
    counts = compare(loops, STEPS, arrays_for(STEPS, np.random.default_rng(0)))
    visited = [range(0, min(50, 9 * s), 4) for s in range(5)]
    full = [9 * s // 8 for s in range(5)]
    partial = [len(v) - 2 * n for v, n in zip(visited, full, strict=True)]
    assert counts.kernel["Z"].loops["m_at"] == Visits(3 * sum(full), 3 * sum(partial))
    assert counts.kernel["Z"].loops["s_at"] == Visits(0, 3 * 5)


def test_a_loop_within_a_loop_over_tiles():
    n_loop = For(
        "n_at", Place("n2", Map("+", (Symbol("n_at"), lane("n"))), Symbol("N")), "n", 2, 2,
        (Map("<=", (Coordinate("n2"), Map("//", (Coordinate("m"), Const(16))))),),
        (), (Load("y", "Y", (Coordinate("n2"),)),),
    )  # fmt: skip
    body = in_order((*summing((), inner=(n_loop,)), STORE))
    flat = program(body, extra=(P.buffer("Y", "n"),))
    (kernel,) = flat.kernels
    alone = replace(kernel, places=kernel.places[:1])  # n is where the inner loop says
    made = replace(flat, kernels=(alone,))
    s = STEPS | {"S": 1}
    rng = np.random.default_rng(0)
    counts = compare(made, s, arrays_for(s, rng, Y=np.ones(3, np.float32)))
    full = partial = 0
    for start, size in [*((n, 8) for n in range(0, 48, 8)), (48, 2)]:
        last = min(3, (start + size - 1) // 16 + 1)  # coordinates of n for the last lane of m
        first = min(3, start // 16 + 1)
        full += 3 * (first // 2)
        partial += 3 * (ceil(last / 2) - first // 2)
    assert counts.kernel["Z"].loops["n_at"] == Visits(full, partial)


def test_bounds_computed_from_small_tensors():
    widest = (
        Load("window", "window", (Map("*", (Coordinate("p"), Const(3))),)),  # 0 from row 7 on
        Load("table", "table", (Coordinate("n"),)),
        Let("twice", Map("+", (tile("table"), tile("table")))),
        Mask("kept", tile("window"), (Map("!=", (Coordinate("p"), Const(13))),), Const(-1)),
        Fold("widest", "max", tile("kept"), ("p",)),
        Pick("picked", tile("twice"), "n", Map("%", (tile("widest"), Const(3)))),
        Let("end", Map("+", (tile("widest"), tile("picked")))),
    )
    upto = (Map("<", (Coordinate("m"), Map("//", (tile("end"), Const(4))))),)
    extra = (P.buffer("window", "p", dtype="int"), P.buffer("table", "n", dtype="i8"))
    loops = program(in_order((*summing(upto, widest), STORE)), extra=extra)
    rng = np.random.default_rng(3)
    window, table = rng.integers(0, 40, 20), np.array([70, 80, 90], np.int8)
    window[19] = 39
    arrays = arrays_for(STEPS, rng, window=window, table=table)
    counts = compare(loops, STEPS, arrays)
    window = np.append(window[::3], [0] * 13)
    window[13] = -1
    loaded = 0
    for largest in (window[:8].max(), window[8:16].max(), window[16:].max()):
        end = min(50, (int(largest) + 2 * int(table[largest % 3])) // 4)
        loaded += min(50, ceil(end / 4) * 4)
    assert counts.tensors["X"].bytes_loaded == 4 * 5 * loaded


def test_bounds_that_are_loaded_in_an_outer_loop():
    upto = (Map("<", (Coordinate("m"), tile("limit"))),)
    load = (Load("limit", "limits", (Coordinate("s"),)),)
    extra = (P.buffer("limits", "s", dtype="int"),)
    limits = np.array([3, 50, 0, 17, 8])
    arrays = arrays_for(STEPS, np.random.default_rng(0), limits=limits)
    counts = compare(program(in_order((*summing(upto, load), STORE)), extra=extra), STEPS, arrays)
    assert counts.kernel["Z"].loops["m_at"].full == 3 * sum(limits // 8)

    n_loop = For(
        "n_at", Place("n2", Map("+", (Symbol("n_at"), lane("n"))), Symbol("N")), "n", 1, 1,
        (Map("<", (Coordinate("n2"), tile("limit"))),), (), (),
    )  # fmt: skip
    inner = (Load("limit", "limits", (Coordinate("m"),)), n_loop)
    made = program(in_order((*summing((), inner=inner), STORE)), extra=(replace(
        extra[0], ranks=("m",), shape=(Symbol("M"),)),))  # fmt: skip
    (kernel,) = made.kernels
    made = replace(made, kernels=(replace(kernel, places=kernel.places[:1]),))
    limits = np.random.default_rng(1).integers(0, 5, 50)
    arrays = arrays_for(STEPS, np.random.default_rng(0), limits=limits)
    counts = compare(made, STEPS, arrays)
    pieces = [limits[n : n + 8] for n in range(0, 48, 8)] + [limits[48:]]
    visited = counts.kernel["Z"].loops["n_at"]
    assert visited.full == 15 * sum(min(3, piece.min()) for piece in pieces)
    assert visited.full + visited.partial == 15 * sum(min(3, piece.max()) for piece in pieces)


def test_what_is_known_before_a_loop():
    (loop,) = summing((
        Map("<", (Coordinate("m"), tile("before"))),
        Map("==", (Map("%", (Symbol("m_at"), Const(16))), Const(0))),
        Map("<", (lane("m"), Const(3))),
        Map("<", (Coordinate("p"), tile("within"))),
        Map("<", (Coordinate("m"), tile("fraction"))),
        Map("<", (Coordinate("p"), Symbol("ratio"))),
    ))  # fmt: skip
    kinds = {"fraction": "real", "before": "int", "within": "int"}
    (found,) = loop_bounds(loop, kinds, {"ratio": 0.5}, lambda name: name != "within")
    assert found.high == (Symbol("M"), tile("before"))
    assert found.row == loop.predicate[-1:]
    assert found.residual == loop.predicate[1:5]
    scalars = {"W": 1, "R": 0, "L": -3, "x": 1.5, "flag": True}
    assert positive(scalars) == {"W"}


def test_masks_with_names_are_seen_through():
    causal = Map("<=", (Coordinate("m"), Coordinate("p")))
    near = Map("and", (tile("causal"), Map("<", (Coordinate("m"), tile("loaded")))))
    nodes = (Let("causal", causal), Load("loaded", "X", ()), Let("near", near))
    expected = Map("and", (causal, Map("<", (Coordinate("m"), tile("loaded")))))
    assert inlined(tile("near"), nodes) == expected
    assert inlined(tile("loaded"), nodes) == tile("loaded")


def test_a_bound_without_numbers_is_an_error_that_names_it():
    upto = (Map("<", (Coordinate("m"), tile("window"))),)
    load = (Load("window", "window", (Coordinate("p"),)),)
    extra = (P.buffer("window", "p", dtype="int"),)
    loops = program(in_order((*summing(upto, load), STORE)), extra=extra)
    with pytest.raises(InputError) as error:
        predict(loops, STEPS)
    assert "the loop over `m` runs depends on `window`, whose values" in str(error.value)
    after = (Map("<", (Coordinate("m"), Map("floor", (tile("total"),)))),)
    second = summing(after, name="again", scalar="m_again")
    loops = program(in_order((*summing(()), *second, STORE)))
    with pytest.raises(InputError, match="`total`, which only a run computes"):
        predict(loops, STEPS)


# -- the counts themselves
def test_sizes_of_elements():
    def size(dtype, like=None, **dtypes):
        return item_size(Buffer("T", (), (), dtype, "temp", like), dtypes)

    assert [size(t) for t in ("f64", "i64", "f32", "bf16", "i16", "f8e4m3", "u8", "bool")] == [
        8, 8, 4, 2, 2, 1, 1, 1,
    ]  # fmt: skip
    assert size("any", T="bf16") == size("real", T="f16") == 2
    assert size("real", like="K", K="bf16") == 2
    assert size("real") == 4 and size("int") == 8


def test_counts_as_data():
    s = dict(B=1, H=1, P=8, M=8, E=4, F=4, scale=1.0)
    counts = predict(P.attention(8, 8), s)
    assert isinstance(counts, Counts)
    data = counts.to_dict()
    assert data["kernels"]["O"]["loops"] == {"m_at": {"full_visits": 1, "partial_visits": 0}}
    assert data["tensors"]["K"]["bytes_loaded"] == 8 * 4 * 4
    assert data["total"]["bytes_loaded"] == sum(t["bytes_loaded"] for t in data["tensors"].values())
