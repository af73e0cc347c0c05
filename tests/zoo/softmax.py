"""References of the softmax family, in NumPy from the maths of each source."""

import itertools
from math import erf
from typing import Any

import numpy as np

from tests.zoo.registry import Arrays, Mechanism, heads, logits, positions, weights


def causal(a: Arrays) -> Any:
    p, m = positions(a["Q"].shape[-2], a["K"].shape[-2])
    return m <= p


def attend(a: Arrays, visible: Any = True) -> Arrays:
    return {"O": weights(logits(a["Q"], a["K"]), visible) @ a["V"]}


def log_sum(scores: Any) -> Any:
    with np.errstate(divide="ignore"):
        return np.log(np.exp(scores).sum(-1))


def flash(a: Arrays) -> Arrays:
    shown = np.where(causal(a), logits(a["Q"], a["K"]), -np.inf)
    return attend(a, causal(a)) | {"LSE": log_sum(shown)}


def moh_inputs(rng: np.random.Generator) -> Arrays:
    draw = rng.standard_normal
    gates = {"X": draw((2, 7, 6)), "WS": draw((1, 6)), "WR": draw((4, 6)), "WA": draw((2, 6))}
    return gates | heads(rng, keys=9, count=5) | {"WO": draw((5, 5, 3))}


def moh(a: Arrays, scaled: bool) -> Arrays:
    x, keep = a["X"], int(a["J"])
    shared, routed, split = (weights(x @ a[w].T) for w in ("WS", "WR", "WA"))
    kept = np.zeros_like(routed)
    for b, p in np.ndindex(routed.shape[:2]):
        best = np.argsort(-routed[b, p], kind="stable")[:keep]
        kept[b, p, best] = routed[b, p, best]
    if scaled:
        kept = keep * kept / kept.sum(-1, keepdims=True)
        shared, split = shared * shared.shape[-1], 2 * split
    gates = np.concatenate([split[..., :1] * shared, split[..., 1:] * kept], -1)
    return {"Y": np.einsum("bph,bhpf,hfn->bpn", gates, attend(a)["O"], a["WO"])}


def moh_llama(a: Arrays) -> Arrays:
    length = np.sqrt((a["Q"] ** 2).sum(-1))
    on = np.zeros_like(length)
    on[:, : a["S"]] = 1
    for b, p in np.ndindex(length.shape[0], length.shape[2]):
        best = np.argsort(-length[b, a["S"] :, p], kind="stable")[: a["J"]]
        on[b, a["S"] + best, p] = 1
    output = attend(a, causal(a))["O"]
    return {"Y": np.einsum("bhp,bhpf,hfn->bpn", on, output, a["WO"])}


def spans(a: Arrays) -> Arrays:
    p, m = positions(7, 7)
    block = a["L"]
    band = p // block - m // block < np.maximum(a["span"], 1)[:, None, None]
    return attend(a, (m <= p) & (band | (m < block)))


def spans_of_tokens(a: Arrays) -> Arrays:
    p, m = positions(7, 7)
    span = (a["alpha"] + a["beta"] * 7)[:, None, None]
    return attend(a, (m <= p) & ((p - m < span) | (m < a["sinks"])))


def duo(a: Arrays) -> Arrays:
    p, m = positions(7, 7)
    streaming = attend(a, (m <= p) & ((m < a["sinks"]) | (p - m < a["recent"])))["O"]
    part = a["alpha"][:, None, None]
    return {"O": part * attend(a, m <= p)["O"] + (1 - part) * streaming}


def duo_decode(a: Arrays) -> Arrays:
    p, m = positions(2, 9)
    whole = a["retrieval"][:, None, None]
    return attend(a, (m <= p) & (whole | (m < a["sinks"]) | (p - m <= a["recent"])))


def razor(a: Arrays) -> Arrays:
    """Every dropped key replaced by the mean of the dropped keys: the published equation."""
    k, v = a["K"].copy(), a["V"].copy()
    for h, last in enumerate(a["last"]):
        lost = slice(a["first"], max(k.shape[2] - last, a["first"]))
        if k[:, h, lost].shape[1]:
            k[:, h, lost] = k[:, h, lost].mean(1, keepdims=True)
            v[:, h, lost] = v[:, h, lost].mean(1, keepdims=True)
    return attend(a | {"K": k, "V": v})


def sink_bias(a: Arrays) -> Arrays:
    """The bias as a key before the others, as the published code has it."""
    first = np.broadcast_to(a["KB"][:, None], (2, 3, 1, 4))
    value = np.broadcast_to(a["VB"][:, None], (2, 3, 1, 5))
    keys = np.concatenate([first, a["K"]], 2)
    values = np.concatenate([value, a["V"]], 2)
    seen = np.concatenate([np.ones((7, 1), bool), causal(a)], 1)
    return attend({"Q": a["Q"], "K": keys, "V": values}, seen)


def unnormalised(function: Any, divide: bool) -> Any:
    def reference(a: Arrays) -> Arrays:
        w = np.where(causal(a), function(logits(a["Q"], a["K"])), 0)
        return {"O": (w / (w.sum(-1, keepdims=True) + 1e-8) if divide else w) @ a["V"]}

    return reference


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def elu_plus_one(x: Any) -> Any:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0))) + 1


def calibrated(a: Arrays) -> Arrays:
    """The published loop: shrink the sinks, hand what is freed to the others in proportion."""
    w = weights(logits(a["Q"], a["K"]), causal(a))
    size = w.shape[-1]
    sink = w.sum(-2) / (size - np.arange(size)) > a["threshold"]
    sink[..., 0] = False
    for b, h, p in np.ndindex(w.shape[:3]):
        row, at = w[b, h, p], sink[b, h]
        freed = (1 - a["keep"]) * row[at].sum()
        row[at] *= a["keep"]
        row[~at] += freed * row[~at] / row[~at].sum()
    return {"O": w @ a["V"]}


def zero_tuning(a: Arrays) -> Arrays:
    """As a bias of the first logit, the form of the later versions."""
    scores = logits(a["Q"], a["K"])
    scores[..., 0] += np.log(a["gamma"])[:, None]
    return {"O": weights(scores, causal(a)) @ a["V"]}


def agent_inputs(rng: np.random.Generator) -> Arrays:
    draw = rng.standard_normal
    return heads(rng, 6, 9) | {"B1": draw((3, 2, 9)), "B2": draw((3, 6, 2))}


def agent(a: Arrays) -> Arrays:
    pooled = np.stack([a["Q"][:, :, :3].mean(2), a["Q"][:, :, 3:].mean(2)], 2)
    gathered = weights(logits(pooled, a["K"]) + a["B1"]) @ a["V"]
    return {"O": weights(logits(a["Q"], pooled) + a["B2"]) @ gathered}


def grid_inputs(rng: np.random.Generator) -> Arrays:
    """A grid of 6 by 6, and 3 by 3 agents."""
    draw = rng.standard_normal
    biases = {"B1": draw((3, 9, 36)), "B2": draw((3, 36, 9)), "bias": draw((3, 5))}
    return heads(rng, 36, 36) | biases | {"W": draw((3, 5, 3, 3))}


def agent_image(a: Arrays) -> Arrays:
    """On images, whose borders are padded with zeros before the convolution."""
    side, agents = 6, 3
    size = side // agents
    image = a["Q"].reshape(2, 3, agents, size, agents, size, 4)
    pooled = image.mean((3, 5)).reshape(2, 3, agents**2, 4)
    gathered = weights(logits(pooled, a["K"]) + a["B1"]) @ a["V"]
    out = weights(logits(a["Q"], pooled) + a["B2"]) @ gathered
    values = np.pad(a["V"].reshape(2, 3, side, side, 5), [(0, 0)] * 2 + [(1, 1)] * 2 + [(0, 0)])
    for y, x in np.ndindex(3, 3):
        moved = values[:, :, y : y + side, x : x + side].reshape(2, 3, side**2, 5)
        out = out + a["W"][:, None, :, y, x] * moved
    return {"O": out + a["bias"][:, None]}


def kernel(a: Arrays) -> Arrays:
    w = np.where(causal(a), logits(a["Q"], a["K"]), 0)
    return {"O": w / np.maximum(abs(w.sum(-1, keepdims=True)), 1) @ a["V"]}


def bam_inputs(shared: bool) -> Any:
    def inputs(rng: np.random.Generator) -> Arrays:
        draw = rng.standard_normal
        keys = (2, 3) if shared else (2, 2, 3)
        return {
            "U": draw((2, 7, 6)),
            "WR": draw((2, 6)),
            "Q": draw((2, 2, 3, 7, 4)),
            "K": draw((*keys, 7, 4)),
            "V": draw((*keys, 7, 5)),
            "WO": draw((2, 3, 5, 6)),
        }

    return inputs


def bam(a: Arrays) -> Arrays:
    gate, total = weights(a["U"] @ a["WR"].T), 0.0
    for x in range(2):
        own = [t if t.ndim == 4 else t[:, x] for t in (a["K"], a["V"])]
        out = attend({"Q": a["Q"][:, x], "K": own[0], "V": own[1]}, np.tri(7, dtype=bool))["O"]
        total = total + gate[..., x, None] * np.einsum("bhpf,hfn->bpn", out, a["WO"][x])
    return {"Y": total}


def s2(a: Arrays) -> Arrays:
    p, m = positions(7, 7)
    i, j = p // a["L"], m // a["L"]
    h = np.arange(3)[:, None, None]
    step = max(1, a["stride"] // 3)
    seen = (m <= p) & ((i - j < a["local"]) | ((j + h * step) % a["stride"] == 0))
    shown = np.where(seen, logits(a["Q"], a["K"]), -np.inf)
    return attend(a, seen) | {"LSE": log_sum(shown)}


def dyvte(a: Arrays) -> Arrays:
    gone = a["visual"] & a["exited"][:, None]
    return attend(a, causal(a) & ~gone[:, None, None, :])


def gate_inputs(rng: np.random.Generator) -> Arrays:
    draw = rng.standard_normal
    arrays = {"X": draw((4, 7, 6)), "text": np.arange(7) >= np.array([[2], [0], [6], [4]])}
    arrays["text"][2, 1] = True
    return arrays | {"WM": draw((5, 6)), "WL": draw((5, 6)), "WE": draw((2, 5))}


def gate(a: Arrays) -> Arrays:
    """One input after the other, as a vector of twice the width."""
    out = []
    for x, text in zip(a["X"], a["text"], strict=True):
        feature = np.concatenate([x[:-1][text[:-1]].mean(0), x[-1]])
        hidden = np.concatenate([a["WM"], a["WL"]], 1) @ feature
        grown = hidden * (1 + np.vectorize(erf)(hidden / np.sqrt(2))) / 2
        stay, leave = a["WE"] @ grown
        out.append(leave > stay)
    return {"EXIT": np.array(out)}


def isolation(a: Arrays) -> Arrays:
    q, k = a["query_subject"][:, None, :, None], a["key_subject"][:, None, None, :]
    return attend(a, (q == 0) | (k == 0) | (q == k))


def selective(a: Arrays) -> Arrays:
    place = np.log(np.arange(1, 8))

    def heat(token: Any, slope: Any) -> Any:
        return (np.tanh(token) + 1 + sigmoid(slope)[:, None] * place)[..., None]

    q, v = a["Q"] * heat(a["TQ"], a["alpha"]), a["V"] * heat(a["TV"], a["beta"])
    return attend(a | {"Q": q, "V": v}, causal(a))


def pooling(a: Arrays) -> Arrays:
    x = a["X"] + a["embedding"]
    k = np.einsum("bld,hed->bhle", x, a["WK"])
    v = np.einsum("bld,hfd->bhlf", x, a["WV"])
    q = np.broadcast_to(np.moveaxis(a["latent"], 0, 1), (2, 3, 4, 5))
    return {"Y": attend({"Q": q, "K": k, "V": v})["O"].mean(2)}


def lanes(a: Arrays) -> Arrays:
    x = a["X"][:, None]
    return {"Y": weights(logits(a["selector"], x)) @ x}


def statistics(a: Arrays) -> Arrays:
    w, g = weights(logits(a["Q"], a["K"])), a["G"]
    hop = np.zeros((*w.shape[:3], g))
    for p in range(w.shape[2]):
        for m in range(w.shape[3]):
            distance = max(abs(p // g - m // g), abs(p % g - m % g))
            if distance < g:
                hop[:, :, p, distance] += w[:, :, p, m]
    entropy = -(w * np.log(w)).sum(-1)
    return attend(a) | {"HOP": hop, "ENT": entropy, "PEAK": w.max(-1)}


def divergence(a: Arrays) -> Arrays:
    whole = attend(a)["O"]
    text = attend(a, ~a["visual"][:, None, None, :])["O"]
    return {"O": whole, "VHD": np.linalg.norm(whole - text, axis=-1)}


def regression_inputs(rng: np.random.Generator) -> Arrays:
    draw = rng.standard_normal
    arrays = {"X": draw((2, 9, 4)), "y": draw((2, 9)), "query": draw((2, 3, 4))}
    return arrays | {"omega": draw(3), "mu": draw(3)}


def regression(a: Arrays) -> Arrays:
    scores = np.einsum("bpd,bmd->bpm", a["query"], a["X"])
    rows = [
        mu * np.einsum("bpm,bm->bp", weights(omega * scores), a["y"])
        for omega, mu in zip(a["omega"], a["mu"], strict=True)
    ]
    return {"Y": sum(rows)}


def bounded(a: Arrays) -> Arrays:
    slots = weights(np.swapaxes(a["K"] @ np.swapaxes(a["control"], 1, 2), -1, -2))
    return attend({"Q": a["Q"], "K": slots @ a["K"], "V": slots @ a["V"]})


def routing(a: Arrays) -> Arrays:
    w = weights(logits(a["Q"], a["K"]))
    scores = np.einsum("bhmf,xhf->bmx", w @ a["V"], a["WR"])
    return {"O": w @ a["V"], "G": w @ scores[:, None]}


def opera(a: Arrays) -> Arrays:
    """Column by column, row by row, as the published loop goes."""
    w = weights(logits(a["Q"], a["K"]), causal(a)).max(1)
    w = w / w.sum(-1, keepdims=True)
    columns = np.ones((2, 7))
    for j in range(7):
        for i in range(j, 7):
            columns[:, j] *= a["sigma"] * w[:, i, j]
    return {"C": columns, "PHI": columns.max(-1)}


def sparsifiner(a: Arrays) -> Arrays:
    """Row by row: a sparse coefficient, a guess of the row, its largest places."""
    basis = np.where(np.abs(a["up"]) > a["least"], np.abs(a["up"]), 0)
    out = np.zeros((2, 3, 7, 5))
    for b, h, p in np.ndindex(2, 3, 7):
        low = a["down"].T @ a["CK"][b, h] @ a["CQ"][b, h, p] / np.sqrt(3)
        part = weights(low)
        part[np.argsort(-part, kind="stable")[a["I"] :]] = 0
        seen = np.zeros(9, bool)
        seen[np.argsort(-(basis @ part), kind="stable")[: a["J"]]] = True
        scores = a["K"][b, h] @ a["Q"][b, h, p] / np.sqrt(4)
        out[b, h, p] = weights(scores, seen | (p == 0)) @ a["V"][b, h]
    return {"O": out}


def halo_inputs(rng: np.random.Generator) -> Arrays:
    draw = rng.standard_normal
    image = {"Q": draw((1, 2, 5, 4, 3)), "K": draw((1, 2, 5, 4, 3)), "V": draw((1, 2, 5, 4, 2))}
    return image | {"RY": draw((7, 3)), "RX": draw((7, 3))}


def halo(a: Arrays) -> Arrays:
    """Pixel by pixel, over the pixels of the image within the block's window."""
    return windows(a, padded=False)


def windows(a: Arrays, padded: bool) -> Arrays:
    """With padding, the pixels outside the image are keys and values of zeros."""
    block, ring, out = a["L"], a["R"], np.zeros(a["V"].shape)
    window = block + 2 * ring
    _, count, rows, columns, width = a["Q"].shape
    for h, y, x in np.ndindex(count, rows, columns):
        top, left = y - y % block - ring, x - x % block - ring
        scores, values = [], []
        for v, u in itertools.product(range(top, top + window), range(left, left + window)):
            inside = 0 <= v < rows and 0 <= u < columns
            if not inside and not padded:
                continue
            q = a["Q"][0, h, y, x]
            offset = v - top - y % block, u - left - x % block
            bias = a["RY"][offset[0] + window - 1] + a["RX"][offset[1] + window - 1]
            key, value = (a[n][0, h, v % rows, u % columns] * inside for n in "KV")
            scores.append(q @ key / np.sqrt(width) + q @ bias)
            values.append(value)
        out[0, h, y, x] = weights(np.array(scores)) @ np.array(values)
    return {"O": out}


def shared_prompt(a: Arrays) -> Arrays:
    """Each trial by itself, the prompt in front of its own keys."""
    out = [
        weights(logits(q, np.concatenate([a["KP"], k], 1))) @ np.concatenate([a["VP"], v], 1)
        for q, k, v in zip(a["Q"], a["K"], a["V"], strict=True)
    ]
    return {"O": np.stack(out)}


def more(shape: dict[str, int], **others: Any) -> Any:
    """Heads of these sizes, and other inputs each drawn by its own function."""
    return lambda rng: heads(rng, **shape) | {name: f(rng) for name, f in others.items()}


SQUARE: dict[str, int] = {}
CROSS = {"keys": 9}
LABELS = {
    "query_subject": lambda rng: rng.integers(0, 3, (2, 7)),
    "key_subject": lambda rng: rng.integers(1, 5, (2, 7)),
}
SELECTIVE = {
    "TQ": lambda rng: rng.standard_normal((2, 3, 7)),
    "TV": lambda rng: rng.standard_normal((2, 3, 7)),
    "alpha": lambda rng: rng.standard_normal(3),
    "beta": lambda rng: rng.standard_normal(3),
}
POOLING = lambda rng: {  # noqa: E731
    "X": rng.standard_normal((2, 9, 6)),
    "embedding": rng.standard_normal((9, 6)),
    "latent": rng.standard_normal((4, 3, 5)),
    "WK": rng.standard_normal((3, 5, 6)),
    "WV": rng.standard_normal((3, 2, 6)),
}

MECHANISMS: tuple[Mechanism, ...] = (
    Mechanism(
        "sparsifiner",
        more(
            CROSS,
            CQ=lambda rng: rng.standard_normal((2, 3, 7, 2)),
            CK=lambda rng: rng.standard_normal((2, 3, 9, 2)),
            down=lambda rng: rng.standard_normal((9, 4)),
            up=lambda rng: rng.standard_normal((9, 4)),
        ),
        sparsifiner,
        3,
        1,
        params={"I": 2, "J": 4, "least": 0.1},
        literature=(5, 2),
    ),
    Mechanism(
        "opera",
        lambda rng: {k: v for k, v in heads(rng).items() if k != "V"},
        opera,
        4,
        3,
        params={"sigma": 5},
        literature=(4, 2),
    ),
    Mechanism("halo", halo_inputs, halo, 3, 1, rank="j", params={"L": 2, "R": 1}),
    Mechanism(
        "halo_padded",
        halo_inputs,
        lambda a: windows(a, padded=True),
        3,
        1,
        rank="j",
        params={"L": 2, "R": 1},
    ),
    Mechanism(
        "shared_prompt",
        more(
            {"rows": 2, "keys": 4},
            KP=lambda rng: rng.standard_normal((3, 6, 4)),
            VP=lambda rng: rng.standard_normal((3, 6, 5)),
        ),
        shared_prompt,
        2,
        1,
    ),
    Mechanism("flash_attention", more({"rows": 9, "keys": 7}), flash, 3, 1, note="2 empty rows"),
    Mechanism("mixture_of_heads", moh_inputs, lambda a: moh(a, True), 3, 1, params={"J": 2}),
    Mechanism("mixture_of_heads_paper", moh_inputs, lambda a: moh(a, False), 3, 1, params={"J": 2}),
    Mechanism(
        "mixture_of_heads_llama",
        more({"count": 4}, WO=lambda rng: rng.standard_normal((4, 5, 3))),
        moh_llama,
        3,
        1,
        params={"S": 1, "J": 2},
    ),
    Mechanism(
        "mixture_of_spans",
        more(SQUARE, span=lambda rng: np.array([-3, 2, 9])),
        spans,
        3,
        1,
        params={"L": 2},
    ),
    Mechanism(
        "mixture_of_spans_paper",
        more(
            SQUARE,
            alpha=lambda rng: np.array([-3.0, 2.0, 1.0]),
            beta=lambda rng: np.array([0.2, 0.0, 0.5]),
        ),
        spans_of_tokens,
        3,
        1,
        params={"sinks": 2},
    ),
    Mechanism(
        "duo_attention",
        more(SQUARE, alpha=lambda rng: rng.uniform(size=3)),
        duo,
        3,
        1,
        params={"sinks": 1, "recent": 2},
    ),
    Mechanism(
        "duo_attention_decode",
        more({"rows": 2, "keys": 9}, retrieval=lambda rng: np.array([True, False, False])),
        duo_decode,
        3,
        1,
        params={"sinks": 1, "recent": 2},
    ),
    Mechanism(
        "razor_attention",
        more({"rows": 2, "keys": 9}, last=lambda rng: np.array([2, 5, 20])),
        razor,
        2,
        1,
        params={"first": 3},
        literature=(3, 1),
    ),
    Mechanism(
        "sink_bias",
        more(
            SQUARE,
            KB=lambda rng: rng.standard_normal((3, 4)),
            VB=lambda rng: rng.standard_normal((3, 5)),
        ),
        sink_bias,
        3,
        1,
    ),
    Mechanism(
        "sink_value_bias",
        more(SQUARE, VB=lambda rng: rng.standard_normal((3, 5))),
        lambda a: {"O": attend(a, causal(a))["O"] + a["VB"][:, None]},
        3,
        1,
    ),
    Mechanism("sink_sigmoid", more(SQUARE), unnormalised(sigmoid, False), 1, 1),
    Mechanism("sink_sigmoid_normalised", more(SQUARE), unnormalised(sigmoid, True), 2, 1),
    Mechanism("sink_elu", more(SQUARE), unnormalised(elu_plus_one, False), 1, 1),
    Mechanism("sink_elu_normalised", more(SQUARE), unnormalised(elu_plus_one, True), 2, 1),
    Mechanism(
        "attention_calibration",
        more(SQUARE),
        calibrated,
        4,
        3,
        params={"threshold": 0.2, "keep": 0.4},
        differentiable=False,
        literature=(6, 3),
    ),
    Mechanism(
        "zero_tuning",
        more(SQUARE, gamma=lambda rng: rng.uniform(0.2, 3, 3)),
        zero_tuning,
        4,
        1,
    ),
    Mechanism("agent_attention", agent_inputs, agent, 3, 1),
    Mechanism("agent_attention_image", grid_inputs, agent_image, 3, 1, params={"G": 6, "S": 2}),
    Mechanism("sink_kernel", more(SQUARE), kernel, 2, 1),
    Mechanism("bam", bam_inputs(False), bam, 3, 1),
    Mechanism("bam_shared", bam_inputs(True), bam, 3, 1),
    Mechanism("s2_attention", more(SQUARE), s2, 3, 1, params={"L": 2, "local": 1, "stride": 3}),
    Mechanism(
        "dyvte",
        more(
            SQUARE,
            visual=lambda rng: np.arange(7)[None] < np.array([[3], [4]]),
            exited=lambda rng: np.array([True, False]),
        ),
        dyvte,
        3,
        1,
    ),
    Mechanism("dyvte_gate", gate_inputs, gate, 1, 1, rank="p", differentiable=False),
    Mechanism("isolation", more(SQUARE, **LABELS), isolation, 3, 1),
    Mechanism("selective_self_attention", more(SQUARE, **SELECTIVE), selective, 3, 1),
    Mechanism(
        "lean_attention",
        more(CROSS, start=lambda rng: np.array([0, 2, 2, 7, 9])),
        attend,
        2,
        1,
        note="runs of 2, 0, 5 and 2 keys; 2 as written: each run is a local softmax",
        literature=(3, 1),
    ),
    Mechanism("layer_pooling", POOLING, pooling, 3, 1, rank="l"),
    Mechanism(
        "multi_lane",
        lambda rng: {
            "X": rng.standard_normal((2, 9, 6)),
            "selector": rng.standard_normal((3, 2, 6)),
        },
        lanes,
        3,
        1,
    ),
    Mechanism("head_statistics", more({"rows": 6, "keys": 9}), statistics, 3, 1, params={"G": 3}),
    Mechanism(
        "vision_divergence",
        more(CROSS, visual=lambda rng: np.arange(9)[None] < np.array([[4], [9]])),
        divergence,
        3,
        1,
        note="one row has an image and no text",
    ),
    Mechanism("in_context_regression", regression_inputs, regression, 3, 1),
    Mechanism(
        "bounded_memory",
        more(CROSS, control=lambda rng: rng.standard_normal((3, 4, 4))),
        bounded,
        3,
        1,
    ),
    Mechanism(
        "attention_aware_routing",
        more(SQUARE, WR=lambda rng: rng.standard_normal((2, 3, 5))),
        routing,
        4,
        2,
    ),
)
