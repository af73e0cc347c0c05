"""The results of a pass from its state: values of accumulators, guarded where no point is
present.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cascade.analysis.conditions import upper_bounds
from cascade.analysis.normalise import Step
from cascade.ir.cascade import Einsum, extent_symbol
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Where
from cascade.ir.ops import REDUCERS
from cascade.ir.printer import print_expr
from cascade.ir.walk import conjunction, free_ranks, substitute, transform
from cascade.transforms.fuse import MAX, Fused, Plan
from cascade.transforms.naming import Names
from cascade.transforms.normal_form import (
    Atom,
    Indicator,
    Opaque,
    Poly,
    Total,
    atom,
    atoms,
    every_atom,
    factored,
    normal_form,
    replace_atoms,
)
from cascade.transforms.ranges import Ranges
from cascade.transforms.spell import choices, to_expr
from cascade.transforms.state import guarded, kappa

Component = Callable[[str, tuple[Expr, ...]], Expr]  # the final value of a component at an index


class Results:
    """Writes the value of each rewritten reduction in terms of the final state.

    `component` reads a component of the state at an index of its own ranks. Statements made for
    guards are collected in `extra`.
    """

    def __init__(self, plan: Plan, names: Names, rewritten: set[str], component: Component):
        self.plan = plan
        self.names = names
        self.rewritten = rewritten
        self.component = component
        self.stream = plan.stream
        self.ranges = Ranges(plan.stream.by_name)
        self.guards: dict[tuple[Expr, ...], str] = {}
        self.extra: list[Einsum] = []

    def statement(self, step: Step) -> Einsum:
        """The statement of a rewritten reduction."""
        fused = self.plan.fused[step.target]
        if fused.terms:
            value = self._by_class(fused)
        else:
            value = self.spelled(self.with_results(fused.value, within=fused))
        if fused.summed:
            value = Reduce("sum", fused.summed, value)
        value = self._guarded_result(step, fused, value)
        body = guarded(value, tuple(self.resolved(c) for c in fused.outer))
        return Einsum(self.names.of(step.target), step.ranks, body)

    def _by_class(self, fused: Fused) -> Expr:
        """The terms of a value; one whose accumulators are 0 counts as 0, even times infinity."""
        result: Expr | None = None
        for value, test in fused.terms:
            term = self.spelled(self.with_results(value, within=fused))
            if test is not None:
                empty = Map("==", (self.spelled(test), Const(0)))
                term = Map("select", (empty, Const(0), term))
            result = term if result is None else Map("+", (result, term))
        return result if result is not None else Const(0)

    def resolved(self, e: Expr) -> Expr:
        """Reads of reductions taken out of statements, under their new names."""

        def rule(node: Expr) -> Expr | None:
            if isinstance(node, Read) and node.tensor in self.stream.by_name:
                return replace(node, tensor=self.names.of(node.tensor))
            return None

        return transform(e, rule)

    def with_results(self, p: Poly, every: bool = False, within: Fused | None = None) -> Poly:
        """Results that are a single term are written out: their exponentials cancel.

        Only where they have a point whenever the result `within` has one.
        """

        def rule(a: Atom) -> Poly | None:
            if not isinstance(a, Read) or a.tensor not in self.rewritten:
                return None
            fused = self.plan.fused[a.tensor]
            if fused.summed or fused.terms or (fused.value.single() is None and not every):
                return None
            if any(isinstance(b, Indicator) for b in atoms(fused.value)):  # 0 to no power but 1
                return None
            ranks = dict(zip(fused.step.ranks, a.index, strict=True))
            if within is not None and not self._has_points(fused, within, ranks):
                return None
            inner = self.with_results(fused.value, every, fused)
            if all(isinstance(i, Coordinate) and i.rank == r for r, i in ranks.items()):
                return inner
            return replace_atoms(inner, lambda b: _placed(b, ranks), self._positive)

        return replace_atoms(p, rule, self._positive)

    def _has_points(self, fused: Fused, within: Fused, ranks: dict[str, Expr]) -> bool:
        """Whether one result, read at `ranks`, needs no guard wherever another has a point."""
        if fused.step.op == "sum" and self._only_accumulators(fused):
            return True
        same = set(fused.step.bound) == set(within.step.bound)
        return same and {substitute(c, ranks) for c in fused.guard} <= set(within.guard)

    def present(self, p: Poly) -> list[Expr]:
        """Conditions under which the results that `with_results` writes out have points."""
        found: dict[Expr, None] = {}
        for a in every_atom(p):
            if isinstance(a, Read) and a.tensor in self.rewritten:
                fused = self.plan.fused[a.tensor]
                plain = fused.step.op == "sum" and self._only_accumulators(fused)
                if not plain and not fused.summed and not fused.terms:
                    there = self._nonempty(fused.step, fused)
                    places = dict(zip(fused.step.ranks, a.index, strict=True))
                    found[substitute(there, places)] = None
        return sorted(found, key=print_expr)  # atoms have no order

    def _positive(self, a: Atom) -> bool:
        if isinstance(a, Read) and a.tensor in self.plan.accumulators:
            acc = self.plan.accumulators[a.tensor]
            return acc.op == "sum" and self.ranges.poly_positive(acc.chi)
        return self.ranges.is_positive(a)

    def spelled(self, p: Poly) -> Expr:
        """A poly over accumulators as an expression over the final state."""
        return self._ended(choices(p, lambda q: to_expr(factored(q))))

    def _ended(self, e: Expr) -> Expr:
        def rule(node: Expr) -> Expr | None:
            if not isinstance(node, Read):
                return None
            name = node.tensor
            if name.endswith("#d"):
                places = dict(zip(self.plan.delta_ranks[name], node.index, strict=True))
                return self._ended(substitute(to_expr(self.plan.deltas[name]), places))
            if name.endswith("#k"):  # a result read elsewhere has the anchor of that place
                anchor, index = self.plan.anchors[name[:-2]], node.index
                if anchor.kind == MAX:
                    return self.component(anchor.name, index)
                places = dict(zip(anchor.ranks, index, strict=True))

                def component(n: str) -> Expr:
                    known = self.plan.accumulators.get(n)
                    ranks = anchor.ranks if known is None else known.ranks
                    return self.component(n, tuple(places[r] for r in ranks))

                return kappa(anchor, component)
            if name in self.plan.accumulators and name not in self.stream.by_name:
                return self.component(name, node.index)
            if name in self.stream.by_name:
                return replace(node, tensor=self.names.of(name))
            return None

        return transform(e, rule)

    def _guarded_result(self, step: Step, fused: Fused, value: Expr) -> Expr:
        """The reducer's identity where no point is present; no guard where that cannot give NaN."""
        assert step.op is not None
        if step.op == "sum" and self._only_accumulators(fused):
            return value
        there = self._nonempty(step, fused)
        return Map("select", (there, value, Const(REDUCERS[step.op].identity or 0)))

    def _only_accumulators(self, fused: Fused) -> bool:
        """Whether the value is a sum of accumulators with numbers: 0 where there is no point."""
        return all(
            isinstance(a, Read) and a.tensor in self.plan.accumulators for a in atoms(fused.value)
        )

    def _nonempty(self, step: Step, fused: Fused) -> Expr:
        extents = [Map(">", (extent_symbol(r), Const(0))) for r in step.bound]
        first: dict[str, Expr] = {r: Const(0) for r in step.bound}
        if all(_surely(substitute(c, first)) for c in fused.guard):
            return conjunction(tuple(extents))
        key = tuple(fused.guard)
        if key not in self.guards:
            name = self.names.fresh(f"H{self.names.stem(step.target)}")
            mentioned = {r for c in key for r in free_ranks(c)} - set(step.bound)
            ranks = tuple(r for r in step.ranks if r in mentioned)
            tails = {
                Map("<", (p.expression, extent_symbol(p.rank)))
                for p in self.stream.cascade.partitions
            }
            test = conjunction(tuple(self.resolved(c) for c in key if c not in tails))
            if any(c not in tails for c in self.stream.presence.passing(test, step.bound)):
                test = Where(Const(True), test)  # unknown is not there
            inside = guarded(test, tuple(c for c in key if c in tails))
            self.extra.append(Einsum(name, ranks, Reduce("any", step.bound, inside)))
            self.guards[key] = name
        name = self.guards[key]
        found = next(e for e in self.extra if e.tensor == name)
        return Read(name, tuple(Coordinate(r) for r in found.ranks))


def _placed(a: Atom, ranks: dict[str, Expr]) -> Poly | None:
    """An atom of a result at the place where that is read."""
    match a:
        case Opaque() | Total():  # their parts are atoms again
            return None
        case Indicator(condition):
            return atom(Indicator(substitute(condition, ranks)))
        case Coordinate():
            return normal_form(substitute(a, ranks))
        case _:
            return atom(substitute(a, ranks))


def _surely(condition: Expr) -> bool:
    """Whether a condition holds at every coordinate (which are never negative)."""
    forms = upper_bounds(condition)
    return bool(forms) and all(
        constant <= 0 and all(k <= 0 for k in coefficients.values())
        for coefficients, constant in forms
    )
