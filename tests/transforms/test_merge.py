"""The laws of merge, and its four uses, on every state of every derivation."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import cascade
from cascade.backends.streaming import Streaming, devices, even_splits, loop, scan, tree
from cascade.diagnostics import CascadeError
from cascade.transforms.derive import derive
from cascade.transforms.parts import parts_of
from tests.transforms.check import arrays, extents
from tests.transforms.specs import SPECS


@cache
def state_of(name):
    name, _, number = name.partition("/")
    spec = next(s for s in SPECS if s.name == name)
    derivation = derive(spec.cascade)
    return spec, derivation.states[int(number)].plan.stream, parts_of(derivation, int(number))


NAMES = [f"{s.name}/{n}" for s in SPECS for n in range(len(derive(s.cascade).states))]
EACH = pytest.mark.parametrize("name", NAMES)


def problem(name, length, seed, size=1.0, gone=0.0):
    spec, stream, parts = state_of(name)
    source = stream.cascade
    found = extents(spec.cascade, parts.rank, length, seed, spec.settings)
    inputs = arrays(spec.cascade, found, seed, size, gone, spec.positive)
    settings = dict(spec.settings)
    outputs = cascade.run(spec.cascade, inputs, settings)
    return Streaming(source, parts, inputs, settings), outputs


def close(found, wanted):
    assert set(found) == set(wanted)
    for name, x in found.items():
        y = wanted[name]
        if x.dtype == bool:
            assert (x == y).all(), name
            continue
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        scale = max(1.0, np.abs(y[np.isfinite(y)]).max(initial=0))
        assert (np.abs(x[~same] - y[~same]) <= 1e-9 * scale).all(), name


def random_splits(length, chance):
    """Consecutive stretches of any size, empty ones among them."""
    cuts = sorted(int(c) for c in chance.integers(0, length + 1, 4))
    return list(zip([0, *cuts], [*cuts, length], strict=True))


@EACH
def test_the_parts_are_cascades_of_their_own(name):
    _, _, parts = state_of(name)
    for part in (parts.init, parts.lift, parts.merge, parts.transport, parts.finalise):
        assert cascade.parse(str(part)) == part


@EACH
@pytest.mark.parametrize("seed", range(3))
def test_merge_is_associative_and_commutative_with_an_identity(name, seed):
    p, _ = problem(name, 7, seed, gone=0.3 * (seed == 2))
    chance = np.random.default_rng(seed)
    a, b, c, *_ = (p.lift(*split) for split in random_splits(p.length, chance))
    close(p.merge(p.merge(a, b), c), p.merge(a, p.merge(b, c)))
    close(p.merge(a, b), p.merge(b, a))
    identity = p.init()
    close(p.merge(identity, a), a)
    close(p.merge(a, identity), a)
    close(p.lift(2, 2), identity)


@EACH
@pytest.mark.parametrize("length", [0, 1, 6])
def test_loop_tree_scan_and_devices_give_the_whole(name, length):
    p, outputs = problem(name, length, length)
    finite = {n: x for n, x in outputs.items() if np.isfinite(x).all()}
    chance = np.random.default_rng(length)
    splits = random_splits(p.length, chance)
    results = [
        loop(p, even_splits(p.length, 2)),
        loop(p, splits),
        tree(p, splits),
        devices(p, [splits[:2], [], splits[2:]]),
        scan(p, splits)[-1],
    ]
    for result in results:
        close({n: result[n] for n in finite}, finite)


def test_every_derivation_with_a_step_has_a_state():
    with_steps = {s.name for s in SPECS if derive(s.cascade).steps}
    assert {name.partition("/")[0] for name in NAMES} == with_steps
    assert len(NAMES) > len(with_steps) >= 25


def test_a_state_has_to_be_chosen_where_there_are_several():
    derivation = derive(next(s for s in SPECS if s.name == "cosine_attention").cascade)
    with pytest.raises(CascadeError, match="no single state"):
        parts_of(derivation)
