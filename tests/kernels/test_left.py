"""What kernels of a chunked form leave in memory for each other."""

import re
from dataclasses import replace

import numpy as np
import pytest

import cascade
from cascade.backends.triton.emit import emit
from cascade.backends.triton.tiles import widths
from cascade.schedule.slices import sliced
from tests.kernels.test_programs import run as run
from tests.schedule.test_slices import EXTENTS, WIDTHS, scheduled

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.mark.parametrize("name", ["retention", "delta_rule"])
def test_slices_compute_the_same(run, name: str) -> None:
    found = scheduled(name)
    draw = np.random.default_rng(0)
    extents = {**EXTENTS, "h": 1, "i": 11}
    shapes = {t.name: tuple(extents[r] for r in t.ranks) for t in found.source.inputs}
    arrays = {n: draw.uniform(-1, 1, s).astype(np.float32) for n, s in shapes.items()}
    program = sliced(found.program, 8)
    known = dict(widths(program, {n.upper(): v for n, v in WIDTHS.items()}))
    result = run(program, arrays, {}, **known)
    for key, value in cascade.run(found.source, arrays).items():
        scale = max(1, np.abs(value).max())
        np.testing.assert_allclose(result[key], value, rtol=0, atol=5e-5 * scale)


def test_what_was_left_in_float32_is_an_operand_like_what_is_computed() -> None:
    """Matrix units take no float32 whole: operands meet in the type of the inputs."""
    program = scheduled("delta_rule").program
    known = widths(program, {n.upper(): v for n, v in WIDTHS.items()})
    text = emit(replace(program, widths=known))
    left = {b.name for b in program.buffers if b.kind == "temp"}
    met = set(re.findall(r"\.to\(t_(\w+)\.dtype\)", text)) - {"float32"}
    assert met and not {n for n in met if any(re.fullmatch(rf"{x}(_\d+)?", n) for x in left)}
