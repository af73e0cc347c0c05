"""The cascade: ranks, tensors, and a list of Einsums that define each other.

An *Einsum* is one statement `Z[m,n] = body`: for every point (m, n) of its left side, the value of
the body there. A *cascade* is a set of Einsums, each reading inputs or results of others. A *rank*
is a named dimension with one extent wherever it occurs. An *iterative* rank is written at `i+1` and
read at `i`: its tensors have one slot more than the rank has coordinates. Statement order carries
no meaning; `Cascade.einsums` keeps the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn

from cascade.diagnostics import Diagnostic, Span, fail
from cascade.ir.expr import Const, Coordinate, Expr, Map, Symbol


@dataclass(frozen=True, slots=True)
class Rank:
    """A dimension: coordinates 0 .. extent-1. Sizes live here, once, and nowhere else.

    `declared` says that the file states the extent (`rank j < I`); otherwise tensors carry it.
    """

    name: str
    extent: Expr
    declared: bool = False
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Partition:
    """`rank m = m1*M0 + m0`: m seen as its parts, outermost first. Past the extent: absent."""

    rank: str
    parts: tuple[str, ...]
    expression: Expr
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A name with ranks. `iterative` is the position of the slot that has one coordinate more."""

    name: str
    ranks: tuple[str, ...]
    dtype: str | None = None
    iterative: int | None = None
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Param:
    """A scalar of the file with an optional default."""

    name: str
    value: Expr | None = None
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Requirement:
    """`require E % 2 == 0, "rotary needs an even width"`: checked when extents are known."""

    condition: Expr
    message: str = ""
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class OutputType:
    """`output LSE: f32`: the type in which an output is returned."""

    tensor: str
    dtype: str
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Einsum:
    """`tensor[index] = body`. `ranks` are the left-side ranks, in the order of the slots.

    `step` is the position of an iterative slot, written at coordinate + 1. An `init` statement
    writes coordinate 0 of that slot, and `ranks` still names the iterative rank there.
    """

    tensor: str
    ranks: tuple[str, ...]
    body: Expr
    step: int | None = None
    init: bool = False
    span: Span | None = field(default=None, compare=False, repr=False)

    @property
    def index(self) -> tuple[Expr, ...]:
        """The left side as index expressions."""
        index: list[Expr] = [Coordinate(r) for r in self.ranks]
        if self.step is not None:
            here = index[self.step]
            index[self.step] = Const(0) if self.init else Map("+", (here, Const(1)))
        return tuple(index)

    @property
    def scope(self) -> tuple[str, ...]:
        """The ranks that have a coordinate in the body."""
        if self.init:
            return tuple(r for n, r in enumerate(self.ranks) if n != self.step)
        return self.ranks


@dataclass(frozen=True)
class Cascade:
    """A whole operator. Immutable and hashable; every transformation returns a new one."""

    name: str
    ranks: tuple[Rank, ...]
    inputs: tuple[Tensor, ...]
    einsums: tuple[Einsum, ...]
    outputs: tuple[str, ...]
    params: tuple[Param, ...] = ()
    partitions: tuple[Partition, ...] = ()
    requirements: tuple[Requirement, ...] = ()
    types: tuple[OutputType, ...] = ()
    warnings: tuple[Diagnostic, ...] = field(default=(), compare=False, repr=False)

    @cached_property
    def rank(self) -> dict[str, Rank]:
        return {r.name: r for r in self.ranks}

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Inputs and every tensor that a statement defines."""
        found = {t.name: t for t in self.inputs}
        for e in self.einsums:
            if e.tensor not in found:
                found[e.tensor] = Tensor(e.tensor, e.ranks, None, e.step, e.span)
        return found

    @cached_property
    def output_types(self) -> dict[str, str]:
        """The declared types of outputs."""
        return {t.tensor: t.dtype for t in self.types}

    @cached_property
    def definitions(self) -> dict[str, tuple[Einsum, ...]]:
        """Statements by the tensor they write: one, or an `init` and an update."""
        found: dict[str, tuple[Einsum, ...]] = {}
        for e in self.einsums:
            found[e.tensor] = (*found.get(e.tensor, ()), e)
        return found

    def extent(self, tensor: Tensor, slot: int) -> Expr:
        """The number of coordinates of a slot (one more where it is iterative)."""
        extent = self.rank[tensor.ranks[slot]].extent
        return Map("+", (extent, Const(1))) if slot == tensor.iterative else extent

    def signature(self) -> str:
        """What goes in and what comes out: `Q[p,e], K[m,e] -> O[p,e]`."""

        def form(t: Tensor) -> str:
            return f"{t.name}[{','.join(t.ranks)}]" if t.ranks else t.name

        inputs = ", ".join(map(form, self.inputs)) or "no input"
        return f"{inputs} -> {', '.join(form(self.tensors[n]) for n in self.outputs)}"

    def __call__(self, *args: object, **given: object) -> NoReturn:
        """A cascade says what is computed; what computes it is a kernel. Raises `CascadeError`."""
        raise fail(
            "not-a-kernel",
            f"`{self.name}` is a spec and cannot be called",
            hints=(
                "`cascade.compile(spec)` makes a function of it",
                '`cascade.run(spec, {"Q": q, …})` evaluates it once',
            ),
        )

    def __repr__(self) -> str:
        """Short, since kernels and models that hold a cascade show it; `str` is its text."""
        return f"<Cascade {self.name}: {self.signature()}>"

    def __str__(self) -> str:
        from cascade.ir.printer import print_cascade

        return print_cascade(self)


def extent_symbol(rank: str) -> Symbol:
    """The extent of rank `m` is written `M`."""
    return Symbol(rank.upper())


def in_file_order(
    ranks: Iterable[Rank], inputs: tuple[Tensor, ...], partitions: tuple[Partition, ...]
) -> tuple[Rank, ...]:
    """Ranks in the order in which a reader of the text meets them: inputs, partitions, the rest."""
    known = (
        [r for t in inputs for r in t.ranks],
        [r for p in partitions for r in (p.rank, *p.parts)],
    )

    def key(rank: Rank) -> tuple[int, int]:
        for n, names in enumerate(known):
            if rank.name in names:
                return n, names.index(rank.name)
        return (2 if rank.declared else 3), 0

    return tuple(sorted(ranks, key=key))
