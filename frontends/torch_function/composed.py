"""Operations of PyTorch that are made of others: activations, moments, normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cascade.frontends.torch_function.operations import method, operation
from cascade.frontends.torch_function.traced import refuse

operation("log1p")(lambda x: (1 + x).log())
operation("expm1")(lambda x: x.exp() - 1)
operation("log10")(lambda x: x.log() / math.log(10))
operation("log_sigmoid", "logsigmoid")(lambda x: -method("softplus", (-x,), {}))


@operation("elu")
def _elu(x: Any, alpha: Any = 1.0) -> Any:
    return method("where", (x > 0, x, alpha * (x.exp() - 1)), {})


@operation("leaky_relu")
def _leaky_relu(x: Any, negative_slope: Any = 0.01) -> Any:
    return method("where", (x > 0, x, negative_slope * x), {})


@operation("var")
def _variance(
    x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> Any:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    correction = int(unbiased) if correction is None else correction
    number = math.prod(x.shape[n] for n in _listed(x, dim))
    squares = (x - x.mean(dim, keepdim=True)).square()
    return squares.sum(dim, keepdim=keepdim) / (number - correction)


operation("std")(lambda x, *args, **more: _variance(x, *args, **more).sqrt())


@operation("normalize")
def _normalised(x: Any, p: Any = 2.0, dim: Any = 1, eps: float = 1e-12) -> Any:
    if p != 2:
        refuse("`normalize` by another norm than that of squares")
    return x / x.square().sum(dim, keepdim=True).sqrt().clamp_min(eps)


@operation("layer_norm")
def _layer_norm(
    x: Any, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    dims = _last(normalized_shape)
    centred = x - x.mean(dims, keepdim=True)
    return _affine(
        centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt(), weight, bias
    )


@operation("rms_norm")
def _rms_norm(
    x: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None
) -> Any:
    import torch

    eps = torch.finfo(x.dtype).eps if eps is None else eps
    squares = x.square().mean(_last(normalized_shape), keepdim=True)
    return _affine(x * (squares + eps).rsqrt(), weight, None)


def _affine(x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _last(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(-len(shape), 0))


def _listed(x: Any, dim: Any) -> Sequence[int]:
    """The dimensions of an argument `dim`: all, one, or several."""
    if dim is None:
        return range(len(x.dims))
    return dim if isinstance(dim, list | tuple) else (dim,)
