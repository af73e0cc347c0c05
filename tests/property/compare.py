"""Both evaluators on the same cascade, every point of every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from cascade.backends.arrays import as_inputs
from cascade.backends.pointwise import Pointwise, error
from cascade.backends.reference import filled, run
from cascade.ir.cascade import Cascade
from cascade.ir.extents import bind

TOLERANCE = 1e-7


def compare(
    c: Cascade, inputs: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> int:
    """Assert that reference and pointwise evaluator agree, absence included. Returns the points."""
    arrays = as_inputs(c, inputs)
    bindings = bind(c, {n: a.shape for n, a in arrays.items()}, settings)
    stored = run(c, arrays, bindings)
    evaluator = Pointwise(c, inputs, settings)
    points = 0
    for name in c.definitions:
        array, tensor = filled(stored[name]), stored[name]
        assert array.shape == evaluator.shape[name], name
        for place in product(*map(range, array.shape)):
            points += 1
            present = all(
                truth[tuple(place[s] for s in slots)] for slots, truth in tensor.conditions.items()
            )
            value = evaluator.value_at(name, place)
            where = f"{name}{list(place)}: reference {array[place]!r}, pointwise {value!r}"
            assert present == (value is not None), f"presence of {where}"
            assert error(np.asarray(array[place]).item(), value) < TOLERANCE, f"value of {where}"
    return points
