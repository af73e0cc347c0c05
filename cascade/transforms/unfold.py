"""A plan spelled out for its checker: bodies with every pointwise statement inlined, their
presence, and the symbols of the plan as the expressions that they stand for.

Written a second time, apart from what the rewriter uses (`inline.py`, `presence.py`), on purpose.
"""

from __future__ import annotations

from cascade.analysis.normalise import Step, normalise
from cascade.ir.affine import always, divisible
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.ops import DECIDING, REDUCERS
from cascade.ir.printer import print_expr
from cascade.ir.walk import (
    children,
    conjunction,
    conjuncts,
    free_ranks,
    reads,
    rebuild,
    substitute,
    transform,
)
from cascade.transforms.fuse import Plan
from cascade.transforms.normal_form import Atom, Indicator, Monomial, Opaque, Poly, Total
from cascade.transforms.proofs import Prover
from cascade.transforms.state import count_name


class Unfolded:
    """What the reductions and the symbols of a plan mean, in the cascade that it rewrites."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.cascade = plan.stream.cascade
        self.rank = plan.stream.rank
        self.steps = {s.target: s for s in normalise(self.cascade)}
        self.recurring = {
            s.target for s in self.steps.values() if s.recurs is not None or s.iterative is not None
        }
        self.counts = {count_name(a) for a in plan.anchors.values()}
        self.prover = Prover(self.sign)

    # -- values
    def value(self, e: Expr) -> Expr:
        """`e` down to inputs and reductions, conditions dropped; the plan's symbols spelled out."""
        match e:
            case Where(body, _):
                return self.value(body)
            case Read(name, index):
                return self._read(name, tuple(self.inlined(i) for i in index))
            case Map("??", (x, otherwise)):
                here = self.presence(x)
                if any(_is_there(c) for c in here):
                    return self.inlined(e)
                known = conjunction(tuple(sorted(here, key=print_expr)))
                return self.value(Map("select", (known, x, otherwise)))
            case Map(_, args):
                return rebuild(e, tuple(self.value(a) for a in args))
            case _:
                return e

    def _read(self, name: str, index: tuple[Expr, ...]) -> Expr:
        if name.endswith("#u"):
            anchor = self.plan.anchors[name[:-2]]
            return self.value(Map("-", (anchor.value, anchor.kappa)))
        if name.endswith("#d"):
            return self.value(self.expression(self.plan.deltas[name]))
        step = self.steps.get(name)
        if step is None or not self._pointwise(step):
            return Read(name, index)
        return self.value(substitute(step.body, dict(zip(step.ranks, index, strict=True))))

    def _pointwise(self, step: Step) -> bool:
        return step.op is None and step.target not in self.recurring

    def inlined(self, e: Expr) -> Expr:
        """`e` with pointwise statements substituted, conditions kept."""
        e = rebuild(e, tuple(self.inlined(c) for c in children(e)))
        step = self.steps.get(e.tensor) if isinstance(e, Read) else None
        if isinstance(e, Read) and step is not None and self._pointwise(step):
            return self.inlined(substitute(step.body, dict(zip(step.ranks, e.index, strict=True))))
        return e

    def accumulated(self, e: Expr, guard: frozenset[Expr]) -> Expr:
        """`e` with chi in the place of every accumulator: what a point adds to it for which
        `guard` holds.
        """

        def rule(node: Expr) -> Expr | None:
            known = self.plan.accumulators.get(node.tensor) if isinstance(node, Read) else None
            if not isinstance(node, Read) or known is None or node.tensor in self.steps:
                return None
            chi = self.expression(known.chi)
            further = tuple(sorted(self.points(known.present) - guard, key=print_expr))
            if further:
                chi = Map("select", (conjunction(further), chi, Const(0)))
            return substitute(chi, dict(zip(known.ranks, node.index, strict=True)))

        return transform(e, rule)

    def spelled(self, e: Expr) -> Expr:
        """`e` with shifts and deltas written out, where a substitution can reach their ranks."""

        def rule(node: Expr) -> Expr | None:
            own = isinstance(node, Read) and node.tensor.endswith(("#u", "#d"))
            return self.value(node) if own else None

        return transform(e, rule)

    def unshifted(self, e: Expr) -> Expr:
        """`e` with x in the place of u = x - kappa."""

        def rule(node: Expr) -> Expr | None:
            if isinstance(node, Read) and node.tensor.endswith("#u"):
                return self.plan.anchors[node.tensor[:-2]].value
            return None

        return transform(e, rule)

    def expression(self, p: Poly) -> Expr:
        """A poly as the sum of products that it is."""
        total: Expr = Const(0)
        for monomial, c in p.terms:
            number = Map("/", (Const(c.numerator), Const(c.denominator)))
            total = Map("+", (total, Map("*", (number, self._product(monomial)))))
        return total

    def _product(self, m: Monomial) -> Expr:
        result: Expr = Const(1)
        for a, n in m.powers:
            power = Map("/", (Const(n.numerator), Const(n.denominator)))
            result = Map("*", (result, Map("**", (self._atom(a), power))))
        if m.exponent is not None:
            result = Map("*", (result, Map("exp", (self.expression(m.exponent),))))
        return result

    def _atom(self, a: Atom) -> Expr:
        match a:
            case Opaque(op, args):
                return Map(op, tuple(self.expression(p) for p in args))
            case Total(poly):
                return self.expression(poly)
            case Indicator(condition):
                return Map("select", (condition, Const(1), Const(0)))
            case _:
                return a

    # -- what is known of leaves
    def sign(self, leaf: Expr) -> dict[str, bool]:
        """Assumptions on a leaf: extents are positive, and so is a sum of what is positive."""
        match leaf:
            case Symbol(name) if name.lower() in self.cascade.rank:
                return {"positive": True, "integer": True}
            case Coordinate():
                return {"nonnegative": True, "integer": True}
            case Read(name, _):
                if name.partition("@")[0] in self.counts:
                    return {"positive": True}
                step = self.steps.get(name)
                if step is None or step.op not in ("sum", "max", "min", "mean"):
                    return {"positive": True} if step is not None and step.op == "count" else {}
                if name in self.recurring:
                    return {}
                body = self.prover.expanded(self.prover.symbolic(self.value(step.body)))
                return {"positive": True} if body.is_positive else {}
            case _:
                return {}

    def readiness(self, e: Expr) -> int:
        """The last pass over the streamed rank whose results `e` needs; 0 where it needs none."""
        latest = 0
        for r in reads(e):
            step = self.steps.get(r.tensor)
            if r.tensor in self.plan.passes and step is not None and self.rank in step.bound:
                latest = max(latest, self.plan.passes[r.tensor])
            elif step is not None and r.tensor not in self.recurring:
                latest = max(latest, self.readiness(step.body))
        return latest

    def waits(self, step: Step, e: Expr) -> bool:
        """Whether `e` needs a result of the pass of `step`, or a later one."""
        return self.readiness(self.value(self.unshifted(e))) >= self.plan.passes[step.target]

    # -- presence
    def points(self, conditions: tuple[Expr, ...]) -> frozenset[Expr]:
        asked = {p for c in conditions for p in _asked(self.inlined(c))}
        return frozenset(self._uncertain(asked))

    def presence(self, e: Expr) -> frozenset[Expr]:
        """The conjuncts that hold exactly where `e` is present, pointwise statements inlined."""
        return self.points(tuple(self._present(e)))

    def _present(self, e: Expr) -> set[Expr]:
        match e:
            case Where(body, condition):
                return self._present(body) | set(conjuncts(condition))
            case Read(name, index):
                found = {c for i in index for c in self._present(i)}
                if name not in self.steps and name not in self.cascade.tensors:
                    return found
                if name in self.recurring:
                    return {*found, *self._in_extents(e), _there(e)}
                return found | self._in_extents(e) | self._carried(e)
            case Map(op) if op in DECIDING:
                return self._decided(e)
            case Reduce(op, bound, body):
                if REDUCERS[op].identity is None:
                    return {_there(e)}
                return {c for c in self._present(body) if not set(bound) & set(free_ranks(c))}
            case Select():
                return {_there(e)}
            case _:
                return {c for child in children(e) for c in self._present(child)}

    def _decided(self, e: Map) -> set[Expr]:
        """Where an operation is present that may be so in several ways: one condition on all of
        their ranks, if they ask for the same.
        """
        ways = [self._present(a) for a in e.args]
        if not any(ways) or (e.op == "??" and not all(ways)):
            return set()
        if e.op == "select":
            choice, yes, no = ways
            ways = [choice | yes, choice | no]
        found, *others = ({p for c in way for p in _asked(c)} for way in ways)
        if any(other != found for other in others):
            return {_there(e)}
        ranks = {r for x in (*found, *e.args[: DECIDING[e.op]]) for r in free_ranks(x)}
        if all(set(free_ranks(c)) == ranks for c in found):
            return found
        one = conjunction(tuple(sorted(found, key=print_expr)))
        for r in sorted(ranks):
            one = Map("or", (one, Map("<", (Coordinate(r), Const(0)))))
        return {one}

    def _carried(self, e: Read) -> set[Expr]:
        """What the definition of a tensor passes on to its reader."""
        step = self.steps.get(e.tensor)
        if step is None:
            return set()
        if step.op is not None and (step.op not in REDUCERS or REDUCERS[step.op].identity is None):
            return {_there(e)}
        place = dict(zip(step.ranks, e.index, strict=True))
        own = self._present(step.body)
        return {substitute(c, place) for c in own if not set(step.bound) & set(free_ranks(c))}

    def _in_extents(self, e: Read) -> set[Expr]:
        """0 <= index < extent, but for what the ranks say already."""
        step = self.steps.get(e.tensor)
        ranks = step.ranks if step is not None else self.cascade.tensors[e.tensor].ranks
        wholes = {p.expression for p in self.cascade.partitions}
        found: set[Expr] = set()
        slot = step.iterative if step is not None else None
        for place, (rank, index) in enumerate(zip(ranks, e.index, strict=True)):
            extent = self.cascade.rank[rank].extent
            if place == slot:  # the first value, and one of each step
                extent = Map("+", (extent, Const(1)))
            match index:
                case Coordinate(r):
                    if self.cascade.rank[r].extent != extent:
                        found.add(Map("<", (index, extent)))
                    continue
                case Const(value) if isinstance(extent, Const) and 0 <= value < extent.value:
                    continue
            found.add(Map("<", (index, extent)))
            if index not in wholes and index != Const(0):
                found.add(Map("<=", (Const(0), index)))
        return self._uncertain(found)

    def _uncertain(self, conditions: set[Expr]) -> set[Expr]:
        """Conditions that do not hold at every point."""
        extents = {r.name: r.extent for r in self.cascade.ranks}
        divides = divisible(self.cascade)

        return {c for c in conditions if not always(c, extents.__getitem__, divides)}


def _asked(condition: Expr) -> tuple[Expr, ...]:
    """The conjuncts of a condition, without `or p < 0`, which only mentions a rank."""
    match condition:
        case Map("or", (rest, Map("<", (Coordinate(), Const(0))))):
            return _asked(rest)
    return conjuncts(condition)


def _is_there(condition: Expr) -> bool:
    return (
        isinstance(condition, Map)
        and condition.op == "or"
        and condition
        == _there(condition.args[0].args[0] if isinstance(condition.args[0], Map) else condition)
    )


def _there(e: Expr) -> Expr:
    return Map("or", (Map("==", (e, e)), Map("!=", (e, e))))
