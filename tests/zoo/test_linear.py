"""What the sources promise of linear mixers, and their chunked forms."""

import re
from typing import Any

import numpy as np
import pytest

import cascade
from cascade.transforms.chunk import Chunked, chunk
from tests.zoo import linear
from tests.zoo.linear import LENGTH, softmax, whole
from tests.zoo.registry import Arrays, Mechanism, heads
from tests.zoo.softmax import elu_plus_one, sigmoid
from tests.zoo.test_invariants import run, same
from tests.zoo.test_zoo import FOLDER, agree, load
from tests.zoo.test_zoo import drawn as inputs

# Another module of the family joins by its own tuples.
MECHANISMS: tuple[Mechanism, ...] = linear.MECHANISMS
CHUNKED: tuple[str, ...] = linear.CHUNKED

# What has no chunked form, though a row reads only earlier ones.
WITHOUT_STATE = {
    "based_window": "a window is no prefix",
    "lasp2h": "the exponential of a product has no finite state",
    "toeplitz_causal": "the coefficients are any function of the distance",
}

NAMED = {m.name: m for m in MECHANISMS}
SIZES = (1, 3, 16, 64)


def chunked(mechanism: Mechanism) -> Chunked:
    result = chunk(load(mechanism))
    assert result is not None and result.changed and not result.refusals, mechanism.name
    return result


def test_all_with_a_prefix_or_a_recurrence_are_chunked() -> None:
    found = set()
    for m in MECHANISMS:
        text = (FOLDER / f"{m.name}.cascade").read_text()
        if "\ninit " in text or re.search(r"where .*(m <= p|m <= w\*P)", text):
            found.add(m.name)
    assert found == set(CHUNKED) | set(WITHOUT_STATE)


@pytest.mark.parametrize("name", CHUNKED)
def test_the_size_of_a_chunk_does_not_matter(name: str) -> None:
    mechanism = NAMED[name]
    source, result = load(mechanism), chunked(mechanism).result
    sizes = [p.name for p in result.params if p not in source.params]
    assert sizes
    for seed in range(2):
        arrays = inputs(mechanism, seed)
        wanted = mechanism.reference(arrays | dict(mechanism.params))
        for size in SIZES:
            settings = dict(mechanism.params) | dict.fromkeys(sizes, size)
            agree(cascade.run(result, arrays, settings), wanted, mechanism.tolerance)


@pytest.mark.parametrize("name", [n for n in CHUNKED if not n.startswith("lasp")])
def test_a_chunked_form_keeps_no_square_and_no_state_of_each_step(name: str) -> None:
    places = {"p", "m", "i", "t"}
    for tensor, made in chunked(NAMED[name]).result.tensors.items():
        long = places & set(made.ranks)
        assert len(long) <= 1 and not (long and made.iterative), tensor


def test_sums_over_all_keys_are_reassociated() -> None:
    mechanism = NAMED["linear_attention_full"]
    result = chunked(mechanism)
    assert {s.law for s in result.steps} == {"reassociate"}
    assert not any({"p", "m"} <= set(t.ranks) for t in result.result.tensors.values())
    arrays = inputs(mechanism)
    agree(cascade.run(result.result, arrays), mechanism.reference(arrays), mechanism.tolerance)


@pytest.mark.parametrize("name", ["based_window", "lasp2h", *CHUNKED])
def test_no_row_depends_on_a_later_one(name: str) -> None:
    """The rows of LASP-2 are devices here; within one they are those of a sequence, see below."""
    mechanism = NAMED[name]
    arrays = inputs(mechanism)
    devices = name.startswith("lasp")

    def ordered(x: Any) -> Any:
        return np.moveaxis(x, 2 if devices else x.shape.index(LENGTH), 0)

    since = 1 if devices else 8
    changed = {n: x.copy() for n, x in arrays.items()}
    for x in changed.values():
        if devices or LENGTH in x.shape:
            ordered(x)[since:] += 1
    (before,), (after,) = (run(name, x, **mechanism.params).values() for x in (arrays, changed))
    same(ordered(after)[:since], ordered(before)[:since])
    assert np.abs(ordered(after)[since:] - ordered(before)[since:]).max() > 1e-3


def drawn(seed: int = 0, rows: int = LENGTH, keys: int = LENGTH) -> Arrays:
    return heads(np.random.default_rng(seed), rows, keys)


def inner(name: str, arrays: Arrays, *outputs: str, **params: Any) -> Arrays:
    """Tensors of a spec that are no outputs of it."""
    text = (FOLDER / f"{name}.cascade").read_text().partition("\noutput")[0]
    return cascade.run(cascade.parse(f"{text}\noutput {', '.join(outputs)}\n"), arrays, params)


@pytest.mark.parametrize(
    "name", ["linear_attention", "linear_attention_full", "based", "based_window", "lasp2h"]
)
def test_normalised_rows_are_means_of_the_values(name: str) -> None:
    arrays = inputs(NAMED[name])
    arrays["V"] = np.ones_like(arrays["V"])
    found = run(name, arrays, **NAMED[name].params)["O"]
    same(found, np.ones_like(found))


def test_a_transformer_is_an_rnn() -> None:
    """The recurrence of the paper: a state and a normaliser, updated key by key."""
    arrays = drawn()
    q, k = elu_plus_one(arrays["Q"]), elu_plus_one(arrays["K"])
    found, state, total = run("linear_attention", arrays)["O"], np.zeros((2, 3, 4, 5)), 0
    for i in range(LENGTH):
        state = state + np.einsum("bhe,bhf->bhef", k[:, :, i], arrays["V"][:, :, i])
        total = total + k[:, :, i]
        row = np.einsum("bhe,bhef->bhf", q[:, :, i], state)
        same(found[:, :, i], row / np.einsum("bhe,bhe->bh", q[:, :, i], total)[..., None])


def test_the_last_row_of_causal_linear_attention_sees_all_keys() -> None:
    arrays = drawn()
    full = run("linear_attention_full", arrays)["O"]
    same(run("linear_attention", arrays)["O"][:, :, -1], full[:, :, -1])


def test_normed_rows_have_one_size_whatever_the_values() -> None:
    arrays = drawn()
    found = run("norm_attention", arrays, eps=0)["O"]
    same((found**2).mean(-1), np.ones((2, 3, LENGTH)))
    same(run("norm_attention", arrays | {"V": 7 * arrays["V"]}, eps=0)["O"], found)


def test_normalised_attention_without_its_vector_is_plain_linear_attention() -> None:
    arrays = drawn()
    one = {n: x[:, :, None] for n, x in arrays.items()}
    none = {"U": np.ones((2, LENGTH, 3)), "W": np.zeros((3, 3))}
    same(run("normalised_attention", arrays | none)["O"], run("lasp2", one)["O"][:, :, 0])


def test_flow_is_conserved() -> None:
    """Sinks share what all sources give, and sources what all sinks take, without eps exactly."""
    arrays = drawn(rows=6, keys=9)
    found = inner("flowformer", arrays, "IN", "OUT", "SINK", "SOURCE", "W", eps=0)
    flows = sigmoid(arrays["Q"]) @ np.swapaxes(sigmoid(arrays["K"]), -1, -2)
    same((flows * found["IN"][..., None]).sum(-1), np.ones((2, 3, 6)))  # incoming flow of a sink
    same((flows * found["OUT"][:, :, None]).sum(-2), np.ones((2, 3, 9)))  # outgoing of a source
    same(found["SINK"].sum(-1), np.full((2, 3), 9.0))
    same(found["SOURCE"].sum(-1), np.full((2, 3), 6.0))
    same(found["W"].sum(-1), np.ones((2, 3)))


def test_causal_flow_is_conserved_by_rows_only() -> None:
    """The code's sum for a source runs over the queries before it, not over those that read it."""
    arrays = drawn()
    found = inner("flowformer_causal", arrays, "IN", "OUT", eps=0)
    flows = np.tril(sigmoid(arrays["Q"]) @ np.swapaxes(sigmoid(arrays["K"]), -1, -2))
    number = np.arange(1, LENGTH + 1)
    same((flows * found["IN"][..., None]).sum(-1) / number, np.ones((2, 3, LENGTH)))
    taken = (flows * found["OUT"][:, :, None]).sum(-2) / number[::-1]
    assert np.abs(taken - 1).max() > 0.1


def test_taylor_weights_are_at_least_a_half_and_near_those_of_softmax() -> None:
    arrays = drawn()
    weights = inner("based", arrays, "T")["T"]
    assert (weights[..., np.tri(LENGTH, dtype=bool)] >= 0.5).all()

    def error(size: float) -> float:
        small = arrays | {"Q": size * arrays["Q"]}
        return float(np.abs(run("based", small)["O"] - softmax(small)).max())

    assert error(0.05) < 1e-3
    assert 7 < error(0.05) / error(0.025) < 9  # of third order


def test_a_window_as_long_as_the_sequence_is_causal_attention() -> None:
    arrays = drawn()
    same(run("based_window", arrays, W=LENGTH)["O"], softmax(arrays))
    same(run("based_window", arrays, W=1)["O"], arrays["V"])


def test_what_a_tied_lstm_forgets_it_takes_in() -> None:
    """With an input gate of 1 - f the state is a mean of what came in and of its start, 0."""
    arrays = inputs(NAMED["quasi_lstm"])
    arrays |= {"WI": -arrays["WF"], "WO": np.zeros((4, 3))}
    arrays["U"][..., 0] = 1
    arrays["WX"] = np.eye(4)[:, :1] * np.ones(3)  # 1 comes in
    forgotten = np.cumprod(sigmoid(arrays["U"] @ arrays["WF"]), 1)
    same(run("quasi_lstm", arrays)["Y"], 0.5 * (1 - forgotten))


def test_zero_order_hold_is_exact_and_the_rule_of_the_code_is_not() -> None:
    """A step cut in two halves of one input ends in the same state."""
    arrays = inputs(NAMED["s6"])
    size = np.logaddexp(0, arrays["raw"] + arrays["bias"])
    halves = {n: np.repeat(arrays[n], 2, 1) for n in "UBC"}
    halves["raw"] = np.log(np.expm1(np.repeat(size, 2, 1) / 2)) - arrays["bias"]
    same(run("s6", arrays | halves)["Y"][:, 1::2], run("s6", arrays)["Y"])
    euler = cascade.load(FOLDER.parent / "selective_state_space.cascade")
    rates = {"A": -np.exp(arrays.pop("AL"))}
    once, twice = (cascade.run(euler, arrays | rates | more)["Y"] for more in ({}, halves))
    assert np.abs(once - twice[:, 1::2]).max() > 0.1


def test_pooling_is_flat_neighbourhood_attention_inside_the_image() -> None:
    """At the border the window shrinks, where that of neighbourhood attention shifts."""
    image = np.random.default_rng(0).standard_normal((2, 6, 7, 5))
    flat = {"Q": np.zeros((2, 1, 6, 7, 4)), "K": np.zeros((2, 1, 6, 7, 4)), "V": image[:, None]}
    found = run("pool_former", {"U": image})["O"] + image
    near = run("neighbourhood_2d", flat, J=3, I=3)["O"][:, 0]
    same(found[:, 1:-1, 1:-1], near[:, 1:-1, 1:-1])
    assert np.abs(found - near)[:, 0].max() > 0.1
    same(run("pool_former", {"U": np.ones_like(image)})["O"], np.zeros_like(image))


def test_fnet_twice_is_the_tokens_and_their_mirror_image() -> None:
    x = inputs(NAMED["fnet"])["X"]
    mirrored = np.roll(x[:, ::-1, ::-1], 1, (1, 2))
    twice = run("fnet", {"X": run("fnet", {"X": x})["Y"]})["Y"]
    same(twice / (x.shape[1] * x.shape[2]), (x + mirrored) / 2)


def test_a_toeplitz_matrix_is_part_of_a_circulant() -> None:
    """As the code has it: a product of Fourier transforms of twice the length."""
    arrays = inputs(NAMED["toeplitz"])
    n = arrays["X"].shape[1]
    faded = arrays["T"] * 0.9 ** np.abs(np.arange(1 - n, n))[:, None]
    circle = np.concatenate([faded[n - 1 :], np.zeros((1, 3)), faded[: n - 1]])
    product = np.fft.rfft(arrays["X"], 2 * n, 1) * np.fft.rfft(circle, axis=0)
    wanted = np.fft.irfft(product, 2 * n, 1)[:, :n]
    same(run("toeplitz", arrays, decay=0.9)["Y"], wanted)
    faded[: n - 1] = 0  # nothing from later positions
    causal = {"T": arrays["T"][n - 1 :], "X": arrays["X"]}
    wanted = run("toeplitz", {"T": faded, "X": arrays["X"]}, decay=1)["Y"]
    same(run("toeplitz_causal", causal, decay=0.9)["Y"], wanted)


@pytest.mark.parametrize("name", ["lasp2", "lasp2_full", "lasp2h"])
def test_the_number_of_devices_does_not_matter(name: str) -> None:
    arrays = whole(inputs(NAMED[name]))
    found = []
    for count in (1, 3, 7, 21):
        cut = {n: x.reshape(2, 3, count, 21 // count, -1) for n, x in arrays.items()}
        found.append(run(name, cut)["O"].reshape(2, 3, 21, 5))
    for other in found[1:]:
        same(other, found[0])
