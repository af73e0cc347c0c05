"""Programs written by hand, in the form that `cascade.schedule.lower` gives them."""

from cascade.ir.expr import Const, Coordinate, Map, Read, Symbol
from cascade.schedule.program import (
    Axis,
    Best,
    Buffer,
    Carry,
    Contract,
    Fold,
    For,
    GridAxis,
    Kernel,
    Let,
    Load,
    Mask,
    Pick,
    Place,
    Program,
    Seq,
    Store,
    lane,
    tile,
)

FLOOR = Const(-1e38)
INFINITE = Const(float("-inf"))
ZERO = Const(0.0)


def c(value):
    return Const(value)


def s(name):
    return Symbol(name)


def at(rank):
    return Coordinate(rank)


def f(op, *args):
    return Map(op, tuple(tile(a) if isinstance(a, str) else a for a in args))


def blocks(extent, size):
    return f("//", f("+", s(extent), c(size - 1)), c(size))


def tiled(rank, size, extent=None):
    value = f("+", f("*", s(f"{rank}_tile"), c(size)), lane(rank))
    return Place(rank, value, s(extent or rank.upper()))


def one(rank):
    return Place(rank, s(f"{rank}_at"), s(rank.upper()))


def whole(rank):
    return Place(rank, lane(rank), s(rank.upper()))


def stream(rank, *rest, tile=128, part=None, predicate=(), carries=(), scalar=None):
    scalar = scalar or f"{rank}_at"
    place = Place(rank, f("+", s(scalar), lane(rank)), s(rank.upper()))
    tail = f("<", at(rank), s(rank.upper()))
    return For(scalar, place, rank, tile, part or tile, (tail, *predicate), carries, rest)


def buffer(name, ranks, kind="in", dtype="any", shape=None):
    ranks = tuple(ranks)
    return Buffer(name, ranks, shape or tuple(s(r.upper()) for r in ranks), dtype, kind)


def grid(*heads, rows="p", size=128):
    return (
        *(GridAxis(f"{h}_at", s(h.upper())) for h in heads),
        GridAxis(f"{rows}_tile", blocks(rows.upper(), size)),
    )


def softmax_loop(conditions, k, v, rows, columns, part, before=(), scalar=None):
    """Scores, the running maximum, the denominator and the weighted sum, over one rank."""
    scores = "scores"
    masked = (Mask("masked", tile(scores), conditions, INFINITE),) if conditions else ()
    source = "masked" if conditions else scores
    carries = (
        Carry("top", FLOOR, ("p",), "top_next"),
        Carry("total", ZERO, ("p",), "total_next"),
        Carry("out", ZERO, ("p", "f"), "out_next"),
    )
    predicate = tuple(x for x in conditions if x != f("<", at("m"), s("M")))
    return stream(
        "m",
        k,
        Contract(scores, (tile("Q"), tile("K")), ("e",)),
        *before,
        *masked,
        Fold("highest", "max", tile(source), ("m",)),
        Let("top_next", f("max", "top", "highest")),
        Let("weights", f("exp", f("-", source, "top_next"))),
        Let("kept", f("exp", f("-", "top", "top_next"))),
        Fold("weight", "sum", tile("weights"), ("m",)),
        Let("total_next", f("+", f("*", "total", "kept"), "weight")),
        v,
        Contract("added", (tile("weights"), tile("V")), ("m",)),
        Let("out_next", f("+", f("*", "out", "kept"), "added")),
        tile=columns,
        part=part,
        predicate=predicate,
        carries=carries,
        scalar=scalar,
    )


def attention(rows=128, columns=512, part=None, conditions=(), loads=(), group=False, extra=()):
    """Attention in one pass; `conditions` are over p, m, scalars and the tiles of `loads`."""
    head = f("//", at("h"), f("//", s("H"), s("G"))) if group else at("h")
    k = Load("K", "K", (at("b"), head, at("m"), at("e")))
    v = Load("V", "V", (at("b"), head, at("m"), at("f")))
    q = Load("raw", "Q", (at("b"), at("h"), at("p"), at("e")))
    loop = softmax_loop(conditions, k, v, rows, columns, part)
    there = f(">", "total", ZERO)
    body = (
        q,
        Let("Q", f("*", s("scale"), "raw")),
        *loads,
        loop,
        Let("mean", f("/", "out", "total")),
        Let("result", f("select", there, "mean", ZERO)),
        Store("O", (at("b"), at("h"), at("p"), at("f")), tile("result")),
    )
    axes = (Axis("p", c(rows)), Axis("m", c(columns)), Axis("e", s("E")), Axis("f", s("F")))
    places = (one("b"), one("h"), tiled("p", rows), whole("e"), whole("f"))
    kernel = Kernel("O", grid("b", "h", size=rows), axes, places, body)
    key_head = "g" if group else "h"
    buffers = (
        buffer("Q", "bhpe"),
        buffer("K", ("b", key_head, "m", "e")),
        buffer("V", ("b", key_head, "m", "f")),
        *extra,
        buffer("O", "bhpf", "out", "real"),
    )
    return Program("attention", buffers, (kernel,), ())


CAUSAL = (f("<=", at("m"), at("p")),)


def causal(rows=256, columns=512, part=128):
    return attention(rows, columns, part, CAUSAL)
