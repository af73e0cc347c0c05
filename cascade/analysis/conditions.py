"""Where a tensor is present, as far as conditions over ranks can say it.

For each tensor the conjuncts that hold at every present point, over its own ranks. Conditions that
a reduction uses up, or that `??`, `select` and `or` join, are left out: the result is a superset of
the points.
"""

from __future__ import annotations

from cascade.analysis.normalise import Step
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Where
from cascade.ir.ops import MAPS
from cascade.ir.walk import conjuncts, free_ranks, substitute

MOST = 32  # conjuncts kept for a tensor

Conditions = dict[
    str, tuple[tuple[str, ...], tuple[Expr, ...]]
]  # tensor -> its ranks, its conjuncts


def step_conditions(step: Step, known: Conditions) -> tuple[Expr, ...]:
    """The conjuncts that hold wherever the body of a step is present."""
    return tuple(_conditions(step.body, known))[:MOST]


def remember(step: Step, holding: tuple[Expr, ...], known: Conditions) -> None:
    """Record what a step's tensor inherits. Iterative tensors inherit nothing: slot 0 is
    `init`'s.
    """
    if step.recurs is not None or (step.named and step.einsum.step is not None):
        return
    kept = tuple(c for c in holding if not set(free_ranks(c)) & set(step.bound))
    if kept:
        known[step.target] = (step.ranks, kept)


def _conditions(e: Expr, known: Conditions) -> dict[Expr, None]:
    match e:
        case Where(body, condition):
            found = _conditions(body, known)
            for part in conjuncts(condition):
                found.setdefault(part)
            return found
        case Read(tensor, index):
            found = {}
            for i in index:
                found.update(_conditions(i, known))
            ranks, held = known.get(tensor, ((), ()))
            for part in held:
                found.setdefault(substitute(part, dict(zip(ranks, index, strict=True))))
            return found
        case Map(op, args) if MAPS[op].absence == "strict":
            found = {}
            for arg in args:
                found.update(_conditions(arg, known))
            return found
        case _:
            return {}


Linear = tuple[dict[str, int], int]  # coefficients of ranks, constant


def linear(e: Expr) -> Linear | None:
    """An integer-linear form over ranks alone, or None."""
    match e:
        case Const(int(value)) if not isinstance(value, bool):
            return {}, value
        case Coordinate(rank):
            return {rank: 1}, 0
        case Map("neg", (x,)):
            return _scaled(linear(x), -1)
        case Map("+", (x, y)):
            return _sum(linear(x), linear(y))
        case Map("-", (x, y)):
            return _sum(linear(x), _scaled(linear(y), -1))
        case Map("*", (Const(int(c)), x)) | Map("*", (x, Const(int(c)))):
            return _scaled(linear(x), c)
        case _:
            return None


def _scaled(a: Linear | None, c: int) -> Linear | None:
    return None if a is None else ({r: k * c for r, k in a[0].items()}, a[1] * c)


def _sum(a: Linear | None, b: Linear | None) -> Linear | None:
    if a is None or b is None:
        return None
    ranks = {r: a[0].get(r, 0) + b[0].get(r, 0) for r in a[0] | b[0]}
    return {r: k for r, k in ranks.items() if k}, a[1] + b[1]


def upper_bounds(condition: Expr) -> tuple[Linear, ...]:
    """Linear forms that the condition says are at most 0."""
    match condition:
        case Map("<=" | "<" as op, (a, b)):
            difference, strict = _sum(linear(a), _scaled(linear(b), -1)), op == "<"
        case Map(">=" | ">" as op, (a, b)):
            difference, strict = _sum(linear(b), _scaled(linear(a), -1)), op == ">"
        case Map("==", (a, b)):
            forward = _sum(linear(a), _scaled(linear(b), -1))
            return (
                ()
                if forward is None
                else (forward, ({r: -k for r, k in forward[0].items()}, -forward[1]))
            )
        case _:
            return ()
    return () if difference is None else ((difference[0], difference[1] + strict),)


def is_at_most(conditions: tuple[Expr, ...], lower: str, upper: str) -> bool:
    """Whether the conditions prove coordinate `lower` <= coordinate `upper`."""
    for condition in conditions:
        for coefficients, constant in upper_bounds(condition):
            if coefficients == {lower: 1, upper: -1} and constant >= 0:
                return True
    return False
