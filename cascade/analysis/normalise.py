"""Statements with at most one reduction each: the form in which passes and work are counted.

Every reduction nested in a statement becomes a step of its own, over the ranks that occur in it;
equal reductions become one step. A step's body has no reduction in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cascade.ir.cascade import Cascade, Einsum
from cascade.ir.expr import Coordinate, Expr, Read, Reduce, Select
from cascade.ir.order import evaluation_order
from cascade.ir.walk import children, free_ranks, rebuild


@dataclass(frozen=True, slots=True)
class Step:
    """`target[ranks] = op over bound of body`; `op` is None for a pointwise statement.

    `iterative` is the slot written at coordinate + 1; `recurs` the rank of the recurrence the step
    belongs to, if any. `named` is false for reductions taken out of a larger statement. `along` is
    the rank on which a selection puts its results.
    """

    target: str
    ranks: tuple[str, ...]
    op: str | None
    bound: tuple[str, ...]
    body: Expr
    einsum: Einsum
    iterative: int | None = None
    recurs: str | None = None
    named: bool = True
    along: str | None = None

    @property
    def line(self) -> int | None:
        return self.einsum.span.line if self.einsum.span else None

    @property
    def scope(self) -> tuple[str, ...]:
        """All ranks the step iterates."""
        return tuple(dict.fromkeys((*self.ranks, *self.bound)))

    def label(self) -> str:
        """How a report names the step: its tensor, or the reduction as written."""
        if self.named:
            return self.target
        return f"{self.op}[{','.join(self.bound)}] in {self.einsum.tensor}"


def normalise(cascade: Cascade) -> tuple[Step, ...]:
    """Steps in an order in which everything but a recurrence's previous step is made before it
    is read.
    """
    return _Normalise(cascade).steps()


class _Normalise:
    def __init__(self, cascade: Cascade):
        self.cascade = cascade
        self.found: list[Step] = []
        self.known: dict[tuple[object, ...], str] = {}
        self.recurs: str | None = None

    def steps(self) -> tuple[Step, ...]:
        for group in evaluation_order(self.cascade):
            for einsum in group.inits:
                self.recurs = None
                self._statement(einsum)
            for einsum in group.einsums:
                self.recurs = group.rank
                self._statement(einsum)
        return tuple(self.found)

    def _statement(self, einsum: Einsum) -> None:
        ranks, body, iterative = einsum.ranks, einsum.body, einsum.step
        if einsum.init:
            ranks, iterative = einsum.scope, None
        if isinstance(body, Reduce) and not set(body.ranks) & set(ranks):
            inner = self._flatten(body.body, einsum)
            step = Step(
                einsum.tensor, ranks, body.op, body.ranks, inner, einsum, iterative, self.recurs
            )
        elif isinstance(body, Select) and body.rank not in ranks:
            inner = self._flatten(body.body, einsum)
            step = Step(
                einsum.tensor,
                ranks,
                body.op,
                (body.rank,),
                inner,
                einsum,
                iterative,
                self.recurs,
                along=body.target,
            )
        else:
            inner = self._flatten(body, einsum)
            step = Step(einsum.tensor, ranks, None, (), inner, einsum, iterative, self.recurs)
        self.found.append(step)

    def _flatten(self, e: Expr, einsum: Einsum) -> Expr:
        e = rebuild(e, tuple(self._flatten(child, einsum) for child in children(e)))
        match e:
            case Reduce(op, bound, body):
                return self._extract(e, op, bound, body, einsum)
            case Select(op, rank, target, body):
                return self._extract(e, op, (rank,), body, einsum, target)
            case _:
                return e

    def _extract(
        self,
        e: Expr,
        op: str,
        bound: tuple[str, ...],
        body: Expr,
        einsum: Einsum,
        along: str | None = None,
    ) -> Read:
        ranks = free_ranks(e)
        key = (e, self.recurs)
        if key not in self.known:
            name = f"{einsum.tensor}.{len(self.known) + 1}"
            self.known[key] = name
            self.found.append(
                Step(name, ranks, op, bound, body, einsum, None, self.recurs, False, along)
            )
        return Read(self.known[key], tuple(Coordinate(r) for r in ranks), e.span)
