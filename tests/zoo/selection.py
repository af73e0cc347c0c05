"""References of the selection family: loops over rows that pick keys and attend to them."""

from typing import Any

import numpy as np

from tests.zoo.registry import Arrays, Mechanism, heads, logits, positions, weights


def best(scores: Any, count: int) -> Any:
    """The places of the largest values of the last axis, the earlier of equals first, -1 after."""
    found = np.argsort(-scores, axis=-1, kind="stable")[..., :count]
    found = np.where(np.take_along_axis(scores, found, -1) > -np.inf, found, -1)
    gap = [(0, 0)] * (found.ndim - 1) + [(0, count - found.shape[-1])]
    return np.pad(found, gap, constant_values=-1)


def attend(q: Any, k: Any, v: Any, visible: Any = True) -> Any:
    return weights(logits(q, k), visible) @ v


def single(a: Arrays) -> Arrays:
    """One query a head, as an axis of length 1."""
    return a | {"Q": a["Q"][:, :, None]}


def tidal_select(a: Arrays) -> Arrays:
    s = single(a)
    scores = logits(s["Q"], s["K"])[:, :, 0]
    return {"O": attend(s["Q"], s["K"], s["V"])[:, :, 0], "IDX": best(scores, a["J"])}


def gathered(a: Arrays, rows: Any) -> Any:
    """Attention of each head to the listed keys only, one softmax a head; -1 is no key."""
    out = np.zeros((*a["Q"].shape[:-1], a["V"].shape[-1]))
    for b, h in np.ndindex(*a["Q"].shape[:2]):
        at = [i for i in rows[b, h] if i >= 0]
        out[b, h] = attend(a["Q"][b, h].reshape(-1, 4), a["K"][b, h, at], a["V"][b, h, at]).reshape(
            out[b, h].shape
        )
    return out


def recycled_select(a: Arrays) -> Arrays:
    w = weights(logits(a["Q"], a["K"]))
    return {"O": w @ a["V"], "IDX": best(w.max(2), a["J"])}


def recycled_attend(a: Arrays) -> Arrays:
    fresh = np.broadcast_to(np.arange(a["since"], 9), (2, 3, 9 - a["since"]))
    return {"O": gathered(a, np.concatenate([a["IDX"], fresh], -1))}


def far_heads(a: Arrays) -> Arrays:
    vectors = np.einsum("bhf,hfd->bhd", a["O"], a["WO"])
    away = np.linalg.norm(vectors - vectors.mean(1, keepdims=True), axis=-1)
    far = np.zeros(away.shape, bool)
    np.put_along_axis(far, best(away, a["J"]), True, -1)
    return {"HET": far}


def middle(a: Arrays) -> Arrays:
    p, m = positions(4, 9)
    gained = weights(logits(a["Q"], a["K"]), m <= p).sum(2)
    gained[..., : a["sinks"]] = -np.inf
    gained[..., 9 - a["recent"] :] = -np.inf
    return {"MID": best(gained, a["J"])}


def task_attend(a: Arrays) -> Arrays:
    rows = np.full((2, 3, 9), -1)
    for b, h in np.ndindex(2, 3):
        kept = set(range(a["sinks"])) | set(range(9 - a["recent"], 9)) | set(a["MID"][b, h])
        for m in range(9):
            if a["HET"][b, h] or m in kept:
                rows[b, h, m] = m
    return {"O": gathered(a, rows)}


def chunk_keys(a: Arrays) -> Arrays:
    mean = attend(a["Q"], a["K"], a["V"]).mean(-2, keepdims=True)
    return {"KC": attend(mean, a["K"], a["K"])[..., 0, :]}


def chunk_choice(a: Arrays) -> Arrays:
    fit = np.einsum("bhe,bhce->bhc", a["Q"], a["KC"])
    fit[..., [0, -2, -1]] = np.inf
    return {"IDX": np.sort(best(fit, a["J"]), -1)}


def rotated(x: Any, cosine: Any, sine: Any) -> Any:
    left, right = np.split(x, 2, -1)
    return x * cosine + np.concatenate([-right, left], -1) * sine


def chunk_attend(a: Arrays) -> Arrays:
    out = np.zeros((2, 3, 5))
    for b, h in np.ndindex(2, 3):
        k, v = (np.concatenate([a[n][b, h, c] for c in a["IDX"][b, h]]) for n in "KV")
        k = rotated(k, a["cosine"][:-1], a["sine"][:-1])
        q = rotated(a["Q"][b, h], a["cosine"][-1], a["sine"][-1])
        out[b, h] = attend(q[None], k, v)[0]
    return {"O": out}


def clusters(a: Arrays) -> Arrays:
    near = np.einsum("bhme,hce->bhcm", a["K"], a["centroid"])
    return {"IDX": np.sort(best(near, a["J"]), -1)}


def clustered(a: Arrays) -> Arrays:
    total, number = np.zeros(a["V"].shape), np.full(a["V"].shape, 0.01)
    for b, h, c in np.ndindex(a["IDX"].shape[:3]):
        at = a["IDX"][b, h, c]
        k = a["K"][b, h, at]
        total[b, h, at] += attend(k, k, a["V"][b, h, at], np.tri(len(at), dtype=bool))
        number[b, h, at] += 1
    return {"O": total / number}


def blocks(a: Arrays) -> Arrays:
    s, keys = logits(a["Q"], a["K"]), a["K"].shape[2]
    cuts = range(0, keys, a["L"])
    means = np.stack([s[..., c : c + a["L"]].mean((2, 3)) for c in cuts], -1)
    seen = np.zeros((2, 3, keys), bool)
    for b, g in np.ndindex(2, 3):
        for n in best(means[b, g], a["J"]):
            if n >= 0:
                seen[b, g, n * a["L"] : (n + 1) * a["L"]] = True
    seen[..., : a["sinks"]] = seen[..., keys - a["recent"] :] = True
    return {"O": weights(s, seen[:, :, None]) @ a["V"]}


def partial(scores: Any, values: Any) -> tuple[Any, Any, Any]:
    """Of a softmax over the last axis: the maximum, the sum and the values, none of nothing."""
    top = scores.max(-1, initial=-np.inf)
    grown = np.exp(scores - top[..., None]) if scores.shape[-1] else np.zeros(scores.shape)
    return top, grown.sum(-1), grown @ values


def payloads(a: Arrays) -> Arrays:
    s, size, keys = logits(a["Q"], a["K"]), a["L"], a["K"].shape[2]
    place = np.arange(keys)
    always = (place < a["sinks"]) | (place >= keys - a["recent"])
    cuts = range(0, keys, size)
    means = np.stack([s[..., c : c + size].mean((2, 3)) for c in cuts], -1)
    inside = [(place >= c) & (place < c + size) & ~always for c in cuts]
    own = [partial(s[..., at], a["V"][:, :, at]) for at in inside]
    out = {
        n: np.stack(x, 3) for n, x in zip(("LM", "LD", "LV"), zip(*own, strict=True), strict=True)
    }
    rest = dict(zip(("GM", "GD", "GV"), partial(s[..., always], a["V"][:, :, always]), strict=True))
    return {"IDX": best(means, a["J"])} | out | rest


def partials(rng: np.random.Generator) -> Arrays:
    draw = rng.standard_normal
    blocks_ = {"LM": draw((2, 3, 4, 6)), "LD": rng.random((2, 3, 4, 6))}
    rest = {"GM": draw((2, 3, 4)), "GD": rng.random((2, 3, 4)), "GV": draw((2, 3, 4, 5))}
    return {"IDX": lists(3, 6)(rng), "LV": draw((2, 3, 4, 6, 5))} | blocks_ | rest


def merged(a: Arrays) -> Arrays:
    """All of them by their logarithms, one after another."""
    out = np.zeros(a["GV"].shape)
    for b, g, r in np.ndindex(a["GM"].shape):
        parts = [(a["GM"][b, g, r], a["GD"][b, g, r], a["GV"][b, g, r])]
        at = [n for n in a["IDX"][b, g] if n >= 0]
        parts += [tuple(a[x][b, g, r, n] for x in ("LM", "LD", "LV")) for n in at]
        total = sum(np.exp(m) * d for m, d, _ in parts)
        out[b, g, r] = sum(np.exp(m) * v for m, _, v in parts) / total
    return {"O": out}


def pages(a: Arrays) -> Arrays:
    """The keys of the chosen pages of each group, for each of its heads."""
    keys, size = a["K"].shape[2], a["L"]
    fit = np.einsum("bgre,bgne->bgn", a["Q"], a["KR"])
    fit[..., [0, -2, -1]] = np.inf
    seen = np.zeros((*fit.shape[:2], keys), bool)
    for at in np.ndindex(*fit.shape[:2]):
        for n in best(fit[at], a["J"]):
            seen[(*at, slice(n * size, (n + 1) * size))] = n >= 0
    return {"O": attend(a["Q"], a["K"], a["V"], seen[:, :, None])}


def flex_scores(a: Arrays) -> Arrays:
    rows, keys = a["Q"].shape[2], a["K"].shape[2]
    p, m = positions(rows, keys)
    w = weights(logits(a["Q"], a["K"]), m <= p)
    slash = np.zeros((*w.shape[:2], keys))
    for i in range(rows):
        for j in range(i + keys - rows + 1):
            slash[..., i + keys - rows - j] += w[:, :, i, j] / rows
    return {"VERT": w.mean(2), "SLASH": slash}


def flex_attend(a: Arrays) -> Arrays:
    seen = np.zeros((2, 3, 7, 7), bool)
    for b, h, p in np.ndindex(2, 3, 7):
        for m in range(p + 1):
            i, j = p // a["L"], m // a["L"]
            column = j == 0 or j in a["column"][b, h]
            listed = column or i == j or i - j in a["diagonal"][b, h]
            seen[b, h, p, m] = listed or a["pair"][b, h, i, j]
    return {"O": attend(a["Q"], a["K"], a["V"], seen)}


def cut(x: Any, size: int) -> list[Any]:
    """The blocks of an axis before the last, the last one shorter."""
    return [x[start : start + size] for start in range(0, len(x), size)]


def flex_pattern(a: Arrays) -> Arrays:
    """Head by head: the divergence, then blocks of all rows in one sorted list."""
    size = a["L"]
    count = -(-a["K"].shape[2] // size)
    aware, pair = np.zeros((2, 3), bool), np.zeros((2, 3, count, count), bool)
    for b, h in np.ndindex(2, 3):
        q, k, vert = a["Q"][b, h], a["K"][b, h], a["VERT"][b, h]
        qb, kb = (np.array([part.mean(0) for part in cut(x, size)]) for x in (q, k))
        guess = weights(kb @ q[-size:].mean(0) / np.sqrt(k.shape[-1]))
        true = np.array([part.sum() for part in cut(vert, size)])
        middle = (guess + true) / 2
        apart = sum((x * np.log(x / middle)).sum() for x in (guess, true)) / 2
        aware[b, h] = np.sqrt(apart) < a["tau"]
        if aware[b, h]:
            rows = weights(logits(qb, kb), np.tri(count, dtype=bool)).ravel()
            total = 0.0
            for z in np.argsort(-rows, kind="stable"):
                total += rows[z]
                if total > a["gamma"] * count or rows[z] == 0:
                    break
                pair[b, h, z // count, z % count] = True
    return {"AWARE": aware, "PAIR": pair}


def flex_lists(a: Arrays) -> Arrays:
    size, count = a["L"], -(-a["VERT"].shape[2] // a["L"])
    out = {"column": np.full((2, 3, count), -1), "diagonal": np.full((2, 3, count), -1)}
    for b, h in np.ndindex(2, 3):
        for name, shares in (("column", a["VERT"][b, h]), ("diagonal", a["SLASH"][b, h])):
            held = np.cumsum(np.sort(shares)[::-1]) <= a["gamma"]
            keep = np.clip((held.sum() + 1) // size + 1, a["least"], a["most"])
            keep = a["least"] if a["AWARE"][b, h] else keep
            listed = best(np.array([part.sum() for part in cut(shares, size)]), count)
            out[name][b, h, :keep] = listed[:keep]
    return out


def shares(rng: np.random.Generator) -> Any:
    """Distributions over 13 keys, of which that of the last head is flat."""
    drawn_ = rng.random((2, 3, 13)) ** np.array([9, 4, 0])[:, None]
    return drawn_ / drawn_.sum(-1, keepdims=True)


def sorted_by_side(a: Arrays) -> Arrays:
    """By the numbers of the buckets as the published table of 2^R entries has them."""
    planes = a["plane"].shape[-1]
    table = np.zeros(1, int)
    for _ in range(planes):  # the code's recursion: a copy, and a mirrored copy on its other side
        table = np.concatenate([table, table[::-1] + len(table)])

    def order(x: Any) -> Any:
        side = (np.einsum("bhme,her->bhmr", x, a["plane"]) > 0) @ 2 ** np.arange(planes)
        return np.argsort(table[side], axis=-1, kind="stable")

    return {"IQ": order(a["Q"]), "IK": order(a["K"])}


def page_means(a: Arrays) -> Arrays:
    made = [[[p.mean(0) for p in cut(k, a["L"])] for k in row] for row in a["K"]]
    return {"KR": np.array(made)}


def hyper(a: Arrays) -> Arrays:
    """One softmax over the block's keys and the samples, a sample weighing n/s keys."""
    out, size, length = np.zeros(a["V"].shape), a["K"].shape[2], a["L"]
    total = np.zeros(out.shape[:3])
    for b, h in np.ndindex(a["V"].shape[:2]):
        order, sampled = a["IK"][b, h], a["sample"][b, h]
        for place, p in enumerate(a["IQ"][b, h]):
            own = place // length
            near = list(order[own * length : (own + 1) * length])
            far = [order[i] for i in sampled if i // length != own]
            scores = (a["K"][b, h, near + far] @ a["Q"][b, h, p]) / np.sqrt(a["Q"].shape[-1])
            scores[len(near) :] += np.log(size / len(sampled))
            out[b, h, p] = weights(scores) @ a["V"][b, h, near + far]
            total[b, h, p] = np.log(np.exp(scores).sum())
    return {"O": out, "LSE": total}


def more(rows: int = 7, keys: int = 9, **others: Any) -> Any:
    return lambda rng: heads(rng, rows, keys) | {name: f(rng) for name, f in others.items()}


def decoding(**others: Any) -> Any:
    """One query a head, 9 keys."""

    def inputs(rng: np.random.Generator) -> Arrays:
        arrays = heads(rng, 1, 9)
        return arrays | {"Q": arrays["Q"][:, :, 0]} | {name: f(rng) for name, f in others.items()}

    return inputs


def normal(*shape: int) -> Any:
    return lambda rng: rng.standard_normal(shape)


def drawn(*inputs: Any, **shapes: tuple[int, ...]) -> Any:
    return lambda rng: {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def lists(length: int, extent: int) -> Any:
    """A list of different places for each head, its last entry empty."""

    def draw(rng: np.random.Generator) -> Any:
        found = rng.permuted(np.tile(np.arange(extent), (2, 3, 1)), axis=-1)[..., :length]
        found[..., -1] = -1
        return found

    return draw


def permutation(extent: int) -> Any:
    return lambda rng: rng.permuted(np.tile(np.arange(extent), (2, 3, 1)), axis=-1)


def chunks(rng: np.random.Generator) -> Arrays:
    draw = rng.standard_normal
    angle = np.tile(np.outer(np.arange(7), [1.0, 0.1]), 2)
    return {
        "Q": draw((2, 3, 4)),
        "K": draw((2, 3, 5, 2, 4)),
        "V": draw((2, 3, 5, 2, 5)),
        "IDX": np.sort(permutation(5)(rng)[..., :3], -1),
        "cosine": np.cos(angle),
        "sine": np.sin(angle),
    }


MECHANISMS: tuple[Mechanism, ...] = (
    Mechanism("tidal_select", decoding(), tidal_select, 3, 1, params={"J": 4}),
    Mechanism(
        "tidal_attend",
        decoding(IDX=lists(4, 9)),
        lambda a: {"O": gathered(a, a["IDX"])},
        3,
        1,
        rank="j",
    ),
    Mechanism(
        "recycled_select",
        more(),
        recycled_select,
        3,
        2,
        params={"J": 4},
        literature=(3, 1),
    ),
    Mechanism(
        "recycled_attend",
        more(IDX=lists(3, 6)),
        recycled_attend,
        3,
        1,
        rank="n",
        params={"since": 6},
    ),
    Mechanism(
        "task_kv_heads",
        drawn(O=(2, 4, 5), WO=(4, 5, 3)),
        far_heads,
        2,
        2,
        rank="h",
        params={"J": 2},
        differentiable=False,
    ),
    Mechanism(
        "task_kv_middle",
        lambda rng: {k: v for k, v in heads(rng, 4, 9).items() if k != "V"},
        middle,
        3,
        2,
        params={"J": 5, "sinks": 2, "recent": 3},
        differentiable=False,
    ),
    Mechanism(
        "task_kv_attend",
        decoding(MID=lists(3, 9), HET=lambda rng: rng.random((2, 3)) < 0.5),
        task_attend,
        3,
        1,
        params={"sinks": 1, "recent": 2},
    ),
    Mechanism(
        "long_heads_keys",
        drawn(Q=(2, 2, 3, 4, 4), K=(2, 2, 3, 4, 4), V=(2, 2, 3, 4, 4)),
        chunk_keys,
        6,
        2,
    ),
    Mechanism(
        "long_heads_select",
        drawn(Q=(2, 3, 4), KC=(2, 3, 7, 4)),
        chunk_choice,
        1,
        1,
        rank="c",
        params={"J": 5},
        differentiable=False,
    ),
    Mechanism("long_heads_attend", chunks, chunk_attend, 3, 1, rank="j"),
    Mechanism(
        "routing_select",
        drawn(K=(2, 3, 9, 4), centroid=(3, 2, 4)),
        clusters,
        1,
        1,
        params={"J": 4},
        differentiable=False,
    ),
    Mechanism(
        "routing_attend",
        lambda rng: {
            "K": rng.standard_normal((2, 3, 9, 4)),
            "V": rng.standard_normal((2, 3, 9, 5)),
            "IDX": np.sort(rng.permuted(np.tile(np.arange(9), (2, 3, 2, 1)), axis=-1)[..., :4], -1),
        },
        clustered,
        3,
        1,
        rank="j",
    ),
    Mechanism(
        "block_topk",
        more(rows=2, keys=13),
        blocks,
        4,
        2,
        params={"L": 3, "J": 2, "sinks": 1, "recent": 2},
        literature=(4, 1),
    ),
    Mechanism(
        "block_topk_payload",
        more(rows=2, keys=13),
        payloads,
        2,
        1,
        params={"L": 3, "J": 2, "sinks": 1, "recent": 2},
    ),
    Mechanism("block_topk_merge", partials, merged, 2, 1, rank="j"),
    Mechanism(
        "block_topk_gather",
        more(rows=2, keys=13),
        blocks,
        2,
        1,
        rank="j",
        params={"L": 3, "J": 2, "sinks": 1, "recent": 2},
    ),
    Mechanism("block_topk_keys", drawn(K=(2, 3, 14, 4)), page_means, 1, 1, "n", params={"L": 4}),
    Mechanism(
        "block_topk_pages",
        more(rows=2, keys=14, KR=lambda rng: rng.standard_normal((2, 3, 5, 4))),
        pages,
        3,
        1,
        rank="j",
        params={"L": 3, "J": 4},
        note="the last page is ragged",
    ),
    Mechanism(
        "flex_prefill_scores",
        lambda rng: {k: v for k, v in heads(rng, 4, 9).items() if k != "V"},
        flex_scores,
        3,
        2,
        literature=(4, 2),
    ),
    Mechanism(
        "flex_prefill_pattern",
        lambda rng: (
            {k: v for k, v in heads(rng, 13, 13).items() if k != "V"} | {"VERT": shares(rng)}
        ),
        flex_pattern,
        3,
        2,
        rank="n",
        params={"L": 4, "tau": 0.3, "gamma": 0.6},
        differentiable=False,
    ),
    Mechanism(
        "flex_prefill_lists",
        lambda rng: {"VERT": shares(rng), "SLASH": shares(rng), "AWARE": rng.random((2, 3)) < 0.3},
        flex_lists,
        1,
        1,
        params={"L": 3, "gamma": 0.7, "least": 2, "most": 4},
        differentiable=False,
    ),
    Mechanism(
        "flex_prefill_attend",
        more(
            keys=7,
            column=lists(2, 4),
            diagonal=lists(2, 4),
            pair=lambda rng: rng.random((2, 3, 4, 4)) < 0.2,
        ),
        flex_attend,
        3,
        1,
        params={"L": 2},
    ),
    Mechanism(
        "hyper_attention_sort",
        drawn(Q=(2, 3, 9, 4), K=(2, 3, 11, 4), plane=(3, 4, 3)),
        sorted_by_side,
        1,
        1,
        differentiable=False,
    ),
    Mechanism(
        "hyper_attention",
        more(
            rows=9,
            IQ=permutation(9),
            IK=permutation(9),
            sample=lambda rng: rng.integers(0, 9, (2, 3, 4)),
        ),
        hyper,
        3,
        1,
        params={"L": 3},
        literature=(6, 2),
    ),
)
