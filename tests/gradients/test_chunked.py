"""Gradients in chunks: read-outs of the reversed recurrence are quadratic forms of a chunk."""

import numpy as np
import pytest

import cascade
from cascade.api import run_program
from cascade.ir.cascade import Cascade
from cascade.transforms.chunk import Chunked, chunk
from tests.transforms.test_chunk import LENGTHS, SIZES, SPECS, Inputs

# Both states at every step meet in the gradient of a factor of the step.
BY_STEP = {"gate of a channel", "any factor"}
BY_STEP |= {
    "forgetting all",
    "gated delta",
    "diagonal and low rank",
    "low rank from the other side",
}


def recurrences() -> list[str]:
    return [name for name, (text, _) in SPECS.items() if "init " in text]


def made(name: str) -> tuple[Cascade, Cascade, Chunked]:
    source = cascade.parse(f"cascade x\n{SPECS[name][0]}\n")
    backward = cascade.gradient(source, save=False).backward
    found = chunk(backward)
    assert found is not None
    return source, backward, found


def cotangents(source: Cascade, backward: Cascade, inputs: Inputs) -> Inputs:
    draw = np.random.default_rng(0).standard_normal
    outputs = cascade.run(source, inputs)
    given = {**inputs, **{f"d{name}": draw(value.shape) for name, value in outputs.items()}}
    return {t.name: given[t.name] for t in backward.inputs}


@pytest.mark.parametrize("name", SPECS)
def test_the_chunked_gradient_means_the_same(name: str) -> None:
    source, backward, found = made(name)
    assert cascade.parse(str(found.result)) == found.result
    sizes = [p.name for p in found.result.params if p not in backward.params]
    for length in LENGTHS:
        inputs = cotangents(source, backward, SPECS[name][1](length))
        expected = cascade.run(backward, inputs)
        for size in SIZES:
            result = cascade.run(found.result, inputs, dict.fromkeys(sizes, size))
            for key, value in expected.items():
                scale = max(1, abs(value).max(initial=0))
                np.testing.assert_allclose(result[key], value, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize(
    "name", sorted({"retention", "delta", "two recurrences", "decay of a channel"} | BY_STEP)
)
def test_no_state_is_kept_at_every_step(name: str) -> None:
    """Neither state has the length of the sequence; where the two meet, that of the reverse has."""
    _, _, found = made(name)
    states = {
        n
        for n, t in found.result.tensors.items()
        if t.iterative is not None and t.ranks[t.iterative] in ("i", "i2") and len(t.ranks) > 3
    }
    assert states <= ({"dS"} if name in BY_STEP else set())
    if name not in BY_STEP:
        assert not found.refusals


SUFFIXES = {"linear, strict, keys of the queries' rank", "retention, quadratic", "slopes and decay"}
SUFFIXES |= {"powers of any sign", "decay of a channel, quadratic"}


@pytest.mark.parametrize("name", sorted(SUFFIXES))
def test_a_sum_over_later_rows_is_counted_from_the_end(name: str) -> None:
    _, _, found = made(name)
    assert not found.refusals
    assert any(s.law == "chunk a suffix" for s in found.steps)
    lengths = ("p", "m", "i", "i2", "p2")
    wide = (sum(r in lengths for r in t.ranks) for t in found.result.tensors.values())
    assert max(wide) == 1


def test_rows_and_columns_of_unknown_lengths_have_no_common_end() -> None:
    text = """
        input Q[p,e], K[m,e], V[m,f]
        {require}
        A[p,m] = Q[p,e] * K[m,e]   where m <= p
        O[p,f] = A[p,m] * V[m,f]
        output O"""
    for require, whole in (("", False), ('require P == M, "self-attention"', True)):
        spec = cascade.parse(text.format(require=require))
        found = chunk(cascade.gradient(spec, save=False).backward)
        assert found is not None
        assert bool(found.refusals) is not whole
        assert whole or "`require P == M`" in str(found.refusals[0])


@pytest.mark.parametrize("name", ["retention", "retention, quadratic", "delta"])
def test_runs_as_kernels(name: str) -> None:
    source, backward, found = made(name)
    inputs = cotangents(source, backward, SPECS[name][1](131))
    expected = cascade.run(backward, inputs)
    result, _ = run_program(found.result, inputs, {}, {})
    for key, value in expected.items():
        np.testing.assert_allclose(result[key], value, rtol=0, atol=3e-5 * abs(value).max())
