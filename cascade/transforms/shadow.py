"""Reductions in a sum over a rank that is in use there, as statements of their own.

In `O[p,f] = sum[m](W[p,m] * V[m,f] / sum[m](W[p,m]))` there are two coordinates `m`. As a statement
of its own the inner sum is a prefix sum, too. What stands in an exponent stays there: a factor of
the row it is not.
"""

from __future__ import annotations

from dataclasses import replace

from cascade.ir.cascade import Cascade, Einsum
from cascade.ir.expr import Coordinate, Expr, Map, Read, Reduce, Select
from cascade.ir.names import fresh
from cascade.ir.walk import bound_ranks, children, free_ranks, reads, rebuild

RATIONAL = {"+", "-", "*", "/", "neg"}


def without_shadows(cascade: Cascade) -> Cascade:
    """The same cascade, in which no reduction within a sum binds a rank of its surroundings."""
    return _Naming(cascade).cascade()


class _Naming:
    def __init__(self, source: Cascade):
        self.source = source
        self.taken = {*source.tensors, *source.rank, *(p.name for p in source.params)}
        self.taken |= {r.name.upper() for r in source.ranks}
        self.iterative = {e.tensor for e in source.einsums if e.step is not None}
        self.made: dict[Expr, str] = {}
        self.added: list[Einsum] = []

    def cascade(self) -> Cascade:
        einsums = []
        for e in self.source.einsums:
            body = self._without(e, e.body, frozenset(e.scope), inside=False)
            einsums += [*self.added, e if body is e.body else replace(e, body=body)]
            self.added.clear()
        if not self.made:
            return self.source
        return replace(self.source, einsums=tuple(einsums))

    def _without(self, e: Einsum, body: Expr, used: frozenset[str], inside: bool) -> Expr:
        bound = frozenset(bound_ranks(body))
        if inside and isinstance(body, Reduce | Select) and bound & used and not self._runs(body):
            return self._named(e, body)
        if isinstance(body, Map) and body.op not in RATIONAL:
            return body
        inside, inner = inside or bool(bound), used | bound
        return rebuild(body, tuple(self._without(e, c, inner, inside) for c in children(body)))

    def _runs(self, e: Expr) -> bool:
        """Whether a value is read that a recurrence has at a step: it stays in its statement."""
        return any(r.tensor in self.iterative for r in reads(e))

    def _named(self, e: Einsum, body: Reduce | Select) -> Read:
        ranks = free_ranks(body)
        if body not in self.made:
            self.made[body] = name = fresh(f"{e.tensor}_{body.op}", self.taken)
            used = frozenset((*ranks, *bound_ranks(body)))
            value = replace(body, body=self._without(e, body.body, used, inside=True))
            self.added.append(Einsum(name, ranks, value, span=e.span))
        return Read(self.made[body], tuple(Coordinate(r) for r in ranks))
