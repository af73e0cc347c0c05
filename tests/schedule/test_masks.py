"""Each kind of mask by its spec: exactly the tiles with a point are read, and those whose points
all hold are not tested. Nothing of queries by keys is in memory.
"""

import re
from typing import Any

import numpy as np
import pytest

import cascade
from cascade.backends.kernel import TiledKernel
from cascade.backends.triton.tiles import first

TILE = 8
N = {"b": 2, "h": 3, "p": 72, "m": 80, "e": 4, "f": 4}
SPEC = """cascade masked
import std
input Q[b,h,p,e], K[b,h,m,e], V[b,h,m,f]{inputs}
param W = 20, D = 4, R = 12
QK[b,h,p,m] = Q[b,h,p,e] * K[b,h,m,e] where {where}
A[b,h,p,m]  = softmax[m](QK[b,h,p,m])
O[b,h,p,f]  = A[b,h,p,m] * V[b,h,m,f]
output O
"""
W, D, R = 20, 4, 12
B, H, P, M = np.ogrid[: N["b"], : N["h"], : N["p"], : N["m"]]
WINDOW, LENGTH, FIRST = np.array([1, 9, 40]), np.array([33, 80]), np.array([-20, 30])
OFFSET = np.array([0, 5, 30, 31, 72])
DOCUMENT = np.repeat(np.arange(4), np.diff(OFFSET))
START = np.clip(P - W // 2, 0, N["m"] - W)

# the predicate, the same in NumPy, and the intervals of which one alone makes a tile full
KINDS: dict[str, tuple[str, Any, list[Any]]] = {
    "causal": ("m <= p", M <= P, []),
    "window": ("m <= p and p - m < W", (M <= P) & (P - M < W), []),
    "window and sinks": (
        "m <= p and (p - m < W or m < D)", (M <= P) & ((P - M < W) | (M < D)),
        [(M <= P) & (P - M < W), (M <= P) & (M < D)],
    ),
    "prefix": ("m <= p or m < R", (M <= P) | (M < R), [M <= P, M < R]),
    "prefix of each batch": (
        "m <= p or m < length[b]", (M <= P) | (M < LENGTH[B]), [M <= P, M < LENGTH[B]],
    ),
    "window of each head": (
        "m <= p and p - m < window[h]", (M <= P) & (P - M < WINDOW[H]), [],
    ),
    "strided by head": (  # remainders have no bounds: they are tested in every tile
        "m <= p and (p - m + h) % D == 0", (M <= P) & ((P - M + H) % D == 0), [M <= P],
    ),
    "dilated": (
        "m <= p and p - m < W and (p - m) % D == 0", (M <= P) & (P - M < W) & ((P - M) % D == 0),
        [(M <= P) & (P - M < W)],
    ),
    "shifted neighbourhood": (
        "clamp(p - W//2, 0, M - W) <= m and m < clamp(p - W//2, 0, M - W) + W",
        (START <= M) & (M < START + W), [],
    ),
    "cross attention": ("m <= p + first[b]", M <= P + FIRST[B], []),
    "padding": ("m < length[b]", M < LENGTH[B], []),
    "documents by offsets": (
        "offset[document[p]] <= m and m < offset[document[p] + 1]",
        (OFFSET[DOCUMENT[P]] <= M) & (M < OFFSET[DOCUMENT[P] + 1]), [],
    ),
    "blocks": ("m // R == p // R", M // R == P // R, []),
}  # fmt: skip
TESTED = {"strided by head", "dilated"}
INPUTS = {"window": ("window[h]", WINDOW), "length": ("length[b]", LENGTH),
          "first": ("first[b]", FIRST), "offset": ("offset[y]", OFFSET),
          "document": ("document[p]", DOCUMENT)}  # fmt: skip


def made(where: str) -> Any:
    used = [spelled for name, (spelled, _) in INPUTS.items() if f"{name}[" in where]
    return cascade.parse(SPEC.format(where=where, inputs="".join(f", {u}: int" for u in used)))


def arrays(spec: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    drawn = {
        t.name: INPUTS[t.name][1] if t.name in INPUTS
        else rng.standard_normal([N[r] for r in t.ranks], np.float32)
        for t in spec.inputs
    }  # fmt: skip
    return drawn


def by_tiles(holds: Any) -> Any:
    """By batch, head, tile of queries and tile of keys: the points that hold."""
    holds = np.broadcast_to(holds, (N["b"], N["h"], N["p"], N["m"]))
    return holds.reshape(N["b"], N["h"], N["p"] // TILE, TILE, N["m"] // TILE, TILE)


@pytest.mark.parametrize("kind", KINDS)
def test_tiles(kind: str) -> None:
    where, holds, intervals = KINDS[kind]
    spec = made(where)
    given = arrays(spec)
    result = TiledKernel(spec, {"p": TILE, "m": TILE}, threads=1).run(given)
    tiles = by_tiles(holds)
    full = np.any([by_tiles(i).all((3, 5)) for i in intervals or [holds]], axis=0).sum()
    reached = by_tiles(intervals[0]) if kind in TESTED else tiles
    counted = result.counters
    assert sum(counted.full_visits.values()) == full
    assert counted.loaded("K")[0] == reached.any((3, 5)).sum()
    exact = cascade.run(spec, {n: a.astype(float) if a.dtype.kind == "f" else a
                               for n, a in given.items()})["O"]  # fmt: skip
    assert np.abs(result.outputs["O"] - exact).max() < 2e-6


@pytest.mark.parametrize("kind", KINDS)
def test_no_mask_in_memory_and_none_in_full_tiles(kind: str) -> None:
    where, *_ = KINDS[kind]
    program = first(made(where), {"e": 64, "f": 64})
    assert all(b.kind != "temp" for b in program.program.buffers)
    loops = re.split(r"\n    for k_m\w* in range\(0, ", program.source)
    masks = ["_masked = tl.where(" in text for text in loops[1:]]
    assert masks == [kind in TESTED, True]  # full tiles, and others


def test_a_divisor_that_is_not_positive_is_refused() -> None:
    source = first(made(KINDS["blocks"][0]), {"e": 64, "f": 64}).source
    assert '_check(n_R > 0, "`R` divides what loops run over: 1 or more")' in source
    assert "_check(n_R > 0" not in first(made("m <= p + R"), {"e": 64, "f": 64}).source


KNOWN_IN_PART = """cascade t
input X[p,m], Y[p,m], idx[m]: int, jdx[p]: int
Z[p] = any[m]({})
R[p] = (select(Z[p] ?? false, 1.0, 0.0) + (select(Z[p], 1.0, 1.0) ?? 5.0)) + 0 * X[p,p]
S[p] = X[p,jdx[p]] + sum[m](Y[p,idx[m]])
output R, S
"""


@pytest.mark.parametrize(
    "body",
    [
        "(X[p,m] > 0 and Y[p,idx[m]] > 0) where m <= p",
        "X[p,m] > 0 and Y[p,jdx[p]] > 0",
        "(X[p,idx[m]] > 0 and m < 3) where X[p,m] > 0 and Y[p,jdx[p]] > -9",
    ],
)
def test_any_of_what_is_known_in_part(body: str) -> None:
    spec = cascade.parse(KNOWN_IN_PART.format(body))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        given: dict[str, Any] = {n: rng.standard_normal((9, 9), np.float32) for n in "XY"}
        given |= {n: rng.integers(-3, 12, 9) for n in ("idx", "jdx")}
        wanted = cascade.run(spec, given)["R"]
        found = TiledKernel(spec, {"p": 4, "m": 4}).run(given).outputs["R"]
        np.testing.assert_array_equal(found, wanted)
