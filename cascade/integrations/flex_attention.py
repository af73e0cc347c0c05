"""FlexAttention's interface on our kernels: moving over is one import.

    from cascade.integrations.flex_attention import create_block_mask, flex_attention

`score_mod` and `mask_mod` are the functions that users have: they are traced at each call, by their
code and what they capture, into a cascade. A captured tensor becomes an input, so its gradient is
one of scheduled sums. A mask is a condition of the spec: what forbids a key on every query of a
tile skips it, without a mask in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from cascade.diagnostics import input_error
from cascade.frontends.torch_function import trace_scores
from cascade.frontends.torch_function.operations import kind_of
from cascade.frontends.torch_function.traced import Graph, Traced
from cascade.integrations.kernels import kernel
from cascade.ir.cascade import (
    Cascade,
    Einsum,
    OutputType,
    Param,
    Rank,
    Requirement,
    Tensor,
    in_file_order,
)
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Symbol, Where
from cascade.ir.walk import conjunction, conjuncts, free_ranks, reads, symbols, walk

Mod = Callable[..., Any]


@dataclass(frozen=True)
class BlockMask:
    """A mask by its function. `shape` is [B, H, Q_LEN, KV_LEN] as they were given."""

    mask_mod: Mod
    shape: tuple[Any, ...] = ()


def create_block_mask(
    mask_mod: Mod, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, *_: Any, **__: Any
) -> BlockMask:
    """The mask of a function (b, h, q, kv) -> bool. Nothing is computed: kernels find their blocks
    from the condition.
    """
    return BlockMask(mask_mod, (B, H, Q_LEN, KV_LEN))


def and_masks(*masks: Mod) -> Mod:
    """The mask that allows what all allow."""

    def both(b: Any, h: Any, q: Any, kv: Any) -> Any:
        result = masks[0](b, h, q, kv)
        for mask in masks[1:]:
            result = result & mask(b, h, q, kv)
        return result

    return both


def or_masks(*masks: Mod) -> Mod:
    """The mask that allows what any allows."""

    def either(b: Any, h: Any, q: Any, kv: Any) -> Any:
        result = masks[0](b, h, q, kv)
        for mask in masks[1:]:
            result = result | mask(b, h, q, kv)
        return result

    return either


def flex_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    score_mod: Mod | None = None,
    block_mask: BlockMask | Any | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: dict[str, Any] | None = None,
    *,
    return_aux: Any = None,
) -> Any:
    """Attention of [batch, head, position, width] tensors, as `torch.nn.attention.flex_attention`.

    Returns the output, and with `return_lse` or `return_aux` the log-sum-exp of each row, too. A
    row of which no key is allowed is 0. `kernel_options` are those of other kernels and not used.
    In `torch.compile` the call is a break of the graph: its kernels are compiled already.
    Raises `CascadeError` for an operation in a function that has no form.
    """
    options = (score_mod, block_mask, scale, enable_gqa, return_lse, return_aux)
    return _attend(query, key, value, *options)


@torch.compiler.disable(reason="the functions are traced to a cascade, not to a graph")  # type: ignore[no-untyped-call, untyped-decorator]
def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    score_mod: Mod | None,
    block_mask: BlockMask | Any | None,
    scale: float | None,
    enable_gqa: bool,
    return_lse: bool,
    return_aux: Any,
) -> Any:
    if getattr(return_aux, "max_scores", False):
        raise input_error("host", "`return_aux` has no `max_scores` here", "it has `lse`")
    _check_shapes(query=query, key=key, value=value)
    if query.shape[1] != key.shape[1] and not enable_gqa:
        raise input_error(
            "shape",
            f"{query.shape[1]} query heads and {key.shape[1]} key heads",
            "set `enable_gqa=True` where they are grouped",
        )
    if block_mask is not None and not hasattr(block_mask, "mask_mod"):
        raise input_error(
            "host",
            f"a block mask of type {type(block_mask).__name__}",
            "make it by `create_block_mask` of a function",
        )
    mask_mod = None if block_mask is None else block_mask.mask_mod
    grouped = query.shape[1] != key.shape[1]
    made = _built(score_mod, mask_mod, grouped, (*query.shape[:3], key.shape[2]))
    backend = "triton" if query.device.type == "cuda" else "tiled"
    if (made.spec, backend) not in KERNELS:
        KERNELS[made.spec, backend] = kernel(made.spec, backend, {}, False, 1)
    given: dict[str, Any] = {"Q": query, "K": key, "V": value, **made.captured}
    if scale is not None:
        given["scale"] = float(scale)
    found = KERNELS[made.spec, backend](**given)
    lse = found["LSE"]
    if return_aux is not None:
        from torch.nn.attention.flex_attention import AuxOutput

        return found["O"], AuxOutput(lse=lse if return_aux.lse else None)
    return (found["O"], lse) if return_lse else found["O"]


def _check_shapes(**given: torch.Tensor) -> None:
    for name, t in given.items():
        if t.dim() != 4:
            message = f"`{name}` has shape {tuple(t.shape)}, and attention is of 4 dimensions"
            raise input_error("shape", message, "they are [batch, head, position, width]")


GROUPS = "each group serves the same number of query heads"
KERNELS: dict[tuple[Cascade, str], Any] = {}


@dataclass
class _Scores:
    """A spec, and the tensors that its functions captured, by the names of its inputs."""

    spec: Cascade
    captured: dict[str, torch.Tensor] = field(default_factory=dict)


def _built(
    score_mod: Mod | None, mask_mod: Mod | None, grouped: bool, sizes: tuple[int, ...]
) -> _Scores:
    graph = Graph()
    graph.taken |= {"Q", "K", "V", "QK", "S", "Z", "A", "O", "LSE", "M", "scale", *"bhpmefg"}
    graph.sizes |= dict(zip("bhpm", sizes, strict=True))
    graph.extents |= {r: Symbol(r.upper()) for r in "bhpm"}
    captured: dict[str, torch.Tensor] = {}
    known: dict[int, Traced] = {}

    def capture(tensor: torch.Tensor) -> Traced:
        if id(tensor) not in known:
            name = graph.name(f"captured{len(captured) + 1}")
            ranks = tuple(graph.rank(s) for s in tensor.shape)
            kind = kind_of(tensor.dtype)
            graph.inputs.append(Tensor(name, ranks, None if kind == "real" else kind))
            captured[name] = tensor
            known[id(tensor)] = Traced(
                graph, Read(name, tuple(map(Coordinate, ranks))), ranks, kind
            )
        return known[id(tensor)]

    points = [Traced(graph, Coordinate(r), (), "int") for r in "bhpm"]
    score: Expr = Read("QK", tuple(map(Coordinate, "bhpm")))
    if score_mod is not None:
        traced = Traced(graph, score, ())
        score = trace_scores(graph, score_mod, [traced, *points], capture, "real").expr
    conditions: tuple[Expr, ...] = ()
    if mask_mod is not None:
        conditions = conjuncts(trace_scores(graph, mask_mod, points, capture, "bool").expr)
    conditions = tuple(c for c in conditions if c != Const(True))
    _share_ranks(graph, (score, *conditions), dict(zip("bhpm", sizes, strict=True)))
    return _Scores(_spec(graph, score, conditions, grouped), captured)


def _share_ranks(graph: Graph, parts: tuple[Expr, ...], sizes: dict[str, int]) -> None:
    """A captured tensor with an element for each head, only read at the head, has its rank."""
    named = {s for e in parts for s in symbols(e)}  # sizes that the functions ask for
    for n, t in enumerate(graph.inputs):
        found = [r.index for e in parts for r in reads(e) if r.tensor == t.name]
        ranks = list(t.ranks)
        for slot, rank in enumerate(t.ranks):
            at = {index[slot] for index in found}
            for name, size in sizes.items():
                fits = graph.sizes[rank] == size and name not in ranks
                if fits and at == {Coordinate(name)} and rank.upper() not in named:
                    ranks[slot] = name
        graph.inputs[n] = replace(t, ranks=tuple(ranks))


def _conditions(e: Expr) -> list[Expr]:
    """Conditions inside a score."""
    return [c for n in walk(e) if isinstance(n, Where) for c in conjuncts(n.condition)]


def _may_be_low(e: Expr) -> bool:
    """Whether a score that is there may be minus infinity: by a constant, or by a captured bias.

    What is captured as a factor is taken to be finite.
    """
    constants = {n.value for n in walk(e) if isinstance(n, Const)}
    return bool(constants & {float("inf"), -float("inf")}) or _has_bias(e)


def _has_bias(e: Expr) -> bool:
    match e:
        case Read(name):
            return name != "QK"
        case Where(body):
            return _has_bias(body)
        case Map("select", (_, *parts)) | Map("+" | "-" | "neg" | "max" | "min" | "??", parts):
            return any(map(_has_bias, parts))
        case Map("*" | "/", parts) if any(isinstance(a, Const | Symbol) for a in parts):
            return any(map(_has_bias, parts))
    return False


def _spec(graph: Graph, score: Expr, conditions: tuple[Expr, ...], grouped: bool) -> Cascade:
    """The attention around a score: its statements as a person writes them."""
    heads: Expr = Coordinate("h")
    group = "g" if grouped else "h"
    if grouped:
        heads = Map("//", (heads, Map("//", (Symbol("H"), Symbol("G")))))
    b, p, m, e, f = map(Coordinate, "bpmef")
    at = tuple(map(Coordinate, "bhpm"))
    product = Map("*", (Symbol("scale"), Read("Q", (b, Coordinate("h"), p, e))))
    product = Map("*", (product, Read("K", (b, heads, m, e))))
    qk = Reduce("sum", ("e",), product)
    rows = any("m" not in free_ranks(c) for c in (*_conditions(score), *conditions))
    body = score
    if isinstance(score, Where):
        body, conditions = score.body, (*conjuncts(score.condition), *conditions)
    before: tuple[Einsum, ...] = ()
    if _may_be_low(body):  # such a key is absent, so a row of them is one without keys
        before = (Einsum("Z", tuple("bhpm"), body),)
        body = Read("Z", at)
        conditions = (*conditions, Map(">", (body, Map("neg", (Const(float("inf")),)))))
    body = Where(body, conjunction(conditions)) if conditions else body
    s = Read("S", at)
    top = Reduce("max", ("m",), s)
    finite = Map(
        "select",
        (
            Map(
                "and",
                (
                    Map("<", (Map("neg", (Const(float("inf")),)), top)),
                    Map("<", (top, Const(float("inf")))),
                ),
            ),
            top,
            Const(0),
        ),
    )
    shifted = Map("exp", (Map("-", (s, top)),))
    weights = Map("/", (shifted, Reduce("sum", ("m",), shifted)))
    total = Reduce("sum", ("m",), Map("exp", (Map("-", (s, finite)),)))
    lse: Expr = Map("+", (Map("log", (total,)), finite))
    if rows:  # a condition on a row takes its sum, too
        lse = Map("??", (lse, Map("neg", (Const(float("inf")),))))
    out = Reduce("sum", ("m",), Map("*", (Read("A", at), Read("V", (b, heads, m, f)))))
    inputs = (
        Tensor("Q", ("b", "h", "p", "e")),
        Tensor("K", ("b", group, "m", "e")),
        Tensor("V", ("b", group, "m", "f")),
        *graph.inputs,
    )
    names = ["b", "h", "p", "e", "m", "f", *(["g"] if grouped else [])]
    ranks = [Rank(r, Symbol(r.upper())) for r in names]
    own = dict.fromkeys(r for t in graph.inputs for r in t.ranks if r not in names)
    ranks += [Rank(r, Symbol(r.upper())) for r in own]
    einsums = (
        Einsum("QK", tuple("bhpm"), qk),
        *before,
        Einsum("S", tuple("bhpm"), body),
        Einsum("A", tuple("bhpm"), weights),
        Einsum("O", tuple("bhpf"), out),
        Einsum("LSE", tuple("bhp"), lse),
    )
    root = Map("/", (Const(1), Map("sqrt", (Symbol("E"),))))
    whole = Map("==", (Map("%", (Symbol("H"), Symbol("G"))), Const(0)))
    assert not set(free_ranks(body)) - set("bhpm")
    return Cascade(
        "flex_attention",
        in_file_order(ranks, inputs, ()),
        inputs,
        einsums,
        ("O", "LSE"),
        (Param("scale", root),),
        (),
        (Requirement(whole, "each group serves the same number of query heads"),)
        if grouped
        else (),
        (OutputType("LSE", "f32"),),
    )
