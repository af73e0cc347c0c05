"""Tensors that the outputs do not depend on: a maximum that only keeps exponents small.

Replace a tensor G by G + c with c free at every point. A value *shifts* if c is added to it, in
multiples, and is *scaled* if it is multiplied by exp of such a sum: exp(x - G) is scaled by
exp(-c), and so is its sum; their quotient by exp(0). If every output is unchanged, no gradient
passes through G. The proof is this propagation; no derivative is taken, and none has to cancel.

The candidates are maxima and minima, and what is computed from them alone (`finite(max(x))`).
Where a step of the propagation has no rule, the value depends on the candidates in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from cascade.gradients.record import Record
from cascade.ir.cascade import Cascade, Einsum
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.ops import COMPARISONS
from cascade.ir.order import evaluation_order
from cascade.ir.printer import print_einsum
from cascade.ir.walk import conjuncts, free_ranks, reads, substitute, transform

Rule = Callable[["list[Change]", tuple[Expr, ...]], "Change | None"]
Key = tuple[str, tuple[Expr, ...]]  # a candidate at a point


@dataclass(frozen=True)
class Change:
    """How a value answers: by a sum of shifts (`scaled` false) or a product of their exponentials.

    `by` has a coefficient for each shift; nothing in it: the value is unchanged. `spoilt` has the
    candidates on which it depends in some other way. A zero is unchanged and scaled by anything.
    """

    by: tuple[tuple[Key, float], ...] = ()
    scaled: bool = False
    spoilt: frozenset[str] = frozenset()
    zero: bool = False

    @property
    def still(self) -> bool:
        return not self.by and not self.spoilt

    def candidates(self) -> frozenset[str]:
        return self.spoilt | {name for (name, _), _ in self.by}


STILL = Change()
ZERO = Change(zero=True)


def stabilisers(cascade: Cascade, record: Record) -> frozenset[str]:
    """The tensors of a flattened cascade that no output depends on, though it reads them."""
    extremes, made_of_them = _candidates(cascade)
    candidates = extremes | made_of_them
    while candidates:
        relevant = _Propagation(cascade, candidates).relevant()
        if not relevant:
            break
        candidates -= relevant & made_of_them or relevant  # a product of two spoils both: not yet
    found = frozenset(candidates)
    _tell(cascade, found, record)
    return found


def _tell(cascade: Cascade, found: frozenset[str], record: Record) -> None:
    """How each value answers when c is added to a stabiliser, down to the outputs."""
    if not found:
        return
    propagation = _Propagation(cascade, set(found))
    propagation.relevant()
    for e in cascade.einsums:
        if e.tensor not in found or e.init:
            continue
        lines = []
        for name, (_, change) in propagation.known.items():
            by = [n for (candidate, _), n in change.by if candidate == e.tensor]
            if by and name != e.tensor:
                amount = f"{sum(by):+g}*c"
                lines.append(
                    f"{name} is multiplied by exp({amount})"
                    if change.scaled
                    else f"{name} changes by {amount}"
                )
        record.add(
            "no gradient passes through",
            e.tensor,
            (print_einsum(e),),
            (f"with {e.tensor} + c for {e.tensor}, no output changes",),
            tuple(lines),
        )


def _candidates(cascade: Cascade) -> tuple[set[str], set[str]]:
    """Maxima and minima (states that hold them, too), and what is computed from these alone."""
    extremes: set[str] = set()
    found: set[str] = set()
    outputs = set(cascade.outputs)
    for group in evaluation_order(cascade):
        for e in group.einsums:
            if e.tensor in outputs:
                continue
            if _extreme(e.body):
                extremes.add(e.tensor)
            elif e.step is not None or isinstance(e.body, Map):
                read = {r.tensor for r in reads(e.body)}
                if read and read <= extremes | found:
                    (found if e.step is None else extremes).add(e.tensor)
    return extremes, found


def _extreme(e: Expr) -> bool:
    return isinstance(e, Map | Reduce) and e.op in ("max", "min")


class _Propagation:
    def __init__(self, cascade: Cascade, candidates: set[str]):
        self.cascade = cascade
        self.candidates = candidates
        self.known: dict[str, tuple[tuple[str, ...], Change]] = {}
        self.slots = _slots(cascade)

    def relevant(self) -> set[str]:
        """Candidates that reach an output, or a value in a way that has no rule."""
        for group in evaluation_order(self.cascade):
            members = {e.tensor for e in (*group.einsums, *group.inits)}
            if group.rank is not None and group.inits:
                self._recurrence(group.einsums, group.inits)
            elif group.rank is not None:  # forward substitution: no rule
                for e in group.einsums:
                    self.known[e.tensor] = (e.ranks, self._spoilt(e.body, members))
            else:
                for e in group.einsums:
                    self.known[e.tensor] = (e.ranks, self.of(e.body))
        found: set[str] = set()
        for name in self.cascade.outputs:
            if name in self.known:
                found |= self.known[name][1].candidates()
        return found | {n for n, (state, _) in self.slots.items() if state in found}

    def _spoilt(self, e: Expr, but: set[str]) -> Change:
        found: frozenset[str] = frozenset()
        for r in reads(e):
            if r.tensor in self.candidates:
                found |= {r.tensor}
            if r.tensor in self.known and r.tensor not in but:
                found |= self.known[r.tensor][1].candidates()
        return Change(spoilt=found)

    def _recurrence(self, updates: tuple[Einsum, ...], inits: tuple[Einsum, ...]) -> None:
        """A state answers like what is added to it, if the whole step then agrees with that."""
        states = {e.tensor: e for e in updates if e.step is not None}
        members = {e.tensor for e in updates}
        for e in states.values():
            self.known[e.tensor] = (e.ranks, ZERO)
        for _ in range(2 + len(states)):
            before = {t: self.known[t] for t in states}
            for e in updates:
                if e.tensor in states:
                    change = self.of(e.body)
                    assert e.step is not None
                    rank = e.ranks[e.step]
                    here: dict[str, Expr] = {rank: Map("-", (Coordinate(rank), Const(1)))}
                    self.known[e.tensor] = (e.ranks, _moved(change, here))
                else:
                    self.known[e.tensor] = (e.ranks, self.of(e.body))
            if {t: self.known[t] for t in states} == before:
                break
        else:
            for e in updates:
                self.known[e.tensor] = (e.ranks, self._spoilt(e.body, members))
        for init in inits:
            change = self.of(init.body)
            own = self.known.get(init.tensor, (init.ranks, STILL))[1]
            if not (change.zero or (change.still and own.still)):
                spoilt = own.candidates() | change.candidates()
                self.known[init.tensor] = (init.ranks, Change(spoilt=spoilt))

    def of(self, e: Expr) -> Change:
        match e:
            case Const(value):
                return ZERO if not isinstance(value, bool) and value == 0 else STILL
            case Symbol() | Coordinate():
                return STILL
            case Read():
                return self._read(e)
            case Where(body, condition):
                change = self.of(body)
                return _spoil(change, self._condition(condition))
            case Reduce(op, bound, body):
                return self._reduce(op, bound, body)
            case Select():
                inner = self.of(e.body)
                return STILL if inner.still else Change(spoilt=inner.candidates())
            case Map(op, args):
                return self._map(op, args)

    def _read(self, e: Read) -> Change:
        spoilt: frozenset[str] = frozenset()
        for i in e.index:
            spoilt |= self.of(i).candidates()
        if e.tensor in self.candidates:
            name, index = e.tensor, list(e.index)
            if name in self.slots and self.slots[name][0] in self.candidates:
                name, slot = self.slots[name]
                index[slot] = Map("+", (index[slot], Const(1)))
            return Change((((name, tuple(map(_plain, index))), 1.0),), spoilt=spoilt)
        if e.tensor not in self.known:
            return Change(spoilt=spoilt)
        ranks, change = self.known[e.tensor]
        return _spoil(_moved(change, dict(zip(ranks, e.index, strict=True))), spoilt)

    def _condition(self, e: Expr) -> frozenset[str]:
        """The candidates on which the truth of a condition depends."""
        if isinstance(e, Map) and e.op in COMPARISONS:
            left, right = e.args
            for a, b in ((left, right), (right, left)):
                change = self.of(a)
                if _infinite(b) and not change.scaled and not change.spoilt:
                    return frozenset()  # a finite shift leaves it infinite or finite
                if self.of(b).zero and change.scaled and not change.spoilt:
                    return frozenset()  # the sign stays
            one, other = self.of(left), self.of(right)
            if one == other and not one.spoilt:
                return frozenset()
            return one.candidates() | other.candidates()
        if isinstance(e, Map):
            return frozenset().union(*(self._condition(a) for a in e.args))
        return self.of(e).candidates()

    def _reduce(self, op: str, bound: tuple[str, ...], body: Expr) -> Change:
        change = self.of(body)
        if isinstance(body, Where):
            change = _by_conditions(change, conjuncts(body.condition))
        if change.still:
            return change
        local = any(set(free_ranks(i)) & set(bound) for (_, key), _ in change.by for i in key)
        allowed = ("max", "min") if not change.scaled else ("sum", "mean")
        if op in allowed and not local and not change.spoilt:
            return change
        return Change(spoilt=change.candidates())

    def _map(self, op: str, args: tuple[Expr, ...]) -> Change:
        if op in COMPARISONS or op in ("and", "or", "not"):
            return Change(spoilt=self._condition(Map(op, args)))
        if op == "select":
            spoilt = self._condition(args[0])
            yes, no = self.of(args[1]), self.of(args[2])
            return _spoil(_agree(yes, no), spoilt)
        changes = [self.of(a) for a in args]
        if all(c.still for c in changes):
            zero = op == "*" and any(c.zero for c in changes)
            return ZERO if zero else STILL
        rule = RULES.get(op)
        found = rule(changes, args) if rule is not None else None
        if found is None or any(c.spoilt for c in changes):
            return Change(spoilt=frozenset().union(*(c.candidates() for c in changes)))
        return found


def _slots(cascade: Cascade) -> dict[str, tuple[str, int]]:
    """The tensors that are slot i+1 of a state, with the state and the position of that slot."""
    found: dict[str, tuple[str, int]] = {}
    for e in cascade.einsums:
        if e.step is not None and not e.init and isinstance(e.body, Read):
            if e.body.index == tuple(map(Coordinate, e.ranks)):
                found[e.body.tensor] = (e.tensor, e.step)
    return found


def _plain(e: Expr) -> Expr:
    """`(i - 1) + 1` as `i`, so that equal points have equal keys."""

    def rule(n: Expr) -> Expr | None:
        match n:
            case Map("+", (Map("-", (x, Const(int(a)))), Const(int(b)))) if a == b:
                return x
            case Map("-", (Map("+", (x, Const(int(a)))), Const(int(b)))) if a == b:
                return x
        return None

    return transform(e, rule)


def _moved(change: Change, values: dict[str, Expr]) -> Change:
    by = tuple(
        ((name, tuple(_plain(substitute(i, values)) for i in index)), n)
        for (name, index), n in change.by
    )
    same = _sum([(1.0, Change(by, zero=change.zero))], change.scaled)
    return replace(same, spoilt=change.spoilt)


def _spoil(change: Change, by: frozenset[str]) -> Change:
    return Change(spoilt=change.candidates() | by) if by else change


def _sum(parts: list[tuple[float, Change]], scaled: bool) -> Change:
    total: dict[Key, float] = {}
    for n, change in parts:
        for key, m in change.by:
            total[key] = total.get(key, 0.0) + n * m
    by = tuple(sorted(((k, n) for k, n in total.items() if n), key=repr))
    zero = all(c.zero for _, c in parts)
    return Change(by, scaled and bool(by), zero=zero)


def _agree(a: Change, b: Change) -> Change:
    """Two values of which one is taken, or two terms of a sum of scaled values."""
    if a.zero:
        return b
    if b.zero or a == b:
        return a
    return Change(spoilt=a.candidates() | b.candidates())


def _add(sign: float) -> Rule:
    def rule(c: list[Change], args: tuple[Expr, ...]) -> Change | None:
        a, b = c
        if a.scaled or b.scaled:
            return _agree(a, b)
        return _sum([(1.0, a), (sign, b)], False)

    return rule


def _multiply(c: list[Change], args: tuple[Expr, ...]) -> Change | None:
    a, b = c
    if a.zero or b.zero:
        return ZERO
    if (a.scaled or a.still) and (b.scaled or b.still):
        return _sum([(1.0, a), (1.0, b)], True)
    for change, other in ((a, args[1]), (b, args[0])):
        if isinstance(other, Const) and not change.scaled:
            return _sum([(float(other.value), change)], False)
    return None


def _divide(c: list[Change], args: tuple[Expr, ...]) -> Change | None:
    a, b = c
    if a.zero:
        return ZERO
    if (a.scaled or a.still) and (b.scaled or b.still):
        return _sum([(1.0, a), (-1.0, b)], True)
    if isinstance(args[1], Const) and args[1].value:
        return _sum([(1 / float(args[1].value), a)], False)
    return None


def _power(c: list[Change], args: tuple[Expr, ...]) -> Change | None:
    if c[0].scaled and isinstance(args[1], Const):
        return _sum([(float(args[1].value), c[0])], True)
    return None


def _exp(base: float) -> Rule:
    def rule(c: list[Change], args: tuple[Expr, ...]) -> Change | None:
        return None if c[0].scaled else _sum([(math.log(base), c[0])], True)

    return rule


def _log(base: float) -> Rule:
    def rule(c: list[Change], args: tuple[Expr, ...]) -> Change | None:
        return _sum([(1 / math.log(base), c[0])], False) if c[0].scaled else None

    return rule


def _root(power: float) -> Rule:
    def rule(c: list[Change], args: tuple[Expr, ...]) -> Change | None:
        return _sum([(power, c[0])], True) if c[0].scaled else None

    return rule


def _linear(c: list[Change], args: tuple[Expr, ...]) -> Change | None:
    return _sum([(-1.0, c[0])], False) if not c[0].scaled else c[0]


def _default(c: list[Change], args: tuple[Expr, ...]) -> Change | None:
    return _agree(c[0], c[1])


def _extremes(c: list[Change], args: tuple[Expr, ...]) -> Change | None:
    return c[0] if all(x == c[0] for x in c) else None


RULES: dict[str, Rule] = {
    "+": _add(1.0),
    "-": _add(-1.0),
    "*": _multiply,
    "/": _divide,
    "**": _power,
    "neg": _linear,
    "exp": _exp(math.e),
    "exp2": _exp(2.0),
    "log": _log(math.e),
    "log2": _log(2.0),
    "sqrt": _root(0.5),
    "rsqrt": _root(-0.5),
    "??": _default,
    "max": _extremes,
    "min": _extremes,
}


def _infinite(e: Expr) -> bool:
    if isinstance(e, Map) and e.op == "neg":
        return _infinite(e.args[0])
    return isinstance(e, Const) and isinstance(e.value, float) and math.isinf(e.value)


def _by_conditions(change: Change, conditions: tuple[Expr, ...]) -> Change:
    """Under `x == y` a key may say y for x: a sum over the points of a group."""
    for condition in conditions:
        match condition:
            case Map("==", (x, Coordinate() as y)) | Map("==", (Coordinate() as y, x)):
                by = tuple(
                    ((name, tuple(y if i == x else i for i in index)), n)
                    for (name, index), n in change.by
                )
                change = Change(by, change.scaled, change.spoilt, change.zero)
    return change
