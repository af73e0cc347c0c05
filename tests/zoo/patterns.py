"""References of the mechanisms that are a pattern of keys: windows, spans, slots, blocks."""

from typing import Any

import numpy as np

from tests.zoo.registry import Arrays, Mechanism, heads, logits, weights


def attend(q: Any, k: Any, v: Any, visible: Any = True) -> Any:
    return weights(logits(q, k), visible) @ v


def window(length: int, width: int, stride: int = 1, dilation: int = 1, causal: int = 0) -> Any:
    """Which keys of an axis each query sees, class by class, by NATTEN's rules."""
    seen = np.zeros((length, length), bool)
    left, right = width // 2, width // 2 + width % 2 - 1
    for r in range(min(dilation, length)):
        places = range(r, length, dilation)
        n = len(places)
        for i in range(n):
            if causal:
                leader = min(i // stride * stride + stride - 1, n - 1)
                start, end = max(leader - left - right, 0), i + 1
            else:
                leader = min(i // stride * stride + stride // 2, n - 1)
                start = max(leader - left, 0)
                if leader + right >= n:
                    start += n - right - leader - 1
                end = start + width
            for j in range(max(start, 0), min(end, n)):
                seen[places[i], places[j]] = True
    return seen


def neighbourhood(*axes: tuple[str, str]) -> Any:
    """Attention over a grid whose points see each other if they do along every axis."""

    def reference(a: Arrays) -> Arrays:
        sizes, seen = a["Q"].shape[2:-1], np.ones((1, 1), bool)
        for length, (width, suffix) in zip(sizes, axes, strict=True):
            words = (a.get(w + suffix, d) for w, d in RULES.items())
            seen = np.kron(seen, window(length, a[width], *words))
        q, k, v = (a[n].reshape(*a[n].shape[:2], -1, a[n].shape[-1]) for n in "QKV")
        return {"O": attend(q, k, v, seen).reshape(a["V"].shape)}

    return reference


RULES = {"stride": 1, "dilation": 1, "causal": 0}


def grid(*sizes: int) -> Any:
    def inputs(rng: np.random.Generator) -> Arrays:
        draw = rng.standard_normal
        return {n: draw((2, 2, *sizes, 5 if n == "V" else 4)) for n in "QKV"}

    return inputs


def summary(q: Any, k: Any, v: Any) -> tuple[Any, Any]:
    """A key and a value for the keys of a span, by the maximum of the scaled queries in it."""
    return k.max(0), weights(q.max(0) @ k.T) @ v


def row(q: Any, seen: list[tuple[Any, Any]]) -> Any:
    """One softmax over keys and summaries alike."""
    keys, values = (np.array(x) for x in zip(*seen, strict=True))
    return weights(q @ keys.T) @ values


def combiner(earlier: Any) -> Any:
    """A query, its own keys one by one, and the spans before it; all as lists of positions."""

    def reference(a: Arrays) -> Arrays:
        out = np.zeros(a["V"].shape)
        for b, h, p in np.ndindex(out.shape[:3]):
            q, k, v = a["Q"][b, h] / np.sqrt(a["Q"].shape[-1]), a["K"][b, h], a["V"][b, h]
            own, spans = earlier(p, a)
            seen = [(k[m], v[m]) for m in own] + [summary(q[s], k[s], v[s]) for s in spans]
            out[b, h, p] = row(q[p], seen)
        return {"O": out}

    return reference


def fixed_spans(p: int, a: Arrays) -> Any:
    first, length = p - p % a["L"], a["L"]
    return range(first, p + 1), [np.arange(s, s + length) for s in range(0, first, length)]


def binary_spans(p: int, a: Arrays) -> Any:
    """From 0 on, a span for each bit of p, the largest first."""
    spans, start = [], 0
    for r in reversed(range(a["R"])):
        if p >> r & 1:
            spans.append(np.arange(start, start + 2**r))
            start += 2**r
    return [p], spans


def columns(p: int, a: Arrays) -> Any:
    """The row so far and the column above, and the other columns down to the row above."""
    above, at = divmod(p, a["L"])
    column = [c + np.arange(above) * a["L"] for c in range(a["L"])]
    own = [*range(p - at, p + 1), *column[at]]
    return own, [s for c, s in enumerate(column) if c != at and len(s)]


def rows_above(p: int, a: Arrays) -> Any:
    """The row so far and the column above, and the rows above, each without the column."""
    above, at = divmod(p, a["L"])
    rows_ = [np.arange(r * a["L"], (r + 1) * a["L"]) for r in range(above)]
    own = [*range(p - at, p + 1), *(r[at] for r in rows_)]
    return own, [np.delete(r, at) for r in rows_ if len(r) > 1]


def row_major(a: Arrays) -> Arrays:
    """A row above counts as the output and the mean key that its own query in this column has."""
    out, length = np.zeros(a["V"].shape), a["L"]
    for b, h, p in np.ndindex(out.shape[:3]):
        q, k, v = a["Q"][b, h] / np.sqrt(a["Q"].shape[-1]), a["K"][b, h], a["V"][b, h]
        first = p - p % length
        seen = [(k[m], v[m]) for m in range(first, p + 1)]
        for start in range(0, first, length):
            span = np.arange(start, start + length)
            share = weights(q[start + p % length] @ k[span].T)
            seen.append((share @ k[span], share @ v[span]))
        out[b, h, p] = row(q[p], seen)
    return {"O": out}


def squares(length: int) -> Any:
    return lambda rng: heads(rng, length, length)


def memory(x: Any, control: Any, seen: Any) -> Any:
    """The slots of some rows, (n, d) by (r, d): each a mean of the visible rows by its softmax."""
    return weights((x @ control.T).T, seen) @ x


def bounded_causal(a: Arrays) -> Arrays:
    out = np.zeros(a["V"].shape)
    for b, h, i in np.ndindex(out.shape[:3]):
        k, v = a["K"][b, h, : i + 1], a["V"][b, h, : i + 1]
        slot = weights((k @ a["control"][h].T).T)
        out[b, h, i] = attend(a["Q"][b, h, i : i + 1], slot @ k, slot @ v)[0]
    return {"O": out}


def cab(seen: Any) -> Any:
    """ABC with slots of its own for keys and values; `seen` are the keys of a batch and a row."""

    def reference(a: Arrays) -> Arrays:
        out = np.zeros((*a["Q"].shape[:3], a["V"].shape[-1]))
        for b, h, p in np.ndindex(out.shape[:3]):
            shown = seen(a, b, p)
            k = memory(a["K"][b, h], a["CK"], shown)
            v = memory(a["V"][b, h], a["CV"], shown)
            out[b, h, p] = attend(a["Q"][b, h, p : p + 1], k, v)[0]
        return {"O": out}

    return reference


def current_only(a: Arrays) -> Arrays:
    """The released code: the current token alone, by its share of the prefix sum."""
    out = np.zeros((*a["Q"].shape[:3], a["V"].shape[-1]))
    for b, h, p in np.ndindex(out.shape[:3]):

        def slot(x: Any, control: Any, p: int = p) -> Any:
            scores = x[: p + 1] @ control.T
            return weights(scores.T)[:, -1:] * x[p]

        k, v = slot(a["K"][b, h], a["CK"]), slot(a["V"][b, h], a["CV"])
        out[b, h, p] = attend(a["Q"][b, h, p : p + 1], k, v)[0]
    return {"O": out}


def slots(keys: int, **others: Any) -> Any:
    def inputs(rng: np.random.Generator) -> Arrays:
        control = {"CK": rng.standard_normal((3, 4)), "CV": rng.standard_normal((3, 5))}
        return heads(rng, 7, keys) | control | {name: f(rng) for name, f in others.items()}

    return inputs


def landmark(a: Arrays) -> Arrays:
    """Group by group: a softmax in each earlier block, one over landmarks and the own block."""
    out = np.zeros(a["V"].shape)
    length = a["L"]
    for b, h, p in np.ndindex(out.shape[:3]):
        scores, v = logits(a["Q"], a["K"])[b, h, p], a["V"][b, h]
        own = p // length
        tokens = [m for m in range(own * length, p + 1) if m % length != length - 1]
        marks = [n * length + length - 1 for n in range(own)]
        share = weights(scores[tokens + marks])
        out[b, h, p] = share[: len(tokens)] @ v[tokens]
        for n, part in enumerate(share[len(tokens) :]):
            block = range(n * length, (n + 1) * length - 1)
            out[b, h, p] += part * (weights(scores[block]) @ v[block])
    return {"O": out}


def landmark_retrieve(a: Arrays) -> Arrays:
    """The same with all but the J best blocks struck out, row by row."""
    out = np.zeros((*a["Q"].shape[:3], a["V"].shape[-1]))
    length, since = a["L"], a["K"].shape[2] - a["Q"].shape[2]
    for b, h, p in np.ndindex(out.shape[:3]):
        first, k, v = (p + since) // length * length, a["K"][b, h], a["V"][b, h]
        scores = k @ a["Q"][b, h, p] / np.sqrt(k.shape[-1])
        marks = scores[length - 1 : first : length]
        found = np.argsort(-marks, kind="stable")[: a["J"]]
        tokens = [m for m in range(first, p + since + 1) if m % length != length - 1]
        seen = [(scores[m], v[m]) for m in tokens]
        for n in found:
            block = range(n * length, (n + 1) * length - 1)
            seen.append((marks[n], weights(scores[block]) @ v[block]))
        out[b, h, p] = weights(np.array([s for s, _ in seen])) @ np.array([x for _, x in seen])
    return {"O": out}


def pointer(a: Arrays) -> Arrays:
    x, y = a["X"] @ a["W1"].T, a["Y"] @ a["W2"].T
    scores = np.tanh(x[:, None] + y[:, :, None]) @ a["v"]
    shown = np.arange(x.shape[1]) < a["length"][:, None, None]
    return {
        "A": weights(scores, shown),
        "NEXT": np.where(shown, scores, -np.inf).argmax(-1),
    }


def redistributed(a: Arrays) -> Arrays:
    """The loop of the published code, over heads and rows."""
    w = weights(logits(a["Q"], a["K"]), np.tri(7, dtype=bool))
    for b, h, p in np.ndindex(w.shape[:3]):
        part, kind = w[b, h, p], a["class"][b]
        image = part[(kind == 0) | (kind == 2)].sum()
        sinks = part[kind == 0].sum()
        if p < a["text"][b] or image < a["least"] or not 0 < sinks <= a["most"] * image:
            continue
        freed = (1 - a["keep"]) * part[kind < 2].sum()
        part[kind < 2] *= a["keep"]
        part[kind == 2] += freed * part[kind == 2] / part[kind == 2].sum()
    return {"O": w @ a["V"]}


def sinks(a: Arrays) -> Arrays:
    size = np.sqrt((a["X"] ** 2).mean(-1) + 1e-6)
    large = (np.abs(a["X"][..., a["dim"]]) / size[..., None]).max(-1) > a["tau"]
    return {"CLASS": np.where(large, 0, 2) + np.where(a["visual"], 0, 1)}


def branches(a: Arrays) -> Any:
    """The score of each instance for each branch."""
    gate = np.tanh(a["X"] @ a["WT"].T) / (1 + np.exp(-a["X"] @ a["WS"].T))
    return np.swapaxes(gate @ a["W"].T + a["bias"], 1, 2)


def acmil(a: Arrays) -> Arrays:
    """As the published training code: list the best, shuffle the list, mask its beginning."""
    scores = branches(a)
    for b, c in np.ndindex(scores.shape[:2]):
        listed = np.argsort(-scores[b, c], kind="stable")[: a["draw"].shape[-1]]
        scores[b, c, listed[np.argsort(a["draw"][b, c])[: a["gone"]]]] = -np.inf
    w = weights(scores)
    return {"Z": w @ a["X"], "BAG": (w.mean(1)[:, None] @ a["X"])[:, 0], "ALIKE": cosines(w)}


def cosines(w: Any) -> Any:
    unit = w / np.linalg.norm(w, axis=-1, keepdims=True)
    return unit @ np.swapaxes(unit, 1, 2)


def diversity(a: Arrays) -> Arrays:
    w = weights(branches(a))
    return {"Z": w @ a["X"], "ALIKE": cosines(w)}


def bag(rng: np.random.Generator) -> Arrays:
    draw = rng.standard_normal
    gates = {"WT": draw((4, 6)), "WS": draw((4, 6)), "W": draw((3, 4)), "bias": draw(3)}
    return {"X": draw((2, 11, 6))} | gates | {"draw": rng.random((2, 3, 5))}


def redistribution(rng: np.random.Generator) -> Arrays:
    labels = {"class": rng.integers(0, 4, (2, 7)), "text": np.array([1, 4])}
    return heads(rng) | labels


def items(rng: np.random.Generator) -> Arrays:
    draw = rng.standard_normal
    sizes = {"X": (2, 9, 4), "Y": (2, 5, 4), "W1": (3, 4), "W2": (3, 4), "v": (3,)}
    return {n: draw(s) for n, s in sizes.items()} | {"length": np.array([9, 4])}


def states(rng: np.random.Generator) -> Arrays:
    picked = {"dim": np.array([5, 2]), "visual": rng.random((2, 9)) < 0.5}
    return {"X": rng.standard_normal((2, 9, 8))} | picked


MECHANISMS: tuple[Mechanism, ...] = (
    Mechanism(
        "neighbourhood_1d",
        grid(23),
        neighbourhood(("W", "")),
        3,
        1,
        rank="w",
        params={"W": 4, "stride": 3, "dilation": 4},
        note="classes of 6 and of 5 positions; the pass over the keys is one over the window",
    ),
    Mechanism(
        "neighbourhood_2d",
        grid(7, 9),
        neighbourhood(("J", "_y"), ("I", "_x")),
        3,
        1,
        rank="j",
        params={"J": 3, "I": 4, "stride_x": 2, "dilation_y": 2, "causal_y": 1},
    ),
    Mechanism(
        "neighbourhood_3d",
        grid(4, 5, 6),
        neighbourhood(("L", "_t"), ("J", "_y"), ("I", "_x")),
        3,
        1,
        rank="l",
        params={"L": 3, "J": 3, "I": 2, "stride_t": 2, "causal_t": 1, "dilation_x": 2},
    ),
    Mechanism(
        "combiner_fixed",
        squares(13),
        combiner(fixed_spans),
        2,
        2,
        rank="p",
        params={"L": 4},
    ),
    Mechanism("combiner_logsparse", squares(13), combiner(binary_spans), 4, 2, params={"R": 4}),
    Mechanism(
        "combiner_axial",
        squares(13),
        combiner(columns),
        2,
        2,
        rank="p",
        params={"L": 4},
    ),
    Mechanism(
        "combiner_axial_horizontal",
        squares(13),
        combiner(rows_above),
        2,
        2,
        rank="p",
        params={"L": 4},
    ),
    Mechanism("combiner_axial_rowmajor", squares(13), row_major, 2, 2, rank="p", params={"L": 4}),
    Mechanism(
        "bounded_memory_causal",
        lambda rng: heads(rng) | {"control": rng.standard_normal((3, 3, 4))},
        bounded_causal,
        1,
        1,
        rank="i",
    ),
    Mechanism("cab_noncausal_self", slots(7), cab(lambda a, b, p: True), 3, 1),
    Mechanism("cab_causal_self", slots(7), cab(lambda a, b, p: np.arange(7) <= p), 3, 1),
    Mechanism("cab_causal_self_code", slots(7), current_only, 2, 2),
    Mechanism("cab_noncausal_cross", slots(9), cab(lambda a, b, p: True), 3, 1),
    Mechanism(
        "cab_causal_cross",
        slots(9, length=lambda rng: np.array([9, 6])),
        cab(lambda a, b, p: np.arange(9) < a["length"][b]),
        3,
        1,
    ),
    Mechanism(
        "landmark",
        squares(11),
        landmark,
        3,
        1,
        params={"L": 3},
        literature=(6, 1),
    ),
    Mechanism(
        "landmark_retrieve",
        lambda rng: heads(rng, 5, 14),
        landmark_retrieve,
        3,
        1,
        rank="t",
        params={"L": 3, "J": 2},
        note="over a block's keys; the landmarks are read once, their keys again if chosen",
    ),
    Mechanism(
        "pointer_network",
        items,
        pointer,
        3,
        2,
        note="the weights are the output, and wait for their sum",
    ),
    Mechanism(
        "visual_redistribution",
        redistribution,
        redistributed,
        4,
        1,
        params={"keep": 0.6, "most": 0.5, "least": 0.2},
        literature=(5, 1),
    ),
    Mechanism(
        "visual_sinks",
        states,
        sinks,
        2,
        2,
        rank="d",
        params={"tau": 1.5},
        differentiable=False,
        note="over the width of a hidden state: a root mean square, then the sink dimensions",
    ),
    Mechanism(
        "acmil",
        bag,
        acmil,
        4,
        2,
        params={"gone": 3},
        literature=(4, 1),
    ),
    Mechanism(
        "acmil_payload",
        bag,
        lambda a: {"Z": acmil(a)["Z"]},
        1,
        1,
        rank="i",
        params={"gone": 3},
        differentiable=False,
        note="one step for each instance",
    ),
    Mechanism(
        "acmil_diversity",
        lambda rng: {n: x for n, x in bag(rng).items() if n != "draw"},
        diversity,
        3,
        1,
        note="the products of two softmaxes stream with a maximum of their own",
    ),
)
