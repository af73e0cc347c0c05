"""Traced cascades give what the PyTorch function gives, and print as a person would write them."""

import math
from typing import Any

import numpy as np
import pytest

import cascade
from cascade.diagnostics import CascadeError

torch = pytest.importorskip("torch")

F = torch.nn.functional
LOW = float("-inf")
OUTSIDE: Any = torch.ones(4)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


Q, K, V = (2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 6)
SELF = (2, 9, 12)


def causal(q, k, v):
    scale = q.shape[-1] ** -0.5
    scores = q @ k.transpose(-1, -2) * scale
    p = torch.arange(q.shape[-2])[:, None]
    m = torch.arange(k.shape[-2])[None, :]
    scores = scores.masked_fill(m > p, LOW)
    weights = torch.softmax(scores, dim=-1)
    return weights @ v


def alibi(q, k, v, slope):
    p, m = torch.arange(q.size(-2)), torch.arange(k.size(-2))
    distance = p[:, None] - m[None, :]
    scores = torch.einsum("bhpe,bhme->bhpm", q, k) / q.size(-1) ** 0.5
    scores = scores - slope[:, None, None] * distance
    return torch.einsum("bhpm,bhmf->bhpf", F.softmax(scores, -1), v)


def windowed(q, k, v):
    p = torch.arange(q.shape[2])[:, None]
    m = torch.arange(k.shape[2])[None, :]
    near = (m <= p) & (p - m < 3)
    scores = torch.where(near, q @ k.mT, LOW)
    return scores.softmax(-1) @ v


def soft_cap(q, k, v):
    scores = 20 * torch.tanh(torch.matmul(q, k.transpose(2, 3)) / 20)
    return scores.softmax(dim=-1).matmul(v)


def library(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def library_causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)


def grouped(q, k, v):
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    return (q @ k.mT).softmax(-1) @ v


def module(x, wq, wk, wv, wo):
    b, t, _ = x.shape
    q, k, v = (F.linear(x, w).view(b, t, 3, -1).transpose(1, 2) for w in (wq, wk, wv))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(4)).softmax(-1)
    out = (weights @ v).transpose(1, 2).reshape(b, t, -1)
    return out @ wo


def linear_attention(q, k, v):
    q, k = F.relu(q) + 1, torch.exp(-k)
    state = torch.einsum("bhme,bhmf->bhef", k, v)
    return (q @ state) / (q @ k.sum(-2, keepdim=True).mT)


def statistics(x):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1)
    return mean.squeeze(-1), variance, torch.logsumexp(x, -1), x.amax(-1), x.prod(1)


def log_weights(q, k):
    return F.log_softmax(q @ k.mT, dim=-1)


def prefix(x):
    return torch.cumsum(x, 1)


def best(x):
    values, at = torch.topk(x, 3, dim=-1)
    return values, at, x.argmax(-1), x.max(dim=1).values


def gathered(table, index):
    return table[index]


def along(x, index):
    return torch.gather(x, 1, index)


def pieces(x):
    return x[:, 1:] - x[:, :-1], x[:, -1], x[0], x[..., 2:4], x.flip(1)


def shapes(x):
    merged = x.reshape(x.shape[0], -1)
    return (
        merged,
        x.view(2, 9, 3, 4),
        x.flatten(1),
        x.permute(2, 0, 1),
        x[:, None].expand(2, 4, 9, 12),
    )


def pointwise(x, y):
    a = torch.sigmoid(x) * F.silu(y) - F.gelu(x) + F.softplus(y)
    b = torch.maximum(x, y).clamp(-1, 1).abs().sqrt() + torch.exp2(x).log2()
    c = torch.where(x > y, x.sin(), y.cos()) + x.sign() * torch.erf(y) + (1 / (2 + x.square()))
    return a, b, c, (x > 0) & ~(y > 0)


def composed(x, y):
    a = torch.log1p(x.square()) + torch.expm1(y) + torch.log10(2 + y.square())
    b = F.logsigmoid(x) + F.elu(y) + F.leaky_relu(x) + F.elu(x, 0.5)
    c = F.normalize(x, dim=-1) * F.normalize(y, dim=1)
    d = F.layer_norm(x, (12,), y[0, 0], y[0, 1], 1e-3) - F.rms_norm(y, (12,), x[0, 0])
    e = (
        x.var(-1)
        + x.var(-1, unbiased=False)
        + y.std(-1, correction=2)
        + F.layer_norm(x, (9, 12)).var()
    )
    return a, b, c, d, e


def triangles(x):
    s = x @ x.mT
    return s.tril(), s.triu(1), torch.ones(9, 9, dtype=torch.bool).tril()


def shared(x):
    return (x @ x.mT).softmax(-1) @ x


CASES = {
    causal: (Q, K, V),
    alibi: (Q, K, V, (3,)),
    windowed: (Q, (2, 3, 6, 8), (2, 3, 6, 4)),
    soft_cap: (Q, K, V),
    library: (Q, K, V),
    library_causal: ((2, 3, 5, 8), (2, 3, 5, 8), (2, 3, 5, 8)),
    grouped: ((2, 6, 5, 8), (2, 3, 7, 8), (2, 3, 7, 6)),
    module: (SELF, (12, 12), (12, 12), (12, 12), (12, 10)),
    linear_attention: (Q, K, V),
    statistics: (SELF,),
    log_weights: (Q, K),
    prefix: (SELF,),
    best: (SELF,),
    pieces: (SELF,),
    shapes: (SELF,),
    pointwise: (SELF, SELF),
    composed: (SELF, SELF),
    triangles: (SELF,),
    shared: (SELF,),
}


def outputs_of(function, given):
    found = function(*given)
    return list(found) if isinstance(found, tuple | list) else [found]


def compare(function, given, made=None):
    made = made or cascade.trace(function, *given)
    assert cascade.parse(str(made)) == made
    arrays = {t.name: g.numpy() for t, g in zip(made.inputs, given, strict=True)}
    found = cascade.run(made, arrays)
    wanted = outputs_of(function, given)
    assert len(made.outputs) == len(wanted)
    for name, expected in zip(made.outputs, wanted, strict=True):
        assert found[name].shape == tuple(expected.shape), name
        np.testing.assert_allclose(found[name], expected.numpy(), rtol=1e-9, atol=1e-9)
    return made


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_functions(function):
    torch.manual_seed(0)
    made = compare(function, [draw(*s) for s in CASES[function]])
    assert made.name == function.__name__


def test_gathers():
    torch.manual_seed(0)
    compare(gathered, [draw(10, 4), torch.tensor([[1, 0], [9, 3], [2, 2]])])
    compare(along, [draw(3, 6), torch.randint(0, 6, (3, 4))])


def test_sizes_stay_open():
    made = cascade.trace(causal, *(draw(*s) for s in (Q, K, V)))
    given = [draw(*s) for s in ((1, 2, 4, 3), (1, 2, 11, 3), (1, 2, 11, 2))]
    compare(causal, given, made)


def test_text():
    made = cascade.trace(causal, *(draw(*s) for s in (Q, K, V)))
    lines = str(made).splitlines()
    assert "scores[b,h,p,m] = q[b,h,p,e] * k[b,h,m,e]" in lines
    assert "logits[b,h,p,m] = scores[b,h,p,m] * E**-0.5 where not m > p" in lines
    assert lines[-1] == "output out"


def test_a_traced_cascade_becomes_one_pass():
    made = cascade.trace(causal, *(draw(*s) for s in (Q, K, V)))
    assert cascade.derive(made).passes_after["m"] == 1
    q, k, v = (draw(*s).requires_grad_() for s in (Q, K, V))
    kernel = cascade.compile(made)
    assert torch.autograd.gradcheck(
        lambda *x: kernel(q=x[0], k=x[1], v=x[2]), (q, k, v), fast_mode=True
    )


@pytest.mark.parametrize(
    ("function", "shapes", "words"),
    [
        (lambda x: torch.fft.fft(x), [(3, 4)], "`fft_fft` has no form"),
        (lambda x: x[x > 0], [(3, 4)], "an index by truth values"),
        (lambda x: x if x.sum() > 0 else -x, [(3, 4)], "a condition of Python"),
        (lambda x: x[::2], [(4, 4)], "a slice with a step"),
        (lambda x: torch.sort(x), [(4, 4)], "`sort` has no form"),
        (lambda x: x + torch.ones(4, 4).sin() + OUTSIDE, [(4, 4)], "from outside"),
    ],
)
def test_what_has_no_form_is_named_with_its_line(function, shapes, words):
    with pytest.raises(CascadeError) as error:
        cascade.trace(function, *(draw(*s) for s in shapes))
    assert error.value.diagnostics[0].code == "trace"
    text = str(error.value)
    assert words in text
    assert "test_trace.py:" in text and "lambda x" in text
