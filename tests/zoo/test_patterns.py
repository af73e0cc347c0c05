"""What the sources promise of windows, spans, slots and blocks, and what a row may depend on."""

from typing import Any

import numpy as np
import pytest

import cascade
from tests.zoo.patterns import RULES, attend, window
from tests.zoo.registry import heads
from tests.zoo.test_invariants import run, same
from tests.zoo.test_zoo import FOLDER


def drawn(**shapes: tuple[int, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


GRIDS = {
    "neighbourhood_1d": ((12,), ("W",), ("",)),
    "neighbourhood_2d": ((4, 6), ("J", "I"), ("_y", "_x")),
    "neighbourhood_3d": ((3, 4, 5), ("L", "J", "I"), ("_t", "_y", "_x")),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_window_as_wide_as_the_grid_is_attention(name: str) -> None:
    sizes, widths, suffixes = GRIDS[name]
    arrays = drawn(**{n: (2, 1, *sizes, 3) for n in "QKV"})
    params = dict(zip(widths, sizes, strict=True)) | {f"causal{s}": 0 for s in suffixes}
    flat = [arrays[n].reshape(2, 1, -1, 3) for n in "QKV"]
    same(run(name, arrays, **params)["O"].reshape(2, 1, -1, 3), attend(*flat))
    causal = run(name, arrays, **params | {f"causal{s}": 1 for s in suffixes})["O"]
    places = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1)
    places = places.reshape(-1, len(sizes))
    before = (places[None] <= places[:, None]).all(-1)
    same(causal.reshape(2, 1, -1, 3), attend(*flat, before))


@pytest.mark.parametrize("name", ["neighbourhood_1d", "neighbourhood_2d"])
def test_stride_and_dilation_of_one_are_the_plain_neighbourhood(name: str) -> None:
    sizes, widths, _ = GRIDS[name]
    arrays = drawn(**{n: (2, 1, *sizes, 3) for n in "QKV"})
    params = dict.fromkeys(widths, 3)
    plain = cascade.load(FOLDER.parent / f"{name}.cascade")
    same(run(name, arrays, **params)["O"], cascade.run(plain, arrays, params)["O"])


def test_a_stride_as_wide_as_the_window_cuts_blocks() -> None:
    arrays = drawn(**{n: (2, 1, 12, 3) for n in "QKV"})
    block = np.arange(12) // 4
    found = run("neighbourhood_1d", arrays, W=4, stride=4)["O"]
    same(found, attend(*arrays.values(), block[:, None] == block))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_every_query_has_as_many_keys(stride: int, dilation: int) -> None:
    """The weights are equal where the keys are: a value of 1 at one key tells who sees it."""
    seen = np.zeros((17, 17), bool)
    for m in range(17):
        arrays = {"Q": np.zeros((1, 1, 17, 1)), "K": np.zeros((1, 1, 17, 1))}
        arrays["V"] = np.eye(17)[m].reshape(1, 1, 17, 1)
        params = {"W": 3, "stride": stride, "dilation": dilation}
        seen[:, m] = run("neighbourhood_1d", arrays, **params)["O"][0, 0, :, 0] > 0
    assert (seen.sum(1) == 3).all()
    assert (seen == window(17, 3, stride, dilation)).all()
