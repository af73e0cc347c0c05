"""Where published code and paper part, both forms, and what tells them apart.

Forms of MoH, DuoAttention, TransNormerLLM, S6, Flowformer and HyperAttention are told apart beside
the other invariants of these mechanisms.
"""

from typing import Any

import numpy as np
import pytest

from tests.zoo import linear, patterns, recurrent, softmax
from tests.zoo.registry import Arrays, Mechanism, heads, logits, weights
from tests.zoo.test_invariants import run, same
from tests.zoo.test_linear import inner
from tests.zoo.test_zoo import drawn as inputs

MECHANISMS: dict[str, Mechanism] = {
    m.name: m
    for m in (
        *softmax.MECHANISMS,
        *patterns.MECHANISMS,
        *linear.MECHANISMS,
        *recurrent.MECHANISMS,
    )
}


def arrays_of(name: str) -> Arrays:
    return inputs(MECHANISMS[name])


def params_of(name: str) -> dict[str, Any]:
    return dict(MECHANISMS[name].params)


def apart(one: Any, two: Any) -> None:
    assert np.abs(one - two).max() > 1e-2


def test_padding_of_halo_net_takes_mass_at_the_edges() -> None:
    """As timm pads: keys of zeros outside the image; the mean of the values falls short of 1."""
    arrays = arrays_of("halo")
    sizes = {"L": 4, "R": 1}
    arrays |= {n: np.zeros((11, 3)) for n in ("RY", "RX")} | {"V": np.ones((1, 2, 5, 4, 1))}
    same(run("halo", arrays, **sizes)["O"], arrays["V"])
    padded = run("halo_padded", arrays, **sizes)["O"]
    assert (padded < 1).all()
    wide = {n: np.ones((1, 2, 9, 9, 3)) for n in "QKV"} | {
        n: np.zeros((9, 3)) for n in ("RY", "RX")
    }
    whole, padded = (run(n, wide, L=3, R=1)["O"] for n in ("halo", "halo_padded"))
    same(whole[:, :, 3:6, 3:6], padded[:, :, 3:6, 3:6])
    apart(whole[:, :, :3], padded[:, :, :3])


def test_spans_of_the_paper_are_tokens_and_those_of_the_code_blocks() -> None:
    """A span of two blocks of 3 reaches back 3 to 5 keys before the query, one of 6 tokens 5."""
    arrays = heads(np.random.default_rng(0), 15, 15)
    code = run("mixture_of_spans", arrays | {"span": np.full(3, 2)}, L=3)["O"]
    length = {"alpha": np.full(3, 6.0), "beta": np.zeros(3)}
    paper = run("mixture_of_spans_paper", arrays | length, sinks=3)["O"]
    apart(code, paper)
    same(code[:, :, 2::3], paper[:, :, 2::3])  # the last of a block
    one = run("mixture_of_spans", arrays | {"span": np.full(3, 2)}, L=1)["O"]
    length = {"alpha": np.full(3, 2.0), "beta": np.zeros(3)}
    same(one, run("mixture_of_spans_paper", arrays | length, sinks=1)["O"])


def test_spans_grow_with_the_sequence() -> None:
    short, long = (heads(np.random.default_rng(0), n, n) for n in (6, 12))
    rule = {"alpha": np.full(3, -2.0), "beta": np.full(3, 0.5)}
    for arrays, span in ((short, 1), (long, 4)):
        fixed = {"alpha": np.full(3, span), "beta": np.zeros(3)}
        found = run("mixture_of_spans_paper", arrays | rule, sinks=1)["O"]
        same(found, run("mixture_of_spans_paper", arrays | fixed, sinks=1)["O"])


def test_causal_memory_of_the_code_of_cab_has_the_current_key_only() -> None:
    arrays = arrays_of("cab_causal_self")
    paper, code = (run(n, arrays)["O"] for n in ("cab_causal_self", "cab_causal_self_code"))
    same(code[:, :, 0], paper[:, :, 0])
    apart(code[:, :, 1:], paper[:, :, 1:])
    arrays["V"] = np.ones_like(arrays["V"])
    arrays["CV"] = arrays["CV"] * 0
    paper, code = (run(n, arrays)["O"] for n in ("cab_causal_self", "cab_causal_self_code"))
    same(paper, np.ones_like(paper))
    same(code, np.broadcast_to(1 / np.arange(1, 8)[:, None], code.shape))  # not a mean


def test_the_code_of_selective_attention_has_its_temperature_by_place_only() -> None:
    """1 + exp(-exp(beta)) log(i) for the queries: the paper's without what a token says."""
    arrays = arrays_of("selective_self_attention")
    beta = np.array([1.5, 0.3, -2.0])
    factor = np.exp(-np.exp(beta))
    still = {"TQ": np.zeros((2, 3, 7)), "TV": np.zeros((2, 3, 7)), "beta": np.full(3, -1e4)}
    code = run(
        "selective_self_attention", arrays | still | {"alpha": np.log(factor / (1 - factor))}
    )
    heat = 1 + factor[:, None, None] * np.log(np.arange(1, 8))[:, None]
    qkv = {n: arrays[n] for n in "QKV"}
    same(code["O"], run("flash_attention", qkv | {"Q": arrays["Q"] * heat})["O"])
    apart(code["O"], run("selective_self_attention", arrays)["O"])


def test_the_guess_of_sparsifiner_is_scaled_by_heads_in_the_code() -> None:
    """The sizes of its logits decide which of them the guesses add up."""
    arrays, sizes = arrays_of("sparsifiner"), params_of("sparsifiner")
    arrays["CQ"] = 4 * arrays["CQ"]
    code = run("sparsifiner", arrays, **sizes)["O"]
    same(code, run("sparsifiner", arrays, guess=3**-0.5, **sizes)["O"])
    apart(code, run("sparsifiner", arrays, guess=0.1, **sizes)["O"])


def test_the_window_of_the_study_code_of_based_has_one_key_more() -> None:
    arrays = arrays_of("based_window")
    ago = np.subtract.outer(np.arange(linear.LENGTH), np.arange(linear.LENGTH))
    study = weights(logits(arrays["Q"], arrays["K"]), (ago >= 0) & (ago <= 4)) @ arrays["V"]
    apart(run("based_window", arrays, W=4)["O"], study)
    same(run("based_window", arrays, W=5)["O"], study)


def test_a_scaled_first_key_is_another_function_than_a_scaled_first_weight() -> None:
    """What is passed to a fused kernel in some versions; a bias of the logit is the same."""
    arrays = heads(np.random.default_rng(0))
    gamma = np.array([0.5, 2.0, 3.0])
    tuned = run("zero_tuning", arrays | {"gamma": gamma})["O"]
    keys = arrays["K"].copy()
    keys[:, :, 0] *= gamma[:, None]
    apart(tuned, run("flash_attention", arrays | {"K": keys})["O"])
    scores = logits(arrays["Q"], arrays["K"])
    scores[..., 0] += np.log(gamma)[:, None]
    same(tuned, weights(scores, np.tri(7, dtype=bool)) @ arrays["V"])


@pytest.mark.parametrize("name", ["retnet", "retnet_parallel"])
def test_the_norm_of_retention_has_no_mean_in_the_code(name: str) -> None:
    arrays = arrays_of(name)
    out = inner(name, arrays, "O")["O"]
    gate = recurrent.silu(arrays["G"])
    code = gate * recurrent.root_mean_square(out, 1e-6)
    apart(run(name, arrays)["Y"], code)
    middle = out - out.mean(-1, keepdims=True)
    same(run(name, arrays)["Y"], gate * recurrent.root_mean_square(middle, 1e-6))


def test_later_code_of_transnormer_norms_all_heads_together() -> None:
    arrays = arrays_of("norm_attention")
    out = inner("norm_attention", arrays, "Y")["Y"]
    same(run("norm_attention", arrays)["O"], recurrent.root_mean_square(out, 1e-6))
    apart(run("norm_attention", arrays)["O"], recurrent.root_mean_square(out, 1e-6, (1, 3)))


@pytest.mark.parametrize("name", ["linear_attention", "linear_attention_full"])
def test_the_code_of_linear_attention_keeps_the_normaliser_from_zero(name: str) -> None:
    arrays = arrays_of(name)
    arrays["Q"] = arrays["Q"] - 16  # features near 0
    paper, code = (run(name, arrays, eps=eps)["O"] for eps in (0, 1e-6))
    apart(paper, code)
    total = inner(name, arrays, "N")["N"][..., None]
    same(code, paper * total / (total + 1e-6))


def test_sinks_of_the_paper_are_those_above_a_share_of_the_length() -> None:
    """Of the code, those above 0.1: the same for 50 keys, with the paper's alpha of 5."""
    for length in (50, 20):
        arrays = heads(np.random.default_rng(0), length, length)
        arrays["Q"] = 3 * arrays["Q"]
        code = run("attention_calibration", arrays, threshold=0.1)["O"]
        paper = run("attention_calibration", arrays, threshold=5 / length)["O"]
        assert (np.abs(code - paper).max() > 1e-2) == (length != 50)


def test_columns_are_pooled_by_sums_in_the_code_of_combiner() -> None:
    """The paper's prefix maximum of equal keys is one of them; of two rows, the sum is two."""
    arrays = {n: np.ones((1, 1, 9, 2)) for n in "QK"} | {"V": np.eye(9)[None, None]}
    weight = run("combiner_axial", arrays, L=3)["O"][0, 0, 8]
    logit = 2 / np.sqrt(2)
    same(weight[8], 1 / (3 + 2 + 2))  # its row, its column above, and the two other columns
    code = np.exp(logit) / (5 * np.exp(logit) + 2 * np.exp(2 * logit))
    apart(weight[8], code)
