"""Loops over chunks carry slices of a state, and leave to other kernels what needs it whole."""

from dataclasses import replace

import numpy as np
import pytest

import cascade
from cascade.backends.tiled.run import run
from cascade.ir.expr import Const
from cascade.schedule.choose import Schedule, schedule
from cascade.schedule.program import Kernel, Load, Seq, Store, inside
from cascade.schedule.sizes import Sizes
from cascade.schedule.slices import sliced
from tests.examples.test_examples import spec

NAMES = ("retention", "delta_rule")
EXTENTS = {"b": 1, "h": 2, "i": 21, "e": 12, "f": 10}
WIDTHS = {"e": 12, "f": 10}


def scheduled(name: str, gradient: bool = True) -> Schedule:
    written = cascade.gradient(spec(name)).backward if gradient else spec(name)
    return schedule(written, Sizes(WIDTHS, rows=8, stream=8))


def carries_a_matrix(kernel: Kernel) -> bool:
    """Whether a loop carries a whole matrix, not one of a tile of columns."""
    carried = [c.axes for n in kernel.body if isinstance(n, Seq) for c in n.carries]
    is_whole = not any(isinstance(kernel.axis(a).size, Const) for axes in carried for a in axes)
    return is_whole and any({"e", "f"} <= set(axes) for axes in carried)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_state_of_chunks_has_slices(name: str, gradient: bool) -> None:
    program = scheduled(name, gradient).program
    cut = sliced(program, 4)
    for before, after in zip(program.kernels, cut.kernels, strict=True):
        new = [g.scalar for g in after.grid if g not in before.grid]
        assert len(new) == carries_a_matrix(before)
        for scalar in new:
            assert after.axis(scalar.removesuffix("_tile")).size == Const(4)


def test_what_is_as_narrow_as_a_slice_stays() -> None:
    program = scheduled("retention").program
    assert sliced(program, 12) == program


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("name", NAMES)
def test_slices_compute_the_same(name: str, size: int) -> None:
    found = scheduled(name)
    draw = np.random.default_rng(0)
    shapes = {t.name: tuple(EXTENTS[r] for r in t.ranks) for t in found.source.inputs}
    arrays = {n: draw.uniform(-1, 1, s).astype(np.float32) for n, s in shapes.items()}
    result = run(sliced(found.program, size), arrays, found.bind(shapes))
    expected = cascade.run(found.source, arrays)
    for key, value in expected.items():
        scale = max(1, np.abs(value).max())
        np.testing.assert_allclose(result.outputs[key], value, rtol=0, atol=2e-5 * scale)


def test_systems_of_all_chunks_are_solved_at_once() -> None:
    """No loop over chunks in order has a loop over rows in it."""
    for kernel in scheduled("delta_rule").program.kernels:
        for loop in (n for n in kernel.body if isinstance(n, Seq)):
            assert not any(isinstance(n, Seq) for n in loop.body)


def test_what_is_left_for_other_kernels_is_read() -> None:
    program = scheduled("delta_rule").program
    nodes = [n for k in program.kernels for n in inside(k.body)]
    read = {n.tensor for n in nodes if isinstance(n, Load)}
    written = {n.tensor for n in nodes if isinstance(n, Store)}
    assert written == {b.name for b in program.buffers if b.kind != "in"}
    assert {b.name for b in program.buffers if b.kind == "temp"} <= read


def test_states_lie_one_after_the_other() -> None:
    """Written at a chunk at a time, a state is a matrix in memory: `S_state[b,h,i1,e,f]`."""
    program = scheduled("delta_rule").program
    assert program.buffer["S_state"].ranks == ("b", "h", "i1", "e", "f")


def test_a_state_that_is_stored_is_whole() -> None:
    """`scale` multiplies what is added, and not the sum after the loop, where states are stored."""
    program = scheduled("retention").program
    text = str(replace(program, kernels=tuple(k for k in program.kernels if k.name == "dS_state")))
    assert "scale * dS_state_sum" in text
