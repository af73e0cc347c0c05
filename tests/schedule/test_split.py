"""Loops in splits: every example against its formula, and what is merged at the edges."""

from functools import cache
from typing import Any

import numpy as np
import pytest

import cascade
from cascade import api
from cascade.backends.kernel import TiledKernel
from cascade.ir.expr import Const
from cascade.schedule.program import For, Kernel, Seq, Store, inside
from cascade.schedule.sizes import AUTO
from tests.examples.formulas import FORMULAS
from tests.examples.test_examples import NAMES, draw, sizes, spec
from tests.schedule.test_examples import SMALL, compare, settings, single

ORDERED = {  # loops over steps in order, and selections
    "attention_1pass", "delta_rule", "pedagogical_iterative", "retention",
    "selective_state_space", "topk_attention",
}  # fmt: skip
WHOLE = [n for n in NAMES if n not in ORDERED]


@cache
def kernel(name: str, split: int) -> TiledKernel:
    tiles = {r: n for r, n in SMALL.items() if r in spec(name).rank}
    return TiledKernel(spec(name), tiles, threads=2, split=split)


def run(name: str, split: int, n: dict[str, Any], arrays: dict[str, Any]) -> Any:
    return kernel(name, split).run(single(arrays), settings(name, n))


def exact(arrays: dict[str, Any]) -> dict[str, Any]:
    found = single(arrays)
    return {t: a.astype(float) if a.dtype.kind == "f" else a for t, a in found.items()}


def loops_of(k: Kernel) -> list[For]:
    return [n for n in inside(k.body) if isinstance(n, For)]


@pytest.mark.parametrize("split", [3, AUTO])
@pytest.mark.parametrize("name", WHOLE)
def test_formula_and_prediction(name, split):
    for n in sizes(name):
        arrays = draw(name, n)
        result = run(name, split, n, arrays)
        compare(result.outputs, FORMULAS[name](exact(arrays), n), 2e-5)
        both = kernel(name, split).measured(single(arrays), settings(name, n), result)
        for found in both["kernels"].values():
            assert found["predicted"]["tensors"] == found["measured"]["tensors"]
            assert found["predicted"]["loops"] == found["measured"]["loops"]


@pytest.mark.parametrize("name", WHOLE)
def test_the_merged_loop_reads_only_parts(name):
    program = api.schedule(spec(name), tiles=kernel(name, 3).tiles, split=3).program
    buffers = program.buffer
    merging = [n for k in program.kernels for n in k.body if isinstance(n, Seq)]
    merging = [n for n in merging if any(c.next.endswith("_merged") for c in n.carries)]
    assert merging
    for loop in merging:
        loads = [n for n in loop.body if hasattr(n, "tensor")]
        assert len(loads) == len(loop.carries)
        assert all(buffers[n.tensor].kind == "temp" for n in loads)
    for k in program.kernels:
        splits = [g for g in k.grid if "_split" in g.scalar]
        loops = [n for n in loops_of(k) if not any(isinstance(x, Store) for x in n.body)]
        lists = {t.tiles for x in program.kernels for n in loops_of(x) for t in n.lists}
        listing = any(isinstance(n, Store) and n.tensor in lists for n in inside(k.body))
        assert len(loops) == (1 if splits and not listing else 0)


def numbers(**more: int) -> dict[str, int]:
    return {"B": 2, "H": 2, "P": 9, "M": 21, "E": 4, "F": 5} | more


@pytest.mark.parametrize("split", [2, 5, 64])  # 21 keys are 3 tiles: some splits are empty
@pytest.mark.parametrize("m", [0, 1, 7, 8, 21])
@pytest.mark.parametrize("name", ["causal", "entropy"])
def test_ragged_and_empty_splits(name, m, split):
    n = numbers(M=m)
    arrays = draw(name, n)
    compare(run(name, split, n, arrays).outputs, FORMULAS[name](exact(arrays), n), 2e-5)


@pytest.mark.parametrize("split", [3, 64])
def test_rows_that_see_nothing(split):
    text = """
    cascade masked
    input Q[b,h,p,e], K[b,h,m,e], V[b,h,m,f], start: int
    QK[b,h,p,m] = Q[b,h,p,e] * K[b,h,m,e] where m <= p - start
    A[b,h,p,m] = exp(QK[b,h,p,m] - max[m](QK[b,h,p,m])) / sum[m](exp(QK[b,h,p,m] - max[m](QK[b,h,p,m])))
    O[b,h,p,f] = A[b,h,p,m] * V[b,h,m,f]
    output O
    """  # noqa: E501
    masked = cascade.parse(text)
    arrays = single(draw("attention", numbers())) | {"start": np.int64(5)}
    wanted = api.run(masked, arrays)
    for spread in (1.0, 1e4):
        given = arrays | {"Q": arrays["Q"] * np.float32(spread)}
        wanted = api.run(masked, given)
        made = TiledKernel(masked, {"p": 8, "m": 8}, split=split)
        found = made.run(given).outputs
        compare(found, wanted, 2e-5)
        assert (found["O"][:, :, :5] == 0).all()


def test_nan_stays_in_its_rows_and_infinite_rows_are_nan():
    n = numbers()
    arrays = single(draw("attention", n))
    arrays["Q"][0, 1, 3] = np.nan
    arrays["Q"][1, 0, 2] = -np.inf
    arrays["K"] = np.abs(arrays["K"]) + np.float32(0.1)
    found = run("attention", 3, n, arrays).outputs["O"]
    lost = np.isnan(found).all(-1)
    assert np.argwhere(lost).tolist() == [[0, 1, 3], [1, 0, 2]]
    assert np.isfinite(found[~lost]).all()


def test_a_fixed_split_does_not_depend_on_the_batch():
    n = numbers(B=4, P=1, M=100)
    arrays = single(draw("causal", n | {"P": 1}))
    whole = run("causal", 4, n, arrays).outputs
    for b in range(4):
        one = {t: a[b : b + 1] for t, a in arrays.items()}
        alone = run("causal", 4, n | {"B": 1}, one).outputs
        for output, found in alone.items():
            assert np.array_equal(found[0], whole[output][b])


def test_auto_splits_few_instances_and_leaves_many():
    made = api.schedule(spec("attention"), tiles={"p": 16, "m": 64}, split="auto")

    def number(**extents: int) -> int:
        n = {"E": 16, "F": 16, "H": 8, "P": 1} | extents
        b, h, p, m, e, f = (n[x] for x in "BHPMEF")
        shapes = {"Q": (b, h, p, e), "K": (b, h, m, e), "V": (b, h, m, f)}
        return int(made.bind(shapes)["m_splits"])

    assert number(B=1, M=8192) == 33  # 8 instances, 2 waves of 132
    assert number(B=1, M=256) == 4  # no more than there are tiles
    assert number(B=64, M=8192, P=512) == 1
    assert number(B=0, M=8192) > 0
    assert number(B=1, M=0) == 1


def test_one_program_serves_every_number_of_splits():
    made = api.schedule(spec("attention"), split=7).program
    assert dict(made.values)["m_splits"] == Const(7)
    other = api.schedule(spec("attention"), split=9).program
    assert other.kernels == made.kernels


@pytest.mark.parametrize("name", sorted(ORDERED))
def test_what_cannot_be_split_is_refused_and_left_by_auto(name):
    with pytest.raises(cascade.CascadeError, match="no-split"):
        api.schedule(spec(name), split=2)
    assert api.schedule(spec(name), split="auto").program == api.schedule(spec(name)).program


@pytest.mark.parametrize("split", [0, -1, True, 1.5, "many"])
def test_wrong_numbers(split):
    with pytest.raises(cascade.CascadeError, match="splits are 1 or more"):
        api.schedule(spec("attention"), split=split)
