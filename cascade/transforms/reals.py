"""Tensors that hold reals in a source hold reals in what is made of it.

A sum of reals may come out as a count or as 0, whose text reads as an integer.
"""

from __future__ import annotations

from dataclasses import replace

from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Expr, Map, Where
from cascade.ir.kinds import tensor_kinds


def keep_reals(source: Cascade, made: Cascade) -> Cascade:
    """`made`, with reals where a tensor of `source` has them."""
    before, after = tensor_kinds(source), tensor_kinds(made)
    changed = {n for n, kind in after.items() if kind == "int" and before.get(n) in ("real", "any")}
    if not changed:
        return made
    einsums = tuple(
        replace(e, body=_real(e.body)) if e.tensor in changed else e for e in made.einsums
    )
    return replace(made, einsums=einsums)


def _real(e: Expr) -> Expr:
    match e:
        case Const(value):
            return Const(float(value), e.span)
        case Where(body, condition):
            return Where(_real(body), condition, e.span)
        case _:
            return Map("*", (Const(1.0), e))
