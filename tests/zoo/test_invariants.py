"""What the sources promise of their mechanisms, and where paper and code part."""

from typing import Any

import numpy as np
import pytest

import cascade
from tests.zoo.registry import heads, logits, weights
from tests.zoo.softmax import (
    agent_inputs,
    attend,
    bam_inputs,
    gate_inputs,
    grid_inputs,
    moh_inputs,
)
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


def plain(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: arrays[name] for name in "QKV"}


def causal(arrays: dict[str, Any]) -> Any:
    return run("flash_attention", plain(arrays))["O"]


def test_heads_that_are_all_on_and_weigh_the_same_are_multi_head_attention() -> None:
    arrays = moh_inputs(np.random.default_rng(0))
    arrays |= {name: np.zeros_like(arrays[name]) for name in ("WS", "WR", "WA")}
    plain_heads = np.einsum("bhpf,hfn->bpn", attend(arrays)["O"], arrays["WO"])
    same(run("mixture_of_heads", arrays, J=4)["Y"], plain_heads)
    arrays = drawn() | {"WO": arrays["WO"][:3]}
    plain_heads = np.einsum("bhpf,hfn->bpn", causal(arrays), arrays["WO"])
    same(run("mixture_of_heads_llama", arrays, S=1, J=2)["Y"], plain_heads)


def test_experts_that_are_the_same_are_one_expert() -> None:
    """And experts that share their keys are experts with equal keys of their own."""
    arrays = bam_inputs(True)(np.random.default_rng(0))
    own = arrays | {name: np.stack([arrays[name]] * 2, 1) for name in "KV"}
    shared = run("bam_shared", arrays)["Y"]
    same(shared, run("bam", own)["Y"])
    one = arrays | {n: np.repeat(arrays[n].take([0], a), 2, a) for n, a in (("Q", 1), ("WO", 0))}
    alone = one | {"Q": one["Q"][:, :1], "WO": one["WO"][:1], "WR": one["WR"][:1]}
    same(run("bam_shared", one)["Y"], run("bam_shared", alone)["Y"])


def test_spans_and_strides_over_everything_are_causal_attention() -> None:
    arrays = drawn()
    same(run("mixture_of_spans", arrays | {"span": np.full(3, 4)}, L=2)["O"], causal(arrays))
    same(run("s2_attention", arrays, L=2, local=1, stride=1)["O"], causal(arrays))
    same(run("s2_attention", arrays, L=2, local=4, stride=3)["O"], causal(arrays))
    same(
        run("duo_attention", arrays | {"alpha": np.ones(3)}, sinks=1, recent=2)["O"], causal(arrays)
    )


def weighed(name: str, arrays: dict[str, Any], **params: Any) -> Any:
    """The weights, by values that are unit vectors."""
    keys = arrays["K"].shape[2]
    unit = np.broadcast_to(np.eye(keys), (*arrays["K"].shape[:2], keys, keys))
    return run(name, arrays | {"V": unit}, **params)["O"]


def test_shards_cover_the_context_and_drop_a_key_for_good() -> None:
    """Heads together see all blocks; off the local band, a key dropped once stays dropped."""
    arrays = drawn(rows=24, keys=24)
    seen = weighed("s2_attention", arrays, L=2, local=1, stride=3)[0] > 0
    assert (seen.any(0) == np.tri(24, dtype=bool)).all()
    p, m = np.arange(24)[:, None] // 2, np.arange(24)[None] // 2
    for own in seen:
        far = own & (p - m >= 1)
        for key in np.flatnonzero(far.any(0)):  # what is read from far away was never dropped
            assert own[key:, key].all()


def test_subjects_do_not_see_each_other() -> None:
    arrays = drawn()
    subject = np.array([[0, 1, 1, 2, 2, 0, 1]] * 2)
    labels = {"query_subject": subject, "key_subject": subject}
    seen = weighed("isolation", arrays | labels)[0, 0] > 0
    p, m = subject[0][:, None], subject[0][None]
    assert (seen == ((p == m) | (p == 0) | (m == 0))).all()
    one = {name: np.ones((2, 7), int) for name in labels}
    same(run("isolation", arrays | one)["O"], attend(arrays)["O"])


def test_flat_attention_has_the_largest_entropy() -> None:
    arrays = drawn(rows=9, keys=9)
    flat = run("head_statistics", arrays | {"Q": np.zeros_like(arrays["Q"])}, G=3)
    same(flat["ENT"], np.full((2, 3, 9), np.log(9)))
    same(flat["PEAK"], np.full((2, 3, 9), 1 / 9))
    assert (run("head_statistics", arrays, G=3)["ENT"] < np.log(9)).all()


def test_divergence_is_from_the_output_with_the_image_deleted() -> None:
    arrays = drawn(keys=9)
    visual = np.broadcast_to(np.arange(9) < 4, (2, 9))
    found = run("vision_divergence", arrays | {"visual": visual})
    text = arrays | {name: arrays[name][:, :, 4:] for name in "KV"}
    gone = attend(arrays)["O"] - attend(text)["O"]
    same(found["VHD"], np.linalg.norm(gone, axis=-1))
    none = run("vision_divergence", arrays | {"visual": np.zeros((2, 9), bool)})
    same(none["VHD"], np.zeros((2, 3, 7)))


def test_two_opposite_heads_are_a_step_of_gradient_descent() -> None:
    """As their temperatures go to 0, and with the mean taken off."""
    rng = np.random.default_rng(0)
    x, y, query = rng.standard_normal((1, 9, 4)), rng.standard_normal((1, 9)), np.ones((1, 1, 4))
    omega = 1e-5
    heads_ = {"omega": np.array([omega, -omega]), "mu": np.array([1, -1]) / (2 * omega)}
    found = run("in_context_regression", {"X": x, "y": y, "query": query} | heads_)["Y"]
    step = np.einsum("bmd,bm->bd", x - x.mean(1, keepdims=True), y) / 9
    np.testing.assert_allclose(found[:, 0], (step * query[:, 0]).sum(-1), rtol=1e-6)


def test_weights_used_again_are_those_of_the_output() -> None:
    """With values as scores, both are the same average."""
    arrays = drawn(rows=7, keys=7) | {"WR": np.zeros((2, 3, 5))}
    none = run("attention_aware_routing", arrays)
    same(none["G"], np.zeros((2, 3, 7, 2)))
    same(none["O"], attend(arrays)["O"])
    arrays["WR"][1, 1, 2] = 1
    scores = attend(arrays)["O"][:, 1, :, 2, None]
    expected = attend(arrays | {"V": np.broadcast_to(scores[:, None], (2, 3, 7, 1))})["O"]
    same(run("attention_aware_routing", arrays)["G"][..., 1], expected[..., 0])


def test_a_column_score_grows_by_a_factor_each_step() -> None:
    """The penalty of decoding, token by token: a row is known when it is made."""
    arrays = {name: drawn()[name] for name in "QK"}
    before = {name: x[:, :, :6] for name, x in arrays.items()}
    weight = weights(logits(arrays["Q"], arrays["K"]), np.tri(7, dtype=bool)).max(1)
    row = weight[:, 6] / weight[:, 6].sum(-1, keepdims=True)
    earlier, later = (run("opera", a, sigma=5)["C"] for a in (before, arrays))
    same(later, np.concatenate([earlier, np.ones((2, 1))], 1) * 5 * row)


def test_a_key_bias_is_a_key_of_zero_value() -> None:
    arrays = drawn() | {"KB": np.full((3, 4), 0.5), "VB": np.zeros((3, 5))}
    found = run("sink_bias", arrays)["O"]
    scores = np.einsum("bhpe,he->bhp", arrays["Q"], arrays["KB"])[..., None] / 2
    rows = logits(arrays["Q"], arrays["K"])
    total = (np.exp(rows) * np.tri(7)).sum(-1, keepdims=True)
    same(found, causal(arrays) * total / (total + np.exp(scores)))
    biased = plain(arrays) | {"VB": np.ones((3, 5))}
    same(run("sink_value_bias", biased)["O"], causal(arrays) + 1)


@pytest.mark.parametrize("name", ["sink_sigmoid", "sink_elu"])
def test_rows_compete_only_where_they_are_normalised(name: str) -> None:
    """A key that draws everything takes nothing from the others, unless rows are divided."""
    arrays = drawn()
    near = arrays | {"K": arrays["K"].copy()}
    near["K"][:, :, 0] += 9 * np.sign(arrays["Q"]).mean(2)
    for form, moved in ((name, False), (f"{name}_normalised", True)):
        change = weighed(form, near)[..., 1:] - weighed(form, arrays)[..., 1:]
        assert (np.abs(change).max() > 1e-3) == moved
    same(weighed(f"{name}_normalised", arrays).sum(-1).round(6), np.ones((2, 3, 7)))


def test_temperatures_of_one_are_attention() -> None:
    arrays = drawn() | {name: np.zeros((2, 3, 7)) for name in ("TQ", "TV")}
    still = arrays | {name: np.full(3, -1e4) for name in ("alpha", "beta")}
    same(run("selective_self_attention", still)["O"], causal(arrays))


def test_agents_average_values() -> None:
    rng = np.random.default_rng(0)
    arrays = agent_inputs(rng)
    weight = run("agent_attention", arrays | {"V": np.ones((2, 3, 9, 1))})["O"]
    same(weight, np.ones((2, 3, 6, 1)))


def test_tasks_do_not_meet() -> None:
    rng = np.random.default_rng(0)
    arrays = {"X": rng.standard_normal((2, 9, 6)), "selector": rng.standard_normal((3, 2, 6))}
    alone = arrays | {"selector": arrays["selector"][1:2]}
    same(run("multi_lane", arrays)["Y"][:, 1:2], run("multi_lane", alone)["Y"])


def test_pooled_layers_are_means_of_their_values() -> None:
    rng = np.random.default_rng(0)
    draw = rng.standard_normal
    arrays = {"X": np.ones((2, 9, 6)), "embedding": np.zeros((9, 6)), "latent": draw((4, 3, 5))}
    arrays |= {"WK": draw((3, 5, 6)), "WV": draw((3, 2, 6))}
    same(run("layer_pooling", arrays)["Y"], np.broadcast_to(arrays["WV"].sum(-1), (2, 3, 2)))


def test_guesses_that_keep_every_key_are_attention() -> None:
    arrays = drawn(keys=9)
    rng = np.random.default_rng(1)
    arrays |= {"CQ": rng.standard_normal((2, 3, 7, 2)), "CK": rng.standard_normal((2, 3, 9, 2))}
    arrays |= {name: rng.standard_normal((9, 4)) for name in ("down", "up")}
    same(run("sparsifiner", arrays, I=2, J=9)["O"], attend(arrays)["O"])


def test_a_block_as_large_as_the_image_is_attention() -> None:
    rng = np.random.default_rng(0)
    image = {name: rng.standard_normal((1, 2, 3, 4, 3)) for name in "QKV"}
    none = {name: np.zeros((11, 3)) for name in ("RY", "RX")}
    flat = {name: x.reshape(1, 2, 12, 3) for name, x in image.items()}
    same(run("halo", image | none, L=4, R=1)["O"].reshape(1, 2, 12, 3), attend(flat)["O"])


def test_a_gate_decides_for_its_own_input() -> None:
    """Its decision is what the attention of the layers after it takes."""
    arrays = gate_inputs(np.random.default_rng(0))
    decided = run("dyvte_gate", arrays)["EXIT"]
    alone = [
        run("dyvte_gate", arrays | {n: arrays[n][i : i + 1] for n in ("X", "text")})["EXIT"][0]
        for i in range(4)
    ]
    assert (decided == alone).all()
    assert decided.any()
    assert not decided.all()
    shown = drawn(batch=4) | {"visual": ~arrays["text"]}
    found = run("dyvte", shown | {"exited": decided})["O"]
    seen = ~(shown["visual"] & decided[:, None])[:, None, None] & np.tri(7, dtype=bool)
    same(found, attend(shown, seen)["O"])


def test_an_agent_layer_on_images_is_that_on_sequences_and_a_convolution() -> None:
    """A filter that only moves an image; and squares of one pixel, in a column of pixels."""
    rng = np.random.default_rng(0)
    arrays = grid_inputs(rng) | {"bias": np.zeros((3, 5)), "W": np.zeros((3, 5, 3, 3))}
    still = run("agent_attention_image", arrays, G=6, S=2)["O"]
    arrays["W"][:, :, 1, 2] = 1
    moved = run("agent_attention_image", arrays, G=6, S=2)["O"] - still
    right = arrays["V"].reshape(2, 3, 6, 6, 5)
    expected = np.concatenate([right[:, :, :, 1:], np.zeros((2, 3, 6, 1, 5))], 3)
    same(moved, expected.reshape(2, 3, 36, 5))
    own = {"B1": arrays["B1"][:, :6], "B2": arrays["B2"][:, :, :6]}
    column = {name: arrays[name][:, :, :6] for name in "QKV"} | {
        "B1": own["B1"][..., :6],
        "B2": own["B2"][:, :6],
    }
    none = {"bias": np.zeros((3, 5)), "W": np.zeros((3, 5, 1, 1))}
    same(
        run("agent_attention_image", column | none, G=1, S=1)["O"],
        run("agent_attention", column)["O"],
    )


def test_products_of_any_sign_are_divided_only_when_they_are_large() -> None:
    """Rows of a kernel that sum to more than 1 sum to 1, or to -1."""
    arrays = drawn()
    total = (logits(arrays["Q"], arrays["K"]) * np.tri(7)).sum(-1)
    found = weighed("sink_kernel", arrays).sum(-1)
    same(found, np.clip(total, -1, 1))
