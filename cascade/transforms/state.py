"""The state of a streamed pass: accumulators with their anchors, and what is done with them.

A state has an identity, is made from any set of points (`lift`), is merged with another (`merge`,
associative and commutative), and gives the results at the end (`finalise`). A loop, a tree, a
prefix scan and a combine across devices are all uses of `merge`. Here each part is written as
Einsum statements over names that the caller chooses, so that the loop of a kernel and the cascades
`lift`, `merge` and `finalise` (`parts.py`) come from the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import comb

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Where
from cascade.ir.ops import REDUCERS
from cascade.ir.walk import conjunction, free_ranks, transform
from cascade.transforms.fuse import MAX, MEAN, Accumulator, Anchor, Plan
from cascade.transforms.normal_form import Poly
from cascade.transforms.ranges import LOWEST
from cascade.transforms.spell import to_expr

Name = Callable[[str], Expr]  # the value of a state component, in the statement being written


@dataclass(frozen=True)
class Component:
    """A tensor of the state: its ranks, its reducer and its identity."""

    name: str
    ranks: tuple[str, ...]
    op: str

    @property
    def identity(self) -> Expr:
        identity = REDUCERS[self.op].identity
        return Const(identity if identity is not None else 0)


@dataclass(frozen=True)
class State:
    """The components of one pass. A mean anchor is kept as a count and a sum; a weighted one is
    the quotient of two accumulators, which come before those that it shifts.
    """

    plan: Plan
    number: int
    anchors: tuple[Anchor, ...]
    accumulators: tuple[Accumulator, ...]

    @property
    def transported(self) -> set[str]:
        """Accumulators that move with an anchor, or that the transport of another reads."""
        found = {a.name for a in self.accumulators if a.powers}
        found |= {name for a in self.anchors for name in a.weights or ()}
        for a in self.accumulators:
            found |= (
                {_component_of(self, a, low).name for _, low, _ in _expansion(a)}
                if a.powers
                else set()
            )
        return found

    @property
    def components(self) -> tuple[Component, ...]:
        found: list[Component] = []
        for a in self.anchors:
            op = "max" if a.kind == MAX else "sum"
            found += [Component(name, a.ranks, op) for name in component_names(a)]
        found += [Component(b.name, b.ranks, b.op) for b in self.accumulators]
        return tuple(found)


def count_name(anchor: Anchor) -> str:
    return f"{anchor.name}n"


def sum_name(anchor: Anchor) -> str:
    return f"{anchor.name}s"


def component_names(anchor: Anchor) -> tuple[str, ...]:
    """The components that an anchor has of its own."""
    if anchor.kind == MAX:
        return (anchor.name,)
    return () if anchor.weights is not None else (count_name(anchor), sum_name(anchor))


def kappa(anchor: Anchor, value: Name) -> Expr:
    """What is subtracted: the anchor where it is finite, 0 where there is nothing yet."""
    if anchor.kind == MAX:
        top = value(anchor.name)
        return Map("select", (_finite(top), top, Const(0)))
    number, total = map(value, anchor.weights or component_names(anchor))
    return Map("select", (Map(">", (number, Const(0))), Map("/", (total, number)), Const(0)))


def _finite(e: Expr) -> Expr:
    return Map("and", (Map("<", (Const(float("-inf")), e)), Map("<", (e, Const(float("inf"))))))


def shifted(accumulator: Accumulator, anchors: dict[str, Anchor], shift: Name) -> Expr:
    """chi of an accumulator, with u = x - kappa written out. `shift` gives kappa by anchor name."""
    degrees = {name: degree for name, degree, _ in accumulator.powers}
    slopes = {name: slope for name, _, slope in accumulator.powers}

    def rule(e: Expr) -> Expr | None:
        if isinstance(e, Read) and e.tensor.endswith("#u"):
            name = e.tensor[:-2]
            u: Expr = Map("-", (anchors[name].value, shift(name)))
            if degrees.get(name) and slopes.get(name):
                u = _no_lower(u, slopes[name])
            return u
        return None

    return transform(to_expr(accumulator.chi), rule)


def _no_lower(u: Expr, slope: Fraction) -> Expr:
    """u as a factor beside exp(slope * u): no lower than where that is 0, as `-inf * 0` is NaN and
    so is the power of a large number that overflows.
    """
    return Map("max", (u, Const(math.floor(LOWEST / slope))))


def lift_anchor(anchor: Anchor, component: Component, bound: tuple[str, ...]) -> Expr:
    """The value of an anchor's component over the points of `bound`."""
    value = anchor.value
    if component.name == anchor.name:
        return Reduce("max", bound, guarded(value, anchor.present))
    if component.name == sum_name(anchor):
        return Reduce("sum", bound, guarded(value, anchor.present))
    return Reduce("count", bound, guarded(value, anchor.present))


def guarded(value: Expr, present: tuple[Expr, ...]) -> Expr:
    return Where(value, conjunction(present)) if present else value


def moved(
    accumulator: Accumulator,
    state: State,
    old: Name,
    new: Name,
    factor: Callable[[str], Expr] | None = None,
    shift: Callable[[Anchor, Name], Expr] = kappa,
) -> Expr:
    """An accumulator of anchor values `old`, expressed at anchor values `new` (the transport).

    A_j' = exp(beta d) * sum_i binom(j, i) d^(j-i) A_i with d = kappa - kappa', for each anchor.
    `factor` may name exp(d) of an anchor, computed once; `shift` gives kappa.
    """
    anchors = {a.name: a for a in state.anchors}
    result: Expr | None = None
    for coefficient, lower, drops in _expansion(accumulator):
        term: Expr = old(_component_of(state, accumulator, lower).name)
        for name, drop, slope in drops:
            anchor = anchors[name]
            d = Map("-", (shift(anchor, old), shift(anchor, new)))
            if slope:
                decay = factor(name) if factor is not None else decayed(anchor, old, new)
                term = Map("*", (term, _power(decay, slope)))
            if drop:
                step = _no_lower(d, slope) if slope and anchor.kind == MAX else d
                term = Map("*", (term, _power(step, Fraction(drop))))
        if coefficient != 1:
            term = Map("*", (Const(coefficient), term))
        result = term if result is None else Map("+", (result, term))
    assert result is not None
    return result


def decayed(anchor: Anchor, old: Name, new: Name) -> Expr:
    """exp(d) of a running maximum; 0 while there was nothing, so that the identity stays the
    identity.
    """
    before, after = old(anchor.name), new(anchor.name)
    there = Map("<", (Const(float("-inf")), before))
    return Map("select", (there, Map("exp", (Map("-", (before, after)),)), Const(0)))


def _power(e: Expr, n: Fraction) -> Expr:
    if n == 1:
        return e
    return Map("**", (e, Const(int(n) if n.denominator == 1 else float(n))))


Drops = tuple[tuple[str, int, Fraction], ...]


def _expansion(accumulator: Accumulator) -> list[tuple[int, dict[str, int], Drops]]:
    """(binomial, degrees of the lower accumulator, powers of d) for each term of the transport."""
    terms: list[tuple[int, dict[str, int], Drops]] = [(1, {}, ())]
    for name, degree, slope in accumulator.powers:
        terms = [
            (c * comb(degree, i), {**low, name: i}, (*drops, (name, degree - i, slope)))
            for c, low, drops in terms
            for i in range(degree, -1, -1)
        ]
    return terms


def _component_of(state: State, accumulator: Accumulator, degrees: dict[str, int]) -> Accumulator:
    """The accumulator of the same family with these degrees."""
    want = tuple(
        (name, degrees[name], slope)
        for name, _, slope in accumulator.powers
        if degrees[name] or slope
    )
    if want == accumulator.powers:
        return accumulator
    chi = lowered_chi(accumulator, degrees)
    for other in state.accumulators:
        if other.powers == want and other.chi == chi and other.present == accumulator.present:
            return other
    raise AssertionError(f"no accumulator of lower degree for {accumulator.name}")


def lowered_chi(accumulator: Accumulator, degrees: dict[str, int]) -> Poly:
    from cascade.transforms.normal_form import atom, multiply

    chi = accumulator.chi
    for name, degree, _ in accumulator.powers:
        drop = degree - degrees[name]
        if drop:
            chi = multiply(chi, atom(Read(f"{name}#u", ()), -drop))
    return chi


def merged(component: Component, state: State, a: Name, b: Name, ab: Name) -> Expr:
    """A component of the merge of two states; `ab` gives the merged anchors."""
    if any(component.name in component_names(anchor) for anchor in state.anchors):
        return combine(component.op, a(component.name), b(component.name))
    accumulator = next(x for x in state.accumulators if x.name == component.name)
    if not accumulator.powers:
        return combine(component.op, a(component.name), b(component.name))
    return Map("+", (moved(accumulator, state, a, ab), moved(accumulator, state, b, ab)))


COMBINE = {"sum": "+", "count": "+", "prod": "*", "any": "or", "all": "and"}


def combine(op: str, x: Expr, y: Expr) -> Expr:
    """The reducer as a binary map."""
    return Map(COMBINE.get(op, op), (x, y))


def at(e: Expr, coordinates: dict[str, Expr]) -> Expr:
    """Alias of substitution, for statements written at a tile."""
    from cascade.ir.walk import substitute

    return substitute(e, coordinates)


__all__ = [
    "MAX",
    "MEAN",
    "Component",
    "Coordinate",
    "State",
    "at",
    "combine",
    "component_names",
    "count_name",
    "decayed",
    "free_ranks",
    "guarded",
    "kappa",
    "lift_anchor",
    "merged",
    "moved",
    "shifted",
    "sum_name",
]
