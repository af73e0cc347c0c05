"""References of the linear family: loops over rows and states, whole sums, transforms."""

from typing import Any

import numpy as np

from tests.zoo.registry import Arrays, Mechanism, heads, logits, weights
from tests.zoo.softmax import elu_plus_one, sigmoid

LENGTH = 21  # two chunks of 16, and seven of 3


def rows(score: Any, value: Any, normalised: bool, eps: float = 0.0) -> Any:
    """Row by row, `score(p, m)` of the keys so far by their values."""
    out = np.zeros(value.shape)
    for p in range(len(value)):
        for m in range(p + 1):
            out[p] += score(p, m) * value[m]
        if normalised:
            out[p] /= sum(score(p, m) for m in range(p + 1)) + eps
    return out


def causal(kernel: Any, normalised: bool, eps: float = 0.0) -> Any:
    """Attention by a kernel of a query and a key instead of the exponential."""

    def reference(a: Arrays) -> Arrays:
        out = np.zeros(a["V"].shape)
        for b, h in np.ndindex(out.shape[:2]):
            q, k = a["Q"][b, h], a["K"][b, h]
            score = {(p, m): kernel(q[p], k[m]) for p in range(len(q)) for m in range(p + 1)}
            out[b, h] = rows(lambda p, m, s=score: s[p, m], a["V"][b, h], normalised, eps)
        return {"O": out}

    return reference


def dot(q: Any, k: Any) -> Any:
    return q @ k


def features(q: Any, k: Any) -> Any:
    return elu_plus_one(q) @ elu_plus_one(k)


def taylor_map(x: Any) -> Any:
    """Features whose products are 1 + z + z^2/2, with z the scaled product."""
    return np.concatenate([[1], x / len(x) ** 0.25, np.outer(x, x).ravel() / np.sqrt(2 * len(x))])


def taylor(q: Any, k: Any) -> Any:
    return taylor_map(q) @ taylor_map(k)


def full(a: Arrays) -> Arrays:
    w = elu_plus_one(a["Q"]) @ np.swapaxes(elu_plus_one(a["K"]), -1, -2)
    return {"O": w / w.sum(-1, keepdims=True) @ a["V"]}


def normed(a: Arrays) -> Arrays:
    y = causal(features, False)(a)["O"]
    return {"O": y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)}


def normalised(a: Arrays) -> Arrays:
    y = causal(dot, False)(a)["O"]
    return {"O": y / np.exp(np.einsum("bpd,hd->bhp", a["U"], a["W"]))[..., None]}


def flow(a: Arrays, eps: float = 1e-6) -> Arrays:
    """By the whole matrix of flows between sinks and sources."""
    out = np.zeros((*a["Q"].shape[:3], a["V"].shape[-1]))
    for b, h in np.ndindex(out.shape[:2]):
        q, k, v = sigmoid(a["Q"][b, h]), sigmoid(a["K"][b, h]), a["V"][b, h]
        incoming = 1 / ((q + eps) @ (k.sum(0) + eps))
        outgoing = 1 / ((k + eps) @ (q.sum(0) + eps))
        sink = (q + eps) @ (k.T @ outgoing + eps)
        source = np.clip((k + eps) @ (q.T @ incoming + eps), -1, 1)
        share = weights(source[None])[0] * len(k)
        gate = sigmoid(sink * len(q) / len(k))
        out[b, h] = gate[:, None] * (incoming[:, None] * (q @ k.T)) @ (v * share[:, None])
    return {"O": out}


def flow_causal(a: Arrays, eps: float = 1e-6) -> Arrays:
    """Row by row, every sum made anew over the rows so far."""
    out = np.zeros(a["V"].shape)
    for b, h in np.ndindex(out.shape[:2]):
        q, k, v = sigmoid(a["Q"][b, h]), sigmoid(a["K"][b, h]), a["V"][b, h]
        incoming, outgoing, grown, share = np.zeros((4, len(v)))
        for i in range(len(v)):
            n, q0, k0 = i + 1, q[: i + 1], k[: i + 1]
            incoming[i] = n / ((q[i] + eps) @ (k0.sum(0) + eps))
            outgoing[i] = n / ((k[i] + eps) @ (q0.sum(0) + eps))
            sink = (q[i] + eps) @ (k0.T @ outgoing[:n] + eps) / n
            source = (k[i] + eps) @ (q0.T @ incoming[:n] + eps) / n
            grown[i] = np.exp(np.clip(source, -1, 1))
            share[i] = n * grown[i] / grown.sum()
            out[b, h, i] = sigmoid(sink) * incoming[i] / n * (k0 @ q[i] * share[:n]) @ v[:n]
    return {"O": out}


def window(a: Arrays) -> Arrays:
    place = np.arange(a["Q"].shape[2])
    ago = place[:, None] - place
    return {"O": weights(logits(a["Q"], a["K"]), (ago >= 0) & (ago < a["W"])) @ a["V"]}


def lstm(a: Arrays) -> Arrays:
    """Each token's contribution, by the forget gates of the tokens after it."""
    forget, enter, leave = (sigmoid(a["U"] @ a[n]) for n in ("WF", "WI", "WO"))
    new, out = enter * (a["U"] @ a["WX"]), np.zeros(forget.shape)
    for i in range(out.shape[1]):
        for j in range(i + 1):
            out[:, i] += new[:, j] * forget[:, j + 1 : i + 1].prod(1)
    return {"Y": out * leave}


def held(a: Arrays) -> Arrays:
    """The differential equation solved from step to step, its input held constant in each."""
    rate, size = -np.exp(a["AL"]), np.logaddexp(0, a["raw"] + a["bias"])
    state, out = np.zeros((len(size), *rate.shape)), np.zeros(size.shape)
    for i in range(size.shape[1]):
        rest = -a["B"][:, i, None] * a["U"][:, i, :, None] / rate  # where the state would end
        state = rest + np.exp(rate * size[:, i, :, None]) * (state - rest)
        out[:, i] = np.einsum("bs,bds->bd", a["C"][:, i], state) + a["skip"] * a["U"][:, i]
    return {"Y": out}


def pooled(a: Arrays) -> Arrays:
    out, reach = np.zeros(a["U"].shape), a["R"] // 2
    for y, x in np.ndindex(out.shape[1:3]):
        near = a["U"][:, max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        out[:, y, x] = near.mean((1, 2)) - a["U"][:, y, x]
    return {"O": out}


def toeplitz(first: int) -> Any:
    """`first` is the relative position of the first coefficient of the table."""

    def reference(a: Arrays) -> Arrays:
        out = np.zeros(a["X"].shape)
        for n, coefficient in enumerate(a["T"]):
            ago = n + first
            for p in range(out.shape[1]):
                if 0 <= p - ago < out.shape[1]:
                    out[:, p] += a["decay"] ** abs(ago) * coefficient * a["X"][:, p - ago]
        return {"Y": out}

    return reference


def whole(a: Arrays) -> Arrays:
    """The chunks of all devices as one sequence."""
    return {n: x.reshape(*x.shape[:2], -1, x.shape[-1]) for n, x in a.items() if n in "QKV"}


def devices(attend: Any) -> Any:
    return lambda a: {"O": attend(whole(a)).reshape(a["V"].shape)}


def softmax(a: Arrays) -> Any:
    return weights(logits(a["Q"], a["K"]), np.tri(a["Q"].shape[2], dtype=bool)) @ a["V"]


def square(rng: np.random.Generator) -> Arrays:
    return heads(rng, LENGTH, LENGTH)


def drawn(rng: np.random.Generator, **shapes: tuple[int, ...]) -> Arrays:
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def tokens(rng: np.random.Generator) -> Arrays:
    more = drawn(rng, U=(2, LENGTH, 3), W=(3, 3))
    return heads(rng, LENGTH, LENGTH) | more | {"W": more["W"] / 8}


def of(**shapes: tuple[int, ...]) -> Any:
    return lambda rng: drawn(rng, **shapes)


def spread(count: int, length: int) -> Any:
    """Queries, keys and values on so many devices."""
    sizes = (2, 3, count, length)
    return of(Q=(*sizes, 4), K=(*sizes, 4), V=(*sizes, 5))


CHANNELS = {name: (4, 3) for name in ("WF", "WI", "WX", "WO")}
STATES = {
    "U": (2, LENGTH, 3),
    "raw": (2, LENGTH, 3),
    "bias": (3,),
    "AL": (3, 4),
    "B": (2, LENGTH, 4),
    "C": (2, LENGTH, 4),
    "skip": (3,),
}

MECHANISMS: tuple[Mechanism, ...] = (
    Mechanism("linear_attention", square, causal(features, True), 2, 1),
    Mechanism("linear_attention_full", lambda rng: heads(rng, 6, 9), full, 2, 1),
    Mechanism("norm_attention", square, normed, 1, 1, note="the norm is over f, where it is 2"),
    Mechanism("normalised_attention", tokens, normalised, 1, 1),
    Mechanism("flowformer", lambda rng: heads(rng, 6, 9), flow, 4, 2),
    Mechanism("flowformer_causal", square, flow_causal, 1, 1, rank="i"),
    Mechanism("based", square, causal(taylor, True, 1e-12), 2, 1),
    Mechanism("based_window", square, window, 3, 1, params={"W": 4}),
    Mechanism("quasi_lstm", of(U=(2, LENGTH, 4), **CHANNELS), lstm, 1, 1, rank="i"),
    Mechanism("s6", of(**STATES), held, 1, 1, rank="i"),
    Mechanism("pool_former", of(U=(2, 5, 6, 3)), pooled, 1, 1, rank="j", params={"R": 3}),
    Mechanism(
        "fnet",
        of(X=(2, 9, 6)),
        lambda a: {"Y": np.fft.fft2(a["X"]).real},
        1,
        1,
    ),
    Mechanism("toeplitz", of(T=(17, 3), X=(2, 9, 3)), toeplitz(-8), 1, 1, params={"decay": 0.9}),
    Mechanism(
        "toeplitz_causal", of(T=(9, 3), X=(2, 9, 3)), toeplitz(0), 1, 1, params={"decay": 0.9}
    ),
    Mechanism(
        "lasp2",
        spread(3, 7),
        devices(lambda a: causal(dot, False)(a)["O"]),
        1,
        1,
        literature=(2, 1),
    ),
    Mechanism(
        "lasp2_full",
        spread(3, 7),
        devices(lambda a: a["Q"] @ (np.swapaxes(a["K"], -1, -2) @ a["V"])),
        1,
        1,
    ),
    Mechanism("lasp2h", spread(3, 7), devices(softmax), 3, 1),
)

# Those with a state: their chunked form means the same whatever the size of a chunk.
CHUNKED = (
    "linear_attention",
    "norm_attention",
    "normalised_attention",
    "flowformer_causal",
    "based",
    "quasi_lstm",
    "s6",
    "lasp2",
)
