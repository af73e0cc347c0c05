"""Every shipped example: its formula, extents of 0 and 1, blind rows, extreme values, its text."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cascade
from cascade.ir.cascade import Cascade
from tests.examples.formulas import FORMULAS

FOLDER = Path(__file__).resolve().parents[2] / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.cascade"))

# Extents (upper case) and params. The first of each list is the one that is varied.
ATTENTION = [
    {"B": 2, "H": 3, "P": 7, "M": 9, "E": 5, "F": 4},
    {"B": 1, "H": 2, "P": 11, "M": 4, "E": 3, "F": 6},
    {"B": 3, "H": 1, "P": 2, "M": 17, "E": 8, "F": 1},
]
SELF = [n | {"M": n["P"]} for n in ATTENTION] + [ATTENTION[0] | {"P": 23, "M": 23}]
RECURRENCE = [{"B": 2, "H": 3, "I": 7, "E": 4, "F": 5}, {"B": 1, "H": 2, "I": 19, "E": 6, "F": 3}]
PEDAGOGICAL = [{"K": 7}, {"K": 64}]
MATMUL = [{"T": 3, "D": 7, "N": 5}, {"T": 9, "D": 4, "N": 2}, {"T": 1, "D": 130, "N": 3}]


def both(sizes: list[dict[str, Any]], *more: dict[str, Any]) -> list[dict[str, Any]]:
    """The n-th sizes with the n-th params, the last params for the rest."""
    return [n | more[min(i, len(more) - 1)] for i, n in enumerate(sizes)]


SIZES: dict[str, list[dict[str, Any]]] = {
    "attention_1pass": both(ATTENTION, {"M0": 4}, {"M0": 1}, {"M0": 5}),
    "attention_2pass": both(ATTENTION, {"M0": 4}, {"M0": 1}, {"M0": 5}),
    "delta_rule": RECURRENCE,
    "grouped_query": both(ATTENTION, {"H": 6, "G": 2}, {"H": 4, "G": 4}, {"H": 3, "G": 1}),
    "landmark": both(SELF, {"L": 3}, {"L": 4}, {"L": 2}, {"L": 5}),
    "landmark_blocks": both(SELF, {"L": 3}, {"L": 4}, {"L": 2}, {"L": 5}),
    "layernorm_matmul": MATMUL,
    "layernorm_matmul_moments": MATMUL,
    "neighbourhood_1d": [
        {"B": 2, "H": 3, "P": 9, "E": 5, "F": 4, "W": 3},
        {"B": 1, "H": 2, "P": 12, "E": 3, "F": 2, "W": 4},
        {"B": 1, "H": 1, "P": 5, "E": 3, "F": 2},  # W = 7: wider than the sequence
    ],
    "neighbourhood_2d": [
        {"B": 2, "H": 1, "Y": 5, "X": 4, "E": 3, "F": 4, "J": 3, "I": 3},
        {"B": 1, "H": 2, "Y": 6, "X": 7, "E": 2, "F": 3, "J": 4, "I": 1},
        {"B": 1, "H": 1, "Y": 3, "X": 9, "E": 2, "F": 3},  # J = I = 7
    ],
    "paged_keys": [
        {"B": 3, "H": 2, "P": 2, "N": 6, "R": 4, "J": 3, "E": 5, "F": 4},
        {"B": 2, "H": 1, "P": 1, "N": 3, "R": 7, "J": 2, "E": 3, "F": 2},
    ],
    "pedagogical_2pass": PEDAGOGICAL,
    "pedagogical_deferred": PEDAGOGICAL,
    "pedagogical_iterative": PEDAGOGICAL,
    "pointer_network": [
        {"B": 3, "P": 4, "M": 7, "D": 5, "R": 6},
        {"B": 1, "P": 6, "M": 11, "D": 2, "R": 3},
    ],
    "retention": RECURRENCE,
    "rmsnorm_matmul": MATMUL,
    "rotary": both(ATTENTION, {"E": 6}, {"E": 2}, {"E": 8, "base": 500}),
    "selective_state_space": [
        {"B": 2, "T": 7, "D": 3, "S": 4},
        {"B": 1, "T": 19, "D": 2, "S": 5},
    ],
    "sigmoid_attention": both(ATTENTION, {}, {"bias": -2.5}),
    "sliding_window": both(SELF, {"sinks": 2}, {"sinks": 0}, {}),
    "soft_cap": both(ATTENTION, {"cap": 2}, {}),
    "topk_attention": both(ATTENTION, {"J": 3}, {"J": 1}, {}),
    "var_class_split": SELF,
    "variance": [{"T": n["T"], "D": n["D"]} for n in MATMUL],
}
CAUSAL = ("alibi", "causal", "differential_attention", "document_mask")
SIZES |= {key: [*ATTENTION, SELF[0]] for key in CAUSAL}


def e4m3(values: Any) -> Any:
    """Values with 3 bits after the leading one, as the type has between 2**-6 and 448."""
    size, exponent = np.frexp(values)
    return np.ldexp(np.round(size * 16) / 16, exponent)


# The inputs that are not standard normal.
DRAWS: dict[tuple[str, str], Any] = {
    ("cosine_attention", "tau"): lambda rng, shape, n: rng.uniform(0.05, 1, shape),
    ("delta_rule", "beta"): lambda rng, shape, n: rng.uniform(0, 1, shape),
    ("document_mask", "key_document"): lambda rng, shape, n: rng.integers(0, 2, shape),
    ("document_mask", "query_document"): lambda rng, shape, n: rng.integers(0, 3, shape),
    ("paged_keys", "length"): lambda rng, shape, n: rng.integers(1, n["J"] * n["R"] + 2, shape),
    ("paged_keys", "page"): lambda rng, shape, n: rng.integers(0, max(1, n["N"]), shape),
    ("pedagogical_iterative", "A"): lambda rng, shape, n: rng.uniform(0.5, 2, shape),
    ("pedagogical_iterative", "B"): lambda rng, shape, n: rng.uniform(0.5, 2, shape),
    ("pointer_network", "length"): lambda rng, shape, n: rng.integers(0, n["M"] + 2, shape),
    ("quantised_keys", "K"): lambda rng, shape, n: rng.integers(-127, 128, shape, np.int8),
    ("quantised_keys", "V"): lambda rng, shape, n: e4m3(rng.standard_normal(shape)),
    ("quantised_keys", "key_scale"): lambda rng, shape, n: rng.uniform(0.003, 0.02, shape),
    ("quantised_keys", "value_scale"): lambda rng, shape, n: rng.uniform(0.5, 2, shape),
    ("selective_state_space", "A"): lambda rng, shape, n: -rng.uniform(0.1, 2, shape),
    ("sliding_window", "window"): lambda rng, shape, n: rng.integers(1, n["P"] + 2, shape),
    ("var_class_split", "class"): lambda rng, shape, n: rng.integers(0, 4, shape),
    ("var_class_split", "text"): lambda rng, shape, n: rng.integers(0, 3, shape),
}

# Extents that follow one another when one is varied, and the values that `require` refuses.
TIED = {"landmark": ("P", "M"), "landmark_blocks": ("P", "M"), "var_class_split": ("P", "M")}
REFUSED = {("grouped_query", "G", 0), ("grouped_query", "H", 1), ("rotary", "E", 1)}


@cache
def spec(name: str) -> Cascade:
    return cascade.load(FOLDER / f"{name}.cascade")


def sizes(name: str) -> list[dict[str, Any]]:
    return SIZES.get(name, ATTENTION)


def draw(name: str, n: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Random inputs of an example for these extents."""
    rng = np.random.default_rng([seed, *name.encode()])
    arrays = {}
    for tensor in spec(name).inputs:
        shape = [n[rank.upper()] for rank in tensor.ranks]
        other = DRAWS.get((name, tensor.name))
        arrays[tensor.name] = other(rng, shape, n) if other else rng.standard_normal(shape)
    return arrays


def run(name: str, arrays: dict[str, Any], n: dict[str, Any]) -> dict[str, Any]:
    """The outputs, with the settings that no input carries."""
    carried = {rank.upper() for tensor in spec(name).inputs for rank in tensor.ranks}
    settings = {key: value for key, value in n.items() if key not in carried}
    return cascade.run(spec(name), arrays, settings)


def check(name: str, arrays: dict[str, Any], n: dict[str, Any], bound: float = 1e-12) -> Any:
    """Run an example and compare it with its formula; returns the outputs."""
    found, wanted = run(name, arrays, n), FORMULAS[name](arrays, n)
    assert found.keys() == wanted.keys()
    for output, expected in wanted.items():
        actual = found[output]
        assert actual.dtype == np.float64
        assert actual.shape == expected.shape
        assert not np.isnan(actual).any()
        finite = np.isfinite(expected)
        assert np.array_equal(actual[~finite], expected[~finite])
        error = np.abs(actual[finite] - expected[finite]).max(initial=0)
        assert error <= bound * np.abs(expected[finite]).max(initial=1), (output, error)
    return found


def test_every_example_has_a_formula():
    assert sorted(FORMULAS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_text(name):
    c = spec(name)
    assert c.name == name
    assert c.warnings == ()
    assert cascade.parse(str(c)) == c


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_formula(name, seed):
    for n in sizes(name):
        check(name, draw(name, n, seed), n)


def variations() -> list[tuple[str, str, int]]:
    """Every rank extent of every example, at 0 and at 1."""
    return [
        (name, extent, value)
        for name in NAMES
        for extent in sizes(name)[0]
        if extent.lower() in spec(name).rank
        for value in (0, 1)
        if (extent, value) != ("M0", 0)  # a tile holds something
    ]


@pytest.mark.parametrize(("name", "extent", "value"), variations())
def test_extent(name, extent, value):
    tied = TIED.get(name, ())
    n = sizes(name)[0] | dict.fromkeys(tied if extent in tied else [extent], value)
    arrays = draw(name, n)
    if (name, extent, value) in REFUSED:
        with pytest.raises(cascade.CascadeError) as caught:
            run(name, arrays, n)
        assert [d.code for d in caught.value.diagnostics] == ["requirement"]
    else:
        check(name, arrays, n)


@pytest.mark.parametrize("name", NAMES)
def test_all_extents_of_one(name):
    ones = {key: 1 if key.isupper() else value for key, value in sizes(name)[0].items()}
    if name == "rotary":
        ones["E"] = 2
    check(name, draw(name, ones), ones)


@pytest.mark.parametrize("value", [0, 1])
def test_landmark_is_self_attention(value):
    n = sizes("landmark")[0] | {"M": value}
    with pytest.raises(cascade.CascadeError, match="landmark attention is self-attention"):
        run("landmark", draw("landmark", n), n)


@dataclass(frozen=True)
class Blind:
    """Inputs or params under which some rows of an output see nothing."""

    name: str
    rows: Any
    inputs: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # tensor -> (index, value)
    params: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.name, *self.inputs, *self.params])


WHOLE = slice(None)
NO_KEYS = [
    Blind(name, WHOLE, params={"M": 0})
    for name in NAMES
    if {"P", "M"} <= sizes(name)[0].keys() and name not in TIED
]
BLIND = [
    *NO_KEYS,
    *(Blind(name, WHOLE, params={"P": 0, "M": 0}) for name in TIED),
    Blind("sliding_window", (WHOLE, 1), {"window": (1, 0)}, {"sinks": 0}),
    Blind("sliding_window", (WHOLE, 2), {"window": (2, -5)}, {"sinks": 0}),
    Blind("document_mask", (0, WHOLE, 3), {"query_document": ((0, 3), 7)}),
    Blind("document_mask", (1, WHOLE, slice(0, 4)), {"key_document": ((1, slice(0, 4)), -1)}),
    Blind("paged_keys", 1, {"length": (1, 0)}),
    Blind("paged_keys", 2, {"length": (2, -3)}),
    Blind("paged_keys", 0, {"page": (0, -1)}),
    Blind("paged_keys", 0, {"page": (0, 99)}),
    Blind("paged_keys", WHOLE, params={"J": 0}),
    Blind("paged_keys", WHOLE, params={"N": 0}),
    Blind("pointer_network", 2, {"length": (2, 0)}),
    Blind("neighbourhood_1d", WHOLE, params={"W": 0}),
    Blind("neighbourhood_2d", WHOLE, params={"I": 0}),
    Blind("topk_attention", WHOLE, params={"J": 0}),
    Blind("landmark", WHOLE, params={"L": 1}),
    Blind("landmark_blocks", WHOLE, params={"L": 1}),
    Blind("sigmoid_attention", WHOLE, params={"bias": float("-inf")}),
    Blind("var_class_split", (0, WHOLE, slice(0, 4)), {"class": ((0, slice(0, 4)), 9)}),
]


@pytest.mark.parametrize("case", BLIND, ids=str)
def test_row_that_sees_nothing(case):
    n = sizes(case.name)[0] | case.params
    arrays = draw(case.name, n)
    for tensor, (at, value) in case.inputs.items():
        arrays[tensor][at] = value
    for output, array in run(case.name, arrays, n).items():
        assert not np.isnan(array).any()
        assert (array[case.rows] == (-np.inf if output == "LSE" else 0)).all()
    if case.name != "var_class_split":  # its formula knows the four classes only
        check(case.name, arrays, n)


# What is multiplied by 1e4 for logits and other values of that size.
LOUD = {
    "cosine_attention": ["Q", "K", "V"],
    "delta_rule": ["Q", "K", "V"],
    "differential_attention": ["Q1", "K2"],
    "layernorm_matmul": ["X"],
    "layernorm_matmul_moments": ["X"],
    "pedagogical_2pass": ["A", "B"],
    "pedagogical_deferred": ["A", "B"],
    "pedagogical_iterative": ["A", "B"],
    "pointer_network": ["v"],
    "rmsnorm_matmul": ["X"],
    "selective_state_space": ["raw", "U", "B"],
    "variance": ["X"],
}


# Thresholds that no row of equal weights meets exactly, where rounding would decide.
OFF_TIES = {"var_class_split": {"most": 0.47, "least": 0.23}}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factor", [1e4, 1e-160, 0])
def test_extreme_values(name, factor):
    for n in sizes(name):
        n = n | OFF_TIES.get(name, {})
        arrays = draw(name, n)
        for tensor in LOUD.get(name, ["Q"]):
            arrays[tensor] = arrays[tensor] * factor
        check(name, arrays, n, bound=1e-9)


@pytest.mark.parametrize("offset", [1e4, 1e8])
@pytest.mark.parametrize("name", ["variance", "layernorm_matmul", "layernorm_matmul_moments"])
def test_rows_of_large_mean_are_finite(name, offset):
    for n in sizes(name):
        arrays = draw(name, n)
        for rows in (arrays["X"] + offset, np.full_like(arrays["X"], offset)):
            (array,) = run(name, arrays | {"X": rows}, n).values()
            assert np.isfinite(array).all()


def test_iterative_cascade_starts_with_zeros():
    n = {"K": 6}
    arrays = draw("pedagogical_iterative", n)
    arrays["A"][:3] = 0  # 0/0 in the first steps
    check("pedagogical_iterative", arrays, n)
