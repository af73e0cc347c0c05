"""Phases that select and phases that attend: what one puts out is what the next one takes."""

from typing import Any

import numpy as np
import pytest

import cascade
from tests.zoo.registry import heads, logits, weights
from tests.zoo.selection import attend, rotated
from tests.zoo.test_invariants import run, same
from tests.zoo.test_patterns import rows_moved
from tests.zoo.test_zoo import FOLDER


def drawn(rows: int = 1, keys: int = 12, **shapes: tuple[int, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return heads(rng, rows, keys) | {n: rng.standard_normal(s) for n, s in shapes.items()}


def single(arrays: dict[str, Any]) -> dict[str, Any]:
    return arrays | {"Q": arrays["Q"][:, :, 0]}


def masked(arrays: dict[str, Any], seen: Any) -> Any:
    return attend(arrays["Q"], arrays["K"], arrays["V"], seen)


def listed(places: Any, keys: int) -> Any:
    """[b, h, m]: is m in the list?"""
    return (places[..., None] == np.arange(keys)).any(-2)


def test_tidal_decode() -> None:
    """A later layer attends to the keys of the largest logits of the layer that selects."""
    arrays, later = drawn(), drawn()
    chosen = run("tidal_select", single(arrays), J=5)["IDX"]
    found = run("tidal_attend", single(later) | {"IDX": chosen})["O"]
    scores = logits(arrays["Q"], arrays["K"])[:, :, 0]
    seen = scores >= np.sort(scores, -1)[..., -5, None]
    same(found, masked(later, seen[:, :, None])[:, :, 0])


def test_recycled_attention() -> None:
    """Full steps name the keys, and every key that came since is attended to."""
    arrays = drawn(rows=2)
    before = {"Q": arrays["Q"]} | {n: arrays[n][:, :, :9] for n in "KV"}
    chosen = run("recycled_select", before, J=4)["IDX"]
    found = run("recycled_attend", arrays | {"IDX": chosen}, since=9)["O"]
    seen = listed(chosen, 12) | (np.arange(12) >= 9)
    assert (seen.sum(-1) == 7).all()
    same(found, masked(arrays, seen[:, :, None]))
    every = run("recycled_select", before, J=9)["IDX"]
    same(run("recycled_attend", arrays | {"IDX": every}, since=9)["O"], masked(arrays, True))


def test_task_kv() -> None:
    """Heads by the outputs of the last token, middle keys by the attention of the prompt."""
    arrays = drawn(rows=12, WO=(3, 5, 6))
    qkv = {n: arrays[n] for n in "QKV"}
    bounds = {"sinks": 1, "recent": 3}
    last = {"O": run("flash_attention", qkv)["O"][:, :, -1], "WO": arrays["WO"]}
    whole = run("task_kv_heads", last, J=1)["HET"]
    middle = run("task_kv_middle", {n: arrays[n] for n in "QK"}, J=2, **bounds)["MID"]
    assert (whole.sum(-1) == 1).all()
    assert ((middle >= 1) & (middle < 9)).all()
    step = qkv | {"Q": arrays["Q"][:, :, -1]}
    found = run("task_kv_attend", step | {"HET": whole, "MID": middle}, **bounds)["O"]
    place = np.arange(12)
    kept = listed(middle, 12) | (place < 1) | (place >= 9) | whole[..., None]
    one = qkv | {"Q": arrays["Q"][:, :, -1:]}
    same(found, masked(one, kept[:, :, None])[:, :, 0])
    every = run("task_kv_heads", last, J=3)["HET"]
    found = run("task_kv_attend", step | {"HET": every, "MID": middle}, **bounds)["O"]
    same(found, masked(one, True)[:, :, 0])


def chunked(arrays: dict[str, Any], size: int) -> dict[str, Any]:
    return {n: x.reshape(*x.shape[:2], -1, size, x.shape[-1]) for n, x in arrays.items()}


def turns(length: int) -> tuple[Any, Any]:
    angle = np.tile(np.outer(np.arange(length), [1.0, 0.1]), 2)
    return np.cos(angle), np.sin(angle)


@pytest.mark.parametrize("count", [4, 6])
def test_long_heads(count: int) -> None:
    """Chunks are summed up, chosen and attended to; with all of them it is rotary attention."""
    arrays = drawn(rows=24, keys=24)
    arrays["V"] = arrays["V"][..., :4]
    cosine, sine = turns(4)
    local = chunked({n: arrays[n] for n in "QKV"}, 4)
    keys = run("long_heads_keys", local | {n: rotated(local[n], cosine, sine) for n in "QK"})["KC"]
    query = arrays["Q"][:, :, -1]
    chosen = run("long_heads_select", {"Q": query, "KC": keys}, J=count)["IDX"]
    assert (np.diff(chosen) > 0).all()
    assert listed(chosen, 6)[..., [0, 4, 5]].all()
    cosine, sine = turns(4 * count + 1)
    step = {"Q": query, "K": local["K"], "V": local["V"], "IDX": chosen}
    found = run("long_heads_attend", step | {"cosine": cosine, "sine": sine})["O"]
    for b, h in np.ndindex(2, 3):
        k, v = (local[n][b, h, chosen[b, h]].reshape(-1, 4) for n in "KV")
        k = rotated(k, cosine[:-1], sine[:-1])
        q = rotated(query[b, h], cosine[-1], sine[-1])
        same(found[b, h], attend(q[None], k, v)[0])


def routed(arrays: dict[str, Any], count: int) -> dict[str, Any]:
    own = {n: arrays[n] for n in ("K", "centroid")}
    chosen = run("routing_select", own, J=count)["IDX"]
    return {"K": arrays["K"], "V": arrays["V"], "IDX": chosen}


def test_routing_transformer() -> None:
    """One cluster of everything is causal attention with shared queries and keys."""
    arrays = drawn(centroid=(3, 1, 4))
    found = run("routing_attend", routed(arrays, 12))["O"]
    shared = arrays | {"Q": arrays["K"]}
    same(found * 1.01, masked(shared, np.tri(12, dtype=bool)))


def test_routing_by_given_clusters_is_causal_and_its_choice_is_not() -> None:
    arrays = drawn(centroid=(3, 2, 4))
    step = routed(arrays, 6)
    moved = rows_moved("routing_attend", step, "KV")
    assert (moved <= np.tri(12, dtype=bool)).all()
    assert moved[np.tri(12, k=-1, dtype=bool)].any()
    later = arrays | {"K": arrays["K"].copy()}
    later["K"][:, :, -1] = 99 * arrays["centroid"][:, 0]
    assert (routed(later, 6)["IDX"][:, :, :, :5] != step["IDX"][:, :, :, :5]).any()


def prefilled(arrays: dict[str, Any], gamma: float, tau: float, **counts: int) -> dict[str, Any]:
    """All four phases of FlexPrefill, in blocks of 4."""
    qk = {n: arrays[n] for n in "QK"}
    shares = run("flex_prefill_scores", qk | {"Q": arrays["Q"][:, :, -4:]})
    share = {"gamma": gamma, "L": 4}
    pattern = run("flex_prefill_pattern", qk | {"VERT": shares["VERT"]}, tau=tau, **share)
    both = shares | {"AWARE": pattern["AWARE"]}
    lists = run("flex_prefill_lists", both, **share, **counts)
    chosen = lists | {"pair": pattern["PAIR"]}
    out = run("flex_prefill_attend", {n: arrays[n] for n in "QKV"} | chosen, L=4)
    return shares | pattern | lists | out


@pytest.mark.parametrize("tau", [0.0, 2.0])
def test_flex_prefill(tau: float) -> None:
    """Heads of either kind: the blocks that they have are attended to, and no others."""
    arrays = drawn(rows=14, keys=14)
    made = prefilled(arrays, 0.5, tau, least=1, most=2)
    assert (made["AWARE"] == (tau > 1)).all()
    seen = np.zeros((2, 3, 4, 4), bool)
    for b, h, i, n in np.ndindex(seen.shape):
        columns, diagonals = made["column"][b, h], made["diagonal"][b, h]
        seen[b, h, i, n] = n == 0 or i == n or n in columns or i - n in diagonals
    seen |= made["PAIR"]
    assert made["PAIR"].any() == (tau > 1)
    assert not seen[..., np.tri(4, dtype=bool)].all()
    wide = np.kron(seen, np.ones((4, 4), bool))[..., :14, :14]
    same(made["O"], masked(arrays, wide & np.tri(14, dtype=bool)))


@pytest.mark.parametrize("tau", [0.0, 2.0])
def test_flex_prefill_that_keeps_all_of_the_mass_is_causal_attention(tau: float) -> None:
    arrays = drawn(rows=14, keys=14)
    found = prefilled(arrays, 1.01, tau, least=1, most=4)["O"]
    same(found, masked(arrays, np.tri(14, dtype=bool)))


def test_flex_prefill_statistics_are_distributions() -> None:
    made = prefilled(drawn(rows=14, keys=14), 0.5, 0.0, least=1, most=2)
    same(made["VERT"].sum(-1), np.ones((2, 3)))
    same(made["SLASH"].sum(-1), np.ones((2, 3)))


def hashed(arrays: dict[str, Any], **params: int) -> dict[str, Any]:
    planes = {"plane": np.random.default_rng(1).standard_normal((3, 4, 3))}
    return run("hyper_attention_sort", {n: arrays[n] for n in "QK"} | planes, **params)


def test_hyper_attention() -> None:
    """Sorted, blocks are attended to exactly; a block of everything leaves nothing to sample."""
    arrays = drawn(rows=12)
    order = hashed(arrays)
    sample = {"sample": np.random.default_rng(2).integers(0, 12, (2, 3, 4))}
    found = run("hyper_attention", arrays | order | sample, L=12)["O"]
    same(found, masked(arrays, True))
    near = np.zeros((2, 3, 12, 12), bool)
    for b, h, i, j in np.ndindex(near.shape):
        near[b, h, order["IQ"][b, h, i], order["IK"][b, h, j]] = i // 3 == j // 3
    far = run("hyper_attention", arrays | order | sample, L=3, apart=1)["O"]
    assert np.abs(far - masked(arrays, near)).max() > 0.01


def test_every_key_as_a_sample_is_attention() -> None:
    arrays = drawn(rows=12)
    every = {"sample": np.broadcast_to(np.arange(12), (2, 3, 12))}
    found = run("hyper_attention", arrays | hashed(arrays) | every, L=3)["O"]
    same(found, masked(arrays, True))


def causal(arrays: dict[str, Any], least: int) -> dict[str, Any]:
    """Two halves, each by itself, and the later queries with the earlier keys; merged by LSE."""
    length = arrays["K"].shape[2]
    if length <= least:
        return run("flash_attention", arrays)
    half = length // 2
    first, last = ({n: x[:, :, s] for n, x in arrays.items()} for s in (np.s_[:half], np.s_[half:]))
    above, below = causal(first, least), causal(last, least)
    across = first | {"Q": last["Q"]}
    none = {"sample": np.zeros((2, 3, 1), int)}
    far = run("hyper_attention", across | hashed(across) | none, L=half)
    share = 1 / (1 + np.exp(far["LSE"] - below["LSE"]))[..., None]
    merged = share * below["O"] + (1 - share) * far["O"]
    total = np.logaddexp(below["LSE"], far["LSE"])
    return {
        "O": np.concatenate([above["O"], merged], 2),
        "LSE": np.concatenate([above["LSE"], total], 2),
    }


def test_halves_of_halves_are_causal_attention() -> None:
    """The recursion of the code, with blocks that leave nothing out."""
    arrays = drawn(rows=16, keys=16)
    whole = run("flash_attention", arrays)
    found = causal(arrays, 4)
    same(found["O"], whole["O"])
    same(found["LSE"], whole["LSE"])


def test_samples_of_the_own_block_count_twice_in_some_paths_of_the_code() -> None:
    arrays = drawn(rows=12)
    every = {"sample": np.broadcast_to(np.arange(12), (2, 3, 12))}
    order = hashed(arrays)
    twice = run("hyper_attention", arrays | order | every, L=3, apart=0)["O"]
    scores = logits(arrays["Q"], arrays["K"])
    for b, h, i, j in np.ndindex(scores.shape):
        if i // 3 == j // 3:
            scores[b, h, order["IQ"][b, h, i], order["IK"][b, h, j]] += np.log(2)
    same(twice, weights(scores) @ arrays["V"])
    assert np.abs(twice - masked(arrays, True)).max() > 0.01


def test_orders_by_the_code_and_by_its_inverse_part_from_three_planes_on() -> None:
    """Only decoded are neighbouring buckets those that one plane parts."""
    sides = np.array(list(np.ndindex(2, 2, 2))) * 2.0 - 1
    arrays = {n: sides[None, None] for n in "QK"} | {"plane": np.eye(3)[None]}
    code, inverse = (run("hyper_attention_sort", arrays, inverse=i)["IK"][0, 0] for i in (0, 1))
    parted = [(np.diff(sides[order], axis=0) != 0).sum(-1) for order in (code, inverse)]
    assert (parted[1] == 1).all()
    assert (parted[0] > 1).any()
    two = {n: sides[None, None, ::2, :2] for n in "QK"} | {"plane": np.eye(2)[None]}
    same(*(run("hyper_attention_sort", two, inverse=i)["IK"] for i in (0, 1)))


def test_block_topk_by_pages() -> None:
    """The mean key of a page ranks it as the mean of its logits does."""
    arrays = drawn(rows=2, keys=14)
    means = run("block_topk_keys", {"K": arrays["K"]}, L=3)["KR"]
    found = run("block_topk_pages", arrays | {"KR": means}, L=3, J=4)["O"]
    rank = logits(arrays["Q"].mean(2, keepdims=True), means)[:, :, 0]
    rank[..., [0, 3, 4]] = np.inf
    pages = rank >= np.sort(rank, -1)[..., -4, None]
    same(found, masked(arrays, np.repeat(pages, 3, -1)[:, :, None, :14]))
    every = run("block_topk_pages", arrays | {"KR": means}, L=3, J=5)["O"]
    same(every, masked(arrays, True))


def by_payload(arrays: dict[str, Any], **params: int) -> Any:
    return run("block_topk_merge", run("block_topk_payload", arrays, **params))["O"]


def by_lists(arrays: dict[str, Any], **params: int) -> Any:
    return run("block_topk_gather", arrays, **params)["O"]


@pytest.mark.parametrize("form", [by_payload, by_lists])
@pytest.mark.parametrize(("sinks", "recent"), [(0, 0), (1, 2), (4, 5), (14, 14)])
def test_forms_of_block_topk_are_one_function(form: Any, sinks: int, recent: int) -> None:
    arrays = drawn(rows=2, keys=14)
    params = {"L": 3, "J": 2, "sinks": sinks, "recent": recent}
    same(form(arrays, **params), run("block_topk", arrays, **params)["O"])


def test_fewest_passes_and_least_traffic_are_different_forms() -> None:
    """The analysis prices them: the payload reads all values, in one pass over the keys."""
    extents = {"B": 1, "G": 8, "R": 4, "M": 32768, "E": 128, "F": 128}
    moved, passes = {}, {}
    for name in ("topk", "topk_payload", "topk_gather", "topk_pages"):
        report = cascade.analyse(cascade.load(FOLDER / f"block_{name}.cascade"), extents)
        moved[name] = report.to_dict()["traffic"]["compulsory_bytes"]  # type: ignore[index]
        assert report.derived_passes is not None
        passes[name] = report.derived_passes.get("m", 0)
    assert passes["topk_payload"] < passes["topk"]
    assert moved["topk_payload"] > moved["topk"]
    assert 1.9 < moved["topk"] / moved["topk_gather"] < 2
    assert 8 < moved["topk_gather"] / moved["topk_pages"]
