"""A plan written back as a cascade: the loop form, in which running values step from tile to tile.

Reductions that need no anchor become plain reductions of their accumulators; anchored ones become
iterative tensors over the tiles of the streamed rank. What nothing reads any more is dropped.
"""

from __future__ import annotations

from dataclasses import replace

from cascade.analysis.conditions import upper_bounds
from cascade.analysis.normalise import Step
from cascade.ir.cascade import Cascade, Einsum, Param, Partition, Rank, extent_symbol
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Symbol, Where
from cascade.ir.ops import MAPS, REDUCERS
from cascade.ir.walk import (
    conjunction,
    conjuncts,
    free_ranks,
    reads,
    substitute,
    symbols,
    transform,
    walk,
)
from cascade.transforms.fuse import MAX, Accumulator, Anchor, Fused, Plan
from cascade.transforms.inline import without_conditions
from cascade.transforms.normal_form import Atom, Poly, atom, atoms, normal_form, replace_atoms
from cascade.transforms.ranges import Ranges
from cascade.transforms.spell import to_expr
from cascade.transforms.state import (
    Component,
    State,
    combine,
    decayed,
    guarded,
    kappa,
    lift_anchor,
    moved,
    shifted,
)

TILE = 128  # the default extent of a new tile rank


def emit(plan: Plan, enabled: set[str] | None = None) -> Cascade:
    """The cascade in which the reductions `enabled` (all by default) are rewritten."""
    return _Emission(plan, enabled).cascade()


def state_of(plan: Plan, number: int, enabled: set[str] | None = None) -> State:
    """The state of one pass: its anchors, and every accumulator of its reductions."""
    chosen = [
        f
        for name, f in plan.fused.items()
        if plan.passes[name] == number and (enabled is None or name in enabled)
    ]
    names: dict[str, None] = {}
    for f in chosen:
        names.update(dict.fromkeys(f.accumulators))
    accumulators = {n: plan.accumulators[n] for n in names if n in plan.accumulators}
    for known in plan.accumulators.values():  # lower degrees, which transports need
        family = [a for a in accumulators.values() if a.present == known.present]
        if any({p[0] for p in known.powers} <= {p[0] for p in a.powers} and a.powers for a in family):
            if known.powers or any(d for a in family for _, d, _ in a.powers):
                accumulators.setdefault(known.name, known)
    used = {name for a in accumulators.values() for name, _, _ in a.powers}
    used |= {
        r.tensor[:-2]
        for f in chosen
        for a in atoms(f.value)
        for r in _kappas(a, plan)
    }
    anchors = tuple(a for a in plan.anchors.values() if a.name in used)
    return State(plan, number, anchors, tuple(accumulators.values()))


def _kappas(a: Atom, plan: Plan) -> list[Read]:
    """The anchors whose value an atom reads, directly or inside a delta."""
    if not isinstance(a, Read):
        return []
    if a.tensor.endswith("#k"):
        return [a]
    if a.tensor.endswith("#d"):
        return [r for b in atoms(plan.deltas[a.tensor]) for r in _kappas(b, plan)]
    return []


class _Emission:
    def __init__(self, plan: Plan, enabled: set[str] | None):
        self.plan = plan
        self.stream = plan.stream
        self.source = plan.stream.cascade
        self.enabled = set(plan.fused) if enabled is None else enabled
        self.rewritten = {n for n in self.enabled if plan.fused[n].laws}
        self.ranges = Ranges(self.stream.by_name)
        taken = {t for t in self.source.tensors} | {r.name for r in self.source.ranks}
        self.names: dict[str, str] = {}
        self.taken = taken | {p.name for p in self.source.params} | {r.upper() for r in taken}
        self.einsums: list[Einsum] = []
        self.new_ranks: dict[str, Rank] = {}
        self.new_params: list[Param] = []
        self.new_partitions: list[Partition] = []
        self.guards: dict[tuple[Expr, ...], str] = {}
        self.states = {
            n: state_of(plan, n, self.rewritten)
            for n in sorted({plan.passes[name] for name in self.rewritten})
        }
        self.transported = {n for s in self.states.values() for n in s.transported}
        self.running = {
            a.result for s in self.states.values() for a in s.anchors if a.result is not None
        }
        self._name_tile()

    # -- names
    def _legal(self, name: str) -> str:
        """A name of the language for a tensor of the plan."""
        if name not in self.names:
            step = self.stream.by_name.get(name)
            stem = name
            if step is not None and not step.named:
                stem = f"{step.einsum.tensor}_{step.op}"
            self.names[name] = stem if step is not None and step.named else self._fresh(stem)
        return self.names[name]

    def _fresh(self, stem: str) -> str:
        name, n = stem, 2
        while name in self.taken or name.upper() in self.taken and name != name.upper():
            name, n = f"{stem}_{n}", n + 1
        self.taken.add(name)
        return name

    def _name_tile(self) -> None:
        """The rank that iterates, and where a tile's points are."""
        rank = self.stream.rank
        self.step_rank = rank
        self.tile: tuple[str, ...] = ()
        self.point: Expr = Coordinate(rank)
        self.partition: Partition | None = None
        if not any(s.anchors for s in self.states.values()):
            return
        if any(rank in p.parts for p in self.source.partitions):
            return
        known = next((p for p in self.source.partitions if p.rank == rank), None)
        if known is None:
            outer, inner = self._fresh(f"{rank}1"), self._fresh(f"{rank}0")
            stride = Symbol(inner.upper())
            expression = Map("+", (Map("*", (Coordinate(outer), stride)), Coordinate(inner)))
            known = Partition(rank, (outer, inner), expression)
            self.new_partitions.append(known)
            self.new_params.append(Param(inner.upper(), Const(TILE)))
            whole = self.source.rank[rank].extent
            top = Map("-", (Map("+", (whole, stride)), Const(1)))
            self.new_ranks[outer] = Rank(outer, Map("//", (top, stride)))
            self.new_ranks[inner] = Rank(inner, stride)
        self.partition = known
        self.step_rank, self.tile = known.parts[0], known.parts[1:]
        self.point = known.expression

    # -- the cascade
    def cascade(self) -> Cascade:
        started: set[int] = set()
        for step in self.stream.steps:
            name = step.target
            if name in self.rewritten or name in self.running:
                number = self.plan.passes[name]
                if number not in started:
                    started.add(number)
                    self._state(self.states[number])
                self._result(step)
            else:
                self._keep(step)
        return self._finished()

    def _finished(self) -> Cascade:
        kept = _reachable(self.einsums, self.source.outputs)
        kept = _reinlined(kept, self.source)
        ranks = list(self.source.ranks)
        ranks += [Rank(r, e, True) for r, e in self.plan.classes.items() if _mentions(kept, r)]
        ranks += [r for r in self.new_ranks.values() if r.name not in {x.name for x in ranks}]
        partitions = self.source.partitions + tuple(self.new_partitions)
        partitions = tuple(p for p in partitions if any(_mentions(kept, r) for r in p.parts))
        if not self.new_partitions or not any(p in partitions for p in self.new_partitions):
            ranks = [r for r in ranks if r.name not in self.new_ranks]
            self.new_params = []
        gone = {r for p in self.source.partitions if p not in partitions for r in p.parts}
        ranks = [r for r in ranks if r.name not in gone or _mentions(kept, r.name)]
        return replace(
            self.source,
            ranks=_in_file_order(ranks, self.source, partitions),
            einsums=tuple(kept),
            params=self.source.params + tuple(self.new_params),
            partitions=partitions,
            warnings=(),
        )

    def _add(self, name: str, ranks: tuple[str, ...], body: Expr) -> None:
        self.einsums.append(Einsum(name, ranks, body))

    # -- statements that stay
    def _keep(self, step: Step) -> None:
        e = step.einsum
        if step.named and not self._touched(step) and not self._overflows(step):
            self.einsums.append(e)
            return
        body = step.body
        if step.op is not None:
            body = self._reduction(step)
        elif step.recurs is None and step.iterative is None and self._overflows(step):
            body = self._substituted(step)
        body = self._resolved(body)
        if step.named:
            self.einsums.append(
                Einsum(e.tensor, e.ranks, body, e.step, e.init, e.span)
            )
        else:
            self.einsums.append(Einsum(self._legal(step.target), step.ranks, body, span=e.span))

    def _touched(self, step: Step) -> bool:
        """Whether a reduction nested in the statement is rewritten."""
        for r in reads(step.body):
            inner = self.stream.by_name.get(r.tensor)
            if inner is not None and not inner.named:
                if inner.target in self.rewritten | self.running or self._touched(inner):
                    return True
        return False

    def _reduction(self, step: Step) -> Expr:
        from cascade.ir.expr import Select
        from cascade.ir.ops import SELECTIONS

        assert step.op is not None
        if step.op in SELECTIONS:
            node = next(
                n for n in walk(step.einsum.body) if isinstance(n, Select) and n.op == step.op
            )
            return Select(step.op, node.rank, node.target, step.body)
        return Reduce(step.op, step.bound, step.body)

    def _resolved(self, e: Expr) -> Expr:
        """Reads of unnamed steps and of rewritten results under their new names."""

        def rule(node: Expr) -> Expr | None:
            if isinstance(node, Read) and node.tensor in self.stream.by_name:
                return replace(node, tensor=self._legal(node.tensor))
            return None

        return transform(e, rule)

    def _overflows(self, step: Step) -> bool:
        """Whether a pointwise statement reads a result with the exponential of a fresh anchor in it."""
        return any(
            r.tensor in self.rewritten and self._has_kappa(self.plan.fused[r.tensor].value)
            for r in reads(step.body)
        )

    def _has_kappa(self, p: Poly) -> bool:
        return any(
            isinstance(a, Read) and a.tensor.endswith("#k")
            for m, _ in p.terms
            if m.exponent is not None
            for a in atoms(m.exponent)
        )

    def _substituted(self, step: Step) -> Expr:
        """The statement with such results written out, so that the exponentials cancel."""
        value = self.stream.inlined(step.body)
        conditions = self.stream.presence.of(value)
        poly = normal_form(without_conditions(value), self.ranges.is_positive)
        return guarded(self._spelled(self._with_results(poly, every=True)), conditions)

    # -- the state
    def _running(self, name: str) -> str:
        key = f"run {name}"
        if key not in self.names:
            self.names[key] = self._fresh(f"R{self._stem(name)}")
        return self.names[key]

    def _local(self, name: str) -> str:
        key = f"tile {name}"
        if key not in self.names:
            self.names[key] = self._fresh(f"L{self._stem(name)}")
        return self.names[key]

    def _stem(self, name: str) -> str:
        """Anchors and accumulators are named after the result they serve."""
        step = self.stream.by_name.get(name)
        if step is not None:
            return step.target if step.named else f"{step.einsum.tensor}_{step.op}"
        return name

    def _value(self, components: dict[str, Component], index: Expr) -> object:
        def value(name: str) -> Expr:
            ranks = components[name].ranks
            place = (*(Coordinate(r) for r in ranks), index)
            return Read(self._running(name), place)

        return value

    def _state(self, state: State) -> None:
        """Statements of the loop: tile values, and running values that step over the tiles."""
        if not state.anchors:
            for accumulator in state.accumulators:
                self._plain(accumulator)
            return
        components = {c.name: c for c in state.components}
        here = self._value(components, Coordinate(self.step_rank))
        after = self._value(components, Map("+", (Coordinate(self.step_rank), Const(1))))
        for anchor in state.anchors:
            self._anchor(anchor, state, components)
        shifts = {a.name: self._shift(a, after) for a in state.anchors}
        decays = {
            a.name: self._decay(a, here, after)
            for a in state.anchors
            if any(s for b in state.accumulators for n, _, s in b.powers if n == a.name)
        }
        by_name = {a.name: a for a in state.anchors}
        for accumulator in state.accumulators:
            if accumulator.name not in self.transported:
                self._plain(accumulator)
                continue
            body = shifted(accumulator, by_name, lambda n: shifts[n])
            value = self._over_tile("sum", body, accumulator.bound, accumulator.present)
            self._write_local(accumulator.name, accumulator.ranks, value)
            carried = moved(accumulator, state, here, after, lambda n: decays[n])  # type: ignore[arg-type]
            self._write_running(components[accumulator.name], carried)

    def _anchor(self, anchor: Anchor, state: State, components: dict[str, Component]) -> None:
        for component in state.components:
            if component.name not in _names_of(anchor):
                continue
            bound = self._bound_of(anchor, state)
            lifted = lift_anchor(anchor, component, bound)
            assert isinstance(lifted, Reduce)
            body = lifted.body.body if isinstance(lifted.body, Where) else lifted.body
            value = self._over_tile(lifted.op, body, bound, anchor.present)
            self._write_local(component.name, component.ranks, value)
            read = self._value(components, Coordinate(self.step_rank))
            self._write_running(component, read(component.name))  # type: ignore[operator]

    def _bound_of(self, anchor: Anchor, state: State) -> tuple[str, ...]:
        if anchor.result is not None:
            return self.stream.by_name[anchor.result].bound
        for a in state.accumulators:
            if any(name == anchor.name for name, _, _ in a.powers):
                return a.bound
        return (self.stream.rank,)

    def _shift(self, anchor: Anchor, after: object) -> Expr:
        """kappa after this tile, computed once for a row."""
        name = self._fresh(f"K{self._stem(anchor.name)}")
        ranks = (*anchor.ranks, self.step_rank)
        self._add(name, ranks, kappa(anchor, after))  # type: ignore[arg-type]
        return Read(name, tuple(Coordinate(r) for r in ranks))

    def _decay(self, anchor: Anchor, here: object, after: object) -> Expr:
        name = self._fresh(f"P{self._stem(anchor.name)}")
        ranks = (*anchor.ranks, self.step_rank)
        self._add(name, ranks, decayed(anchor, here, after))  # type: ignore[arg-type]
        return Read(name, tuple(Coordinate(r) for r in ranks))

    def _over_tile(
        self, op: str, body: Expr, bound: tuple[str, ...], present: tuple[Expr, ...]
    ) -> Expr:
        """A reduction over the points of the current tile."""
        body = self._resolved(body)
        needed = self._needed(body, present)
        place = {self.stream.rank: self.point} if self.partition is not None else {}
        body = substitute(body, place)
        conditions = tuple(substitute(self._resolved(c), place) for c in needed)
        if self.partition is not None and not _reads_inside(body, self.point):
            tail = Map("<", (self.point, extent_symbol(self.partition.rank)))
            conditions = (*conditions, tail)
        inner = tuple(r for r in bound if r != self.stream.rank) + self.tile
        if inner:
            return Reduce(op, inner, guarded(body, conditions))
        identity = REDUCERS[op].identity
        if op == "count":
            body = Map("select", (self._true(body), Const(1), Const(0)))
        value = guarded(body, conditions)
        present_always = not self.stream.presence.of(body) and not conditions
        return value if present_always else Map("??", (value, Const(identity or 0)))

    def _true(self, e: Expr) -> Expr:
        return Map("or", (Map("==", (e, e)), Map("!=", (e, e))))

    def _needed(self, body: Expr, present: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """The conditions that the values read do not carry themselves."""
        implied = set(self.stream.presence.of(body))
        return tuple(c for c in present if c not in implied)

    def _write_local(self, name: str, ranks: tuple[str, ...], value: Expr) -> None:
        self._add(self._local(name), (*ranks, self.step_rank), value)

    def _write_running(self, component: Component, carried: Expr) -> None:
        running = self._running(component.name)
        ranks = (*component.ranks, self.step_rank)
        slot = len(component.ranks)
        local = Read(self._local(component.name), tuple(Coordinate(r) for r in ranks))
        self.einsums.append(Einsum(running, ranks, component.identity, slot, True))
        self.einsums.append(
            Einsum(running, ranks, combine(component.op, carried, local), slot)
        )

    def _plain(self, a: Accumulator) -> None:
        if a.name in self.stream.by_name:
            return
        body = self._resolved(to_expr(a.chi))
        conditions = tuple(self._resolved(c) for c in self._needed(body, a.present))
        self._add(a.name, a.ranks, Reduce(a.op, a.bound, guarded(body, conditions)))

    # -- results
    def _result(self, step: Step) -> None:
        name = self._legal(step.target)
        if step.target in self.running and step.target not in self.rewritten:
            end = extent_symbol(self.step_rank)
            place = (*(Coordinate(r) for r in step.ranks), end)
            self._add(name, step.ranks, Read(self._running(step.target), place))
            return
        fused = self.plan.fused[step.target]
        value = self._spelled(self._with_results(fused.value))
        if fused.summed:
            value = Reduce("sum", fused.summed, value)
        value = self._guarded_result(step, fused, value)
        self._add(name, step.ranks, guarded(value, tuple(self._resolved(c) for c in fused.outer)))

    def _with_results(self, p: Poly, every: bool = False) -> Poly:
        """Results that are a single term are written out: their exponentials cancel."""

        def rule(a: Atom) -> Poly | None:
            if not isinstance(a, Read) or a.tensor not in self.rewritten:
                return None
            fused = self.plan.fused[a.tensor]
            if fused.summed or (fused.value.single() is None and not every):
                return None
            ranks = dict(zip(fused.step.ranks, a.index, strict=True))
            inner = self._with_results(fused.value, every)
            if all(isinstance(i, Coordinate) and i.rank == r for r, i in ranks.items()):
                return inner
            return replace_atoms(inner, lambda b: _placed(b, ranks), self._positive)

        return replace_atoms(p, rule, self._positive)

    def _positive(self, a: Atom) -> bool:
        if isinstance(a, Read) and a.tensor in self.plan.accumulators:
            acc = self.plan.accumulators[a.tensor]
            return acc.op == "sum" and self.ranges.poly_positive(acc.chi)
        return self.ranges.is_positive(a)

    def _spelled(self, p: Poly) -> Expr:
        """A poly over accumulators as an expression over the ends of the running values."""
        return self._ended(to_expr(p))

    def _ended(self, e: Expr) -> Expr:
        end = extent_symbol(self.step_rank)

        def value(name: str) -> Expr:
            ranks = next(
                c.ranks for s in self.states.values() for c in s.components if c.name == name
            )
            return Read(self._running(name), (*(Coordinate(r) for r in ranks), end))

        def rule(node: Expr) -> Expr | None:
            if not isinstance(node, Read):
                return None
            name = node.tensor
            if name.endswith("#d"):
                return self._ended(to_expr(self.plan.deltas[name]))
            if name.endswith("#k"):
                anchor = self.plan.anchors[name[:-2]]
                return value(anchor.name) if anchor.kind == MAX else kappa(anchor, value)
            if name in self.plan.accumulators and name not in self.stream.by_name:
                if name in self.transported:
                    return Read(self._running(name), (*node.index, end))
                return node
            if name in self.stream.by_name:
                return replace(node, tensor=self._legal(name))
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
        first = {r: Const(0) for r in step.bound}
        if all(_surely(substitute(c, first)) for c in fused.guard):
            return conjunction(tuple(extents))
        key = tuple(fused.guard)
        if key not in self.guards:
            name = self._fresh(f"H{self._stem(step.target)}")
            mentioned = {r for c in key for r in free_ranks(c)} - set(step.bound)
            ranks = tuple(r for r in step.ranks if r in mentioned)
            tails = {Map("<", (p.expression, extent_symbol(p.rank))) for p in self.source.partitions}
            test = conjunction(tuple(self._resolved(c) for c in key if c not in tails))
            inside = guarded(test, tuple(c for c in key if c in tails))
            self._add(name, ranks, Reduce("any", step.bound, inside))
            self.guards[key] = name
        name = self.guards[key]
        found = next(e for e in self.einsums if e.tensor == name)
        return Read(name, tuple(Coordinate(r) for r in found.ranks))


def _in_file_order(
    ranks: list[Rank], source: Cascade, partitions: tuple[Partition, ...]
) -> tuple[Rank, ...]:
    """Ranks in the order in which a reader of the text meets them."""
    inputs = [r for t in source.inputs for r in t.ranks]
    parts = [r for p in partitions for r in (p.rank, *p.parts)]

    def key(rank: Rank) -> tuple[int, int]:
        for n, known in enumerate((inputs, parts)):
            if rank.name in known:
                return n, known.index(rank.name)
        return (2 if rank.declared else 3), 0

    return tuple(sorted(ranks, key=key))


def _names_of(anchor: Anchor) -> tuple[str, ...]:
    return (anchor.name,) if anchor.kind == MAX else (f"{anchor.name}n", f"{anchor.name}s")


def _placed(a: Atom, ranks: dict[str, Expr]) -> Poly | None:
    return atom(substitute(a, ranks)) if isinstance(a, Read) else None


def _surely(condition: Expr) -> bool:
    """Whether a condition holds at every coordinate (which are never negative)."""
    forms = upper_bounds(condition)
    return bool(forms) and all(
        constant <= 0 and all(k <= 0 for k in coefficients.values())
        for coefficients, constant in forms
    )


def _reads_inside(e: Expr, point: Expr) -> bool:
    """Whether a strict read at the tile's point makes the ragged tail absent."""
    match e:
        case Read(_, index):
            return point in index
        case Map(op, args):
            return MAPS[op].absence == "strict" and any(_reads_inside(a, point) for a in args)
        case Where(body, _):
            return _reads_inside(body, point)
        case _:
            return False


def _reachable(einsums: list[Einsum], outputs: tuple[str, ...]) -> list[Einsum]:
    by_name: dict[str, list[Einsum]] = {}
    for e in einsums:
        by_name.setdefault(e.tensor, []).append(e)
    wanted: set[str] = set()
    stack = list(outputs)
    while stack:
        name = stack.pop()
        if name in wanted:
            continue
        wanted.add(name)
        for e in by_name.get(name, ()):
            stack.extend(r.tensor for r in reads(e.body))
    return [e for e in einsums if e.tensor in wanted]


def _reinlined(einsums: list[Einsum], source: Cascade) -> list[Einsum]:
    """A reduction taken out of a statement goes back where a single statement reads it once, plainly."""
    named = set(source.tensors)
    uses: dict[str, int] = {}
    for e in einsums:
        for r in reads(e.body):
            uses[r.tensor] = uses.get(r.tensor, 0) + 1
    bodies = {
        e.tensor: e
        for e in einsums
        if e.tensor not in named and "_" in e.tensor and uses.get(e.tensor) == 1 and e.step is None
        and not symbols(e.body) and isinstance(e.body, Reduce)
    }

    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor in bodies:
            e = bodies[node.tensor]
            if all(isinstance(i, Coordinate) and i.rank == r for i, r in zip(node.index, e.ranks, strict=True)):
                return transform(e.body, rule)
        return None

    result = []
    for e in einsums:
        if e.tensor not in bodies:
            result.append(replace(e, body=transform(e.body, rule)))
    left = {r.tensor for e in result for r in reads(e.body)}
    return [e for e in einsums if e.tensor in bodies and e.tensor in left] + result


def _mentions(einsums: list[Einsum], rank: str) -> bool:
    for e in einsums:
        if rank in e.ranks:
            return True
        for node in walk(e.body):
            if isinstance(node, Coordinate) and node.rank == rank:
                return True
            if isinstance(node, Reduce) and rank in node.ranks:
                return True
            if isinstance(node, Symbol) and node.name == rank.upper():
                return True
    return False


__all__ = ["conjuncts", "emit", "state_of"]
