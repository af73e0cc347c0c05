"""Torch tensors over named axes, as `cascade.backends.arrays` has them for NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Labelled:
    """A tensor whose dimensions are named; a missing axis means "the same all along it"."""

    tensor: Tensor
    axes: tuple[str, ...]

    def rename(self, old: str, new: str) -> Labelled:
        return Labelled(self.tensor, tuple(new if a == old else a for a in self.axes))

    def take(self, axis: str, coordinate: int) -> Labelled:
        """One coordinate of an axis, without the axis."""
        if axis not in self.axes:
            return self
        n = self.axes.index(axis)
        rest = tuple(a for a in self.axes if a != axis)
        return Labelled(self.tensor.select(n, coordinate), rest)


def spread(value: Labelled, axes: Sequence[str]) -> Tensor:
    """The tensor with exactly these axes in this order, extent 1 where it has none of its own."""
    present = [a for a in axes if a in value.axes]
    tensor = value.tensor.permute([value.axes.index(a) for a in present])
    sizes = iter(tensor.shape)
    return tensor.reshape([next(sizes) if a in present else 1 for a in axes])


def union(values: Iterable[Labelled]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(a for v in values for a in v.axes))


def combine(function: Callable[..., Any], values: Sequence[Labelled]) -> Labelled:
    """A pointwise function of values."""
    axes = union(values)
    return Labelled(function(*(spread(v, axes) for v in values)), axes)


def every(values: Sequence[Labelled]) -> Labelled | None:
    """Whether all hold; None for no values."""
    result: Labelled | None = None
    for v in values:
        result = v if result is None else combine(torch.logical_and, [result, v])
    return result
