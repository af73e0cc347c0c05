"""What each shipped example computes, as float64 NumPy written from the maths, row by row.

A formula takes the inputs of an example as a dictionary, and its extents and params as another. It
knows nothing of absence: a query that sees no key gives 0.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any  # an ndarray
Arrays = dict[str, Any]
Numbers = dict[str, Any]
Formula = Callable[[Arrays, Numbers], Arrays]


# -- parts
def scale(x: Arrays) -> float:
    """1/sqrt(E); without a width every logit is 0."""
    return 1 / math.sqrt(max(1, x["Q"].shape[-1]))


def logits(x: Arrays, q: str = "Q", k: str = "K") -> Array:
    return scale({"Q": x[q]}) * np.einsum("bhpe,bhme->bhpm", x[q], x[k])


def softmax(row: Array) -> Array:
    """The softmax of one row, which may be empty."""
    if not row.size:
        return row
    shares = np.exp(row - row.max())
    return shares / shares.sum()


def weights(scores: Array, seen: Array | None = None) -> Array:
    """The softmax of every row over the keys it sees, 0 elsewhere."""
    seen = np.ones(scores.shape, bool) if seen is None else np.broadcast_to(seen, scores.shape)
    result = np.zeros(scores.shape)
    for at in np.ndindex(scores.shape[:-1]):
        result[at][seen[at]] = softmax(scores[at][seen[at]])
    return result


def mix(share: Array, x: Arrays) -> Array:
    return np.einsum("bhpm,bhmf->bhpf", share, x["V"])


def causal_mask(scores: Array) -> Array:
    queries, keys = scores.shape[-2:]
    return np.arange(keys) <= np.arange(queries)[:, None]


def attend(scores: Array, x: Arrays, seen: Array | None = None) -> Arrays:
    return {"O": mix(weights(scores, seen), x)}


def unit(vectors: Array, eps: float) -> Array:
    return vectors / np.sqrt((vectors**2).sum(-1, keepdims=True) + eps)


# -- the cascades of FuseMax
def attention(x: Arrays, n: Numbers) -> Arrays:
    return attend(logits(x), x)


def pedagogical(x: Arrays, n: Numbers) -> Arrays:
    return {"Z": np.dot(x["A"], x["B"]) * x["A"].sum()}


# -- masks
def causal(x: Arrays, n: Numbers) -> Arrays:
    scores = logits(x)
    seen = causal_mask(scores)
    lse = np.full(scores.shape[:-1], -np.inf)
    for at in np.ndindex(lse.shape):
        row = scores[at][seen[at[-1]]]
        if row.size:
            lse[at] = row.max() + np.log(np.exp(row - row.max()).sum())
    return {"O": mix(weights(scores, seen), x), "LSE": lse}


def sliding_window(x: Arrays, n: Numbers) -> Arrays:
    scores = logits(x)
    seen = np.zeros(scores.shape, bool)
    for b, h, p, m in np.ndindex(scores.shape):
        recent = p - x["window"][h] < m <= p
        sink = m <= p and m < n.get("sinks", 4)
        seen[b, h, p, m] = recent or sink
    return attend(scores, x, seen)


def document_mask(x: Arrays, n: Numbers) -> Arrays:
    scores = logits(x)
    same = x["query_document"][:, None, :, None] == x["key_document"][:, None, None, :]
    return attend(scores, x, same & causal_mask(scores))


# -- edits of the logits
def alibi(x: Arrays, n: Numbers) -> Arrays:
    scores = logits(x)
    for _, h, p, m in np.ndindex(scores[:1].shape):
        scores[:, h, p, m] -= 2.0 ** (-8 * (h + 1) / scores.shape[1]) * (p - m)
    return attend(scores, x, causal_mask(scores))


def soft_cap(x: Arrays, n: Numbers) -> Arrays:
    cap = n.get("cap", 50)
    return attend(cap * np.tanh(logits(x) / cap), x)


def quantised_keys(x: Arrays, n: Numbers) -> Arrays:
    """Attention over the keys and values that the numbers of 8 bits stand for."""
    keys = x["K"] * x["key_scale"][..., None]
    values = x["V"] * x["value_scale"][:, None, None]
    return attend(logits({"Q": x["Q"], "K": keys}), {"V": values})


def rotary(x: Arrays, n: Numbers) -> Arrays:
    """Pairs as complex numbers: position p turns pair i by the angle p * base^(-2i/E)."""

    def turned(vectors: Array) -> Array:
        length, width = vectors.shape[-2:]
        half = width // 2
        rates = [n.get("base", 10000.0) ** (-2 * i / width) for i in range(half)]
        turns = np.exp(1j * np.outer(np.arange(length), rates))
        pairs = (vectors[..., :half] + 1j * vectors[..., half:]) * turns
        return np.concatenate([pairs.real, pairs.imag], -1)

    return attend(logits({"Q": turned(x["Q"]), "K": turned(x["K"])}), x)


def cosine_attention(x: Arrays, n: Numbers) -> Arrays:
    eps = n.get("eps", 1e-6)
    cosines = np.einsum("bhpe,bhme->bhpm", unit(x["Q"], eps), unit(x["K"], eps))
    return attend(cosines / x["tau"][:, None, None], x)


# -- other weights than a softmax of all logits
def sigmoid_attention(x: Arrays, n: Numbers) -> Arrays:
    scores = logits(x)
    bias = n.get("bias", -math.log(max(1, scores.shape[-1])))
    with np.errstate(over="ignore"):
        return {"O": mix(1 / (1 + np.exp(-(scores + bias))), x)}


def differential_attention(x: Arrays, n: Numbers) -> Arrays:
    first, second = logits(x, "Q1", "K1"), logits(x, "Q2", "K2")
    seen = causal_mask(first)
    share = x["lambda"][:, None, None] * weights(second, seen)
    return {"O": mix(weights(first, seen) - share, x)}


def topk_attention(x: Arrays, n: Numbers) -> Arrays:
    scores = logits(x)
    seen = np.zeros(scores.shape, bool)
    for at in np.ndindex(scores.shape[:-1]):
        best = sorted(range(scores.shape[-1]), key=lambda m: (-scores[at][m], m))
        seen[at][best[: n.get("J", 16)]] = True
    return attend(scores, x, seen)


def pointer_network(x: Arrays, n: Numbers) -> Arrays:
    scores = np.zeros((x["X"].shape[0], x["Y"].shape[1], x["X"].shape[1]))
    for b, p, m in np.ndindex(scores.shape):
        scores[b, p, m] = x["v"] @ np.tanh(x["W1"] @ x["X"][b, m] + x["W2"] @ x["Y"][b, p])
    seen = np.arange(scores.shape[-1]) < x["length"][:, None, None]
    return {"A": weights(scores, seen)}


def entropy(x: Arrays, n: Numbers) -> Arrays:
    share = weights(logits(x))
    nats = np.zeros(share.shape[:-1])
    for at in np.ndindex(share.shape):
        if share[at] > 0:
            nats[at[:-1]] -= share[at] * math.log(share[at])
    return {"O": mix(share, x), "ENT": nats}


def landmark(x: Arrays, n: Numbers) -> Arrays:
    """Per query a softmax over own keys and earlier landmarks, and one per earlier block."""
    scores, block = logits(x), n.get("L", 64)
    share = np.zeros(scores.shape)
    for at in np.ndindex(scores.shape[:-1]):
        p = at[-1]
        start = p // block * block
        own = [m for m in range(start, p + 1) if m % block != block - 1]
        landmarks = list(range(block - 1, start, block))
        top = softmax(scores[at][own + landmarks])
        share[at][own] = top[: len(own)]
        for mark, chance in zip(landmarks, top[len(own) :], strict=True):
            keys = slice(mark - block + 1, mark)
            share[at][keys] = chance * softmax(scores[at][keys])
    return {"O": mix(share, x)}


def var_class_split(x: Arrays, n: Numbers) -> Arrays:
    keep, most, least = n.get("keep", 0.6), n.get("most", 0.5), n.get("least", 0.2)
    share = weights(logits(x), causal_mask(logits(x)))
    for b, h, p in np.ndindex(share.shape[:-1]):
        row, kind = share[b, h, p], x["class"][b]
        sink, visual = row[kind == 0].sum(), row[(kind == 0) | (kind == 2)].sum()
        if p < x["text"][b] or sink == 0 or visual < least or sink / visual > most:
            continue
        freed = (1 - keep) * row[kind <= 1].sum()
        rest = row[kind == 2].copy()
        row[kind <= 1] *= keep
        row[kind == 2] += freed * rest / rest.sum()
    return {"O": mix(share, x)}


# -- keys in other places
def grouped_query(x: Arrays, n: Numbers) -> Arrays:
    repeats = x["Q"].shape[1] // max(1, x["K"].shape[1])
    copies = {"K": np.repeat(x["K"], repeats, 1), "V": np.repeat(x["V"], repeats, 1)}
    return attention(x | copies, n)


def paged_keys(x: Arrays, n: Numbers) -> Arrays:
    batch, heads, queries, _ = x["Q"].shape
    pages, _, size, width = x["V"].shape
    out = np.zeros((batch, heads, queries, width))
    for b, h, p in np.ndindex(out.shape[:-1]):
        slots = [(page, r) for page in x["page"][b] for r in range(size)]
        slots = slots[: max(0, x["length"][b])]
        slots = [(page, r) for page, r in slots if 0 <= page < pages]
        score = [scale(x) * np.dot(x["Q"][b, h, p], x["K"][page, h, r]) for page, r in slots]
        for share, (page, r) in zip(softmax(np.array(score)), slots, strict=True):
            out[b, h, p] += share * x["V"][page, h, r]
    return {"O": out}


def window(position: int, width: int, length: int) -> range:
    """The positions of a window round one, moved inside the sequence."""
    start = max(position - width // 2, 0)
    if start + width > length:
        start = length - width
    return range(max(start, 0), min(start + width, length))


def neighbourhood_1d(x: Arrays, n: Numbers) -> Arrays:
    length, width = x["Q"].shape[2], n.get("W", 7)
    seen = np.zeros((length, length), bool)
    for p in range(length):
        seen[p, list(window(p, width, length))] = True
    return attend(logits(x), x, seen)


def neighbourhood_2d(x: Arrays, n: Numbers) -> Arrays:
    (rows, columns), out = x["Q"].shape[2:4], np.zeros(x["V"].shape)
    for b, h, row, column in np.ndindex(out.shape[:-1]):
        ys, xs = window(row, n.get("J", 7), rows), window(column, n.get("I", 7), columns)
        around = [(y, z) for y in ys for z in xs]
        query = x["Q"][b, h, row, column]
        score = [scale(x) * np.dot(query, x["K"][b, h, y, z]) for y, z in around]
        for share, (y, z) in zip(softmax(np.array(score)), around, strict=True):
            out[b, h, row, column] += share * x["V"][b, h, y, z]
    return {"O": out}


# -- norms
def variance(x: Arrays, n: Numbers) -> Arrays:
    return {"VAR": np.array([row.var() if row.size else 0.0 for row in x["X"]])}


def layernorm_matmul(x: Arrays, n: Numbers) -> Arrays:
    out = np.zeros((x["X"].shape[0], x["W"].shape[1]))
    for t, row in enumerate(x["X"]):
        if row.size:
            normal = (row - row.mean()) / math.sqrt(row.var() + n.get("eps", 1e-5))
            out[t] = (normal * x["gain"] + x["bias"]) @ x["W"]
    return {"Y": out}


def rmsnorm_matmul(x: Arrays, n: Numbers) -> Arrays:
    out = np.zeros((x["X"].shape[0], x["W"].shape[1]))
    for t, row in enumerate(x["X"]):
        if row.size:
            out[t] = (row / math.sqrt((row**2).mean() + n.get("eps", 1e-6)) * x["gain"]) @ x["W"]
    return {"Y": out}


# -- recurrences, unrolled
def retention(x: Arrays, n: Numbers) -> Arrays:
    """The parallel form: a linear attention whose weights fall with the distance."""
    share = logits(x)
    for _, h, i, j in np.ndindex(share[:1].shape):
        share[:, h, i, j] *= (1 - 2.0 ** (-5 - h)) ** (i - j) if j <= i else 0
    return {"O": mix(share, x)}


def selective_state_space(x: Arrays, n: Numbers) -> Arrays:
    """The sum over earlier tokens, each decayed by all the steps since."""
    step = np.logaddexp(0, x["raw"] + x["bias"])
    out = x["skip"] * x["U"]
    for b, t, d in np.ndindex(x["U"].shape):
        for u in range(t + 1):
            since = step[b, u + 1 : t + 1, d].sum()
            taken = step[b, u, d] * x["U"][b, u, d]
            out[b, t, d] += taken * (x["C"][b, t] * np.exp(since * x["A"][d])) @ x["B"][b, u]
    return {"Y": out}


def delta_rule(x: Arrays, n: Numbers) -> Arrays:
    """S = (1 - beta k k^T) S + beta k v^T, with whole matrices."""
    keys, out = unit(x["K"], n.get("eps", 1e-6)), np.zeros(x["V"].shape)
    batch, heads, steps, width = keys.shape
    for b, h in np.ndindex(batch, heads):
        state = np.zeros((width, out.shape[-1]))
        for i in range(steps):
            k, beta = keys[b, h, i], x["beta"][b, h, i]
            keeps = np.eye(width) - beta * np.outer(k, k)
            state = keeps @ state + beta * np.outer(k, x["V"][b, h, i])
            out[b, h, i] = scale(x) * x["Q"][b, h, i] @ state
    return {"O": out}


FORMULAS: dict[str, Formula] = {
    "alibi": alibi,
    "attention": attention,
    "attention_1pass": attention,
    "attention_2pass": attention,
    "attention_3pass": attention,
    "causal": causal,
    "cosine_attention": cosine_attention,
    "delta_rule": delta_rule,
    "differential_attention": differential_attention,
    "document_mask": document_mask,
    "entropy": entropy,
    "grouped_query": grouped_query,
    "landmark": landmark,
    "landmark_blocks": landmark,
    "layernorm_matmul": layernorm_matmul,
    "layernorm_matmul_moments": layernorm_matmul,
    "neighbourhood_1d": neighbourhood_1d,
    "neighbourhood_2d": neighbourhood_2d,
    "paged_keys": paged_keys,
    "pedagogical_2pass": pedagogical,
    "pedagogical_deferred": pedagogical,
    "pedagogical_iterative": pedagogical,
    "pointer_network": pointer_network,
    "quantised_keys": quantised_keys,
    "retention": retention,
    "rmsnorm_matmul": rmsnorm_matmul,
    "rotary": rotary,
    "selective_state_space": selective_state_space,
    "sigmoid_attention": sigmoid_attention,
    "sliding_window": sliding_window,
    "soft_cap": soft_cap,
    "topk_attention": topk_attention,
    "var_class_split": var_class_split,
    "variance": variance,
}
