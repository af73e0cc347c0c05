"""What others run for the shipped examples: formulas in eager PyTorch, SDPA, FlexAttention.

A peer is a function of the inputs of the example, as torch tensors. The formulas are written from
the definition of each mechanism, and every benchmark compares their results first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

Function = Callable[[], Any]
KINDS = ("eager", "sdpa", "flex")
EXAMPLES = ("attention", "causal", "alibi", "soft_cap", "grouped_query", "document_mask")


def peer(kind: str, name: str, t: Mapping[str, Any]) -> Function | None:
    """The peer of a kind for an example, on tensors; None where the kind cannot express it."""
    return {"eager": _eager, "sdpa": _sdpa, "flex": _flex}[kind](name, t)


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
        if name in ("causal", "alibi", "document_mask"):
            scores = scores.masked_fill(column > row, float("-inf"))
        if name == "document_mask":
            same = t["query_document"][:, None, :, None] == t["key_document"][:, None, None, :]
            scores = scores.masked_fill(~same, float("-inf"))
        return scores.softmax(-1) @ values

    return run if name in EXAMPLES else None


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


@cache
def _compiled_flex() -> Any:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _flex(name: str, t: Mapping[str, Any]) -> Function | None:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask

    if name not in EXAMPLES:
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

    score = {"alibi": alibi, "soft_cap": soft_cap}.get(name)
    rule = {"causal": causal, "alibi": causal, "document_mask": document}.get(name)
    batch = q.shape[0] if name == "document_mask" else None
    mask = None
    if rule is not None:
        mask = create_block_mask(rule, batch, None, q.shape[2], k.shape[2], device=q.device)
    function = _compiled_flex()
    grouped = q.shape[1] != k.shape[1]
    return lambda: function(q, k, v, score_mod=score, block_mask=mask, enable_gqa=grouped)
