"""Programs written by hand, as Triton kernels in the interpreter, against formulas in float64."""

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cascade.backends.spelling import MAPS
from cascade.backends.triton.emit import emit
from cascade.ir.expr import Const
from cascade.ir.ops import MAPS as OPERATORS
from cascade.schedule.program import (
    Axis,
    Carry,
    Contract,
    Fold,
    Kernel,
    Let,
    Load,
    Place,
    Program,
    Seq,
    Store,
    tile,
)
from tests.schedule import programs
from tests.schedule.programs import E, F, H, M, P, at, buffer, c, f, one, s, whole
from tests.schedule.test_tiled import close, diagonal, expected, numbers, operands, softmax

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

# A GPU does not warn of infinities; the interpreter takes bounds of loops from arrays.
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

HALF = {np.float32: 2e-6, np.float16: 2e-3}


@pytest.fixture
def run(tmp_path):
    """`run(program, arrays, numbers, E=64, ...)`: the outputs, of kernels for these widths."""

    def run(
        program: Program, arrays: Mapping[str, Any], given: Mapping[str, Any], **widths: int
    ) -> dict[str, Any]:
        text = emit(replace(program, widths=tuple(widths.items())))
        path = tmp_path / "kernels.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("kernels", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        tensors = {n: torch.from_numpy(a) for n, a in arrays.items()}
        return {n: t.numpy() for n, t in module.run(**tensors, **given).items()}

    return run


def attended(run, program, arrays, sizes, where=True, tolerance=2e-6, **given):
    width, out = arrays["Q"].shape[-1], arrays["V"].shape[-1]
    found = run(program, arrays, {"scale": sizes["scale"], **given}, E=width, F=out)["O"]
    close(found, expected(arrays, sizes["scale"], where), tolerance)
    return found


# -- attention
@pytest.mark.parametrize(("p", "m"), [(1, 1), (17, 122), (122, 17), (257, 257)])
def test_attention_of_any_lengths(run, p, m):
    arrays, sizes = operands(p, m)
    attended(run, programs.attention(128, 128), arrays, sizes)


@pytest.mark.parametrize("part", [None, 32, 8])
@pytest.mark.parametrize(("p", "m"), [(1, 1), (17, 122), (257, 257)])
def test_causal_attention(run, p, m, part):
    arrays, sizes = operands(p, m)
    program = programs.attention(64, 64, part, programs.CAUSAL)
    attended(run, program, arrays, sizes, diagonal(p, m))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("width", [8, 16, 40, 64, 72])
def test_widths(run, width, dtype):
    arrays, sizes = operands(65, 70, e=width, f=width)
    arrays = {n: a.astype(dtype) for n, a in arrays.items()}
    program = programs.attention(64, 64, None, programs.CAUSAL)
    attended(run, program, arrays, sizes, diagonal(65, 70), HALF[dtype])


def test_tiles_that_are_no_powers_of_two(run):
    arrays, sizes = operands(50, 100)
    attended(run, programs.attention(24, 40, 10), arrays, sizes)
    program = programs.attention(24, 40, 10, programs.CAUSAL)
    attended(run, program, arrays, sizes, diagonal(50, 100))


def test_window_and_sinks(run):
    arrays, sizes = operands(203, 203, h=3)
    widths = np.array([1, 20, 300])
    ahead = np.arange(203)[:, None] - np.arange(203)
    where = (ahead >= 0) & ((ahead < widths[:, None, None]) | (np.arange(203) < 3))
    program = programs.window_and_sinks(64, 64, 16)
    arrays |= {"W": widths}
    attended(run, program, arrays, sizes, where, S=3)


def test_rows_without_columns(run):
    where = (f("<", M, f("-", P, 100)),)
    arrays, sizes = operands(150, 90)
    mask = np.arange(90) < np.arange(150)[:, None] - 100
    found = attended(run, programs.attention(32, 32, 8, where), arrays, sizes, mask)
    assert not found[:, :, :101].any()


@pytest.mark.parametrize("most", [0.5, 17.0, 33.5])
def test_bounds_that_are_no_integers(run, most):
    where = (f("<", M, f("+", s("most"), 0.5)),)
    arrays, sizes = operands(40, 70)
    program = replace(programs.attention(32, 32, None, where), values=(("most", Const(2.5)),))
    attended(run, program, arrays, sizes, np.arange(70) < most + 0.5, most=most)


def test_conditions_that_are_no_bounds(run):
    where = (f("==", f("%", f("-", P, M), 3), 0),)  # floors, for M > P
    arrays, sizes = operands(40, 70)
    mask = (np.arange(40)[:, None] - np.arange(70)) % 3 == 0
    attended(run, programs.attention(32, 32, None, where), arrays, sizes, mask)


def test_grouped_heads(run):
    arrays, sizes = operands(70, 70, h=6, groups=2)
    found = run(programs.grouped(), arrays, {"scale": sizes["scale"]}, E=16, F=24)
    full = {n: a if n == "Q" else a.repeat(3, axis=1) for n, a in arrays.items()}
    close(found["O"], expected(full, sizes["scale"], diagonal(70, 70)), 2e-6)


def test_pages_found_through_a_table(run):
    arrays, sizes = operands(30, 80)
    table = np.array([3, -1, 0, 4, 1])
    pages = {n: numbers(5, 1, 2, 16, w, seed=7) for n, w in (("K", 16), ("V", 24))}
    given = {"scale": sizes["scale"], "M": 80}
    arguments = {"Q": arrays["Q"], **pages, "table": table}
    found = run(programs.paged(), arguments, given, E=16, F=24)
    for n, page in pages.items():
        arrays[n] = np.concatenate([page[t] for t in table], axis=2)
    close(found["O"], expected(arrays, sizes["scale"], (table >= 0).repeat(16)), 2e-6)


def test_two_passes_store_what_the_second_makes(run):
    arrays, sizes = operands(75, 130)
    found = run(programs.two_passes(), arrays, {"scale": sizes["scale"]}, E=16, F=24)
    q, k = (arrays[n].astype(np.float64) for n in "QK")
    scores = sizes["scale"] * np.einsum("bhpe,bhme->bhpm", q, k)
    close(found["A"], softmax(np.where(diagonal(75, 130), scores, -np.inf)), 2e-6)
    close(found["O"], expected(arrays, sizes["scale"], diagonal(75, 130)), 2e-6)


def test_any_strides(run):
    arrays, sizes = operands(60, 60)
    wide = {n: np.repeat(a, 2, axis=-1) for n, a in arrays.items()}
    turned = {n: np.asfortranarray(a)[..., ::2] for n, a in wide.items()}
    attended(run, programs.attention(32, 64, 16), turned, sizes)


# -- others
@pytest.mark.parametrize("length", [5, 101, 128])
def test_variance_in_two_loops_and_a_kernel_after(run, length):
    x = numbers(37, length) + 100
    found = run(programs.variance(), {"X": x}, {})
    close(found["DEV"], x.astype(np.float64).std(axis=1), 5e-6)
    assert set(found) == {"DEV"}


@pytest.mark.parametrize("length", [1, 16, 33])
def test_recurrence_over_chunks(run, length):
    q, k, v = numbers(3, length, 8, seed=1), numbers(3, length, 8, seed=2), numbers(3, length, 5)
    found = run(programs.retention(), {"Q": q, "K": k, "V": v}, {"rate": -0.1}, E=8, F=5)
    state, wanted = np.zeros((3, 8, 5)), np.zeros((3, length, 5))
    for n in range(length):
        state = 2**-0.1 * state + np.einsum("he,hf->hef", k[:, n].astype(float), v[:, n])
        wanted[:, n] = np.einsum("he,hef->hf", q[:, n].astype(float), state)
    close(found["O"], wanted, 2e-6)


def test_largest_and_picked_lanes(run):
    x = numbers(40, 70).round(1)  # with equal ones
    found = run(programs.top(), {"X": x}, {}, J=5)
    values, places = np.full((40, 5), -np.inf), np.full((40, 5), -1)
    for p in range(40):
        order = np.lexsort((np.arange(p + 1), -x[p, : p + 1]))[:5]
        values[p, : len(order)], places[p, : len(order)] = x[p, order], order
    last = values[np.arange(40), np.minimum(np.arange(40), 4)]
    np.testing.assert_array_equal(found["TOP"], values.astype(np.float32))
    np.testing.assert_array_equal(found["AT"], places)
    np.testing.assert_array_equal(found["SECOND"], values[:, 1].astype(np.float32))
    np.testing.assert_array_equal(found["LAST"], np.where(last <= 0, last, 1).astype(np.float32))


@pytest.mark.parametrize("shift", [0, 3, 40, 100])
def test_loads_and_stores_beyond_the_ends(run, shift):
    x = numbers(45)
    before = np.full(45, np.nan, np.float32)
    found = run(programs.shifted(), {"X": x}, {"D": shift})
    padded = np.pad(x, shift)
    wanted = padded[:45] + padded[2 * shift : 2 * shift + 45]
    np.testing.assert_array_equal(found["Y"], wanted)
    np.testing.assert_array_equal(found["Z"], wanted[::2])
    kept = np.where(wanted > 0, found["C"], before)
    np.testing.assert_array_equal(kept, np.where(wanted > 0, wanted, before))


FOLDS: dict[str, Any] = {
    "sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min,
    "any": lambda x, axis: (x > 1).any(axis), "all": lambda x, axis: (x > -1).all(axis),
}  # fmt: skip


def over_width(op, value):
    """Y[p] = op over e of a value of X, for a width that is padded."""
    kernel = Kernel(
        "Y",
        programs.grid("", "p", 16),
        (Axis("p", c(16)), Axis("e", s("E"))),
        (programs.tiled("p", 16), whole("e")),
        (Load("X", "X", (P, E)), Fold("y", op, value, ("e",)), Store("Y", (P,), tile("y"))),
    )
    return Program("fold", (buffer("X", "pe"), buffer("Y", "p", "out", "real")), (kernel,), ())


@pytest.mark.parametrize("op", FOLDS)
def test_lanes_beyond_a_width_are_no_part_of_a_fold(run, op):
    x = numbers(20, 5)
    value = {"any": f("<", 1.0, "X"), "all": f("<", -1.0, "X")}.get(op, f("+", "X", 0.0))
    for sign in (1, -1):
        found = run(over_width(op, value), {"X": sign * x}, {}, E=5)
        close(found["Y"], FOLDS[op](sign * x.astype(np.float64), axis=1))


@pytest.mark.parametrize("name", ["exp", "cos", "rsqrt", "sigmoid"])
def test_what_is_not_0_at_0_is_masked(run, name):
    x = abs(numbers(20, 5)) + 0.1
    found = run(over_width("sum", f(name, "X")), {"X": x}, {}, E=5)
    close(found["Y"], MAPS[name](x.astype(np.float64)).sum(1))


def test_infinite_factors_beyond_a_width(run):
    """Y[p,f] = sum over e of X[p,e] / G[e] * V[e,f]: 1/0 where G was not loaded."""
    kernel = Kernel(
        "Y",
        programs.grid("", "p", 16),
        (Axis("p", c(16)), Axis("e", s("E")), Axis("f", s("F"))),
        (programs.tiled("p", 16), whole("e"), whole("f")),
        (
            Load("X", "X", (P, E)),
            Load("G", "G", (E,)),
            Load("V", "V", (E, F)),
            Contract("y", (tile("X"), f("/", 1.0, "G"), tile("V")), ("e",)),
            Store("Y", (P, F), tile("y")),
        ),
    )
    buffers = (buffer("X", "pe"), buffer("G", "e"), buffer("V", "ef"))
    program = Program("scaled", (*buffers, buffer("Y", "pf", "out", "real")), (kernel,), ())
    x, g, v = numbers(20, 24), abs(numbers(24, seed=1)) + 1, numbers(24, 5, seed=2)
    found = run(program, {"X": x, "G": g, "V": v}, {}, E=24, F=5)
    close(found["Y"], (x / g).astype(np.float64) @ v)


def test_axes_that_no_factor_has_are_counted(run):
    kernel = Kernel(
        "Y",
        programs.grid("", "p", 16),
        (Axis("p", c(16)), Axis("e", s("E"))),
        (programs.tiled("p", 16), whole("e")),
        (
            Load("X", "X", (P,)),
            Contract("y", (tile("X"),), ("e",)),
            Fold("z", "sum", tile("X"), ("e",)),
            Store("Y", (P,), f("+", "y", "z")),
        ),
    )
    program = Program("count", (buffer("X", "p"), buffer("Y", "p", "out", "real")), (kernel,), ())
    x = numbers(20)
    close(run(program, {"X": x}, {}, E=5)["Y"], 10 * x)


def test_steps_carry_integers_and_store(run):
    """Y[i,p] = sum over j <= i of X[j,p], and the number of positive ones so far."""
    i = at("i")
    body = (
        Load("x", "X", (i, P)),
        Let("sum_next", f("+", "sum", "x")),
        Let("count_next", f("+", "count", f("select", f("<", 0.0, "x"), 1, 0))),
        Store("Y", (i, P), tile("sum_next")),
        Store("N", (i, P), tile("count_next")),
    )
    carries = (
        Carry("sum", Const(0.0), ("p",), "sum_next"),
        Carry("count", Const(0), ("p",), "count_next", "int"),
    )
    loop = Seq("i_at", s("I"), (Place("i", s("i_at"), s("I")),), carries, body)
    axes = (Axis("p", c(16)),)
    kernel = Kernel("Y", programs.grid("", "p", 16), axes, (programs.tiled("p", 16),), (loop,))
    outputs = (buffer("Y", "ip", "out", "real"), buffer("N", "ip", "out", "int"))
    program = Program("prefix", (buffer("X", "ip"), *outputs), (kernel,), ())
    x = numbers(9, 21)
    found = run(program, {"X": x}, {})
    close(found["Y"], x.astype(np.float64).cumsum(0))
    np.testing.assert_array_equal(found["N"], (x > 0).cumsum(0))


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_operators(run, name):
    operator = OPERATORS[name]
    if name == "??":
        pytest.skip("Programs have no absent values")
    arity = operator.arity[0]
    arrays: list[Any] = [np.linspace(0.1, 3, 21, dtype=np.float32) - n for n in range(arity)]
    if name == "**" or operator.cost not in ("log", "sqrt"):
        arrays[0] = np.linspace(-6, 6, 21, dtype=np.float32)
    if name == "**":
        arrays = [np.abs(arrays[0]), arrays[1]]
    dtype = "any"
    if operator.takes == "int":
        arrays, dtype = [np.arange(-10, 11), np.arange(21) % 7 - 3], "int"
        arrays[1][arrays[1] == 0] = 4  # a remainder by 0 traps
    if operator.takes == "bool":
        arrays, dtype = [(np.arange(21) >> n) % 2 == 0 for n in range(arity)], "bool"
    types = [dtype] * arity
    if operator.takes == "select":
        arrays[0], types[0] = arrays[0] > 0, "bool"
    program = programs.pointwise(name, arity)
    inputs = tuple(
        replace(b, dtype=t) for b, t in zip(program.buffers, types, strict=False) if b.kind == "in"
    )
    program = replace(program, buffers=(*inputs, program.buffers[-1]))
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    wanted = np.asarray(MAPS[name](*wide), np.float64)
    found = run(program, {f"X{n}": a for n, a in enumerate(arrays)}, {})["Y"]
    close(found, wanted, 2e-6)


def test_tanh_does_not_cancel_near_0(run):
    x = np.array([-0.62, -1e-2, -1e-5, 0, 1e-30, 1e-3, 0.3, 0.626, 9.5], np.float32)
    found = run(programs.pointwise("tanh", 1), {"X0": x}, {})["Y"]
    np.testing.assert_allclose(found, np.tanh(x.astype(np.float64)), rtol=4e-7)


# -- what a person gives
def test_mistakes_are_named(run):
    arrays, _ = operands(20, 30)
    program, given = programs.attention(16, 16), {"scale": 0.25}

    def refused(message, arrays, given):
        with pytest.raises(ValueError, match=message):
            run(program, arrays, given, E=16, F=24)

    refused("`scale` is needed", arrays, {})
    with pytest.raises(ValueError, match=r"`S` is an integer, not 2\.5"):
        run(
            programs.window_and_sinks(), arrays | {"W": np.array([3, 4])}, given | {"S": 2.5},
            E=16, F=24,
        )  # fmt: skip
    refused(r"`Q\[b,h,p,e\]` has 4 dimensions, not 3", arrays | {"Q": arrays["Q"][0]}, given)
    refused("rank `m` of `V.*` has 30 coordinates, not 7", arrays | {"V": arrays["V"][:, :, :7]},
            given)  # fmt: skip
    refused("`K.*` is real, not torch.int64", arrays | {"K": arrays["K"].astype(int)}, given)
    narrow = {n: arrays[n][..., :8] for n in "QK"}
    refused("these kernels are for E = 16, not 8", arrays | narrow, given)


def test_nothing_to_do(run):
    arrays, sizes = operands(0, 10)
    found = run(programs.attention(), arrays, {"scale": sizes["scale"]}, E=16, F=24)
    assert found["O"].shape == (1, 2, 0, 24)
    arrays, sizes = operands(10, 0)
    found = run(programs.attention(), arrays, {"scale": sizes["scale"]}, E=16, F=24)
    assert not found["O"].any()


def test_names_that_meet(run):
    """A tensor, an extent and a param of one name, and a tensor with a name of Python."""
    kernel = Kernel(
        "H",
        programs.grid("h", "p", 16),
        (Axis("p", c(16)),),
        (one("h"), programs.tiled("p", 16)),
        (
            Load("P", "H", (H, P)),
            Load("lambda", "lambda", (P,)),
            Store("O", (H, P), f("+", f("*", "P", s("M")), "lambda")),
        ),
    )
    buffers = (buffer("H", "hp"), buffer("lambda", "p"), buffer("O", "hp", "out", "real"))
    program = Program("names", buffers, (kernel,), (("M", Const(2.5)),))
    x, y = numbers(3, 20), numbers(20, seed=1)
    close(run(program, {"H": x, "lambda_": y}, {})["O"], 2.5 * x + y)
    close(run(program, {"H": x, "lambda_": y}, {"M": 1.0})["O"], x + y)


def test_the_source_needs_neither_triton_nor_torch():
    import subprocess
    import sys

    code = (
        "import sys, cascade.backends.triton.emit\n"
        "assert not {'torch', 'triton'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
