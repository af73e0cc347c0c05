"""Comparison of a derived cascade with the one it came from, on inputs that try to break it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import cascade
from cascade.analysis.passes import count_passes
from cascade.ir.cascade import Cascade
from cascade.transforms.derive import Derivation, derive

TOLERANCE = 1e-9
INF = np.inf

Arrays = Mapping[str, Any]


def passes_of(c: Cascade) -> dict[str, int]:
    return count_passes(c).of_rank()


def derived(c: Cascade) -> Derivation:
    """The derivation, with what must hold of every one."""
    found = derive(c)
    again = cascade.parse(str(found.result))
    assert again == found.result
    before, after = passes_of(c), passes_of(again)
    assert found.passes_before == before and found.passes_after == after
    assert all(after.get(rank, 1) <= n for rank, n in before.items()), (before, after)
    for one, two in zip(found.steps, found.steps[1:], strict=False):
        assert one.rank != two.rank or two.passes_before == one.passes_after
    assert all(step.passes_after <= step.passes_before for step in found.steps)
    parts = {r: p.parts[0] for p in c.partitions for r in p.parts} | {
        p.rank: p.parts[0] for p in c.partitions
    }
    tile = {r for p in found.result.partitions for r in p.parts[1:]}
    explained = {o.rank for o in found.obstacles}
    for rank, n in after.items():  # what is left of passes has a reason
        assert n == 1 or rank in tile or parts.get(rank, rank) in explained, (rank, n)
    return found


def difference(c: Cascade, other: Cascade, inputs: Arrays, sizes: Arrays, new: Arrays) -> float:
    """The largest difference of finite results, relative to 1 or the largest of an output."""
    with np.errstate(all="ignore"):
        expected = cascade.run(c, inputs, sizes)
        found = cascade.run(other, inputs, {**sizes, **new})
    worst = 0.0
    assert set(expected) == set(found)
    for name, array in expected.items():
        assert (array.shape, array.dtype) == (found[name].shape, found[name].dtype), name
        x, y = array.astype(float), found[name].astype(float)
        finite = np.isfinite(x)
        if not finite.any():
            continue
        scale = max(1.0, float(np.abs(x[finite]).max()))
        worst = max(worst, float(np.abs(y[finite] - x[finite]).max()) / scale)
        if np.isnan(y[finite]).any():
            return INF
    return worst


def tiles(derivation: Derivation) -> list[dict[str, int]]:
    """Settings of the tile extents that the derivation brought in."""
    known = {p.name for p in derivation.source.params}
    fresh = [p.name for p in derivation.result.params if p.name not in known]
    return [dict.fromkeys(fresh, n) for n in (1, 2, 3, 128)] if fresh else [{}]


def arrays(
    c: Cascade,
    extents: Mapping[str, int],
    seed: int,
    size: float = 1.0,
    gone: float = 0.0,
    positive: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Random inputs. `size` is that of reals, `gone` the fraction of them that is -inf."""
    chance = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    most = max([1, *extents.values()])
    for t in c.inputs:
        shape = tuple(extents[r] for r in t.ranks)
        if t.dtype == "bool":
            found[t.name] = chance.random(shape) < 0.5
        elif t.dtype == "int":
            low, high = {"low": (0, most), "high": (-1, most + 2)}.get(t.name, (0, 3))
            found[t.name] = chance.integers(low, high, shape)
        else:
            x = chance.standard_normal(shape) * size
            if t.name in positive:
                x = np.abs(x) + 0.1
            if gone and t.name in ("c", "d"):
                x = np.where(chance.random(shape) < gone, -INF, x)
            found[t.name] = x if shape else float(x)
    return found


def extents(c: Cascade, streamed: str, length: int, seed: int, sizes: Arrays) -> dict[str, int]:
    """Extents of the ranks of inputs. Self-attention asks for as many rows as keys."""
    chance = np.random.default_rng(seed)
    names = [r for t in c.inputs for r in t.ranks]
    found = {r: int(chance.integers(1, 5)) for r in dict.fromkeys(names)}
    found[streamed] = length
    found |= {r: int(sizes[r.upper()]) for r in found if r.upper() in sizes and r != streamed}
    square = "P == M" in str(c) or ({"p", "m"} <= set(found) and "m <= p" in str(c))
    if square and "p" in found:
        found["p"] = found["m"] = length
    return found


def situations(
    c: Cascade, streamed: str, large: bool, sizes: Arrays
) -> Iterator[tuple[dict[str, int], int, float, float]]:
    """(extents, seed, size, fraction of -inf)"""
    for n, length in enumerate((0, 1, 2, 5, 7, 13)):
        yield extents(c, streamed, length, n, sizes), n, 1.0, 0.0
    for n, length in enumerate((4, 9)):
        yield extents(c, streamed, length, n, sizes), 10 + n, 1.0, 0.4
        if large:
            yield extents(c, streamed, length, n, sizes), 20 + n, 1e4, 0.0
            yield extents(c, streamed, length, n, sizes), 30 + n, 1e4, 0.3
