"""What each operation of PyTorch makes of traced tensors: one table, by the names of operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from cascade.frontends.torch_function.shapes import (
    align,
    broadcast,
    indexed,
    merge,
    permuted,
    reshaped,
    unsqueezed,
)
from cascade.frontends.torch_function.sizes import expr_of
from cascade.frontends.torch_function.traced import Graph, Traced, refuse, variable
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Where
from cascade.ir.walk import walk

Operation = Callable[..., Any]
TABLE: dict[str, Operation] = {}
IDENTITIES = {
    "contiguous", "clone", "detach", "float", "double", "half", "bfloat16", "to", "type", "type_as",
    "cpu", "cuda", "dropout", "alias",
}  # fmt: skip


def operation(*names: str) -> Callable[[Operation], Operation]:
    def put(function: Operation) -> Operation:
        for name in names:
            TABLE[name] = function
        return function

    return put


def apply(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of a function of PyTorch with a traced argument."""
    return method(getattr(function, "__name__", str(function)), args, kwargs)


def method(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    plain = name.strip("_")
    if plain in IDENTITIES:
        return args[0]
    found = TABLE.get(plain)
    if found is None:
        refuse(f"`{plain}`", "write the cascade of it by hand, or trace a part without it")
    kwargs = {n: v for n, v in kwargs.items() if n not in ("dtype", "device", "out")}
    try:
        return found(*args, **kwargs)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        refuse(f"`{plain}` with these arguments ({error})")


# -- values


def graph_of(*values: Any) -> Graph:
    """The graph that the first traced value belongs to."""
    for v in values:
        if isinstance(v, Traced):
            return v.graph
        if isinstance(v, list | tuple):
            for x in v:
                if isinstance(x, Traced):
                    return x.graph
    raise AssertionError("nothing traced")


def lifted(graph: Graph, value: Any) -> Traced:
    """A number or a tensor as a traced value."""
    import torch

    if isinstance(value, Traced):
        return value
    if isinstance(value, torch.Tensor):
        if value.dim() == 0:
            return lifted(graph, value.item())
        return graph.captured[0](value)  # type: ignore[no-any-return]
    kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "real"
    return Traced(graph, expr_of(value), (), kind)


def _pointwise(op: str, kind: str | None, *values: Any) -> Traced:
    graph = graph_of(*values)
    parts, dims = broadcast(graph, [lifted(graph, v) for v in values])
    expr = Map(op, tuple(p.expr for p in parts))
    return Traced(graph, expr, dims, kind or _joined([p.kind for p in parts], op))


def _joined(kinds: list[str], op: str) -> str:
    return "real" if "real" in kinds or op == "/" else "int" if "int" in kinds else "bool"


def _binary(op: str, *names: str, kind: str | None = None, swapped: str | None = None) -> None:
    def function(a: Any, b: Any, *, alpha: Any = 1, rounding_mode: str | None = None) -> Any:
        if rounding_mode == "floor":
            return _pointwise("//", "int", a, b)
        if alpha != 1:
            b = _pointwise("*", None, b, alpha)
        return _pointwise(op, kind, a, b)

    operation(*names)(function)
    if swapped:
        operation(swapped)(lambda a, b: function(b, a))


_binary("+", "add", "radd")
_binary("-", "sub", "subtract", swapped="rsub")
_binary("*", "mul", "multiply", "rmul")
_binary("/", "div", "true_divide", "truediv", "divide", swapped="rtruediv")
_binary("//", "floordiv", "floor_divide")
_binary("%", "mod", "remainder", "fmod")
_binary("**", "pow", swapped="rpow")
_binary("max", "maximum")
_binary("min", "minimum")
for _op, _names in {
    "<": ("lt", "less"), "<=": ("le", "less_equal"), ">": ("gt", "greater"),
    ">=": ("ge", "greater_equal"), "==": ("eq",), "!=": ("ne", "not_equal"),
}.items():  # fmt: skip
    _binary(_op, *_names, kind="bool")
_binary("and", "and", "rand", "logical_and", "bitwise_and", kind="bool")
_binary("or", "or", "ror", "logical_or", "bitwise_or", kind="bool")

for _op in (
    "exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "silu", "softplus", "erf",
    "sin", "cos",
):  # fmt: skip
    operation(_op)(lambda x, _op=_op, **_: _pointwise(_op, "real", x))
for _op in ("relu", "abs", "sign"):
    operation(_op)(lambda x, _op=_op, **_: _pointwise(_op, None, x))
operation("neg", "negative")(lambda x: _pointwise("neg", None, x))
operation("floor")(lambda x: _pointwise("floor", "int", x))
operation("ceil")(lambda x: _pointwise("ceil", "int", x))
operation("logical_not", "invert", "bitwise_not")(lambda x: _pointwise("not", "bool", x))
operation("reciprocal")(lambda x: _pointwise("/", "real", 1, x))
operation("square")(lambda x: _pointwise("**", None, x, 2))
operation("long", "int")(lambda x: x if x.kind == "int" else _pointwise("floor", "int", x))


@operation("bool")
def _bool(x: Any) -> Any:
    return x if x.kind == "bool" else _pointwise("!=", "bool", x, 0)


@operation("gelu")
def _gelu(x: Any, approximate: str = "none") -> Any:
    if approximate != "none":
        refuse("`gelu` with the approximation by tanh", "`gelu` of the language is the exact one")
    return _pointwise("gelu", "real", x)


@operation("clamp", "clip")
def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    if min is not None:
        x = _pointwise("max", None, x, min)
    return x if max is None else _pointwise("min", None, x, max)


@operation("where")
def _where(condition: Any, a: Any, b: Any) -> Any:
    """A choice; where minus infinity is chosen, the point is absent."""
    graph = graph_of(condition, a, b)
    values = [lifted(graph, v) for v in (condition, a, b)]
    (c, x, y), dims = broadcast(graph, values)
    kind = _joined([x.kind, y.kind], "select")
    if _is_low(y.expr):
        return Traced(graph, Where(x.expr, c.expr), dims, kind)
    if _is_low(x.expr):
        return Traced(graph, Where(y.expr, Map("not", (c.expr,))), dims, kind)
    return Traced(graph, Map("select", (c.expr, x.expr, y.expr)), dims, kind)


@operation("masked_fill")
def _masked_fill(x: Any, mask: Any, value: Any) -> Any:
    return _where(mask, value, x)


def _is_low(e: Expr) -> bool:
    if isinstance(e, Map) and e.op == "neg":
        return isinstance(e.args[0], Const) and e.args[0].value == math.inf
    return isinstance(e, Const) and e.value == -math.inf


# -- reductions


def _dims(x: Traced, dim: Any) -> tuple[int, ...]:
    every = range(len(x.dims)) if dim is None else dim if isinstance(dim, list | tuple) else (dim,)
    return tuple(sorted(d % len(x.dims) for d in every))


def _reduced(op: str, x: Traced, dim: Any, keepdim: bool, kind: str | None = None) -> Traced:
    at = _dims(x, dim)
    x = _simple(x)
    ranks = tuple(r for n in at if (r := x.dims[n]) is not None)
    expr = Reduce(op, ranks, x.expr) if ranks else x.expr
    kept = [None if n in at else d for n, d in enumerate(x.dims)]
    dims = kept if keepdim else [d for n, d in enumerate(x.dims) if n not in at]
    return Traced(x.graph, expr, dims, kind or x.kind)


def _simple(x: Traced) -> Traced:
    """A value that is cheap to repeat, or a statement of it."""
    heavy = any(
        isinstance(n, Reduce | Select) or (isinstance(n, Map) and n.op in ("exp", "tanh", "/"))
        for n in walk(x.expr)
    )
    return x.named() if heavy else x


for _op, _names in {
    "sum": ("sum",), "mean": ("mean",), "prod": ("prod",), "max": ("amax",), "min": ("amin",),
    "any": ("any",), "all": ("all",),
}.items():  # fmt: skip

    def _reduction(
        x: Any, dim: Any = None, keepdim: bool = False, *, axis: Any = None, _op: str = _op
    ) -> Any:
        if _op == "sum" and x.kind == "bool":
            return _reduced("count", x, axis if dim is None else dim, keepdim, "int")
        return _reduced(_op, x, axis if dim is None else dim, keepdim)

    operation(*_names)(_reduction)


def _extreme(op: str) -> Operation:
    def function(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, Traced):
            return _pointwise(op, None, x, dim)
        values = _reduced(op, x, dim, keepdim)
        if dim is None:
            return values
        if op == "min":
            refuse("`min` with indices", "use `amin`")
        indices = _reduced("argmax", x, dim, keepdim, "int")
        return _Pair(values, indices)

    return function


class _Pair(tuple[Any, Any]):
    """Values and indices, as PyTorch returns them."""

    def __new__(cls, values: Any, indices: Any) -> _Pair:
        return super().__new__(cls, (values, indices))

    @property
    def values(self) -> Any:
        return self[0]

    @property
    def indices(self) -> Any:
        return self[1]


operation("max")(_extreme("max"))
operation("min")(_extreme("min"))


@operation("argmax")
def _argmax(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is None:
        refuse("`argmax` over all dimensions", "give it a `dim`")
    return _reduced("argmax", x, dim, keepdim, "int")


@operation("softmax")
def _softmax(x: Any, dim: int | None = None, *_: Any, **__: Any) -> Any:
    x = x.named("logits") if not isinstance(x.expr, Read) else x
    shifted = _pointwise("exp", "real", _pointwise("-", None, x, _reduced("max", x, dim, True)))
    rank = shifted.dims[(dim if dim is not None else -1) % len(shifted.dims)]
    total = Reduce("sum", (rank,), shifted.expr) if rank else shifted.expr
    expr = Map("/", (shifted.expr, total))
    return Traced(x.graph, expr, shifted.dims).named(variable() or "A")


@operation("logsumexp")
def _logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    x = x.named("logits") if not isinstance(x.expr, Read) else x
    top = _reduced("max", x, dim, True).named("top")
    shifted = _pointwise("exp", "real", _pointwise("-", None, x, top))
    total = _reduced("sum", shifted, dim, True)
    result = _pointwise("+", None, _pointwise("log", "real", total), top)
    at = _dims(x, dim)
    dims = [d for n, d in enumerate(result.dims) if keepdim or n not in at]
    return Traced(x.graph, result.expr, dims)


@operation("log_softmax")
def _log_softmax(x: Any, dim: int | None = None, *_: Any, **__: Any) -> Any:
    return _pointwise("-", None, x, _logsumexp(x, -1 if dim is None else dim, True))


@operation("cumsum")
def _cumsum(x: Any, dim: int) -> Any:
    x = _simple(x)
    at = dim % len(x.dims)
    rank = x.dims[at]
    if rank is None:
        return x
    other = x.graph.copy(rank)
    inner = x.at([other if n == at else d for n, d in enumerate(x.dims)])
    body = Where(inner, Map("<=", (Coordinate(other), Coordinate(rank))))
    return Traced(x.graph, Reduce("sum", (other,), body), x.dims, x.kind)


@operation("topk")
def _topk(x: Any, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    if not largest:
        refuse("`topk` of the smallest values", "negate them")
    x = _simple(x)
    at = dim % len(x.dims)
    rank = x.dims[at]
    if rank is None:
        refuse("`topk` along a dimension of size 1")
    target = x.graph.rank(int(k), expr_of(k))
    dims = [target if n == at else d for n, d in enumerate(x.dims)]
    made = [
        Traced(x.graph, Select(op, rank, target, x.expr), dims, kind).named(name)
        for op, kind, name in (("top", x.kind, "best"), ("argtop", "int", "best_at"))
    ]
    return _Pair(*made)


# -- products


@operation("matmul", "bmm", "mm", "mv", "dot")
def _matmul(a: Any, b: Any) -> Any:
    graph = graph_of(a, b)
    a, b = _factor(lifted(graph, a)), _factor(lifted(graph, b))
    one, two = len(a.dims) == 1, len(b.dims) == 1
    if one:
        a = unsqueezed(a, 0)
    if two:
        b = unsqueezed(b, 1)
    batch_a, (i, k) = a.dims[:-2], a.dims[-2:]
    (_, j) = b.dims[-2:]
    number = max(len(batch_a), len(b.dims) - 2)
    wanted: list[str | None] = []
    for left, right in align(batch_a, b.dims[:-2], number):
        taken = right is not None and right in a.dims
        wanted.append(left or (graph.copy(str(right)) if taken else right))
    used = {*a.dims, *wanted}
    column = graph.copy(j) if j is not None and j in used else j
    names = wanted[number - (len(b.dims) - 2) :]
    b = merge(graph, b, [*names, k, column])
    product = Map("*", (a.expr, b.expr))
    expr: Expr = Reduce("sum", (k,), product) if k is not None else product
    dims = [*wanted, *([] if one else [i]), *([] if two else [column])]
    return Traced(graph, expr, dims).named()


operation("rmatmul")(lambda a, b: _matmul(b, a))


def _factor(x: Traced) -> Traced:
    """An operand of a product: a read, or a statement."""
    return x if isinstance(x.expr, Read) else x.named("factor" if variable() is None else None)


@operation("linear")
def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    graph = graph_of(x, weight, bias)
    found = _matmul(x, permuted(lifted(graph, weight), (1, 0)))
    return found if bias is None else _pointwise("+", None, found, bias)


@operation("einsum")
def _einsum(equation: Any, *operands: Any) -> Any:
    if not isinstance(equation, str):
        refuse("`einsum` without an equation")
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    equation = equation.replace(" ", "")
    if "..." in equation:
        refuse("`einsum` with an ellipsis", "name the dimensions")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    graph = graph_of(*operands)
    values = [_factor(lifted(graph, v)) for v in operands]
    if "->" not in equation:
        letters = "".join(terms)
        right = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    rank_of: dict[str, str | None] = {}
    parts: list[Expr] = []
    for term, value in zip(terms, values, strict=True):
        if len(set(term)) < len(term):
            refuse("`einsum` with a diagonal", "multiply by a condition instead")
        for letter, d in zip(term, value.dims, strict=True):
            if rank_of.get(letter) is None:
                others = [r for c, r in rank_of.items() if c != letter]
                rank_of[letter] = graph.copy(d) if d is not None and d in others else d
        parts.append(merge(graph, value, [rank_of[c] for c in term]).expr)
    product = reduce(lambda x, y: Map("*", (x, y)), parts)
    gone = tuple(r for c, r in rank_of.items() if c not in right and r is not None)
    expr: Expr = Reduce("sum", gone, product) if gone else product
    return Traced(graph, expr, [rank_of[c] for c in right]).named()


@operation("scaled_dot_product_attention")
def _attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: Any = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    if dropout_p:
        refuse("dropout of attention weights", "`dropout_p=0`")
    if enable_gqa:
        times = query.shape[1] // key.shape[1]
        key, value = _repeat(key, times, 1), _repeat(value, times, 1)
    width = query.shape[-1]
    scores = _matmul(query, permuted(key, _swapped(key, -1, -2)))
    scores = _pointwise("*", None, scores, width**-0.5 if scale is None else scale)
    if is_causal:
        p, m = scores.dims[-2:]
        condition = Map("<=", (Coordinate(str(m)), Coordinate(str(p))))
        scores = Traced(scores.graph, Where(scores.expr, condition), scores.dims)
    if attn_mask is not None:
        mask = lifted(scores.graph, attn_mask)
        if mask.kind == "bool":
            scores = _where(mask, scores, -math.inf)
        else:
            scores = _pointwise("+", None, scores, mask)
    return _matmul(_softmax(scores, -1), value)


# -- shapes

operation("permute")(lambda x, *dims: permuted(x, dims[0] if len(dims) == 1 else dims))
operation("view", "reshape")(
    lambda x, *shape: reshaped(
        x, shape[0] if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape
    )
)
operation("unsqueeze")(unsqueezed)


def _swapped(x: Traced, a: int, b: int) -> list[int]:
    order = list(range(len(x.dims)))
    a, b = a % len(order), b % len(order)
    order[a], order[b] = order[b], order[a]
    return order


operation("transpose", "swapaxes", "swapdims")(lambda x, a, b: permuted(x, _swapped(x, a, b)))
operation("t")(lambda x: permuted(x, _swapped(x, 0, 1)) if len(x.dims) > 1 else x)


@operation("squeeze")
def _squeeze(x: Any, dim: Any = None) -> Any:
    at = _dims(x, dim)
    kept = [d for n, d in enumerate(x.dims) if n not in at or d is not None]
    return Traced(x.graph, x.expr, kept, x.kind)


@operation("flatten")
def _flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    start, end = start_dim % len(x.dims), end_dim % len(x.dims)
    shape = x.shape
    merged = reduce(lambda a, b: a * b, shape[start : end + 1])
    return reshaped(x, (*shape[:start], merged, *shape[end + 1 :]))


@operation("expand", "broadcast_to", "expand_as")
def _expand(x: Any, *shape: Any) -> Any:
    if len(shape) == 1 and isinstance(shape[0], Traced):
        shape = shape[0].shape
    if len(shape) == 1 and isinstance(shape[0], list | tuple):
        shape = tuple(shape[0])
    dims: list[str | None] = [None] * (len(shape) - len(x.dims)) + list(x.dims)
    for n, size in enumerate(shape):
        if dims[n] is None and int(size) not in (-1, 1):
            dims[n] = x.graph.rank(int(size), expr_of(size))
    return Traced(x.graph, x.expr, dims, x.kind)


@operation("repeat_interleave")
def _repeat(x: Any, repeats: Any, dim: int | None = None) -> Any:
    if dim is None or isinstance(repeats, Traced):
        refuse("`repeat_interleave` without a dimension, or with a tensor of repeats")
    at = dim % len(x.dims)
    rank = x.dims[at]
    if rank is None:
        refuse("`repeat_interleave` of a dimension of size 1", "use `expand`")
    size = x.shape[at] * repeats
    new = x.graph.rank(int(size), expr_of(size))
    expr = x.graph.put(x.expr, {rank: Map("//", (Coordinate(new), expr_of(repeats)))})
    return Traced(x.graph, expr, [new if n == at else d for n, d in enumerate(x.dims)], x.kind)


@operation("flip")
def _flip(x: Any, *dims: Any) -> Any:
    chosen = dims[0] if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    expr = x.expr
    for n in chosen:
        rank = x.dims[n]
        if rank is not None:
            last = Map("-", (x.graph.extents[rank], Const(1)))
            expr = x.graph.put(expr, {rank: Map("-", (last, Coordinate(rank)))})
    return Traced(x.graph, expr, x.dims, x.kind)


def _triangle(op: str) -> Operation:
    def function(x: Any, diagonal: int = 0) -> Any:
        row, column = x.dims[-2:]
        edge: Expr = Coordinate(row) if row else Const(0)
        if diagonal:
            edge = Map("+", (edge, Const(diagonal)))
        condition = Map(op, (Coordinate(column) if column else Const(0), edge))
        if x.kind == "bool":
            return Traced(x.graph, Map("and", (x.expr, condition)), x.dims, "bool")
        return Traced(x.graph, Map("select", (condition, x.expr, Const(0))), x.dims, x.kind)

    return function


operation("tril")(_triangle("<="))
operation("triu")(_triangle(">="))


@operation("gather", "take_along_dim")
def _gather(x: Any, dim: int, index: Any) -> Any:
    """`out[.., j] = x[.., index[.., j]]`."""
    if isinstance(dim, Traced):
        dim, index = index, dim
    x = x if isinstance(x.expr, Read) else x.named()
    at = dim % len(x.dims)
    rank = x.dims[at]
    if rank is None:
        return x
    used = set(x.dims)
    target = index.dims[at]
    own = x.graph.copy(target) if target in used else target
    dims = [own if n == at else d for n, d in enumerate(x.dims)]
    index = merge(x.graph, index, dims)
    expr = x.graph.put(x.expr, {rank: index.expr})
    return Traced(x.graph, expr, dims, x.kind)


@operation("index_select")
def _index_select(x: Any, dim: int, index: Any) -> Any:
    at = dim % len(x.dims)
    return indexed(x, (*[slice(None)] * at, index))


@operation("getitem")
def _getitem(x: Any, index: Any) -> Any:
    graph = graph_of(x, index)
    return indexed(lifted(graph, x), index)


@operation("embedding")
def _embedding(indices: Any, weight: Any, *_: Any, **__: Any) -> Any:
    return indexed(lifted(graph_of(indices, weight), weight), (indices,))


__all__ = ["TABLE", "apply", "indexed", "lifted", "method"]
