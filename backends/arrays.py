"""Arrays over named axes: alignment, pointwise combination, and contraction. Also the inputs'
types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.diagnostics import input_error
from cascade.ir.arguments import check_inputs
from cascade.ir.cascade import Cascade
from cascade.ir.kinds import declared_kind, required_kinds

Array = np.ndarray[Any, Any]
LARGEST_INTEGER = np.iinfo(np.int64).max
NARROW = ("bfloat16", "float8_e4m3fn", "float8_e5m2")  # reals of ml_dtypes and of torch


@dataclass(frozen=True)
class Labelled:
    """An array whose dimensions are named; a missing axis means "the same all along it"."""

    array: Array
    axes: tuple[str, ...]

    def rename(self, old: str, new: str) -> Labelled:
        return Labelled(self.array, tuple(new if a == old else a for a in self.axes))


def spread(value: Labelled, axes: tuple[str, ...]) -> Array:
    """The array with exactly these axes in this order, extent 1 where it has none of its own."""
    present = [a for a in axes if a in value.axes]
    array = value.array.transpose([value.axes.index(a) for a in present])
    return array.reshape([array.shape[present.index(a)] if a in present else 1 for a in axes])


def align(
    values: list[Labelled], with_axes: Iterable[str] = (), extents: Mapping[str, int] | None = None
) -> list[Labelled]:
    """The values over the union of their axes, broadcastable against each other.

    Axes in `extents` are given their whole extent even where no value varies along them.
    """
    axes = tuple(dict.fromkeys([a for v in values for a in v.axes] + list(with_axes)))
    aligned = [Labelled(spread(v, axes), axes) for v in values]
    if extents:
        shape = [max(v.array.shape[n] for v in aligned) if aligned else 1 for n in range(len(axes))]
        for n, axis in enumerate(axes):
            shape[n] = extents.get(axis, shape[n])
        first = aligned[0]
        target = [
            shape[n] if axis in extents else first.array.shape[n] for n, axis in enumerate(axes)
        ]
        aligned[0] = Labelled(np.broadcast_to(first.array, target), axes)
    return aligned


def combine(function: Callable[..., Any], values: list[Labelled]) -> Labelled:
    """A pointwise function of values. `np.logical_and` accepts any number of them."""
    aligned = align(values)
    arrays = [v.array for v in aligned]
    if function is np.logical_and:
        result = arrays[0]
        for array in arrays[1:]:
            result = np.logical_and(result, array)
    else:
        result = function(*arrays)
    return Labelled(np.asarray(result), aligned[0].axes)


def contract(
    factors: list[Labelled],
    masks: list[Labelled],
    gone: tuple[str, ...],
    extents: Mapping[str, int],
) -> Labelled | None:
    """sum over `gone` of the product of factors where all masks hold.

    None where a factor is not finite at a point that counts, since 0 times it would be wrong.
    """
    if any(f.array.dtype.kind not in "fi" for f in factors):
        return None
    factors = list(factors)
    kind = np.result_type(*(f.array.dtype for f in factors))
    for mask in masks:
        host = next((n for n, f in enumerate(factors) if set(mask.axes) <= set(f.axes)), None)
        if host is None:
            factors.append(Labelled(mask.array.astype(kind), mask.axes))
        else:
            f, m = align([factors[host], mask])
            factors[host] = Labelled(np.where(m.array, f.array, 0), f.axes)
    if not all(np.isfinite(f.array).all() for f in factors):
        return None
    return _sum_product(factors, gone, extents)


def _sum_product(
    factors: list[Labelled], gone: tuple[str, ...], extents: Mapping[str, int]
) -> Labelled:
    merged = _absorb(factors)
    missing = [a for a in gone if not any(a in f.axes for f in merged)]
    scale = int(np.prod([extents[a] for a in missing])) if missing else 1
    inner = tuple(a for a in gone if a not in missing)
    if len(merged) == 2:
        result = _matmul(merged[0], merged[1], inner)
    elif len(merged) == 1:
        result = _sum(merged[0], inner)
    else:
        result = _einsum(merged, inner)
    return Labelled(result.array * scale, result.axes) if missing else result


def _absorb(factors: list[Labelled]) -> list[Labelled]:
    """Multiply a factor into one that has all its axes."""
    kept: list[Labelled] = []
    for f in sorted(factors, key=lambda f: -len(f.axes)):
        host = next((n for n, g in enumerate(kept) if set(f.axes) <= set(g.axes)), None)
        if host is None:
            kept.append(f)
        else:
            kept[host] = combine(np.multiply, [kept[host], f])
    return kept


def _sum(f: Labelled, gone: tuple[str, ...]) -> Labelled:
    where = tuple(n for n, a in enumerate(f.axes) if a in gone)
    return Labelled(np.asarray(f.array.sum(where)), tuple(a for a in f.axes if a not in gone))


def _matmul(a: Labelled, b: Labelled, gone: tuple[str, ...]) -> Labelled:
    a = _sum(a, tuple(x for x in gone if x not in b.axes))
    b = _sum(b, tuple(x for x in gone if x not in a.axes))
    inner = tuple(x for x in a.axes if x in gone)
    batch = tuple(x for x in a.axes if x in b.axes and x not in gone)
    rows = tuple(x for x in a.axes if x not in b.axes)
    columns = tuple(x for x in b.axes if x not in a.axes)
    left, right = spread(a, batch + rows + inner), spread(b, batch + inner + columns)
    sizes = dict(zip(a.axes, a.array.shape, strict=True)) | dict(
        zip(b.axes, b.array.shape, strict=True)
    )
    for axis, extent in zip(a.axes, a.array.shape, strict=True):
        sizes[axis] = max(sizes[axis], extent) if sizes[axis] and extent else 0

    def flat(array: Array, groups: tuple[tuple[str, ...], ...]) -> Array:
        full = [sizes[x] for group in groups for x in group]
        shape = [int(np.prod([sizes[x] for x in group])) for group in groups]
        return np.broadcast_to(array, full).reshape(shape)

    product = np.matmul(flat(left, (batch, rows, inner)), flat(right, (batch, inner, columns)))
    axes = batch + rows + columns
    return Labelled(product.reshape([sizes[x] for x in axes]), axes)


def _einsum(factors: list[Labelled], gone: tuple[str, ...]) -> Labelled:
    axes = tuple(dict.fromkeys(a for f in factors for a in f.axes))
    number = {a: n for n, a in enumerate(axes)}
    kept = tuple(a for a in axes if a not in gone)
    operands: list[Any] = []
    for f in factors:
        operands += [f.array, [number[a] for a in f.axes]]
    return Labelled(np.einsum(*operands, [number[a] for a in kept], optimize=True), kept)


def as_inputs(cascade: Cascade, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """The inputs as float64, int64 or bool arrays, checked against the kinds the spec needs."""
    return _inputs(cascade, inputs, _as_kind)


def checked_inputs(cascade: Cascade, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """The inputs as they are, checked against the kinds the spec needs: executors convert tiles.
    Integers for a real input are float64.
    """

    def as_is(name: str, array: Array, kind: str) -> Array:
        converted = _as_kind(name, array[:0] if array.ndim else array, kind)
        if converted.dtype.kind == "f" and array.dtype.kind not in "iu":
            return array
        if converted.dtype == np.int64 and np.can_cast(array.dtype, np.int64):
            return array
        return _as_kind(name, array, kind)

    return _inputs(cascade, inputs, as_is)


def _inputs(
    cascade: Cascade, inputs: Mapping[str, Any], convert: Callable[[str, Array, str], Array]
) -> dict[str, Array]:
    check_inputs(cascade, inputs)
    needed = required_kinds(cascade)
    arrays: dict[str, Array] = {}
    for tensor in cascade.inputs:
        array = _array(tensor.name, inputs[tensor.name])
        kind = needed.get(tensor.name) or declared_kind(tensor.dtype)
        arrays[tensor.name] = convert(tensor.name, array, kind)
    return arrays


def _array(name: str, given: Any) -> Array:
    """What was given, as an array; a tensor of torch whose type NumPy has not as float32."""
    if str(getattr(given, "dtype", "")) in [f"torch.{name}" for name in NARROW]:
        given = given.detach().cpu().float()
    try:
        return np.asarray(given)
    except ValueError:
        raise input_error("input-type", f"`{name}` is no array: its rows differ in size") from None


def _as_kind(name: str, array: Array, kind: str) -> Array:
    code = array.dtype.kind
    if code == "b":
        if kind in ("int", "real"):
            raise input_error(
                "input-type", f"`{name}` holds truth values, and the spec needs numbers"
            )
        return array
    if code not in "fiu" and str(array.dtype) not in NARROW:
        raise input_error(
            "input-type", f"`{name}` has type {array.dtype}; numbers or truth values are needed"
        )
    if kind == "bool":
        raise input_error(
            "input-type", f"`{name}` has type {array.dtype}, and the spec needs truth values"
        )
    if code in "iu" and kind != "real":
        if code == "u" and array.size and int(array.max()) > LARGEST_INTEGER:
            raise input_error(
                "input-type", f"`{name}` holds {array.max()}; integers go up to 2**63 - 1"
            )
        return array.astype(np.int64)
    if kind == "int":
        raise input_error(
            "input-type",
            f"`{name}` has type {array.dtype}, and the spec needs integers (it indexes or counts)",
            "convert it: `x.astype(int)`",
        )
    return array.astype(np.float64)
