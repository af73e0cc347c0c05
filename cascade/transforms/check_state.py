"""Anchors and the state that they shift: transport between any anchors, cocycle, identity."""

from __future__ import annotations

import random
from collections.abc import Iterator

from cascade.ir.expr import Expr, Map, Read
from cascade.ir.walk import free_ranks, reads, transform
from cascade.transforms import state as states
from cascade.transforms.fuse import MAX, Accumulator, Anchor
from cascade.transforms.obligations import Obligation, equal
from cascade.transforms.proofs import ieee
from cascade.transforms.state import State, count_name, sum_name
from cascade.transforms.unfold import Unfolded

TRIALS = 24


class States:
    """The obligations of the anchors and the states of one plan."""

    def __init__(self, unfolded: Unfolded):
        self.unfolded = unfolded
        self.plan = unfolded.plan
        self.prover = unfolded.prover

    # -- anchors
    def of_anchors(self) -> list[Obligation]:
        return [o for a in self.plan.anchors.values() for o in self._anchor(a)]

    def _anchor(self, a: Anchor) -> Iterator[Obligation]:
        points = self.unfolded.points(a.present)
        if a.result is not None:
            step = self.unfolded.steps[a.result]
            own = self.unfolded.presence(step.body)
            own = frozenset(c for c in own if set(step.bound) & set(free_ranks(c)))
            same = step.op == a.kind and points == own
            what = f"{a.name} is {step.label()}"
            yield Obligation("anchor", f"{what}, over the same points", same)
            value, body = self.unfolded.value(a.value), self.unfolded.value(step.body)
            yield equal(self.prover, "anchor", what, value, body)
        if a.weights is not None:
            whole, total = (self.plan.accumulators[name] for name in a.weights)
            same = all(self.unfolded.points(b.present) == points for b in (whole, total))
            what = f"{a.name} is {total.name} / {whole.name}, the mean under its weights"
            yield Obligation("anchor", f"{what}, over the same points", same)
            weight, value = (
                self.unfolded.value(self.unfolded.expression(b.chi)) for b in (whole, total)
            )
            wanted = Map("*", (weight, self.unfolded.value(a.value)))
            yield equal(self.prover, "anchor", what, value, wanted)
        for b in self.plan.accumulators.values():
            slope = next((s for name, _, s in b.powers if name == a.name), None)
            if slope is None:
                continue
            detail = "" if points <= self.unfolded.points(b.present) else "it misses points"
            if slope < 0 or (slope > 0 and a.kind != MAX):
                detail = f"exp({slope} u) is not at most 1"
            free = {r for e in (a.value, *a.present) for r in free_ranks(e)}
            if free - {*a.ranks, *b.bound}:
                detail = "it differs along a rank that it does not have"
            if any(f.step.bound != b.bound or self.unfolded.waits(f.step, e)
                   for f in self.plan.fused.values() if b.name in f.accumulators
                   for e in (a.value, *a.present)):  # fmt: skip
                detail = "it is not known when it is subtracted"
            yield Obligation("anchor", f"{a.name} can shift {b.name}", not detail, detail=detail)

    # -- states
    def of_state(self, s: State) -> list[Obligation]:
        found: list[Obligation] = []
        for a in s.accumulators:
            if not a.powers and not self._shifts(a):
                continue
            try:
                found += self._moves(s, a)
            except AssertionError as error:
                found.append(Obligation("transport", a.name, False, detail=str(error)))
        if s.anchors and all(o.ok for o in found):
            found.append(self._identity(s))
        return found

    def _shifts(self, a: Accumulator) -> bool:
        return any(r.tensor.endswith("#u") for r in reads(self.unfolded.expression(a.chi)))

    def _moves(self, s: State, a: Accumulator) -> Iterator[Obligation]:
        """Transport between arbitrary anchors x and y, and by way of z."""
        names = {b.name for b in s.accumulators}
        families = [b for b in s.accumulators if (b.present, b.bound) == (a.present, a.bound)]
        chi = {b.name: b for b in families}

        def at(tag: str) -> states.Name:  # chi of a point, shifted by an anchor
            def name(n: str) -> Expr:
                return self._phi(chi[n], tag) if n in names else Read(f"{n}@{tag}", ())

            return name

        def move(old: states.Name, new: states.Name) -> Expr:
            return states.moved(a, s, old, new, shift=_kappa) if a.powers else old(a.name)

        def value(tag: str) -> states.Name:  # any value of an accumulator
            return lambda n: Read(f"{n}@{tag}", ())

        def via(n: str) -> Expr:
            if n not in names:
                return Read(f"{n}@y", ())
            if not chi[n].powers:
                return value("x")(n)
            return states.moved(chi[n], s, value("x"), value("y"), shift=_kappa)

        goal = self._phi(a, "y")
        yield equal(
            self.prover, "transport", f"{a.name} at any anchor", move(at("x"), at("y")), goal
        )
        still = move(value("x"), value("x"))
        yield equal(self.prover, "cocycle", f"{a.name} stays", still, value("x")(a.name))
        once, twice = move(value("x"), value("z")), move(via, value("z"))
        yield equal(self.prover, "cocycle", f"{a.name} moves twice", once, twice)

    def _phi(self, a: Accumulator, tag: str) -> Expr:
        shifts = {}
        for b in self.plan.anchors.values():
            k: Expr = Read(f"{b.name}@{tag}", ())
            if b.kind != MAX and b.weights is None:
                total, count = (Read(f"{f(b)}@{tag}", ()) for f in (sum_name, count_name))
                k = Map("/", (total, count))
            shifts[f"{b.name}#u"] = Map("-", (b.value, k))

        def rule(e: Expr) -> Expr | None:
            return shifts.get(e.tensor) if isinstance(e, Read) else None

        return self.unfolded.value(transform(self.unfolded.expression(a.chi), rule))

    def _identity(self, s: State) -> Obligation:
        """merge(state, init) = merge(init, state) = state, bit by bit."""
        chance = random.Random(0)
        counts = {count_name(a) for a in s.anchors}
        init = {c.name: float(c.identity.value) for c in s.components}  # type: ignore[union-attr]
        wrong = ""
        for _ in range(TRIALS):
            drawn = {n: chance.uniform(-50, 50) for n in init}
            drawn |= {n: float(chance.randint(1, 9)) for n in counts}
            for a, b, wanted in ((drawn, init, drawn), (init, drawn, drawn), (init, init, init)):
                made = _merge(s, a, b)
                wrong = next((n for n in made if made[n] != wanted[n]), wrong)
        detail = f"{wrong} changes" if wrong else ""
        what = f"the state of pass {s.number} has an identity"
        return Obligation("identity", what, not wrong, "numeric", detail)


def _kappa(anchor: Anchor, value: states.Name) -> Expr:
    """Any value where it is made of accumulators, which a move reads for themselves too."""
    return states.kappa(anchor, value) if anchor.weights is None else value(anchor.name)


def _merge(s: State, a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    """The merge of two states, in IEEE arithmetic."""
    values = {f"{n}@a": x for n, x in a.items()} | {f"{n}@b": x for n, x in b.items()}
    names: list[states.Name] = [lambda n, t=t: Read(f"{n}@{t}", ()) for t in ("a", "b", "ab")]  # type: ignore[misc]
    for c in s.components:  # anchors come first
        values[f"{c.name}@ab"] = ieee(states.merged(c, s, *names), values)
    return {c.name: values[f"{c.name}@ab"] for c in s.components}
