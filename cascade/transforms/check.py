"""Checks a derivation without the algebra that made it (docs/derivations.md).

What a plan claims is proved again from the cascade as written, with sympy or at random points in 40
digits. Obligations, each with a kind:

    source      the plan is about this cascade, and the result is what the plan says
    body        the right reduction, over the same ranks, of the same present points
    pass        nothing that is accumulated waits for a result of its own pass
    separation  body = sum of rho * chi, linear in the accumulators, after u = x - kappa
    extreme     a maximum or minimum goes through a monotone function (random points)
    anchor      a running maximum covers the points that it is subtracted from, with u <= 0 in exp
    transport   chi at any anchor a' from chi at any anchor a, by the merge that is used
    cocycle     no move is no change, and two moves are one
    identity    a state merged with the identity, on either side, is unchanged in IEEE arithmetic
    rank        the body has no more terms than claimed; a refused body has no end of them
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cascade.ir.cascade import Cascade, Einsum
from cascade.ir.expr import Const, Expr, Map, Reduce, Where
from cascade.ir.walk import children, conjuncts, free_ranks, rebuild
from cascade.transforms.check_body import Bodies
from cascade.transforms.check_state import States
from cascade.transforms.derive import Derivation
from cascade.transforms.emit import emit
from cascade.transforms.fuse import Plan, plan
from cascade.transforms.means import expand_means
from cascade.transforms.obligations import CheckReport, Obligation
from cascade.transforms.unfold import Unfolded

__all__ = ["CheckReport", "Obligation", "check"]


def check(derivation: Derivation) -> CheckReport:
    """Every obligation of a derivation, those that fail included."""
    found = list(_sources(derivation))
    for p in derivation.plans:
        unfolded = Unfolded(p)
        found += [*Bodies(unfolded).obligations(), *States(unfolded).of_anchors()]
    for s in derivation.states:
        found += States(Unfolded(s.plan)).of_state(s)
    known = {p.stream.rank for p in derivation.plans}
    for rank in dict.fromkeys(o.rank for o in derivation.obstacles if o.rank not in known):
        found += Bodies(Unfolded(plan(expand_means(derivation.source), rank))).of_refusals()
    return CheckReport(derivation.source.name, tuple(found))


# -- the cascades
def _sources(d: Derivation) -> Iterator[Obligation]:
    """Source, plans, states and result belong together."""
    current = d.source
    for n, p in enumerate(d.plans):
        same = _same_but_means(current, p)
        yield Obligation("source", f"what is streamed over {p.stream.rank} is the source", same)
        names = [name for name, f in p.fused.items() if f.laws]
        if n + 1 < len(d.plans):
            current = emit(p)
            continue
        ways = (set(names[:k]) for k in range(len(names), 0, -1))
        made = any(_emitted(p, way) == d.result.einsums for way in ways)
        yield Obligation("source", "the result is what the last plan says", made)
    for s in d.states:
        same = any(p is s.plan for p in d.plans)
        same &= all(s.plan.anchors.get(a.name) == a for a in s.anchors)
        same &= all(s.plan.accumulators.get(a.name) == a for a in s.accumulators)
        yield Obligation("source", f"the state of pass {s.number} is that of its plan", same)


def _same_but_means(written: Cascade, p: Plan) -> bool:
    """Whether what is streamed differs in means alone, which are sum / count where defined."""
    prepared = p.stream.cascade
    if len(written.einsums) != len(prepared.einsums):
        return False
    unfolded = Unfolded(p)
    return replace(prepared, einsums=written.einsums) == written and all(
        replace(b, body=a.body) == a and _matches(a.body, b.body, unfolded)
        for a, b in zip(written.einsums, prepared.einsums, strict=True)
    )


def _matches(a: Expr, b: Expr, unfolded: Unfolded) -> bool:
    match a, b:
        case Reduce("mean", ranks, x), Where(
            Map("/", (Reduce("sum", over, y), n)), Map(">", (m, Const(0)))
        ):
            if isinstance(n, Reduce):
                counted = (n.op, n.ranks) == ("count", ranks) and _points(n.body) is not None
                counted &= unfolded.points(_points(n.body) or ()) == {
                    c for c in unfolded.presence(y) if set(ranks) & set(free_ranks(c))
                }
            else:
                extents = [unfolded.cascade.rank[r].extent for r in ranks]
                counted = n == _product(extents) and not any(
                    set(ranks) & set(free_ranks(c)) for c in unfolded.presence(y)
                )
            return counted and ranks == over and m == n and _matches(x, y, unfolded)
    inner, other = children(a), children(b)
    if not inner or len(inner) != len(other):
        return a == b
    holes = tuple(Const(0) for _ in inner)
    return rebuild(a, holes) == rebuild(b, holes) and all(
        _matches(x, y, unfolded) for x, y in zip(inner, other, strict=True)
    )


def _points(e: Expr) -> tuple[Expr, ...] | None:
    """The conditions of `1 where ...`."""
    match e:
        case Where(Const(1), condition):
            return conjuncts(condition)
    return None


def _product(factors: list[Expr]) -> Expr:
    result = factors[0]
    for factor in factors[1:]:
        result = Map("*", (result, factor))
    return result


def _emitted(p: Plan, enabled: set[str]) -> tuple[Einsum, ...]:
    """The statements of a plan; none where it cannot be written out."""
    try:
        return emit(p, enabled).einsums
    except (AssertionError, KeyError):
        return ()
