"""The NumPy executor of Programs: values against formulas in float64, and exact counts."""

import threading
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from cascade.backends.spelling import MAPS
from cascade.backends.tiled import run
from cascade.ir.ops import MAPS as OPERATORS
from tests.schedule import programs
from tests.schedule.naive import Naive
from tests.schedule.random_programs import random_program

LENGTHS = (1, 17, 122, 257)


def numbers(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def operands(p, m, b=1, h=2, e=16, f=24, groups=None):
    """Arguments of attention, and the numbers of its extents and params."""
    heads = groups or h
    arrays = {
        "Q": numbers(b, h, p, e, seed=1),
        "K": numbers(b, heads, m, e, seed=2),
        "V": numbers(b, heads, m, f, seed=3),
    }
    sizes = {"B": b, "H": h, "P": p, "M": m, "E": e, "F": f, "G": heads, "scale": e**-0.5}
    return arrays, sizes


def softmax(scores):
    with np.errstate(all="ignore"):
        top = scores.max(-1, keepdims=True)
        weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
        total = weights.sum(-1, keepdims=True)
        return weights / np.where(total > 0, total, 1)


def expected(arrays, scale, where=True):
    q, k, v = (arrays[n].astype(np.float64) for n in "QKV")
    scores = np.where(where, scale * np.einsum("bhpe,bhme->bhpm", q, k), -np.inf)
    return np.einsum("bhpm,bhmf->bhpf", softmax(scores), v)


def diagonal(p, m):
    return np.arange(m) <= np.arange(p)[:, None]


def close(found, wanted, tolerance=1e-6):
    scale = max(1e-30, np.abs(wanted).max(initial=0))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found / scale, wanted / scale, rtol=0, atol=tolerance)


# -- attention
@pytest.mark.parametrize("p", LENGTHS)
@pytest.mark.parametrize("m", LENGTHS)
@pytest.mark.parametrize("tiles", [(128, 512, 128), (64, 64, 16), (16, 128, 128)])
def test_attention_of_any_lengths(p, m, tiles):
    arrays, sizes = operands(p, m)
    result = run(programs.attention(*tiles), arrays, sizes)
    close(result.outputs["O"], expected(arrays, sizes["scale"]))
    rows, size, part = tiles
    result = run(programs.attention(rows, size, part, programs.CAUSAL), arrays, sizes)
    close(result.outputs["O"], expected(arrays, sizes["scale"], diagonal(p, m)))


@pytest.mark.parametrize("rows", [128, 256])
def test_counts_of_dense_attention(rows):
    arrays, sizes = operands(700, 1100, b=2, h=3)
    counters = run(programs.attention(rows, 512), arrays, sizes).counters
    row_tiles, tiles = -(-700 // rows), -(-1100 // 512)
    assert counters.loaded("K") == (6 * row_tiles * tiles, 6 * row_tiles * 1100 * 16 * 4)
    assert counters.loaded("V") == (6 * row_tiles * tiles, 6 * row_tiles * 1100 * 24 * 4)
    assert counters.loaded("Q") == (6 * row_tiles, 6 * 700 * 16 * 4)
    assert counters.stored("O") == (6 * row_tiles, 6 * 700 * 24 * 4)
    assert counters.full_visits["O", "m_at"] == 6 * row_tiles * (1100 // 512)
    assert counters.partial_visits["O", "m_at"] == 6 * row_tiles
    assert counters.passes == {("O", "m"): 1}


def test_counts_of_causal_attention():
    arrays, sizes = operands(1024, 1024, h=1)
    result = run(programs.attention(256, 512, 128, programs.CAUSAL), arrays, sizes)
    close(result.outputs["O"], expected(arrays, sizes["scale"], diagonal(1024, 1024)))
    # rows 0..255: 2 parts; 256..511: 4; 512..767: one tile and 2; 768..1023: one tile and 4
    assert result.counters.full_visits["O", "m_at"] == 2
    assert result.counters.partial_visits["O", "m_at"] == 12
    assert result.counters.loaded("K") == (14, (2 * 512 + 12 * 128) * 16 * 4)


def test_memory_does_not_grow_with_the_lengths():
    program = programs.attention(128, 256, 64, programs.CAUSAL)

    def counters(length, threads):
        arrays, sizes = operands(length, length, h=1)
        return run(program, arrays, sizes, threads).counters

    first, second = counters(1024, 2), counters(4096, 2)
    assert first.peak_bytes == second.peak_bytes
    assert first.peak_bytes < 2 * 4 * (128 * 256 * 1.5 + 3 * 128 * 24)
    alone = counters(1024, 1)
    assert 2 * alone.peak_bytes == first.peak_bytes


def test_window_and_sinks():
    arrays, sizes = operands(203, 203, h=3)
    widths = np.array([1, 20, 300])
    result = run(programs.window_and_sinks(), {**arrays, "W": widths}, {**sizes, "S": 3})
    at = np.arange(203)
    ahead = at[:, None] - at
    where = (ahead >= 0) & ((ahead < widths[:, None, None]) | (at < 3))
    close(result.outputs["O"], expected(arrays, sizes["scale"], where))
    assert result.counters.loaded("W") == (3 * 7, 3 * 7 * 8)


def test_rows_without_columns():
    where = (programs.f("<", programs.M, programs.f("-", programs.P, 100)),)
    arrays, sizes = operands(150, 90)
    result = run(programs.attention(32, 32, 8, where), arrays, sizes)
    wanted = expected(arrays, sizes["scale"], np.arange(90) < np.arange(150)[:, None] - 100)
    close(result.outputs["O"], wanted)
    assert not result.outputs["O"][:, :, :101].any()


def test_grouped_heads():
    arrays, sizes = operands(70, 70, h=6, groups=2)
    result = run(programs.grouped(), arrays, sizes)
    full = {n: a if n == "Q" else a.repeat(3, axis=1) for n, a in arrays.items()}
    close(result.outputs["O"], expected(full, sizes["scale"], diagonal(70, 70)))


def test_pages_found_through_a_table():
    arrays, sizes = operands(30, 80)
    table = np.array([3, -1, 0, 4, 1])  # pages of 16 keys
    pages = {n: numbers(5, 1, 2, 16, w, seed=7) for n, w in (("K", 16), ("V", 24))}
    sizes |= {"R": 16, "N": 5, "T": 5}
    arguments = {"Q": arrays["Q"], **pages, "table": table}
    result = run(programs.paged(), arguments, sizes)
    for n, page in pages.items():
        arrays[n] = np.concatenate([page[t] for t in table], axis=2)
    where = (table >= 0).repeat(16)
    close(result.outputs["O"], expected(arrays, sizes["scale"], where))


def test_two_passes_store_what_the_second_makes():
    arrays, sizes = operands(75, 130)
    result = run(programs.two_passes(), arrays, sizes)
    q, k = (arrays[n].astype(np.float64) for n in "QK")
    scores = sizes["scale"] * np.einsum("bhpe,bhme->bhpm", q, k)
    wanted = softmax(np.where(diagonal(75, 130), scores, -np.inf))
    close(result.outputs["A"], wanted)
    close(result.outputs["O"], expected(arrays, sizes["scale"], diagonal(75, 130)))
    assert result.counters.passes == {("A", "m"): 2}
    assert result.counters.stored("A") == (2 * 3 * 3, 2 * 75 * 130 * 4)


# -- other shapes of kernels
def test_variance_in_two_loops_and_a_kernel_after():
    x = numbers(37, 101) + 100
    result = run(programs.variance(), {"X": x}, {"P": 37, "M": 101})
    close(result.outputs["DEV"], x.astype(np.float64).std(axis=1))
    assert set(result.outputs) == {"DEV"}
    assert result.counters.passes == {("VAR", "m"): 2}


@pytest.mark.parametrize("length", [1, 16, 33, 64])
def test_recurrence_over_chunks(length):
    q, k, v = numbers(2, length, 8, seed=1), numbers(2, length, 8, seed=2), numbers(2, length, 5)
    sizes = {"H": 2, "I": length, "E": 8, "F": 5, "rate": -0.1}
    result = run(programs.retention(), {"Q": q, "K": k, "V": v}, sizes)
    state, wanted = np.zeros((2, 8, 5)), np.zeros((2, length, 5))
    for n in range(length):
        state = 2**-0.1 * state + np.einsum("he,hf->hef", k[:, n].astype(float), v[:, n])
        wanted[:, n] = np.einsum("he,hef->hf", q[:, n].astype(float), state)
    close(result.outputs["O"], wanted)


def test_largest_and_picked_lanes():
    x = numbers(40, 70).round(1)  # with equal ones
    result = run(programs.top(), {"X": x}, {"P": 40, "M": 70, "J": 5})
    values, places = np.full((40, 5), -np.inf), np.full((40, 5), -1)
    for p in range(40):
        order = np.lexsort((np.arange(p + 1), -x[p, : p + 1]))[:5]
        values[p, : len(order)], places[p, : len(order)] = x[p, order], order
    last = values[np.arange(40), np.minimum(np.arange(40), 4)]
    np.testing.assert_array_equal(result.outputs["TOP"], values.astype(np.float32))
    np.testing.assert_array_equal(result.outputs["AT"], places)
    np.testing.assert_array_equal(result.outputs["SECOND"], values[:, 1].astype(np.float32))
    np.testing.assert_array_equal(
        result.outputs["LAST"], np.where(last <= 0, last, 1).astype(np.float32)
    )


@pytest.mark.parametrize("shift", [0, 3, 40, 100])
def test_loads_and_stores_beyond_the_ends(shift):
    x = numbers(45)
    result = run(programs.shifted(), {"X": x}, {"P": 45, "D": shift})
    padded = np.pad(x, shift)
    wanted = padded[:45] + padded[2 * shift : 2 * shift + 45]
    np.testing.assert_array_equal(result.outputs["Y"], wanted)
    np.testing.assert_array_equal(result.outputs["Z"], wanted[::2])
    np.testing.assert_array_equal(result.outputs["C"], np.where(wanted > 0, wanted, 0))


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_operators(name):
    operator = OPERATORS[name]
    arity = operator.arity[0]
    arrays: list[Any] = [np.linspace(0.1, 3, 21, dtype=np.float32) - n for n in range(arity)]
    if name == "**" or operator.cost not in ("log", "sqrt"):
        arrays[0] = np.linspace(-6, 6, 21, dtype=np.float32)
    if name == "**":
        arrays = [np.abs(arrays[0]), arrays[1]]
    if operator.takes == "int":
        arrays = [np.arange(-10, 11), np.arange(21) % 7 - 3]
    if operator.takes == "bool":
        arrays = [(np.arange(21) >> n) % 2 == 0 for n in range(arity)]
    if operator.takes == "select":
        arrays[0] = arrays[0] > 0
    arguments = {f"X{n}": a for n, a in enumerate(arrays)}
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    with np.errstate(all="ignore"):
        wanted = np.asarray(MAPS[name](*wide), np.float64)
    program = programs.pointwise(name, arity)
    for dtype, tolerance in ((np.float32, 5e-7), (np.float64, 1e-14)):
        found = run(program, arguments, {"P": 21}, dtype=dtype).outputs["Y"]
        close(found, wanted, tolerance)


# -- what does not change the result
CASES = {
    "dense": (programs.attention(32, 64, 16), operands(70, 90)),
    "causal": (programs.attention(32, 64, 16, programs.CAUSAL), operands(70, 90)),
    "two passes": (programs.two_passes(), operands(70, 90)),
    "variance": (programs.variance(), ({"X": numbers(30, 50)}, {"P": 30, "M": 50})),
    "top": (programs.top(), ({"X": numbers(30, 50)}, {"P": 30, "M": 50, "J": 3})),
}


@pytest.mark.parametrize("name", CASES)
def test_the_plainest_executor_agrees(name):
    program, (arrays, sizes) = CASES[name]
    wide = {n: a.astype(np.float64) for n, a in arrays.items()}
    found = run(program, wide, sizes, dtype=np.float64).outputs
    for tensor, wanted in Naive(program, wide, sizes).run().items():
        np.testing.assert_allclose(found[tensor], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_random_kernels(first):
    for seed in range(first, first + 20):
        program = random_program(seed)
        source = np.random.default_rng(seed)
        sizes = {"P": int(source.integers(1, 20)), "M": int(source.integers(1, 20)), "E": 3}
        arrays = {
            b.name: source.standard_normal([sizes[r.upper()] for r in b.ranks])
            for b in program.buffers
            if b.kind == "in"
        }
        arrays = {n: np.asarray(a) for n, a in arrays.items()}
        found = run(program, arrays, sizes, 1 + seed % 2, dtype=np.float64).outputs
        for tensor, wanted in Naive(program, arrays, sizes).run().items():
            np.testing.assert_allclose(found[tensor], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("name", CASES)
def test_threads_change_nothing(name, threads):
    program, (arrays, sizes) = CASES[name]
    wanted = run(program, arrays, sizes)
    found = run(program, arrays, sizes, threads)
    for tensor, array in wanted.outputs.items():
        np.testing.assert_array_equal(found.outputs[tensor], array)
    assert found.counters.moved == wanted.counters.moved


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_types_are_converted_tile_by_tile(dtype):
    arrays, sizes = operands(60, 60)
    typed = {n: a.astype(dtype) for n, a in arrays.items()}
    result = run(programs.attention(32, 64, 16), typed, sizes)
    assert result.outputs["O"].dtype == np.float32
    close(result.outputs["O"], expected(typed, sizes["scale"]))
    assert result.counters.loaded("Q")[1] == 2 * 60 * 16 * np.dtype(dtype).itemsize


def test_any_strides():
    arrays, sizes = operands(60, 60)
    turned = {n: np.asfortranarray(a) for n, a in arrays.items()}
    result = run(programs.attention(32, 64, 16), turned, sizes)
    close(result.outputs["O"], expected(arrays, sizes["scale"]))


def test_infinite_and_missing_numbers_raise_no_warning():
    x = numbers(20, 40)
    x[3, 7], x[5, 9] = np.inf, np.nan
    found = run(programs.variance(), {"X": x}, {"P": 20, "M": 40}, threads=2).outputs["DEV"]
    assert np.isnan(found[[3, 5]]).all()
    assert np.isfinite(np.delete(found, [3, 5])).all()


def test_progress_and_failures():
    arrays, sizes = operands(70, 70)
    seen: list[tuple[int, int]] = []
    run(programs.attention(32, 64), arrays, sizes, progress=lambda *at: seen.append(at))
    assert sorted(seen) == [(n + 1, 6) for n in range(6)]
    before = threading.active_count()

    def fail(done: int, total: int) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        run(programs.attention(32, 64), arrays, sizes, 2, fail)
    assert threading.active_count() == before


def test_threads_of_blas_are_as_before():
    def blas():
        return [x["num_threads"] for x in threadpool_info() if x["user_api"] == "blas"]

    before = blas()
    arrays, sizes = operands(40, 40)
    run(programs.attention(32, 64), arrays, sizes)
    assert blas() == before


def test_nothing_to_do():
    arrays, sizes = operands(0, 10)
    assert run(programs.attention(), arrays, sizes).outputs["O"].shape == (1, 2, 0, 24)
    arrays, sizes = operands(10, 0)
    assert not run(programs.attention(), arrays, sizes).outputs["O"].any()


def test_counters_as_a_dictionary():
    arrays, sizes = operands(40, 40)
    found = run(programs.attention(32, 64), arrays, sizes, threads=1).counters.to_dict()
    assert found["kernels"]["O"]["loops"] == {"m_at": {"full_visits": 0, "partial_visits": 4}}
    assert found["kernels"]["O"]["tensors"]["K"]["tiles_loaded"] == 4
    assert found["kernels"]["O"]["passes"] == {"m": 1}
    assert found["threads"] == 1
