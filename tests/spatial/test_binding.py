"""Which array runs what: the published binding, hand calculations, and the search itself."""

from itertools import product

import pytest

from cascade import api
from cascade.diagnostics import CascadeError
from cascade.spatial.binding import bind_statements, lay
from cascade.spatial.model import lower
from cascade.spatial.span import tile_span
from cascade.spatial.target import load_spatial

FUSEMAX = load_spatial("fusemax")


def extents(length=16384, e=64, f=None):
    return {"B": 1, "H": 2, "M": length, "P": length, "E": e, "F": e if f is None else f}


def loads(spec, target, settings, form=None):
    _, _, _, binding = lower(spec, target, settings, form)
    return [(binding.load("2d", n), binding.load("1d", n)) for n in range(binding_phases(binding))]


def binding_phases(binding):
    return 1 + max(b.statement.phase for b in binding.items)


@pytest.mark.parametrize(("e", "f"), [(64, 64), (128, 128), (32, 32), (96, 96), (128, 64)])
@pytest.mark.parametrize("name", ["attention_3pass", "attention_1pass", "causal"])
def test_cycles_of_a_tile(example, name, e, f):
    """E+F+9 and 2F+10 (FuseMax, Figures 4 and 5): 137/138 at width 64, 265/266 at 128."""
    assert loads(example(name), FUSEMAX, extents(e=e, f=f)) == [(e + f + 9, 2 * f + 10)]


def test_unequal_widths_are_balanced(example):
    """At F = 2E the published binding would need 266 cycles: the search moves PRM, RD and SPD."""
    assert loads(example("attention_3pass"), FUSEMAX, extents(e=64, f=128)) == [(211, 256)]


def test_the_published_binding(example):
    """The paper's table, by the statements of its own cascade."""
    _, _, _, binding = lower(example("attention_1pass"), FUSEMAX, extents())
    main = {b.statement.name for b in binding.items if b.array == "2d"}
    assert main == {"BQK", "LM", "SLN", "SLD", "SLNV"}
    assert binding.load("1d", epilogue=True) == 64


@pytest.mark.parametrize(("exp", "pair"), [(1, (132, 133)), (4, (135, 136)), (6, (137, 138))])
def test_cost_of_the_exponential(example, exp, pair):
    target = FUSEMAX.with_operation("exp", exp)
    assert loads(example("attention_3pass"), target, extents()) == [pair]


def test_a_smaller_array_has_the_same_cycles_a_tile(example):
    target = FUSEMAX.resized(128, 128)
    assert loads(example("attention_3pass"), target, extents()) == [(137, 138)]


@pytest.mark.parametrize(("size", "span"), [(256, 458), (128, 330)])
def test_span_without_overlap(example, size, span):
    """+Architecture: E + 2F + 10 cycles and a fill of the array."""
    target = load_spatial("fusemax_architecture").resized(size, size)
    _, _, shape, binding = lower(example("attention_3pass"), target, extents())
    items = tuple(b for b in binding.items if not b.epilogue)
    assert tile_span(items, shape, target) == span


def test_other_cascades(example):
    assert loads(example("sigmoid_attention"), FUSEMAX, extents()) == [(199, 256)]
    written = loads(example("attention_2pass"), FUSEMAX, extents(), "written")
    assert written == [(73, 1), (1, 7), (65, 65)]
    free = load_spatial("fusemax_free")
    retention = {"B": 1, "H": 2, "I": 16384, "E": 64, "F": 64}
    assert loads(example("retention"), free, retention) == [(258, 256)]


def test_a_reciprocal_unit_makes_sigmoid_cheap(example):
    main = FUSEMAX.main
    better = FUSEMAX.with_unit(main.name, "reciprocal", 5)
    assert loads(example("sigmoid_attention"), better, extents()) == [(140, 64)]


def test_fused_multiply_add(example):
    """With a multiply-accumulate for the corrected sums the 1D array needs F+9 cycles."""
    target = FUSEMAX.with_fusion("mul_add")
    assert loads(example("attention_3pass"), target, extents()) == [(137, 73)]


def test_the_search_is_exact(example):
    """Against all bindings of the statements of a tile."""
    for target in (FUSEMAX, load_spatial("fusemax_free"), FUSEMAX.with_operation("exp", 2)):
        for name in ("attention_3pass", "sigmoid_attention"):
            _, found, shape, binding = lower(example(name), target, extents(length=1024))
            tile = [b for b in binding.items if not b.epilogue]
            every = []
            for arrays in product(target.arrays, repeat=len(tile)):
                load = dict.fromkeys((a.name for a in target.arrays), 0)
                spent = 0
                for array, b in zip(arrays, tile, strict=True):
                    each = array.cycles(b.statement.operations)
                    if each is None:
                        break
                    cycles = each * lay(shape.inside(b.statement), array, shape)[1]
                    load[array.name] += cycles
                    spent += cycles * array.units
                else:
                    every.append((max(load.values()), spent))
            mine = max(binding.load(a.name) for a in target.arrays)
            units = sum(b.cycles * target.array(b.array).units for b in tile)
            assert (mine, units) == min(every)
            assert bind_statements(found, shape, target) == binding


def test_an_operation_that_no_array_has():
    spec = api.parse(
        "input Q[p,e], K[m,e]\n\nS[p,m] = Q[p,e] * K[m,e]\ny[p] = sum[m](erf(S[p,m]))\n\noutput y\n"
    )
    with pytest.raises(
        CascadeError, match=r"no array of FuseMax \(cloud\) has the operation `erf`"
    ):
        lower(spec, FUSEMAX, {"P": 256, "M": 256, "E": 64})
