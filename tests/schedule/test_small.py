"""Ranks that tiles hold whole, and those of them that are too many beside each other."""

import numpy as np
import pytest

import cascade
from cascade.backends.kernel import TiledKernel
from cascade.backends.triton.tiles import MOST, programs
from cascade.ir.cascade import Cascade
from cascade.schedule.choose import form, schedule
from cascade.schedule.footprint import tile_sizes
from cascade.schedule.program import For, inside
from cascade.schedule.sizes import Sizes
from cascade.schedule.small import small_ranks

EXTENTS = {"e": 64, "f": 64}


def pages(count: int) -> Cascade:
    """Pages of 16 keys, those of the largest scores: their features are a tile of three axes."""
    return cascade.parse(f"""
        import std
        input Q[r,e], K[m,e], V[m,f], S[n]
        param L = 16, J = {count}
        rank  l < L
        IDX[j]    = argtop[n -> j](S[n])
        QK[r,j,l] = Q[r,e] * K[IDX[j]*L + l, e]
        A[r,j,l]  = softmax[j,l](QK[r,j,l])
        O[r,f]    = A[r,j,l] * V[IDX[j]*L + l, f]
        output O
    """)


@pytest.mark.parametrize(("count", "held"), [(8, {"j", "l"}), (32, {"j", "l"}), (64, {"l"})])
def test_the_longest_rank_goes_where_a_tile_cannot_hold_all(count: int, held: set[str]) -> None:
    assert small_ranks(pages(count), EXTENTS) == held


def test_what_a_tile_holds_depends_on_the_length_of_vectors() -> None:
    assert small_ranks(pages(64), {"e": 32, "f": 32}) == {"j", "l"}
    assert small_ranks(pages(64), {"e": 32, "f": 128}) == {"l"}


def test_parts_that_are_ours_to_choose_leave_room_for_others() -> None:
    made = form(pages(64), EXTENTS)
    assert small_ranks(made.cascade, EXTENTS, made.free) >= {"j0", "l"}


def test_a_rank_that_is_run_along_has_tiles_that_are_small_beside_the_others() -> None:
    program = schedule(pages(64), Sizes(EXTENTS, 64, 128)).program
    loops = [n for k in program.kernels for n in inside(k.body) if isinstance(n, For)]
    assert [n.tile for n in loops if n.place.rank == "j"] == [128 // 16]


def test_the_tiles_of_the_first_candidate_can_be_held() -> None:
    _, _, program = next(programs(pages(64), EXTENTS))
    assert max(t.elements for t in tile_sizes(program, dict(program.widths))) <= MOST


@pytest.mark.parametrize("count", [4, 64])
def test_agrees_with_the_reference_and_counts_as_predicted(count: int) -> None:
    spec, random = pages(count), np.random.default_rng(count)
    shapes = {"Q": (3, 64), "K": (1600, 64), "V": (1600, 64), "S": (100,)}
    drawn = {n: random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    kernel = TiledKernel(spec, {"j": 4, "n": 32})
    found = kernel.run(drawn, {})
    wanted = cascade.run(spec, drawn)["O"]
    np.testing.assert_allclose(found.outputs["O"], wanted, rtol=2e-5, atol=2e-5)
    for counted in kernel.measured(drawn, {}, found)["kernels"].values():
        assert counted["predicted"]["tensors"] == counted["measured"]["tensors"]
