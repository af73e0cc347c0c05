"""Expressions of a Program as Triton text, with the axes and the kind of their values.

A tile has the axes of its kernel in one order; where operands differ in their axes, those of the
result are spelled by `[:, None]`. Integers have 32 bits where they surely fit, as coordinates do,
and 64 elsewhere: each is known to be less than some power of two. Names carry what they are: `t_K`
a tile, `c_m` a coordinate, `l_m` a lane, `n_M` an extent or a param, `K_ptr` and `K_s0` a tensor
and a stride.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from keyword import iskeyword

from cascade.backends.triton.layout import bare, grouped
from cascade.backends.triton.missing import Held
from cascade.backends.triton.spell import REAL, SPELL
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.extents import evaluate
from cascade.ir.kinds import is_whole_exponent
from cascade.ir.ops import COMPARISONS
from cascade.ir.walk import free_ranks, walk
from cascade.schedule.program import Kernel, Place, Program, lane, lanes_of
from cascade.schedule.settle import is_natural
from cascade.schedule.signs import Signs

Axes = tuple[str, ...]
RESERVED = frozenset(  # what the emitted function that a person calls uses
    ("torch", "triton", "tl", "math", "grid", "run", "min", "max", "abs", "float", "int")
)
DOT_LEAST = 16  # the smallest dimension of a matrix product
COMPUTED = "computed"  # in place of a type, of what another kernel left in float32
EXTENT, NUMBER, LONG = 20, 32, 64  # bits of coordinates and extents, of params, of any integer
FEW = 31  # bits of an integer that may be computed in 32


@dataclass(frozen=True)
class Code:
    """A piece of text, the axes of its value, and whether that is real, int or bool.

    An integer is less than `2**bits`, or minus it; `wide` says that the text has 64 bits.
    """

    text: str
    axes: Axes = ()
    kind: str = "real"
    bits: int = EXTENT
    wide: bool = False

    @property
    def dtype(self) -> str:
        return {"int": "tl.int64" if self.wide else "tl.int32", "bool": "tl.int1"}.get(
            self.kind, "tl.float32"
        )


@dataclass
class Writer:
    """Writes the body of one kernel."""

    program: Program
    kernel: Kernel
    sizes: dict[str, int]  # axis -> lanes, a power of two
    actual: dict[str, int]  # axis -> lanes that can exist
    widths: Mapping[str, int]  # extents and params that are numbers in the text
    kinds: Mapping[str, str]  # of extents and params: int, real or bool
    signs: Signs  # which of them are positive
    extents: frozenset[Expr]  # lengths of tensors and of ranks
    lines: list[str] = field(default_factory=list)
    depth: int = 1
    tiles: dict[str, Code] = field(default_factory=dict)
    loaded: dict[str, str] = field(default_factory=dict)  # tiles that keep the type of a tensor
    places: dict[str, Place] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)  # coordinates that have a name already
    whole: set[str] = field(default_factory=set)  # axes of loops all of whose lanes exist here
    held: dict[str, Held] = field(default_factory=dict)  # tiles at lanes that do not exist
    numbers: dict[str, Expr] = field(default_factory=dict)  # tiles that are one number
    lanes: dict[str, str] = field(default_factory=dict)  # names of lanes, where not the usual
    scalars: set[str] = field(default_factory=set)  # positions in the grid and in loops
    by_descriptor: bool = False  # whether loads go by descriptors where they can
    specialised: bool = False  # whether warps of their own load what loops need
    descriptors: dict[str, str] = field(default_factory=dict)  # how they are made -> names
    described: set[str] = field(default_factory=set)  # tensors that are loaded by descriptors
    placing: bool = False  # whether what is written is a place, which is less than an extent
    head: int = 0  # the line before which descriptors are made

    # -- lines
    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def assign(self, name: str, value: str) -> None:
        self.line(f"{name} = {bare(value)}")

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        """An indented block. What it names is not known after it."""
        self.line(header)
        self.depth += 1
        kept = (dict(self.tiles), dict(self.loaded), set(self.given), dict(self.places))
        held = dict(self.held)
        try:
            yield
        finally:
            self.depth -= 1
            self.tiles, self.loaded, self.given, self.places = kept
            self.held = held

    # -- order and shape
    def ordered(self, axes: set[str] | Axes) -> Axes:
        return tuple(a.name for a in self.kernel.axes if a.name in axes)

    def shape(self, axes: Axes) -> str:
        return "[" + ", ".join(str(self.sizes[a]) for a in axes) + "]"

    def spread(self, code: Code, axes: Axes) -> str:
        """The text with exactly these axes, of size 1 where it has none of its own."""
        if code.axes == axes or not code.axes:
            return code.text
        marks = ", ".join(":" if a in code.axes else "None" for a in axes)
        return f"{grouped(code.text)}[{marks}]"

    def full(self, code: Code, axes: Axes) -> str:
        """The text broadcast to a whole tile."""
        if code.axes == axes:
            return code.text
        if not axes:
            return code.text
        if not code.axes:
            return f"tl.full({self.shape(axes)}, {code.text}, {code.dtype})"
        return f"tl.broadcast_to({self.spread(code, axes)}, {self.shape(axes)})"

    # -- expressions
    def code(self, e: Expr) -> Code:
        match e:
            case Const(value):
                return _constant(value)
            case Symbol(name):
                return self._symbol(name)
            case Coordinate(rank):
                return self.coordinate(rank)
            case Read(name, ()):
                found = self.tiles[name]
                if name in self.loaded:
                    return replace(found, text=f"{found.text}.to({found.dtype})")
                return found
            case Map(op, args):
                return self._map(op, args)
            case _:
                raise AssertionError(type(e).__name__)

    def _symbol(self, name: str) -> Code:
        if name in self.widths:
            value = self.widths[name]
            return _constant(value)
        if name in self.scalars:
            return Code(position(name), (), "int")
        bits = EXTENT if Symbol(name) in self.extents else NUMBER
        return Code(scalar(name), (), self.kinds.get(name, "real"), bits)

    def coordinate(self, rank: str) -> Code:
        if rank.startswith("#"):
            axis = rank[1:]
            return Code(self.lanes.get(axis, f"l_{ident(axis)}"), (axis,), "int")
        place = self.places[rank]
        axes = self.ordered({r[1:] for r in free_ranks(place.value)})
        name = f"c_{ident(rank)}"
        if rank not in self.given:
            self.given.add(rank)
            self.placing, before = True, self.placing
            self.assign(name, self.code(place.value).text)
            self.placing = before
        return Code(name, axes, "int")

    def _map(self, op: str, args: tuple[Expr, ...]) -> Code:
        known = self._number(Map(op, args))
        if known is not None:
            return known
        if op == "??":  # Programs have no absent values
            return self.code(args[0])
        if op == "select":
            choice = self._number(args[0])
            if choice is not None:
                return self.code(args[1] if choice.text == "True" else args[2])
        if op == "**" and isinstance(args[1], Const):
            power = self._power(self.code(args[0]), args[1])
            if power is not None:
                return power
        if op in ("//", "%") and all(is_natural(a) for a in args):
            a, b = self._together(args)
            bits = a.bits if op == "//" else b.bits
            text = f"({a.text} {op} {b.text})"
            return Code(text, self._joined(a, b), "int", bits, a.wide or b.wide)
        divisor = self._number(args[1]) if op in ("//", "%") else None
        if divisor is not None and _is_power_of_two(divisor):
            a, size = self.code(args[0]), int(divisor.text)
            text = (
                f"{a.text} >> {size.bit_length() - 1}" if op == "//" else f"{a.text} & {size - 1}"
            )
            return replace(a, text=f"({text})", bits=a.bits if op == "//" else size.bit_length())
        parts = self._together(args)
        if op in ("floor", "ceil") and parts[0].kind == "int":
            return parts[0]
        if op in REAL:
            parts = [_as_real(p) for p in parts]
        axes = self._joined(*parts)
        kind = self._kind(op, parts)
        bounded = self.placing or Map(op, args) in self.extents
        bits = _bits(op, parts) if kind == "int" and not bounded else EXTENT
        wide = op in ("floor", "ceil") or any(p.wide for p in parts if p.kind == "int")
        if kind == "int" and not wide:
            n = len(parts) - len(_values(op, parts))
            parts[n] = fitting(parts[n], bits)
            wide = parts[n].wide
        text = SPELL[op](*(p.text for p in parts))
        if op == "sign" and parts[0].kind == "real":
            text = f"tl.cast({text}, tl.float32)"
        if op in COMPARISONS and not axes and any(p.kind == "real" for p in parts):
            text = f"tl.where({text}, True, False)"  # the interpreter takes it for a real
        return Code(text, axes, kind, bits, kind == "int" and op != "sign" and wide)

    def _power(self, base: Code, exponent: Const) -> Code | None:
        """A power by products; None where it is none."""
        n = exponent.value
        if base.kind == "int" and is_whole_exponent(exponent):
            base = fitting(base, n * base.bits if n in (1, 2, 3) else LONG)
        else:
            base = _as_real(base)
        if n in (1, 2, 3):
            return replace(base, text=f"({' * '.join([base.text] * int(n))})", bits=LONG)
        if base.kind != "int":
            return None
        n = int(n)
        return replace(base, text=f"_whole_power({base.text}, {n}, {n.bit_length()})", bits=LONG)

    def _number(self, e: Expr) -> Code | None:
        """The number that an expression over known extents is."""
        for node in walk(e):
            match node:
                case Const() | Map():
                    pass
                case Symbol(name) if name in self.widths:
                    pass
                case _:
                    return None
        try:
            return _constant(evaluate(e, self.widths.__getitem__))
        except (ArithmeticError, ValueError):
            return None

    def _together(self, args: tuple[Expr, ...]) -> list[Code]:
        """The operands with the same axes, where more than one has any."""
        parts = [self.code(a) for a in args]
        axes = self._joined(*parts)
        return [replace(p, text=self.spread(p, axes), axes=axes if p.axes else ()) for p in parts]

    def _joined(self, *parts: Code) -> Axes:
        return self.ordered({a for p in parts for a in p.axes})

    def _kind(self, op: str, parts: list[Code]) -> str:
        from cascade.ir.ops import MAPS

        gives = MAPS[op].gives
        if gives != "same":
            return gives
        kinds = {p.kind for p in _values(op, parts)}
        return "real" if "real" in kinds else "bool" if kinds == {"bool"} else "int"

    def every(self, conditions: tuple[Expr, ...]) -> list[Code]:
        return [self.code(c) for c in conditions]

    def together(self, parts: list[Code], axes: Axes | None = None) -> str:
        """All of these conditions, over axes."""
        joined = self.ordered({a for p in parts for a in p.axes}) if axes is None else axes
        if len(parts) == 1:
            return bare(self.spread(parts[0], joined))
        return " & ".join(grouped(self.spread(p, joined)) for p in parts)

    # -- which lanes exist
    def missing(self, axes: set[str] | Axes) -> list[Place]:
        """The places of lanes of these axes, where some of the lanes may not exist."""
        found = [
            place
            for place in self.places.values()
            if (own := _lanes(place)) and own <= set(axes)
            if not own <= self.whole and not self._is_exact(place)
        ]
        for axis in self.ordered(axes):
            padded = Place(f"#{axis}", lane(axis), Const(self.actual[axis]))
            if self.actual[axis] != self.sizes[axis]:
                if not any(p.value == padded.value for p in found):
                    found.append(padded)
        return found

    def _is_exact(self, place: Place) -> bool:
        """Whether every lane of an axis is a coordinate of the rank that lies along it."""
        match place.value, self._number(place.extent):
            case Coordinate(rank), Code(text, (), "int", wide=False):
                return rank.startswith("#") and self.sizes[rank[1:]] <= int(text)
            case _:
                return False

    def tests(self, places: list[Place]) -> list[Code]:
        """Tests for the lanes that exist at these places."""
        found: list[Code] = []
        for place in places:
            here, extent = self.coordinate(place.rank), self.code(place.extent)
            found.append(Code(f"{here.text} < {extent.text}", here.axes, "bool"))
        return list(dict.fromkeys(found))

    def exists(self, axes: set[str] | Axes) -> list[Code]:
        """Tests for the lanes of these axes that may not exist."""
        return self.tests(self.missing(axes))

    def varies(self, e: Expr, place: Place) -> bool:
        """Whether a value varies along the lanes of a place."""
        return bool(_lanes(place) & set(self.axes(e)))

    def is_empty(self, place: Place) -> bool:
        """Whether no lane of a place exists, as its width is 0."""
        return any(self.actual[axis] == 0 for axis in _lanes(place))

    def axes(self, e: Expr) -> Axes:
        """The axes of the value of an expression."""
        found: set[str] = set()
        for n in walk(e):
            match n:
                case Read(name, ()):
                    found |= set(self.tiles[name].axes)
                case Coordinate(rank) if rank.startswith("#"):
                    found.add(rank[1:])
                case Coordinate(rank):
                    found |= _lanes(self.places[rank])
        return self.ordered(found)


def _is_power_of_two(number: Code) -> bool:
    size = int(number.text) if number.kind == "int" and not number.wide else 0
    return size > 0 and size & (size - 1) == 0


def _lanes(place: Place) -> set[str]:
    return set(lanes_of(place.value))


def ident(name: str) -> str:
    """A name of the language as a Python name."""
    name = name.replace("'", "_prime").replace(".", "_").replace("#", "_lane")
    return f"{name}_" if iskeyword(name) or name in RESERVED else name


def position(name: str) -> str:
    """The name of a position in the grid or in a loop."""
    return f"i_{ident(name)}"


def scalar(name: str) -> str:
    """The name of an extent or a param."""
    return f"n_{ident(name)}"


def _constant(value: object) -> Code:
    if isinstance(value, bool):
        return Code(str(value), (), "bool")
    if isinstance(value, int):
        bits = value.bit_length()
        text = str(value) if bits <= FEW else f"tl.cast({value}, tl.int64)"
        return Code(text, (), "int", bits, bits > FEW)
    assert isinstance(value, float | Fraction)
    number = float(value)
    if number != number:
        return Code('float("nan")')
    if number in (float("inf"), float("-inf")):
        return Code(f'float("{number}")')
    return Code(repr(number))


def _values(op: str, parts: list[Code]) -> list[Code]:
    """The operands whose kind is that of the result."""
    return parts[1:] if op == "select" else parts


def _bits(op: str, parts: list[Code]) -> int:
    """How large an integer is that an operation makes of others."""
    own = [p.bits for p in _values(op, parts)]
    match op:
        case "+" | "-":
            bits = max(own) + 1
        case "*":
            bits = sum(own)
        case "//":
            bits = own[0]
        case "%":
            bits = own[1]
        case "sign":
            bits = 1
        case "floor" | "ceil":
            bits = LONG
        case _:
            bits = max(own)
    return min(bits, LONG)


def fitting(p: Code, bits: float) -> Code:
    """An integer in as many bits as one so large needs."""
    if bits <= FEW or p.wide or p.kind != "int":
        return p
    return replace(p, text=f"tl.cast({p.text}, tl.int64)", bits=LONG, wide=True)


def _as_real(p: Code) -> Code:
    if p.kind == "real":
        return p
    if not p.axes and p.text.lstrip("-").isdigit():
        return Code(f"{p.text}.0", (), "real")
    if p.text.lstrip("(-").rstrip(")").isdigit():
        return Code(f"float({p.text})", (), "real")
    return Code(f"tl.cast({p.text}, tl.float32)", p.axes, "real")
