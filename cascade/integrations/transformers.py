"""Any model of transformers with a spec as its attention: `attn_implementation="name"`.

    from cascade.integrations.transformers import register

    register("mine", "my_attention.cascade")
    model = AutoModel.from_pretrained(path, attn_implementation="mine")

The model keeps its masks, grouped heads, padding, sliding window and cache: see `hosted.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cascade.diagnostics import fail
from cascade.integrations.hosted import FIRST, MASK, Host, Roles, hosted, roles
from cascade.integrations.kernels import kernel
from cascade.integrations.specs import cascade_of
from cascade.ir.cascade import Cascade

ATTENTION = """
cascade attention
import std
input  Q[b,h,p,e], K[b,h,m,e], V[b,h,m,f]
param  scale = 1/sqrt(E)
QK[b,h,p,m] = scale * Q[b,h,p,e] * K[b,h,m,e]
A[b,h,p,m]  = softmax[m](QK[b,h,p,m])
O[b,h,p,f]  = A[b,h,p,m] * V[b,h,m,f]
output O
"""

CAPPED = """
cascade capped_attention
import std
input  Q[b,h,p,e], K[b,h,m,e], V[b,h,m,f]
param  scale = 1/sqrt(E), softcap = 50
QK[b,h,p,m] = scale * Q[b,h,p,e] * K[b,h,m,e]
A[b,h,p,m]  = softmax[m](softcap * tanh(QK[b,h,p,m] / softcap))
O[b,h,p,f]  = A[b,h,p,m] * V[b,h,m,f]
output O
"""


@dataclass
class Attention:
    """An attention function of transformers that runs a spec.

    Keyword arguments of the model that the spec has an input or a param for are handed on (a soft
    cap is the param `softcap`); others that would change the result are refused.
    """

    spec: Cascade
    names: Roles = field(repr=False)
    backend: str | None = None
    kernels: dict[Host, Any] = field(default_factory=dict, repr=False)

    def __call__(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """The output as [batch, position, head, width]. Raises `CascadeError`."""
        if dropout and getattr(module, "training", False):
            raise fail(
                "host",
                "the model drops attention weights out, and a spec has no random numbers",
                hints=("set `attention_dropout` (or its like) of the model to 0",),
            )
        queries, keys = query.shape[2], key.shape[2]
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        causal = bool(causal) and attention_mask is None and queries > 1
        host = Host(self._ranks_of(attention_mask), query.shape[1] != key.shape[1], causal)
        made = self._kernel(host, query)
        given = {self.names.query.name: query}
        given |= {self.names.key.name: key, self.names.value.name: value}
        given |= self._settings(scaling, kwargs)
        inputs = {t.name for t in made.spec.inputs}
        if MASK in inputs:
            given[MASK] = self._mask(attention_mask, query, key)
        if FIRST in inputs:
            first = 0 if causal and keys > queries else keys - queries
            given[FIRST] = torch.tensor(first, device=query.device)
        out = made(**given)
        out = out[self.spec.outputs[0]] if isinstance(out, dict) else out
        return out.transpose(1, 2).contiguous(), None

    def _ranks_of(self, mask: torch.Tensor | None) -> str | None:
        if mask is None:
            return None
        return "shared" if mask.shape[1] == 1 else "heads"

    def _kernel(self, host: Host, query: torch.Tensor) -> Any:
        if host not in self.kernels:
            spec = hosted(self.spec, self.names, host)
            backend = self.backend or ("triton" if query.device.type == "cuda" else "tiled")
            self.kernels[host] = kernel(spec, backend, {}, False, 1)
        return self.kernels[host]

    def _settings(self, scaling: float | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the model says that the spec has a name for."""
        params = {p.name for p in self.spec.params}
        inputs = {t.name for t in self.spec.inputs}
        found = {n: v for n, v in kwargs.items() if n in params | inputs and v is not None}
        if scaling is not None:
            if "scale" in params:
                found["scale"] = float(scaling)
        for name in ("softcap", "position_bias", "s_aux", "head_mask"):
            if kwargs.get(name) is not None and name not in found:
                raise fail(
                    "host",
                    f"the model gives `{name}`, and `{self.spec.name}` has no such input or param",
                    hints=(f"declare it: `param {name}` or `input {name}[…]`",),
                )
        return found

    def _mask(
        self, mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        """The mask as truth values; one that is added to scores allows what it does not forbid."""
        assert mask is not None
        if mask.dtype != torch.bool:
            forbidden = mask <= torch.finfo(mask.dtype).min / 2
            if not bool(((mask == 0) | forbidden).all()):
                raise fail(
                    "host",
                    "the model's mask adds numbers to the scores, not only where it forbids",
                    hints=("make them an input of the spec, and give it as a keyword",),
                )
            mask = ~forbidden
        mask = mask[..., : key.shape[2]].expand(query.shape[0], -1, -1, -1)
        return mask[:, 0] if mask.shape[1] == 1 else mask


def register(
    name: str, spec: Cascade | str | Path | None = None, backend: str | None = None
) -> Attention:
    """Make `attn_implementation=name` run a spec: a cascade, its text, or the path of a file.

    Without a spec it is softmax attention. Its inputs `Q`, `K`, `V` are [batch, head, position,
    width] with any names for the ranks; the first output is what the layer gives on. `backend` is
    that of `cascade.compile`, by default the one for the device. Raises `CascadeError`.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    made = cascade_of(ATTENTION if spec is None else spec)
    attention = Attention(made, roles(made), backend)
    other = cascade_of(CAPPED) if spec is None else made
    capped = Attention(other, roles(other), backend)
    AttentionInterface.register(name, _function(attention, capped))
    AttentionMaskInterface.register(name, sdpa_mask)
    return attention


def _function(attention: Attention, capped: Attention) -> Callable[..., Any]:
    """A plain function, as the interface of transformers expects; `capped` runs where the model
    caps its scores.
    """

    def forward(module: Any, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        chosen = attention if kwargs.get("softcap") is None else capped
        return chosen(module, *args, **kwargs)

    return forward
