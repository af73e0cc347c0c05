"""Specs of the derivation tests, none with a hint, and what each must become.

`p` counts rows and `m` is streamed. `low[p]` and `high[p]` bound the keys that a row sees, so that
rows may be empty and may start late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cascade
from cascade.ir.cascade import Cascade

FOLDER = Path(__file__).resolve().parents[2] / "examples"

SEEN = "low[p] <= m < high[p]"


@dataclass(frozen=True)
class Spec:
    """A cascade, the streamed rank, and its passes before and after."""

    name: str
    before: int
    after: int
    text: str = ""  # an example of the same name where empty
    rank: str = "m"
    settings: dict[str, float] = field(default_factory=dict)
    positive: tuple[str, ...] = ()  # inputs that must be positive
    anchored: bool | None = None  # whether a running value is expected, where that is the point
    says: tuple[str, ...] = ()  # what the derivation must print
    large: bool = True  # whether inputs of 1e4 are sensible

    @property
    def cascade(self) -> Cascade:
        if self.text:
            return cascade.parse(f"cascade {self.name}\n{self.text}\n")
        return cascade.load(FOLDER / f"{self.name}.cascade")


MASKED = f"""
input c[p,m], v[m,f], low[p]: int, high[p]: int
X[p,m] = c[p,m] where {SEEN}
"""

ROWS = MASKED.replace("v[m,f], ", "")

SOFTMAX = """
G[p] = max[m](X[p,m])
N[p,m] = exp(X[p,m] - G[p])
D[p] = sum[m](N[p,m])
A[p,m] = N[p,m] / D[p]
"""

SPECS = [
    Spec("attention_3pass", 3, 1),
    Spec("attention_2pass", 2, 1),
    Spec("attention", 3, 1),
    Spec("causal", 3, 1),
    Spec("alibi", 3, 1),
    Spec("document_mask", 3, 1),
    Spec("sliding_window", 3, 1),
    Spec("grouped_query", 3, 1, settings={"H": 4, "G": 2}),
    Spec("differential_attention", 3, 1),
    Spec("soft_cap", 3, 1, anchored=True),
    Spec("cosine_attention", 3, 1),
    Spec("entropy", 3, 1),
    Spec("var_class_split", 4, 1),
    Spec("pedagogical_2pass", 2, 1, rank="k", anchored=False),
    Spec("variance", 2, 1, rank="d"),
    Spec("layernorm_matmul", 3, 1, rank="d"),
    Spec("layernorm_matmul_moments", 2, 1, rank="d", large=False),
    Spec("rmsnorm_matmul", 2, 1, rank="d"),
    Spec("sigmoid_attention", 1, 1, anchored=False),
    Spec("landmark", 4, 3),  # a state for each group would grow with the keys
    Spec("landmark_blocks", 3, 1, settings={"L": 3}),
]

SPECS += [
    Spec("masked_softmax", 3, 1, MASKED + SOFTMAX + "O[p,f] = A[p,m] * v[m,f]\noutput O"),
    Spec(
        "softmax_lse",
        3,
        1,
        MASKED + SOFTMAX + "O[p,f] = A[p,m] * v[m,f]\nL[p] = log(D[p]) + G[p]\noutput O, L",
    ),
    Spec(
        "masked_entropy",
        3,
        1,
        "import std\n"
        + MASKED
        + SOFTMAX
        + "O[p,f] = A[p,m] * v[m,f]\nH[p] = -sum[m](xlogx(A[p,m]))\n"
        "L[p] = select(D[p] > 0, log(D[p]) + G[p], -inf)\noutput O, L, H",
    ),
    Spec(
        "masked_variance",
        2,
        1,
        ROWS + "n[p] = count[m](X[p,m])\nS[p] = sum[m](X[p,m])\nU[p] = S[p] / n[p]\n"
        "T[p] = sum[m]((X[p,m] - U[p])**2)\nV[p] = T[p] / n[p]   where n[p] > 0\noutput V",
    ),
    Spec(
        "library_variance",
        2,
        1,
        "import std\n" + ROWS + "V[p] = variance[m](X[p,m])\noutput V",
    ),
    Spec(
        "layernorm_matmul_without_bias",
        3,
        1,
        "input x[p,m], w[m,n]\nparam eps = 1e-5\n"
        "U[p] = mean[m](x[p,m])\nV[p] = mean[m]((x[p,m] - U[p])**2)\n"
        "N[p,m] = (x[p,m] - U[p]) * rsqrt(V[p] + eps)\nY[p,n] = N[p,m] * w[m,n]\noutput Y",
    ),
    Spec(
        "grouped_softmax",
        3,
        1,
        "input c[p,m], v[m,f], group[m]: int\nrank g < 3\n"
        "G[p,g] = max[m](c[p,m] where group[m] == g)\n"
        "N[p,m] = exp(c[p,m] - G[p,group[m]])\n"
        "D[p,g] = sum[m](N[p,m] where group[m] == g)\n"
        "O[p,f] = sum[m](N[p,m] / D[p,group[m]] * v[m,f])\noutput O",
    ),
    Spec(
        "two_softmaxes_added",
        3,
        1,
        "input c[p,m], d[p,m], v[m,f], low[p]: int, high[p]: int\n"
        f"X[p,m] = c[p,m] where {SEEN}\nZ[p,m] = d[p,m] where m < high[p]\n"
        "G[p] = max[m](X[p,m])\nN[p,m] = exp(X[p,m] - G[p])\nD[p] = sum[m](N[p,m])\n"
        "J[p] = max[m](Z[p,m])\nK[p,m] = exp(Z[p,m] - J[p])\nL[p] = sum[m](K[p,m])\n"
        "A[p,m] = ((N[p,m] / D[p]) ?? 0) + ((K[p,m] / L[p]) ?? 0)\n"
        "O[p,f] = A[p,m] * v[m,f]\noutput O",
    ),
    Spec(
        "two_softmaxes_multiplied",
        3,
        1,
        "input c[p,m], d[p,m], v[m,f], low[p]: int, high[p]: int\n"
        f"X[p,m] = c[p,m] where {SEEN}\nZ[p,m] = d[p,m] where m < high[p]\n"
        "G[p] = max[m](X[p,m])\nN[p,m] = exp(X[p,m] - G[p])\nD[p] = sum[m](N[p,m])\n"
        "J[p] = max[m](Z[p,m])\nK[p,m] = exp(Z[p,m] - J[p])\nL[p] = sum[m](K[p,m])\n"
        "A[p,m] = N[p,m] / D[p] * (K[p,m] / L[p])\n"
        "O[p,f] = A[p,m] * v[m,f]\noutput O",
    ),
    Spec(
        "two_score_matrices",
        3,
        1,
        "input c[p,m], d[p,m], v[m,f], high[p]: int\n"
        "G[p] = max[m](c[p,m] + d[p,m] where m < high[p])\n"
        "N[p,m] = exp(c[p,m] + d[p,m] - G[p]) where m < high[p]\nD[p] = sum[m](N[p,m])\n"
        "O[p,f] = N[p,m] / D[p] * v[m,f]\noutput O",
    ),
    Spec(
        "razor",
        3,
        1,
        "input c[p,m], v[m,f], low[p]: int, high[p]: int, extra[p], mean_v[f], number\n"
        f"X[p,m] = c[p,m] where {SEEN}\n"
        "G[p] = max(extra[p], max[m](X[p,m]))\n"
        "N[p,m] = exp(X[p,m] - G[p])\nR[p] = number * exp(extra[p] - G[p])\n"
        "D[p] = sum[m](N[p,m]) + R[p]\n"
        "O[p,f] = sum[m](N[p,m] / D[p] * v[m,f]) + R[p] / D[p] * mean_v[f]\noutput O",
        positive=("number",),
    ),
    Spec(  # the keys in the middle stand in for by their mean, made in the same pass
        "razor_from_keys",
        3,
        1,
        "input Q[p,e], K[m,e], V[m,f]\nparam first = 1, last = 3\n"
        "count_d = count[m](1 where first <= m < M - last)\n"
        "KB[e] = sum[m](K[m,e] where first <= m < M - last) / max(count_d, 1)\n"
        "VB[f] = sum[m](V[m,f] where first <= m < M - last) / max(count_d, 1)\n"
        "X[p,m] = sum[e](Q[p,e] * K[m,e]) where m < first or m >= M - last\n"
        "extra[p] = Q[p,e] * KB[e]\nG[p] = max(extra[p], max[m](X[p,m]))\n"
        "N[p,m] = exp(X[p,m] - G[p])\nR[p] = count_d * exp(extra[p] - G[p])\n"
        "D[p] = sum[m](N[p,m]) + R[p]\n"
        "O[p,f] = sum[m](N[p,m] / D[p] * V[m,f]) + R[p] / D[p] * VB[f]\noutput O",
    ),
    Spec(
        "zero_tuning",
        4,
        1,
        MASKED + SOFTMAX + "param gamma = 1.5\n"
        "B[p,m] = select(m == 0, gamma * A[p,m], A[p,m])\n"
        "T[p] = sum[m](B[p,m])\nO[p,f] = sum[m](B[p,m] / T[p] * v[m,f])\noutput O",
    ),
    Spec(
        "zero_tuning_published",
        4,
        1,
        MASKED + SOFTMAX + "param gamma = 1.5\nZ[p] = sum[m](A[p,m] where m == 0)\n"
        "T[p] = (gamma - 1) * Z[p] + 1\n"
        "O[p,f] = sum[m](select(m == 0, gamma, 1) * A[p,m] / T[p] * v[m,f])\noutput O",
    ),
    Spec(
        "zero_tuning_bias",
        3,
        1,
        MASKED.replace("X[p,m] = c[p,m]", "X[p,m] = c[p,m] + select(m == 0, log(gamma), 0)")
        + "param gamma = 1.5\n"
        + SOFTMAX
        + "O[p,f] = A[p,m] * v[m,f]\noutput O",
    ),
    Spec(
        "temperature_before",
        3,
        1,
        "input c[p,m], v[m,f], t[p]\nG[p] = max[m](c[p,m] / t[p])\n"
        "N[p,m] = exp(c[p,m] / t[p] - G[p])\nD[p] = sum[m](N[p,m])\n"
        "O[p,f] = N[p,m] / D[p] * v[m,f]\noutput O",
        positive=("t",),
    ),
    Spec(
        "temperature_after",
        3,
        1,
        "input c[p,m], v[m,f], t[p]\nG[p] = max[m](c[p,m])\n"
        "N[p,m] = exp((c[p,m] - G[p]) / t[p])\nD[p] = sum[m](N[p,m])\n"
        "O[p,f] = N[p,m] / D[p] * v[m,f]\noutput O",
        positive=("t",),
    ),
    Spec(
        "softmax_without_max",
        2,
        1,
        MASKED + "N[p,m] = exp(X[p,m])\nD[p] = sum[m](N[p,m])\n"
        "O[p,f] = N[p,m] / D[p] * v[m,f]\noutput O",
        anchored=True,
    ),
    Spec(
        "performer",
        3,
        1,
        "input c[p,m], d[m], v[m,f]\nG[p] = max[m](c[p,m])\n"
        "N[p,m] = exp(c[p,m] - G[p] - d[m]**2 / 2)\nD[p] = sum[m](N[p,m])\n"
        "O[p,f] = N[p,m] / D[p] * v[m,f]\noutput O",
        anchored=True,
    ),
    Spec(
        "sigmoid_normalised",
        2,
        1,
        MASKED + "N[p,m] = sigmoid(X[p,m])\nD[p] = sum[m](N[p,m])\n"
        "O[p,f] = N[p,m] / D[p] * v[m,f]\noutput O",
        anchored=False,
    ),
    Spec(
        "squares_renormalised",
        4,
        1,
        MASKED + SOFTMAX + "B[p,m] = A[p,m]**2\nT[p] = sum[m](B[p,m])\n"
        "O[p,f] = B[p,m] / T[p] * v[m,f]\noutput O",
    ),
    Spec(
        "max_of_scaled",
        2,
        1,
        "input c[p,m]\nR[p] = sum[m](exp(c[p,m]))\nT[p] = max[m](c[p,m] * R[p])\noutput T",
        large=False,
    ),
    Spec(
        "extremes_of_standardised",
        3,
        1,
        "input c[p,m]\nU[p] = mean[m](c[p,m])\nV[p] = mean[m]((c[p,m] - U[p])**2)\n"
        "T[p] = max[m]((c[p,m] - U[p]) * rsqrt(V[p] + 1e-5))\n"
        "B[p] = min[m]((c[p,m] - U[p]) * rsqrt(V[p] + 1e-5))\noutput T, B",
    ),
    Spec(
        "max_of_exponential",
        2,
        1,
        "input c[p,m]\nR[p] = max[m](c[p,m])\nT[p] = max[m](exp(c[p,m] / 2 - R[p]))\noutput T",
    ),
    Spec(
        "kurtosis",
        3,
        1,
        "input c[p,m]\nU[p] = mean[m](c[p,m])\nV[p] = mean[m]((c[p,m] - U[p])**2)\n"
        "S[p] = sqrt(V[p])\nT[p] = mean[m](((c[p,m] - U[p]) / S[p])**4)\noutput T",
    ),
    Spec(
        "act",
        4,
        3,
        "input Q[p,e], K[m,e], V[m,f]\nparam limit = 0.1, beta = 0.4\nrequire P == M\n"
        "X[p,m] = Q[p,e] * K[m,e] where m <= p\n" + SOFTMAX + "C[m] = sum[p](A[p,m]) / (M - m)\n"
        "K1[m] = C[m] > limit and m != 0\n"
        "S[p] = sum[m](A[p,m] where K1[m])\n"
        "W[p,m] = select(K1[m], beta, 1 + (1 - beta) * S[p] / (1 - S[p]))\n"
        "O[p,f] = sum[m](A[p,m] * W[p,m] * V[m,f])\noutput O",
    ),
    Spec(  # eps is added to both operands of each product of flows, as in the published code
        "flowformer",
        4,
        2,
        "input q[p,e], k[m,e], v[m,f]\nparam eps = 1e-6\n"
        "F[p,e] = sigmoid(q[p,e])\nJ[m,e] = sigmoid(k[m,e])\n"
        "KS[e] = sum[m](J[m,e])\nQS[e] = sum[p](F[p,e])\n"
        "I[p] = 1 / sum[e]((F[p,e] + eps) * (KS[e] + eps))\n"
        "O[m] = 1 / sum[e]((J[m,e] + eps) * (QS[e] + eps))\n"
        "KC[e] = sum[m](J[m,e] * O[m])\nQC[e] = sum[p](F[p,e] * I[p])\n"
        "Z[p] = sum[e]((F[p,e] + eps) * (KC[e] + eps))\n"
        "R[m] = clamp(sum[e]((J[m,e] + eps) * (QC[e] + eps)), -1, 1)\n"
        "G = max[m](R[m])\nN[m] = exp(R[m] - G)\nD = sum[m](N[m])\n"
        "C[m] = N[m] / D * M\n"
        "KV[e,f] = sum[m](J[m,e] * v[m,f] * C[m])\n"
        "Y[p,f] = sum[e](F[p,e] * I[p] * KV[e,f]) * sigmoid(Z[p] * P / M)\noutput Y",
        says=("clamp(",),
    ),
    Spec(
        "probabilities",
        3,
        2,
        MASKED + SOFTMAX + "O[p,f] = A[p,m] * v[m,f]\noutput A, O",
    ),
    Spec(
        "clamped",
        3,
        1,
        "input c[p,m], v[m,f]\nX[p,m] = clamp(c[p,m], -20, 20)\n"
        "N[p,m] = exp(X[p,m])\nD[p] = sum[m](N[p,m])\n"
        "B[p,m] = N[p,m] / D[p]\nT[p] = sum[m](B[p,m]**2)\n"
        "O[p,f] = B[p,m] / T[p] * v[m,f]\noutput O",
        anchored=False,
        says=("needs no maximum", "clamp"),
    ),
    Spec(
        "linear_in_a_result",
        4,
        1,
        "input c[p,m], d[p,m], v[m,f]\nR[p] = sum[m](d[p,m])\nX[p,m] = c[p,m]\n"
        + SOFTMAX
        + "O[p,f] = sum[m](A[p,m] * d[p,m] * R[p] * v[m,f])\nT[p] = sum[m](A[p,m] * d[p,m])\n"
        "Y[p,f] = sum[m](A[p,m] * T[p] * v[m,f]) + O[p,f]\noutput Y",
    ),
]
