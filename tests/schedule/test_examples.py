"""Every example by its Program: against its formula, and what it does against the prediction."""

from functools import cache
from typing import Any

import numpy as np
import pytest

import cascade
from cascade.analysis.passes import count_passes
from cascade.backends.arrays import as_inputs, checked_inputs
from cascade.backends.kernel import TiledKernel, typed
from cascade.ir.extents import bind
from cascade.schedule.choose import schedule
from cascade.schedule.footprint import most_held
from cascade.schedule.sizes import Sizes
from tests.examples.formulas import FORMULAS
from tests.examples.test_examples import (
    BLIND,
    LOUD,
    NAMES,
    OFF_TIES,
    REFUSED,
    TIED,
    draw,
    sizes,
    spec,
    variations,
)
from tests.schedule.naive import Naive

SMALL = {r: 8 for r in "bhpmtdnikyx"}  # tiles that make several of everything


@cache
def kernel(name: str, small: bool) -> TiledKernel:
    tiles = {r: n for r, n in SMALL.items() if r in spec(name).rank} if small else {}
    return TiledKernel(spec(name), tiles, threads=2)


def settings(name: str, n: dict[str, Any]) -> dict[str, Any]:
    carried = {rank.upper() for tensor in spec(name).inputs for rank in tensor.ranks}
    return {key: value for key, value in n.items() if key not in carried}


def single(arrays: dict[str, Any]) -> dict[str, Any]:
    return {t: a.astype(np.float32) if a.dtype.kind == "f" else a for t, a in arrays.items()}


def compare(found: Any, wanted: Any, bound: float) -> None:
    assert found.keys() == wanted.keys()
    for output, expected in wanted.items():
        actual = found[output]
        assert actual.shape == expected.shape
        assert not np.isnan(actual).any(), output
        finite = np.isfinite(expected)
        assert np.array_equal(actual[~finite], expected[~finite]), output
        error = np.abs(actual[finite] - expected[finite]).max(initial=0)
        assert error <= bound * np.abs(expected[finite]).max(initial=1), (output, error)


def check(name: str, n: dict[str, Any], arrays: dict[str, Any], bound: float = 2e-5) -> None:
    given = single(arrays)
    wanted = FORMULAS[name]({t: a.astype(float) if a.dtype.kind == "f" else a
                             for t, a in given.items()}, n)  # fmt: skip
    for small in (True, False):
        compare(kernel(name, small).run(given, settings(name, n)).outputs, wanted, bound)


@pytest.mark.parametrize("name", NAMES)
def test_formula(name):
    for n in sizes(name):
        check(name, n, draw(name, n))


@pytest.mark.parametrize(("name", "extent", "value"), variations())
def test_extent(name, extent, value):
    tied = TIED.get(name, ())
    n = sizes(name)[0] | dict.fromkeys(tied if extent in tied else [extent], value)
    arrays = draw(name, n)
    if (name, extent, value) in REFUSED:
        with pytest.raises(cascade.CascadeError):
            kernel(name, False).run(single(arrays), settings(name, n))
    else:
        check(name, n, arrays)


@pytest.mark.parametrize("case", BLIND, ids=str)
def test_row_that_sees_nothing(case):
    n = sizes(case.name)[0] | case.params
    arrays = draw(case.name, n)
    for tensor, (at, value) in case.inputs.items():
        arrays[tensor][at] = value
    outputs = kernel(case.name, True).run(single(arrays), settings(case.name, n)).outputs
    for output, array in outputs.items():
        assert not np.isnan(array).any()
        assert (array[case.rows] == (-np.inf if output == "LSE" else 0)).all()


@pytest.mark.parametrize("factor", [1e4, 1e-30, 0])
@pytest.mark.parametrize("name", NAMES)
def test_extreme_values(name, factor):
    """In float64, where a formula says what is right; float32 must be finite."""
    for n in sizes(name):
        n = n | OFF_TIES.get(name, {})
        arrays = draw(name, n)
        for tensor in LOUD.get(name, ["Q"]):
            arrays[tensor] = arrays[tensor] * factor
        compare(in_float64(name, arrays, n), FORMULAS[name](arrays, n), 1e-9)
        outputs = kernel(name, True).run(single(arrays), settings(name, n)).outputs
        for output, array in outputs.items():
            assert not np.isnan(array).any(), output


def in_float64(name: str, arrays: dict[str, Any], n: dict[str, Any]) -> dict[str, Any]:
    """The same Program, run in the plainest way."""
    c = typed(spec(name), checked_inputs(spec(name), arrays))
    inputs = as_inputs(c, arrays)
    extents = bind(c, {t: a.shape for t, a in inputs.items()}, settings(name, n)).extents
    made = schedule(c, Sizes(extents, rows=4, stream=4))
    values = made.bind({t: a.shape for t, a in inputs.items()}, settings(name, n))
    found: dict[str, Any] = Naive(made.program, inputs, values).run()
    return found


def longer(name: str, n: dict[str, Any], factor: int) -> dict[str, Any]:
    """The extents with lengths so many times as long; windows and widths stay."""
    carried = {r.upper() for t in spec(name).inputs for r in t.ranks}
    return n | {k: v * factor for k, v in n.items() if k in carried & LENGTHS and v > 1}


LENGTHS = {"P", "M", "T", "D", "I", "K"}


@pytest.mark.parametrize("name", NAMES)
def test_prediction_is_what_is_counted(name):
    for n in sizes(name):
        n = longer(name, n, 3)
        arrays = single(draw(name, n))
        result = kernel(name, True).run(arrays, settings(name, n))
        both = kernel(name, True).measured(arrays, settings(name, n), result)
        assert both["kernels"]
        for found in both["kernels"].values():
            assert found["predicted"]["tensors"] == found["measured"]["tensors"]
            assert found["predicted"]["loops"] == found["measured"]["loops"]
        assert 0 < both["peak_bytes"] <= both["most_bytes"]
        form = kernel(name, True).schedule(checked_inputs(spec(name), arrays), settings(name, n))
        assert passes_made(form.form.cascade, result.counters.passes) == {}


def passes_made(form: Any, counted: Any) -> dict[str, tuple[int, int | None]]:
    """Ranks along which loops do not run as often, over all kernels, as the analysis says."""
    wanted = count_passes(form).of_rank()
    outer = {p.parts[0]: p.rank for p in form.partitions if p.parts[0] not in wanted}
    made: dict[str, int] = {}
    for (_, rank), number in counted.items():
        if rank in form.rank or rank in outer:  # others are of lists of tiles
            made[outer.get(rank, rank)] = made.get(outer.get(rank, rank), 0) + number
    return {r: (n, wanted.get(r)) for r, n in made.items() if n != wanted.get(r)}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_held_does_not_grow_with_lengths(name):
    """No run holds more than `most_bytes`, and that is no more for longer inputs."""
    most = []
    for factor in (64, 256):
        n = longer(name, sizes(name)[0], factor)
        shapes = {t.name: tuple(n[r.upper()] for r in t.ranks) for t in spec(name).inputs}
        empty = {}
        for t in spec(name).inputs:
            kind = np.int64 if t.dtype == "int" else np.float32
            empty[t.name] = np.broadcast_to(np.zeros((), kind), shapes[t.name])
        made = kernel(name, True).schedule(empty, settings(name, n))
        most.append(most_held(made.program, made.bind(shapes, settings(name, n))))
    assert most[0] >= most[1] > 0


def test_memory_does_not_grow_with_the_keys():
    held = []
    for m in (1024, 4096):
        rng = np.random.default_rng(0)
        q, k, v = (rng.standard_normal((1, 1, x, 16), np.float32) for x in (256, m, m))
        result = kernel("attention", False).run({"Q": q, "K": k, "V": v})
        held.append(result.counters.peak_bytes)
    assert held[0] == held[1]


def test_torch_in_torch_out():
    torch = pytest.importorskip("torch")
    q, k, v = (torch.randn(1, 2, 9, 4) for _ in range(3))
    out = cascade.compile(spec("attention"))(Q=q, K=k, V=v)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert isinstance(out, torch.Tensor)
    assert torch.allclose(out, wanted, atol=1e-6)
