"""Arithmetic of every step, by kind. A map costs once per point of its own ranks; a sum of a
product is one multiply-accumulate per point. Index arithmetic, predicates and scalars of the
whole run cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cascade.analysis.counts import Count, total
from cascade.analysis.normalise import Step
from cascade.ir.expr import Const, Expr, Map, Where
from cascade.ir.ops import MAPS, REDUCERS
from cascade.ir.walk import children, free_ranks

KINDS = (
    "mac",
    "exp",
    "divide",
    "multiply",
    "add",
    "compare",
    "log",
    "sqrt",
    "trigonometric",
    "power",
    "other",
)


@dataclass(frozen=True)
class StepWork:
    """Operations of one step by kind."""

    step: Step
    by_kind: dict[str, Count]


def step_work(step: Step) -> StepWork:
    found: dict[str, list[Count]] = {}
    body = step.body.body if isinstance(step.body, Where) else step.body
    fused: Expr | None = None
    if step.op == "sum":
        body = _hoisted(body, step, found)
        if isinstance(body, Map) and body.op == "*":
            fused = body
    _maps(body, fused, found)
    if step.op is not None:
        ranks = set(free_ranks(step.body)) | set(step.bound)
        kind = (
            "mac"
            if fused is not None
            else REDUCERS[step.op].cost
            if step.op in REDUCERS
            else "compare"
        )
        found.setdefault(kind, []).append(Count.of(ranks))
    return StepWork(step, {k: total(c) for k, c in found.items()})


def _hoisted(e: Expr, step: Step, found: dict[str, list[Count]]) -> Expr:
    """Without outer factors that the summed ranks do not touch: they cost once per result."""
    while isinstance(e, Map) and e.op in ("*", "/"):
        free = [not set(free_ranks(a)) & set(step.bound) for a in e.args]
        if free[1]:
            inner, outer = e.args
        elif free[0] and e.op == "*":
            outer, inner = e.args
        else:
            break
        if free_ranks(outer):
            _maps(outer, None, found)
        if step.ranks:
            found.setdefault(_kind(e), []).append(Count.of(step.ranks))
        e = inner
    return e


def _maps(e: Expr, fused: Expr | None, found: dict[str, list[Count]]) -> None:
    """Count the maps of a value; conditions and indices are not values."""
    if isinstance(e, Where):
        _maps(e.body, fused, found)
        return
    if not isinstance(e, Map):
        return
    ranks = free_ranks(e)
    if ranks and e is not fused:
        found.setdefault(_kind(e), []).append(Count.of(ranks))
    for child in children(e):
        _maps(child, fused, found)


def _kind(e: Map) -> str:
    if e.op == "**" and isinstance(e.args[1], Const) and e.args[1].value == 2:
        return "multiply"
    cost = MAPS[e.op].cost
    return cost if cost in KINDS else "other"


def sum_work(works: list[StepWork]) -> dict[str, Count]:
    """Totals by kind, in the order of `KINDS`."""
    return {
        kind: total(w.by_kind[kind] for w in works if kind in w.by_kind)
        for kind in KINDS
        if any(kind in w.by_kind for w in works)
    }


def operations(work: Mapping[str, Count], extents: Mapping[str, int]) -> int:
    """All operations of known extents as one number; a multiply-accumulate is two."""
    return sum((c.value(extents) or 0) * (2 if k == "mac" else 1) for k, c in work.items())
