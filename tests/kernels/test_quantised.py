"""Keys and values of 8 bits with scales: every executor, every type, every block of a scale."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cascade
from cascade.ir.expr import Read
from cascade.schedule.program import Contract, inside
from tests.kernels.test_ahead_of_time import check as check_facts
from tests.kernels.test_ahead_of_time import compile_for

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from cascade.backends.kernel import TiledKernel  # noqa: E402
from cascade.backends.triton.launch import TritonKernel  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TYPES = {"i8": torch.int8, "f8e4m3": torch.float8_e4m3fn, "f8e5m2": torch.float8_e5m2}
BLOCK = 16
SHAPE = {"b": 1, "h": 2, "p": 33, "m": 70, "e": 32, "f": 32, "n": -(-70 // BLOCK)}

# The ranks of a scale, and its index at key m.
SCALES = {
    "tensor": ("", ""),
    "head": ("h", "h"),
    "key": ("b,h,m", "b,h,m"),
    "block": ("b,h,n", f"b,h,m//{BLOCK}"),
}
PAIRS = [("i8", "f8e4m3"), ("f8e4m3", "f8e5m2"), ("f8e5m2", "i8")]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))


def text(types: tuple[str, str], scales: tuple[str, str], query: str = "real") -> str:
    def slots(inside: str) -> str:
        return f"[{inside}]" if inside else ""

    (k_ranks, k_at), (v_ranks, v_at) = (SCALES[s] for s in scales)
    return f"""cascade quantised
import std
input Q[b,h,p,e]: {query}, K[b,h,m,e]: {types[0]}, V[b,h,m,f]: {types[1]}
input SK{slots(k_ranks)}: f32, SV{slots(v_ranks)}: f32
param scale = 1/sqrt(E)
QK[b,h,p,m] = scale * sum[e](Q[b,h,p,e] * (K[b,h,m,e] * SK{slots(k_at)}))
A[b,h,p,m] = softmax[m](QK[b,h,p,m])
O[b,h,p,f] = sum[m](A[b,h,p,m] * (V[b,h,m,f] * SV{slots(v_at)}))
output O
"""


def quantised(types: tuple[str, str], scales: tuple[str, str], query: Any = None) -> Any:
    """A spec, its arguments, and attention in float64 over what they stand for."""
    spec = cascade.parse(text(types, scales))
    torch.manual_seed(len(str((types, scales))))
    given, exact = {}, {}
    for t in spec.inputs:
        shape = [SHAPE[r] for r in t.ranks]
        if t.name in "KV" and t.dtype == "i8":
            given[t.name] = torch.randint(-127, 128, shape).to(torch.int8)
        elif t.name in "QKV":
            given[t.name] = torch.randn(shape).to(TYPES.get(t.dtype or "", query or torch.float32))
        else:
            size = 0.01 if types["SK SV".split().index(t.name)] == "i8" else 1.0
            given[t.name] = size * (0.5 + torch.rand(shape))
    for name, scale in zip("KV", scales, strict=True):
        exact[name] = given[name].double() * by_key(given[f"S{name}"].double(), scale)
    logits = given["Q"].double() @ exact["K"].mT / SHAPE["e"] ** 0.5
    return spec, given, logits.softmax(-1) @ exact["V"]


def by_key(scale: Any, kind: str) -> Any:
    """A scale that multiplies keys of [b,h,m,e]."""
    if kind == "head":
        return scale[:, None, None]
    if kind == "block":
        return scale.repeat_interleave(BLOCK, -1)[..., : SHAPE["m"], None]
    return scale[..., None] if kind == "key" else scale


def error(found: Any, wanted: Any) -> float:
    found = torch.as_tensor(found).double()
    return float((found - wanted).abs().max() / wanted.abs().max())


MIXED = [(t, (s, s)) for t in PAIRS for s in SCALES] + [(PAIRS[0], ("block", "head"))]


@pytest.mark.parametrize(("types", "scales"), MIXED, ids=str)
def test_reference_program_and_operator(types, scales):
    spec, given, wanted = quantised(types, scales)
    assert error(cascade.run(spec, given)["O"], wanted) < 1e-13
    assert error(TiledKernel(spec).run(given).outputs["O"], wanted) < 2e-6
    kernel = cascade.compile(spec, tiles={"p": 16, "m": 32})
    assert error(kernel(**given), wanted) < 2e-6
    assert error(cascade.as_torch(spec)(**given), wanted) < 2e-6
    narrow = {**given, "Q": given["Q"].half()}
    assert kernel(**narrow).dtype == torch.float32  # the scales are


@pytest.mark.parametrize("descriptors", [False, True])
@pytest.mark.parametrize(("types", "scales"), MIXED[:4] + MIXED[-1:], ids=str)
def test_interpreter(types, scales, descriptors):
    interpret(types, scales, descriptors)


@pytest.mark.slow
@pytest.mark.parametrize(("types", "scales"), MIXED[4:-1], ids=str)
def test_interpreter_of_the_rest(types, scales):
    interpret(types, scales, False)


def interpret(types: tuple[str, str], scales: tuple[str, str], descriptors: bool) -> None:
    for query, bound in ((torch.float32, 2e-6), (torch.float16, 2 * 2**-11)):
        spec, given, wanted = quantised(types, scales, query)
        made = TritonKernel(spec, {"p": 16, "m": 32}, descriptors=descriptors)
        with np.errstate(all="ignore"):
            out = made(**given)
        assert out.dtype == query
        assert error(out, wanted) < bound


GROUPED = """cascade grouped
import std
input Q[b,h,p,e], K[b,g,m,e]: i8, V[b,g,m,f]: f8e4m3
input SK[b,g,m]: f32, SV[g]: f32
param scale = 1/sqrt(E)
require H % G == 0
QK[b,h,p,m] = scale * Q[b,h,p,e] * (K[b,h//(H//G),m,e] * SK[b,h//(H//G),m])
A[b,h,p,m] = softmax[m](QK[b,h,p,m])
O[b,h,p,f] = A[b,h,p,m] * (V[b,h//(H//G),m,f] * SV[h//(H//G)])
output O
"""


@pytest.mark.parametrize("split", [1, 3])
def test_decoding(split):
    """One query, heads that share keys as rows of a tile, and a cache that is cut."""
    torch.manual_seed(0)
    given = {
        "Q": torch.randn(2, 8, 1, 32).half(),
        "K": torch.randint(-127, 128, (2, 2, 90, 32)).to(torch.int8),
        "V": torch.randn(2, 2, 90, 32).to(torch.float8_e4m3fn),
        "SK": 0.02 * torch.rand(2, 2, 90),
        "SV": 1 + torch.rand(2),
    }
    q, k, v, of_k, of_v = (t.double() for t in given.values())
    k, v = k * of_k[..., None], v * of_v[:, None, None]
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    spec = cascade.parse(GROUPED)
    made = TritonKernel(spec, {"m": 16}, split=split)
    with np.errstate(all="ignore"):
        assert error(made(**given), wanted) < 2 * 2**-11
    assert error(cascade.compile(spec, split=split)(**given), wanted) < 2e-6


@pytest.mark.parametrize("dtype", TYPES)
def test_every_code(dtype):
    """All 256 numbers of a type. The interpreter takes those that are not finite for numbers."""
    spec = cascade.parse(f"input x[i,j]: {dtype}, s: f32\ny[i,j] = x[i,j] * s\noutput y")
    codes = torch.arange(256, dtype=torch.uint8).reshape(16, 16).view(TYPES[dtype])
    given = {"x": codes, "s": torch.tensor(0.5)}
    wanted = codes.double().numpy() / 2
    with np.errstate(all="ignore"):
        found = [
            cascade.run(spec, given)["y"],
            TiledKernel(spec).run(given).outputs["y"],
            cascade.compile(spec)(**given),
        ]
        interpreted = TritonKernel(spec, {"i": 16})(**given)
    for y in found:
        assert np.array_equal(np.asarray(y, float), wanted, equal_nan=True)
    finite = np.isfinite(wanted)
    assert np.array_equal(interpreted.numpy()[finite], wanted[finite])


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_arrays_of_ml_dtypes(name):
    dtype = getattr(pytest.importorskip("ml_dtypes"), name)
    spec = cascade.parse("input x[i]\ny[i] = 2 * x[i]\noutput y")
    x = np.array([0.5, -3, 448], dtype)
    assert cascade.run(spec, {"x": x})["y"].tolist() == [1, -6, 896]
    assert cascade.compile(spec)(x=x).tolist() == [1, -6, 896]


@pytest.mark.parametrize("scale", SCALES)
def test_no_scale_of_keys_is_in_a_contraction(scale):
    """It has not the rank that is summed, so it multiplies what the matrix units made."""
    spec = cascade.parse(text(PAIRS[0], (scale, "head")))
    (kernel,) = cascade.schedule(spec, tiles={"p": 64, "m": 64}).program.kernels
    products = [n for n in inside(kernel.body) if isinstance(n, Contract)]
    factors = [{f.tensor for f in n.factors if isinstance(f, Read)} for n in products]
    assert {"Q", "K"} in factors and all(not f & {"SK", "SV"} for f in factors)


def test_a_computed_operand_is_not_rounded_to_8_bits():
    for scale in ("head", "key"):
        source = emitted(cascade.parse(text(("f8e4m3", "f8e4m3"), ("key", scale), "bf16")))
        products = re.findall(r"tl\.dot\((.*?)input_precision", source, re.DOTALL)
        assert {p.count(".to(Q_ptr.dtype.element_ty)") for p in products if "t_V" in p} == {2}
        assert not re.search(r"\.to\(t_[KV]\.dtype\)|S[KV]_ptr\.dtype", source)


def test_operands_that_are_all_of_8_bits_meet_in_16():
    spec = cascade.parse(text(("i8", "f8e4m3"), ("head", "key"), "f8e5m2"))
    products = re.findall(r"tl\.dot\((.*?)input_precision", emitted(spec), re.DOTALL)
    assert products
    assert all(p.count(".to(tl.bfloat16)") == 2 for p in products)


def emitted(spec: Any) -> str:
    from cascade.backends.triton.tiles import first

    return first(spec, {"e": 64, "f": 64}).source


def test_integers_are_loaded_as_they_are():
    """One byte a key, and one at a time: no copy of a tensor in 64 bits."""
    spec, given, _ = quantised(("i8", "i8"), ("key", "key"))
    arrays = {n: t.numpy() for n, t in given.items()}
    kernel = TiledKernel(spec)
    measured = kernel.measured(arrays, {}, kernel.run(arrays))
    (row,) = measured["kernels"].values()
    for counted in (row["predicted"], row["measured"]):
        assert counted["tensors"]["K"]["bytes_loaded"] == arrays["K"].nbytes


def test_gradients_pass_the_integers_by():
    spec, given, _ = quantised(("i8", "i8"), ("block", "key"))
    given = {n: t.double() if t.is_floating_point() else t for n, t in given.items()}
    leaves = [given[n].requires_grad_() for n in ("Q", "SK", "SV")]
    made = (cascade.compile(spec)(**given), cascade.as_torch(spec)(**given))
    found, wanted = (torch.autograd.grad(out.square().sum(), leaves) for out in made)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_undeclared_8_bits_are_refused_by_an_emitted_file(tmp_path):
    source = emitted(cascade.parse(text(("i8", "f16"), ("key", "key"))))
    path = tmp_path / "kernels.py"
    path.write_text(source)
    from cascade.backends.triton.launch import _module

    _, given, _ = quantised(("i8", "f8e4m3"), ("key", "key"))
    with pytest.raises(ValueError, match=r"`V.*` is not declared as one of 8 bits"):
        _module(source).run(**given)


def aot(tmp_path: Path, monkeypatch: Any, types: Any, scales: Any, width: int, *more: str) -> Any:
    """Facts of the kernels for bfloat16 queries on sm_90; blocks are of 64 keys there."""
    spec = text(types, scales, "bf16").replace(f"//{BLOCK}", "//64")
    (tmp_path / "attention.cascade").write_text(spec)
    monkeypatch.setattr("tests.kernels.test_ahead_of_time.FOLDER", tmp_path)
    return compile_for(tmp_path, "attention", width, *more)


def check_on_matrix_units(found: Any) -> None:
    check_facts(found)
    for kernel in found["kernels"]:
        assert kernel["wgmma_instructions"] == kernel["tensor_core_instructions"] > 0


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("loads", ["pointers", "descriptors"])
def test_ahead_of_time(tmp_path, monkeypatch, width, loads):
    found = aot(tmp_path, monkeypatch, PAIRS[0], ("block", "head"), width, "--loads", loads)
    check_on_matrix_units(found)
    assert found["tiles"]["rows"] == 128


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize(("types", "scales"), MIXED, ids=str)
def test_every_type_and_scale_ahead_of_time(tmp_path, monkeypatch, types, scales, width):
    check_on_matrix_units(aot(tmp_path, monkeypatch, types, scales, width))


def test_a_target_without_e4m3(tmp_path, monkeypatch):
    with pytest.raises(AssertionError, match="sm_80 has no numbers of type f8e4m3, as `V` has"):
        aot(tmp_path, monkeypatch, PAIRS[0], ("key", "key"), 64, "--target", "sm_80")
