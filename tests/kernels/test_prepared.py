"""What a kernel keeps from one call to the next: its plans and tiles, nothing of the caller's."""

import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cascade.backends.kernel import KEPT, TiledKernel
from cascade.backends.reference import evaluate
from tests.examples.test_examples import spec

NAMES = ["causal", "document_mask", "paged_keys", "retention", "topk_attention"]


def operands(seed: int, p: int = 70, m: int = 70):
    chance = np.random.default_rng(seed)
    shapes = {"Q": (2, 3, p, 16), "K": (2, 3, m, 16), "V": (2, 3, m, 16)}
    return {n: chance.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def drawn(name: str, seed: int):
    from cascade.backends.compare import draw

    found = None
    while found is None:
        found = draw(spec(name), np.random.default_rng([7, 1]), "normal")
    _, inputs, settings, _ = found
    chance = np.random.default_rng(seed)
    other = {n: chance.permuted(a, axis=-1) if a.dtype == float else a for n, a in inputs.items()}
    return other, settings


@pytest.mark.parametrize("name", NAMES)
def test_a_second_call_computes_anew(name):
    kernel = TiledKernel(spec(name), threads=2)
    counted = []
    for seed in range(3):
        inputs, settings = drawn(name, seed)
        result = kernel.run(inputs, settings)
        counted.append(result.counters.to_dict()["kernels"])
        wanted = evaluate(spec(name), inputs, settings)
        for n, found in result.outputs.items():
            np.testing.assert_allclose(found, wanted[n], rtol=0, atol=2e-5)
    assert len(kernel.prepared) == 1
    assert counted[0] == counted[1] == counted[2]


def test_outputs_of_an_earlier_call_stay():
    kernel = TiledKernel(spec("attention"))
    first = kernel(**operands(0))
    kept = copy.deepcopy(first)
    kernel(**operands(1))
    assert np.array_equal(first, kept)


def test_no_argument_is_held():
    kernel = TiledKernel(spec("attention"))
    given = operands(0)
    held = [weakref.ref(a) for a in given.values()]
    out = weakref.ref(kernel(**given))
    del given
    gc.collect()
    assert [r() for r in (*held, out)] == [None] * 4


def test_other_strides_are_another_layout():
    kernel, given = TiledKernel(spec("attention")), operands(0)
    first = kernel(**given)
    turned = {n: np.asfortranarray(a) for n, a in given.items()}
    assert np.allclose(kernel(**turned), first, atol=1e-6)
    assert len(kernel.prepared) == 2


def test_few_layouts_are_kept():
    kernel = TiledKernel(spec("attention"))
    for length in range(1, KEPT + 4):
        assert np.isfinite(kernel(**operands(0, length, length))).all()
    assert len(kernel.prepared) == KEPT


def test_calls_at_the_same_time():
    kernel = TiledKernel(spec("attention"))
    given = [operands(seed) for seed in range(12)]
    wanted = [TiledKernel(spec("attention"))(**g) for g in given]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda g: kernel(**g), given))
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_call_that_fails_leaves_nothing():
    kernel, given = TiledKernel(spec("attention"), {"p": 16}), operands(0)
    wanted = kernel(**given)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kernel.run(given, progress=stop)
    assert not kernel.prepared
    assert np.array_equal(kernel(**given), wanted)


def test_a_kernel_is_copied_without_its_memory():
    kernel, given = TiledKernel(spec("attention")), operands(0)
    wanted = kernel(**given)
    for other in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert not other.prepared
        assert np.array_equal(other(**given), wanted)
