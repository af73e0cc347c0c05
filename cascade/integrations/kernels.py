"""Kernels as `cascade.compile` returns them: torch tensors go through the operator of PyTorch."""

from __future__ import annotations

import sys
from typing import Any

from cascade.backends.kernel import TiledKernel
from cascade.backends.triton.launch import TritonKernel
from cascade.backends.triton.tuning import Tuning
from cascade.ir.arguments import refuse_positions
from cascade.ir.cascade import Cascade


class _InTorch:
    """A kernel that is differentiable in PyTorch."""

    backend = ""

    def __init__(self: Any, *args: Any, **given: Any):
        super().__init__(*args, **given)
        if "torch" in sys.modules:  # `torch.compile` may trace the first call
            self.number()

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
            tune = getattr(self, "tune", False)
            options = Options((), (), self.backend, tiles, self.as_written, self.split, tune=tune)
            self._number = number_of(self.spec, options)
        return int(self._number)


class Tiled(_InTorch, TiledKernel):
    """The Program in NumPy."""

    backend = "tiled"


class Triton(_InTorch, TritonKernel):
    """Generated kernels on a GPU."""

    backend = "triton"

    @property
    def tuning(self) -> Tuning | None:
        """What was tried for the last kind of call that was tuned; prints as a table."""
        found = list(self.tunings)
        if hasattr(self, "_number"):  # torch tensors go through kernels of the operator
            from cascade.integrations.pytorch.operator import functions_of

            kernels = [f.kernel for f in functions_of(self.number())]
            found += [t for k in kernels if isinstance(k, TritonKernel) for t in k.tunings]
        return found[-1] if found else None


def kernel(
    spec: Cascade,
    backend: str,
    tiles: dict[str, int],
    as_written: bool,
    split: int,
    tune: bool = False,
) -> TiledKernel | TritonKernel:
    if backend == "triton":
        return Triton(spec, tiles, as_written, split=split, tune=tune)
    return Tiled(spec, tiles, as_written, split=split)
