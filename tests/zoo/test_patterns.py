"""What the sources promise of windows, spans, slots and blocks, and what a row may depend on."""

from typing import Any

import numpy as np
import pytest

import cascade
from cascade.backends.compare import compare
from tests.zoo.patterns import MECHANISMS, attend, window
from tests.zoo.registry import Mechanism, heads
from tests.zoo.test_invariants import run, same
from tests.zoo.test_zoo import FOLDER


def drawn(**shapes: tuple[int, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def attended(arrays: dict[str, Any], visible: Any = True) -> Any:
    return attend(arrays["Q"], arrays["K"], arrays["V"], visible)


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
    flat = {n: arrays[n].reshape(2, 1, -1, 3) for n in "QKV"}
    same(run(name, arrays, **params)["O"].reshape(2, 1, -1, 3), attended(flat))
    causal = run(name, arrays, **params | {f"causal{s}": 1 for s in suffixes})["O"]
    places = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1)
    places = places.reshape(-1, len(sizes))
    before = (places[None] <= places[:, None]).all(-1)
    same(causal.reshape(2, 1, -1, 3), attended(flat, before))


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
    same(found, attended(arrays, block[:, None] == block))


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


SPANS = {
    "combiner_fixed": {"L": 4},
    "combiner_logsparse": {"R": 4},
    "combiner_axial": {"L": 4},
    "combiner_axial_horizontal": {"L": 4},
    "combiner_axial_rowmajor": {"L": 4},
}


@pytest.mark.parametrize("name", SPANS)
def test_a_combiner_gives_every_earlier_key_a_part(name: str) -> None:
    """Full support: rows sum to 1, each key up to the query has a weight, and none after it."""
    arrays = heads(np.random.default_rng(0), 13, 13)
    arrays["V"] = np.broadcast_to(np.eye(13), (2, 3, 13, 13))
    weight = run(name, arrays, **SPANS[name])["O"]
    same(weight.sum(-1), np.ones((2, 3, 13)))
    assert ((weight > 0) == np.tri(13, dtype=bool)).all()


def test_spans_of_one_key_are_attention() -> None:
    arrays = heads(np.random.default_rng(0), 9, 9)
    causal = attended(arrays, np.tri(9, dtype=bool))
    for name in SPANS.keys() - {"combiner_logsparse"}:
        for length in (1, 9, 20):
            same(run(name, arrays, L=length)["O"], causal)


def test_a_span_is_local_to_its_pass() -> None:
    """A span is read and summed up once, and no rank within or of spans needs a second pass."""
    both = ("combiner_fixed", "st"), ("combiner_axial", "ctr"), ("combiner_axial_horizontal", "try")
    for name, ranks in (*both, ("combiner_axial_rowmajor", "y")):
        report = cascade.analyse(cascade.load(FOLDER / f"{name}.cascade"))
        assert [report.passes.of_rank()[r] for r in ranks] == [3] * len(ranks)
        assert report.derived_passes is not None
        assert [report.derived_passes[r] for r in ranks] == [1] * len(ranks)


def test_equal_keys_of_a_span_are_worth_one_key() -> None:
    """A span of equal keys and equal values weighs as much as any one of them."""
    arrays = heads(np.random.default_rng(0), 8, 8)
    for name in "KV":
        arrays[name][:, :, :4] = arrays[name][:, :, :1]
    found = run("combiner_fixed", arrays, L=4)["O"][:, :, 4:]
    seen = np.tri(8, dtype=bool)[4:]
    seen[:, 1:4] = False
    same(found, attend(arrays["Q"][:, :, 4:], arrays["K"], arrays["V"], seen))


def rows_moved(
    name: str, arrays: dict[str, Any], changed: str, rank: int = -2, **params: Any
) -> Any:
    """[p, m]: does row p of the output move when inputs move at position m alone?"""
    rng = np.random.default_rng(1)
    before = run(name, arrays, **params)["O"]
    moved = []
    for m in range(arrays[changed[0]].shape[rank]):
        after = dict(arrays)
        for n in changed:
            at = np.arange(arrays[n].shape[rank]) == m
            after[n] = arrays[n] + rng.standard_normal(arrays[n].shape) * at[:, None]
        gone = np.abs(run(name, after, **params)["O"] - before)
        moved.append(gone.max(axis=(0, 1, 3)) > 1e-9)
    return np.array(moved).T


def slotted(keys: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    controls = {"CK": rng.standard_normal((3, 4)), "CV": rng.standard_normal((3, 5))}
    return heads(rng, 7, keys) | controls


def relations(name: str) -> Any:
    return cascade.analyse(cascade.load(FOLDER / f"{name}.cascade")).to_dict()["dependence"]


OWN, ALL = "O[p] reads {0}[p'] only for p' == p", "O reads all of {0} along m"
PREFIX = "O[p] reads {0}[m] only for m <= p"
PATTERNS = {
    "cab_noncausal_self": ALL,
    "cab_causal_self": PREFIX,
    "cab_causal_self_code": PREFIX,
    "cab_noncausal_cross": ALL,
    "cab_causal_cross": ALL,
}


@pytest.mark.parametrize("name", PATTERNS)
def test_the_analysis_proves_each_pattern(name: str) -> None:
    """On what a row depends along the sequences, and nothing else is said of them."""
    along = [r for r in relations(name) if r.endswith((" along m", " m <= p", " p' == p"))]
    expected = [OWN.format("Q"), *(PATTERNS[name].format(n) for n in "KV")]
    assert sorted(along) == sorted(expected)


def test_noncausal_self() -> None:
    """Every row depends on every position."""
    assert rows_moved("cab_noncausal_self", slotted(7), "QKV").all()
    assert "O reads all of K along m" in relations("cab_noncausal_self")


@pytest.mark.parametrize(
    "name", ["cab_causal_self", "cab_causal_self_code", "bounded_memory_causal"]
)
def test_causal_self(name: str) -> None:
    """A row depends on the positions up to its own, by the analysis and by trial."""
    arrays = slotted(7)
    if name == "bounded_memory_causal":
        arrays = {n: arrays[n] for n in "QKV"} | {"control": np.stack([arrays["CK"]] * 3)}
    assert (rows_moved(name, arrays, "QKV") == np.tri(7, dtype=bool)).all()
    rank = "i" if name == "bounded_memory_causal" else "m"
    row, key = ("i", "i'") if rank == "i" else ("p", "m")
    for n in "KV":
        assert f"O[{row}] reads {n}[{key}] only for {key} <= {row}" in relations(name)


@pytest.mark.parametrize("name", ["cab_noncausal_cross", "cab_causal_cross"])
def test_cross(name: str) -> None:
    """A row depends on the whole source and, in either pattern, on no other query."""
    arrays = slotted(9)
    if name == "cab_causal_cross":
        arrays["length"] = np.array([9, 9])
    assert rows_moved(name, arrays, "KV").all()
    assert (rows_moved(name, arrays, "Q") == np.eye(7, dtype=bool)).all()
    assert "O[p] reads Q[p'] only for p' == p" in relations(name)
    assert "O reads all of K along m" in relations(name)
    same(run(name, arrays)["O"], run("cab_noncausal_cross", slotted(9))["O"])


def test_a_method_that_mixes_queries_is_noncausal_cross() -> None:
    """The pattern bites where queries are pooled: agents carry later queries to earlier rows."""
    rng = np.random.default_rng(0)
    arrays = heads(rng, 6, 9)
    arrays |= {"B1": rng.standard_normal((3, 2, 9)), "B2": rng.standard_normal((3, 6, 2))}
    assert rows_moved("agent_attention", arrays, "Q").all()
    assert "O[p] reads Q[p'] only for p' == p" not in relations("agent_attention")


def test_padding_of_a_source_is_deleting_it() -> None:
    arrays = slotted(9)
    short = {n: arrays[n][:, :, :5] for n in "KV"}
    padded = run("cab_causal_cross", arrays | {"length": np.array([5, 5])})["O"]
    same(padded, run("cab_noncausal_cross", arrays | short)["O"])


def test_the_last_row_of_a_causal_memory_is_that_of_the_noncausal() -> None:
    arrays = slotted(7)
    causal, whole = (run(f"cab_{c}_self", arrays)["O"] for c in ("causal", "noncausal"))
    same(causal[:, :, -1], whole[:, :, -1])
    qkv = {n: arrays[n] for n in "QKV"} | {"control": np.stack([arrays["CK"]] * 3)}
    causal, whole = (run(f"bounded_memory{c}", qkv)["O"] for c in ("_causal", ""))
    same(causal[:, :, -1], whole[:, :, -1])


def test_a_recurrence_and_a_prefix_are_one_memory() -> None:
    """Keys as values make one control of the two."""
    arrays = slotted(7)
    arrays["V"], arrays["CV"] = arrays["K"], arrays["CK"]
    prefix = run("cab_causal_self", arrays)["O"]
    qkv = {n: arrays[n] for n in "QKV"} | {"control": np.stack([arrays["CK"]] * 3)}
    same(run("bounded_memory_causal", qkv)["O"], prefix)


@pytest.mark.parametrize("name", SPANS)
def test_combiners_are_causal(name: str) -> None:
    arrays = heads(np.random.default_rng(0), 13, 13)
    moved = rows_moved(name, arrays, "QKV", **SPANS[name])
    assert (moved == np.tri(13, dtype=bool)).all()


def test_a_causal_neighbourhood_is_causal() -> None:
    arrays = heads(np.random.default_rng(0), 11, 11)
    for causal in 0, 1:
        params = {"W": 4, "stride": 2, "dilation": 2, "causal": causal}
        moved = rows_moved("neighbourhood_1d", arrays, "KV", **params)
        assert (moved == window(11, *params.values())).all()
        assert (moved <= np.tri(11, dtype=bool)).all() == causal


def seen_weights(name: str, arrays: dict[str, Any], **params: Any) -> Any:
    """The weights themselves, by values that are unit vectors."""
    keys = arrays["K"].shape[2]
    unit = np.broadcast_to(np.eye(keys), (*arrays["K"].shape[:2], keys, keys))
    return run(name, arrays | {"V": unit}, **params)["O"]


def test_landmarks_have_no_weight_and_give_theirs_away() -> None:
    arrays = heads(np.random.default_rng(0), 11, 11)
    weight = seen_weights("landmark", arrays, L=3)
    same(weight.sum(-1), np.ones((2, 3, 11)))
    mark = np.arange(11) % 3 == 2
    assert (weight[..., mark] == 0).all()
    assert ((weight[..., ~mark] > 0) == np.tri(11, dtype=bool)[:, ~mark]).all()


def test_landmarks_as_groups_and_as_blocks_are_the_same() -> None:
    arrays = heads(np.random.default_rng(0), 11, 11)
    grouped = cascade.load(FOLDER.parent / "landmark.cascade")
    same(run("landmark", arrays, L=3)["O"], cascade.run(grouped, arrays, {"L": 3})["O"])


def test_a_block_longer_than_the_sequence_is_attention() -> None:
    arrays = heads(np.random.default_rng(0), 7, 7)
    same(run("landmark", arrays, L=8)["O"], attended(arrays, np.tri(7, dtype=bool)))


def test_retrieving_every_block_is_training() -> None:
    arrays = heads(np.random.default_rng(0), 14, 14)
    whole = run("landmark", arrays, L=3)["O"]
    same(run("landmark_retrieve", arrays, L=3, J=4)["O"], whole)
    last = arrays | {"Q": arrays["Q"][:, :, 9:]}
    same(run("landmark_retrieve", last, L=3, J=7)["O"], whole[:, :, 9:])


def test_a_query_retrieves_as_many_blocks() -> None:
    arrays = heads(np.random.default_rng(0), 14, 14)
    weight = seen_weights("landmark_retrieve", arrays, L=3, J=2)
    same(weight.sum(-1), np.ones((2, 3, 14)))
    blocks = (np.add.reduceat(weight, np.arange(0, 14, 3), -1) > 0).sum(-1)
    own = np.arange(14) // 3
    assert (blocks == np.minimum(own, 2) + 1).all()


def pointing() -> dict[str, Any]:
    arrays = drawn(X=(2, 9, 4), Y=(2, 5, 4), W1=(3, 4), W2=(3, 4), v=(3,))
    return arrays | {"length": np.array([9, 4])}


def test_a_pointer_is_a_distribution_over_the_items() -> None:
    arrays = pointing()
    found = run("pointer_network", arrays)
    same(found["A"].sum(-1), np.ones((2, 5)))
    assert (found["A"][1, :, 4:] == 0).all()
    assert (found["NEXT"] == found["A"].argmax(-1)).all()
    turned = run(
        "pointer_network", arrays | {"X": arrays["X"][:, ::-1], "length": np.array([9, 9])}
    )
    same(turned["A"][0], found["A"][0, :, ::-1])


def test_redistribution_keeps_the_sum_of_a_row() -> None:
    rng = np.random.default_rng(0)
    arrays = heads(rng) | {"class": rng.integers(0, 4, (2, 7)), "text": np.array([0, 0])}
    edit = {"keep": 0.6, "most": 0.9, "least": 0}
    weight = seen_weights("visual_redistribution", arrays, **edit)
    same(weight.sum(-1), np.ones((2, 3, 7)))
    plain = attend(arrays["Q"], arrays["K"], np.eye(7), np.tri(7, dtype=bool))
    assert np.abs(weight - plain).max() > 0.01
    sink = np.broadcast_to((arrays["class"] < 2)[:, None, None], weight.shape)
    rest = np.broadcast_to((arrays["class"] == 3)[:, None, None], weight.shape)
    same(weight[rest], plain[rest])
    assert (weight[sink] <= plain[sink] + 1e-12).all()
    same(seen_weights("visual_redistribution", arrays, keep=1, most=0.9, least=0), plain)
    same(seen_weights("visual_redistribution", arrays, keep=0.6, most=0.9, least=2), plain)


def test_the_classes_of_one_phase_are_read_by_the_other() -> None:
    rng = np.random.default_rng(0)
    states = rng.standard_normal((2, 7, 8))
    states[:, 2, 5] = states[:, 6, 5] = 400
    visual = np.broadcast_to(np.arange(7) < 4, (2, 7))
    found = run("visual_sinks", {"X": states, "dim": np.array([5, 1]), "visual": visual}, tau=2)
    assert (found["CLASS"] == [2, 2, 0, 2, 3, 3, 1]).all()
    arrays = heads(rng) | {"class": found["CLASS"], "text": np.array([4, 4])}
    plain = attended(arrays, np.tri(7, dtype=bool))
    moved = np.abs(run("visual_redistribution", arrays, most=1, least=0)["O"] - plain).max(-1)
    assert ((moved > 1e-9) == (np.arange(7) >= 4)).all()


def slides() -> dict[str, Any]:
    arrays = drawn(X=(2, 11, 6), WT=(4, 6), WS=(4, 6), W=(3, 4), bias=(3,))
    return arrays | {"draw": np.random.default_rng(1).random((2, 3, 5))}


def test_masking_no_instance_is_plain_pooling() -> None:
    arrays = slides()
    found = run("acmil", arrays, gone=0)
    plain = {n: x for n, x in arrays.items() if n != "draw"}
    same(found["Z"], run("acmil_diversity", plain)["Z"])
    same(found["BAG"], found["Z"].mean(1))
    same(found["ALIKE"], run("acmil_diversity", plain)["ALIKE"])


def test_branches_are_compared_with_what_is_masked_left_out() -> None:
    """Branches that agree on their best instances, which one of them does not see."""
    arrays = slides()
    arrays["W"][1], arrays["bias"][:] = arrays["W"][0], 0
    arrays["draw"][:, 0] = arrays["draw"][:, 1] = np.arange(5) / 5
    same(run("acmil", arrays, gone=2)["ALIKE"][:, 0, 1], np.ones(2))
    arrays["draw"][:, 1] = np.arange(5)[::-1] / 5
    assert (run("acmil", arrays, gone=2)["ALIKE"][:, 0, 1] < 1 - 1e-3).all()


@pytest.mark.parametrize("gone", [0, 2, 5])
@pytest.mark.parametrize("count", [11, 5, 3])
def test_a_list_of_the_best_is_a_sort(gone: int, count: int) -> None:
    """However many instances there are: the list may never be full."""
    arrays = slides()
    arrays["X"] = arrays["X"][:, :count]
    found = run("acmil_payload", arrays, gone=gone)["Z"]
    if count == 11 or not gone:
        same(found, run("acmil", arrays, gone=gone)["Z"])
    assert np.isfinite(found).all()


def test_masking_all_of_the_best_leaves_the_others() -> None:
    arrays = slides()
    found = run("acmil", arrays, gone=5)["Z"]
    for b, c in np.ndindex(2, 3):
        one = {n: arrays[n] for n in ("WT", "WS")} | {"W": arrays["W"][[c]], "bias": np.zeros(1)}
        gate = np.tanh(arrays["X"][b] @ one["WT"].T) / (1 + np.exp(-arrays["X"][b] @ one["WS"].T))
        left = np.sort(np.argsort(gate @ one["W"][0])[:-5])
        same(run("acmil_diversity", one | {"X": arrays["X"][[b]][:, left]})["Z"][0, 0], found[b, c])


def test_branches_are_like_themselves() -> None:
    arrays = {n: x for n, x in slides().items() if n != "draw"}
    arrays["W"][1] = arrays["W"][0]
    alike = run("acmil_diversity", arrays)["ALIKE"]
    same(alike, np.swapaxes(alike, 1, 2))
    same(np.diagonal(alike, axis1=1, axis2=2), np.ones((2, 3)))
    same(alike[:, 0, 1], np.ones(2))
    assert (alike[:, 0, 2] < 1).all()


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda m: m.name)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_derived_form_agrees(mechanism: Mechanism) -> None:
    """Whatever the extents, and for ordinary and extreme values."""
    spec = cascade.load(FOLDER / f"{mechanism.name}.cascade")
    found = compare(spec, cascade.derive(spec).result, 0, 7)
    assert found and all(c.ok for c in found), [c for c in found if not c.ok]
