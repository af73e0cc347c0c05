"""Programs written by hand, in the form that a cascade is lowered to."""

from cascade.ir.expr import Const, Coordinate, Map, Symbol
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


# -- short forms
def c(value):
    return Const(value)


def s(name):
    return Symbol(name)


def at(rank):
    return Coordinate(rank)


def f(name, *args):
    """A pointwise operation; strings are tiles, numbers constants."""
    return Map(name, tuple(_part(a) for a in args))


def _part(a):
    if isinstance(a, str):
        return tile(a)
    return Const(a) if isinstance(a, int | float) else a


B, H, P, M, E, F, J = (at(r) for r in "bhpmefj")


def buffer(name, ranks, kind="in", dtype="any"):
    return Buffer(name, tuple(ranks), tuple(s(r.upper()) for r in ranks), dtype, kind)


def one(rank):
    """A rank of which the grid gives one coordinate."""
    return Place(rank, s(f"{rank}_at"), s(rank.upper()))


def tiled(rank, size):
    """A rank of which the grid gives a tile."""
    return Place(rank, f("+", f("*", s(f"{rank}_tile"), size), lane(rank)), s(rank.upper()))


def whole(rank):
    """A rank that a tile holds from end to end."""
    return Place(rank, lane(rank), s(rank.upper()))


def blocks(extent, size):
    return f("//", f("+", s(extent), size - 1), size)


def grid(singles, rank, size):
    heads = tuple(GridAxis(f"{r}_at", s(r.upper())) for r in singles)
    return (*heads, GridAxis(f"{rank}_tile", blocks(rank.upper(), size)))


def stream(rank, body, size, part=None, predicate=(), carries=(), scalar=None):
    scalar = scalar or f"{rank}_at"
    place = Place(rank, f("+", s(scalar), lane(rank)), s(rank.upper()))
    conditions = (f("<", at(rank), s(rank.upper())), *predicate)
    return For(scalar, place, rank, size, part or size, conditions, carries, tuple(body))


# -- attention
CAUSAL = (f("<=", M, P),)


def attention(
    rows=128, size=512, part=None, where=(), loads=(), head=H, keys="bhme", values="bhmf",
    extra=(), load_k=None, load_v=None,
):  # fmt: skip
    """Attention in one pass, with conditions over p, m, scalars, and the tiles of `loads`."""
    k = load_k or (Load("K", "K", (B, head, M, E)),)
    v = load_v or (Load("V", "V", (B, head, M, F)),)
    masks = (Mask("masked", tile("scores"), where, INFINITE),) if where else ()
    seen = "masked" if where else "scores"
    loop = stream(
        "m",
        (
            *k,
            Contract("scores", (tile("Q"), tile("K")), ("e",)),
            *masks,
            Fold("highest", "max", tile(seen), ("m",)),
            Let("top_next", f("max", "top", "highest")),
            Let("weights", f("exp", f("-", seen, "top_next"))),
            Let("kept", f("exp", f("-", "top", "top_next"))),
            Fold("weight", "sum", tile("weights"), ("m",)),
            Let("total_next", f("+", f("*", "total", "kept"), "weight")),
            *v,
            Contract("added", (tile("weights"), tile("V")), ("m",)),
            Let("out_next", f("+", f("*", "out", "kept"), "added")),
        ),
        size,
        part,
        where,
        (
            Carry("top", FLOOR, ("p",), "top_next"),
            Carry("total", ZERO, ("p",), "total_next"),
            Carry("out", ZERO, ("p", "f"), "out_next"),
        ),
    )
    kernel = Kernel(
        "O",
        grid("bh", "p", rows),
        (Axis("p", c(rows)), Axis("m", c(size)), Axis("e", s("E")), Axis("f", s("F"))),
        (one("b"), one("h"), tiled("p", rows), whole("e"), whole("f")),
        (
            Load("raw", "Q", (B, H, P, E)),
            Let("Q", f("*", s("scale"), "raw")),
            *loads,
            loop,
            Let("mean", f("/", "out", "total")),
            Let("result", f("select", f(">", "total", 0.0), "mean", 0.0)),
            Store("O", (B, H, P, F), tile("result")),
        ),
    )
    inputs = (buffer("Q", "bhpe"), buffer("K", keys), buffer("V", values), *extra)
    return Program("attention", (*inputs, buffer("O", "bhpf", "out", "real")), (kernel,), ())


def causal(rows=256, size=512, part=128):
    return attention(rows, size, part, CAUSAL)


def window_and_sinks(rows=32, size=32, part=8):
    """Keys at most W[h] back, and the first S of all."""
    near = f("or", f("<", f("-", P, M), "width"), f("<", M, s("S")))
    width = Load("width", "W", (H,))
    return attention(
        rows, size, part, (*CAUSAL, near), (width,), extra=(buffer("W", "h", dtype="int"),)
    )


def grouped(rows=64, size=64):
    """Query heads share the keys of a group."""
    head = f("//", H, f("//", s("H"), s("G")))
    return attention(rows, size, None, CAUSAL, (), head, "bgme", "bgmf")


def paged(rows=16, size=32):
    """Keys in pages, found through a table; a negative entry is no page."""
    page = Load("page", "table", (f("//", M, s("R")),))
    there = f("<=", 0, "page")
    offset = f("%", M, s("R"))

    def load(name, width):
        return Load(name, name, (tile("page"), B, H, offset, width), (there,))

    return attention(
        rows, size, None, (there,), (), keys="nbhre", values="nbhrf",
        load_k=(page, load("K", E)), load_v=(load("V", F),),
        extra=(buffer("table", "t", dtype="int"),),
    )  # fmt: skip


def two_passes(rows=32, size=64):
    """Attention whose probabilities are stored: the denominator first, then a second loop."""
    load = Load("K", "K", (B, H, M, E))
    scores = Contract("scores", (tile("Q"), tile("K")), ("e",))
    masked = Mask("masked", tile("scores"), CAUSAL, INFINITE)
    first = stream(
        "m",
        (
            load,
            scores,
            masked,
            Fold("highest", "max", tile("masked"), ("m",)),
            Let("top_next", f("max", "top", "highest")),
            Fold("weight", "sum", f("exp", f("-", "masked", "top_next")), ("m",)),
            Let("kept", f("exp", f("-", "top", "top_next"))),
            Let("total_next", f("+", f("*", "total", "kept"), "weight")),
        ),
        size,
        None,
        CAUSAL,
        (
            Carry("top", FLOOR, ("p",), "top_next"),
            Carry("total", ZERO, ("p",), "total_next"),
        ),
    )
    second = stream(
        "m",
        (
            load,
            scores,
            masked,
            Let("A", f("/", f("exp", f("-", "masked", "top")), "total")),
            Store("A", (B, H, P, M), tile("A")),
            Load("V", "V", (B, H, M, F)),
            Contract("added", (tile("A"), tile("V")), ("m",)),
            Let("out_next", f("+", "out", "added")),
        ),
        size,
        carries=(Carry("out", ZERO, ("p", "f"), "out_next"),),
        scalar="m_again",
    )
    kernel = Kernel(
        "A",
        grid("bh", "p", rows),
        (Axis("p", c(rows)), Axis("m", c(size)), Axis("e", s("E")), Axis("f", s("F"))),
        (one("b"), one("h"), tiled("p", rows), whole("e"), whole("f")),
        (
            Load("raw", "Q", (B, H, P, E)),
            Let("Q", f("*", "raw", s("scale"))),
            first,
            second,
            Store("O", (B, H, P, F), tile("out")),
        ),
    )
    inputs = (buffer("Q", "bhpe"), buffer("K", "bhme"), buffer("V", "bhmf"))
    outputs = (buffer("A", "bhpm", "out", "real"), buffer("O", "bhpf", "out", "real"))
    return Program("two_passes", (*inputs, *outputs), (kernel,), ())


# -- others
def variance(rows=16, size=32):
    """The variance of each row in two loops; a second kernel reads it and makes deviations."""
    x = Load("X", "X", (P, M))
    mean = stream(
        "m",
        (x, Fold("here", "sum", tile("X"), ("m",)), Let("sum_next", f("+", "sum", "here"))),
        size,
        carries=(Carry("sum", ZERO, ("p",), "sum_next"),),
    )
    away = f("-", "X", "mean")
    squares = stream(
        "m",
        (
            x,
            Let("away", away),
            Contract("here2", (tile("away"), tile("away")), ("m",)),
            Let("square_next", f("+", "square", "here2")),
        ),
        size,
        carries=(Carry("square", ZERO, ("p",), "square_next"),),
        scalar="m_again",
    )
    first = Kernel(
        "VAR",
        grid("", "p", rows),
        (Axis("p", c(rows)), Axis("m", c(size))),
        (tiled("p", rows),),
        (
            mean,
            Let("mean", f("/", "sum", s("M"))),
            squares,
            Let("variance", f("/", "square", s("M"))),
            Store("VAR", (P,), tile("variance")),
        ),
    )
    second = Kernel(
        "DEV",
        grid("", "p", rows),
        (Axis("p", c(rows)),),
        (tiled("p", rows),),
        (Load("VAR", "VAR", (P,)), Store("DEV", (P,), f("sqrt", "VAR"))),
    )
    buffers = (
        buffer("X", "pm"),
        buffer("VAR", "p", "temp", "real"),
        buffer("DEV", "p", "out", "real"),
    )
    return Program("variance", buffers, (first, second), ())


def retention(chunk=16):
    """Linear attention with decay, in chunks: a state over e and f goes from chunk to chunk."""
    i, j = at("i"), at("j")

    def decay(power):
        return f("exp2", f("*", s("rate"), power))

    def place(rank):
        value = f("+", f("*", s("chunk_at"), chunk), lane(rank))
        return Place(rank, value, s("I"))

    body = (
        Load("Q", "Q", (H, i, E)),
        Load("K", "K", (H, j, E)),
        Load("V", "V", (H, j, F)),
        Contract("scores", (tile("Q"), tile("K")), ("e",)),
        Mask("near", decay(f("-", i, j)), (f("<=", j, i),), ZERO),
        Contract("inside", (tile("scores"), tile("near"), tile("V")), ("j",)),
        Let("fading", decay(f("+", lane("i"), 1))),
        Contract("before", (tile("Q"), tile("fading"), tile("S")), ("e",)),
        Store("O", (H, i, F), f("+", "inside", "before")),
        Let("left", decay(f("-", chunk - 1, lane("j")))),
        Contract("added", (tile("K"), tile("left"), tile("V")), ("j",)),
        Let("S_next", f("+", f("*", decay(c(chunk)), "S"), "added")),
    )
    count = f("//", f("+", s("I"), chunk - 1), chunk)
    carry = Carry("S", ZERO, ("e", "f"), "S_next")
    loop = Seq("chunk_at", count, (place("i"), place("j")), (carry,), body)
    axes = (
        Axis("i", c(chunk)), Axis("j", c(chunk)), Axis("e", s("E")), Axis("f", s("F")),
    )  # fmt: skip
    kernel = Kernel(
        "O", (GridAxis("h_at", s("H")),), axes, (one("h"), whole("e"), whole("f")), (loop,)
    )
    inputs = (buffer("Q", "hie"), buffer("K", "hie"), buffer("V", "hif"))
    return Program("retention", (*inputs, buffer("O", "hif", "out", "real")), (kernel,), ())


def top(rows=16, size=32):
    """The J largest of each row among those not above the diagonal, and where they are."""
    loop = stream(
        "m",
        (
            Load("X", "X", (P, M)),
            Best(("values_next", "places_next"), tile("X"), M, CAUSAL, "m", "j",
                 ("values", "places")),
        ),
        size,
        None,
        CAUSAL,
        (
            Carry("values", INFINITE, ("p", "j"), "values_next"),
            Carry("places", c(-1), ("p", "j"), "places_next", "int"),
        ),
    )  # fmt: skip
    kernel = Kernel(
        "TOP",
        grid("", "p", rows),
        (Axis("p", c(rows)), Axis("m", c(size)), Axis("j", s("J"))),
        (tiled("p", rows), whole("j")),
        (
            loop,
            Store("TOP", (P, J), tile("values")),
            Store("AT", (P, J), tile("places")),
            Pick("second", tile("values"), "j", c(1)),
            Store("SECOND", (P,), tile("second")),
            Store("LAST", (P,), f("select", f("<=", "last", 0.0), "last", 1.0)),
        ),
    )
    pick = Pick("last", tile("values"), "j", f("-", f("min", f("+", P, 1), s("J")), 1))
    kernel = Kernel(
        kernel.name, kernel.grid, kernel.axes, kernel.places,
        (*kernel.body[:-1], pick, kernel.body[-1]),
    )  # fmt: skip
    buffers = (
        buffer("X", "pm"),
        buffer("TOP", "pj", "out", "real"),
        buffer("AT", "pj", "out", "int"),
        buffer("SECOND", "p", "out", "real"),
        buffer("LAST", "p", "out", "real"),
    )
    return Program("top", buffers, (kernel,), ())


def shifted(rows=16):
    """Y[p] = X[p-D] + X[p+D], 0 outside, written where p is even: at p//2."""
    before, after = f("-", P, s("D")), f("+", P, s("D"))
    kernel = Kernel(
        "Y",
        grid("", "p", rows),
        (Axis("p", c(rows)),),
        (tiled("p", rows),),
        (
            Load("left", "X", (before,), (f("<=", 0, before),)),
            Load("right", "X", (after,), (f("<", after, s("P")),)),
            Let("both", f("+", "left", "right")),
            Store("Y", (P,), tile("both")),
            Store("Z", (f("//", P, 2),), tile("both"), (f("==", f("%", P, 2), 0),)),
            Store("C", (P,), tile("both"), (f("<", 0.0, "both"),)),
        ),
    )
    buffers = (
        buffer("X", "p"),
        buffer("Y", "p", "out", "real"),
        Buffer("Z", ("q",), (f("//", f("+", s("P"), 1), 2),), "real", "out"),
        buffer("C", "p", "out", "real"),
    )
    return Program("shifted", buffers, (kernel,), ())


def pointwise(name, arity=1, rows=8):
    """Y[p] = name(X0[p], X1[p], ...)."""
    inputs = [f"X{n}" for n in range(arity)]
    kernel = Kernel(
        "Y",
        grid("", "p", rows),
        (Axis("p", c(rows)),),
        (tiled("p", rows),),
        (*(Load(x, x, (P,)) for x in inputs), Store("Y", (P,), f(name, *inputs))),
    )
    buffers = (*(buffer(x, "p") for x in inputs), buffer("Y", "p", "out", "real"))
    return Program(name, buffers, (kernel,), ())
