"""Types of outputs, and gradients in half precision: as close to float64 as those of PyTorch."""

import pytest

import cascade
from cascade.gradients import gradients

torch = pytest.importorskip("torch")

from cascade.integrations.pytorch import operator  # noqa: E402

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


# -- types of outputs

TYPED = """
import std
input Q[p,e], K[m,e]
S[p,m] = Q[p,e] * K[m,e]
A[p,m] = softmax[m](S[p,m])
O[p,e] = A[p,m] * K[m,e]
LSE[p] = logsumexp[m](S[p,m])
B[p]   = argmax[m](S[p,m])
C[p]   = count[m](S[p,m] > 0)
G[p]   = LSE[p] > 0
H[p,e] = 2 * O[p,e]
output O, LSE: f32, H: f16, B: i32, C, G: bool
"""
F16, F32, BF16, F64 = torch.float16, torch.float32, torch.bfloat16, torch.float64
INTEGERS = {"B": torch.int32, "C": torch.int64, "G": torch.bool}


@pytest.mark.filterwarnings("ignore")  # of the interpreter of Triton, and of compilation
@pytest.mark.parametrize("backend, dtype", [("tiled", F16), ("tiled", BF16), ("tiled", F64),
                                            ("triton", F16), ("triton", F32)])  # fmt: skip
@pytest.mark.parametrize("compiled", [False, True])
def test_outputs_have_their_types(backend, dtype, compiled):
    kernel = cascade.compile(cascade.parse(TYPED), backend)

    def run(q, k):
        return kernel(Q=q, K=k)

    if compiled:
        torch._dynamo.reset()
        run = torch.compile(run, fullgraph=True, backend="aot_eager")
    q, k = torch.randn(2, 17, 16, dtype=F32).to(dtype)
    out = run(q, k)
    wide = {"O": F64, "LSE": F64, "H": F64}
    narrow = {"O": dtype, "LSE": F32, "H": F16}
    assert {n: t.dtype for n, t in out.items()} == {
        **(wide if dtype == F64 else narrow), **INTEGERS
    }  # fmt: skip
    scores = q.double() @ k.double().T
    assert torch.equal(out["B"].long(), scores.argmax(1))
    sums = scores.logsumexp(1)
    if dtype != BF16:
        assert torch.allclose(out["LSE"].double(), sums, atol=2e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_meta_tensors_tell_the_types():
    from torch._subclasses import FakeTensorMode

    kernel = cascade.compile(cascade.parse(TYPED))
    with FakeTensorMode():
        out = kernel(Q=torch.empty(5, 4, dtype=BF16), K=torch.empty(6, 4, dtype=BF16))
    found = {n: t.dtype for n, t in out.items()}
    assert found == {"O": BF16, "LSE": F32, "H": F16, **INTEGERS}


def test_arrays_and_eager_tensors_have_the_types():
    spec = cascade.parse(TYPED)
    q, k = torch.randn(2, 9, 16)
    arrays = cascade.compile(spec)(Q=q.numpy(), K=k.numpy())
    names = {"O": "float32", "LSE": "float32", "H": "float16"}
    assert {n: str(a.dtype) for n, a in arrays.items()} == {
        **names, "B": "int32", "C": "int64", "G": "bool"
    }  # fmt: skip
    eager = cascade.as_torch(spec)(Q=q.half(), K=k.half())
    assert {n: t.dtype for n, t in eager.items()} == {"O": F16, "LSE": F32, "H": F16, **INTEGERS}


def test_gradients_are_made_in_the_type_of_the_inputs(monkeypatch):
    """And not in that of what was saved, to be rounded afterwards."""
    made = []
    like = operator._like

    def seen(gradient, of):
        made.append(gradient.dtype)
        return like(gradient, of)

    monkeypatch.setattr(operator, "_like", seen)
    for text, _ in MADE.values():
        kernel = cascade.compile(cascade.parse(text))
        q, k, v, _ = (t.requires_grad_() for t in drawn(BF16, 9, 8))
        out = kernel(Q=q, K=k, V=v)
        outs = list(out.values()) if isinstance(out, dict) else [out]
        sum(o.float().sum() for o in outs).backward()
    assert made == [BF16] * 6


def test_a_second_derivative_keeps_the_types():
    kernel = cascade.compile(cascade.parse(WITH_SUM + ": f32"))
    q, k, v, _ = (t.requires_grad_() for t in drawn(BF16, 9, 8))
    out = kernel(Q=q, K=k, V=v)
    (dq,) = torch.autograd.grad(out["O"].sum() + out["LSE"].sum(), q, create_graph=True)
    assert dq.dtype == BF16
    assert torch.autograd.grad(dq.float().square().sum(), k)[0].dtype == BF16
