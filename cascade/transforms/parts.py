"""The state of a pass as an object: `init`, `lift`, `merge`, `transport`, `finalise`, each a small
cascade.

    init       the identity, one value for each component
    lift       points start .. stop-1 of the streamed rank -> a state
    merge      two states (`…_a`, `…_b`) -> a state; associative, commutative, identity `init`
    transport  the accumulators of a state (`…_a`) at other anchors (`…_b`)
    finalise   a state -> the outputs of the cascade

A loop, a tree (split-K, of equal or unequal splits), a prefix scan and a combine across devices are
uses of the same `merge`; `cascade.backends.streaming` shows all four.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cascade.analysis.normalise import Step
from cascade.diagnostics import fail
from cascade.ir.cascade import Cascade, Einsum, Param, Rank, Tensor, extent_symbol, in_file_order
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Symbol
from cascade.ir.ops import REDUCERS
from cascade.ir.walk import reads, substitute, symbols, transform, walk
from cascade.transforms.derive import Derivation
from cascade.transforms.emit import final_statements
from cascade.transforms.fuse import Accumulator, Anchor, Fused, Plan
from cascade.transforms.naming import Names
from cascade.transforms.state import (
    Component,
    State,
    combine,
    component_names,
    guarded,
    kappa,
    lift_anchor,
    merged,
    moved,
    shifted,
)

START, STOP = "start", "stop"


@dataclass(frozen=True)
class Parts:
    """The cascades of one state. `components` are the tensors that make up the state."""

    rank: str
    components: tuple[Component, ...]
    init: Cascade
    lift: Cascade
    merge: Cascade
    transport: Cascade
    finalise: Cascade


def parts_of(derivation: Derivation, which: int | None = None) -> Parts:
    """The parts of a state of a derivation: of `states[which]`, or of the only one.

    Where a rank after another was streamed, the parts of each are of the cascade that its plan
    began with, `states[which].plan.stream.cascade`. Raises `CascadeError` where there is not one
    state, or a reduction has no merge.
    """
    states = derivation.states
    if which is None and len(states) != 1:
        raise fail(
            "no-state",
            f"`{derivation.source.name}` has no single state: "
            f"{len(states)} streamed passes were derived",
        )
    state = states[which or 0]
    return _Parts(state.plan, state).parts()


class _Parts:
    def __init__(self, plan: Plan, state: State):
        self.plan = plan
        self.state = state
        self.source = plan.stream.cascade
        self.rank = plan.stream.rank
        self.names = Names(plan)
        self.final, self.presence = final_statements(plan, state, self.names)
        running = {a.result for a in state.anchors}
        self.plain = tuple(
            f
            for name, f in plan.fused.items()
            if plan.passes[name] == state.number and not f.laws and name not in running
        )
        for f in self.plain:
            op = f.step.op or ""
            if op not in REDUCERS or REDUCERS[op].identity is None:
                raise fail("no-state", f"`{f.step.label()}` has no merge in this form")

    def parts(self) -> Parts:
        return Parts(
            self.rank,
            self._components(),
            self._init(),
            self._lift(),
            self._merge(),
            self._transport(),
            self._finalise(),
        )

    def _components(self) -> tuple[Component, ...]:
        found = [replace(c, name=self.names.of(c.name)) for c in self.state.components]
        found += [Component(e.tensor, e.ranks, "any") for e in self.presence]
        found += [
            Component(self.names.of(f.step.target), f.step.ranks, f.step.op or "")
            for f in self.plain
        ]
        return tuple(found)

    def _cascade(
        self,
        suffix: str,
        inputs: list[Tensor],
        einsums: list[Einsum],
        outputs: list[str],
        params: tuple[Param, ...] = (),
        extra: tuple[Rank, ...] = (),
    ) -> Cascade:
        """A cascade over the ranks that it mentions; extents come from inputs or are given."""
        used = {r for t in inputs for r in t.ranks} | {r for e in einsums for r in e.ranks}
        for e in einsums:
            for node in walk(e.body):
                if isinstance(node, Coordinate):
                    used.add(node.rank)
                elif isinstance(node, Reduce):
                    used |= set(node.ranks)
                elif isinstance(node, Symbol):
                    used.add(node.name.lower())
        needed = {START, STOP} | {s for e in einsums for s in symbols(e.body)}
        for p in reversed(params):  # a default may use a param before it
            if p.name in needed and p.value is not None:
                needed |= symbols(p.value)
        kept = tuple(p for p in self.source.partitions if set(p.parts) <= used)
        loose = {r for p in self.source.partitions if p not in kept for r in p.parts}
        for r in self.source.ranks:
            if r.name in used:
                needed |= symbols(r.extent)
        used |= {name.lower() for name in needed}
        carried = {r for t in inputs for r in t.ranks}
        ranks = []
        for r in self.source.ranks:
            if r.name in used:
                free = r.extent == extent_symbol(r.name) and r.name not in carried
                ranks.append(replace(r, declared=r.declared or free or r.name in loose))
        ranks += [Rank(r, e, True) for r, e in self.plan.classes.items() if r in used]
        return Cascade(
            f"{self.source.name}_{suffix}",
            in_file_order([*ranks, *extra], tuple(inputs), kept),
            tuple(inputs),
            tuple(einsums),
            tuple(outputs),
            tuple(p for p in params if p.name in needed),
            kept,
            types=tuple(t for t in self.source.types if t.tensor in outputs),
        )

    def _init(self) -> Cascade:
        einsums = [Einsum(c.name, c.ranks, c.identity) for c in self._components()]
        names = [c.name for c in self._components()]
        return self._cascade("init", [], einsums, names, self.source.params)

    # -- lift
    def _lift(self) -> Cascade:
        tile = self.names.fresh(f"{self.rank}_t")
        point = Map("+", (Symbol(START), Coordinate(tile)))
        inside = Map("<", (point, Symbol(STOP)))

        def over(op: str, body: Expr, bound: tuple[str, ...], present: tuple[Expr, ...]) -> Expr:
            inner = tuple(tile if r == self.rank else r for r in bound)
            conditions = tuple(substitute(c, {self.rank: point}) for c in present)
            value = substitute(body, {self.rank: point})
            return Reduce(op, inner, guarded(value, (*conditions, inside)))

        einsums: list[Einsum] = []
        value = self._reader("")
        for anchor in self.state.anchors:
            bound = self._bound_of(anchor)
            for c in self.state.components:
                if c.name in component_names(anchor):
                    lifted = lift_anchor(anchor, c, bound)
                    assert isinstance(lifted, Reduce)
                    body = over(lifted.op, anchor.value, bound, anchor.present)
                    einsums.append(Einsum(self.names.of(c.name), c.ranks, self._resolved(body)))
        anchors = {a.name: a for a in self.state.anchors}
        shifts = {a.name: kappa(a, value) for a in self.state.anchors}
        for acc in self.state.accumulators:
            body = shifted(acc, anchors, lambda n: shifts[n])
            lifted = over(acc.op, body, acc.bound, acc.present)
            einsums.append(Einsum(self.names.of(acc.name), acc.ranks, self._resolved(lifted)))
        for f in self.plain:
            lifted = over(f.step.op or "", self._plain_body(f), f.step.bound, ())
            einsums.append(
                Einsum(self.names.of(f.step.target), f.step.ranks, self._resolved(lifted))
            )
        for e in self.presence:
            assert isinstance(e.body, Reduce)
            einsums.append(Einsum(e.tensor, e.ranks, over("any", e.body.body, e.body.ranks, ())))
        statements, inputs = self._producers(einsums)
        params = (*self.source.params, Param(START, Const(0)), Param(STOP))
        extra = (Rank(tile, extent_symbol(tile), True),)
        outputs = [c.name for c in self._components()]
        return self._cascade("lift", inputs, [*statements, *einsums], outputs, params, extra)

    def _plain_body(self, f: Fused) -> Expr:
        return f.step.body

    def _bound_of(self, anchor: Anchor) -> tuple[str, ...]:
        if anchor.result is not None:
            return self.plan.stream.by_name[anchor.result].bound
        users: list[Accumulator] = [
            a for a in self.state.accumulators if any(n == anchor.name for n, _, _ in a.powers)
        ]
        return users[0].bound if users else (self.rank,)

    def _producers(self, einsums: list[Einsum]) -> tuple[list[Einsum], list[Tensor]]:
        """The statements of the source that the tile reads, and the inputs they need."""
        made = {e.tensor for e in einsums}
        wanted: dict[str, None] = {}
        stack = [r.tensor for e in einsums for r in reads(e.body)]
        inputs = {t.name: t for t in self.source.inputs}
        steps = {self.names.of(s.target): s for s in self.plan.stream.steps}
        statements: dict[str, Einsum] = {}
        while stack:
            name = stack.pop()
            if name in made or name in wanted:
                continue
            wanted[name] = None
            step = steps.get(name)
            if step is not None and name not in inputs:
                e = self._statement(step)
                statements[name] = e
                stack.extend(r.tensor for r in reads(e.body))
        ordered = [
            statements[self.names.of(s.target)]
            for s in self.plan.stream.steps
            if self.names.of(s.target) in statements
        ]
        return ordered, [t for t in self.source.inputs if t.name in wanted]

    def _statement(self, step: Step) -> Einsum:
        body = step.body if step.op is None else Reduce(step.op, step.bound, step.body)
        return Einsum(self.names.of(step.target), step.ranks, self._resolved(body))

    def _resolved(self, e: Expr) -> Expr:
        def rule(node: Expr) -> Expr | None:
            if isinstance(node, Read) and node.tensor in self.plan.stream.by_name:
                return replace(node, tensor=self.names.of(node.tensor))
            return None

        return transform(e, rule)

    # -- merge and transport
    def _reader(self, suffix: str) -> Callable[[str], Expr]:
        ranks = {c.name: c.ranks for c in self.state.components}
        ranks |= {f.step.target: f.step.ranks for f in self.plain}

        def value(name: str) -> Expr:
            return Read(self.names.of(name) + suffix, tuple(Coordinate(r) for r in ranks[name]))

        return value

    def _merge(self) -> Cascade:
        a, b, ab = self._reader("_a"), self._reader("_b"), self._reader("")
        inputs = [Tensor(c.name + s, c.ranks) for s in ("_a", "_b") for c in self._components()]
        einsums = []
        for c in self.state.components:
            body = merged(c, self.state, a, b, ab)
            einsums.append(Einsum(self.names.of(c.name), c.ranks, body))
        for e in self.presence:
            place = tuple(Coordinate(r) for r in e.ranks)
            sides = [Read(e.tensor + suffix, place) for suffix in ("_a", "_b")]
            einsums.append(Einsum(e.tensor, e.ranks, combine("any", sides[0], sides[1])))
        for f in self.plain:
            name = f.step.target
            body = combine(f.step.op or "", a(name), b(name))
            einsums.append(Einsum(self.names.of(name), f.step.ranks, body))
        names = [c.name for c in self._components()]
        return self._cascade("merge", inputs, einsums, names, self.source.params)

    def _transport(self) -> Cascade:
        a, b = self._reader("_a"), self._reader("_b")
        anchored = {n for x in self.state.anchors for n in x.weights or component_names(x)}
        inputs = [Tensor(self.names.of(c.name) + "_a", c.ranks) for c in self.state.components]
        inputs += [
            Tensor(self.names.of(c.name) + "_b", c.ranks)
            for c in self.state.components
            if c.name in anchored
        ]
        einsums = []
        for acc in self.state.accumulators:
            body = moved(acc, self.state, a, b) if acc.powers else a(acc.name)
            einsums.append(Einsum(self.names.of(acc.name), acc.ranks, body))
        used = {r.tensor for e in einsums for r in reads(e.body)}
        kept = [t for t in inputs if t.name in used]
        names = [e.tensor for e in einsums]
        return self._cascade("transport", kept, einsums, names, self.source.params)

    # -- finalise
    def _finalise(self) -> Cascade:
        einsums = self.final
        defined = {e.tensor for e in einsums}
        components = [Tensor(c.name, c.ranks) for c in self._components() if c.name not in defined]
        read = {r.tensor for e in einsums for r in reads(e.body)}
        inputs = [t for t in self.source.inputs if t.name in read]
        inputs += [t for t in components if t.name in read or t.name in self.source.outputs]
        return self._cascade(
            "finalise", inputs, einsums, list(self.source.outputs), self.source.params
        )
