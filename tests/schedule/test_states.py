"""States that a recurrence reads at other coordinates than those it makes."""

import numpy as np
import pytest

import cascade
from cascade.backends.kernel import TiledKernel
from cascade.ir.cascade import Cascade
from cascade.schedule.choose import schedule
from cascade.schedule.program import Seq, inside
from cascade.schedule.sizes import Sizes


def moved_down() -> Cascade:
    """A list of J vectors: each step moves it down by one, if `U[i]` is large, and puts one in."""
    return cascade.parse("""
        import std
        input X[i,d], W[r,d], least[j]
        rank k < J
        init L[0,j,d] = 0
        T[i,r]      = W[r,d] * X[i,d]
        U[i]        = sum[r](tanh(T[i,r]))
        ABOVE[i,j,d] = sum[k](L[i,k,d] where k == j - 1)
        L[i+1,j,d]  = select(U[i] < least[j], L[i,j,d], select(j == 0, X[i,d], ABOVE[i,j,d]))
        O[j,d]      = L[I,j,d]
        output O
    """)


@pytest.mark.parametrize("width", [64, 512])
def test_what_is_read_elsewhere_is_held_whole_beside_a_longer_rank(width: int) -> None:
    program = schedule(moved_down(), Sizes({"d": width, "r": 128, "j": 10})).program
    kernel, loop = next((k, n) for k in program.kernels for n in inside(k.body)
                        if isinstance(n, Seq) and n.scalar == "i_at")  # fmt: skip
    state = next(c for c in loop.carries if c.name == "L")
    assert "j" in state.axes
    assert not any("j" in g.scalar for g in kernel.grid)


@pytest.mark.parametrize("width", [5, 512])
def test_agrees_with_the_reference_and_counts_as_predicted(width: int) -> None:
    random = np.random.default_rng(width)
    shapes = {"X": (9, width), "W": (128, width), "least": (10,)}
    drawn = {n: random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    kernel = TiledKernel(moved_down(), {"d": 64, "i": 4})
    found = kernel.run(drawn, {})
    wanted = cascade.run(moved_down(), drawn)["O"]
    np.testing.assert_allclose(found.outputs["O"], wanted, rtol=2e-5, atol=2e-5)
    for counted in kernel.measured(drawn, {}, found)["kernels"].values():
        assert counted["predicted"]["tensors"] == counted["measured"]["tensors"]
