"""FlexAttention's functions on our kernels, against its own eager evaluation."""

from typing import Any

import pytest

import cascade
from cascade.diagnostics import CascadeError

torch = pytest.importorskip("torch")

from torch.nn.attention import flex_attention as theirs  # noqa: E402

from cascade.integrations import flex_attention as ours  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

B, H, P, M, E = 2, 4, 33, 33, 8
SLOPE = torch.tensor([0.5, 0.25, 0.125, 0.0625])
DOCUMENT = (torch.arange(M) // 7)[None].expand(B, M).contiguous()
PREFIX = torch.tensor([3, 11])
TABLE = torch.linspace(-1, 1, H * 9).view(H, 9)


def causal(b, h, q, kv):
    return q >= kv


def window(b, h, q, kv):
    return (q >= kv) & (q - kv < 5)


def document(b, h, q, kv):
    return (DOCUMENT[b, q] == DOCUMENT[b, kv]) & (q >= kv)


def prefix(b, h, q, kv):
    return (kv < PREFIX[b]) | (q >= kv)


def alibi(score, b, h, q, kv):
    return score - SLOPE[h] * (q - kv)


def soft_cap(score, b, h, q, kv):
    return 20 * torch.tanh(score / 20)


def relative(score, b, h, q, kv):
    return score + (q - kv)


def causal_score(score, b, h, q, kv):
    return torch.where(q >= kv, score, -float("inf"))


SCORES = {
    "capped after it is masked": lambda s, b, h, q, kv: torch.tanh(causal_score(s, b, h, q, kv)),
    "clamped after": lambda s, b, h, q, kv: causal_score(s, b, h, q, kv).clamp(-3, 3),
    "twice": lambda s, b, h, q, kv: causal_score(causal_score(s, b, h, q, kv), b, h, kv + 4, q),
    "truth as a number": lambda s, b, h, q, kv: s * (q >= kv) + (q == kv).double(),
    "from the end": lambda s, b, h, q, kv: s + SLOPE[h - 4] * SLOPE[-1] + SLOPE[(q - kv) % 4 - 2],
    "a size": lambda s, b, h, q, kv: s * SLOPE[h] / SLOPE.shape[0],
    "nothing of the score": lambda s, b, h, q, kv: torch.zeros_like(s) + 0.1 * (q - kv),
    "a table": lambda s, b, h, q, kv: s + TABLE[h, (q - kv).clamp(-4, 4) + 4],
}
MASKS = {
    "fmod": lambda b, h, q, kv: torch.fmod(q - kv, 3) == -1,
    "whole rows": lambda b, h, q, kv: (q < 20) & (b == 0),
    "nothing": lambda b, h, q, kv: (q >= kv) & False,
    "one or the other": lambda b, h, q, kv: (q >= kv) ^ (kv == 2),
    "everything": theirs.noop_mask,
}


def tensors(heads=H, keys=M, grad=False):
    torch.manual_seed(0)
    shapes = ((B, H, P, E), (B, heads, keys, E), (B, heads, keys, E))
    return [torch.randn(*s, dtype=torch.float64, requires_grad=grad) for s in shapes]


def both(score_mod, mask_mod, heads=H, **options):
    """Outputs of both on the same tensors."""
    found = []
    for module in (theirs, ours):
        mask = None
        if mask_mod is not None:
            mask = module.create_block_mask(mask_mod, B, H, P, M, device="cpu")
        attend: Any = module.flex_attention
        given = tensors(heads)
        found.append(attend(*given, score_mod, mask, return_lse=True, **options))
    return found


def named(mod):
    return getattr(mod, "__name__", str(mod))


MODS = [
    (None, None),
    (None, causal),
    (None, window),
    (None, document),
    (None, prefix),
    (alibi, causal),
    (soft_cap, None),
    (relative, window),
    (causal_score, None),
    (None, "both"),
    (None, "either"),
]


@pytest.mark.parametrize(("score_mod", "mask_mod"), MODS, ids=named)
def test_the_same_as_theirs(score_mod, mask_mod):
    if mask_mod in ("both", "either"):
        found = []
        for module in (theirs, ours):
            join = module.and_masks if mask_mod == "both" else module.or_masks
            mask = module.create_block_mask(join(causal, prefix), B, H, P, M, device="cpu")
            attend: Any = module.flex_attention
            found.append((attend(*tensors(), None, mask),))
    else:
        found = both(score_mod, mask_mod)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [*SCORES, *MASKS])
def test_less_usual_functions(name):
    found = both(SCORES.get(name), MASKS.get(name))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_the_sum_of_half_precision_is_a_float():
    given = [t.detach().bfloat16() for t in tensors()]
    attend: Any = ours.flex_attention
    out, lse = attend(*given, return_lse=True)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    again = attend(*given, return_aux=theirs.AuxRequest(lse=True))[1].lse
    assert torch.equal(lse, again)


def test_a_bias_of_minus_infinity_forbids_a_key():
    """Rows of which all is forbidden are 0, and so are their gradients."""
    bias = torch.randn(P, M, dtype=torch.float64)
    bias[:, :3] = bias[5] = -float("inf")
    bias.requires_grad_()
    given = tensors(grad=True)
    attend: Any = ours.flex_attention
    out, lse = attend(*given, lambda s, b, h, q, kv: s + 2 * bias[q, kv], return_lse=True)
    q, k, v = (t.detach() for t in given)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, 2 * bias.detach())
    torch.testing.assert_close(out, wanted)
    assert (lse[:, :, 5] == -float("inf")).all() and (out[:, :, 5] == 0).all()
    (out.sum() + lse[:, :, :5].sum()).backward()
    assert all(t.grad.isfinite().all() for t in (*given, bias))
    assert (bias.grad[5] == 0).all() and (bias.grad[:, :3] == 0).all()


def test_gradients_of_scalars():
    whole = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    part = torch.tensor([0.2, 0.3], dtype=torch.float64, requires_grad=True)
    attend: Any = ours.flex_attention

    def gradients(function):
        whole.grad = part.grad = None
        function().square().sum().backward()
        return whole.grad, part.grad

    q, k, v = tensors()
    mine = gradients(lambda: attend(q, k, v, lambda s, b, h, i, j: s * whole + part[1] * j))
    logits = q @ k.mT * E**-0.5
    plain = gradients(lambda: (logits * whole + part[1] * torch.arange(M)).softmax(-1) @ v)
    torch.testing.assert_close(mine, plain)


def test_grouped_heads_and_scale():
    for a, b in zip(*both(None, causal, heads=2, enable_gqa=True, scale=0.3), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_gradients_of_what_is_captured():
    slopes = torch.tensor([0.5, 0.3, 0.1, 0.2], dtype=torch.float64, requires_grad=True)
    bias = torch.randn(P, M, dtype=torch.float64, requires_grad=True)

    def score(s, b, h, q, kv):
        return s - slopes[h] * (q - kv) + bias[q, kv]

    mask = ours.create_block_mask(causal, None, None, P, M)
    attend: Any = ours.flex_attention
    given = tensors(grad=True)
    attend(*given, score, mask).square().sum().backward()
    mine = [slopes.grad.clone(), bias.grad.clone()]
    slopes.grad = bias.grad = None
    q, k, v = tensors(grad=True)
    distance = (torch.arange(P)[:, None] - torch.arange(M)).double()
    s = q @ k.mT * E**-0.5 - slopes[:, None, None] * distance + bias
    s = s.masked_fill(distance < 0, -float("inf"))
    (s.softmax(-1) @ v).square().sum().backward()
    torch.testing.assert_close(mine, [slopes.grad, bias.grad])
    torch.testing.assert_close([t.grad for t in given], [q.grad, k.grad, v.grad])


def test_a_function_is_traced_into_conditions_and_not_a_mask():
    from cascade.integrations.flex_attention import _built

    made = _built(alibi, window, False, (B, H, P, M)).spec
    text = str(made)
    assert "S[b,h,p,m] = QK[b,h,p,m] - captured1[h] * (p - m) where p >= m and p - m < 5" in text
    assert str(cascade.parse(text)) == text
    assert cascade.derive(made).passes_after["m"] == 1


def test_a_row_without_keys_is_zero():
    given = tensors(grad=True)
    attend: Any = ours.flex_attention
    mask = ours.create_block_mask(lambda b, h, q, kv: kv < q, B, H, P, M)
    out, lse = attend(*given, None, mask, return_lse=True)
    assert (out[:, :, 0] == 0).all() and (lse[:, :, 0] == -float("inf")).all()
    out.sum().backward()
    assert all(t.grad.isfinite().all() for t in given)


def test_what_has_no_form_is_said():
    with pytest.raises(CascadeError, match="has no form"):
        attend: Any = ours.flex_attention
        attend(*tensors(), lambda s, b, h, q, kv: torch.special.i0(s))
    with pytest.raises(CascadeError, match="an index up to 8 of a dimension of size 4"):
        attend(*(t[:, :, :9] for t in tensors()), lambda s, b, h, q, kv: s + SLOPE[q])
    with pytest.raises(CascadeError, match="of shape"):
        attend(*tensors(), lambda s, b, h, q, kv: s + SLOPE)
    with pytest.raises(cascade.InputError, match="enable_gqa"):
        ours.flex_attention(*tensors(heads=2))
    with pytest.raises(cascade.InputError, match=r"`key` has shape .*, and attention is of 4"):
        attend(tensors()[0], *(t[0] for t in tensors()[1:]))
    with pytest.raises(cascade.InputError, match="create_block_mask"):
        attend(*tensors(), block_mask=causal)
    with pytest.raises(cascade.InputError, match="max_scores"):
        attend(*tensors(), return_aux=theirs.AuxRequest(max_scores=True))


def test_stands_in_a_compiled_function():
    """A break of the graph, with the same numbers and gradients."""
    q, k, v = (torch.randn(1, 2, 40, 16, requires_grad=True) for _ in range(3))
    mask = ours.create_block_mask(lambda b, h, i, j: i >= j, None, None, 40, 40)

    def layer(q, k, v):
        return (
            ours.flex_attention(q.tanh(), k, v, lambda s, b, h, i, j: s + 0.1 * (j - i), mask) * 2
        )

    wanted, found = layer(q, k, v), torch.compile(layer, backend="eager")(q, k, v)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(o.sum(), (q, k, v)) for o in (found, wanted)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(
        torch.compile(ours.flex_attention, backend="eager")(q, k, v, block_mask=mask),
        ours.flex_attention(q, k, v, block_mask=mask),
    )
