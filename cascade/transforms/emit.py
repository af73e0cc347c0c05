"""A plan written back as a cascade: the loop form, in which running values step from tile to tile.

Reductions that need no anchor become plain reductions of their accumulators; anchored ones become
iterative tensors over the tiles of the streamed rank. What nothing reads any more is dropped.
"""

from __future__ import annotations

from dataclasses import replace

from cascade.analysis.normalise import Step
from cascade.ir.cascade import (
    Cascade,
    Einsum,
    Param,
    Partition,
    Rank,
    Tensor,
    extent_symbol,
    in_file_order,
)
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.ops import MAPS, REDUCERS
from cascade.ir.tails import with_tails
from cascade.ir.walk import (
    conjunction,
    free_ranks,
    reads,
    substitute,
    symbols,
    transform,
    walk,
)
from cascade.transforms.fuse import Accumulator, Anchor, Plan
from cascade.transforms.inline import without_conditions
from cascade.transforms.naming import Names
from cascade.transforms.normal_form import Atom, Poly, atoms, normal_form
from cascade.transforms.reals import keep_reals
from cascade.transforms.results import Results
from cascade.transforms.spell import to_expr
from cascade.transforms.state import (
    Component,
    Name,
    State,
    combine,
    component_names,
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
        if any(
            {p[0] for p in known.powers} <= {p[0] for p in a.powers} and a.powers for a in family
        ):
            if known.powers or any(d for a in family for _, d, _ in a.powers):
                accumulators.setdefault(known.name, known)
    used = {name for a in accumulators.values() for name, _, _ in a.powers}
    used |= {r.tensor[:-2] for f in chosen for a in atoms(f.value) for r in _kappas(a, plan)}
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
        self.names = Names(plan)
        self.einsums: list[Einsum] = []
        self.written: set[str] = set()  # accumulators that have their statements
        self.shifts: dict[str, Expr] = {}  # kappa of each anchor after a tile
        self.decays: dict[str, Expr] = {}
        self.new_ranks: dict[str, Rank] = {}
        self.new_params: list[Param] = []
        self.new_partitions: list[Partition] = []
        self.states = {
            n: state_of(plan, n, self.rewritten)
            for n in sorted({plan.passes[name] for name in self.rewritten})
        }
        self.transported = {n for s in self.states.values() for n in s.transported}
        self.running = {
            a.result for s in self.states.values() for a in s.anchors if a.result is not None
        }
        self._name_tile()
        self.results = Results(plan, self.names, self.rewritten, self._ending)

    # -- the tile
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
            outer, inner = self.names.fresh(f"{rank}1"), self.names.fresh(f"{rank}0")
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
                if number in self.states and number not in started:
                    started.add(number)
                    self._state(self.states[number])
                self._result(step)
            else:
                self._keep(step)
        return self._finished()

    def _finished(self) -> Cascade:
        self.einsums += [e for e in self.results.extra if e not in self.einsums]
        kept = _reachable(self._shared(self.einsums), self.source.outputs)
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
        inputs = _read_inputs(kept, self.source, ranks)
        held = {r for t in inputs for r in t.ranks} | {
            r for p in partitions for r in (p.rank, *p.parts)
        }
        ranks = [r for r in ranks if r.declared or r.name in held or _mentions(kept, r.name)]
        written = replace(
            self.source,
            inputs=inputs,
            ranks=in_file_order(ranks, inputs, partitions),
            einsums=tuple(kept),
            params=self.source.params + tuple(self.new_params),
            partitions=partitions,
            warnings=(),
        )
        return keep_reals(self.source, with_tails(written))

    def _add(self, name: str, ranks: tuple[str, ...], body: Expr) -> None:
        self.einsums.append(Einsum(name, ranks, body))

    def _shared(self, einsums: list[Einsum]) -> list[Einsum]:
        """An exponential of the tile that several statements read is a tensor, computed once."""
        uses: dict[Expr, int] = {}
        for e in einsums:
            for node in {n for n in walk(e.body) if self._may_share(n)}:
                uses[node] = uses.get(node, 0) + 1
        shared = {e: self.names.fresh("S") for e, n in uses.items() if n > 1}
        if not shared:
            return einsums
        order = {r.name: n for n, r in enumerate(self.source.ranks)}

        def ranks_of(e: Expr) -> tuple[str, ...]:
            return tuple(sorted(free_ranks(e), key=lambda r: order.get(r, len(order))))

        def rule(node: Expr) -> Expr | None:
            if node in shared:
                return Read(shared[node], tuple(Coordinate(r) for r in ranks_of(node)))
            return None

        result: list[Einsum] = []
        done: set[str] = set()
        for e in einsums:
            body = transform(e.body, rule)
            for node, name in shared.items():
                if name not in done and body != e.body and name in {r.tensor for r in reads(body)}:
                    result.append(Einsum(name, ranks_of(node), node))
                    done.add(name)
            result.append(replace(e, body=body))
        return result

    def _may_share(self, e: Expr) -> bool:
        """An exponential of the tile that is absent past the end of the rank by itself."""
        if not _is_tile_exponential(e, self.step_rank):
            return False
        return self.partition is None or _reads_inside(e, self.point)

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
            self.einsums.append(Einsum(e.tensor, e.ranks, body, e.step, e.init, e.span))
        else:
            self.einsums.append(Einsum(self.names.of(step.target), step.ranks, body, span=e.span))

    def _touched(self, step: Step) -> bool:
        """Whether a reduction nested in the statement is rewritten."""
        for r in reads(step.body):
            inner = self.stream.by_name.get(r.tensor)
            if inner is not None and not inner.named:
                if inner.target in self.rewritten | self.running or self._touched(inner):
                    return True
        return False

    def _reduction(self, step: Step) -> Expr:
        assert step.op is not None
        if step.along is not None:
            return Select(step.op, step.bound[0], step.along, step.body)
        return Reduce(step.op, step.bound, step.body)

    def _resolved(self, e: Expr) -> Expr:
        return self.results.resolved(e)

    def _overflows(self, step: Step) -> bool:
        """Whether a pointwise statement reads a result with the exponential of a fresh anchor in
        it.
        """
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
        poly = normal_form(without_conditions(value), self.results.ranges.is_positive)
        spelled = self.results.spelled(self.results.with_results(poly, every=True))
        there = self.results.present(poly)
        if there:
            spelled = Map("select", (conjunction(tuple(there)), spelled, without_conditions(value)))
        return guarded(spelled, conditions)

    # -- the state
    def _running(self, name: str) -> str:
        return self.names.made(f"run {name}", f"R{self.names.stem(name)}")

    def _local(self, name: str) -> str:
        return self.names.made(f"tile {name}", f"L{self.names.stem(name)}")

    def _ending(self, name: str, index: tuple[Expr, ...]) -> Expr:
        """A component after the last tile; a plain accumulator is the same throughout."""
        if name in self.plan.accumulators and name not in self.transported:
            return Read(name, index)
        return Read(self._running(name), (*index, extent_symbol(self.step_rank)))

    def _value(self, components: dict[str, Component], index: Expr) -> Name:
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
            if anchor.weights is not None:
                continue
            if anchor.name not in self.shifts:  # a state of an earlier pass may have it too
                self._anchor(anchor, state, components)
                self.shifts[anchor.name] = self._shift(anchor, after)
            exponential = any(
                s for b in state.accumulators for n, _, s in b.powers if n == anchor.name
            )
            if exponential and anchor.name not in self.decays:
                self.decays[anchor.name] = self._decay(anchor, here, after)
        by_name = {a.name: a for a in state.anchors}
        for accumulator in state.accumulators:
            if accumulator.name not in self.transported:
                self._plain(accumulator)
                continue
            if accumulator.name in self.written:
                continue
            self.written.add(accumulator.name)
            for name, _, _ in accumulator.powers:  # a weighted mean, of what is written by now
                if name not in self.shifts:
                    self.shifts[name] = self._shift(by_name[name], after)
            body = shifted(accumulator, by_name, self.shifts.__getitem__)
            value = self._over_tile("sum", body, accumulator.bound, accumulator.present)
            self._write_local(accumulator.name, accumulator.ranks, value)
            carried = moved(accumulator, state, here, after, self.decays.__getitem__)
            self._write_running(components[accumulator.name], carried)

    def _anchor(self, anchor: Anchor, state: State, components: dict[str, Component]) -> None:
        for component in state.components:
            if component.name not in component_names(anchor):
                continue
            bound = self._bound_of(anchor, state)
            lifted = lift_anchor(anchor, component, bound)
            assert isinstance(lifted, Reduce)
            body = lifted.body.body if isinstance(lifted.body, Where) else lifted.body
            value = self._over_tile(lifted.op, body, bound, anchor.present)
            self._write_local(component.name, component.ranks, value)
            read = self._value(components, Coordinate(self.step_rank))
            self._write_running(component, read(component.name))

    def _bound_of(self, anchor: Anchor, state: State) -> tuple[str, ...]:
        if anchor.result is not None:
            return self.stream.by_name[anchor.result].bound
        for a in state.accumulators:
            if any(name == anchor.name for name, _, _ in a.powers):
                return a.bound
        return (self.stream.rank,)

    def _shift(self, anchor: Anchor, after: Name) -> Expr:
        """kappa after this tile, computed once for a row."""
        name = self.names.fresh(f"K{self.names.stem(anchor.name)}")
        ranks = (*anchor.ranks, self.step_rank)
        self._add(name, ranks, kappa(anchor, after))
        return Read(name, tuple(Coordinate(r) for r in ranks))

    def _decay(self, anchor: Anchor, here: Name, after: Name) -> Expr:
        name = self.names.fresh(f"P{self.names.stem(anchor.name)}")
        ranks = (*anchor.ranks, self.step_rank)
        self._add(name, ranks, decayed(anchor, here, after))
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
        identity = REDUCERS[op].identity
        if inner:
            total = Reduce(op, inner, guarded(body, conditions))
            whole = self._whole_tile(body, conditions, inner)
            return Map("??", (total, Const(identity or 0))) if whole else total
        if op == "count":
            body = Map("select", (self._true(body), Const(1), Const(0)))
        value = guarded(body, conditions)
        present_always = not self.stream.presence.of(body) and not conditions
        return value if present_always else Map("??", (value, Const(identity or 0)))

    def _whole_tile(self, body: Expr, conditions: tuple[Expr, ...], inner: tuple[str, ...]) -> bool:
        """Whether a condition may leave out a whole tile, which then counts as the identity."""
        found = [free_ranks(c) for c in (*self.stream.presence.of(body), *conditions)]
        return any(self.step_rank in ranks and not set(ranks) & set(inner) for ranks in found)

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
        self.einsums.append(Einsum(running, ranks, combine(component.op, carried, local), slot))

    def _plain(self, a: Accumulator) -> None:
        if a.name in self.stream.by_name or a.name in self.written:
            return
        self.written.add(a.name)
        body = self._resolved(to_expr(a.chi))
        conditions = tuple(self._resolved(c) for c in self._needed(body, a.present))
        self._add(a.name, a.ranks, Reduce(a.op, a.bound, guarded(body, conditions)))

    # -- results
    def _result(self, step: Step) -> None:
        name = self.names.of(step.target)
        if step.target in self.running and step.target not in self.rewritten:
            end = extent_symbol(self.step_rank)
            place: tuple[Expr, ...] = (*(Coordinate(r) for r in step.ranks), end)
            self._add(name, step.ranks, Read(self._running(step.target), place))
            return
        statement = self.results.statement(step)
        self.einsums += [e for e in self.results.extra if e not in self.einsums]
        self.einsums.append(statement)


def _is_tile_exponential(e: Expr, step_rank: str) -> bool:
    return isinstance(e, Map) and e.op == "exp" and step_rank in free_ranks(e)


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
    """A reduction taken out of a statement goes back where a single statement reads it once,
    plainly.
    """
    named = set(source.tensors)
    uses: dict[str, int] = {}
    for e in einsums:
        for r in reads(e.body):
            uses[r.tensor] = uses.get(r.tensor, 0) + 1
    bodies = {
        e.tensor: e
        for e in einsums
        if e.tensor not in named
        and "_" in e.tensor
        and uses.get(e.tensor) == 1
        and e.step is None
        and not symbols(e.body)
        and isinstance(e.body, Reduce)
    }

    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor in bodies:
            e = bodies[node.tensor]
            if all(
                isinstance(i, Coordinate) and i.rank == r
                for i, r in zip(node.index, e.ranks, strict=True)
            ):
                return transform(e.body, rule)
        return None

    result = []
    for e in einsums:
        if e.tensor not in bodies:
            result.append(replace(e, body=transform(e.body, rule)))
    kept = [replace(e, body=transform(e.body, rule)) for e in bodies.values()]
    every = [*kept, *result]
    return _reachable(every, tuple(e.tensor for e in result))


def _read_inputs(einsums: list[Einsum], source: Cascade, ranks: list[Rank]) -> tuple[Tensor, ...]:
    """The inputs that matter: those that are read, or that alone give an extent."""
    read = {r.tensor for e in einsums for r in reads(e.body)}
    named = {n for rank in ranks for n in symbols(rank.extent) if n != rank.name.upper()}
    named |= {n for p in source.params if p.value is not None for n in symbols(p.value)}
    named |= {n for q in source.requirements for n in symbols(q.condition)}
    given = {r for t in source.inputs if t.name in read for r in t.ranks}
    kept = []
    for t in source.inputs:
        alone = [r for r in t.ranks if r not in given]
        if t.name in read or any(r.upper() in named or _mentions(einsums, r) for r in alone):
            kept.append(t)
            given |= set(t.ranks)
    return tuple(kept)


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


def final_statements(plan: Plan, state: State, names: Names) -> tuple[list[Einsum], list[Einsum]]:
    """Everything after the last merge: results from the components, then the rest of the cascade.

    The second list holds the reductions that say whether a point was present, for guards.
    """
    chosen = {n for n, f in plan.fused.items() if f.laws and plan.passes[n] == state.number}
    emission = _Emission(plan, None)
    emission.names = names
    results = Results(plan, names, chosen, lambda n, index: Read(names.of(n), index))
    emission.results = results
    running = {a.result for a in state.anchors}
    plain = {n for n, f in plan.fused.items() if not f.laws and plan.passes[n] == state.number}
    einsums: list[Einsum] = []
    for step in plan.stream.steps:
        if step.target in running or step.target in plain:
            continue
        if step.target in chosen:
            einsums.append(results.statement(step))
        else:
            emission.einsums = []
            emission._keep(step)
            einsums += emission.einsums
    kept = _reachable(einsums, plan.stream.cascade.outputs)
    used = {r.tensor for e in kept for r in reads(e.body)}
    return kept, [e for e in results.extra if e.tensor in used]
