"""Specs that are right, given data or settings that are wrong. The messages are in `inputs/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Run:
    """One run that must be refused: the name of its message, the spec, what it is given."""

    name: str
    spec: str
    inputs: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)


ATTENTION = """\
input  Q[p,e], K[m,e], V[m,f]
QK[p,m] = Q[p,e] * K[m,e]
O[p,f]  = QK[p,m] * V[m,f]
output O
"""
GATHER = """\
input  K[n,e], page[m]
Z[m,e] = K[page[m],e]
output Z
"""
TILES = """\
input  A[m]
rank   m = m1*M0 + m0
Z[m1] = sum[m0](A[m])
output Z
"""
WINDOW = """\
input  A[m]
param  w = 2
Z[m] = A[m - w] ?? 0
output Z
"""


def attention(**changed: Any) -> dict[str, Any]:
    arrays = {"Q": np.ones((2, 3)), "K": np.ones((4, 3)), "V": np.ones((4, 5))} | changed
    return {name: array for name, array in arrays.items() if array is not None}


def one(body: str, declarations: str = "") -> str:
    """A spec of one statement over `A[m]`."""
    return f"input  A[m]\n{declarations}Z[m] = {body}\noutput Z\n"


A = {"A": np.ones(3)}
CHAIN = "".join(f"param  s{n} = s{n + 1}\n" for n in range(150)) + "param  s150\n"
K = np.ones((4, 2))

RUNS = (
    # shapes
    Run("shape", ATTENTION, attention(V=np.ones((6, 5)))),
    Run("shape_shared_rank", ATTENTION, attention(K=np.ones((4, 7)))),
    Run("shape_transposed", ATTENTION, attention(Q=np.ones((3, 2)))),
    Run("shape_against_setting", ATTENTION, attention(), {"M": 3}),
    Run("shape_against_spec", one("A[m]", "rank   m < 4\n"), A),
    Run("shape_against_param", one("A[m]", "param  M = 4\n"), A),
    Run(
        "shape_against_other_extent",
        "input  A[m], B[n]\nrank   n < 2*M\nZ[m] = A[m] * B[2*m]\noutput Z\n",
        {"A": np.ones(3), "B": np.ones(5)},
    ),
    Run("dimensions", ATTENTION, attention(Q=np.ones((1, 2, 3)))),
    Run("dimensions_of_a_scalar", "input  s\nZ = s * 2\noutput Z\n", {"s": np.ones(2)}),
    Run("dimensions_none", ATTENTION, attention(Q=np.float64(1))),
    # inputs
    Run("missing_input", ATTENTION, attention(K=None)),
    Run("missing_input_misspelled", ATTENTION, attention(K=None, k=np.ones((4, 3)))),
    Run("float_index", GATHER, {"K": K, "page": np.zeros(3)}),
    Run("boolean_index", GATHER, {"K": K, "page": np.zeros(3, bool)}),
    Run(
        "float_mask",
        "input  A[m], mask[m]\nZ[m] = A[m] where mask[m]\noutput Z\n",
        A | {"mask": np.ones(3)},
    ),
    Run(
        "float_mask_by_another_name",
        "input  A[m], mask[m]\nkept[m] = mask[m] ?? mask[0]\n"
        "Z[m] = A[m] where kept[m] or m < 1\noutput Z\n",
        A | {"mask": np.ones(3)},
    ),
    Run("boolean_for_real", "input  A[m]: f32\nZ[m] = A[m]\noutput Z\n", {"A": np.ones(3, bool)}),
    Run("complex_input", ATTENTION, attention(Q=np.ones((2, 3), complex))),
    Run(
        "integers_too_large",
        "input  A[m]\nZ[m] = A[m]\noutput Z\n",
        {"A": np.array([1 << 63], np.uint64)},
    ),
    Run("text_input", ATTENTION, attention(Q=np.array([["a", "b", "c"]]))),
    Run("ragged_input", ATTENTION, attention(Q=[[1.0, 2.0, 3.0], [1.0]])),
    # settings
    Run("unknown_setting", ATTENTION, attention(), {"N": 3}),
    Run(
        "unknown_setting_misspelled",
        one("scale * A[m]", "param  scale = 1\n"),
        A,
        {"scal": 3},
    ),
    Run("setting_negative", ATTENTION, attention(), {"M": -4}),
    Run("setting_not_whole", ATTENTION, attention(), {"M": 4.5}),
    Run("setting_too_large", one("A[m] * J", "rank   j < J\n"), A, {"J": 10**30}),
    Run("setting_true", ATTENTION, attention(), {"M": True}),
    Run("setting_text", ATTENTION, attention(), {"M": "4"}),
    Run("setting_nan", one("s * A[m]", "param  s = 1\n"), A, {"s": float("nan")}),
    Run("setting_of_derived_extent", TILES, A, {"M0": 2, "M1": 5}),
    Run("setting_of_fixed_extent", one("sum[j](A[m] * j)", "rank   j < 3\n"), A, {"J": 4}),
    Run("setting_real_for_index", WINDOW, A, {"w": 2.5}),
    Run("setting_number_for_truth", one("A[m] where keep", "param  keep = true\n"), A, {"keep": 2}),
    # extents, params and requirements
    Run("unknown_extent", "input  A[m]\nrank   j < J\nZ[j] = top[m -> j](A[m])\noutput Z\n", A),
    Run(
        "several_unknown",
        "input  A[m]\nparam  s\nrank   j < J, k < K\n"
        "Z[j,k] = s * top[m -> j](A[m]) * k\noutput Z\n",
        A,
    ),
    Run("several_unknown_settings", ATTENTION, attention(), {"N": 3, "m": 4}),
    Run("several_missing_inputs", ATTENTION, {"Q": np.ones((2, 3)), "k": np.ones((4, 3))}),
    Run("unknown_stride", TILES, A),
    Run("unknown_param", one("s * A[m]", "param  s\n"), A),
    Run("zero_stride", TILES, A, {"M0": 0}),
    Run("negative_extent", "input  A[m]\nrank   j < M - 5\nZ[j] = A[j]\noutput Z\n", A),
    Run(
        "extent_over_zero",
        "input  A[m]\nparam  w = 0\nrank   j < M // w\nZ[j] = A[j]\noutput Z\n",
        A,
    ),
    Run("infinite_extent", "input  A[m]\nrank   j < floor(inf)\nZ[j] = A[j]\noutput Z\n", A),
    Run("complex_param", one("s * A[m]", "param  s = (0 - M)**0.5\n"), A),
    Run(
        "long_chain_of_params",
        one("s0 * A[m]", CHAIN),
        A,
        {"s150": 1},
    ),
    Run("requirement", one("A[m]", 'require M % 2 == 0, "pairs of coordinates are rotated"\n'), A),
    Run("requirement_without_reason", one("A[m]", "require M % 2 == 0\n"), A),
    Run("requirement_over_zero", one("A[m]", "param  w = 0\nrequire M % w == 0\n"), A),
)
