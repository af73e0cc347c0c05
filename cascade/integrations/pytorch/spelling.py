"""How PyTorch spells each pointwise operator of `cascade.ir.ops.MAPS`."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor


def _quotient(x: Tensor, y: Tensor) -> Tensor:
    safe = torch.where(y == 0, torch.ones_like(y), y)  # PyTorch raises; NumPy gives 0
    return torch.where(y == 0, torch.zeros_like(x), torch.div(x, safe, rounding_mode="floor"))


def _remainder(x: Tensor, y: Tensor) -> Tensor:
    safe = torch.where(y == 0, torch.ones_like(y), y)
    return torch.where(y == 0, torch.zeros_like(x), torch.remainder(x, safe))


def _clamp(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)


REAL = {
    "exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "silu", "gelu", "softplus",
    "erf", "sin", "cos", "/",
}  # fmt: skip

MAPS: dict[str, Callable[..., Any]] = {
    "+": torch.add,
    "-": torch.sub,
    "*": torch.mul,
    "/": torch.true_divide,
    "//": _quotient,
    "%": _remainder,
    "**": torch.pow,
    "neg": torch.neg,
    "<": torch.lt,
    "<=": torch.le,
    ">": torch.gt,
    ">=": torch.ge,
    "==": torch.eq,
    "!=": torch.ne,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "select": torch.where,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "log": torch.log,
    "log2": torch.log2,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "relu": torch.relu,
    "abs": torch.abs,
    "sign": torch.sign,
    "floor": lambda x: torch.floor(x).to(torch.int64),
    "ceil": lambda x: torch.ceil(x).to(torch.int64),
    "min": lambda *xs: reduce(torch.minimum, xs),
    "max": lambda *xs: reduce(torch.maximum, xs),
    "clamp": _clamp,
    "??": lambda x, y: x,
}
