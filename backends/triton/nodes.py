"""One function a node: the Triton statements that it becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

from cascade.backends.triton.contract import contract, permuted
from cascade.backends.triton.descriptors import described
from cascade.backends.triton.missing import held, note
from cascade.backends.triton.writer import (
    COMPUTED,
    FEW,
    LONG,
    Axes,
    Code,
    Writer,
    fitting,
    ident,
)
from cascade.ir.expr import Const, Coordinate, Expr, Symbol
from cascade.ir.kinds import EIGHT_BITS, LEAST, MOST
from cascade.ir.ops import REDUCERS
from cascade.ir.walk import walk
from cascade.schedule.program import (
    Best,
    Contract,
    Fold,
    For,
    Let,
    Load,
    Mask,
    Node,
    Pick,
    Seq,
    Store,
    lane,
)

FOLD = {"sum": "tl.sum", "max": "tl.max", "min": "tl.min"}
BITS = {"i32": 32, "i16": 16, "i8": 8, "u8": 8}  # of integers; those of other types have more
LARGEST = 2**31 - 1  # a place that is no place
UNROLLED = 8  # selected coordinates; the text of more than these would take minutes to compile

Loop = Callable[[Writer, For | Seq, frozenset[Expr]], None]


def write(w: Writer, nodes: tuple[Node, ...], holding: frozenset[Expr], loop: Loop) -> None:
    """Statements for nodes; conditions of `holding` need no test here."""
    for node in nodes:
        match node:
            case Let(name, value):
                put(w, name, w.code(value))
            case Load():
                _load(w, node)
            case Mask():
                _mask(w, node, holding)
            case Fold():
                _fold(w, node)
            case Contract():
                contract(w, node)
            case Pick():
                _pick(w, node)
            case Best():
                _best(w, node, holding)
            case Store():
                _store(w, node)
            case For() | Seq():
                loop(w, node, holding)
        note(w, node)


def put(w: Writer, name: str, code: Code) -> None:
    """Give a value its name."""
    text = f"t_{ident(name)}"
    w.assign(text, code.text)
    w.tiles[name] = replace(code, text=text)
    w.loaded.pop(name, None)


# -- memory
def address(
    w: Writer, tensor: str, index: tuple[Expr, ...], others: list[Code]
) -> tuple[str, Axes]:
    """The pointers of a tensor at an index, over its axes and those of others, where any has some.
    What a whole instance shares is computed in 64 bits.
    """
    own = w.ordered({a for i in index for a in w.axes(i)})
    axes = w.ordered({*own, *(a for o in others for a in o.axes)})
    terms = [f"{ident(tensor)}_ptr"]
    for slot, i in enumerate(index):
        stride = f"{ident(tensor)}_s{slot}"
        for part in _parts(w, i):
            code = w.code(part)
            if part == Const(0):
                continue
            if not code.axes:
                terms.append(f"tl.cast({code.text}, tl.int64) * {stride}")
            elif isinstance(part, Coordinate) and part.rank.startswith("#"):
                terms.append(f"{w.spread(code, own)} * {stride}")
            else:
                terms.append(f"{w.spread(code, own)}.to(tl.int64) * {stride}")
    text = " + ".join(terms)
    if own != axes:
        text = f"tl.broadcast_to({w.spread(Code(text, own), axes)}, {w.shape(axes)})"
    return text, axes


def _parts(w: Writer, i: Expr) -> list[Expr]:
    """An index as a scalar and a lane, where it is a plain coordinate; else as it is."""
    from cascade.ir.expr import Map

    if not isinstance(i, Coordinate) or i.rank not in w.places:
        return [i]
    value = w.places[i.rank].value
    match value:
        case Map("+", (offset, Coordinate(r))) if r.startswith("#"):
            if not any(isinstance(n, Coordinate) for n in walk(offset)):
                return [offset, value.args[1]]
        case Coordinate() | Symbol():
            return [value]
    return [i]


def _load(w: Writer, node: Load) -> None:
    dtype = w.program.buffer[node.tensor].dtype
    kind = {"int": "int", "bool": "bool"}.get(_kind_of(w, node.tensor), "real")
    keeps_type = kind == "real" or dtype in EIGHT_BITS
    if w.by_descriptor and keeps_type:
        copied = described(w, node)
        if copied is not None:
            put(w, node.name, replace(copied, kind=kind, bits=8))
            w.loaded[node.name] = _kept(w, node.tensor)
            return
    found = w.every(node.present)
    pointer, axes = address(w, node.tensor, node.index, found)
    tests = [*found, *w.exists(axes)]
    other = "0.0" if kind == "real" else "0"  # of integers no 8-bit real can be made
    mask = f", mask={w.together(tests, axes)}, other={other}" if tests else ""
    text = f"t_{ident(node.name)}"
    loaded = f"tl.load({pointer}{mask})"
    if kind == "bool":
        loaded = f"({loaded} != 0)"
    bits = BITS.get(dtype, LONG)
    code = Code(text, axes, kind, bits, kind == "int" and bits == LONG)
    if kind == "int" and not keeps_type:
        loaded = f"{loaded}.to({code.dtype})"
    w.assign(text, loaded)
    w.tiles[node.name] = code
    if keeps_type:
        w.loaded[node.name] = _kept(w, node.tensor)


def _kept(w: Writer, tensor: str) -> str:
    """The type of a tile as it was loaded: COMPUTED for what another kernel left in float32."""
    buffer = w.program.buffer[tensor]
    is_left = buffer.kind == "temp" and buffer.like is None and buffer.dtype == "real"
    return COMPUTED if is_left else buffer.dtype


def _kind_of(w: Writer, tensor: str) -> str:
    from cascade.ir.kinds import declared_kind

    dtype = w.program.buffer[tensor].dtype
    return dtype if dtype in ("real", "int", "bool") else declared_kind(dtype)


def _store(w: Writer, node: Store) -> None:
    value = w.code(node.value)
    found = w.every(node.present)
    pointer, axes = address(w, node.tensor, node.index, [value, *found])
    tests = [*found, *w.exists(axes)]
    mask = f", mask={w.together(tests, axes)}" if tests else ""
    text = w.full(value, axes)
    if _kind_of(w, node.tensor) == "bool":
        text = f"({text}).to(tl.int8)" if axes else f"tl.cast({text}, tl.int8)"
    w.line(f"tl.store({pointer}, {text}{mask})")


# -- tiles
def _mask(w: Writer, node: Mask, holding: frozenset[Expr]) -> None:
    left = tuple(c for c in node.conditions if c not in holding)
    value = w.code(node.value)
    if not left:
        put(w, node.name, value)
        return
    tests = w.every(left)
    axes = w.ordered({*value.axes, *(a for t in tests for a in t.axes)})
    fill = _fill(w, node.fill, value.kind)
    text = f"tl.where({w.together(tests, axes)}, {w.spread(value, axes)}, {fill.text})"
    kind = "real" if "real" in (fill.kind, value.kind) else value.kind
    bits, wide = max(fill.bits, value.bits), fill.wide or value.wide
    put(w, node.name, Code(text, axes, kind, bits, wide))


def _fill(w: Writer, fill: Const, kind: str) -> Code:
    """A fill of the kind of what it is put beside, where it is a number of that kind."""
    value = fill.value
    if kind == "int" and isinstance(value, float) and value.is_integer():
        return w.code(Const(int(value)))
    if kind == "bool" and value in (0, 1):
        return w.code(Const(bool(value)))
    return w.code(fill)


def neutral(w: Writer, e: Expr, axes: Axes, identity: float, fill: str) -> Code:
    """A value whose lanes that do not exist, along axes, are the identity of what comes."""
    value = w.code(e)
    tests = w.tests([p for p in w.missing(axes) if held(w, e, p) != identity])
    if not tests:
        return value
    whole = w.ordered({*value.axes, *(a for t in tests for a in t.axes)})
    text = f"tl.where({w.together(tests, whole)}, {w.spread(value, whole)}, {fill})"
    return replace(value, text=text, axes=whole)


def _fold(w: Writer, node: Fold) -> None:
    identity = REDUCERS[node.op].identity
    if node.op in ("max", "min") and w.code(node.value).kind == "int":
        least, most = (-LARGEST, LARGEST) if _is_small(w.code(node.value)) else (LEAST, MOST)
        fill = w.code(Const(least if node.op == "max" else most)).text
    else:
        fill = w.code(Const(identity if identity is not None else 0)).text
    value = neutral(w, node.value, node.axes, float(identity or 0), fill)
    value = _widened(w, value, node)
    text, axes, kind = value.text, value.axes, value.kind
    if kind == "bool":
        text, kind = f"tl.cast({text}, tl.int32)", "int"
    if node.op in ("sum", "prod") and not set(node.axes) <= set(axes):
        axes = w.ordered({*axes, *node.axes})  # every lane counts
        text = w.full(replace(value, text=text, kind=kind), axes)
    for a in reversed(w.ordered(node.axes)):
        if a not in axes:
            continue
        position = axes.index(a)
        if node.op == "prod":
            text = f"tl.reduce({text}, {position}, _times)"
        else:
            function = {"any": "tl.max", "all": "tl.min"}.get(node.op) or FOLD[node.op]
            text = f"{function}({text}, {position})"
        axes = tuple(x for x in axes if x != a)
    if node.op in ("any", "all"):
        text, kind = f"({text} > 0)", "bool"
    put(w, node.name, replace(value, text=text, axes=axes, kind=kind))


def _is_small(value: Code) -> bool:
    return not value.wide and value.bits <= FEW


def _widened(w: Writer, value: Code, node: Fold) -> Code:
    """Integers in as many bits as what they are reduced to needs."""
    lanes = prod(w.sizes[a] for a in node.axes)
    match value.kind, node.op:
        case "bool", _:
            bits = lanes.bit_length()
        case _, "sum":
            bits = value.bits + lanes.bit_length()
        case _, "prod":
            bits = value.bits * lanes
        case _:
            bits = value.bits
    return replace(fitting(value, bits), bits=min(bits, LONG))


def _pick(w: Writer, node: Pick) -> None:
    value, at = w.code(node.value), w.code(node.at)
    renamed = _renamed(w, node)
    if renamed is not None:
        axes = tuple(renamed if a == node.axis else a for a in value.axes)
        order = w.ordered(axes)
        text = value.text
        if order != axes:
            text = permuted(text, axes, order)
        put(w, node.name, replace(value, text=text, axes=order))
        return
    whole = w.ordered({*value.axes, *at.axes, node.axis})
    here = w.code(lane(node.axis))
    where = f"{w.spread(here, whole)} == {w.spread(at, whole)}"
    zero = "False" if value.kind == "bool" else "0" if value.kind == "int" else "0.0"
    text = f"tl.where({where}, {w.spread(value, whole)}, {zero})"
    if value.kind == "bool":
        text = f"tl.max(({text}).to(tl.int32), {whole.index(node.axis)}) > 0"
    else:
        text = f"tl.sum({text}, {whole.index(node.axis)})"
    put(w, node.name, replace(value, text=text, axes=tuple(a for a in whole if a != node.axis)))


def _renamed(w: Writer, node: Pick) -> str | None:
    """The axis that a picked one becomes, where each lane is read at the same lane."""
    if not isinstance(node.at, Coordinate) or node.at.rank not in w.places:
        return None
    value = w.places[node.at.rank].value
    if not isinstance(value, Coordinate):
        return None
    axis = value.rank[1:]
    return axis if w.sizes[axis] == w.sizes[node.axis] else None


def _best(w: Writer, node: Best, holding: frozenset[Expr]) -> None:
    """The largest, one after another; each is taken out of the tile or of the list before."""
    value, place = w.code(node.value), w.code(node.place)
    tests = [*w.every(tuple(c for c in node.conditions if c not in holding))]
    tests += w.exists((node.axis,))
    before = [w.tiles[n] for n in node.before or ()]
    shared = {a for b in before for a in b.axes if a != node.target}
    tested = {a for t in tests for a in t.axes}
    axes = w.ordered({node.axis, *value.axes, *place.axes, *tested, *shared})
    rest = tuple(a for a in axes if a != node.axis)
    out = w.ordered({*rest, node.target})
    n = ident(node.names[0])
    present = w.together(tests, axes) if tests else "True"
    w.line(f"h_{n} = tl.broadcast_to({present}, {w.shape(axes)})" if tests
           else f"h_{n} = tl.full({w.shape(axes)}, True, tl.int1)")  # fmt: skip
    w.line(f"x_{n} = {w.full(value, axes)}")
    w.line(f"p_{n} = {w.full(place, axes)}")
    at, where = axes.index(node.axis), out.index(node.target)
    if node.before is not None:
        for letter, tile in zip("vq", before, strict=True):
            w.line(f"{letter}_{n} = {w.full(tile, out)}")
    w.line(f"y_{n} = tl.full({w.shape(out)}, float('-inf'), tl.float32)")
    w.line(f"z_{n} = tl.full({w.shape(out)}, -1, tl.int32)")
    big = str(LARGEST)
    target = w.code(lane(node.target))
    count = w.sizes[node.target]
    steps = f"tl.static_range({count})" if count <= UNROLLED else f"range(0, {count})"
    with w.block(f"for j_{n} in {steps}:"):
        best = Code(f"b_{n}", rest)
        first = Code(f"f_{n}", rest, "int")
        w.line(f"b_{n} = tl.max(tl.where(h_{n}, x_{n}, float('-inf')), {at})")
        equal = f"h_{n} & (x_{n} == {w.spread(best, axes)})"
        w.line(f"f_{n} = tl.min(tl.where({equal}, p_{n}, {big}), {at})")
        if node.before is not None:
            old = f"tl.where(q_{n} >= 0, v_{n}, float('-inf'))"
            w.line(f"bb_{n} = tl.max({old}, {where})")
            same = f"(q_{n} >= 0) & (v_{n} == {w.spread(Code(f'bb_{n}', rest), out)})"
            w.line(f"ff_{n} = tl.min(tl.where({same}, q_{n}, {big}), {where})")
            ahead = f"(bb_{n} > b_{n}) | ((bb_{n} == b_{n}) & (ff_{n} < f_{n})) | (f_{n} == {big})"
            w.line(f"k_{n} = (ff_{n} != {big}) & ({ahead})")
            w.line(f"b_{n} = tl.where(k_{n}, bb_{n}, b_{n})")
            w.line(f"f_{n} = tl.where(k_{n}, ff_{n}, f_{n})")
            w.line(f"q_{n} = tl.where(q_{n} == {w.spread(first, out)}, -1, q_{n})")
        w.line(f"h_{n} = h_{n} & (p_{n} != {w.spread(first, axes)})")
        here = f"({w.spread(target, out)} == j_{n}) & ({w.spread(first, out)} != {big})"
        w.line(f"y_{n} = tl.where({here}, {w.spread(best, out)}, y_{n})")
        w.line(f"z_{n} = tl.where({here}, {w.spread(first, out)}, z_{n})")
    put(w, node.names[0], Code(f"y_{n}", out))
    put(w, node.names[1], Code(f"z_{n}", out, "int"))
