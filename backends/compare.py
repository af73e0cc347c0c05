"""Two cascades on the same random inputs, by the reference backend: does a derived form agree?

Extents are random, 0, 1 and ragged tiles included; integer inputs are random, so that masks leave
rows empty and indices fall outside; values are ordinary or extreme (`VALUES`). Where the source
gives no finite number nothing is compared: those points are counted apart. A derived form may not
give NaN or an infinity where the source is finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cascade.backends.reference import evaluate
from cascade.diagnostics import CascadeError
from cascade.ir.cascade import Cascade, Tensor
from cascade.ir.expr import Expr, Map, Read, Reduce
from cascade.ir.extents import Number
from cascade.ir.kinds import declared_kind
from cascade.ir.walk import reads, symbols, transform, walk

TOLERANCE = 1e-9  # relative to max(1, |x|) or the sum of the absolute terms
EXTENTS = (0, 1, 2, 3, 4, 5, 7)
ATTEMPTS = 200  # to find extents that the cascade accepts

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


def _one_hot(chance: np.random.Generator, shape: tuple[int, ...]) -> Array:
    array = np.zeros(shape)
    if array.size:
        array.flat[chance.integers(array.size)] = 1.0
    return array


VALUES: dict[str, Draw] = {
    "normal": lambda chance, shape: chance.standard_normal(shape),
    "large": lambda chance, shape: (
        chance.choice([-1e2, 1e2], shape) * chance.uniform(0.5, 1.5, shape)
    ),  # products of two are about 1e4
    "positive": lambda chance, shape: chance.uniform(0.5, 2, shape),
    "denormal": lambda chance, shape: chance.standard_normal(shape) * 1e-310,
    "one hot": _one_hot,
    "constant": lambda chance, shape: np.full(shape, chance.standard_normal()),
    "infinite": lambda chance, shape: chance.standard_normal(shape),  # -inf where it is added
}


@dataclass(frozen=True)
class Comparison:
    """One output of one trial. `apart`: points where the source is not finite; `spoilt`: points
    where it is, and the derived form is not.
    """

    output: str
    trial: int
    values: str
    extents: dict[str, int]
    points: int
    apart: int
    spoilt: int
    error: float

    @property
    def compared(self) -> int:
        return self.points - self.apart

    @property
    def ok(self) -> bool:
        return not self.spoilt and self.error <= TOLERANCE


def compare(source: Cascade, result: Cascade, seed: int, trials: int) -> list[Comparison]:
    """The outputs of both on `trials` draws, each kind of values in turn."""
    found = []
    for trial in range(trials):
        chance = np.random.default_rng([seed, trial])
        values = list(VALUES)[trial % len(VALUES)]
        drawn = draw(source, chance, values)
        if drawn is None:
            continue
        extents, inputs, settings, wanted = drawn
        made = evaluate(result, inputs, settings | _tiles(source, result, chance))
        terms = _terms(source, inputs, settings)
        for name, array in wanted.items():
            numbers = _difference(array, made[name], terms.get(name))
            found.append(Comparison(name, trial, values, extents, *numbers))
    return found


def _difference(wanted: Array, made: Array, terms: Array | None) -> tuple[int, int, int, float]:
    """Points, those set apart, those spoilt, and the largest relative difference."""
    if wanted.shape != made.shape:
        return wanted.size, 0, wanted.size, np.inf
    finite = np.isfinite(wanted)
    spoilt = finite & ~np.isfinite(made)
    good = finite & ~spoilt
    x, y = wanted[good].astype(float), made[good].astype(float)
    scale = np.maximum(1, np.abs(x))
    if terms is not None:
        own = terms[good]
        scale = np.maximum(scale, np.where(np.isfinite(own), own, 0))
    error = float((np.abs(x - y) / scale).max(initial=0))
    return wanted.size, int((~finite).sum()), int(spoilt.sum()), error


def draw(
    source: Cascade, chance: np.random.Generator, values: str
) -> tuple[dict[str, int], dict[str, Array], dict[str, Number], dict[str, Array]] | None:
    """Extents, inputs and settings that the source accepts, and its outputs."""
    added = _added(source)
    free = {s for r in source.ranks for s in symbols(r.extent)}
    carried = {s for t in source.inputs for r in t.ranks for s in symbols(source.rank[r].extent)}
    params = {p.name: p.value for p in source.params}
    for _ in range(ATTEMPTS):
        size = {s: int(chance.choice(EXTENTS)) for s in sorted(free | carried)}
        if chance.random() < 0.5:  # several ranks are often one size
            size = dict.fromkeys(size, int(chance.choice(EXTENTS))) | _kept(size, chance)
        settings: dict[str, Number] = {s: n for s, n in size.items() if s not in carried}
        settings |= {s: size[s] for s in params if s in size}
        settings |= {s: float(chance.uniform(0.5, 2)) for s, v in params.items()
                     if v is None and s not in size}  # fmt: skip
        try:
            shapes = {t.name: _shape(source, t, size) for t in source.inputs}
            inputs = {
                t.name: _values(chance, t, shapes[t.name], values, t.name in added)
                for t in source.inputs
            }
            return size, inputs, settings, evaluate(source, inputs, settings)
        except CascadeError:
            continue
    return None


def _kept(size: dict[str, int], chance: np.random.Generator) -> dict[str, int]:
    return {s: n for s, n in size.items() if chance.random() < 0.3}


def _shape(source: Cascade, tensor: Tensor, size: dict[str, int]) -> tuple[int, ...]:
    from cascade.ir.extents import evaluate as number

    return tuple(int(number(source.extent(tensor, n), size.__getitem__))
                 for n in range(len(tensor.ranks)))  # fmt: skip


def _values(
    chance: np.random.Generator, t: Tensor, shape: tuple[int, ...], values: str, added: bool
) -> Array:
    if declared_kind(t.dtype) == "int":
        return chance.integers(-1, 5, shape)
    if t.dtype == "bool":
        return chance.random(shape) < 0.5
    array = VALUES[values](chance, shape)
    if values == "infinite" and added:
        array = np.where(chance.random(shape) < 0.3, -np.inf, array)
    return array


def _added(source: Cascade) -> set[str]:
    """Inputs that are an operand of an addition as they are."""
    nodes = (n for e in source.einsums for n in walk(e.body) if isinstance(n, Map) and n.op == "+")
    return {a.tensor for n in nodes for a in n.args if isinstance(a, Read)}


def _tiles(source: Cascade, result: Cascade, chance: np.random.Generator) -> dict[str, Number]:
    """Extents of the tiles that a derivation made: of every size, so that the last is ragged."""
    known = {p.name for p in source.params} | {r.name.upper() for r in source.ranks}
    return {p.name: int(chance.integers(1, 5)) for p in result.params if p.name not in known}


def _terms(
    source: Cascade, inputs: dict[str, Array], settings: dict[str, Number]
) -> dict[str, Array]:
    """The sum of the absolute terms, for outputs that are written as sums."""

    def rule(e: Expr) -> Expr | None:
        if isinstance(e, Reduce) and e.op == "sum":
            return replace(e, body=Map("abs", (e.body,)))
        return None

    last = {e.tensor for e in source.einsums if e.tensor in source.outputs and e.step is None}
    last -= {r.tensor for e in source.einsums for r in reads(e.body)}
    einsums = tuple(
        replace(e, body=transform(e.body, rule)) if e.tensor in last else e for e in source.einsums
    )
    changed = {e.tensor for e in einsums if e.tensor in last and isinstance(e.body, Reduce)}
    found = evaluate(replace(source, einsums=einsums), inputs, settings) if changed else {}
    return {name: np.abs(array) for name, array in found.items() if name in changed}
