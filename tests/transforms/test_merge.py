"""The laws of merge, and its four uses, on the state of every derivation that has a single one."""

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
    spec = next(s for s in SPECS if s.name == name)
    derivation = derive(spec.cascade)
    return spec, derivation, parts_of(derivation)


def with_state():
    names = []
    for spec in SPECS:
        try:
            parts_of(derive(spec.cascade))
        except CascadeError:
            continue
        names.append(spec.name)
    return names


NAMES = with_state()
EACH = pytest.mark.parametrize("name", NAMES)


def problem(name, length, seed, size=1.0, gone=0.0):
    spec, derivation, parts = state_of(name)
    source = derivation.plans[0].stream.cascade
    found = extents(spec.cascade, spec.rank, length, seed, spec.settings)
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


def test_there_are_enough_states():
    assert len(NAMES) >= 25
