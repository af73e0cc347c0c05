"""What the operator runs: a cascade on torch tensors, by the backend that can.

On the CPU the Program in NumPy (float32 inside), and the reference where the inputs are float64 or
no Program exists. On a GPU the Triton kernels, and plain PyTorch where there are none.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from cascade.backends.kernel import TiledKernel
from cascade.backends.triton.launch import TritonKernel
from cascade.diagnostics import CascadeError, input_error
from cascade.gradients import Gradients, gradients
from cascade.integrations.pytorch.types import NOT_IN_NUMPY, output_types
from cascade.integrations.specs import cascade_of
from cascade.ir.cascade import Cascade
from cascade.ir.extents import Number, bind


@dataclass(frozen=True)
class Options:
    """How a cascade is run. Travels through the operator as text, so that a graph can be saved.

    `names` are those of the tensors, inputs and params; `source` is the cascade that was asked for,
    of which the one that runs may have further outputs for the backward pass; `wrt` are the names
    that it saves them for. `kept` are inputs that do not decide the type of the outputs: what a
    forward pass saved in a wider one.
    """

    names: tuple[str, ...]
    settings: tuple[tuple[str, Number], ...] = ()
    backend: str = "tiled"
    tiles: tuple[tuple[str, int], ...] = ()
    as_written: bool = False
    split: int = 1
    source: str | None = None
    wrt: tuple[str, ...] = ()
    tune: bool = False
    kept: tuple[str, ...] = ()

    def text(self) -> str:
        return json.dumps({n: getattr(self, n) for n in self.__dataclass_fields__})

    @staticmethod
    @lru_cache(maxsize=1024)
    def read(text: str) -> Options:
        found = json.loads(text)
        for name in ("settings", "tiles"):
            found[name] = tuple(map(tuple, found[name]))
        for name in ("names", "wrt", "kept"):
            found[name] = tuple(found[name])
        return Options(**found)


@dataclass
class Function:
    """One cascade and its kernels."""

    spec: Cascade
    backend: str
    tiles: Mapping[str, int] = field(default_factory=dict)
    as_written: bool = False
    split: int = 1
    tune: bool = False

    def __post_init__(self) -> None:
        self.kernel = self._made()
        self.unscheduled = False

    def _made(self) -> TritonKernel | TiledKernel:
        if self.backend != "triton":
            return TiledKernel(self.spec, dict(self.tiles), self.as_written, split=self.split)
        return TritonKernel(
            self.spec, dict(self.tiles), self.as_written, split=self.split, tune=self.tune
        )

    def run(
        self,
        tensors: Mapping[str, torch.Tensor],
        settings: Mapping[str, Number],
        kept: Collection[str] = (),
    ) -> list[Any]:
        """The outputs, in the order of the spec, as new tensors. `kept` as in `Options`."""
        types = output_types(self.spec, tensors, kept=kept)
        outputs = self._run(tensors, settings)
        found = []
        for name in self.spec.outputs:
            out = outputs[name]
            known = out.is_floating_point() or name in self.spec.output_types
            found.append(out.to(types[name]) if known else out)
        return found

    def _run(
        self, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Number]
    ) -> dict[str, torch.Tensor]:
        wide = any(t.dtype == torch.float64 for t in tensors.values())
        if not (wide or self.unscheduled):
            try:
                return self._kernel(tensors, settings)
            except CascadeError as error:
                if not any(d.code == "no-schedule" for d in error.diagnostics):
                    raise
                self.unscheduled = True
        if any(t.device.type != "cpu" for t in tensors.values()):
            from cascade.integrations.pytorch.eager import evaluate

            return evaluate(self.spec, tensors, settings)
        return self._reference(tensors, settings)

    def _kernel(
        self, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Number]
    ) -> dict[str, torch.Tensor]:
        plain = {n: t.detach() for n, t in tensors.items()}
        if isinstance(self.kernel, TritonKernel):
            found: dict[str, torch.Tensor] = self.kernel.launch(plain, settings)
        else:
            result = self.kernel.run(_arrays(plain), settings).outputs
            found = {n: torch.from_numpy(np.asarray(a, order="C")) for n, a in result.items()}
        return found

    def _reference(
        self, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Number]
    ) -> dict[str, torch.Tensor]:
        from cascade.backends.reference import evaluate

        found = evaluate(self.spec, _arrays(tensors), settings)
        return {n: torch.from_numpy(np.asarray(a, order="C")) for n, a in found.items()}

    def empty(
        self,
        tensors: Mapping[str, torch.Tensor],
        settings: Mapping[str, Number],
        kept: Collection[str] = (),
    ) -> list[torch.Tensor]:
        """Outputs without values, of the right shapes; sizes may be symbols."""
        sizes: dict[str, Any] = {}
        for t in self.spec.inputs:
            for rank, size in zip(t.ranks, tensors[t.name].shape, strict=True):
                sizes.setdefault(rank, size)
        types = output_types(self.spec, tensors, kept=kept)
        first = next(iter(tensors.values()))
        found = []
        for name in self.spec.outputs:
            t = self.spec.tensors[name]
            shape: list[Any] = [sizes.get(r) for r in t.ranks]
            if t.iterative is not None:
                shape[t.iterative] = None
            if any(s is None for s in shape):
                shape = self._bound(name, shape, tensors, settings)
            found.append(first.new_empty(shape, dtype=types[name]))
        return found

    def _bound(
        self,
        name: str,
        shape: list[Any],
        tensors: Mapping[str, Any],
        settings: Mapping[str, Number],
    ) -> list[Any]:
        t = self.spec.tensors[name]
        shapes = {i.name: tuple(int(s) for s in tensors[i.name].shape) for i in self.spec.inputs}
        extents = bind(self.spec, shapes, settings).extents
        whole = [extents[r] + (n == t.iterative) for n, r in enumerate(t.ranks)]
        return [w if s is None else s for s, w in zip(shape, whole, strict=True)]


def _arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """NumPy views of tensors of the CPU. Raises `InputError` for others."""
    for name, t in tensors.items():
        if t.layout != torch.strided:
            message = f"`{name}` is sparse, and every point of an input has a number"
            raise input_error("input-type", message, "make it dense: `x.to_dense()`")
        if t.device.type != "cpu":
            message = f"`{name}` is on `{t.device}`, and this kernel runs on the CPU"
            hint = 'compile it with `backend="triton"`, or move its inputs: `x.cpu()`'
            raise input_error("device", message, hint)
    return {n: as_array(t.detach()) for n, t in tensors.items()}


def as_array(t: torch.Tensor) -> Any:
    """A NumPy view of a tensor; what NumPy has no type for becomes float32."""
    return (t.float() if t.dtype in NOT_IN_NUMPY else t).numpy()


@lru_cache(maxsize=256)
def parsed(text: str) -> Cascade:
    """The cascade of a text that the operator was given."""
    return cascade_of(text)


@lru_cache(maxsize=256)
def function(
    text: str,
    backend: str,
    tiles: tuple[tuple[str, int], ...],
    as_written: bool,
    split: int,
    tune: bool = False,
) -> Function:
    """The function of a text: kernels are kept for the life of the process."""
    return Function(parsed(text), backend, dict(tiles), as_written, split, tune)


@lru_cache(maxsize=256)
def derived(text: str, wrt: tuple[str, ...], save: bool = True) -> Gradients:
    """The gradients of the cascade of a text."""
    return gradients(parsed(text), wrt, save)
