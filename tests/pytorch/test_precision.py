"""Types of outputs, and gradients in half precision: as close to float64 as those of PyTorch."""

import numpy as np
import pytest

import cascade
from cascade.backends.kernel import TiledKernel
from cascade.gradients import gradients

torch = pytest.importorskip("torch")

ATTENTION = """
import std
input Q[p,e], K[m,e], V[m,f]
S[p,m] = Q[p,e] * K[m,e]
A[p,m] = softmax[m](S[p,m] where m <= p)
O[p,f] = A[p,m] * V[m,f]
"""
WITH_SUM = ATTENTION + "LSE[p] = logsumexp[m](S[p,m] where m <= p)\noutput O, LSE"
MADE = {  # specs, each with the name of the statistic that the gradient reads
    "alone": (ATTENTION + "output O", "A_sum_log"),
    "declared": (WITH_SUM + ": f32", "LSE"),
}
TOLERATED = 1.5  # times the error of PyTorch


def drawn(dtype, length=48, width=16):
    """Queries, keys and values, and a cotangent. Sums of exponentials have logarithms of 50 to 100,
    of which a half keeps a few binary digits after the point.
    """
    torch.manual_seed(0)
    q, k, v, d = torch.randn(4, length, width)
    along = torch.full((width,), (75 / width) ** 0.5)
    return [t.to(dtype) for t in (0.2 * q + along, 0.2 * k + along, v, d)]


def reference(q, k, v):
    """PyTorch's own attention, on tensors of any type."""
    four = (t[None, None] for t in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(*four, is_causal=True, scale=1)[0, 0]


def derivatives(function, tensors, cotangent):
    leaves = [t.clone().requires_grad_() for t in tensors]
    function(*leaves).backward(cotangent)
    return [t.grad.double() for t in leaves]


def errors(found, exact):
    return [float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the interpreter of Triton
@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize(
    "backend, dtype",
    [("tiled", torch.bfloat16), ("tiled", torch.float16), ("triton", torch.float16)],
)
def test_gradients_in_half_precision_are_as_close_as_those_of_pytorch(name, backend, dtype):
    text, _ = MADE[name]
    kernel = cascade.compile(cascade.parse(text), backend)

    def attend(q, k, v):
        out = kernel(Q=q, K=k, V=v)
        return out["O"] if isinstance(out, dict) else out

    *given, cotangent = drawn(dtype)
    wide = [t.double() for t in given]
    scores = torch.tril(wide[0] @ wide[1].T) + torch.triu(torch.full((48, 48), -torch.inf), 1)
    assert 50 < scores.logsumexp(1).min() and scores.logsumexp(1).max() < 128
    exact = derivatives(reference, wide, cotangent.double())
    theirs = errors(derivatives(reference, given, cotangent), exact)
    ours = errors(derivatives(attend, given, cotangent), exact)
    assert all(a <= TOLERATED * b for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


@pytest.mark.parametrize("name", MADE)
def test_what_is_saved_is_declared(name):
    text, kept = MADE[name]
    found = gradients(cascade.parse(text))
    assert kept in found.saved
    assert found.forward.output_types[kept] == "f32"
    assert {t.name: t.dtype for t in found.backward.inputs}[kept] == "f32"
    assert found.backward.output_types == {}
    for made in (found.forward, found.backward):
        assert cascade.parse(str(made)) == made


def test_what_counts_is_saved_as_integers():
    text = """
    input x[p,m]: f32, n[p]: int
    N[p] = count[m](x[p,m] where m < n[p])
    y[p] = sum[m](x[p,m] / N[p] where m < n[p])
    output y
    """
    found = gradients(cascade.parse(text), save=True)
    assert "N" in found.saved
    assert "N" not in found.forward.output_types
