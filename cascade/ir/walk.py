"""Traversal: `children` and `rebuild` are the only functions that enumerate the fields of a
node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where


def children(e: Expr) -> tuple[Expr, ...]:
    match e:
        case Const() | Coordinate() | Symbol():
            return ()
        case Read():
            return e.index
        case Map():
            return e.args
        case Reduce() | Select():
            return (e.body,)
        case Where():
            return (e.body, e.condition)


def rebuild(e: Expr, parts: tuple[Expr, ...]) -> Expr:
    """The same node with other children; the very same object where nothing changed."""
    if all(a is b for a, b in zip(children(e), parts, strict=True)):
        return e
    match e:
        case Const() | Coordinate() | Symbol():
            return e
        case Read():
            return replace(e, index=parts)
        case Map():
            return replace(e, args=parts)
        case Reduce() | Select():
            return replace(e, body=parts[0])
        case Where():
            return replace(e, body=parts[0], condition=parts[1])


def walk(e: Expr) -> Iterator[Expr]:
    """Every node, parents first."""
    stack = [e]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def reads(e: Expr) -> Iterator[Read]:
    """Every tensor read, those inside index expressions and conditions included."""
    return (node for node in walk(e) if isinstance(node, Read))


def bound_ranks(e: Expr) -> tuple[str, ...]:
    """The ranks that this node (not its children) binds for its body."""
    match e:
        case Reduce():
            return e.ranks
        case Select():
            return (e.rank,)
        case _:
            return ()


def free_ranks(e: Expr) -> tuple[str, ...]:
    """Ranks of the point at which `e` has a value, in order of first mention."""
    return tuple(_free(e))


def _free(e: Expr) -> dict[str, None]:
    if isinstance(e, Coordinate):
        return {e.rank: None}
    found: dict[str, None] = {}
    for child in children(e):
        found.update(_free(child))
    for rank in bound_ranks(e):
        found.pop(rank, None)
    if isinstance(e, Select):
        found[e.target] = None
    return found


def symbols(e: Expr) -> set[str]:
    return {node.name for node in walk(e) if isinstance(node, Symbol)}


def transform(e: Expr, rule: Callable[[Expr], Expr | None]) -> Expr:
    """Apply `rule` bottom-up; a rule returns None for "no change". Spans survive a rewrite."""
    e = rebuild(e, tuple(transform(child, rule) for child in children(e)))
    new = rule(e)
    if new is None or new is e:
        return e
    return new if new.span is not None or e.span is None else replace(new, span=e.span)


def substitute(e: Expr, values: dict[str, Expr]) -> Expr:
    """Replace free coordinates. Inner binders shadow; values must not mention ranks bound
    inside.
    """
    if not values:
        return e
    if isinstance(e, Coordinate):
        return values.get(e.rank, e)
    hidden = bound_ranks(e)
    inner = {r: v for r, v in values.items() if r not in hidden} if hidden else values
    return rebuild(e, tuple(substitute(child, inner) for child in children(e)))


def conjuncts(condition: Expr) -> tuple[Expr, ...]:
    """`a and b and c` as (a, b, c)."""
    if isinstance(condition, Map) and condition.op == "and":
        return conjuncts(condition.args[0]) + conjuncts(condition.args[1])
    return (condition,)


def conjunction(parts: tuple[Expr, ...]) -> Expr:
    """The inverse of `conjuncts`; `true` for no parts."""
    result: Expr | None = None
    for part in parts:
        result = part if result is None else Map("and", (result, part), part.span)
    return Const(True) if result is None else result


def unfiltered(e: Expr) -> tuple[Expr, tuple[Expr, ...]]:
    """A body and the conjuncts of its `where`: (e, ()) if it has none."""
    return (e.body, conjuncts(e.condition)) if isinstance(e, Where) else (e, ())


def size(e: Expr) -> int:
    return sum(1 for _ in walk(e))
