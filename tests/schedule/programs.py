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
def const(value):
    return Const(value)


def sym(name):
    return Symbol(name)


def at(*ranks):
    return tuple(Coordinate(r) for r in ranks)


def op(name, *args):
    """A pointwise operation; strings are tiles, numbers constants."""
    return Map(name, tuple(_part(a) for a in args))


def _part(a):
    if isinstance(a, str):
        return tile(a)
    return Const(a) if isinstance(a, int | float) else a


B, H, P, M, E, F, J = (Coordinate(r) for r in "bhpmefj")


def buffer(name, ranks, kind="in", dtype="any"):
    return Buffer(name, tuple(ranks), tuple(sym(r.upper()) for r in ranks), dtype, kind)


def one(rank):
    """A rank of which the grid gives one coordinate."""
    return Place(rank, sym(f"{rank}_at"), sym(rank.upper()))


def rows_of(rank, size):
    """A rank of which the grid gives a tile."""
    return Place(rank, op("+", op("*", sym(f"{rank}_tile"), size), lane(rank)), sym(rank.upper()))


def whole(rank):
    """A rank that a tile holds from end to end."""
    return Place(rank, lane(rank), sym(rank.upper()))


def grid(singles, rank, size):
    blocks = op("//", op("+", sym(rank.upper()), size - 1), size)
    heads = tuple(GridAxis(f"{r}_at", sym(r.upper())) for r in singles)
    return (*heads, GridAxis(f"{rank}_tile", blocks))


def stream(rank, body, size, part=None, predicate=(), carries=(), scalar=None):
    scalar = scalar or f"{rank}_at"
    place = Place(rank, op("+", sym(scalar), lane(rank)), sym(rank.upper()))
    conditions = (op("<", *at(rank), sym(rank.upper())), *predicate)
    return For(scalar, place, rank, size, part or size, conditions, carries, tuple(body))


# -- attention
CAUSAL = (op("<=", M, P),)


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
            Let("top_next", op("max", "top", "highest")),
            Let("weights", op("exp", op("-", seen, "top_next"))),
            Let("kept", op("exp", op("-", "top", "top_next"))),
            Fold("weight", "sum", tile("weights"), ("m",)),
            Let("total_next", op("+", op("*", "total", "kept"), "weight")),
            *v,
            Contract("added", (tile("weights"), tile("V")), ("m",)),
            Let("out_next", op("+", op("*", "out", "kept"), "added")),
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
    mean = op("select", op("!=", "total", 0.0), op("/", "out", "total"), 0.0)
    kernel = Kernel(
        "O",
        grid("bh", "p", rows),
        (Axis("p", const(rows)), Axis("m", const(size)), Axis("e", sym("E")), Axis("f", sym("F"))),
        (one("b"), one("h"), rows_of("p", rows), whole("e"), whole("f")),
        (
            Load("raw", "Q", (B, H, P, E)),
            Let("Q", op("*", sym("scale"), "raw")),
            *loads,
            loop,
            Let("mean", mean),
            Store("O", (B, H, P, F), tile("mean")),
        ),
    )
    inputs = (buffer("Q", "bhpe"), buffer("K", keys), buffer("V", values), *extra)
    return Program("attention", (*inputs, buffer("O", "bhpf", "out", "real")), (kernel,), ())


def window_and_sinks(rows=32, size=32, part=8):
    """Keys at most W[h] back, and the first S of all."""
    near = op("or", op("<", op("-", P, M), "width"), op("<", M, sym("S")))
    width = Load("width", "W", (H,))
    return attention(
        rows, size, part, (*CAUSAL, near), (width,), extra=(buffer("W", "h", dtype="int"),)
    )


def grouped(rows=64, size=64):
    """Query heads share the keys of a group."""
    head = op("//", H, op("//", sym("H"), sym("G")))
    return attention(rows, size, None, CAUSAL, (), head, "bgme", "bgmf")


def paged(rows=16, size=32):
    """Keys in pages, found through a table; a negative entry is no page."""
    page = Load("page", "table", (op("//", M, sym("R")),))
    there = op("<=", 0, "page")
    offset = op("%", M, sym("R"))

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
            Let("top_next", op("max", "top", "highest")),
            Fold("weight", "sum", op("exp", op("-", "masked", "top_next")), ("m",)),
            Let("kept", op("exp", op("-", "top", "top_next"))),
            Let("total_next", op("+", op("*", "total", "kept"), "weight")),
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
            Let("A", op("/", op("exp", op("-", "masked", "top")), "total")),
            Store("A", (B, H, P, M), tile("A")),
            Load("V", "V", (B, H, M, F)),
            Contract("added", (tile("A"), tile("V")), ("m",)),
            Let("out_next", op("+", "out", "added")),
        ),
        size,
        carries=(Carry("out", ZERO, ("p", "f"), "out_next"),),
        scalar="m_again",
    )
    kernel = Kernel(
        "A",
        grid("bh", "p", rows),
        (Axis("p", const(rows)), Axis("m", const(size)), Axis("e", sym("E")), Axis("f", sym("F"))),
        (one("b"), one("h"), rows_of("p", rows), whole("e"), whole("f")),
        (
            Load("raw", "Q", (B, H, P, E)),
            Let("Q", op("*", "raw", sym("scale"))),
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
        (x, Fold("here", "sum", tile("X"), ("m",)), Let("sum_next", op("+", "sum", "here"))),
        size,
        carries=(Carry("sum", ZERO, ("p",), "sum_next"),),
    )
    away = op("-", "X", "mean")
    squares = stream(
        "m",
        (
            x,
            Let("away", away),
            Contract("here2", (tile("away"), tile("away")), ("m",)),
            Let("square_next", op("+", "square", "here2")),
        ),
        size,
        carries=(Carry("square", ZERO, ("p",), "square_next"),),
        scalar="m_again",
    )
    first = Kernel(
        "VAR",
        grid("", "p", rows),
        (Axis("p", const(rows)), Axis("m", const(size))),
        (rows_of("p", rows),),
        (
            mean,
            Let("mean", op("/", "sum", sym("M"))),
            squares,
            Let("variance", op("/", "square", sym("M"))),
            Store("VAR", (P,), tile("variance")),
        ),
    )
    second = Kernel(
        "DEV",
        grid("", "p", rows),
        (Axis("p", const(rows)),),
        (rows_of("p", rows),),
        (Load("VAR", "VAR", (P,)), Store("DEV", (P,), op("sqrt", "VAR"))),
    )
    buffers = (
        buffer("X", "pm"),
        buffer("VAR", "p", "temp", "real"),
        buffer("DEV", "p", "out", "real"),
    )
    return Program("variance", buffers, (first, second), ())


def retention(chunk=16):
    """Linear attention with decay, in chunks: a state over e and f goes from chunk to chunk."""
    i, j = Coordinate("i"), Coordinate("j")

    def decay(power):
        return op("exp2", op("*", sym("rate"), power))

    def place(rank):
        value = op("+", op("*", sym("chunk_at"), chunk), lane(rank))
        return Place(rank, value, sym("I"))

    body = (
        Load("Q", "Q", (H, i, E)),
        Load("K", "K", (H, j, E)),
        Load("V", "V", (H, j, F)),
        Contract("scores", (tile("Q"), tile("K")), ("e",)),
        Mask("near", decay(op("-", i, j)), (op("<=", j, i),), ZERO),
        Contract("inside", (tile("scores"), tile("near"), tile("V")), ("j",)),
        Let("fading", decay(op("+", lane("i"), 1))),
        Contract("before", (tile("Q"), tile("fading"), tile("S")), ("e",)),
        Store("O", (H, i, F), op("+", "inside", "before")),
        Let("left", decay(op("-", chunk - 1, lane("j")))),
        Contract("added", (tile("K"), tile("left"), tile("V")), ("j",)),
        Let("S_next", op("+", op("*", decay(const(chunk)), "S"), "added")),
    )
    count = op("//", op("+", sym("I"), chunk - 1), chunk)
    carry = Carry("S", ZERO, ("e", "f"), "S_next")
    loop = Seq("chunk_at", count, (place("i"), place("j")), (carry,), body)
    axes = (
        Axis("i", const(chunk)), Axis("j", const(chunk)), Axis("e", sym("E")), Axis("f", sym("F")),
    )  # fmt: skip
    kernel = Kernel(
        "O", (GridAxis("h_at", sym("H")),), axes, (one("h"), whole("e"), whole("f")), (loop,)
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
            Carry("places", const(-1), ("p", "j"), "places_next", "int"),
        ),
    )  # fmt: skip
    kernel = Kernel(
        "TOP",
        grid("", "p", rows),
        (Axis("p", const(rows)), Axis("m", const(size)), Axis("j", sym("J"))),
        (rows_of("p", rows), whole("j")),
        (
            loop,
            Store("TOP", (P, J), tile("values")),
            Store("AT", (P, J), tile("places")),
            Pick("second", tile("values"), "j", const(1)),
            Store("SECOND", (P,), tile("second")),
            Store("LAST", (P,), op("select", op("<=", "last", 0.0), "last", 1.0)),
        ),
    )
    pick = Pick("last", tile("values"), "j", op("-", op("min", op("+", P, 1), sym("J")), 1))
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
    before, after = op("-", P, sym("D")), op("+", P, sym("D"))
    kernel = Kernel(
        "Y",
        grid("", "p", rows),
        (Axis("p", const(rows)),),
        (rows_of("p", rows),),
        (
            Load("left", "X", (before,), (op("<=", 0, before),)),
            Load("right", "X", (after,), (op("<", after, sym("P")),)),
            Let("both", op("+", "left", "right")),
            Store("Y", (P,), tile("both")),
            Store("Z", (op("//", P, 2),), tile("both"), (op("==", op("%", P, 2), 0),)),
            Store("C", (P,), tile("both"), (op("<", 0.0, "both"),)),
        ),
    )
    buffers = (
        buffer("X", "p"),
        buffer("Y", "p", "out", "real"),
        Buffer("Z", ("q",), (op("//", op("+", sym("P"), 1), 2),), "real", "out"),
        buffer("C", "p", "out", "real"),
    )
    return Program("shifted", buffers, (kernel,), ())


def pointwise(name, arity=1, rows=8):
    """Y[p] = name(X0[p], X1[p], ...)."""
    inputs = [f"X{n}" for n in range(arity)]
    kernel = Kernel(
        "Y",
        grid("", "p", rows),
        (Axis("p", const(rows)),),
        (rows_of("p", rows),),
        (*(Load(x, x, (P,)) for x in inputs), Store("Y", (P,), op(name, *inputs))),
    )
    buffers = (*(buffer(x, "p") for x in inputs), buffer("Y", "p", "out", "real"))
    return Program(name, buffers, (kernel,), ())
