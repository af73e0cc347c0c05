"""Kernels as `cascade.compile` returns them: torch tensors go through the operator of PyTorch."""

from __future__ import annotations

import sys
from typing import Any

from cascade.backends.kernel import TiledKernel
from cascade.backends.triton.launch import TritonKernel
from cascade.ir.arguments import refuse_positions
from cascade.ir.cascade import Cascade


class _InTorch:
    """A kernel that is differentiable in PyTorch."""

    backend = ""

    def __call__(self: Any, *args: Any, **given: Any) -> Any:
        """The output, or a dictionary of the outputs where there are several.

        Keywords are inputs (arrays or tensors) and settings (numbers of extents and params). NumPy
        arrays give NumPy arrays; torch tensors give torch tensors of their type, with gradients.
        Raises `InputError`.
        """
        torch = sys.modules.get("torch")
        if torch is None or not any(isinstance(v, torch.Tensor) for v in given.values()):
            return super().__call__(*args, **given)  # type: ignore[misc]
        from cascade.integrations.pytorch.operator import call

        refuse_positions(self.spec, args)
        outputs = call(self.number(), given)
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def as_torch(self: Any) -> Any:
        """The cascade as a function in plain PyTorch: eager, whole tensors, for comparison."""
        from cascade.integrations.pytorch.eager import as_torch

        return as_torch(self.spec)

    def number(self: Any) -> int:
        """The number under which the operator knows the kernel; made once."""
        if not hasattr(self, "_number"):
            from cascade.integrations.pytorch.function import Options
            from cascade.integrations.pytorch.operator import number_of

            tiles = tuple(sorted(self.tiles.items()))
            options = Options((), (), self.backend, tiles, self.as_written, self.split)
            self._number = number_of(self.spec, options)
        return int(self._number)


class Tiled(_InTorch, TiledKernel):
    """The Program in NumPy."""

    backend = "tiled"


class Triton(_InTorch, TritonKernel):
    """Generated kernels on a GPU."""

    backend = "triton"


def kernel(
    spec: Cascade, backend: str, tiles: dict[str, int], as_written: bool, split: int
) -> TiledKernel | TritonKernel:
    made = Triton if backend == "triton" else Tiled
    return made(spec, tiles, as_written, split=split)
