"""What others run for the shipped examples: eager PyTorch, SDPA, FlexAttention, fla.

A peer is a function of the inputs of the example, as torch tensors. The formulas are written from
the definition of each mechanism, and every benchmark compares their results first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

Function = Callable[[], Any]
SDPA = {  # by the names that people use -> those of torch; `sdpa` alone leaves torch the choice
    "sdpa-flash": "FLASH_ATTENTION",
    "sdpa-cudnn": "CUDNN_ATTENTION",
    "sdpa-efficient": "EFFICIENT_ATTENTION",
    "sdpa-math": "MATH",
}
KINDS = ("eager", "sdpa", *SDPA, "flex", "fla")
SOFTMAX = (
    "attention", "causal", "alibi", "soft_cap", "grouped_query", "document_mask", "sliding_window",
)  # fmt: skip
LINEAR = ("retention", "delta_rule")
EXAMPLES = (*SOFTMAX, *LINEAR)
SINKS = 4  # of the example of a sliding window


def peer(kind: str, name: str, t: Mapping[str, Any]) -> Function | None:
    """The peer of a kind for an example, on tensors; None where the kind cannot express it here."""
    if kind in SDPA:
        return _pinned(SDPA[kind], _sdpa(name, t))
    return {"eager": _eager, "sdpa": _sdpa, "flex": _flex, "fla": _fla}[kind](name, t)


def _eager(name: str, t: Mapping[str, Any]) -> Function | None:
    import torch

    q, k, v = t["Q"], t["K"], t["V"]
    scale = q.shape[-1] ** -0.5

    def run() -> Any:
        group = q.shape[1] // k.shape[1]
        keys, values = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = q @ keys.transpose(-1, -2) * scale
        row = torch.arange(q.shape[2], device=q.device)[:, None]
        column = torch.arange(k.shape[2], device=q.device)[None, :]
        if name == "soft_cap":
            scores = 50 * torch.tanh(scores / 50)
        if name == "alibi":
            scores = scores - _slopes(q)[:, None, None] * (row - column)
        if name in ("causal", "alibi", "document_mask", "sliding_window"):
            scores = scores.masked_fill(column > row, float("-inf"))
        if name == "sliding_window":
            far = row - column >= t["window"][:, None, None]
            scores = scores.masked_fill(far & (column >= SINKS), float("-inf"))
        if name == "document_mask":
            same = t["query_document"][:, None, :, None] == t["key_document"][:, None, None, :]
            scores = scores.masked_fill(~same, float("-inf"))
        return scores.softmax(-1) @ values

    return run if name in SOFTMAX else None


def _slopes(q: Any) -> Any:
    import torch

    heads = torch.arange(1, q.shape[1] + 1, device=q.device, dtype=q.dtype)
    return torch.exp2(-8 * heads / q.shape[1])


def _sdpa(name: str, t: Mapping[str, Any]) -> Function | None:
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    q, k, v = t["Q"], t["K"], t["V"]
    if name == "attention":
        return lambda: sdpa(q, k, v)
    if name == "causal" and q.shape[2] == k.shape[2]:
        return lambda: sdpa(q, k, v, is_causal=True)
    if name == "grouped_query":
        return lambda: sdpa(q, k, v, enable_gqa=True)
    return None


def _pinned(backend: str, function: Function | None) -> Function | None:
    """SDPA by one backend alone; None where torch has it not for these tensors."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if function is None:
        return None

    def run() -> Any:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return function()

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of every reason
            run()
    except RuntimeError:
        return None
    return run


@cache
def _compiled_flex() -> Any:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _flex(name: str, t: Mapping[str, Any]) -> Function | None:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask

    if name not in SOFTMAX:
        return None
    q, k, v = t["Q"], t["K"], t["V"]
    slopes = _slopes(q)
    documents: Any = (t.get("query_document"), t.get("key_document"))

    def alibi(score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        return score - slopes[h] * (i - j)

    def soft_cap(score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        return 50 * torch.tanh(score / 50)

    def causal(b: Any, h: Any, i: Any, j: Any) -> Any:
        return i >= j

    def document(b: Any, h: Any, i: Any, j: Any) -> Any:
        return (i >= j) & (documents[0][b, i] == documents[1][b, j])

    def window(b: Any, h: Any, i: Any, j: Any) -> Any:
        return (i >= j) & ((i - j < t["window"][h]) | (j < SINKS))

    score = {"alibi": alibi, "soft_cap": soft_cap}.get(name)
    rules = {"causal": causal, "alibi": causal, "document_mask": document, "sliding_window": window}
    rule = rules.get(name)
    batch = q.shape[0] if name == "document_mask" else None
    heads = q.shape[1] if name == "sliding_window" else None
    mask = None
    if rule is not None:
        mask = create_block_mask(rule, batch, heads, q.shape[2], k.shape[2], device=q.device)
    function = _compiled_flex()
    grouped = q.shape[1] != k.shape[1]
    return lambda: function(q, k, v, score_mod=score, block_mask=mask, enable_gqa=grouped)


def _fla(name: str, t: Mapping[str, Any]) -> Function | None:
    """flash-linear-attention, which has the sequence before the heads. Keys of the delta rule are
    normalised before the measurement.
    """
    if name not in LINEAR or find_spec("fla") is None:
        return None
    from torch.nn.functional import normalize

    q, k, v = (t[n].transpose(1, 2).contiguous() for n in "QKV")
    if name == "retention":
        from fla.ops.retention import chunk_retention

        return lambda: chunk_retention(q, k, v)[0].transpose(1, 2)
    from fla.ops.delta_rule import chunk_delta_rule

    keys, beta = normalize(k, dim=-1), t["beta"].transpose(1, 2).contiguous()
    return lambda: chunk_delta_rule(q, keys, v, beta)[0].transpose(1, 2)
