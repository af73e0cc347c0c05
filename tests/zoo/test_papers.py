"""The examples for papers without an attention of their own, against NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cascade
from cascade import literature
from tests.zoo.registry import Arrays, logits, weights

H, P, M, E, F, D = 3, 5, 7, 4, 6, 5
SHAPES = {
    "Q": (H, P, E),
    "K": (H, M, E),
    "V": (H, M, F),
    "WO": (H, F, D),
    "other": (H, P, F),
    "direction": (D,),
    "w": (D,),
    "bias": (D,),
    "WG": (D, D),
    "W": (P, M),
    "U": (M, D),
}


def drawn(spec: Any, rng: np.random.Generator) -> Arrays:
    """Inputs by their names: labels of three classes, flags, positive scales, the rest normal."""
    special: dict[str, Callable[[], Any]] = {
        "role": lambda: rng.integers(0, 3, M),
        "chain": lambda: rng.permutation(np.arange(M) % 3),
        "span": lambda: rng.random(M) < 0.5,
        "keep": lambda: np.array([True, False, True]),
        "alpha": lambda: rng.uniform(0.2, 2, H),
        "filter": lambda: rng.standard_normal((M, D) if spec.name == "gated_convolution" else M),
        "X": lambda: rng.standard_normal((4, 6, D) if spec.name == "pooling" else (M, D)),
    }
    return {
        t.name: special[t.name]() if t.name in special else rng.standard_normal(SHAPES[t.name])
        for t in spec.inputs
    }


def attention(a: Arrays) -> tuple[Any, Any]:
    shares = weights(logits(a["Q"], a["K"]))
    return shares, shares @ a["V"]


def project(heads: Any, a: Arrays) -> Any:
    return sum(heads[h] @ a["WO"][h] for h in range(H))


def head_patching(a: Arrays) -> Arrays:
    own, scale = attention(a)[1], a["alpha"][:, None, None]
    return {"Y": project(scale * own + (1 - scale) * a["other"], a), "O": own}


def head_masking(a: Arrays) -> Arrays:
    own = attention(a)[1]
    return {"Y": project(own, a), "LEFT": project(own * a["keep"][:, None, None], a)}


def head_contribution(a: Arrays) -> Arrays:
    """The change of the logit when the head is taken out of the sum."""
    own = attention(a)[1]
    total = project(own, a) @ a["direction"]
    without = [project(own * (np.arange(H) != h)[:, None, None], a) for h in range(H)]
    return {"L": total - np.array(without) @ a["direction"]}


def span_mass(a: Arrays) -> Arrays:
    shares, own = attention(a)
    mass = [shares[..., a["role"] == c].sum(-1) for c in range(3)]
    return {"O": own, "MASS": np.stack(mass, -1), "SINK": shares[..., 0]}


def span_steering(a: Arrays) -> Arrays:
    """As it is done: after the softmax, and the row normalised again."""
    shares = attention(a)[0] * np.where(a["span"], a["alpha"][:, None, None], 1)
    return {"O": shares / shares.sum(-1, keepdims=True) @ a["V"]}


def chain_pooling(a: Arrays) -> Arrays:
    chains = [a["X"][a["chain"] == c] for c in range(3)]
    pool = np.stack([weights(x @ a["w"]) @ x for x in chains])
    return {"POOL": pool, "SUM": pool.sum(0)}


def gated_convolution(a: Arrays) -> Arrays:
    mixed = [np.convolve(a["U"][:, d], a["filter"][:, d])[:M] for d in range(D)]
    return {"Y": (a["U"] @ a["WG"].T + a["bias"]) * np.stack(mixed, -1)}


def hard_attention(a: Arrays) -> Arrays:
    scores = logits(a["Q"], a["K"])
    at = np.argsort(-scores, -1, kind="stable")[..., :4]
    out = np.zeros((H, P, F))
    for h, p in np.ndindex(H, P):
        out[h, p] = weights(scores[h, p, at[h, p]]) @ a["V"][h, at[h, p]]
    return {"O": out, "IDX": at}


def pooling(a: Arrays) -> Arrays:
    x = a["X"]
    padded = np.pad(x, [(1, 1), (1, 1), (0, 0)], constant_values=np.nan)
    rows, columns = x.shape[:2]
    near = [padded[j : j + rows, i : i + columns] for j, i in np.ndindex(3, 3)]
    return {"Y": np.nanmean(near, axis=0) - x}


def token_mixing(a: Arrays) -> Arrays:
    x, spectrum = a["X"], np.fft.fft(a["filter"])[:, None]
    conv = np.fft.ifft(spectrum * np.fft.fft(x, axis=0), axis=0).real
    return {"MLP": a["W"] @ x, "CONV": conv[:P], "FNET": np.fft.fft2(x).real[:P]}


REFERENCES = {
    f.__name__: f
    for f in (
        *(head_patching, head_masking, head_contribution, span_mass, span_steering),
        *(chain_pooling, gated_convolution, hard_attention, pooling, token_mixing),
    )
}
EACH = pytest.mark.parametrize("example", tuple(literature.examples()), ids=lambda e: e.name)


@EACH
def test_agrees_with_numpy(example: literature.Example) -> None:
    spec = cascade.parse(example.text)
    for seed in range(3):
        arrays = drawn(spec, np.random.default_rng([seed, *example.name.encode()]))
        found, wanted = cascade.run(spec, arrays), REFERENCES[example.name](arrays)
        assert found.keys() == wanted.keys()
        for name, expected in wanted.items():
            np.testing.assert_allclose(found[name], expected, rtol=1e-10, atol=1e-10)


@EACH
def test_says_what_it_is_and_needs_one_pass(example: literature.Example) -> None:
    assert example.title and example.papers and example.offers
    assert cascade.parse(example.text).name == example.name
    assert len(cascade.parse(example.text).einsums) <= 5
    assert literature.passes(example)[2] == 1


def test_every_example_has_a_reference() -> None:
    assert {e.name for e in literature.examples()} == set(REFERENCES)
