"""`cascade::run`: a cascade as one operator of PyTorch, with derived gradients.

The operator takes tensors, the text of a cascade and options as text, so a compiled or exported
graph holds all there is to know. Its backward is the same operator on the derived gradient
(`cascade.gradients`), whose backward is again derived: any order of derivative. The forward that
runs is the one that leaves what the backward reads, as further outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from cascade.diagnostics import input_error
from cascade.integrations.pytorch.function import Function, Options, derived, function, parsed
from cascade.ir.arguments import check_names
from cascade.ir.cascade import Cascade, extent_symbol
from cascade.ir.extents import Number, number_of_setting, setting_names


@torch.library.custom_op("cascade::run", mutates_args=())
def run(tensors: list[torch.Tensor], spec: str, options: str) -> list[torch.Tensor]:
    """The outputs of the cascade `spec` on tensors."""
    made, values, settings = _unpacked(tensors, spec, options)
    found = made.run(values, settings, Options.read(options).kept)
    given = {t.data_ptr() for t in tensors}
    return [f.clone() if f.data_ptr() in given and f.numel() else f for f in found]


@run.register_fake
def _(tensors: list[torch.Tensor], spec: str, options: str) -> list[torch.Tensor]:
    read = Options.read(options)
    made = _function(spec, read)
    inputs = {t.name for t in made.spec.inputs}
    values = {n: t for n, t in zip(read.names, tensors, strict=True) if n in inputs}
    return made.empty(values, dict(read.settings), read.kept)


def _function(spec: str, options: Options) -> Function:
    return function(
        spec, options.backend, options.tiles, options.as_written, options.split, options.tune
    )


def _unpacked(
    tensors: Sequence[torch.Tensor], spec: str, options: str
) -> tuple[Function, dict[str, torch.Tensor], dict[str, Number]]:
    """The function, its inputs, and settings: those that came as tensors are numbers here."""
    read = Options.read(options)
    made = _function(spec, read)
    inputs = {t.name for t in made.spec.inputs}
    named = dict(zip(read.names, tensors, strict=True))
    settings = dict(read.settings)
    settings.update({n: t.item() for n, t in named.items() if n not in inputs})
    return made, {n: t for n, t in named.items() if n in inputs}, settings


def _remember(ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
    tensors, ctx.spec, ctx.options = inputs
    ctx.number = len(tensors)
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grads: list[torch.Tensor | None]) -> tuple[Any, None, None]:
    options = Options.read(ctx.options)
    saved = ctx.saved_tensors  # once: a checkpoint makes them again at each reading
    tensors = dict(zip(options.names, saved[: ctx.number], strict=True))
    names = parsed(ctx.spec).outputs
    outputs = dict(zip(names, saved[ctx.number :], strict=True))
    arrived = dict(zip(names, grads, strict=True))
    source = options.source or ctx.spec
    wrt = options.wrt or tuple(n for n, t in tensors.items() if t.requires_grad)
    asked = parsed(source).outputs
    if any(g is not None for n, g in arrived.items() if n not in asked):
        found = derived(ctx.spec, wrt, False)  # a derivative of the gradient reaches what was saved
    else:
        found = derived(source, wrt)
    every = {**tensors, **{n: outputs[n] for n in found.saved if n in outputs}}
    for name, cotangent in found.cotangents.items():
        g = arrived[name]
        every[cotangent] = torch.zeros_like(outputs[name]) if g is None else g
    arrived_or_saved = {*found.saved, *found.cotangents.values()}
    kept = [t.name for t in found.backward.inputs if t.dtype and t.name in arrived_or_saved]
    kept = [*dict.fromkeys((*options.kept, *kept))]
    how = replace(options, names=(), settings=(), source=None, wrt=(), kept=tuple(kept))
    sizes = _sizes(parsed(ctx.spec), tensors)
    made = apply(number_of(found.backward, how), every, {**sizes, **dict(options.settings)})
    given = [
        _like(made[found.gradients[n]], t) if n in found.gradients else None
        for n, t in tensors.items()
    ]
    return given, None, None


def _sizes(spec: Cascade, tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The extents of the inputs: a gradient may have ranks that none of its inputs has."""
    return {
        rank.upper(): size
        for t in spec.inputs
        for rank, size in zip(t.ranks, tensors[t.name].shape, strict=True)
    }


def _like(gradient: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    return gradient.to(of.dtype).reshape(of.shape)


run.register_autograd(_backward, setup_context=_remember)


@run.register_vmap
def _(
    info: Any, in_dims: Any, tensors: list[torch.Tensor], spec: str, options: str
) -> tuple[list[torch.Tensor], list[int]]:
    return _mapped(run, info.batch_size, in_dims[0], tensors, spec, options)


class _Transformed(torch.autograd.Function):
    """The operator inside `torch.func.grad` and its like, which take no gradient of an operator.

    In forward mode an operator would have no tangent, silently.
    """

    @staticmethod
    def forward(spec: str, options: str, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(run(list(tensors), spec, options))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        spec, options, *tensors = inputs
        _remember(ctx, (tensors, spec, options), list(output))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
        given, *_ = _backward(ctx, list(grads))
        return None, None, *given

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise input_error(
            "host",
            "a kernel has no derivative in forward mode",
            "use reverse mode: `torch.func.jacrev` for `jacfwd`, `vjp` for `jvp`",
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, spec: str, options: str, *tensors: torch.Tensor) -> Any:
        made, dims = _mapped(_run, info.batch_size, in_dims[2:], tensors, spec, options)
        return tuple(made), tuple(dims)


def _run(tensors: list[torch.Tensor], spec: str, options: str) -> list[torch.Tensor]:
    """The outputs, in whatever transformation of `torch.func` this is called."""
    if not torch.compiler.is_compiling() and _transforms():
        return list(_Transformed.apply(spec, options, *tensors))  # type: ignore[no-untyped-call]
    found: list[torch.Tensor] = run(tensors, spec, options)
    return found


def _has_gradient(t: torch.Tensor) -> bool:
    """Whether a gradient by a tensor, or by one that `torch.func` wraps in it, may be asked for."""
    if torch.compiler.is_compiling():
        return t.requires_grad
    while not t.requires_grad and torch._C._functorch.is_functorch_wrapped_tensor(t):
        t = torch._C._functorch.get_unwrapped(t)
    return t.requires_grad


def _transforms() -> bool:
    """Whether gradients or a map of `torch.func`, or forward mode, are on."""
    forward_mode: bool = torch.autograd.forward_ad._current_level >= 0
    innermost = torch._C._functorch.peek_interpreter_stack()
    of_memory = torch._C._functorch.TransformType.Functionalize
    return forward_mode or (innermost is not None and innermost.key() != of_memory)


def _mapped(
    called: Any,
    number: int,
    dims: Sequence[int | None],
    tensors: Sequence[torch.Tensor],
    spec: str,
    options: str,
) -> tuple[list[torch.Tensor], list[int]]:
    """One call for each element of the mapped dimension; where it has none, one for the shapes."""
    made = [
        called([_element(t, d, n) for t, d in zip(tensors, dims, strict=True)], spec, options)
        for n in range(max(number, 1))
    ]
    stacked = [torch.stack(parts)[:number] for parts in zip(*made, strict=True)]
    return stacked, [0] * len(stacked)


def _element(t: torch.Tensor, dim: int | None, n: int) -> torch.Tensor:
    if dim is None:
        return t
    return t.select(dim, n) if t.shape[dim] else t.new_zeros([*t.shape[:dim], *t.shape[dim + 1 :]])


# -- the call


@dataclass(frozen=True)
class Signature:
    """What a cascade takes and gives, by name."""

    inputs: tuple[str, ...]
    params: tuple[str, ...]
    free: tuple[str, ...]  # extents that no input has
    outputs: tuple[str, ...]
    carried: tuple[tuple[str, str, str, int], ...]  # extents of inputs: tensor, rank, slot


CALLED: list[tuple[Cascade, Options]] = []  # cascades by the number under which they are called
NUMBERS: dict[tuple[Cascade, Options], int] = {}
PLANNED: dict[int, dict[str, str]] = {}  # texts that ran under a number, with options


def number_of(spec: Cascade, options: Options) -> int:
    """The number of a cascade and of how it runs: a constant in a graph."""
    key = (spec, options)
    if key not in NUMBERS:
        NUMBERS[key] = len(CALLED)
        CALLED.append(key)
    return NUMBERS[key]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def signature(number: int) -> tuple[tuple[str, ...], ...]:
    found = _signature(CALLED[number][0])
    return found.inputs, found.params, found.free, found.outputs


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def carried(number: int) -> tuple[tuple[str, str, str, int], ...]:
    return _signature(CALLED[number][0]).carried


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def checked_names(number: int, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a call. Raises `InputError` for one that the cascade has not."""
    check_names(CALLED[number][0], names)
    return names


@lru_cache(maxsize=256)
def _signature(spec: Cascade) -> Signature:
    follows = {r.name.upper() for r in spec.ranks if r.extent != extent_symbol(r.name)}
    slots = tuple(
        (rank.upper(), t.name, rank, slot)
        for t in spec.inputs
        for slot, rank in enumerate(t.ranks)
        if rank.upper() not in follows
    )
    params = tuple(p.name for p in spec.params)
    free = setting_names(spec) - {*params, *follows, *(extent for extent, *_ in slots)}
    return Signature(
        tuple(t.name for t in spec.inputs), params, tuple(sorted(free)), spec.outputs, slots
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def plan(
    number: int,
    names: tuple[str, ...],
    wrt: tuple[str, ...],
    settings: tuple[tuple[str, Number], ...],
) -> tuple[str, str]:
    """The text of the cascade that runs, and its options: with what the gradients by `wrt` read."""
    spec, options = CALLED[number]
    text = str(spec)
    options = replace(options, names=names, settings=settings, source=None, wrt=())
    if wrt:
        options = replace(options, source=text, wrt=wrt)
        text = str(derived(text, wrt).forward)
    PLANNED.setdefault(number, {})[text] = options.text()
    return text, options.text()


def functions_of(number: int) -> list[Function]:
    """What ran under a number: forward cascades, with and without what a backward reads."""
    return [_function(text, Options.read(o)) for text, o in PLANNED.get(number, {}).items()]


def apply(
    number: int, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Number]
) -> dict[str, torch.Tensor]:
    """The outputs of a cascade through the operator, differentiable.

    `tensors` may have more than the inputs of the spec and those of its params that are tensors.
    """
    inputs, params, free, outputs = signature(number)
    used = {n: t for n, t in tensors.items() if n in inputs or n in params}
    wrt = tuple(n for n, t in used.items() if t.is_floating_point() and _has_gradient(t))
    numbers = {n: v for n, v in settings.items() if (n in params or n in free) and n not in used}
    if not torch.is_grad_enabled():
        wrt = ()
    text, options = plan(number, tuple(used), wrt, tuple(sorted(numbers.items())))
    found = _run(list(used.values()), text, options)
    return {n: found[k] for k, n in enumerate(outputs)}


def call(number: int, given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The outputs by name, for keywords of a kernel. Raises `InputError`.

    Inside `torch.autocast` real inputs are cast to its type, as matrix products are.
    """
    checked_names(number, tuple(given))
    inputs, params = signature(number)[:2]
    tensors = {n: v for n, v in given.items() if isinstance(v, torch.Tensor)}
    for name in inputs:
        if name not in tensors:
            tensors[name] = _tensor(name, given[name])
    settings = {n: _number(n, v) for n, v in given.items() if n not in tensors}
    for name, value in tensors.items():
        if name not in inputs:
            _check_scalar(name, value, name in params)
    _check_extents(number, tensors, settings)
    tensors = {n: _cast(t) for n, t in tensors.items()}
    return apply(number, tensors, settings)


def _tensor(name: str, given: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        message = f"`{name}` is given as {type(given).__name__}, which is no tensor of numbers"
        raise input_error("input-type", message, "give a tensor or an array of numbers") from None


def _number(name: str, value: Any) -> Any:
    """A setting as a number of Python; sizes may be symbols of a graph."""
    plain = isinstance(value, (bool, int, float, torch.SymInt))
    return value if plain else number_of_setting(name, value)


def _check_scalar(name: str, value: torch.Tensor, param: bool) -> None:
    """A tensor for a param is one number; an extent is a number of Python."""
    if not param:
        hint = f"give a number: `{name}=int(…)`"
        raise input_error("setting", f"`{name}` is an extent, and a tensor was given", hint)
    if value.numel() != 1:
        message = f"the param `{name}` is one number, and a tensor of {value.numel()} was given"
        raise input_error("setting", message, f"to vary it, make it an input: `input {name}[…]`")


def _check_extents(
    number: int, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any]
) -> None:
    """Raise `InputError` where an extent is set to something else than a shape says."""
    for extent, name, rank, slot in carried(number):
        if extent not in settings or slot >= tensors[name].dim():
            continue
        size = tensors[name].shape[slot]
        if size != settings[extent]:
            message = f"rank `{rank}` of `{name}` has extent {size}"
            raise input_error("shape", f"{message}, and {settings[extent]} by the settings")


def _cast(t: torch.Tensor) -> torch.Tensor:
    kind = t.device.type
    if not t.is_floating_point() or t.dtype == torch.float64:
        return t
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return t
    return t.to(torch.get_autocast_dtype(kind))
