"""The arguments of a call, `kernel(Q=q, K=k, tau=0.5)`: inputs and settings, all by name.

A keyword that no input, extent or param has is an error: it would change nothing, silently.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from cascade.diagnostics import Diagnostic, InputError, did_you_mean, input_error
from cascade.ir.cascade import Cascade, Param, Tensor
from cascade.ir.expr import Const
from cascade.ir.extents import Number, refuse_derived, setting_names, settings_in_words


def separated(
    spec: Cascade, args: tuple[Any, ...], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs and the settings of a call. Raises `InputError`."""
    refuse_positions(spec, args)
    check_names(spec, given)
    names = {t.name for t in spec.inputs}
    inputs = {n: v for n, v in given.items() if n in names}
    return inputs, {n: v for n, v in given.items() if n not in names}


def with_settings(spec: Cascade, settings: Mapping[str, Number]) -> Cascade:
    """The spec with params as they are set, where kernels for their definitions are not for that:
    a real for an integer, or what is no positive finite number.
    """
    params = tuple(_as_set(p, settings.get(p.name)) for p in spec.params)
    return spec if params == spec.params else replace(spec, params=params)


def _as_set(p: Param, given: Number | None) -> Param:
    if given is None or isinstance(given, bool):
        return p
    is_real = isinstance(given, float) and not given.is_integer()
    if not 0 < given < math.inf or (is_real and isinstance(p.value, Const)):
        return replace(p, value=Const(float(given) if isinstance(given, float) else given))
    return p


def refuse_positions(spec: Cascade, args: tuple[Any, ...]) -> None:
    """Raise `InputError` for arguments without a name: a spec does not say what comes first."""
    if args:
        named = ", ".join(f"{t.name}=…" for t in spec.inputs)
        raise input_error(
            "positional",
            f"the inputs of `{spec.name}` are given by name, and {len(args)} came without",
            f"write `kernel({named})`",
        )


def check_names(spec: Cascade, given: Collection[str]) -> None:
    """Raise `InputError` for keywords that the spec does not know, and for missing inputs."""
    inputs = {t.name: t for t in spec.inputs}
    settings = setting_names(spec)
    unknown = [n for n in given if n not in inputs and n not in settings]
    missing = [t for n, t in inputs.items() if n not in given]
    found = [_unknown(n, [t.name for t in missing], spec) for n in unknown]
    found += [_missing(t) for t in missing if not did_you_mean(t.name, unknown)]
    if found:
        raise InputError(*found)
    for rank in spec.ranks:
        if rank.name.upper() in given and rank.name.upper() not in inputs:
            refuse_derived(rank)


def _unknown(name: str, missing: list[str], spec: Cascade) -> Diagnostic:
    """What is missing anyway is the best guess of what was meant."""
    inputs = [t.name for t in spec.inputs]
    hints = did_you_mean(name, missing) or did_you_mean(name, {*inputs, *setting_names(spec)})
    hints = hints or (f"inputs: {', '.join(inputs)}; {settings_in_words(spec)}",)
    message = f"there is no input, extent or param `{name}`"
    return Diagnostic("setting", message, hints=hints)


def check_inputs(spec: Cascade, given: Collection[str]) -> None:
    """Raise `InputError` for every input that is missing; there may be others, as in a file."""
    missing = [t for t in spec.inputs if t.name not in given]
    if missing:
        raise InputError(*(_missing(t, did_you_mean(t.name, given)) for t in missing))


def _missing(tensor: Tensor, hints: tuple[str, ...] = ()) -> Diagnostic:
    form = f"{tensor.name}[{','.join(tensor.ranks)}]" if tensor.ranks else tensor.name
    return Diagnostic("missing-input", f"the input `{form}` is missing", hints=hints)
