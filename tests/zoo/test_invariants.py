"""What the sources promise of their mechanisms, and where paper and code part."""

from typing import Any

import numpy as np
import pytest

import cascade
from tests.zoo.registry import heads
from tests.zoo.softmax import attend, moh_inputs
from tests.zoo.test_zoo import FOLDER


def run(name: str, arrays: dict[str, Any], **params: Any) -> dict[str, Any]:
    return cascade.run(cascade.load(FOLDER / f"{name}.cascade"), arrays, params)


def drawn(seed: int = 0, **sizes: int) -> dict[str, Any]:
    return heads(np.random.default_rng(seed), **sizes)


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cuts", [[0, 9], [0, 1, 9], [0, 0, 4, 8, 9], [0, 3, 3, 3, 9]])
def test_lean_attention_is_exact_for_any_cuts(cuts: list[int]) -> None:
    arrays = drawn(keys=9)
    same(run("lean_attention", arrays | {"start": np.array(cuts)})["O"], attend(arrays)["O"])


def test_masking_visual_tokens_equals_deleting_them() -> None:
    arrays = drawn()
    visual = np.broadcast_to((np.arange(7) > 1) & (np.arange(7) < 5), (2, 7))
    masked = run("dyvte", arrays | {"visual": visual, "exited": np.array([True, True])})["O"]
    kept = {name: array[:, :, ~visual[0]] for name, array in arrays.items()}
    none = {"visual": visual[:, ~visual[0]], "exited": np.array([False, False])}
    same(masked[:, :, ~visual[0]], run("dyvte", kept | none)["O"])


def test_a_razor_that_drops_nothing_is_attention() -> None:
    arrays = drawn(keys=9)
    found = run("razor_attention", arrays | {"last": np.array([9, 5, 20])}, first=4)["O"]
    same(found, attend(arrays)["O"])


def test_a_far_bias_key_leaves_attention_alone() -> None:
    """A key that no query fits takes no mass; one that all fit takes all of it."""
    arrays = drawn() | {"VB": np.ones((3, 5))}
    arrays["Q"][..., 0] = 1
    far, near = np.zeros((2, 3, 4))
    far[:, 0], near[:, 0] = -1e4, 1e4
    same(run("sink_bias", arrays | {"KB": near})["O"], np.ones((2, 3, 7, 5)))
    plain = {name: arrays[name] for name in "QKV"}
    same(run("sink_bias", arrays | {"KB": far})["O"], run("flash_attention", plain)["O"])


def test_a_factor_of_one_tunes_nothing() -> None:
    arrays = drawn()
    found = run("zero_tuning", arrays | {"gamma": np.ones(3)})["O"]
    same(found, run("flash_attention", arrays)["O"])


def test_calibration_moves_mass_and_keeps_its_sum() -> None:
    arrays = drawn() | {"V": np.ones((2, 3, 7, 1))}
    same(run("attention_calibration", arrays, threshold=0.2)["O"], np.ones((2, 3, 7, 1)))


def test_hops_of_a_grid_share_all_the_attention() -> None:
    arrays = drawn(rows=9, keys=9)
    same(run("head_statistics", arrays, G=3)["HOP"].sum(-1), np.ones((2, 3, 9)))


def test_paper_and_code_of_mixture_of_heads_differ() -> None:
    arrays = moh_inputs(np.random.default_rng(0))
    code, paper = (
        run(name, arrays)["Y"] for name in ("mixture_of_heads", "mixture_of_heads_paper")
    )
    assert np.abs(code - paper).max() > 0.1


def test_training_and_decoding_of_duo_attention_differ_by_one_key() -> None:
    arrays, bounds = drawn(), {"sinks": 1, "recent": 2}
    none = {"retrieval": np.zeros(3, bool)}
    train = run("duo_attention", arrays | {"alpha": np.zeros(3)}, **bounds)["O"]
    decode = run("duo_attention_decode", arrays | none, **bounds)["O"]
    assert np.abs(train - decode).max() > 0.1
    same(train, run("duo_attention_decode", arrays | none, sinks=1, recent=1)["O"])


def test_selecting_every_key_is_attention() -> None:
    arrays = drawn(keys=9, rows=1)
    one = arrays | {"Q": arrays["Q"][:, :, 0]}
    chosen = run("tidal_select", one, J=9)
    same(run("tidal_attend", one | {"IDX": chosen["IDX"]})["O"], chosen["O"])
    same(run("block_topk", arrays, L=2, J=5)["O"], attend(arrays)["O"])
