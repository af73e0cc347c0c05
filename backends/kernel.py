"""A cascade as a function of arrays: scheduled when it is first called, for what it is called with.

    kernel = cascade.compile(spec)
    out = kernel(Q=q, K=k, V=v)

Programs are kept by what they depend on: the kinds of the inputs and the sizes that decide which
ranks a tile holds whole. Lengths are numbers of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from cascade.backends.arrays import checked_inputs
from cascade.backends.tiled.threads import available
from cascade.ir.arguments import separated, with_settings
from cascade.ir.cascade import Cascade
from cascade.ir.extents import Number, bind
from cascade.schedule.choose import Schedule, schedule
from cascade.schedule.footprint import fitted, most_held
from cascade.schedule.lists import few_tiles
from cascade.schedule.pack import few_rows
from cascade.schedule.predict import predict
from cascade.schedule.roles import CONTRACTED
from cascade.schedule.scale import scaled_operands
from cascade.schedule.sizes import Sizes
from cascade.schedule.small import WIDTH

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int], None]

ROWS, STREAM, PART = 256, 512, 256  # tiles that NumPy runs fastest on a processor
MOST = 2**20  # elements of a tile: 4 MiB in float32
KEPT = 4  # prepared Programs of a kernel, each with the tiles of its threads

KINDS = {"i": "int", "u": "int", "b": "bool", "f": "real", "V": "real"}


@dataclass
class TiledKernel:
    """Runs a cascade by its Program in NumPy. `tiles` fixes tiles by rank, `split` in how many
    splits loops are cut (AUTO: as the processors need).
    """

    spec: Cascade
    tiles: Mapping[str, int] = field(default_factory=dict)
    as_written: bool = False
    threads: int | None = None
    split: int = 1
    known: dict[tuple[Any, ...], Schedule] = field(default_factory=dict, repr=False)
    prepared: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)
    tuning: ClassVar[Any] = None  # nothing is timed on a processor

    def __call__(self, *args: Any, **given: Any) -> Any:
        """The output, or a dictionary of the outputs where there are several.

        Keywords are inputs (arrays) and settings (numbers of extents and params). Real outputs are
        float32. Raises `InputError`.
        """
        arrays, settings = separated(self.spec, args, given)
        outputs = self.run(arrays, settings).outputs
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def run(
        self,
        arrays: Mapping[str, Any],
        settings: Mapping[str, Number] | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """Outputs and counters of one run. Raises `InputError`."""
        inputs = checked_inputs(self.spec, arrays)
        made = self.schedule(inputs, settings or {})
        values = made.bind({n: a.shape for n, a in inputs.items()}, settings)
        layouts = tuple((n, a.shape, a.dtype.str, a.strides) for n, a in inputs.items())
        numbers = tuple((n, repr(v)) for n, v in values.items())  # -0.0 is not 0.0
        key = (id(made), layouts, numbers)
        # Taken out while it runs: a call at the same time makes its own, and one that fails is
        # not used again.
        prepared = self.prepared.pop(key, None) or self._prepare(made, values)
        result = prepared.run(inputs, progress)
        self.prepared[key] = prepared
        for oldest in list(self.prepared)[:-KEPT]:
            self.prepared.pop(oldest, None)
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "prepared": {}}  # memory of threads is no one else's

    def _prepare(self, made: Schedule, values: Mapping[str, Number]) -> Any:
        from cascade.backends.tiled.run import Prepared

        return Prepared(scaled_operands(made.program), values, self.threads)

    def measured(
        self, arrays: Mapping[str, Any], settings: Mapping[str, Number], result: Any
    ) -> dict[str, Any]:
        """What a run was predicted to do, beside what was counted; integers, by kernel."""
        inputs = checked_inputs(self.spec, arrays)
        made = self.schedule(inputs, settings)
        values = made.bind({n: a.shape for n, a in inputs.items()}, settings)
        program = scaled_operands(made.program)
        predicted = predict(program, values, inputs).to_dict()["kernels"]
        counted = result.counters.to_dict()
        rows = {
            name: {"predicted": predicted[name], "measured": measured}
            for name, measured in counted["kernels"].items()
        }
        return {
            "kernels": rows,
            "peak_bytes": counted["peak_bytes"],
            "most_bytes": counted["threads"] * most_held(program, values),
            "threads": counted["threads"],
        }

    def schedule(self, arrays: Mapping[str, Array], settings: Mapping[str, Number]) -> Schedule:
        """The schedule for inputs of these kinds and sizes."""
        spec = with_settings(typed(self.spec, arrays), settings)
        bound = bind(spec, {n: a.shape for n, a in arrays.items()}, settings)
        classes = tuple((n <= WIDTH, n <= CONTRACTED) for n in bound.extents.values())
        params = tuple(sorted((p.name, bound.values[p.name]) for p in spec.params))
        exact = tuple((n, repr(v)) for n, v in params)  # -0.0 is not 0.0
        few = few_rows(spec, bound.extents), few_tiles(spec, bound.extents, self.tiles, PART)
        key = (spec, classes, exact, few)
        if key not in self.known:
            extents = {**bound.extents, **{n: int(v) for n, v in params if isinstance(v, int)}}
            make = partial(schedule, spec, as_written=self.as_written)
            sizes = Sizes(
                extents,
                ROWS,
                STREAM,
                PART,
                dict(self.tiles),
                self.split,
                self.threads or available(),
            )
            if not self.tiles:
                sizes = fitted(lambda s: make(s).program, sizes, bound.values, MOST)
            self.known[key] = make(sizes)
        return self.known[key]


def typed(spec: Cascade, arrays: Mapping[str, Array]) -> Cascade:
    """The spec with the kinds that the arguments have, where it leaves them open."""
    inputs = tuple(
        replace(t, dtype=t.dtype or KINDS.get(arrays[t.name].dtype.kind, "real"))
        for t in spec.inputs
    )
    return replace(spec, inputs=inputs)
