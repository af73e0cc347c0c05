"""mean[r](x) = sum[r](x) / count[r](x), absent where there is nothing to count.

The law lets a mean take part in the algebra of sums. Where no condition on x mentions r, the count
is the extent. Else it counts the points of those conditions alone, so that it has no other ranks
than they have: what is absent passes a sum over a rank that no condition mentions.
"""

from __future__ import annotations

from dataclasses import replace

from cascade.analysis.normalise import normalise
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Expr, Map, Reduce, Where
from cascade.ir.walk import conjunction, free_ranks, transform
from cascade.transforms.presence import Presence


def expand_means(cascade: Cascade) -> Cascade:
    """The cascade with every mean written as a quotient."""
    presence = Presence.as_written(cascade, normalise(cascade))

    def rule(e: Expr) -> Expr | None:
        if not isinstance(e, Reduce) or e.op != "mean":
            return None
        bound = set(e.ranks)
        present = tuple(c for c in presence.of(e.body) if bound & set(free_ranks(c)))
        if present:
            points = Where(Const(1), conjunction(present), e.span)
            number: Expr = Reduce("count", e.ranks, points, e.span)
        else:
            number = cascade.rank[e.ranks[0]].extent
            for r in e.ranks[1:]:
                number = Map("*", (number, cascade.rank[r].extent))
        quotient = Map("/", (Reduce("sum", e.ranks, e.body, e.span), number), e.span)
        return Where(quotient, Map(">", (number, Const(0))), e.span)

    einsums = tuple(replace(e, body=transform(e.body, rule)) for e in cascade.einsums)
    return cascade if einsums == cascade.einsums else replace(cascade, einsums=einsums)
