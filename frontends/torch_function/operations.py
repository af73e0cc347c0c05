"""What each operation of PyTorch makes of traced tensors: one table, by the names of operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from cascade.diagnostics import CascadeError
from cascade.frontends.torch_function.absence import DROPPED, LOW, absence, filled, stand_in
from cascade.frontends.torch_function.shapes import (
    NOWHERE,
    align,
    axis,
    broadcast,
    equal,
    indexed,
    merge,
    one,
    permuted,
    reshaped,
    unsqueezed,
    wrapped,
)
from cascade.frontends.torch_function.sizes import expr_of
from cascade.frontends.torch_function.traced import Graph, Traced, refuse, variable
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Where
from cascade.ir.walk import reads, walk

Operation = Callable[..., Any]
TABLE: dict[str, Operation] = {}
VIEWS = {  # whose result has the memory of their argument, or may have
    "alias", "contiguous", "detach", "to", "type", "type_as", "float", "double", "half", "bfloat16",
    "long", "int", "bool", "cpu", "cuda", "permute", "view", "reshape", "unsqueeze", "transpose",
    "swapaxes", "swapdims", "t", "squeeze", "flatten", "expand", "broadcast_to", "expand_as",
    "getitem", "split", "chunk", "unbind", "select", "narrow",
}  # fmt: skip
PLACED = ("device", "layout", "memory_format", "non_blocking", "copy", "pin_memory")
IN_PLACE = {f"i{n}" for n in "add sub mul truediv floordiv mod pow and or xor".split()}


def operation(*names: str) -> Callable[[Operation], Operation]:
    def put(function: Operation) -> Operation:
        for name in names:
            TABLE[name] = function
        return function

    return put


def apply(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of a function of PyTorch with a traced argument."""
    import torch

    if function is torch.Tensor.where:  # the condition of the method comes second
        args = (args[1], args[0], *args[2:])
    return method(getattr(function, "__name__", str(function)), args, kwargs)


def method(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of an operation by its name, with what all of them share."""
    plain = name.strip("_")
    place = (name.endswith("_") and not name.startswith("__")) or plain in IN_PLACE
    plain = plain[1:] if plain in IN_PLACE else plain
    if plain not in TABLE:
        refuse(f"`{plain}`", "write the cascade of it by hand, or trace a part without it")
    args, kwargs = _arguments(plain, args, kwargs)
    place = kwargs.pop("inplace", False) or place
    found = _called(plain, args, kwargs)
    _without_gradients(plain, args, kwargs, found)
    if place and isinstance(found, Traced):
        if not isinstance(args[0], Traced):
            refuse(f"`{plain}` in place, of a tensor from outside of the function,")
        return args[0].become(found)
    return _stored(plain, args, found)


def _arguments(
    plain: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """The arguments in the form of the table; refuses tensors that are no longer what they were."""
    kwargs = {n: v for n, v in kwargs.items() if n not in PLACED}
    if not args and "input" in kwargs:
        args = (kwargs.pop("input"),)
    listed = next((n for n in ("dims", "shape", "size") if n in kwargs), None)
    if listed and plain in ("permute", "flip", "view", "reshape", "expand", "broadcast_to"):
        args = (*args, kwargs.pop(listed))
    if kwargs.pop("out", None) is not None:
        refuse(f"`{plain}` with `out=`", "use what it returns")
    if any(a.storage.changed for a in _nested((args, list(kwargs.values())))):
        refuse(
            f"`{plain}` of a tensor that was changed in place by another name",
            "make a new tensor instead: `x = x + y` for `x += y`",
        )
    return args, kwargs


def _without_gradients(plain: str, args: Sequence[Any], kwargs: dict[str, Any], found: Any) -> None:
    """Mark real numbers made where gradients are off; where they are on, nothing is made of these.

    A function that is all without gradients is traced as any other.
    """
    import torch

    if not torch.is_grad_enabled():
        for part in _nested([found]):
            part.still = part.kind == "real" and bool(reads(part.expr))
    elif any(a.still for a in _nested((args, list(kwargs.values())))):
        refuse(f"`{plain}` of what was made in `torch.no_grad()`, where a gradient ends,", ENDS)


ENDS = (
    "leave it out if no gradient comes this far, as at the maximum of a softmax; "
    "or make the value an argument"
)


def _stored(plain: str, args: Sequence[Any], found: Any) -> Any:
    """A result in memory of its own, or in that of what it is a view of."""
    if any(found is a for a in args):
        found = Traced(found.graph, found.expr, found.dims, found.kind)
    if plain in VIEWS and isinstance(args[0], Traced):
        for part in _nested([found]):
            part.storage = args[0].storage
    return found


def _called(plain: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operation of the table; what it cannot take is said in its name."""
    try:
        dtype = kwargs.pop("dtype", None)
        if plain in ("to", "type"):
            return _to(*args, *([] if dtype is None else [dtype]), **kwargs)
        if dtype is not None:  # what is reduced is converted first
            args = (_cast(args[0], kind_of(dtype)), *args[1:])
        return TABLE[plain](*args, **kwargs)
    except CascadeError:
        raise
    except Exception as error:
        refuse(f"`{plain}` with these arguments ({error})")


def _nested(values: Any) -> list[Traced]:
    found = []
    for v in values:
        if isinstance(v, Traced):
            found.append(v)
        elif isinstance(v, list | tuple):
            found += _nested(v)
    return found


# -- values


def graph_of(*values: Any) -> Graph:
    """The graph that the first traced value belongs to."""
    return _nested(values)[0].graph


def lifted(graph: Graph, value: Any) -> Traced:
    """A number or a tensor as a traced value."""
    import torch

    if isinstance(value, Traced):
        return value
    if isinstance(value, torch.Tensor):
        return graph.captured[0](value)  # type: ignore[no-any-return]
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, bool | int | float):
        refuse(f"a value of type {type(value).__name__}")
    if value != value:
        refuse("NaN as a constant")
    kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "real"
    return Traced(graph, expr_of(value), (), kind)


def kind_of(dtype: Any) -> str:
    """Of a type of PyTorch: real, int or bool."""
    import torch

    if dtype == torch.bool:
        return "bool"
    return "real" if dtype.is_floating_point else "int"


def _cast(x: Traced, kind: str) -> Traced:
    """A value of another kind: truth values as 0 and 1, real numbers without their fraction."""
    if x.kind == kind:
        return x
    if isinstance(x.expr, Const):
        types = {"bool": bool, "int": int, "real": float}
        return Traced(x.graph, Const(types[kind](x.expr.value)), x.dims, kind)
    if kind == "bool":
        return _pointwise("!=", "bool", x, 0)
    if x.kind == "bool":
        one, zero = (1, 0) if kind == "int" else (1.0, 0.0)
        return _mapped("select", kind, x, one, zero)
    if kind == "int":
        return _truncated(x)
    return Traced(x.graph, x.expr, x.dims, kind)


def _truncated(x: Traced) -> Traced:
    """Rounded towards 0."""
    up, down = _pointwise("ceil", "int", x), _pointwise("floor", "int", x)
    return _mapped("select", "int", _pointwise("<", "bool", x, 0), up, down)


def _mapped(op: str, kind: str | None, *values: Any) -> Traced:
    """A map as it stands, over dimensions that are broadcast."""
    graph = graph_of(*values)
    parts, dims = broadcast(graph, [lifted(graph, v) for v in values])
    expr = Map(op, tuple(p.expr for p in parts))
    return Traced(graph, expr, dims, kind or _joined([p.kind for p in parts], op))


LOGICAL = ("and", "or", "not")


def _pointwise(op: str, kind: str | None, *values: Any) -> Traced:
    """A map of numbers, which an absent operand does not change unless it stands for one."""
    graph = graph_of(*values)
    parts = [lifted(graph, v) for v in values]
    if op not in LOGICAL and not (op in ("==", "!=") and all(p.kind == "bool" for p in parts)):
        parts = [_cast(p, "int") if p.kind == "bool" else p for p in parts]
    absent = [absence(graph, p.expr) for p in parts]
    value = stand_in(op, [p.expr for p in parts], absent)
    if value is not None and math.isnan(value):
        parts = [filled(p) for p in parts]
    return _mapped(op, kind, *parts)


def _joined(kinds: list[str], op: str) -> str:
    return "real" if "real" in kinds or op == "/" else "int" if "int" in kinds else "bool"


def _binary(op: str, *names: str, kind: str | None = None, swapped: str | None = None) -> None:
    def function(a: Any, b: Any, *, alpha: Any = 1) -> Any:
        return _pointwise(op, kind, a, b if alpha == 1 else _pointwise("*", None, b, alpha))

    operation(*names)(function)
    if swapped:
        operation(swapped)(lambda a, b: function(b, a))


_binary("-", "sub", "subtract", swapped="rsub")
_binary("/", "truediv", swapped="rtruediv")
_binary("**", "pow", swapped="rpow")
for _op, _names in {
    "<": ("lt", "less"), "<=": ("le", "less_equal"), ">": ("gt", "greater"),
    ">=": ("ge", "greater_equal"), "==": ("eq",), "!=": ("ne", "not_equal"),
}.items():  # fmt: skip
    _binary(_op, *_names, kind="bool")


def _or_logical(op: str, logical: str, *names: str) -> None:
    """An operation that is another one of truth values: their sum is `or`."""

    def function(a: Any, b: Any, *, alpha: Any = 1) -> Any:
        graph = graph_of(a, b)
        if all(lifted(graph, v).kind == "bool" for v in (a, b)):
            return _pointwise(logical, "bool", a, b)
        return _pointwise(op, None, a, b if alpha == 1 else _pointwise("*", None, b, alpha))

    operation(*names)(function)


_or_logical("+", "or", "add", "radd")
_or_logical("*", "and", "mul", "multiply", "rmul")
_or_logical("max", "or", "maximum")
_or_logical("min", "and", "minimum")


@operation("div", "true_divide", "divide")
def _divided(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return _floored(a, b)
    found = _pointwise("/", "real", a, b)
    if rounding_mode is None:
        return found
    return _cast(_truncated(found), _kind(a, b))


def _kind(*values: Any) -> str:
    """The kind of what is computed of values."""
    graph = graph_of(*values)
    return _joined([lifted(graph, v).kind for v in values], "+")


@operation("floordiv", "floor_divide")
def _floored(a: Any, b: Any) -> Any:
    if _kind(a, b) != "real":
        return _pointwise("//", "int", a, b)
    return _pointwise("floor", "real", _pointwise("/", "real", a, b))


@operation("mod", "remainder")
def _remainder(a: Any, b: Any) -> Any:
    if _kind(a, b) != "real":
        return _pointwise("%", "int", a, b)
    return _pointwise("-", None, a, _pointwise("*", None, b, _floored(a, b)))


@operation("fmod")
def _fmod(a: Any, b: Any) -> Any:
    """The remainder with the sign of the first."""
    times = _truncated(_pointwise("/", "real", a, b))
    return _pointwise("-", None, a, _pointwise("*", None, b, times))


operation("rfloordiv")(lambda a, b: _floored(b, a))
operation("rmod")(lambda a, b: _remainder(b, a))


def _truth(op: str, *names: str, bits: bool = False) -> None:
    """An operation of truth values; of integers, it is one of their bits."""

    def function(*values: Any) -> Any:
        graph = graph_of(*values)
        parts = [lifted(graph, v) for v in values]
        if bits and any(p.kind != "bool" for p in parts):
            refuse(f"`{names[0]}` of the bits of integers", "compare first: `x != 0`")
        return _pointwise(op, "bool", *(_cast(p, "bool") for p in parts))

    operation(*names)(function)


_truth("and", "logical_and")
_truth("or", "logical_or")
_truth("not", "logical_not")
_truth("!=", "logical_xor")
_truth("and", "and", "rand", "bitwise_and", bits=True)
_truth("or", "or", "ror", "bitwise_or", bits=True)
_truth("!=", "xor", "rxor", "bitwise_xor", bits=True)
_truth("not", "invert", "bitwise_not", bits=True)


def _unary(op: str, kind: str | None) -> None:
    operation(op)(lambda x: _pointwise(op, kind, x))


for _op in (
    "exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "silu", "erf", "sin", "cos",
):  # fmt: skip
    _unary(_op, "real")
for _op in ("relu", "abs", "sign"):
    _unary(_op, None)
operation("neg", "negative")(lambda x: _pointwise("neg", None, x))
operation("floor")(lambda x: x if x.kind == "int" else _pointwise("floor", "real", x))
operation("ceil")(lambda x: x if x.kind == "int" else _pointwise("ceil", "real", x))
operation("trunc", "fix")(lambda x: x if x.kind == "int" else _cast(_truncated(x), "real"))
operation("reciprocal")(lambda x: _pointwise("/", "real", 1, x))
operation("square")(lambda x: _pointwise("**", None, x, 2))
operation("contiguous", "clone", "cpu", "cuda", "alias")(lambda x: x)
operation("float", "double", "half", "bfloat16")(lambda x: _cast(x, "real"))
operation("long", "int")(lambda x: _cast(x, "int"))
operation("bool")(lambda x: _cast(x, "bool"))
operation("type_as")(lambda x, other: _cast(x, other.kind))
operation("numel", "nelement")(lambda x: x.shape.numel())


@operation("detach")
def _detach(x: Any) -> Any:
    """Integers have no gradient to stop."""
    if x.kind == "real":
        refuse("`detach`, where a gradient ends,", ENDS)
    return x


@operation("to", "type")
def _to(x: Traced, *targets: Any, **_: Any) -> Traced:
    """A conversion: by a type, or by a tensor that has it."""
    import torch

    for t in targets:
        if isinstance(t, torch.dtype):
            x = _cast(x, kind_of(t))
        elif isinstance(t, Traced):
            x = _cast(x, t.kind)
        elif isinstance(t, torch.Tensor):
            x = _cast(x, kind_of(t.dtype))
    return x


def _listed(numbers: Sequence[Any]) -> tuple[Any, ...]:
    """Numbers that are given one by one or as one list."""
    one = len(numbers) == 1 and isinstance(numbers[0], list | tuple)
    return tuple(numbers[0] if one else numbers)


def constant(graph: Graph, value: Any, shape: Sequence[Any], kind: str | None = None) -> Traced:
    """A number at every point of a shape."""
    dims = [None if one(s) else graph.rank(int(s), expr_of(s)) for s in _listed(shape)]
    number = lifted(graph, value)
    made = _cast(number, kind or number.kind)
    return Traced(graph, made.expr, dims, made.kind)


def _like(name: str, value: float) -> None:
    operation(f"{name}_like")(lambda x: _full_like(x, value))
    operation(f"new_{name}")(
        lambda x, *shape, size=None: constant(x.graph, value, size or shape, x.kind)
    )


@operation("full_like")
def _full_like(x: Any, fill_value: Any) -> Any:
    number = _cast(lifted(x.graph, fill_value), x.kind)
    return Traced(x.graph, number.expr, x.dims, x.kind)


@operation("new_full")
def _new_full(x: Any, size: Any, fill_value: Any) -> Any:
    return constant(x.graph, fill_value, size, x.kind)


_like("zeros", 0.0)
_like("ones", 1.0)


@operation("dropout")
def _dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    if training and p:
        refuse("dropout", "`training=False`, or `model.eval()`")
    return x


@operation("softplus")
def _softplus(x: Any, beta: Any = 1, threshold: Any = 20) -> Any:
    if threshold != 20:
        refuse("`softplus` with another threshold")
    if beta == 1:
        return _pointwise("softplus", "real", x)
    return _pointwise("/", "real", _pointwise("softplus", "real", _pointwise("*", None, x, beta)),
                      beta)  # fmt: skip


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


operation("clamp_min")(lambda x, min: _clamp(x, min))
operation("clamp_max")(lambda x, max: _clamp(x, None, max))


@operation("where")
def _where(condition: Any, a: Any, b: Any) -> Any:
    """A choice; where minus infinity is chosen, the point is absent."""
    graph = graph_of(condition, a, b)
    c, x, y = (lifted(graph, v) for v in (condition, a, b))
    kind = _joined([x.kind, y.kind], "select")
    low = [_is_low(v.expr) for v in (x, y)]
    if low == [False, True]:
        (c, x), dims = broadcast(graph, [_cast(c, "bool"), filled(x, LOW)])
        return Traced(graph, Where(x.expr, c.expr), dims, kind)
    if low == [True, False]:
        (c, y), dims = broadcast(graph, [_cast(c, "bool"), filled(y, LOW)])
        return Traced(graph, Where(y.expr, Map("not", (c.expr,))), dims, kind)
    x, y = (_cast(v, kind) for v in (x, y))
    value = stand_in("select", (), [None, absence(graph, x.expr), absence(graph, y.expr)])
    if value is not None and math.isnan(value):
        x, y = filled(x), filled(y)
    return _mapped("select", kind, _cast(c, "bool"), x, y)


@operation("masked_fill")
def _masked_fill(x: Any, mask: Any, value: Any) -> Any:
    kinds = [lifted(graph_of(x, mask, value), v).kind for v in (x, value)]
    if _joined(kinds, "select") != kinds[0]:
        refuse("a fill with a number that the tensor has no type for", "convert it: `x.float()`")
    return _where(mask, value, x)


def _is_low(e: Expr) -> bool:
    if isinstance(e, Map) and e.op == "neg":
        return isinstance(e.args[0], Const) and e.args[0].value == math.inf
    return isinstance(e, Const) and e.value == -math.inf


# -- reductions


def _dims(x: Traced, dim: Any) -> tuple[int, ...]:
    """Dimensions that are reduced, counted from the front; all where none is given."""
    chosen = dim if isinstance(dim, list | tuple) else () if dim is None else (dim,)
    at = tuple(axis(x, d) for d in chosen)
    if len(set(at)) < len(at):
        refuse(f"a dimension twice in {tuple(chosen)}")
    return tuple(sorted(at))[: len(x.dims)] if at else tuple(range(len(x.dims)))


def _reduced(op: str, x: Traced, dim: Any, keepdim: bool, kind: str | None = None) -> Traced:
    at = _dims(x, dim)
    x = _simple(filled(x, DROPPED.get(op)))
    ranks = tuple(r for n in at if (r := x.dims[n]) is not None)
    expr = Reduce(op, ranks, x.expr) if ranks else Const(0) if op == "argmax" else x.expr
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
        dim = axis if dim is None else dim
        if _op in ("any", "all"):
            return _reduced(_op, _cast(x, "bool"), dim, keepdim)
        if x.kind == "bool":
            counted = _op == "sum" and any(x.dims[n] for n in _dims(x, dim))
            x = x if counted else _cast(x, "int")
            return _reduced("count" if counted else _op, x, dim, keepdim, "int")
        return _reduced(_op, x, dim, keepdim)

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
    if dim is None:
        refuse("`softmax` without a dimension", "`dim=-1`")
    x = _scores(x)
    shifted = _mapped("exp", "real", _mapped("-", None, x, _reduced("max", x, dim, True)))
    ranks = [r for n in _dims(x, dim) if (r := shifted.dims[n])]
    total = Reduce("sum", tuple(ranks), shifted.expr) if ranks else shifted.expr
    expr = Map("/", (shifted.expr, total))
    return Traced(x.graph, expr, shifted.dims).named(variable() or "A")


def _scores(x: Traced) -> Traced:
    """Scores by a name, absent only where they are minus infinity."""
    x = filled(x, LOW)
    return x if isinstance(x.expr, Read) else x.named("logits")


@operation("logsumexp")
def _logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    x = _scores(x)
    top = _reduced("max", x, dim, True).named("top")
    shifted = _mapped("exp", "real", _mapped("-", None, x, top))
    total = _reduced("sum", shifted, dim, True)
    result = _mapped("+", None, _mapped("log", "real", total), top)
    at = _dims(x, dim)
    dims = [d for n, d in enumerate(result.dims) if keepdim or n not in at]
    return Traced(x.graph, result.expr, dims)


@operation("log_softmax")
def _log_softmax(x: Any, dim: int | None = None, *_: Any, **__: Any) -> Any:
    if dim is None:
        refuse("`log_softmax` without a dimension", "`dim=-1`")
    return _pointwise("-", None, x, _logsumexp(x, dim, True))


@operation("cumsum")
def _cumsum(x: Any, dim: int) -> Any:
    at = axis(x, dim)
    x = _simple(filled(_cast(x, "int") if x.kind == "bool" else x, 0.0))
    rank = x.dims[at] if x.dims else None
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
    at = axis(x, dim)
    x = _simple(filled(x, LOW))
    rank = x.dims[at]
    if rank is None:
        refuse("`topk` along a dimension of size 1")
    if not 0 < int(k) <= x.graph.sizes[rank]:
        refuse(f"`topk` of {int(k)} of {x.graph.sizes[rank]} values")
    target = x.graph.rank(int(k), expr_of(k))
    dims = [target if n == at else d for n, d in enumerate(x.dims)]
    made = [
        Traced(x.graph, Select(op, rank, target, x.expr), dims, kind).named(name)
        for op, kind, name in (("top", x.kind, "best"), ("argtop", "int", "best_at"))
    ]
    if int(k) == 1:  # as every dimension of size 1
        index = (*[slice(None)] * at, slice(0, 1))
        made = [indexed(m, index) for m in made]
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
    (inner, j) = b.dims[-2:]
    if (k is None) != (inner is None):
        refuse(f"a product of shapes {tuple(map(int, a.shape))} and {tuple(map(int, b.shape))}")
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
    return Traced(graph, expr, dims, _joined([a.kind, b.kind], "*")).named()


operation("rmatmul")(lambda a, b: _matmul(b, a))


def _factor(x: Traced) -> Traced:
    """An operand of a product: a read, or a statement."""
    x = filled(_cast(x, "int") if x.kind == "bool" else x, 0.0)
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
    kind = _joined([v.kind for v in values], "*")
    return Traced(graph, expr, [rank_of[c] for c in right], kind).named()


@operation("scaled_dot_product_attention")
def _attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: Any = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    if dropout_p:
        refuse("dropout of attention weights", "`dropout_p=0`")
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = _repeat(key, times, -3), _repeat(value, times, -3)
    width = query.shape[-1]
    scores = _matmul(query, permuted(key, _swapped(key, -1, -2)))
    scores = _pointwise("*", None, scores, width**-0.5 if scale is None else scale)
    if is_causal:
        p, m = (Const(0) if d is None else Coordinate(d) for d in scores.dims[-2:])
        condition = Map("<=", (m, p))
        scores = Traced(scores.graph, Where(scores.expr, condition), scores.dims)
    if attn_mask is not None:
        mask = lifted(scores.graph, attn_mask)
        if mask.kind == "bool":
            scores = _where(mask, scores, -math.inf)
        else:
            scores = _pointwise("+", None, scores, mask).named()
            scores = _where(_pointwise(">", "bool", scores, LOW), scores, LOW)
    return _matmul(_softmax(scores, -1), value)


# -- shapes

operation("permute")(lambda x, *dims: permuted(x, _listed(dims)))
operation("view", "reshape")(lambda x, *shape: reshaped(x, _listed(shape)))
operation("unsqueeze")(unsqueezed)


def _swapped(x: Traced, a: int, b: int) -> list[int]:
    order = list(range(len(x.dims)))
    a, b = axis(x, a), axis(x, b)
    order[a], order[b] = order[b], order[a]
    return order


operation("transpose", "swapaxes", "swapdims")(lambda x, a, b: permuted(x, _swapped(x, a, b)))
operation("t")(lambda x: permuted(x, _swapped(x, 0, 1)) if len(x.dims) > 1 else x)


@operation("squeeze")
def _squeeze(x: Any, dim: Any = None) -> Any:
    at = () if dim == () else _dims(x, dim)
    kept = [d for n, d in enumerate(x.dims) if n not in at or d is not None]
    return Traced(x.graph, x.expr, kept, x.kind)


@operation("flatten")
def _flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    start, end = axis(x, start_dim), axis(x, end_dim)
    shape = x.shape
    merged = reduce(lambda a, b: a * b, shape[start : end + 1])
    return reshaped(x, (*shape[:start], merged, *shape[end + 1 :]))


@operation("expand", "broadcast_to", "expand_as")
def _expand(x: Any, *shape: Any) -> Any:
    if len(shape) == 1 and isinstance(shape[0], Traced):
        shape = shape[0].shape
    shape = _listed(shape)
    new = len(shape) - len(x.dims)
    dims: list[str | None] = [None] * new + list(x.dims)
    for n, size in enumerate(shape):
        fits = int(size) == -1 and n >= new
        if (rank := dims[n]) is not None:
            fits = fits or int(size) == x.graph.sizes[rank]
        elif int(size) > 0 and not one(size):
            dims[n] = x.graph.rank(int(size), expr_of(size))
        if new < 0 or not (fits or int(size) == 1 or (rank is None and int(size) > 1)):
            refuse(f"a view of {tuple(map(int, x.shape))} as {tuple(map(int, shape))}")
    return Traced(x.graph, x.expr, dims, x.kind)


@operation("repeat_interleave")
def _repeat(x: Any, repeats: Any, dim: int | None = None) -> Any:
    if dim is None or isinstance(repeats, Traced):
        refuse("`repeat_interleave` without a dimension, or with a tensor of repeats")
    at = axis(x, dim)
    rank = x.dims[at]
    if int(repeats) == 1:
        return x
    size = x.shape[at] * repeats
    new = x.graph.rank(int(size), expr_of(size))
    values = {rank: Map("//", (Coordinate(new), expr_of(repeats)))} if rank else {}
    expr = x.graph.put(x.expr, values)
    return Traced(x.graph, expr, [new if n == at else d for n, d in enumerate(x.dims)], x.kind)


@operation("flip")
def _flip(x: Any, *dims: Any) -> Any:
    expr = x.expr
    for n in _listed(dims):
        rank = x.dims[axis(x, n)] if x.dims else None
        if rank is not None:
            last = Map("-", (x.graph.extents[rank], Const(1)))
            expr = x.graph.put(expr, {rank: Map("-", (last, Coordinate(rank)))})
    return Traced(x.graph, expr, x.dims, x.kind)


def _triangle(op: str) -> Operation:
    def function(x: Any, diagonal: int = 0) -> Any:
        x = filled(x, 0.0)
        row, column = x.dims[-2:]
        edge: Expr = Coordinate(row) if row else Const(0)
        if diagonal:
            edge = Map("+", (edge, Const(diagonal)))
        condition = Map(op, (Coordinate(column) if column else Const(0), edge))
        if x.kind == "bool":
            return Traced(x.graph, Map("and", (x.expr, condition)), x.dims, "bool")
        zero = Const(0) if x.kind == "int" else Const(0.0)
        return Traced(x.graph, Map("select", (condition, x.expr, zero)), x.dims, x.kind)

    return function


operation("tril")(_triangle("<="))
operation("triu")(_triangle(">="))


@operation("gather")
def _gather(x: Any, dim: int, index: Any) -> Any:
    """`out[.., j] = x[.., index[.., j]]`, at the points that the index has."""
    return _taken(x, dim, index, False)


@operation("take_along_dim")
def _take_along(x: Any, indices: Any, dim: int | None = None) -> Any:
    if dim is None:
        refuse("`take_along_dim` without a dimension")
    return _taken(x, dim, indices, True)


def _taken(x: Any, dim: int, index: Any, broadcasts: bool) -> Traced:
    graph = graph_of(x, index)
    x, index = lifted(graph, x), lifted(graph, index)
    at = axis(x, dim)
    if len(index.dims) != len(x.dims):
        refuse(f"an index of {len(index.dims)} dimensions of {len(x.dims)}")
    x = x if isinstance(x.expr, Read) else x.named()
    dims: list[str | None] = []
    values: dict[str, Expr] = {}
    for n, (own, theirs) in enumerate(zip(x.dims, index.dims, strict=True)):
        fresh = graph.copy(theirs) if theirs in x.dims and theirs is not None else theirs
        if n == at or (own is None and (broadcasts or theirs is None)):
            dims.append(fresh)
        elif own is not None and (theirs is None or graph.sizes[own] == graph.sizes[theirs]):
            cut = theirs is None and not broadcasts
            dims.append(None if cut else own)
            values.update({own: Const(0)} if cut else {})
        elif own is not None and fresh is not None and not broadcasts:
            if graph.sizes[fresh] > graph.sizes[own]:
                refuse("an index that is larger than the tensor")
            dims.append(fresh)
            values[own] = Coordinate(fresh)
        else:
            refuse("an index of another shape than the tensor")
    if (rank := x.dims[at]) is not None:
        index = filled(merge(graph, index, dims), NOWHERE)
        values[rank] = wrapped(graph, index.expr, rank)
    return Traced(graph, graph.put(x.expr, values), dims, x.kind)


@operation("index_select")
def _index_select(x: Any, dim: int, index: Any) -> Any:
    return indexed(x, (*[slice(None)] * axis(x, dim), index))


@operation("narrow")
def _narrow(x: Any, dim: int, start: Any, length: Any) -> Any:
    return indexed(x, (*[slice(None)] * axis(x, dim), slice(start, start + length)))


@operation("select")
def _select(x: Any, dim: int, index: Any) -> Any:
    return indexed(x, (*[slice(None)] * axis(x, dim), index))


@operation("unbind")
def _unbind(x: Any, dim: int = 0) -> Any:
    return tuple(_select(x, dim, n) for n in range(int(x.shape[axis(x, dim)])))


@operation("split")
def _split(x: Any, split_size: Any, dim: int = 0) -> Any:
    whole = x.shape[axis(x, dim)]
    if isinstance(split_size, list | tuple):
        starts = [sum(split_size[:n]) for n in range(len(split_size))]
        if sum(split_size) != whole:
            refuse(f"`split` of {int(whole)} into {list(map(int, split_size))}")
        return tuple(_narrow(x, dim, a, n) for a, n in zip(starts, split_size, strict=True))
    number = -(-int(whole) // int(split_size))
    return tuple(_narrow(x, dim, n * split_size, split_size) for n in range(number))


@operation("chunk")
def _chunk(x: Any, chunks: int, dim: int = 0) -> Any:
    return _split(x, -(-x.shape[axis(x, dim)] // chunks), dim)


@operation("cat", "concat", "concatenate")
def _cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """One after the other along a dimension: each is chosen where the coordinate is in it."""
    graph = graph_of(tensors)
    values = [lifted(graph, t) for t in tensors]
    kind = _joined([v.kind for v in values], "select")
    values = [_simple(_cast(v, kind)) for v in values]
    at = axis(values[0], dim)
    dims = _beside(values, at)
    sizes = [v.shape[at] for v in values]
    ends = [reduce(lambda a, b: a + b, sizes[: n + 1]) for n in range(len(sizes))]
    whole = ends[-1]
    dims[at] = None if one(whole) else graph.rank(int(whole), expr_of(whole))
    along = Const(0) if dims[at] is None else Coordinate(str(dims[at]))
    starts = [Const(0), *map(expr_of, ends)]
    parts = [_moved(v, at, dims, along, s) for v, s in zip(values, starts, strict=False)]
    found = parts[-1]
    for part, end in zip(reversed(parts[:-1]), reversed(ends[:-1]), strict=True):
        inside = Map("<", (along, expr_of(end)))
        places = [d if n == at else None for n, d in enumerate(dims)]
        found = _where(Traced(graph, inside, places, "bool"), part, found)
    return found


def _beside(values: Sequence[Traced], at: int) -> list[str | None]:
    """The dimensions that values have together but for the one along which they follow."""
    dims = list(values[0].dims)
    for v in values[1:]:
        shapes = [[int(s) for n, s in enumerate(x.shape) if n != at] for x in (values[0], v)]
        if len(v.dims) != len(dims) or shapes[0] != shapes[1]:
            words = " and ".join(str(tuple(map(int, x.shape))) for x in (values[0], v))
            refuse(f"`cat` of shapes {words}")
        dims = [mine or theirs for mine, theirs in zip(dims, v.dims, strict=True)]
    return dims


def _moved(x: Traced, at: int, dims: Sequence[str | None], along: Expr, start: Expr) -> Traced:
    """A value over these dimensions, of which one starts elsewhere."""
    values: dict[str, Expr] = {}
    for n, (own, wanted) in enumerate(zip(x.dims, dims, strict=True)):
        if n == at and own is not None:
            values[own] = along if start == Const(0) else Map("-", (along, start))
        elif own is not None and wanted is not None:
            equal(x.graph, wanted, own)
            values[own] = Coordinate(wanted)
    return Traced(x.graph, x.graph.put(x.expr, values), dims, x.kind)


@operation("stack")
def _stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    graph = graph_of(tensors)
    return _cat([unsqueezed(lifted(graph, t), dim) for t in tensors], dim)


@operation("getitem")
def _getitem(x: Any, index: Any) -> Any:
    graph = graph_of(x, index)
    return indexed(lifted(graph, x), index)


@operation("embedding")
def _embedding(
    indices: Any, weight: Any, padding_idx: Any = None, max_norm: Any = None, *_: Any, **__: Any
) -> Any:
    if max_norm is not None:
        refuse("`embedding` with `max_norm`")
    return indexed(lifted(graph_of(indices, weight), weight), (indices,))


__all__ = ["TABLE", "apply", "constant", "indexed", "kind_of", "lifted", "method"]
