"""Lists of the tiles that conditions on values leave: what is computed is the same, what is loaded
is less, and it is as much as was predicted.
"""

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest

import cascade
from cascade import api
from cascade.backends.kernel import TiledKernel
from cascade.ir.cascade import Cascade
from cascade.schedule.predict import predict
from cascade.schedule.program import For, Program, inside
from cascade.schedule.verify import violations

ATTENTION = """
import std
input Q[b,h,p,e], K[b,h,m,e], V[b,h,m,f]
{inputs}
QK[b,h,p,m] = Q[b,h,p,e] * K[b,h,m,e] where {where}
A[b,h,p,m] = softmax[m](QK[b,h,p,m])
O[b,h,p,f] = A[b,h,p,m] * V[b,h,m,f]
output O
"""

TILE = 4
SHAPES = {
    "D": "bp", "C": "bm", "keep": "bm", "place": "bm", "least": "bp", "most": "bp", "gate": "bp",
    "first": "bp", "length": "b", "blocks": "bxy", "allowed": "bpm", "W": "h",
}  # fmt: skip
BOOLS = {"keep", "gate", "blocks", "allowed"}
LISTED = {
    "documents": "D[b,p] == C[b,m]",
    "causal documents": "m <= p and D[b,p] == C[b,m]",
    "documents in a window": "p - m < 9 and m - p < 9 and D[b,p] == C[b,m]",
    "other documents": "D[b,p] != C[b,m]",
    "padding": "keep[b,m]",
    "documents with padding": "m <= p and keep[b,m] and D[b,p] == C[b,m]",
    "no padding": "not keep[b,m]",
    "limits": "place[b,m] <= most[b,p]",
    "strict limits": "place[b,m] < most[b,p] and least[b,p] < place[b,m]",
    "limits turned": "most[b,p] >= place[b,m] and place[b,m] > least[b,p]",
    "distance of values": "most[b,p] - place[b,m] < 3 and place[b,m] <= most[b,p]",
    "sums": "most[b,p] + min(p, 7) > place[b,m] // 2 + m",
    "documents or sinks": "D[b,p] == C[b,m] or m < 3",
    "documents unless open": "gate[b,p] or D[b,p] == C[b,m]",
    "either": "select(gate[b,p], D[b,p] == C[b,m], keep[b,m])",
    "not together": "not (D[b,p] == C[b,m] and keep[b,m])",
    "a row's length": "m < first[b,p] and D[b,p] == C[b,m]",
    "blocks of columns": "keep[b, m // 8]",
    "mask of blocks": "blocks[b, p // 8, m // 8]",
    "any mask": "allowed[b,p,m] and m <= p",
    "windows of heads": "p - m < W[h] and D[b,p] == C[b,m]",
}
SPLIT = ("causal documents", "padding", "mask of blocks")
BOUNDS = {
    "lengths": "m < length[b]",
    "documents by offsets": "first[b,p] <= m and m < least[b,p] and m <= p",
}


@cache
def spec(where: str) -> Cascade:
    used = {n: r for n, r in SHAPES.items() if f"{n}[" in where}
    kinds = {n: "bool" if n in BOOLS else "int" for n in used}
    inputs = "\n".join(f"input {n}[{','.join(used[n])}]: {kinds[n]}" for n in used)
    return api.parse(ATTENTION.format(inputs=inputs, where=where), "listed")


def numbers(**more: int) -> dict[str, int]:
    return {"b": 2, "h": 2, "p": 37, "m": 45, "e": 4, "f": 5, "x": 5, "y": 6} | more


def draw(where: str, n: dict[str, int], seed: int = 0) -> dict[str, Any]:
    """Documents in no order, of which some have no key, and any other values."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        name: rng.standard_normal([n[r] for r in ranks], np.float32)
        for name, ranks in {"Q": "bhpe", "K": "bhme", "V": "bhmf"}.items()
    }
    for name, ranks in SHAPES.items():
        if f"{name}[" in where:
            shape = [n[r] for r in ranks]
            few = rng.integers(-1, rng.choice([2, 6, 40]), shape)
            arrays[name] = rng.random(shape) < rng.choice([0.05, 0.5]) if name in BOOLS else few
    return arrays


@cache
def kernel(where: str, split: int = 1) -> TiledKernel:
    return TiledKernel(spec(where), {"p": TILE, "m": TILE}, threads=1, split=split)


def moved(counts: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Without what is not touched at all."""
    return {name: found for name, found in counts.items() if any(found.values())}


def check(where: str, arrays: dict[str, Any], split: int = 1) -> Any:
    """The counters of a run that computes what the reference does, as it was predicted."""
    made = kernel(where, split)
    result = made.run(arrays)
    wanted = cascade.run(spec(where), arrays)["O"]
    np.testing.assert_allclose(result.outputs["O"], wanted, rtol=0, atol=2e-6)
    for found in made.measured(arrays, {}, result)["kernels"].values():
        for part in ("tensors", "loops"):
            predicted = {k: v for k, v in found["predicted"][part].items() if any(v.values())}
            assert predicted == {
                k: v for k, v in found["measured"][part].items() if any(v.values())
            }
    return result.counters


def loops(program: Program) -> list[For]:
    return [n for k in program.kernels for n in inside(k.body) if isinstance(n, For)]


def program(where: str, **more: Any) -> Program:
    return api.schedule(spec(where), tiles={"p": TILE, "m": TILE}, **more).program


@pytest.mark.parametrize("name", LISTED)
def test_is_listed(name):
    made = program(LISTED[name])
    assert all(loop.lists for loop in loops(made))
    assert not list(violations(made))
    assert "listed in" in str(made)


@pytest.mark.parametrize("name", BOUNDS)
def test_what_bounds_needs_no_list(name):
    assert len(program(BOUNDS[name]).kernels) == 1
    n = numbers()
    arrays = draw(BOUNDS[name], n)
    counters = check(BOUNDS[name], arrays)
    assert counters.loaded("K")[0] < 2 * 2 * 10 * 12 / 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LISTED)
def test_values(name, seed):
    sizes = [{}, {"p": 1, "m": 45}, {"p": 50, "m": 17}][seed]
    check(LISTED[name], draw(LISTED[name], numbers(**sizes), seed))


ATOMS = (
    "m <= p", "p - m < 9", "m < first[b,p]", "keep[b,m]", "gate[b,p]", "D[b,p] == C[b,m]",
    "D[b,p] != C[b,m]", "place[b,m] < most[b,p]", "least[b,p] <= place[b,m] + m // 4",
    "blocks[b, p // 8, m // 8]", "C[b,m] == 1", "max(D[b,p], 2) > min(C[b,m], place[b,m])",
)  # fmt: skip


def condition(rng: Any, depth: int) -> str:
    """Any condition over these."""
    if not depth:
        return str(rng.choice(ATOMS))
    parts = [condition(rng, depth - 1) for _ in range(2)]
    how = rng.integers(5)
    return (
        f"not ({parts[0]})"
        if how == 0
        else f" {'and' if how < 3 else 'or'} ".join(f"({part})" for part in parts)
    )


@pytest.mark.parametrize("seed", range(24))
def test_any_condition(seed):
    rng = np.random.default_rng(seed)
    where = condition(rng, 1 + seed % 3)
    check(where, draw(where, numbers(h=1, p=int(rng.integers(1, 30))), seed))


def test_nothing_to_do():
    for sizes in ({"b": 0}, {"p": 0}, {"h": 0}):
        n = numbers(**sizes)
        assert not tiles(check(LISTED["documents"], draw(LISTED["documents"], n)))


@pytest.mark.parametrize("split", [2, 3])
@pytest.mark.parametrize("name", SPLIT)
def test_splits(name, split):
    check(LISTED[name], draw(LISTED[name], numbers()), split)


@pytest.mark.parametrize("m", [0, 1, 3, 4, 15, 16, 17, 63, 64, 65, 129])
@pytest.mark.parametrize("name", ["causal documents", "documents with padding"])
def test_lengths(name, m):
    n = numbers(p=max(m, 1), m=m)
    check(LISTED[name], draw(LISTED[name], n, m))


def test_few_tiles_are_not_listed():
    where = LISTED["documents"]
    made = kernel(where)
    for m, count in ((3 * TILE, 1), (4 * TILE, 2)):
        arrays = draw(where, numbers(m=m))
        check(where, arrays)
        assert len(made.schedule(arrays, {}).program.kernels) == count


def documents(sizes: list[int], n: dict[str, int]) -> Any:
    """The number of its document at each place of a packed sequence; -1 past the last."""
    found = np.full((n["b"], n["m"]), -1)
    found[:, : sum(sizes)] = np.repeat(np.arange(len(sizes)), sizes)
    return found


def packed(sizes: list[int], length: int | None = None) -> dict[str, Any]:
    m = length or sum(sizes)
    n = numbers(p=m, m=m)
    arrays = draw("", n)
    arrays["C"] = documents(sizes, n)
    arrays["D"] = np.where(arrays["C"] < 0, -2, arrays["C"])
    return arrays


def tiles(counters: Any) -> int:
    loaded: int = counters.loaded("K")[0]
    return loaded // 4  # of each batch and head


def test_equal_documents_load_their_own_tiles():
    count = 128 // TILE
    assert tiles(check("D[b,p] == C[b,m]", packed([128]))) == count**2
    counters = check("D[b,p] == C[b,m]", packed([16] * 8))
    assert tiles(counters) == count**2 // 8
    # all of them hold in full
    assert counters.full_visits["O", "m1_at"] == 4 * count**2 // 8
    assert not counters.partial_visits["O", "m1_at"]


def test_causal_documents_load_half_of_that():
    counters = check("m <= p and D[b,p] == C[b,m]", packed([16] * 8))
    assert tiles(counters) == 8 * (4 * 5 // 2)
    assert counters.full_visits["O", "m1_at"] == 4 * 8 * (4 * 3 // 2)


def test_ragged_documents_and_padding():
    sizes = [1, 1, 5, 0, 30, 2, 7, 4]
    arrays = packed(sizes, 70)
    counters = check("D[b,p] == C[b,m]", arrays)
    rows = arrays["C"][0]
    blocks = [rows[i : i + TILE] for i in range(0, 70, TILE)]
    there = [set(x[x >= 0].tolist()) for x in blocks]
    # in order: two intervals meet where the documents do, but for the tile that padding begins in
    exact = sum(bool(a & b) for a in there for b in there)
    assert exact <= tiles(counters) <= exact + 2 * len(blocks)
    assert tiles(counters) < len(blocks) ** 2 / 2


def test_padding_alone_has_no_tile():
    counters = check("D[b,p] == C[b,m]", packed([], 40))
    assert tiles(counters) == 0
    assert not any(counters.full_visits.values())


def test_columns_that_are_kept():
    n = numbers(p=40, m=80)
    arrays = draw("keep[", n)
    arrays["keep"] = np.zeros((2, 80), bool)
    arrays["keep"][0, :30] = True
    arrays["keep"][1, 77] = True
    counters = check("keep[b,m]", arrays)
    assert counters.loaded("K")[0] == 2 * 10 * (8 + 1)
    assert counters.full_visits["O", "m1_at"] == 2 * 10 * 7


def test_a_list_is_shared_by_heads_and_rows():
    listing = program("keep[b,m]").kernels[0]
    assert [g.scalar for g in listing.grid] == ["b_at"]
    listing = program("m <= p and D[b,p] == C[b,m]").kernels[0]
    assert [g.scalar for g in listing.grid] == ["b_at", "p_tile"]
    listing = program("p - m < W[h] and D[b,p] == C[b,m]").kernels[0]
    assert [g.scalar for g in listing.grid] == ["b_at", "h_at", "p_tile"]


def test_a_causal_mask_bounds_what_is_listed():
    arrays = packed([64] * 4)
    whole = check("D[b,p] == C[b,m]", arrays).loaded("C")[1]
    half = check("m <= p and D[b,p] == C[b,m]", arrays).loaded("C")[1]
    assert half < 0.7 * whole


GROUPED = """
import std
input Q[b,h,p,e], K[b,g,m,e], V[b,g,m,f], D[b,p]: int, C[b,m]: int
QK[b,h,p,m] = Q[b,h,p,e] * K[b, h // (H // G), m, e] where D[b,p] == C[b,m]
A[b,h,p,m] = softmax[m](QK[b,h,p,m])
O[b,h,p,f] = A[b,h,p,m] * V[b, h // (H // G), m, f]
output O
"""


@pytest.mark.parametrize("p", [1, 3])
def test_heads_as_rows(p):
    made = TiledKernel(api.parse(GROUPED, "grouped"), {"p": TILE, "m": TILE}, threads=1)
    rng = np.random.default_rng(p)
    shapes = {"Q": (2, 6, p, 4), "K": (2, 2, 41, 4), "V": (2, 2, 41, 5)}
    arrays: dict[str, Any] = {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}
    arrays |= {"D": rng.integers(0, 9, (2, p)), "C": np.sort(rng.integers(0, 9, (2, 41)))}
    result = made.run(arrays)
    wanted = cascade.run(made.spec, arrays)["O"]
    np.testing.assert_allclose(result.outputs["O"], wanted, rtol=0, atol=2e-6)
    both = made.measured(arrays, {}, result)["kernels"]
    assert len(both) == 2
    assert all(k["predicted"]["loops"] == k["measured"]["loops"] for k in both.values())
    assert all(k["predicted"]["tensors"] == k["measured"]["tensors"] for k in both.values())


def test_a_prediction_needs_the_values():
    arrays = packed([16] * 8)
    made = kernel("D[b,p] == C[b,m]").schedule(arrays, {})
    bound = made.bind({n: a.shape for n, a in arrays.items()})
    with pytest.raises(cascade.InputError, match="depends on `C`, whose values are not given"):
        predict(made.program, bound, {"D": arrays["D"]})


# -- Triton
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # scalars out of arrays of one element
@pytest.mark.parametrize(("name", "split"), [*((n, 1) for n in LISTED), *((n, 2) for n in SPLIT)])
def test_triton(name, split, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    from cascade.backends.triton.launch import TritonKernel

    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path))
    made = TritonKernel(spec(LISTED[name]), {"p": 16, "m": 8}, split=split)
    for n in (numbers(b=1), numbers(b=1, p=9, m=70)):
        arrays = draw(LISTED[name], n)
        with np.errstate(all="ignore"):
            found = made(**{k: torch.from_numpy(a) for k, a in arrays.items()}).numpy()
        wanted = cascade.run(made.spec, arrays)["O"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)
        source = made.made({k: torch.from_numpy(a) for k, a in arrays.items()}, {})[0].source
        assert "m_tiles_kernel" in source


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("descriptors", [False, True])
@pytest.mark.parametrize("p", [2, 33])
def test_triton_of_grouped_heads(p, descriptors, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    from cascade.backends.triton.launch import TritonKernel

    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path))
    spec = api.parse(GROUPED, "grouped")
    made = TritonKernel(spec, {"p": 16, "m": 16}, descriptors=descriptors)
    rng = np.random.default_rng(p)
    shapes = {"Q": (1, 4, p, 16), "K": (1, 2, 81, 16), "V": (1, 2, 81, 16)}
    arrays: dict[str, Any] = {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}
    arrays |= {"D": rng.integers(0, 9, (1, p)), "C": np.sort(rng.integers(0, 9, (1, 81)))}
    tensors = {n: torch.from_numpy(a) for n, a in arrays.items()}
    with np.errstate(all="ignore"):
        found = made(**tensors).numpy()
    np.testing.assert_allclose(found, cascade.run(spec, arrays)["O"], rtol=0, atol=2e-6)
    source = made.made(tensors, {})[0].source
    assert "m_tiles_kernel" in source
    assert ("make_tensor_descriptor" in source) == descriptors


AHEAD = ("causal documents", "padding", "documents or sinks", "mask of blocks")


@pytest.mark.parametrize("name", AHEAD)
def test_ahead_of_time(name, tmp_path):
    pytest.importorskip("triton")
    (tmp_path / "listed.cascade").write_text(str(spec(LISTED[name])))
    command = [sys.executable, "-m", "cascade", "compile", str(tmp_path / "listed.cascade")]
    command += ["-o", str(tmp_path / "kernels.py"), "--target", "sm_90", "--json"]
    command += ["--set", "E=64,F=64"]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "triton")
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    listing, attention = json.loads(done.stdout)["kernels"]
    for found in (listing, attention):
        assert found["spill_bytes"] == 0, found
        assert found["fits"], found
    assert listing["kernel"] == "O_m_tiles"
    assert listing["tensor_core_instructions"] == 0
    assert attention["wgmma_instructions"] > 0
