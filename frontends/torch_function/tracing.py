"""The whole: arguments become inputs, the function runs once, what it returns are the outputs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cascade.diagnostics import CascadeError
from cascade.frontends.torch_function import composed  # noqa: F401  # fills the table
from cascade.frontends.torch_function.absence import LOW, filled
from cascade.frontends.torch_function.operations import constant, kind_of, lifted
from cascade.frontends.torch_function.shapes import one
from cascade.frontends.torch_function.sizes import expr_of
from cascade.frontends.torch_function.traced import Graph, Traced, refuse
from cascade.frontends.torch_function.truth import shortest
from cascade.ir.cascade import Cascade, Einsum, Rank, Tensor, in_file_order
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.kinds import tensor_kinds
from cascade.ir.verify import verify
from cascade.ir.walk import bound_ranks, free_ranks, reads, symbols, transform, walk

LETTERS = "bhpemfgkndtijlrsuvwxyzacoq"  # for ranks, in the order in which they are met


def trace(function: Callable[..., Any], *examples: Any, name: str | None = None) -> Cascade:
    """The cascade of a PyTorch function, from one run on example tensors.

    Parameters become inputs under their names, and dimensions ranks; sizes stay open. Example
    tensors only give the number of dimensions and sizes that tell them apart: make those that
    should differ differ. Numbers among the examples are constants. A dimension of size 1 is one
    that broadcasts. Scores that are set to minus infinity are absent. Raises `CascadeError` for an
    operation that has no form, with its line.
    """
    graph = Graph()

    def no_capture(value: Any) -> Traced:
        if value.dim() == 0 and not value.requires_grad:
            return lifted(graph, value.item())
        refuse(
            f"a tensor from outside of the function, of shape {tuple(value.shape)},",
            "make it an argument",
        )

    graph.captured[0] = no_capture
    names = _parameters(function, len(examples))
    arguments = [_argument(graph, n, e) for n, e in zip(names, examples, strict=True)]
    outputs = _run(graph, function, arguments)
    return finished(graph, outputs, name or str(getattr(function, "__name__", "traced")))


def trace_scores(
    graph: Graph, function: Callable[..., Any], arguments: Sequence[Any], capture: Any, kind: str
) -> Traced:
    """The scalar that a function of traced scalars gives, as score functions do."""
    graph.captured[0] = capture
    found = list(_run(graph, function, arguments).values())
    value = lifted(graph, found[0] if len(found) == 1 else None)
    if value.dims:
        refuse(f"a score or a mask of shape {tuple(map(int, value.shape))}", "return a scalar")
    return filled(value.bool() if kind == "bool" else value.float(), LOW)


def _parameters(function: Callable[..., Any], number: int) -> list[str]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return [f"x{n}" for n in range(number)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return [f"x{n}" for n in range(number)]
    return [p.name for p in parameters][:number]


def _argument(graph: Graph, name: str, example: Any) -> Any:
    import torch

    if not isinstance(example, torch.Tensor):
        return example
    name = graph.name(name)
    dims = [None if s == 1 else graph.rank(s) for s in example.shape]
    ranks = [d if d is not None else graph.rank(1, Const(1)) for d in dims]
    kind = kind_of(example.dtype)
    if kind == "int" and example.numel():
        graph.lows[name] = int(example.min())
    if kind == "real" and graph.real is None:
        graph.real = example.dtype
    graph.inputs.append(Tensor(name, tuple(ranks), None if kind == "real" else kind))
    index = tuple(Const(0) if d is None else Coordinate(d) for d in dims)
    return Traced(graph, Read(name, index), dims, kind)


def _run(graph: Graph, function: Callable[..., Any], arguments: Sequence[Any]) -> dict[str, Any]:
    """What the function returns, by name."""
    from torch.overrides import TorchFunctionMode

    class Factories(TorchFunctionMode):
        """Tensors made of nothing: coordinates and constants."""

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = FACTORIES.get(getattr(func, "__name__", ""))
            if made is not None:
                return made(graph, *args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))

    with Factories():
        found = function(*arguments)
    if isinstance(found, Mapping):
        return dict(found)
    if isinstance(found, list | tuple):
        return {("out" if n == 0 else f"out{n + 1}"): v for n, v in enumerate(found)}
    return {"out": found}


def _arange(
    graph: Graph, *bounds: Any, start: Any = 0, end: Any = None, step: Any = 1, dtype: Any = None,
    **_: Any,
) -> Traced:  # fmt: skip
    if bounds:
        start, end, step = (start, *bounds, step) if len(bounds) == 1 else (*bounds, step)[:3]
    if isinstance(step, float) or step < 1 or (isinstance(start, float) and start != int(start)):
        refuse("`arange` with such a step", "scale one that counts from 0")
    size = end - start if start != 0 else end
    size = -(-size // step) if step != 1 else size
    size = size if isinstance(size, int) else math.ceil(size)
    rank = None if one(size) else graph.rank(size, expr_of(size))
    counted = Traced(graph, Const(0) if rank is None else Coordinate(rank), (rank,), "int")
    counted = counted * step if step != 1 else counted
    counted = counted if start == 0 else counted + start
    if dtype is not None:
        return counted.to(dtype)  # type: ignore[no-any-return]
    real = any(isinstance(v, float) for v in (start, end))
    return Traced(graph, counted.expr, (rank,), "real" if real else "int")


def _full(graph: Graph, size: Any, fill_value: Any, *, dtype: Any = None, **_: Any) -> Traced:
    return constant(graph, fill_value, size, None if dtype is None else kind_of(dtype))


def _constant(value: float) -> Callable[..., Traced]:
    def made(graph: Graph, *shape: Any, size: Any = None, dtype: Any = None, **_: Any) -> Traced:
        kind = None if dtype is None else kind_of(dtype)
        return constant(graph, value, shape if size is None else size, kind)

    return made


FACTORIES: dict[str, Callable[..., Any]] = {
    "arange": _arange,
    "zeros": _constant(0.0),
    "ones": _constant(1.0),
    "full": _full,
}


# -- the cascade


def finished(graph: Graph, outputs: Mapping[str, Any], name: str) -> Cascade:
    """The cascade of a graph: outputs named, ranks renamed to letters, nothing unused."""
    names: list[str] = []
    values = [_present(lifted(graph, v)) for v in outputs.values()]
    for n, wanted in enumerate(outputs):
        others = {r.tensor for v in values[n + 1 :] for r in reads(v.expr)}
        names.append(_output(graph, wanted, values[n], others.union(names)))
    einsums = _converted(_needed(graph.einsums, names), graph.inputs, names, values)
    einsums = [Einsum(e.tensor, e.ranks, shortest(graph.rooted(e.body))) for e in einsums]
    inputs = _inputs(graph, einsums)
    letters = _letters(graph, inputs, einsums)
    einsums = [_renamed(e, letters) for e in einsums]
    inputs = tuple(Tensor(t.name, tuple(letters[r] for r in t.ranks), t.dtype) for t in inputs)
    carried = {r for t in inputs for r in t.ranks}
    ranks = []
    for old, new in letters.items():
        extent = _extent(graph.extents[old], letters)
        own = extent == Symbol(new.upper())
        ranks.append(
            Rank(
                new,
                extent,
                declared=not own,
            )
        )
    used = {r for e in einsums for r in _ranks_in(e)} | carried
    ranks = [r for r in ranks if r.name in used]
    made = Cascade(
        "".join(c if c.isalnum() or c == "_" else "_" for c in name).strip("_") or "traced",
        in_file_order(ranks, inputs, ()),
        inputs,
        tuple(einsums),
        tuple(names),
    )
    wrong = [d for d in verify(made) if d.severity == "error"]
    if wrong:
        raise CascadeError(*wrong)
    return made


def _present(value: Traced) -> Traced:
    """A result with its numbers where it is absent; an output is written as 0 or -1 there."""
    if value.storage.changed:
        refuse("a result that was changed in place by another name")
    return filled(value, -1.0 if value.kind == "int" else 0.0)


def _inputs(graph: Graph, einsums: Sequence[Einsum]) -> tuple[Tensor, ...]:
    """The inputs that are read. One that only has a size would have no place in a cascade."""
    read = {r.tensor for e in einsums for r in reads(e.body)}
    known = {r.upper() for t in graph.inputs if t.name in read for r in t.ranks}
    asked = {s for e in einsums for r in _ranks_in(e) for s in symbols(graph.extents[r])}
    asked |= {s for e in einsums for s in symbols(e.body)}
    for t in graph.inputs:
        if any(r.upper() in asked - known for r in t.ranks):
            refuse(
                f"a result with a size of `{t.name}`, of which nothing is read,",
                "make the size a number: `int(x.shape[0])`",
            )
    return tuple(t for t in graph.inputs if t.name in read)


def _converted(
    einsums: Sequence[Einsum],
    inputs: Sequence[Tensor],
    names: Sequence[str],
    values: Sequence[Traced],
) -> list[Einsum]:
    """Integers as real numbers, in the outputs that have these in PyTorch."""
    made = Cascade("kinds", (), tuple(inputs), tuple(einsums), tuple(names))
    kinds = tensor_kinds(made)
    real = {
        n for n, v in zip(names, values, strict=True) if v.kind == "real" and kinds.get(n) == "int"
    }
    return [
        Einsum(e.tensor, e.ranks, Map("*", (Const(1.0), e.body))) if e.tensor in real else e
        for e in einsums
    ]


def _output(graph: Graph, wanted: str, value: Traced, used: set[str]) -> str:
    """A statement over the dimensions of an output, in their order; one for each output.

    It may be one that is there, in another order or by another name if no other output uses it.
    """
    if any(d is None for d in value.dims):
        ones = [d if d is not None else graph.rank(1, Const(1)) for d in value.dims]
        value = Traced(graph, value.expr, ones, value.kind)
    ranks = tuple(str(d) for d in value.dims)
    missing = [r for r in free_ranks(value.expr) if r not in ranks]
    assert not missing, missing
    if isinstance(value.expr, Read) and value.expr.tensor not in used:
        for n, e in enumerate(graph.einsums):
            if e.tensor == value.expr.tensor and set(e.ranks) == set(ranks):
                if value.expr.index == tuple(map(Coordinate, e.ranks)):
                    name = graph.name(wanted) if e.tensor in graph.unnamed else e.tensor
                    graph.einsums[n] = Einsum(e.tensor, ranks, e.body)
                    _moved(graph, e, name, ranks)
                    return name
    name = graph.name(wanted)
    graph.einsums.append(Einsum(name, ranks, value.expr))
    return name


def _moved(graph: Graph, old: Einsum, name: str, ranks: tuple[str, ...]) -> None:
    """Another name and another order of ranks for a statement, and for all who read it."""
    order = [old.ranks.index(r) for r in ranks]

    def rule(e: Expr) -> Expr | None:
        if isinstance(e, Read) and e.tensor == old.tensor:
            return Read(name, tuple(e.index[n] for n in order))
        return None

    graph.einsums = [
        Einsum(name if e.tensor == old.tensor else e.tensor, e.ranks, transform(e.body, rule))
        for e in graph.einsums
    ]


def _needed(einsums: Sequence[Einsum], outputs: Sequence[str]) -> list[Einsum]:
    by_name = {e.tensor: e for e in einsums}
    kept: set[str] = set()
    todo = list(outputs)
    while todo:
        name = todo.pop()
        if name in kept or name not in by_name:
            continue
        kept.add(name)
        todo += [r.tensor for r in reads(by_name[name].body)]
    return [e for e in einsums if e.tensor in kept]


def _ranks_in(e: Einsum) -> list[str]:
    found = list(e.ranks)
    for node in walk(e.body):
        found += [*bound_ranks(node), *free_ranks(node)]
    return found


def _letters(graph: Graph, inputs: tuple[Tensor, ...], einsums: Sequence[Einsum]) -> dict[str, str]:
    """A letter for each rank, in the order of inputs and statements."""
    order = dict.fromkeys(r for t in inputs for r in t.ranks)
    order.update(dict.fromkeys(r for e in einsums for r in _ranks_in(e)))
    for rank in list(order):  # whose extent another's is made of
        for s in symbols(graph.extents[rank]):
            order.setdefault(s.lower(), None)
    scalars = {t.name for t in inputs if not t.ranks} | {e.tensor for e in einsums if not e.ranks}
    taken = {t.name for t in inputs} | {e.tensor for e in einsums}
    free = [c for c in LETTERS if c not in taken and c.upper() not in scalars]
    free += [f"{c}{n}" for n in range(2, 9) for c in LETTERS]
    return dict(zip(order, free, strict=False))


def _extent(e: Expr, letters: Mapping[str, str]) -> Expr:
    upper = {old.upper(): new.upper() for old, new in letters.items()}
    return transform(
        e, lambda n: Symbol(upper[n.name]) if isinstance(n, Symbol) and n.name in upper else None
    )


def _renamed(e: Einsum, letters: Mapping[str, str]) -> Einsum:
    from dataclasses import replace

    from cascade.ir.expr import Reduce, Select

    upper = {old.upper(): new.upper() for old, new in letters.items()}

    def rule(n: Expr) -> Expr | None:
        match n:
            case Coordinate(rank):
                return Coordinate(letters[rank])
            case Symbol(name) if name in upper:
                return Symbol(upper[name])
            case Reduce():
                return replace(n, ranks=tuple(letters[r] for r in n.ranks))
            case Select():
                return replace(n, rank=letters[n.rank], target=letters[n.target])
        return None

    return Einsum(e.tensor, tuple(letters[r] for r in e.ranks), transform(e.body, rule))
