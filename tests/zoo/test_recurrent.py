"""What the sources promise of gated linear attention, and that its chunks mean the same."""

from typing import Any

import numpy as np
import pytest

import cascade
from cascade.api import run_program
from cascade.backends.compare import compare
from cascade.transforms.chunk import chunk
from tests.zoo.recurrent import INPUTS, MECHANISMS, retention, silu
from tests.zoo.registry import Mechanism
from tests.zoo.test_invariants import run, same
from tests.zoo.test_zoo import FOLDER, agree, load

SIZES = (1, 3, 16, 64)
LENGTHS = (0, 1, 7, 70)
EACH = pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda m: m.name)


def drawn(name: str, length: int = 7, seed: int = 0) -> dict[str, Any]:
    return INPUTS[name](np.random.default_rng([seed, length, *name.encode()]), length)


def chunked(mechanism: Mechanism) -> tuple[Any, str]:
    """The chunked form, and the param that sets the size of a chunk."""
    source = load(mechanism)
    found = chunk(source)
    assert found is not None and found.changed and not found.refusals
    (size,) = (p.name for p in found.result.params if p not in source.params)
    return found.result, size


@EACH
def test_no_size_of_a_chunk_matters(mechanism: Mechanism) -> None:
    result, size = chunked(mechanism)
    params = dict(mechanism.params)
    for length in LENGTHS:
        arrays = drawn(mechanism.name, length)
        expected = cascade.run(load(mechanism), arrays, params)
        for number in SIZES:
            agree(cascade.run(result, arrays, params | {size: number}), expected, 1e-10)


@EACH
@pytest.mark.parametrize(("length", "number"), [(0, 3), (1, 16), (7, 3), (70, 16), (70, 64)])
def test_chunks_run_as_kernels(mechanism: Mechanism, length: int, number: int) -> None:
    """The Program in NumPy computes in float32."""
    result, size = chunked(mechanism)
    arrays, params = drawn(mechanism.name, length), dict(mechanism.params)
    found, _ = run_program(result, arrays, params | {size: number}, {})
    agree(found, cascade.run(load(mechanism), arrays, params), 1e-4)


@EACH
def test_chunks_lose_no_finite_value(mechanism: Mechanism) -> None:
    """Random extents, those of 0 among them, and extreme values."""
    result, _ = chunked(mechanism)
    compared = compare(load(mechanism), result, 5, 21)
    assert [c for c in compared if not c.ok] == [] and sum(c.compared for c in compared) > 0


@EACH
def test_chunks_pass_once(mechanism: Mechanism) -> None:
    """The pass of the states and that of the outputs are one."""
    result, size = chunked(mechanism)
    assert cascade.analyse(result).passes.of_rank()[f"{size[:-1].lower()}1"] == 1


@EACH
def test_no_row_depends_on_a_later_step(mechanism: Mechanism) -> None:
    arrays, params = drawn(mechanism.name), dict(mechanism.params)
    early = {n: x[:, :, :4] if x.ndim > 2 else x for n, x in arrays.items()}
    (whole,) = cascade.run(load(mechanism), arrays, params).values()
    (part,) = cascade.run(load(mechanism), early, params).values()
    same(whole[:, :, :4], part)


@pytest.mark.parametrize("name", ["lightning", "mamba2"])
def test_what_is_not_normalised_is_linear_in_values(name: str) -> None:
    arrays, values = drawn(name), "V" if name == "lightning" else "X"
    (one,) = run(name, arrays).values()
    (two,) = run(name, arrays | {values: 2 * arrays[values]}).values()
    same(two, 2 * one)


def test_lightning_without_slopes_is_linear_attention() -> None:
    arrays = drawn("lightning") | {"slope": np.zeros(3)}
    scores = np.tril(arrays["Q"] @ np.swapaxes(arrays["K"], -1, -2))
    same(run("lightning", arrays)["O"], scores @ arrays["V"])


def test_the_steepest_slope_leaves_the_own_value() -> None:
    arrays = drawn("lightning") | {"slope": np.full(3, 1e4)}
    own = (arrays["Q"] * arrays["K"]).sum(-1, keepdims=True)
    same(run("lightning", arrays)["O"], own * arrays["V"])


TRANSNORMERS = ["transnormer_llm", "transnormer_llm_paper", "transnormer_llm_first"]


@pytest.mark.parametrize("name", TRANSNORMERS)
def test_transnormer_has_length_one_over_all_heads(name: str) -> None:
    arrays = drawn(name) | {"U": np.ones((2, 4, 7, 5))}
    out = run(name, arrays, eps=0)["Y"]
    same((out**2).mean((1, 3)), np.ones((2, 7)))
    assert abs((out**2).mean(3) - 1).max() > 0.1  # not head by head


def transnormed(arrays: dict[str, Any], slopes: Any) -> Any:
    """Lightning attention between the activations, the norm and the gate."""
    inner = {"Q": silu(arrays["Q"]), "K": silu(arrays["K"]), "V": arrays["V"]}
    out = run("lightning", inner | {"slope": np.asarray(slopes)})["O"]
    return out / np.sqrt((out**2).mean((1, 3), keepdims=True) + 1e-6) * arrays["U"]


def test_transnormer_paper_and_code_part() -> None:
    """Four heads in the first of 24 layers, and the last: slopes as each of the two has them."""
    arrays = drawn("transnormer_llm")
    code = np.array([1 / 4, 1 / 16, 1 / 64, 1 / 256])
    paper = np.array([2, 4, 6, 8])
    for layer in (0, 23):
        by_code = run("transnormer_llm", arrays, layer=layer)["Y"]
        by_paper = run("transnormer_llm_paper", arrays, layer=layer)["Y"]
        same(by_code, transnormed(arrays, code * (1 - layer / 23 + 1e-5)))
        same(by_paper, transnormed(arrays, paper * (1 - layer / 24)))
        assert abs(by_code - by_paper).max() > 0.1


def test_a_first_layer_without_angles_is_as_the_others() -> None:
    arrays = drawn("transnormer_llm")
    still = run("transnormer_llm_first", arrays | {"theta": np.zeros((4, 4))})["Y"]
    same(still, run("transnormer_llm", arrays, layer=0)["Y"])


def test_the_last_layer_of_the_code_forgets_nearly_nothing() -> None:
    arrays = drawn("transnormer_llm")
    found = run("transnormer_llm", arrays, layer=23)["Y"]
    np.testing.assert_allclose(found, transnormed(arrays, np.zeros(4)), atol=1e-4)


@pytest.mark.parametrize("length", LENGTHS)
def test_retention_is_the_same_recurrent_and_parallel(length: int) -> None:
    arrays = drawn("retnet", length)
    same(run("retnet", arrays)["Y"], run("retnet_parallel", arrays)["Y"])


def test_rescaled_rows_of_retention_vanish_in_the_norm() -> None:
    arrays = drawn("retnet", 40)
    arrays["Q"] *= 9
    expected = retention(arrays | {"eps": 0}, rescale=True)["Y"]
    np.testing.assert_allclose(run("retnet_parallel", arrays, eps=0)["Y"], expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["retnet", "retnet_parallel", "transnormer_llm_first"])
def test_a_turn_tells_distances_only(name: str) -> None:
    """Behind steps without a key, everything is where it was."""
    arrays = drawn(name)
    later = {
        n: np.concatenate([np.zeros_like(x), x], 2) if x.ndim > 2 else x for n, x in arrays.items()
    }
    same(run(name, later)["Y"][:, :, 7:], run(name, arrays)["Y"])


def test_the_first_step_of_retention_is_not_turned() -> None:
    arrays = drawn("retnet", 1)
    plain = cascade.load(FOLDER.parent / "retention.cascade")
    out = cascade.run(plain, {n: arrays[n] for n in "QKV"})["O"]
    middle = out - out.mean(-1, keepdims=True)
    norm = middle / np.sqrt((middle**2).mean(-1, keepdims=True) + 1e-6)
    same(run("retnet", arrays)["Y"], silu(arrays["G"]) * norm)


def test_mamba2_of_one_channel_a_head_is_the_selective_state_space() -> None:
    """S6 with one rate for all states of a channel."""
    arrays = drawn("mamba2")
    arrays["X"] = arrays["X"][..., :1]
    arrays |= {n: arrays[n][:, :1] for n in "BC"}
    channels = {"U": arrays["X"][..., 0], "raw": arrays["raw"]}
    selective = {n: np.swapaxes(x, 1, 2) for n, x in channels.items()}
    selective |= {"B": arrays["B"][:, 0], "C": arrays["C"][:, 0]}
    selective |= {"bias": arrays["bias"], "skip": arrays["skip"]}
    selective["A"] = np.repeat(-np.exp(arrays["log_A"])[:, None], 3, 1)
    plain = cascade.load(FOLDER.parent / "selective_state_space.cascade")
    found = run("mamba2", arrays)["Y"][..., 0]
    same(found, np.swapaxes(cascade.run(plain, selective)["Y"], 1, 2))


def test_mamba2_heads_share_their_group() -> None:
    arrays = drawn("mamba2")
    apart = arrays | {n: np.repeat(arrays[n], 2, 1) for n in "BC"}
    same(run("mamba2", arrays)["Y"], run("mamba2", apart)["Y"])
    with pytest.raises(cascade.InputError, match="as many heads"):
        run("mamba2", arrays | {n: np.repeat(arrays[n], 3, 1)[:, :3] for n in "BC"})


def test_a_mamba2_step_of_no_time_passes_over_the_token() -> None:
    """What it reads is what the state was; the skip is beside the state."""
    arrays = drawn("mamba2")
    arrays["raw"][:, :, 3] = -1e3
    arrays["C"][:, :, 3] = arrays["C"][:, :, 2]
    state = run("mamba2", arrays | {"skip": np.zeros(4)})["Y"]
    same(state[:, :, 3], state[:, :, 2])


def test_gla_with_one_rate_is_retention() -> None:
    """Every channel of a head at the rate of the head, before the norm and the gate."""
    arrays = drawn("gla")
    rate = (1 - 2.0 ** (-5 - np.arange(3)))[:, None, None] ** 16
    arrays["raw"] = np.broadcast_to(np.log(rate / (1 - rate)), arrays["raw"].shape)
    plain = cascade.load(FOLDER.parent / "retention.cascade")
    out = cascade.run(plain, {n: arrays[n] for n in "QKV"})["O"]
    norm = out / np.sqrt((out**2).mean(-1, keepdims=True) + 1e-5)
    same(run("gla", arrays)["Y"], norm * arrays["gain"] * silu(arrays["G"]))


def test_a_closed_gate_of_gla_forgets_its_channel_only() -> None:
    """Channel 0 closes at step 4: what was in it before is gone, in the others it is not."""
    arrays = drawn("gla")
    arrays["raw"][:, :, 4, 0] = -1e6
    later = [run("gla", arrays)["Y"][:, :, 4:]]
    for channel in (0, 1):
        keys = arrays["K"].copy()
        keys[:, :, :4, channel] = 9
        later.append(run("gla", arrays | {"K": keys})["Y"][:, :, 4:])
    same(later[1], later[0])
    assert abs(later[2] - later[0]).max() > 0.1


def written_once(keys: Any, values: Any, query: Any, name: str = "delta_net") -> Any:
    """The last read-out of one head, up to the norm; each key is written whole (beta is 1)."""
    length, width = len(keys), values.shape[-1]
    arrays = {"K": keys, "Q": np.repeat(query[None], length, 0), "V": values}
    arrays = {n: x[None, None] for n, x in arrays.items()}
    arrays |= {"raw": np.full((1, 1, length), 1e3), "gain": np.ones(width)}
    return run(name, arrays, scale=1, eps=0, eps_out=0)["Y"][0, 0, -1]


def normed(x: Any) -> Any:
    return x / np.sqrt((x**2).mean(-1))


def test_a_delta_net_recalls_orthogonal_keys() -> None:
    values = np.random.default_rng(0).standard_normal((4, 5))
    for m in range(4):
        found = written_once(np.eye(4), values, np.eye(4)[m])
        same(found, normed(silu(values[m])))


def test_a_delta_net_overwrites_what_linear_attention_adds() -> None:
    """The same key again: its value is replaced, those of the other keys stay."""
    keys = np.eye(4)[[0, 1, 0]]
    values = np.random.default_rng(0).standard_normal((3, 5))
    same(written_once(keys, values, np.eye(4)[0]), normed(silu(values[2])))
    same(written_once(keys, values, np.eye(4)[1]), normed(silu(values[1])))


def test_the_length_of_a_delta_net_key_does_not_matter() -> None:
    """Behind an activation that is linear far from 0."""
    arrays = drawn("delta_net")
    arrays |= {n: abs(arrays[n]) + 50 for n in "QK"}
    longer = {n: 3 * arrays[n] for n in "QK"}
    same(run("delta_net", arrays, eps=0)["Y"], run("delta_net", arrays | longer, eps=0)["Y"])


def test_a_gated_delta_net_that_forgets_nothing_is_a_delta_net() -> None:
    arrays = drawn("gated_delta_net") | {"log_A": np.full(4, -1e3)}
    gate = silu(arrays["G"])
    shared = {n: np.repeat(arrays[n], 2, 1) for n in "QK"}
    plain = shared | {n: arrays[n] for n in ("V", "raw", "gain")}
    same(run("gated_delta_net", arrays)["Y"], run("delta_net", plain)["Y"] * gate)


def test_a_closed_gate_of_a_gated_delta_net_forgets_all() -> None:
    arrays = drawn("gated_delta_net")
    arrays["step"][:, :, 4] = 1e6
    values = arrays["V"].copy()
    values[:, :, :4] += 1
    found = run("gated_delta_net", arrays)["Y"]
    changed = run("gated_delta_net", arrays | {"V": values})["Y"]
    same(changed[:, :, 4:], found[:, :, 4:])
    assert abs(changed - found)[:, :, :4].max() > 0.1


def test_a_gated_delta_net_shares_keys_among_value_heads() -> None:
    arrays = drawn("gated_delta_net")
    apart = arrays | {n: np.repeat(arrays[n], 2, 1) for n in "QK"}
    same(run("gated_delta_net", arrays)["Y"], run("gated_delta_net", apart)["Y"])
