"""Derived gradients against central differences, by the reference backend in float64.

One direction for all inputs at once: (f(x + hv) - f(x - hv)) / 2h, contracted with the cotangents,
against the gradients contracted with v. Where a value jumps or has a corner (a tie of a maximum, a
condition on values that turns) there is no derivative: a trial whose differences to either side
disagree is set apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.backends.compare import VALUES, draw
from cascade.backends.reference import evaluate
from cascade.gradients import Gradients
from cascade.ir.cascade import Cascade
from cascade.ir.extents import Number

STEP = 1e-5
TOLERANCE = 1e-6  # relative to the sum of the absolute terms
SMOOTH = 1e-3  # differences to either side agree to this, or the trial is set apart

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Trial:
    """One direction: the difference and the gradient along it, and the size of their terms."""

    trial: int
    values: str
    extents: dict[str, int]
    difference: float
    gradient: float
    scale: float
    smooth: bool
    finite: bool
    defined: bool  # every output is a finite number

    @property
    def error(self) -> float:
        return abs(self.difference - self.gradient) / self.scale

    @property
    def ok(self) -> bool:
        return self.finite and (not self.smooth or self.error <= TOLERANCE)


def differences(spec: Cascade, found: Gradients, seed: int, trials: int) -> list[Trial]:
    """`trials` random draws of extents (0, 1 and ragged ones too), inputs and directions."""
    made = []
    for trial in range(trials):
        chance = np.random.default_rng([seed, trial])
        values = ("normal", "positive")[trial % 2]
        drawn = draw(spec, chance, values)
        if drawn is not None:
            extents, inputs, settings, _ = drawn
            made.append(_trial(spec, found, trial, values, extents, inputs, settings, chance))
    return made


def _trial(
    spec: Cascade,
    found: Gradients,
    trial: int,
    values: str,
    extents: dict[str, int],
    inputs: Mapping[str, Array],
    settings: Mapping[str, Number],
    chance: np.random.Generator,
) -> Trial:
    noise = VALUES["normal"]
    outputs = evaluate(found.forward, inputs, settings)
    cotangents = {
        d: np.where(np.isfinite(outputs[o]) & _real(outputs[o]), noise(chance, outputs[o].shape), 0)
        for o, d in found.cotangents.items()
    }
    gradients = backward(found, inputs, outputs, cotangents, settings, extents)
    along = {n: noise(chance, np.shape(inputs[n])) for n in found.gradients if _real(inputs.get(n))}
    products = [gradients[d] * along[n] for n, d in found.gradients.items() if n in along]

    def moved(step: float) -> dict[str, Array]:
        return evaluate(
            spec, {**inputs, **{n: inputs[n] + step * v for n, v in along.items()}}, settings
        )

    def difference(a: dict[str, Array], b: dict[str, Array], step: float) -> tuple[float, float]:
        terms = [_moved(a[o], b[o]) / step * cotangents[d] for o, d in found.cotangents.items()]
        return float(sum(t.sum() for t in terms)), float(sum(np.abs(t).sum() for t in terms))

    ahead, behind = moved(STEP), moved(-STEP)
    both, size = difference(ahead, behind, 2 * STEP)
    right, left = difference(ahead, outputs, STEP)[0], difference(outputs, behind, STEP)[0]
    scale = max(1.0, size, float(sum(np.abs(p).sum() for p in products)))
    return Trial(
        trial,
        values,
        extents,
        both,
        float(sum(p.sum() for p in products)),
        scale,
        abs(right - left) <= SMOOTH * scale,
        all(bool(np.isfinite(p).all()) for p in products),
        all(bool(np.isfinite(outputs[o]).all()) for o in found.cotangents),
    )


def backward(
    found: Gradients,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    cotangents: Mapping[str, Array],
    settings: Mapping[str, Number],
    extents: Mapping[str, int],
) -> dict[str, Array]:
    """The gradients by the reference. `outputs` are those of `found.forward`."""
    every = {**inputs, **{n: outputs[n] for n in found.saved}, **cotangents}
    arguments = {t.name: every[t.name] for t in found.backward.inputs}
    return evaluate(found.backward, arguments, settings_for(found.backward, settings, extents))


def settings_for(
    cascade: Cascade, settings: Mapping[str, Number], extents: Mapping[str, int]
) -> dict[str, Number]:
    """Those settings and extents that a cascade takes and none of its inputs gives."""
    carried = {r for t in cascade.inputs for r in t.ranks}
    free = {r.name.upper() for r in cascade.ranks if not r.declared and r.name not in carried}
    params = {p.name for p in cascade.params}
    inner = {part.upper() for p in cascade.partitions for part in p.parts}
    found = {n: v for n, v in settings.items() if n in params | free | inner}
    return {**{n: v for n, v in extents.items() if n in free}, **found}


def _real(a: Any) -> bool:
    """Whether an array of an undeclared input or output holds real numbers."""
    return a is not None and np.asarray(a).dtype.kind == "f"


def _moved(ahead: Array, behind: Array) -> Array:
    """The differences where both are numbers: a log-sum-exp of minus infinity does not move."""
    with np.errstate(invalid="ignore"):
        both = ahead - behind
    return np.where(np.isfinite(both), both, 0.0)
