"""The gradient of a gate as a sum over later steps."""

import numpy as np
import pytest

import cascade
from cascade.api import check_gradient
from cascade.ir.cascade import Cascade
from cascade.transforms.chunk import chunk

SPEC = """
input Q[b,i,e], K[b,i,e], V[b,i,f], {inputs}
init S[b,0,e,f] = {start}
S[b,i+1,e,f] = {update}
O[b,i,f] = {readout}
output O{more}
"""
PLAIN = "sum[e](Q[b,i,e] * S[b,i+1,e,f])"
GATED = {
    "a gate of a channel": ("g[b,i,e]", "exp(g[b,i,e]) * S[b,i,e,f] + K[b,i,e] * V[b,i,f]", PLAIN),
    "a gate of a step": (
        "g[b,i]",
        "exp(-softplus(g[b,i])) * S[b,i,e,f] - 2 * K[b,i,e] * V[b,i,f]",
        PLAIN,
    ),
    "a sigmoid": (
        "g[b,i,e]",
        "sigmoid(g[b,i,e]) * S[b,i,e,f] + K[b,i,e] * V[b,i,f]",
        PLAIN,
    ),
    "a base of 2": ("g[b,i,f]", "K[b,i,e] * V[b,i,f] + S[b,i,e,f] * exp2(g[b,i,f])", PLAIN),
    "two readers": (
        "g[b,i,e]",
        "exp(g[b,i,e]) * S[b,i,e,f] + K[b,i,e] * V[b,i,f]",
        "sum[e](Q[b,i,e] * S[b,i+1,e,f]) * sum[e](S[b,i+1,e,f])",
    ),
}
OTHERS = {
    "read before the step": (
        "g[b,i,e]",
        "exp(g[b,i,e]) * S[b,i,e,f] + K[b,i,e] * V[b,i,f]",
        "sum[e](Q[b,i,e] * S[b,i,e,f])",
    ),
    "read at the end": (
        "g[b,i,e]",
        "exp(g[b,i,e]) * S[b,i,e,f] + K[b,i,e] * V[b,i,f]",
        "sum[e](Q[b,i,e] * S[b,I,e,f])",
    ),
    "any factor": ("g[b,i,e]", "g[b,i,e] * S[b,i,e,f] + K[b,i,e] * V[b,i,f]", PLAIN),
    "a full gate": ("g[b,i,e,f]", "exp(g[b,i,e,f]) * S[b,i,e,f] + K[b,i,e] * V[b,i,f]", PLAIN),
    "feedback": (
        "g[b,i,e]",
        "exp(g[b,i,e]) * S[b,i,e,f] + K[b,i,e] * (V[b,i,f] - sum[a](K[b,i,a] * S[b,i,a,f]))",
        PLAIN,
    ),
    "a step passed over": (
        "g[b,i,e]",
        "select(i % 2 == 0, exp(g[b,i,e]) * S[b,i,e,f], S[b,i,e,f]) + K[b,i,e] * V[b,i,f]",
        PLAIN,
    ),
}


def parsed(case: tuple[str, str, str], start: str = "0", more: str = "") -> Cascade:
    inputs, update, readout = case
    rank = "\nrank a < E" if "[a]" in update else ""
    text = SPEC.format(inputs=inputs + rank, update=update, readout=readout, start=start, more=more)
    return cascade.parse(text)


@pytest.mark.parametrize("start", ["0", "1"])
@pytest.mark.parametrize("name", GATED)
def test_no_product_of_states_is_left(name: str, start: str) -> None:
    spec = parsed(GATED[name], start)
    found = cascade.gradient(spec, save=False)
    assert [s.law for s in found.steps].count("telescope") == 1
    assert check_gradient(spec, found)["ok"]
    assert not getattr(chunk(found.backward), "refusals", ()) or name == "two readers"


@pytest.mark.parametrize("name", OTHERS)
def test_other_recurrences_are_left_as_they_are(name: str) -> None:
    spec = parsed(OTHERS[name])
    found = cascade.gradient(spec, save=False)
    assert "telescope" not in [s.law for s in found.steps]
    assert check_gradient(spec, found)["ok"]


def test_a_gate_that_forgets_all_has_gradient_0() -> None:
    """exp underflows to 0; nothing is divided by it."""
    spec = parsed(GATED["a gate of a channel"])
    found = cascade.gradient(spec, save=False)
    draw = np.random.default_rng(0).standard_normal
    given = {"Q": draw((1, 9, 2)), "K": draw((1, 9, 2)), "V": draw((1, 9, 3))}
    gates = np.where(np.arange(9)[None, :, None] % 3 == 0, -np.inf, -0.5) * np.ones((1, 9, 2))
    result = cascade.run(found.backward, {**given, "g": gates, "dO": draw((1, 9, 3))})
    assert all(np.isfinite(a).all() for a in result.values())
    assert abs(result["dg"][:, ::3]).max() < 1e-12 and abs(result["dg"][:, 1::3]).max() > 1e-3


@pytest.mark.parametrize("last", [9.0, 90.0])
def test_a_closed_gate_passes_no_gradient(last: float) -> None:
    """The sum telescopes to 0 there but for rounding, and the derivative inside may be infinite."""
    source = cascade.parse("""
        input Q[m,e], K[m,e], V[m,f], a[m,e]
        init H[0,e,f] = 0
        H[m+1,e,f] = exp(-exp(a[m,e])) * H[m,e,f] + K[m,e] * V[m,f]
        O[m,f] = Q[m,e] * H[m+1,e,f]
        output O""")
    found = cascade.gradient(source, save=False)
    assert "telescope" in [s.law for s in found.steps]
    one = np.ones((6, 1), np.float32)
    a = np.array([1, 8, -1, last, 0.5, 2])
    given = {"Q": one, "K": one, "V": one, "a": a[:, None].astype(np.float32), "dO": one}
    with np.errstate(all="ignore"):
        made = cascade.compile(found.backward)(**given)["da"][:, 0]
    gate, before, after = np.exp(-np.exp(a)), np.zeros(6), np.ones(6)
    for m in range(5):
        before[m + 1] = gate[m] * before[m] + 1
    for m in reversed(range(5)):
        after[m] = 1 + gate[m + 1] * after[m + 1]
    np.testing.assert_allclose(made, -np.exp(a) * gate * before * after, rtol=1e-5, atol=1e-6)
    assert not made[[1, 3]].any()
