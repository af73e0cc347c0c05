"""Four uses of one merge: a loop over tiles, a tree of splits, a prefix scan, a combine across
devices.

Each takes the parts of a derived state (`cascade.transforms.parts`) and runs them with the
reference evaluator. `splits` are the boundaries of consecutive stretches of the streamed rank;
stretches may be unequal, and empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cascade.backends.arrays import as_inputs
from cascade.backends.reference import filled, run
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Symbol
from cascade.ir.extents import Number, bind
from cascade.transforms.parts import START, STOP, Parts

Array = np.ndarray[Any, Any]
Split = tuple[int, int]
StateValues = dict[str, Array]


class Streaming:
    """The state of one problem: inputs and settings fixed, points lifted and merged on demand."""

    def __init__(
        self,
        source: Cascade,
        parts: Parts,
        inputs: Mapping[str, Any],
        settings: Mapping[str, Number] | None = None,
    ):
        self.parts = parts
        self.arrays = as_inputs(source, inputs)
        bound = bind(source, {n: a.shape for n, a in self.arrays.items()}, settings)
        self.values: dict[str, Number] = dict(bound.values)
        self.length = bound.extents[parts.rank]

    def init(self) -> StateValues:
        """The identity of `merge`."""
        return self._run(self.parts.init, {})

    def lift(self, start: int, stop: int) -> StateValues:
        """The state of the points start .. stop-1."""
        tile = next(r.name for r in self.parts.lift.ranks if r.name not in self._known())
        more: dict[str, Number] = {START: start, STOP: stop, tile.upper(): max(stop - start, 0)}
        return self._run(self.parts.lift, self.arrays, more)

    def _known(self) -> set[str]:
        return {name.lower() for name in self.values}

    def merge(self, a: StateValues, b: StateValues) -> StateValues:
        """The state of both sets of points."""
        both = {f"{n}_a": x for n, x in a.items()} | {f"{n}_b": x for n, x in b.items()}
        return self._run(self.parts.merge, both)

    def finalise(self, state: StateValues) -> StateValues:
        """The outputs of the cascade."""
        return self._run(self.parts.finalise, {**self.arrays, **state})

    def _run(
        self, cascade: Cascade, given: Mapping[str, Array], more: Mapping[str, Number] | None = None
    ) -> StateValues:
        arrays = {t.name: given[t.name] for t in cascade.inputs}
        known = {p.name for p in cascade.params}
        carried = {r for t in cascade.inputs for r in t.ranks}
        settings = {n: v for n, v in {**self.values, **(more or {})}.items() if n in known}
        for rank in cascade.ranks:
            name = rank.name.upper()
            source = more if more is not None and name in more else self.values
            if rank.name not in carried and rank.extent == Symbol(name) and name in source:
                settings[name] = source[name]
        bindings = bind(cascade, {n: a.shape for n, a in arrays.items()}, settings)
        tensors = run(cascade, arrays, bindings)
        return {name: filled(tensors[name]) for name in cascade.outputs}


def even_splits(length: int, size: int) -> list[Split]:
    """Tiles of `size` points; the last may be ragged."""
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def loop(problem: Streaming, splits: Sequence[Split]) -> StateValues:
    """One tile after another into a running state: the loop of a kernel."""
    state = problem.init()
    for start, stop in splits:
        state = problem.merge(state, problem.lift(start, stop))
    return problem.finalise(state)


def tree(problem: Streaming, splits: Sequence[Split]) -> StateValues:
    """Splits on their own, merged in pairs: split-K."""
    states = [problem.lift(start, stop) for start, stop in splits] or [problem.init()]
    while len(states) > 1:
        pairs = [states[n : n + 2] for n in range(0, len(states), 2)]
        states = [problem.merge(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return problem.finalise(states[0])


def scan(problem: Streaming, splits: Sequence[Split]) -> list[StateValues]:
    """The outputs after each prefix of the splits: an inclusive scan by doubling (Hillis and
    Steele).
    """
    states = [problem.lift(start, stop) for start, stop in splits]
    distance = 1
    while distance < len(states):
        states = [
            problem.merge(states[n - distance], state) if n >= distance else state
            for n, state in enumerate(states)
        ]
        distance *= 2
    return [problem.finalise(state) for state in states]


def devices(problem: Streaming, shares: Sequence[Sequence[Split]]) -> StateValues:
    """Each device loops over its own tiles; the states meet in an all-reduce along a ring."""
    states = []
    for splits in shares:
        state = problem.init()
        for start, stop in splits:
            state = problem.merge(state, problem.lift(start, stop))
        states.append(state)
    total = problem.init()
    for state in states:
        total = problem.merge(total, state)
    return problem.finalise(total)
