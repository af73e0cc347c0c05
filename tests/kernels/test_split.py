"""Kernels with loops in splits, in the interpreter of triton and ahead of time."""

from typing import Any

import numpy as np
import pytest

from tests.examples.test_examples import draw, sizes, spec
from tests.kernels.test_ahead_of_time import check as check_facts
from tests.kernels.test_ahead_of_time import compile_for
from tests.kernels.test_interpreter import SMALL, cache, check, interpret
from tests.schedule.test_examples import settings, single

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from cascade.backends.triton.launch import TritonKernel  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
__all__ = ["cache"]  # a fixture

MERGED = [
    "alibi", "attention_2pass", "cosine_attention", "differential_attention", "document_mask",
    "grouped_query", "layernorm_matmul", "paged_keys", "pedagogical_2pass", "rmsnorm_matmul",
    "sigmoid_attention", "sliding_window", "variance",
]  # fmt: skip
KNOWN: dict[tuple[str, int], TritonKernel] = {}


def kernel(name: str, split: int) -> TritonKernel:
    if (name, split) not in KNOWN:
        tiles = {r: n for r, n in SMALL.items() if r in spec(name).rank}
        KNOWN[name, split] = TritonKernel(spec(name), tiles, split=split)
    return KNOWN[name, split]


@pytest.mark.parametrize("name", MERGED)
def test_formula(name):
    n = sizes(name)[-1]
    check(name, n, draw(name, n), made=kernel(name, 3))


@pytest.mark.parametrize("split", [2, 9])
@pytest.mark.parametrize("m", [1, 16, 40])
@pytest.mark.parametrize("name", ["causal", "entropy"])
def test_ragged_and_empty_splits(name, m, split):
    n = {"B": 1, "H": 2, "P": 3, "M": m, "E": 4, "F": 5}
    check(name, n, draw(name, n), made=kernel(name, split))


def test_a_number_of_the_call_splits_the_same_source():
    made = kernel("attention", 2)
    n: dict[str, Any] = {"B": 1, "H": 2, "P": 3, "M": 70, "E": 4, "F": 5}
    arrays = single(draw("attention", n))
    wanted = interpret(made, arrays, settings("attention", n))["O"]
    _, module = made.made({t: torch.from_numpy(a) for t, a in arrays.items()}, {})
    for splits in (1, 3, 11):
        with np.errstate(all="ignore"):
            tensors = {t: torch.from_numpy(a) for t, a in arrays.items()}
            found = module.run(**tensors, m_splits=splits)["O"].double().numpy()
        assert np.abs(found - wanted).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("name", ["attention", "causal", "entropy", "grouped_query"])
def test_nothing_spills(tmp_path, name, width):
    found = compile_for(tmp_path, name, width, "--split", "auto")
    check_facts(found)
    parts, merged = found["kernels"]
    assert parts["wgmma_instructions"] > 0
    assert merged["tensor_core_instructions"] == 0
