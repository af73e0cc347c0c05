"""The object that stands for a tensor while a function is traced."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from cascade.diagnostics import Source, Span, fail
from cascade.frontends.torch_function.sizes import Size
from cascade.ir.cascade import Einsum, Tensor
from cascade.ir.expr import Coordinate, Expr, Read, Reduce, Select, Symbol
from cascade.ir.ops import CONSTANTS, MAPS, REDUCERS, SELECTIONS
from cascade.ir.walk import children, free_ranks, reads, rebuild, transform

WORDS = {
    *MAPS, *REDUCERS, *SELECTIONS, *CONSTANTS, "cascade", "import", "input", "output", "param",
    "rank", "init", "require", "def", "where",
}  # fmt: skip
HERE = str(Path(__file__).parent)
OUTSIDE = ("torch", "cascade")  # packages whose frames are not the user's


@dataclass
class Graph:
    """What has been traced: inputs, statements, and ranks with their extents and example sizes."""

    inputs: list[Tensor] = field(default_factory=list)
    einsums: list[Einsum] = field(default_factory=list)
    extents: dict[str, Expr] = field(default_factory=dict)  # rank -> extent
    sizes: dict[str, int] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)  # an input's rank -> the one it equals
    taken: set[str] = field(default_factory=set)
    captured: dict[int, Any] = field(default_factory=dict)
    unnamed: set[str] = field(default_factory=set)  # statements that no variable names
    absences: dict[str, Any] = field(default_factory=dict)  # of tensors: see absence.py
    lows: dict[str, int] = field(default_factory=dict)  # of the examples of integers
    real: Any = None  # the type of the first real example

    def rank(self, size: int, extent: Expr | None = None, stem: str = "d") -> str:
        """A new rank; its own extent where none is given."""
        n = 0
        while f"{stem}{n}" in self.extents or f"{stem}{n}" in self.taken:
            n += 1
        name = f"{stem}{n}"
        self.extents[name] = Symbol(name.upper()) if extent is None else extent
        self.sizes[name] = int(size)
        return name

    def root(self, rank: str) -> str:
        while rank in self.merged:
            rank = self.merged[rank]
        return rank

    def rooted(self, e: Expr) -> Expr:
        """A size of an input's rank as that of the one it equals."""

        def rule(n: Expr) -> Expr | None:
            if isinstance(n, Symbol) and n.name.lower() in self.merged:
                return Symbol(self.root(n.name.lower()).upper())
            return None

        return transform(e, rule)

    def own(self, rank: str) -> bool:
        """Whether a rank's extent is its own, as that of an input is."""
        return self.extents[rank] == Symbol(rank.upper())

    def copy(self, rank: str) -> str:
        """Another rank of the same extent."""
        return self.rank(self.sizes[rank], self.extents[rank])

    def put(self, e: Expr, values: Mapping[str, Expr]) -> Expr:
        """Coordinates replaced. A rank that a reduction binds gives way to one that a value has."""
        if isinstance(e, Coordinate):
            return values.get(e.rank, e)
        free = set(free_ranks(e))
        values = {r: v for r, v in values.items() if r in free}
        if not values:
            return e
        if isinstance(e, Reduce | Select):
            e = self._apart(e, {r for v in values.values() for r in free_ranks(v)})
        return rebuild(e, tuple(self.put(c, values) for c in children(e)))

    def _apart(self, e: Reduce | Select, used: set[str]) -> Expr:
        """A reduction that binds none of the ranks in use."""
        bound = e.ranks if isinstance(e, Reduce) else (e.rank,)
        new = {r: self.copy(r) if r in used else r for r in bound}
        body = self.put(e.body, {r: Coordinate(n) for r, n in new.items() if n != r})
        if isinstance(e, Reduce):
            return replace(e, ranks=tuple(new[r] for r in bound), body=body)
        return replace(e, rank=new[e.rank], body=body)

    def name(self, stem: str) -> str:
        if not re.fullmatch(r"[A-Za-z_]\w*", stem, re.ASCII):
            refuse(f"the name `{stem}`", "a name has letters from a to z, digits and underscores")
        stem = f"{stem}_" if stem in WORDS else stem
        name, n = stem, 2
        while name in self.taken:
            name, n = f"{stem}_{n}", n + 1
        self.taken.add(name)
        return name


@dataclass(frozen=True)
class Place:
    """Where in the user's code an operation stands."""

    path: str
    line: int
    text: str

    def span(self) -> Span | None:
        try:
            source = Source(self.path, Path(self.path).read_text("utf-8"))
        except OSError:
            return None
        lines = source.text.splitlines(keepends=True)
        start = sum(len(x) for x in lines[: self.line - 1])
        text = lines[self.line - 1] if self.line <= len(lines) else ""
        indent = len(text) - len(text.lstrip())
        return Span(source, start + indent, start + max(len(text.rstrip()), indent + 1))


def place() -> Place:
    """The nearest frame outside of PyTorch and of this package."""
    import linecache

    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        package = frame.f_globals.get("__name__", "").split(".")[0]
        if package not in OUTSIDE and not path.startswith(HERE):
            return Place(path, frame.f_lineno, linecache.getline(path, frame.f_lineno).strip())
        if frame.f_back is None:
            break
        frame = frame.f_back
    return Place("<function>", 0, "")


def refuse(what: str, *hints: str) -> NoReturn:
    """Raise the error for an operation that has no form in the language."""
    at = place()
    where = f" ({at.path}:{at.line})" if at.line else ""
    raise fail("trace", f"{what} has no form in the language{where}", at.span(), hints=hints)


@dataclass
class Storage:
    """The memory that a tensor and its views share."""

    changed: bool = False  # in place, so that what was traced before is not what it holds


class Shape(tuple[Any, ...]):
    """Sizes, as `torch.Size` has them."""

    def numel(self) -> Any:
        return math.prod(self)


class Traced:
    """A tensor: an expression over ranks, one for each dimension (None where the size is 1)."""

    __array_ufunc__ = None  # numbers of NumPy leave operators to us

    def __init__(self, graph: Graph, expr: Expr, dims: Sequence[str | None], kind: str = "real"):
        self.graph = graph
        self.expr = expr
        self.dims = tuple(dims)
        self.kind = kind
        self.storage = Storage()
        self.still = False  # made where gradients are off

    def become(self, other: Traced) -> Traced:
        """Change in place: this tensor has the new value, and its views have none that we know."""
        if tuple(map(int, self.shape)) != tuple(map(int, other.shape)):
            refuse(f"a change in place from shape {self.shape} to {other.shape}")
        self.storage.changed = True
        self.storage = Storage()
        self.expr, self.dims, self.kind, self.still = (
            other.expr, other.dims, other.kind, other.still,
        )  # fmt: skip
        return self

    # -- what PyTorch code asks of a tensor
    @property
    def shape(self) -> tuple[Any, ...]:
        sizes, extents = self.graph.sizes, self.graph.extents
        return Shape(1 if d is None else Size(sizes[d], extents[d]) for d in self.dims)

    @property
    def ndim(self) -> int:
        return len(self.dims)

    @property
    def device(self) -> Any:
        import torch

        return torch.device("cpu")

    @property
    def dtype(self) -> Any:
        import torch

        real = self.graph.real or torch.float32
        return {"bool": torch.bool, "int": torch.int64}.get(self.kind, real)

    @property
    def requires_grad(self) -> bool:
        return False

    @property
    def T(self) -> Any:
        return self.permute(*reversed(range(len(self.dims))))

    @property
    def mT(self) -> Any:
        return self.transpose(-1, -2)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return len(self.dims)

    def is_floating_point(self) -> bool:
        return self.kind == "real"

    def __bool__(self) -> bool:
        refuse("a condition of Python on the value of a tensor", "use `torch.where`")

    def __float__(self) -> float:
        refuse("a Python number made of a tensor")

    def __int__(self) -> int:
        refuse("a Python number made of a tensor")

    def __index__(self) -> int:
        refuse("a Python number made of a tensor")

    def __iter__(self) -> Any:
        if not self.dims:
            refuse("a loop over a scalar")
        return (self[n] for n in range(int(self.shape[0])))

    def __len__(self) -> int:
        return int(self.shape[0])

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        from cascade.frontends.torch_function.operations import apply

        return apply(function, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        """Methods of tensors, by the same table as the functions."""
        import torch

        if name.startswith("__") or not hasattr(torch.Tensor, name):
            raise AttributeError(name)
        from cascade.frontends.torch_function.operations import method

        if name in ("data", "real"):
            return method("detach" if name == "data" else "alias", (self,), {})
        if name in ("is_cuda", "is_sparse", "is_quantized"):
            return False
        if not callable(getattr(torch.Tensor, name)):
            refuse(f"`{name}`")
        return lambda *args, **kwargs: method(name, (self, *args), kwargs)

    def where(self, condition: Any, other: Any) -> Any:
        from cascade.frontends.torch_function.operations import method

        return method("where", (condition, self, other), {})

    def __getitem__(self, index: Any) -> Any:
        from cascade.frontends.torch_function.operations import method

        return method("getitem", (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        refuse("an assignment to a part of a tensor", "choose by a condition: `torch.where`")

    def __hash__(self) -> int:
        return id(self)

    # -- forms
    def at(self, dims: Sequence[str | None]) -> Expr:
        """The expression with other ranks for its dimensions."""
        values: dict[str, Expr] = {
            old: Coordinate(new)
            for old, new in zip(self.dims, dims, strict=True)
            if old is not None and new is not None and old != new
        }
        return self.graph.put(self.expr, values)

    def with_dims(self, dims: Sequence[str | None]) -> Traced:
        return Traced(self.graph, self.at(dims), dims, self.kind)

    def named(self, stem: str | None = None) -> Traced:
        """A read of a statement with this value."""
        if isinstance(self.expr, Read) and self._is_plain(self.expr):
            return self
        ranks = tuple(r for r in free_ranks(self.expr))
        wanted = stem or variable()
        name = self.graph.name(wanted or "T")
        if wanted is None:
            self.graph.unnamed.add(name)
        self.graph.einsums.append(Einsum(name, ranks, self.expr))
        return Traced(self.graph, Read(name, tuple(map(Coordinate, ranks))), self.dims, self.kind)

    def _is_plain(self, e: Read) -> bool:
        return all(isinstance(i, Coordinate) for i in e.index)


def variable() -> str | None:
    """The variable that the user's line assigns."""
    found = re.match(r"([A-Za-z][A-Za-z0-9_]*)\s*=[^=]", place().text)
    return found[1] if found else None


def _operators() -> None:
    """Python's operators on Traced, by the methods of tensors."""
    names = (
        "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul "
        "rmatmul neg lt le gt ge eq ne and rand or ror invert xor rxor abs lshift rshift rlshift "
        "rrshift iadd isub imul itruediv ifloordiv imod ipow iand ior ixor"
    )
    for n in names.split():
        special = f"__{n}__"

        def operator(self: Any, *args: Any, _name: str = special) -> Any:
            from cascade.frontends.torch_function.operations import method

            return method(_name, (self, *args), {})

        setattr(Traced, special, operator)


_operators()

__all__ = ["Graph", "Traced", "place", "reads", "refuse", "variable"]
