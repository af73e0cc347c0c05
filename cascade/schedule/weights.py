"""Whether a row had a finite score: what its weights add up to says so, and needs no count."""

from __future__ import annotations

from collections.abc import Mapping

from cascade.ir.expr import Const, Expr, Map, Read
from cascade.schedule.program import Fold, For, Let, Mask, Node, Seq, results, tile


def total_weight(loop: For | Seq, maximum: str) -> Expr | None:
    """The carry that adds up `exp(c*(x - k))` of the scores `x` of which `maximum` is the running
    maximum `k`, if there is one. It is 0 where no score is finite, and at least 1 where one is.
    """
    made = {name: n for n in loop.body for name in results(n)}
    raised = next(c.next for c in loop.carries if c.name == maximum)
    match made.get(raised):
        case Let(_, Map("max", (Read(first), Read(here)))) if first == maximum:
            highest = made.get(here)
        case _:
            return None
    if not isinstance(highest, Fold):
        return None
    scores = _unmasked(highest.value, made)
    for carry in loop.carries:
        match made.get(carry.next):
            case Let(_, Map("+", (Map("*", (Read(before), _)), Read(added)))):
                total = made.get(added)
            case _:
                continue
        if before != carry.name or not isinstance(total, Fold) or total.op != "sum":
            continue
        if total.axes == highest.axes and _weighed(total.value, raised, made) == scores:
            return tile(carry.name)
    return None


def _unmasked(e: Expr, made: Mapping[str, Node]) -> tuple[Expr, frozenset[Expr]]:
    """A value, and the conditions without which it was masked."""
    match made.get(e.tensor) if isinstance(e, Read) else None:
        case Mask(_, value, conditions):
            return value, frozenset(conditions)
    return e, frozenset()


def _weighed(
    e: Expr, maximum: str, made: Mapping[str, Node]
) -> tuple[Expr, frozenset[Expr]] | None:
    """The scores whose weights an expression holds, and the conditions without which they are 0."""
    weights, conditions = _unmasked(e, made)
    node = made.get(weights.tensor) if isinstance(weights, Read) else None
    match node.value if isinstance(node, Let) else weights:
        case Map("exp", (exponent,)):
            pass
        case _:
            return None
    match exponent:
        case Map("/", (difference, Const(c))) | Map("*", (Const(c), difference)) if c > 0:
            exponent = difference
    match exponent:
        case Map("-", (scores, Read(name))) if name == maximum:
            scores, more = _unmasked(scores, made)
            return scores, conditions | more
    return None
