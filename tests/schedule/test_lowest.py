"""Scores as low as numbers go: masks that are added, rows without a point, and base 2."""

import numpy as np
import pytest

import cascade
from cascade.backends.tiled import run
from cascade.schedule.base_two import in_base_two
from cascade.schedule.choose import schedule
from cascade.schedule.signs import Signs
from cascade.schedule.sizes import Sizes

LOWEST = float(np.finfo(np.float32).min)
LOWEST_BF16 = -3.3895313892515355e38
OUTPUTS = """
A[p,m] = softmax[m]({scores})
O[p]   = A[p,m] * V[m]
L[p]   = logsumexp[m]({scores})
output O, L
"""
QUERIES = "import std\ninput Q[p,e], K[m,e], B[p,m], V[m]\nS[p,m] = Q[p,e] * K[m,e]\n"
SPECS = {
    "added": QUERIES + OUTPUTS.format(scores="S[p,m] + B[p,m]"),
    "added and scaled": QUERIES + OUTPUTS.format(scores="0.5 * (S[p,m] + B[p,m])"),
    "added to products": "import std\ninput q[p], k[m], B[p,m], V[m]\n"
    + OUTPUTS.format(scores="q[p] * k[m] + B[p,m]"),
    "loaded": "import std\ninput B[p,m], V[m]\n" + OUTPUTS.format(scores="B[p,m]"),
    "loaded, finite ones": "import std\ninput B[p,m], V[m]\n"
    + OUTPUTS.format(scores="B[p,m] where B[p,m] > -inf"),
    "chosen": QUERIES + OUTPUTS.format(scores="select(B[p,m] < 0, -1e30, S[p,m])"),
}


def arrays_for(spec, value: float) -> dict[str, np.ndarray]:
    """Rows that are masked whole, in part, not, and by -inf."""
    chance = np.random.default_rng(0)
    mask = np.zeros((4, 40))
    mask[0] = mask[1, 3:] = value
    mask[3] = -np.inf
    every = {
        n: chance.standard_normal(s) for n, s in {"Q": (4, 5), "K": (40, 5), "V": (40,)}.items()
    }
    every |= {"q": every["Q"][:, 0], "k": every["K"][:, 0], "B": mask}
    return {t.name: every[t.name].astype(np.float32) for t in spec.inputs}


@pytest.mark.parametrize("base_two", [False, True])
@pytest.mark.parametrize("value", [LOWEST, LOWEST_BF16, -65504.0, -np.inf])
@pytest.mark.parametrize("name", SPECS)
def test_a_row_of_the_lowest_number_is_uniform(name: str, value: float, base_two: bool):
    spec = cascade.parse(SPECS[name])
    arrays = arrays_for(spec, value)
    made = schedule(spec, Sizes({}, 16, 16))
    signs = Signs.of(made.program)
    program = in_base_two(made.program, signs) if base_two else made.program
    with np.errstate(all="ignore"):
        found = run(program, arrays, made.bind({n: a.shape for n, a in arrays.items()})).outputs
    wide = {n: a.astype(np.float64) for n, a in arrays.items()}
    wanted = cascade.run(spec, wide)
    for key in "O", "L":
        here = np.isfinite(wanted[key]) if name == "added and scaled" else np.ones(4, bool)
        here[0] &= value != -65504  # next to it, scores are rounded
        np.testing.assert_allclose(found[key][here], wanted[key][here], 2e-5, 2e-5)
    np.testing.assert_allclose(found["O"][0], wanted["O"][0], rtol=5e-2)


def test_scores_of_products_are_in_base_two():
    spec = cascade.parse(QUERIES.replace(", B[p,m]", "") + OUTPUTS.format(scores="S[p,m]"))
    made = schedule(spec, Sizes({}, 16, 16)).program
    assert "exp2" in str(in_base_two(made, Signs.of(made)))


@pytest.mark.parametrize("split", [1, 3])
def test_a_maximum_of_the_lowest_number_is_one(split: int):
    """A maximum that a sum of other weights moves with has no total to ask."""
    spec = cascade.parse("""
        input S[p,m], V[m]
        X[p] = max[m](S[p,m] where m < p)
        O[p] = sum[m](exp(S[p,m] - X[p]) * V[m] where m < p)
        output O, X""")
    scores = np.full((4, 40), -1e38, np.float32)
    arrays = {"S": scores, "V": np.arange(40, dtype=np.float32)}
    made = schedule(spec, Sizes({}, 16, 16, split=split))
    program = in_base_two(made.program, Signs.of(made.program))
    found = run(program, arrays, made.bind({n: a.shape for n, a in arrays.items()})).outputs
    np.testing.assert_array_equal(found["X"], np.array([-np.inf, -1e38, -1e38, -1e38], np.float32))
    np.testing.assert_array_equal(found["O"], [0, 0, 1, 3])
