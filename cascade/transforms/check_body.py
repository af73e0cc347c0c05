"""Each reduction of a plan against its body as written: points, separation, order, rank."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import mpmath
import sympy as sp

from cascade.analysis.normalise import Step
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read
from cascade.ir.printer import print_expr
from cascade.ir.walk import conjunction, free_ranks, reads, substitute, transform, walk
from cascade.transforms.fuse import Accumulator, Barrier, Fused
from cascade.transforms.obligations import FINITE, Obligation, difference, equal
from cascade.transforms.proofs import DIGITS, PRECISE, Leaf, conditions_of
from cascade.transforms.unfold import Unfolded

SMALL, LARGE = 9, 16  # samples of a rank; that of a refused body grows between them
TRIALS = 24


class Bodies:
    """The obligations of the reductions of one plan."""

    def __init__(self, unfolded: Unfolded):
        self.unfolded = unfolded
        self.plan = unfolded.plan
        self.prover = unfolded.prover

    def obligations(self) -> list[Obligation]:
        found = [o for name, f in self.plan.fused.items() for o in self._fused(name, f)]
        return found + self.of_refusals()

    def of_refusals(self) -> list[Obligation]:
        return [self._refusal(b) for b in self.plan.barriers]

    # -- one reduction
    def _fused(self, name: str, f: Fused) -> Iterator[Obligation]:
        step = self.unfolded.steps.get(name)
        if step is None or step != f.step:
            yield Obligation("body", f"{f.step.label()} is a reduction of the source", False)
            return
        value = self.unfolded.expression(f.value)
        accumulators = [self.plan.accumulators.get(n) for n in f.accumulators]
        known = [a for a in accumulators if a is not None]
        classes = self._classes(f, known)
        yield self._present(step, f, classes)
        for a in known:
            yield self._accumulator(step, f, a)
        if not known:
            own = Read(name, tuple(Coordinate(r) for r in step.ranks))
            yield equal(self.prover, "separation", f"{name} is accumulated as it is", value, own)
            ready = not self.unfolded.waits(step, step.body)
            yield Obligation("body", f"{step.label()} reads no result of its own pass", ready)
        elif step.op in ("sum", "count"):
            yield self._linear(step, value, known)
            yield from self._separation(step, f, value, classes)
            if not f.summed:
                yield self._rank_of(step, f, len(known))
        else:
            yield self._extreme(step, value, known)

    def _classes(self, f: Fused, accumulators: list[Accumulator]) -> dict[str, Expr]:
        """For each rank of a class split, the streamed index that it stands for."""
        found: dict[str, Expr] = {}
        for a in accumulators:
            chi = self.unfolded.expression(a.chi)
            for node in (n for e in (chi, *a.present) for n in walk(e)):
                match node:
                    case Map("==", (index, Coordinate(rank))) if rank in f.summed:
                        found[rank] = self.unfolded.inlined(index)
        return found

    def _present(self, step: Step, f: Fused, classes: dict[str, Expr]) -> Obligation:
        said: set[Expr] = set()  # by the indicator of a class
        for rank, index in classes.items():
            extent = self.plan.classes.get(rank)
            extent = self.unfolded.cascade.rank[rank].extent if extent is None else extent
            said |= {Map("<=", (Const(0), index)), Map("<", (index, extent))}
        wanted = self.unfolded.presence(step.body) - said
        given = self.unfolded.points((*f.guard, *f.outer)) - said
        late = any(set(step.bound) & set(free_ranks(c)) for c in f.outer)
        detail = difference(wanted, given)
        what = f"{step.label()} is of the points of its body"
        return Obligation("body", what, not detail and not late, detail=detail)

    def _accumulator(self, step: Step, f: Fused, a: Accumulator) -> Obligation:
        """The accumulator's operator, ranks and points, and that it can be made in this pass."""
        chi = self.unfolded.expression(a.chi)
        own = self.unfolded.points(f.guard)  # further conditions of its own are part of chi
        detail = difference(own, self.unfolded.points(a.present) & own)
        if set(a.bound) != set(step.bound) or set(free_ranks(chi)) - {*a.bound, *a.ranks}:
            detail = f"it is reduced over {','.join(a.bound)}, not over {','.join(step.bound)}"
        alike = ({"max", "min"}, {"sum", "count"})
        if a.op != step.op and {a.op, step.op} not in alike:
            detail = f"it is a {a.op}, not a {step.op}"
        if any(self.unfolded.waits(step, x) for x in (chi, *a.present)):
            detail = "it reads a result of its own pass"
        what = f"{a.name} accumulates the points of {step.label()}"
        return Obligation("body", what, not detail, detail=detail)

    # -- sums
    def _linear(self, step: Step, value: Expr, accumulators: list[Accumulator]) -> Obligation:
        """What the value is of the accumulators, and that rho is free of the streamed ranks."""
        names = {a.name for a in accumulators}
        inner = self.unfolded.value(value)
        leaves = {r for r in reads(inner) if r.tensor in names}
        symbols = {self.prover.symbol(r) for r in leaves}
        found = self.prover.symbolic(inner)
        slopes = [sp.expand(sp.diff(found, s)) for s in symbols]
        ok = all(not slope.free_symbols & symbols for slope in slopes)
        ok &= sp.expand(found.subs(dict.fromkeys(symbols, 0))) == 0
        ok &= not leaves & conditions_of(inner) and not set(step.bound) & set(free_ranks(inner))
        ok &= self.unfolded.readiness(inner) <= self.plan.passes[step.target]
        return Obligation("separation", f"{step.label()} is linear in its accumulators", ok)

    def _body(self, step: Step, f: Fused) -> Expr:
        """The body as written, at points where its conditions hold: `g` is what equals `g`."""
        equal_to: dict[Expr, Expr] = {}
        for condition in f.guard:
            match self.unfolded.inlined(condition):
                case Map("==", (index, Coordinate() as rank)):
                    equal_to[index] = rank
        if step.op == "count":  # a sum of ones
            return Const(1)
        body = transform(self.unfolded.inlined(step.body), equal_to.get)
        return self.unfolded.value(body)

    def _separation(
        self, step: Step, f: Fused, value: Expr, classes: dict[str, Expr]
    ) -> Iterator[Obligation]:
        points = self.unfolded.points(f.guard)
        point = self.unfolded.spelled(self.unfolded.accumulated(value, points))
        body = self._body(step, f)
        here = self.unfolded.value(substitute(point, classes))
        what = f"{step.label()}: {print_expr(step.body)} = sum of rho * chi"
        yield equal(self.prover, "separation", what, body, here)
        if classes:

            def elsewhere(e: Expr) -> Expr | None:
                match e:
                    case Map("==", (_, Coordinate(rank))) if rank in classes:
                        return Const(False)
                return None

            nothing = self.unfolded.value(transform(point, elsewhere))
            yield equal(self.prover, "separation", f"{step.label()}: one class", nothing, Const(0))

    def _rank_of(self, step: Step, f: Fused, terms: int) -> Obligation:
        body = self._body(step, f)
        own = self.plan.passes[step.target]
        late = {r.tensor for r in reads(body) if self.unfolded.readiness(r) >= own}
        rank = self._sampled(step, body, late, max(SMALL, terms + 2))
        what = f"{step.label()} has rank {terms} at most"
        ok = rank is None or rank <= terms
        return Obligation("rank", what, ok, "numeric", f"sampled rank {rank}")

    def _sampled(self, step: Step, body: Expr, results: set[str], n: int) -> int | None:
        bound = set(step.bound)
        try:
            return self.prover.rank(
                body,
                lambda e: any(r.tensor in results for r in reads(e)),
                lambda e: bool(bound & set(free_ranks(e))),
                n,
            )
        except (ArithmeticError, TypeError, ValueError):
            return None  # outside the domain of a function

    def _refusal(self, b: Barrier) -> Obligation:
        results = set(b.results)
        body = self.unfolded.value(b.step.body)
        late = sorted(
            (
                c
                for c in map(self.unfolded.value, self.unfolded.presence(b.step.body))
                if any(r.tensor in results for r in reads(c))
            ),
            key=print_expr,
        )
        if late:
            body = Map("select", (conjunction(tuple(late)), body, Const(0)))
        small, large = (self._sampled(b.step, body, results, n) for n in (SMALL, LARGE))
        what = f"{b.step.label()} is refused: {b.refusal}"
        if small is not None and large is not None and large <= small:
            return Obligation("rank", what, True, "numeric", f"{FINITE}: sampled rank {large}")
        return Obligation("rank", what, True, "numeric", f"sampled rank {small}, then {large}")

    # -- maxima and minima
    def _extreme(self, step: Step, value: Expr, accumulators: list[Accumulator]) -> Obligation:
        """op over points of the body = value of (op over points of chi)."""
        (a,) = accumulators
        body = self.unfolded.value(step.body)
        inner = self.unfolded.value(value)
        chi = self.unfolded.value(self.unfolded.expression(a.chi))
        fold: dict[str, Any] = {"max": max, "min": min}
        compared = conditions_of(body, inner)
        worst = mpmath.mpf(0)
        with mpmath.workdps(DIGITS):
            for seed in range(TRIALS):
                fixed = self.prover.sample(random.Random(seed), compared)
                points = [self.prover.sample(random.Random(f"{seed}.{n}"), compared) for n in "abc"]

                try:
                    whole = fold[step.op or ""](self._along(step, body, fixed, points))
                    part = fold[a.op](self._along(step, chi, fixed, points))
                    made = PRECISE.value(inner, _with(a.name, part, fixed))
                except (ArithmeticError, TypeError, ValueError):
                    continue
                worst = max(worst, abs(whole - made) / max(1, abs(whole)))
        ok = worst < mpmath.mpf(10) ** (10 - DIGITS)
        detail = f"largest relative difference {mpmath.nstr(worst, 3)}"
        return Obligation("extreme", f"{step.label()} is monotone", ok, "numeric", detail)

    def _along(self, step: Step, e: Expr, fixed: Leaf, points: list[Leaf]) -> list[Any]:
        """The values of `e` at streamed points."""
        bound = set(step.bound)

        def at(moving: Leaf) -> Leaf:
            return lambda x: moving(x) if bound & set(free_ranks(x)) else fixed(x)

        return [PRECISE.value(e, at(moving)) for moving in points]


def _with(name: str, value: Any, otherwise: Leaf) -> Leaf:
    """Leaves with a value for one tensor."""
    return lambda e: value if isinstance(e, Read) and e.tensor == name else otherwise(e)
