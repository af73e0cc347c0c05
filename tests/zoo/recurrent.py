"""References of gated linear attention: explicit sums where a spec steps, steps where it sums."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.zoo.registry import Arrays, Mechanism, heads

Make = Callable[[np.random.Generator, int], Arrays]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def silu(x: Any) -> Any:
    return x * sigmoid(x)


def softplus(x: Any) -> Any:
    return np.log1p(np.exp(x))


def outer(x: Any, y: Any) -> Any:
    return x[..., :, None] * y[..., None, :]


def root_mean_square(x: Any, eps: float, axes: Any = -1) -> Any:
    return x / np.sqrt((x**2).mean(axes, keepdims=True) + eps)


def unit(x: Any) -> Any:
    return x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6)


def decays(a: Any) -> Any:
    """The product of the decays after m and up to p, for each m <= p, else 0; steps last."""
    length = a.shape[-1]
    found = np.zeros((*a.shape, length))
    for p in range(length):
        for m in range(p + 1):
            found[..., p, m] = a[..., m + 1 : p + 1].prod(-1)
    return found


def stepped(q: Any, k: Any, v: Any, decay: Any) -> Any:
    """What queries read of a state that decays and takes in a key and a value each step."""
    state = np.zeros((*q.shape[:2], q.shape[-1], v.shape[-1]), q.dtype)
    out = np.zeros(v.shape, q.dtype)
    for t in range(q.shape[2]):
        state = decay * state + outer(k[:, :, t], v[:, :, t])
        out[:, :, t] = (q[:, :, t, None, :] @ state)[..., 0, :]
    return out


def lightning(a: Arrays) -> Arrays:
    decay = np.exp(-a["slope"])[:, None, None]
    return {"O": stepped(a["Q"], a["K"], a["V"], decay)}


def transnormer(slopes: Callable[[Any, Any], Any]) -> Any:
    """The left product with its mask, then the norm over all channels of all heads."""

    def reference(a: Arrays) -> Arrays:
        heads_, length = a["Q"].shape[1:3]
        slope = slopes(np.arange(1, heads_ + 1) / heads_, a["layer"])
        distance = np.subtract.outer(np.arange(length), np.arange(length))
        mask = np.where(distance >= 0, np.exp(-slope[:, None, None] * abs(distance)), 0)
        scores = silu(a["Q"]) @ np.swapaxes(silu(a["K"]), -1, -2)
        return {"Y": root_mean_square((scores * mask) @ a["V"], 1e-6, (1, 3)) * a["U"]}

    return reference


def transnormer_first(a: Arrays) -> Arrays:
    """By the cosine of the angle between two steps."""
    heads_, length = a["Q"].shape[1:3]
    distance = np.subtract.outer(np.arange(length), np.arange(length))
    slope = geometric(np.arange(1, heads_ + 1) / heads_, 0)[:, None, None]
    mask = np.where(distance >= 0, np.exp(-slope * abs(distance)), 0)
    angle = np.cos(distance[..., None] * a["theta"][:, None, None])
    scores = np.einsum("bhpe,bhme,hpme,hpm->bhpm", silu(a["Q"]), silu(a["K"]), angle, mask)
    return {"Y": root_mean_square(scores @ a["V"], 1e-6, (1, 3)) * a["U"]}


def geometric(share: Any, layer: int) -> Any:
    return 2.0 ** (-8 * share) * (1 - layer / 23 + 1e-5)


def even(share: Any, layer: int) -> Any:
    return 8 * share * (1 - layer / 24)


def turned(a: Arrays) -> tuple[Any, Any, Any]:
    """Queries and conjugate keys as complex numbers, scaled, and the angles of a step."""
    width = a["Q"].shape[-1]
    q, k = (a[n][..., ::2] + 1j * a[n][..., 1::2] for n in "QK")
    return q / np.sqrt(width), k.conj(), 10000.0 ** -np.linspace(0, 1, width // 2)


def rates(a: Arrays) -> Any:
    return 1 - 2.0 ** (-5 - np.arange(a["Q"].shape[1]))


def group_norm(a: Arrays, out: Any) -> Arrays:
    middle = out - out.mean(-1, keepdims=True)
    return {"Y": silu(a["G"]) * root_mean_square(middle, a.get("eps", 1e-6))}


def retention(a: Arrays, rescale: bool = False) -> Arrays:
    """The parallel form of the paper; to `rescale` is its scaling of rows for numerics."""
    q, k, angle = turned(a)
    place = np.arange(q.shape[2])
    distance = np.subtract.outer(place, place)
    phase = np.exp(1j * angle * distance[..., None])
    scores = np.einsum("bhpc,bhmc,pmc->bhpm", q, k, phase).real
    mask = np.where(distance >= 0, rates(a)[:, None, None] ** abs(distance), 0)
    if rescale:
        mask = mask / np.sqrt(mask.sum(-1, keepdims=True))
    scores = scores * mask
    if rescale:
        scores = scores / np.maximum(abs(scores.sum(-1, keepdims=True)), 1)
    return group_norm(a, scores @ a["V"])


def retention_stepped(a: Arrays) -> Arrays:
    q, k, angle = turned(a)
    decay = rates(a)[:, None, None] * np.exp(1j * angle)[:, None]
    return group_norm(a, stepped(q, k, a["V"], decay).real)


def mamba2(a: Arrays) -> Arrays:
    """The dual form: a mask of products of decays on C times B."""
    share = a["X"].shape[1] // a["B"].shape[1]
    b, c = (np.repeat(a[n], share, 1) for n in "BC")
    dt = softplus(a["raw"] + a["bias"][:, None])
    mask = decays(np.exp(-np.exp(a["log_A"])[:, None] * dt))
    mixed = (c @ np.swapaxes(b, -1, -2) * mask) @ (dt[..., None] * a["X"])
    return {"Y": mixed + a["skip"][:, None, None] * a["X"]}


def gla(a: Arrays) -> Arrays:
    alpha = np.swapaxes(sigmoid(a["raw"]), -1, -2) ** (1 / 16)
    weights = np.einsum("bhpe,bhme,bhepm->bhpm", a["Q"], a["K"], decays(alpha))
    out = weights @ a["V"] / np.sqrt(a["Q"].shape[-1])
    return {"Y": root_mean_square(out, 1e-5) * a["gain"] * silu(a["G"])}


def delta(a: Arrays) -> Arrays:
    """Backwards from each query, which every earlier step reflects: a product of Householders."""
    q, k, v = unit(silu(a["Q"])), unit(silu(a["K"])), silu(a["V"])
    beta, out = sigmoid(a["raw"]), np.zeros(v.shape)
    for b, h, p in np.ndindex(out.shape[:3]):
        row = q[b, h, p] / np.sqrt(q.shape[-1])
        for m in range(p, -1, -1):
            part = beta[b, h, m] * (row @ k[b, h, m])
            out[b, h, p] += part * v[b, h, m]
            row = row - part * k[b, h, m]
    return {"Y": root_mean_square(out, 1e-5) * a["gain"]}


def gated_delta(a: Arrays) -> Arrays:
    """The parallel form: the corrected values solve one triangular system over all steps."""
    share = a["V"].shape[1] // a["K"].shape[1]
    q, k = (np.repeat(unit(silu(a[n])), share, 1) for n in "QK")
    rate = np.exp(a["log_A"])[:, None] * softplus(a["step"] + a["bias"][:, None])
    mask, beta = decays(np.exp(-rate)), sigmoid(a["raw"])[..., None]
    lower = np.tril(k @ np.swapaxes(k, -1, -2) * mask, -1)
    u = np.linalg.solve(np.eye(q.shape[2]) + beta * lower, beta * silu(a["V"]))
    out = (q @ np.swapaxes(k, -1, -2) * mask) @ u / np.sqrt(q.shape[-1])
    return {"Y": root_mean_square(out, 1e-5) * a["gain"] * silu(a["G"])}


def drawn(count: int = 3, **shapes: tuple[int, ...]) -> Make:
    """Heads of a length, and more of the shapes given, where 0 stands for the length."""

    def make(rng: np.random.Generator, length: int) -> Arrays:
        arrays = heads(rng, length, length, count)
        for name, shape in shapes.items():
            arrays[name] = rng.standard_normal([n or length for n in shape])
        return arrays

    return make


def with_slopes(rng: np.random.Generator, length: int) -> Arrays:
    return heads(rng, length, length) | {"slope": np.array([0.5, 0.03, 0.0])}


def state_space(rng: np.random.Generator, length: int) -> Arrays:
    draw = rng.standard_normal
    tokens = {"X": draw((2, 4, length, 5)), "raw": draw((2, 4, length))}
    shared = {"B": draw((2, 2, length, 3)), "C": draw((2, 2, length, 3))}
    return tokens | shared | {"bias": draw(4), "log_A": draw(4), "skip": draw(4)}


def grouped(rng: np.random.Generator, length: int) -> Arrays:
    """Four heads of values on two of keys."""
    draw = rng.standard_normal
    tokens = {n: draw((2, 2, length, 4)) for n in "QK"} | {n: draw((2, 4, length, 5)) for n in "VG"}
    gates = {n: draw((2, 4, length)) for n in ("raw", "step")}
    return tokens | gates | {"bias": draw(4), "log_A": draw(4), "gain": draw(5)}


GATE = (2, 3, 0, 5)
INPUTS: dict[str, Make] = {
    "lightning": with_slopes,
    "transnormer_llm": drawn(4, U=(2, 4, 0, 5)),
    "transnormer_llm_paper": drawn(4, U=(2, 4, 0, 5)),
    "transnormer_llm_first": drawn(4, U=(2, 4, 0, 5), theta=(4, 4)),
    "retnet": drawn(G=GATE),
    "retnet_parallel": drawn(G=GATE),
    "mamba2": state_space,
    "gla": drawn(raw=(2, 3, 0, 4), G=GATE, gain=(5,)),
    "delta_net": drawn(raw=(2, 3, 0), gain=(5,)),
    "gated_delta_net": grouped,
}


def mechanism(name: str, reference: Any, rank: str = "i", **others: Any) -> Mechanism:
    return Mechanism(name, lambda rng: INPUTS[name](rng, 7), reference, 1, 1, rank, **others)


MECHANISMS: tuple[Mechanism, ...] = (
    mechanism("lightning", lightning, "m"),
    mechanism("transnormer_llm", transnormer(geometric), params={"layer": 5}),
    mechanism("transnormer_llm_paper", transnormer(even), params={"layer": 5}),
    mechanism("transnormer_llm_first", transnormer_first),
    mechanism("retnet", retention),
    mechanism("retnet_parallel", retention_stepped, "m"),
    mechanism("mamba2", mamba2),
    mechanism("gla", gla),
    mechanism("delta_net", delta),
    mechanism("gated_delta_net", gated_delta),
)
