"""A cascade seen along one rank: which values carry the rank, which are results of a traversal of
it, and reductions with their pointwise producers inlined.

Leaves of an inlined body are of four classes (algebra of docs/derivations.md): X carries the rank
and depends on no result; R is a result of the present pass; P is final before it; numbers.
"""

from __future__ import annotations

from cascade.analysis.normalise import Step, normalise
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Coordinate, Expr, Map, Read, Where
from cascade.ir.order import evaluation_order
from cascade.ir.walk import (
    bound_ranks,
    children,
    conjunction,
    free_ranks,
    reads,
    rebuild,
    substitute,
)
from cascade.transforms.presence import Presence

MOST_NODES = 800  # of an inlined body


class TooLarge(Exception):
    """A body whose producers, written out, are too large for the algebra."""


class Stream:
    """The steps of a cascade, ordered, with what the traversal of `rank` makes of each tensor."""

    def __init__(self, cascade: Cascade, rank: str):
        self.cascade = cascade
        self.rank = rank
        self.steps = normalise(cascade)
        self.by_name = {s.target: s for s in self.steps}
        self.presence = Presence(cascade, self.steps)
        self.substituted = {
            e.tensor
            for group in evaluation_order(cascade)
            if group.rank is not None and all(e.step is None for e in group.einsums)
            for e in group.einsums
            if not group.inits
        }
        self.nodes = 0
        self.deep: dict[str, bool] = {}
        self.behind: dict[str, dict[str, int]] = {}
        self.available: dict[str, int] = {}  # the pass after which a result is final

    def carries(self, e: Expr) -> bool:
        return self.rank in free_ranks(e)

    def reduces(self, step: Step) -> bool:
        return self.rank in step.bound

    def results(self, e: Expr) -> dict[str, int]:
        """The results that an inlined expression reads, with their passes."""
        found: dict[str, int] = {}
        for r in reads(e):
            if self.depends(r.tensor):
                found[r.tensor] = self.available[r.tensor]
            elif self.depends_deeply(r.tensor):
                if r.tensor not in self.behind:
                    self.behind[r.tensor] = self.results(self.by_name[r.tensor].body)
                found |= self.behind[r.tensor]
        return found

    def depends(self, name: str) -> bool:
        return self.available.get(name, 0) > 0

    def inlined(self, e: Expr) -> Expr:
        """`e` with pointwise producers substituted where the algebra has to see through them.

        Raises `TooLarge` where that would be more than `MOST_NODES` expressions.
        """
        self.nodes = 0
        return self._inlined(e)

    def _inlined(self, e: Expr) -> Expr:
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise TooLarge
        if isinstance(e, Read):
            step = self.by_name.get(e.tensor)
            index = tuple(self._inlined(i) for i in e.index)
            e = rebuild(e, index)
            if step is None or not self._seen_through(step):
                return e
            body = substitute(step.body, dict(zip(step.ranks, index, strict=True)))
            assert isinstance(e, Read)
            return self._inlined(masked(body, self.presence.bounds(e, body)))
        return rebuild(e, tuple(self._inlined(c) for c in children(e)))

    def _seen_through(self, step: Step) -> bool:
        if step.op is not None or step.iterative is not None or step.recurs is not None:
            return False
        if self.rank not in step.ranks:  # a function of results alone is a result
            return False
        if self.presence.hides(step.body):
            return False
        if any(self.depends_deeply(r.tensor) for r in reads(step.body)):
            return True
        return has_exponential_factor(step.body)

    def depends_deeply(self, name: str) -> bool:
        """Whether a tensor is a result, or pointwise in results.

        Steps are visited in the order of their dependences, so an answer once given stays right.
        """
        if self.depends(name):
            return True
        if name not in self.deep:
            step = self.by_name.get(name)
            self.deep[name] = False  # for what recurs
            if step is not None and step.op is None and step.recurs is None:
                self.deep[name] = any(self.depends_deeply(r.tensor) for r in reads(step.body))
        return self.deep[name]


def has_exponential_factor(e: Expr) -> bool:
    """Whether `e` is a product with an exponential in it: what an anchor may have to shift."""
    match e:
        case Map("exp" | "exp2"):
            return True
        case Map("*" | "/" | "neg" | "**", args):
            return any(has_exponential_factor(a) for a in args)
        case Where(body, _):
            return has_exponential_factor(body)
        case _:
            return False


def without_conditions(e: Expr) -> Expr:
    """The value alone: every `where` removed (its conjuncts are kept as the presence of the
    body).
    """
    if isinstance(e, Where):
        return without_conditions(e.body)
    if isinstance(e, Map) and e.op != "??":
        return rebuild(e, tuple(without_conditions(a) for a in e.args))
    return e


def masked(e: Expr, conditions: tuple[Expr, ...]) -> Expr:
    return Where(e, conjunction(conditions)) if conditions else e


def renamed(e: Expr, ranks: dict[str, str]) -> Expr:
    """`e` with ranks renamed, binders included."""
    return substitute(e, {old: Coordinate(new) for old, new in ranks.items()})


__all__ = [
    "Stream",
    "bound_ranks",
    "has_exponential_factor",
    "masked",
    "renamed",
    "without_conditions",
]
