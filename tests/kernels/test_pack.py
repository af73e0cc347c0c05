"""Heads that share keys, as rows of one tile: in NumPy, in the interpreter of triton, in counts."""

from functools import cache
from typing import Any

import numpy as np
import pytest

import cascade
from cascade import api
from cascade.backends.kernel import TiledKernel
from tests.examples.test_examples import spec
from tests.kernels.test_ahead_of_time import check as check_facts
from tests.kernels.test_ahead_of_time import compile_for
from tests.kernels.test_interpreter import cache as cache_folder
from tests.kernels.test_interpreter import interpret

pytest.importorskip("torch")
pytest.importorskip("triton")

from cascade.backends.triton.launch import TritonKernel

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
__all__ = ["cache_folder"]  # a fixture

SOFTMAX = """
    A[{r},m] = softmax[m](QK[{r},m])
    O[{r},f] = A[{r},m] * V[{k},m,f]
    output O
"""
HEAD = "cascade grouped\nimport std\n"
TEXTS = {
    # neighbours share a head of keys; causal, the last query at the last key
    "division": HEAD
    + "input Q[b,h,p,e], K[b,g,m,e], V[b,g,m,f]\nrequire H % G == 0\n"
    + "QK[b,h,p,m] = Q[b,h,p,e] * K[b, h // (H//G), m, e] where m <= p + M - P\n"
    + SOFTMAX.format(r="b,h,p", k="b, h // (H//G)"),
    # groups are a rank
    "ranks": HEAD
    + "input Q[b,g,h,p,e], K[b,g,m,e], V[b,g,m,f]\n"
    + "QK[b,g,h,p,m] = Q[b,g,h,p,e] * K[b,g,m,e]\n"
    + SOFTMAX.format(r="b,g,h,p", k="b,g"),
    # one head of keys; a window for each head of queries
    "one": HEAD
    + "input Q[b,h,p,e], K[b,m,e], V[b,m,f], reach[h]: int\n"
    + "QK[b,h,p,m] = Q[b,h,p,e] * K[b,m,e] where m <= p + reach[h]\n"
    + SOFTMAX.format(r="b,h,p", k="b"),
    # the last group may have fewer heads than 3
    "uneven": HEAD
    + "input Q[b,h,p,e], K[b,g,m,e], V[b,g,m,f]\n"
    + "QK[b,h,p,m] = Q[b,h,p,e] * K[b, h // 3, m, e]\n"
    + SOFTMAX.format(r="b,h,p", k="b, h // 3"),
}
TILES = {"p": 16, "m": 16}


@cache
def cascade_of(kind: str) -> Any:
    return cascade.parse(TEXTS[kind])


def draw(kind: str, h: int, g: int, p: int, m: int) -> dict[str, Any]:
    g = -(-h // 3) if kind == "uneven" else g
    heads = {"ranks": (g, h // g), "one": (h,)}.get(kind, (h,))
    keys = () if kind == "one" else (g,)
    shapes = {"Q": (2, *heads, p, 8), "K": (2, *keys, m, 8), "V": (2, *keys, m, 4)}
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {t: rng.standard_normal(s, np.float32) for t, s in shapes.items()}
    if kind == "one":
        found["reach"] = np.arange(h) - 1  # the first rows of the first head see nothing
    return found


def is_packed(program: Any) -> bool:
    return any(place.rank == "hp" for k in program.kernels for place in k.places)


def moved(counts: Any) -> dict[str, Any]:
    """Traffic by tensor; a tensor in a loop without a visit is not counted at all."""
    return {n: t for n, t in counts["tensors"].items() if any(t.values())}


SIZES = [(8, 2, 1, 70, 1), (8, 1, 5, 40, 1), (8, 2, 3, 70, 3), (6, 6, 1, 9, 1), (8, 4, 40, 50, 1)]


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize(("h", "g", "p", "m", "split"), [*SIZES, (9, 3, 2, 5, 4), (4, 2, 1, 0, 1)])
def test_values_and_prediction(kind, h, g, p, m, split):
    arrays = draw(kind, h, g, p, m)
    wanted = api.run(cascade_of(kind), arrays)["O"]
    made = TiledKernel(cascade_of(kind), TILES, split=split)
    result = made.run(arrays)
    assert is_packed(made.schedule(arrays, {}).program)
    assert np.abs(result.outputs["O"] - wanted).max(initial=0) < 2e-6
    for found in made.measured(arrays, {}, result)["kernels"].values():
        assert moved(found["predicted"]) == moved(found["measured"])
        assert found["predicted"]["loops"] == found["measured"]["loops"]


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize(("h", "g", "p", "m", "split"), SIZES)
def test_interpreted(kind, h, g, p, m, split):
    arrays = draw(kind, h, g, p, m)
    wanted = api.run(cascade_of(kind), arrays)["O"]
    found = interpret(TritonKernel(cascade_of(kind), TILES, split=split), arrays, {})["O"]
    assert np.abs(found - wanted).max() < 2e-6


@pytest.mark.parametrize("group", [1, 4, 8])
def test_keys_are_read_once_for_a_group(group):
    heads, keys = 8, 64
    arrays = draw("division", heads, heads // group, 1, keys)
    made = TiledKernel(cascade_of("division"), TILES)
    found = made.measured(arrays, {}, made.run(arrays))["kernels"]["O"]["measured"]["tensors"]
    assert found["K"]["tiles_loaded"] == 2 * heads // group * keys // 16
    assert found["K"]["bytes_loaded"] == arrays["K"].nbytes
    assert found["V"]["bytes_loaded"] == arrays["V"].nbytes


def test_many_rows_of_a_head_stay_its_own():
    few, many = (
        TiledKernel(cascade_of("division")).schedule(draw("division", 8, 2, p, 16), {}).program
        for p in (64, 65)
    )
    assert is_packed(few) and not is_packed(many)


def test_heads_with_keys_of_their_own_stay_apart():
    for name in ("attention", "causal", "alibi", "sliding_window"):
        assert not is_packed(api.schedule(spec(name), {"P": 1}).program)


def test_a_step_of_decoding_has_no_more_rows_than_a_group():
    def rows(**extents: int) -> int:
        program = api.schedule(spec("grouped_query"), extents).program
        return int(program.kernels[0].axis("p").size.value)  # type: ignore[union-attr]

    assert rows(P=1, H=32, G=4) == 16
    assert rows(P=1, H=32, G=1) == 32
    assert rows(P=2, H=32, G=1) == rows(H=32, G=1) == 128


@pytest.mark.slow
@pytest.mark.parametrize("split", ["1", "auto"])
@pytest.mark.parametrize("width", [64, 128])
def test_nothing_spills(tmp_path, width, split):
    found = compile_for(tmp_path, "grouped_query", width, "--split", split, "--set", "P=1,H=32,G=4")
    check_facts(found)
    assert found["kernels"][0]["tensor_core_instructions"] > 0
