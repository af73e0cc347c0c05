"""Gradients as kernels: the Program in NumPy, the interpreter of triton, and ahead of time."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import cascade
from cascade.backends.compare import draw
from cascade.backends.differences import settings_for
from cascade.backends.kernel import TiledKernel
from cascade.backends.reference import evaluate
from cascade.gradients import Gradients
from tests.examples.test_examples import FOLDER, NAMES, spec
from tests.kernels.test_ahead_of_time import check as check_facts
from tests.kernels.test_ahead_of_time import compile_for

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from cascade.backends.triton.launch import TritonKernel  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BOUND = 2e-5  # of the largest value, float32 against float64
ROUNDED = {"layernorm_matmul_moments"}  # whether a variance is 0 is a question of rounding there
# By a length or a running sum, which must not be tiny in float32.
DIVIDED = {"cosine_attention", "delta_rule", "pedagogical_iterative"}
FOUND: dict[str, Gradients] = {}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))


def gradient(name: str) -> Gradients:
    if name not in FOUND:
        FOUND[name] = cascade.gradient(spec(name))
    return FOUND[name]


def trial(name: str, seed: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]] | None:
    """Arguments and settings of the backward cascade, and its outputs in float64."""
    chance = np.random.default_rng([11, seed])
    drawn = draw(spec(name), chance, "positive" if name in DIVIDED else "normal")
    if drawn is None:
        return None
    extents, inputs, settings, _ = drawn
    if name in ROUNDED and extents["D"] < 2:
        return None
    found = gradient(name)
    outputs = evaluate(found.forward, inputs, settings)
    every = {**inputs, **{n: outputs[n] for n in found.saved}}
    for output, arrives in found.cotangents.items():
        every[arrives] = chance.standard_normal(outputs[output].shape)
    arguments = {t.name: single(every[t.name]) for t in found.backward.inputs}
    given = settings_for(found.backward, settings, extents)
    wide = {n: a.astype(float) if a.dtype == np.float32 else a for n, a in arguments.items()}
    return arguments, given, evaluate(found.backward, wide, given)


def single(a: Any) -> Any:
    a = np.asarray(a)
    return a.astype(np.float32) if a.dtype == float else a


def close(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, expected in wanted.items():
        actual = np.asarray(found[name], float)
        assert actual.shape == expected.shape
        assert np.isfinite(actual).all(), name
        error = np.abs(actual - expected).max(initial=0)
        assert error <= BOUND * max(1.0, np.abs(expected).max(initial=0)), (name, error)


@pytest.mark.parametrize("name", NAMES)
def test_programs(name):
    kernel = TiledKernel(gradient(name).backward, {})
    done = 0
    for seed in range(3):
        made = trial(name, seed)
        if made is not None:
            arguments, given, wanted = made
            result = kernel.run(arguments, given)
            close(result.outputs, wanted)
            again = kernel.run(arguments, given).outputs
            assert all(np.array_equal(again[n], a) for n, a in result.outputs.items())
            done += 1
    assert done


@pytest.mark.parametrize("kept", ["", " where m <= p and (p - m < 3 or m < 2)"])
def test_heads_in_groups_of_any_number(kept):
    """`h // (H//G) < G` is known of no head, and says all that choices ask of presence."""
    text = f"""
        import std
        input Q[h,p,e], K[g,m,e], V[g,m,f]
        ENT[h,p] = -sum[m](xlogx(A[h,p,m]))
        S[h,p,m] = Q[h,p,e] * K[h//(H//G),m,e]
        A[h,p,m] = softmax[m](S[h,p,m]{kept})
        O[h,p,f] = A[h,p,m] * V[h//(H//G),m,f]
        LSE[h,p] = logsumexp[m](S[h,p,m]{kept})
        output O, LSE, ENT"""
    found = cascade.gradient(cascade.parse(text))
    whole = cascade.gradient(cascade.parse(f"{text}\nrequire H % G == 0"), save=False)
    assert "==" not in str(found.backward).replace("A[h,p,m] == 0", "")
    chance = np.random.default_rng(3)
    for heads, groups in ((4, 2), (5, 2)):  # the last of 5 heads has no group
        sizes = {"Q": (heads, 7, 4), "K": (groups, 7, 4), "V": (groups, 7, 3)}
        inputs = {n: chance.standard_normal(shape) for n, shape in sizes.items()}
        outputs = evaluate(found.forward, inputs, {})
        every = {**inputs, **outputs}
        every |= {f"d{n}": chance.standard_normal(outputs[n].shape) for n in ("O", "LSE", "ENT")}
        arguments = {t.name: single(every[t.name]) for t in found.backward.inputs}
        wanted = evaluate(found.backward, {n: a.astype(float) for n, a in arguments.items()}, {})
        close(TiledKernel(found.backward, {}).run(arguments, {}).outputs, wanted)
        if heads % groups == 0:
            close(
                wanted,
                evaluate(
                    whole.backward, {t.name: every[t.name] for t in whole.backward.inputs}, {}
                ),
            )


COMPILED = ["attention", "causal", "alibi", "sliding_window", "grouped_query"]
SEVERAL = {r: 16 for r in "bhpmtdnikyx"}


@pytest.mark.parametrize("name", ["attention", "causal", "grouped_query", "retention"])
def test_interpreter(name):
    interpret(name, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_interpreter_every_example(name):
    interpret(name, 3)


def test_interpreter_without_a_width():
    """Lanes of a width of 0 hold nothing, although 1 / sqrt(0) is a factor of each of them."""
    made = [trial("quantised_keys", seed) for seed in range(3)]
    assert any(m is not None and 0 in m[0]["Q"].shape[-1:] for m in made)
    interpret("quantised_keys", 3)


def interpret(name: str, seeds: int) -> None:
    backward = gradient(name).backward
    tiles = {r: n for r, n in SEVERAL.items() if r in backward.rank}
    kernel = TritonKernel(backward, tiles)
    for seed in range(seeds):
        made = trial(name, seed)
        if made is None:
            continue
        arguments, given, wanted = made
        tensors = {n: torch.from_numpy(np.asarray(a, order="C")) for n, a in arguments.items()}
        with np.errstate(all="ignore"):
            out = kernel(**tensors, **given)
        out = out if isinstance(out, dict) else {backward.outputs[0]: out}
        close({n: t.double().numpy() for n, t in out.items()}, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("name", COMPILED)
def test_ahead_of_time(tmp_path, monkeypatch, name, width):
    found = ahead_of_time(tmp_path, monkeypatch, name, width)
    assert sum(k["tensor_core_instructions"] > 0 for k in found["kernels"]) >= 2


@pytest.mark.campaign
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in COMPILED])
def test_ahead_of_time_of_the_rest(tmp_path, monkeypatch, name, width):
    ahead_of_time(tmp_path, monkeypatch, name, width)


def ahead_of_time(tmp_path, monkeypatch, name, width):
    """For sm_90: nothing spills, and all fits."""
    assert FOLDER != tmp_path
    path = tmp_path / f"{name}.cascade"
    path.write_text(str(replace(gradient(name).backward, name=name)))
    monkeypatch.setattr("tests.kernels.test_ahead_of_time.FOLDER", tmp_path)
    found = compile_for(tmp_path, name, width)
    check_facts(found)
    return found


def test_more_groups_than_a_tile_holds():
    """A group read at a choice of two: its own, as it lies, and that of the row."""
    chance = np.random.default_rng(3)
    found, given = gradient("landmark"), {"L": 2}
    inputs = {n: chance.standard_normal((1, 2, 140, 8)) for n in "QKV"}
    outputs = evaluate(found.forward, inputs, given)
    every = {**inputs, **{n: outputs[n] for n in found.saved}}
    for output, arrives in found.cotangents.items():
        every[arrives] = chance.standard_normal(outputs[output].shape)
    wanted = evaluate(found.backward, every, given)
    single_ones = {n: single(a) for n, a in every.items()}
    close(TiledKernel(found.backward, {}).run(single_ones, given).outputs, wanted)


@pytest.mark.parametrize("gap", [80, 90, 99, 103, 120])
def test_the_gradient_of_entropy_has_no_reciprocal_of_a_weight(gap: int) -> None:
    """A weight below 2.9e-39 has none in float32."""
    spec = cascade.parse("""
        import std
        input S[p,m]
        A[p,m] = softmax[m](S[p,m])
        H[p]   = -sum[m](xlogx(A[p,m]))
        output H""")
    scores = torch.tensor([[0.0, -gap, -2.0]], requires_grad=True)
    cascade.compile(spec)(S=scores).sum().backward()
    weights = torch.softmax(scores.detach()[:, [0, 2]].double(), 1)
    entropy = -(weights * weights.log()).sum(1, keepdim=True)
    expected = -weights * (weights.log() + entropy)
    np.testing.assert_allclose(scores.grad[:, [0, 2]], expected, atol=1e-6)
    np.testing.assert_allclose(scores.grad[:, 1], 0, atol=1e-6)
