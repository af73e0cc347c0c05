"""Generated kernels in the interpreter of triton, against float64."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cascade
from cascade.backends.reference import evaluate
from tests.examples.formulas import FORMULAS
from tests.examples.test_examples import BLIND, LOUD, NAMES, draw, sizes, spec
from tests.schedule.test_examples import settings, single

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from cascade.backends.triton import launch  # noqa: E402
from cascade.backends.triton.launch import TritonKernel  # noqa: E402
from cascade.backends.triton.tiles import first  # noqa: E402

# The interpreter takes scalars out of arrays of one element.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SMALL = {r: 16 for r in "bhpmtdnikyx"}
KERNELS: dict[str, TritonKernel] = {}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))


def kernel(name: str) -> TritonKernel:
    if name not in KERNELS:
        tiles = {r: n for r, n in SMALL.items() if r in spec(name).rank}
        KERNELS[name] = TritonKernel(spec(name), tiles)
    return KERNELS[name]


def interpret(made: Any, arrays: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    tensors = {n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in arrays.items()}
    if made.descriptors:
        tensors = {n: aligned_rows(t) for n, t in tensors.items()}
    with np.errstate(all="ignore"):  # a GPU does not warn either
        out = made(**tensors, **given)
    out = out if isinstance(out, dict) else {made.spec.outputs[0]: out}
    return {n: t.double().numpy() for n, t in out.items()}


def aligned_rows(t: Any) -> Any:
    """The tensor in memory whose rows begin at multiples of 16 bytes."""
    if not t.is_floating_point() or t.dim() < 2:
        return t
    room = torch.full((*t.shape[:-1], -t.shape[-1] // 4 * -4), float("nan"), dtype=t.dtype)
    room[..., : t.shape[-1]] = t
    return room[..., : t.shape[-1]]


def check(
    name: str,
    n: dict[str, Any],
    arrays: dict[str, Any],
    bound: float = 5e-5,
    made: TritonKernel | None = None,
) -> None:
    given = single(arrays)
    exact = {t: a.astype(float) if a.dtype.kind == "f" else a for t, a in given.items()}
    wanted = FORMULAS[name](exact, n)
    found = interpret(made or kernel(name), given, settings(name, n))
    assert found.keys() == wanted.keys()
    for output, expected in wanted.items():
        actual = found[output]
        assert actual.shape == expected.shape
        assert not np.isnan(actual).any(), output
        finite = np.isfinite(expected)
        assert np.array_equal(actual[~finite], expected[~finite]), output
        error = np.abs(actual[finite] - expected[finite]).max(initial=0)
        assert error <= bound * np.abs(expected[finite]).max(initial=1), (output, error)


@pytest.mark.parametrize("name", NAMES)
def test_formula(name):
    for n in sizes(name)[:2]:
        check(name, n, draw(name, n))


WHOLE_ROWS = {"quantised_keys": {"E": 16, "F": 16}}  # 16 bytes: the least a descriptor copies
COPIED = ("attention", "causal", "grouped_query", "sliding_window", "retention", "entropy")


def by_descriptors(name: str) -> str:
    tiles = {r: n for r, n in SMALL.items() if r in spec(name).rank}
    made = TritonKernel(spec(name), tiles, descriptors=True)
    n = sizes(name)[0] | WHOLE_ROWS.get(name, {})
    check(name, n, draw(name, n), made=made)
    ((_, module),) = next(iter(made.known.values()))
    return str(Path(module.__file__ or "").read_text())


@pytest.mark.parametrize("name", COPIED)
def test_descriptors(name):
    assert "make_tensor_descriptor" in by_descriptors(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n not in COPIED])
def test_descriptors_of_the_rest(name):
    by_descriptors(name)


@pytest.mark.parametrize("d", [32, 72])
@pytest.mark.parametrize(("p", "m"), [(1, 17), (17, 1), (65, 129)])
def test_descriptors_at_ragged_lengths(p, m, d):
    made = TritonKernel(spec("causal"), {"p": 64, "m": 64}, descriptors=True)
    against_torch(made, attention(p, m, d, torch.float16), causal=True)


@pytest.mark.parametrize(
    "name", ["attention", "causal", "alibi", "sliding_window", "sigmoid_attention"]
)
def test_one_loop_in_which_every_tile_is_tested(name, monkeypatch):
    """The form whose loads the compiler gives to warps of their own."""
    monkeypatch.setattr(launch, "first", partial(first, specialised=True))
    source = by_descriptors(name)
    assert source.count("warp_specialize=True") == 1
    assert source.count("for k_") == 1


def test_descriptors_want_aligned_tensors():
    made = TritonKernel(spec("attention"), {"p": 16, "m": 16}, descriptors=True)
    with pytest.raises(ValueError, match="`K` is not aligned for descriptors"):
        made(**attention(16, 16, 17, torch.float16))


@pytest.mark.parametrize("case", BLIND, ids=str)
def test_row_that_sees_nothing(case):
    n = sizes(case.name)[0] | case.params
    if any(v == 0 for k, v in case.params.items() if k in ("W", "I", "J", "L")):
        pytest.skip("a tile of no lanes is no tile")
    arrays = draw(case.name, n)
    for tensor, (at, value) in case.inputs.items():
        arrays[tensor][at] = value
    found = interpret(kernel(case.name), single(arrays), settings(case.name, n))
    for output, array in found.items():
        assert not np.isnan(array).any()
        assert (array[case.rows] == (-np.inf if output == "LSE" else 0)).all()


@pytest.mark.parametrize("name", NAMES)
def test_large_values_are_finite(name):
    n = sizes(name)[0]
    arrays = draw(name, n)
    for tensor in LOUD.get(name, ["Q"]):
        arrays[tensor] = arrays[tensor] * 1e4
    for output, array in interpret(kernel(name), single(arrays), settings(name, n)).items():
        assert not np.isnan(array).any(), output


def half(arrays: dict[str, Any]) -> dict[str, Any]:
    return {t: a.astype(np.float16) if a.dtype.kind == "f" else a for t, a in arrays.items()}


@dataclass(frozen=True)
class Errors:
    """Of an output in a type: of the kernel, of PyTorch, and of the exact output when rounded.

    The exact one is the formula in float64 of the same inputs. A kernel rounds the output, and by
    as much a computed operand of a contraction, as weights are; its sums are float32. PyTorch
    rounds after each operation. So we ask for what PyTorch has, or else for two roundings.
    """

    ours: Any
    theirs: Any
    rounding: Any
    half_step: float  # between the largest output and the next number

    @property
    def least(self) -> bool:
        """Whether the largest error is that of PyTorch, or of two roundings, at most."""
        theirs = np.nan_to_num(self.theirs.max(initial=0), posinf=0)
        return bool(self.ours.max(initial=0) <= max(theirs, 2 * self.half_step))


def half_errors(name: str, n: dict[str, Any], arrays: dict[str, Any]) -> list[Errors]:
    return errors(name, n, half(arrays), np.float16)


def errors(name: str, n: dict[str, Any], given: dict[str, Any], dtype: Any) -> list[Errors]:
    wanted = FORMULAS[name](
        {t: a.astype(float) if a.dtype.kind == "f" else a for t, a in given.items()}, n
    )
    made = interpret(kernel(name), given, settings(name, n))
    eager = in_eager(name, given, settings(name, n))
    found = []
    for output, expected in wanted.items():
        finite = np.isfinite(expected)
        assert np.array_equal(made[output][~finite], expected[~finite]), output
        exact = expected[finite]
        rounded = exact.astype(dtype)
        ours, theirs, rounding = (
            np.abs(a - exact) for a in (made[output][finite], eager[output][finite], rounded)
        )
        half_step = float(np.spacing(np.abs(rounded).max(initial=0))) / 2
        found.append(Errors(ours, theirs, rounding, half_step))
    return found


def in_eager(name: str, arrays: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The outputs by plain PyTorch in the types of the arrays."""
    tensors = {t: torch.from_numpy(np.ascontiguousarray(a)) for t, a in arrays.items()}
    out = cascade.as_torch(spec(name))(**tensors, **given)
    out = out if isinstance(out, dict) else {spec(name).outputs[0]: out}
    return {t: a.double().numpy() for t, a in out.items()}


@pytest.mark.parametrize("name", COPIED)
def test_half(name):
    for n in sizes(name)[:2]:
        assert all(e.least for e in half_errors(name, n, draw(name, n)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n not in COPIED])
def test_half_of_the_rest(name):
    for n in sizes(name)[:2]:
        assert all(e.least for e in half_errors(name, n, draw(name, n)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_half_on_average(name):
    """The largest error of one draw is luck; the mean square of many is not."""
    squares = np.zeros(3)
    for seed in range(1, 4):
        for n in sizes(name)[:2]:
            for e in half_errors(name, n, draw(name, n, seed)):
                three = (e.ours, e.theirs, e.rounding)
                squares += [np.square(x / e.half_step).mean() for x in three]
    ours, theirs, rounding = squares
    assert ours <= theirs or ours <= 2**2 * rounding, squares


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_single_on_average(name):
    """Twice the error of PyTorch in float32, operation by operation, or else of a rounding."""
    squares = np.zeros(3)
    for seed in range(1, 4):
        for n in sizes(name)[:2]:
            for e in errors(name, n, single(draw(name, n, seed)), np.float32):
                three = (e.ours, e.theirs, e.rounding)
                squares += [np.square(x / e.half_step).mean() for x in three]
    ours, theirs, rounding = squares
    assert ours <= 2**2 * max(theirs, rounding), np.sqrt(squares)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_large_halves_are_no_nan(name):
    n = sizes(name)[0]
    arrays = draw(name, n)
    for tensor in LOUD.get(name, ["Q"]):
        arrays[tensor] = arrays[tensor] * 1e3
    for output, array in interpret(kernel(name), half(arrays), settings(name, n)).items():
        assert not np.isnan(array).any(), output


def attention(p: int, m: int, d: int, dtype: Any, seed: int = 0, heads: int = 2) -> Any:
    rng = np.random.default_rng([p, m, d, seed])
    q, k, v = (rng.standard_normal((1, heads, x, d)) for x in (p, m, m))
    return {n: torch.from_numpy(x).to(dtype) for n, x in zip("QKV", (q, k, v), strict=True)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("p", "m"), [(1, 17), (17, 1), (122, 122), (128, 257), (257, 128)])
@pytest.mark.parametrize("name", ["attention", "causal"])
def test_lengths(name, p, m, dtype):
    given = attention(p, m, 32, dtype)
    made = TritonKernel(spec(name), {"p": 64, "m": 64})
    against_torch(made, given, causal=name == "causal")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("d", [16, 40, 64, 72, 128])
def test_widths(d, dtype):
    against_torch(
        TritonKernel(spec("causal"), {"p": 64, "m": 64}), attention(65, 65, d, dtype), True
    )


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_groups(groups):
    rng = np.random.default_rng(groups)
    q = torch.from_numpy(rng.standard_normal((2, 8, 33, 16), np.float32))
    k, v = (torch.from_numpy(rng.standard_normal((2, groups, 40, 16), np.float32)) for _ in "kv")
    out = TritonKernel(spec("grouped_query"), {"p": 32, "m": 32})(Q=q, K=k, V=v)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    assert torch.allclose(out, wanted, atol=2e-6)


@pytest.mark.parametrize(("name", "factor"), [("causal", "scale"), ("soft_cap", "cap")])
def test_a_factor_of_any_sign(name, factor):
    """Kernels for positive factors leave them out of the maximum, and refuse others; in float32,
    where one more rounding would be seen, the factor stays.
    """
    n = sizes(name)[0]
    arrays = half(draw(name, n))
    wide = {t: a.astype(float) for t, a in arrays.items()}
    made = kernel(name)
    for value in (0.3, -0.3, *([0.0] if factor == "scale" else [])):
        found = interpret(made, arrays, {factor: value})
        wanted = cascade.compile(spec(name))(**wide, **{factor: value})
        wanted = wanted if isinstance(wanted, dict) else {spec(name).outputs[0]: wanted}
        for output, array in found.items():
            np.testing.assert_allclose(array, wanted[output], atol=5e-3)
    (first, *_) = next(v for k, v in made.known.items() if (factor, "0.3") in k[2])
    tensors = {n: torch.from_numpy(a) for n, a in arrays.items()}
    with pytest.raises(ValueError, match=f"these kernels are for {factor} > 0, not -1"):
        first[1].run(**tensors, **{factor: -1.0})
    _, single = made.made({n: t.float() for n, t in tensors.items()}, {factor: 0.3})
    with np.errstate(all="ignore"):
        single.run(**{n: t.float() for n, t in tensors.items()}, **{factor: -1.0})


@pytest.mark.parametrize("kept", [3, 12])
def test_selections_unrolled_and_in_a_loop(kept):
    n = sizes("topk_attention")[0] | {"m": 40}  # keys to choose from
    arrays = draw("topk_attention", n)
    given = {"J": kept}
    found = interpret(kernel("topk_attention"), arrays, given)
    wanted = evaluate(spec("topk_attention"), arrays, given)
    for output, array in found.items():
        np.testing.assert_allclose(array, wanted[output], atol=2e-5)


def test_strides():
    rng = np.random.default_rng(0)
    shapes = [(2, length, 3, 16) for length in (33, 40, 40)]
    q, k, v = (torch.from_numpy(rng.standard_normal(s, np.float32)).transpose(1, 2) for s in shapes)
    given = {"Q": q, "K": k, "V": v[..., :8]}
    out = TritonKernel(spec("attention"), {"p": 16, "m": 16})(**given)
    wanted = torch.nn.functional.scaled_dot_product_attention(*given.values())
    assert torch.allclose(out, wanted, atol=2e-6)


def test_one_source_for_all_lengths():
    made = TritonKernel(spec("causal"), {"p": 16, "m": 16})
    for length in (17, 31, 64):
        against_torch(made, attention(length, length, 16, torch.float32), True)
    assert len(made.known) == 1


@pytest.mark.parametrize("name", ["causal", "alibi", "document_mask"])
def test_the_last_rows_of_a_head_start_first(name):
    check(name, sizes(name)[0], draw(name, sizes(name)[0]))
    (_, module), *_ = next(iter(kernel(name).known.values()))
    source = Path(module.__file__ or "").read_text()
    (line,) = (n.strip() for n in source.splitlines() if " - 1 - rest % " in n)
    tiles = line.split(" - rest % ")[1]
    assert line == f"i_p_tile = {tiles} - 1 - rest % {tiles}"


def test_rows_of_equal_work_start_in_their_order():
    check("attention", sizes("attention")[0], draw("attention", sizes("attention")[0]))
    (_, module), *_ = next(iter(kernel("attention").known.values()))
    assert "i_p_tile = rest % " in Path(module.__file__ or "").read_text()


def nan_rows(tensor: str, at: tuple[int, ...], name: str = "causal") -> Any:
    """Rows of the output that have a NaN where a tensor has one."""
    given = attention(40, 40, 16, torch.float32)
    given[tensor][at] = float("nan")
    with np.errstate(all="ignore"):
        out = TritonKernel(spec(name), {"p": 16, "m": 16})(**given)
    return torch.isnan(out["O"] if isinstance(out, dict) else out).any(-1).nonzero().tolist()


def test_a_nan_stays_in_the_rows_that_read_it():
    assert nan_rows("Q", (0, 0, 7, 3)) == [[0, 0, 7]]
    assert nan_rows("K", (0, 1, 37, 3)) == [[0, 1, p] for p in (37, 38, 39)]
    assert nan_rows("K", (0, 1, 37, 3), "attention") == [[0, 1, p] for p in range(40)]


def test_a_nan_of_values_stays_in_the_tiles_of_rows_that_read_it():
    rows = nan_rows("V", (0, 0, 20, 3))
    assert {p for *_, p in rows} >= set(range(20, 40))  # those that read it
    assert {(b, h) for b, h, _ in rows} == {(0, 0)}
    assert min(p for *_, p in rows) >= 16  # in the tile of row 20 others may be NaN, too


BIASED = """cascade biased
import std
input  Q[p,e], K[m,e], V[m,f], bias[p,m]
A[p,m] = softmax[m](sum[e](Q[p,e] * K[m,e]) + bias[p,m] where m <= p{})
O[p,f] = A[p,m] * V[m,f]
output O
"""


@pytest.mark.parametrize("absent", [False, True])
def test_biases_that_are_not_finite(absent):
    """NaN stays in its row; a row of -inf is NaN as in the reference, or 0 where that is absent."""
    made = cascade.parse(BIASED.format(" and bias[p,m] > -inf" if absent else ""), "biased")
    given = {n: t[0, 0] for n, t in attention(40, 40, 16, torch.float32).items()}
    bias = torch.zeros(40, 40)
    bias[7, 3] = bias[5, 20] = float("nan")  # row 5 does not read key 20
    bias[11] = float("-inf")
    bias[13, :9] = float("-inf")
    bias[30, 17] = float("inf")
    given["bias"] = bias
    with np.errstate(all="ignore"):
        out = TritonKernel(made, {"p": 16, "m": 16})(**given)
        arrays = {n: t.double().numpy() for n, t in given.items()}
        exact = torch.from_numpy(cascade.run(made, arrays)["O"])
    nan = torch.isnan(out).any(-1)
    assert torch.equal(nan, torch.isnan(exact).any(-1))
    assert nan[11] == (not absent) and not nan[[5, 13]].any()
    assert torch.allclose(out[~nan].double(), exact[~nan], atol=2e-6)
    assert not absent or not out[11].any()


def against_torch(made: Any, given: Any, causal: bool) -> None:
    with np.errstate(all="ignore"):
        out = made(**given)
    out = out["O"] if isinstance(out, dict) else out
    exact = {n: t.double() for n, t in given.items()}
    scores = exact["Q"] @ exact["K"].transpose(-1, -2) / exact["Q"].shape[-1] ** 0.5
    if causal:
        keep = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~keep, float("-inf"))
    wanted = torch.nan_to_num(scores.softmax(-1)) @ exact["V"]
    bound = 1e-5 if given["Q"].dtype == torch.float32 else 4e-3
    assert out.dtype == given["Q"].dtype
    assert (out.double() - wanted).abs().max() <= bound


def test_triton_needs_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(cascade.InputError, match="Triton kernels run on a GPU"):
        cascade.compile(spec("attention"), "triton")(**attention(4, 4, 16, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_row_with_a_mask_added_whole_is_uniform(dtype):
    """As Hugging Face masks, with the lowest number of a type, in base 2 and in base e."""
    spec = cascade.parse("""
        import std
        input Q[p,e], K[m,e], B[p,m], V[m,f]
        S[p,m] = Q[p,e] * K[m,e]
        A[p,m] = softmax[m](S[p,m] + B[p,m])
        O[p,f] = A[p,m] * V[m,f]
        output O""")
    chance = torch.Generator().manual_seed(0)
    shapes = {"Q": (3, 16), "K": (40, 16), "V": (40, 16)}
    tensors = {n: torch.randn(s, generator=chance).to(dtype) for n, s in shapes.items()}
    tensors["B"] = torch.zeros(3, 40, dtype=dtype)
    tensors["B"][0] = tensors["B"][1, 3:] = torch.finfo(dtype).min
    with np.errstate(all="ignore"):
        found = TritonKernel(spec, {"m": 16, "p": 16})(**tensors).double()
    wanted = cascade.run(spec, {n: t.double().numpy() for n, t in tensors.items()})["O"]
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_a_delta_rule_with_keys_of_length_1():
    """Its forward substitutions read themselves, and its keys are of a kernel of their own."""
    made = cascade.parse(
        """
        input Q[m,e], K[m,e], V[m,f]
        N[m,e] = K[m,e] / sqrt(sum[e](K[m,e]**2))
        init H[0,e,f] = 0
        H[m+1,e,f] = H[m,e,f] + N[m,e] * (V[m,f] - sum[n](N[m,n] * H[m,n,f]))
        O[m,f] = sum[e](Q[m,e] * H[m+1,e,f])
        output O""",
        "delta",
    )
    given = {n: t[0, 0] for n, t in attention(37, 37, 16, torch.float32).items()}
    arrays = {n: t.double().numpy() for n, t in given.items()}
    exact = torch.from_numpy(cascade.run(made, arrays)["O"])
    with np.errstate(all="ignore"):  # lanes after the last row are of length 0
        in_triton = TritonKernel(made, {"m": 16})(**given)
    leaves = {n: t.requires_grad_() for n, t in given.items()}
    out = cascade.compile(made)(**leaves)
    for found in (in_triton, out):
        assert torch.allclose(found.double(), exact, rtol=0, atol=2e-5)
    out.sum().backward()
    backward = cascade.gradient(made, save=False).backward
    wanted = cascade.run(backward, {**arrays, "dO": np.ones(out.shape)})
    for name, leaf in leaves.items():
        expected = torch.from_numpy(wanted[f"d{name}"])
        assert torch.allclose(leaf.grad.double(), expected, rtol=0, atol=1e-4), name
