"""Exactly where an expression is present: the conjuncts over ranks, symbols and integer reads.

Conditions that have no such form (a `??`, a `select` between maskable values, a selection past its
points) are asked of the value itself: `x == x or x != x` is true where x is present, and unknown
elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from cascade.analysis.normalise import Step
from cascade.ir.affine import always, divisible
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.ops import DECIDING, MAPS, REDUCERS
from cascade.ir.printer import print_expr
from cascade.ir.walk import (
    bound_ranks,
    children,
    conjunction,
    conjuncts,
    free_ranks,
    rebuild,
    substitute,
    walk,
)


class Presence:
    """Presence of the tensors and expressions of a cascade in normalised steps."""

    def __init__(self, cascade: Cascade, steps: tuple[Step, ...]):
        self.cascade = cascade
        self.steps = {s.target: s for s in steps}
        self.recurring = {
            s.target for s in steps if s.recurs is not None or s.iterative is not None
        }
        self.known: dict[str, tuple[Expr, ...] | None] = {}
        self.divides = divisible(cascade)

    @classmethod
    def as_written(cls, cascade: Cascade, steps: tuple[Step, ...]) -> Self:
        """Conditions in the names of the cascade alone, nested reductions as they stand."""
        whole = (replace(s, op=None, bound=(), body=s.einsum.body) for s in steps if s.named)
        return cls(cascade, tuple(whole))

    def of(self, e: Expr) -> tuple[Expr, ...]:
        """Conjuncts that together hold exactly where `e` is present."""
        return tuple(self._of(e))

    def _of(self, e: Expr) -> dict[Expr, None]:
        match e:
            case Where(body, condition):
                found = self._of(body)
                for part in conjuncts(condition):
                    found.setdefault(part)
                return found
            case Read():
                return self._read(e)
            case Map(op, args) if MAPS[op].absence != "strict":
                return self._joined(e, op, args)
            case Reduce(op, bound, body):
                if REDUCERS[op].identity is None:
                    return {is_present(e): None}
                return {c: None for c in self._of(body) if not set(bound) & set(free_ranks(c))}
            case Select():
                return {is_present(e): None}
            case _:
                found = {}
                for child in children(e):
                    found.update(self._of(child))
                return found

    def _joined(self, e: Map, op: str, args: tuple[Expr, ...]) -> dict[Expr, None]:
        """Operands with absence of their own join it into one condition on all their ranks, which
        has a form of its own where every way to be present asks for the same.
        """
        ways = [self._of(a) for a in args]
        if not any(ways) or (op == "??" and not all(ways)):
            return {}
        if op == "select":
            choice, yes, no = ways
            ways = [{**choice, **yes}, {**choice, **no}]
        parts = [dict.fromkeys(p for c in way for p in _parts(c)) for way in ways]
        found = parts[0]
        if all(set(found) == set(way) for way in parts):
            ranks = {r for x in (*found, *args[: DECIDING[op]]) for r in free_ranks(x)}
            if all(set(free_ranks(c)) == ranks for c in found):
                return found
            return {_as_one(tuple(found), ranks): None}
        return {is_present(e): None}

    def passing(self, e: Expr, bound: tuple[str, ...]) -> list[Expr]:
        """Conditions on `e` under which a reduction of it would be absent."""
        return [c for c in self._of(e) if not set(bound) & set(free_ranks(c))]

    def bounds(self, e: Read, value: Expr) -> tuple[Expr, ...]:
        """Bounds of the index of a read that `value`, written for it, does not have itself."""
        own = self._of(value)
        return tuple(c for c in self._bounds(e) if c not in own)

    def hides(self, e: Expr) -> bool:
        """Whether a map inside has absence that only its value tells of."""
        if isinstance(e, Map) and MAPS[e.op].absence != "strict":
            if is_present(e) in self._of(e):
                return True
            if e.op == "??" and any(self._of(a) for a in e.args) and not self._chosen_by(e):
                return True
        return any(self.hides(c) for c in children(e))

    def _chosen_by(self, e: Map) -> tuple[Expr, ...]:
        """Conjuncts that say which side of a `??` counts, where they are never unknown."""
        found = tuple(self._of(e.args[0]))
        unknown = any(self._of(c) for c in found)
        return () if unknown or self._of(e.args[1]) else found

    def chosen(self, e: Expr) -> Expr:
        """`x ?? y` as a choice by the conditions on x, where they are plain."""
        e = rebuild(e, tuple(self.chosen(c) for c in children(e)))
        if isinstance(e, Map) and e.op == "??":
            conditions = self._chosen_by(e)
            if conditions:
                return Map("select", (conjunction(conditions), *e.args), e.span)
        return e

    def _read(self, e: Read) -> dict[Expr, None]:
        found: dict[Expr, None] = {}
        for index in e.index:
            found.update(self._of(index))
        if e.tensor not in self.steps and e.tensor not in self.cascade.tensors:
            return found  # a running value: always there
        for part in self._bounds(e):
            found.setdefault(part)
        step = self.steps.get(e.tensor)
        if step is None:
            return found
        own = self._tensor(step)
        if own is None:
            found.setdefault(is_present(e))
            return found
        values = dict(zip(step.ranks, e.index, strict=True))
        if any(_captures(part, values) for part in own):
            return {is_present(e): None}
        for part in own:
            found.setdefault(substitute(part, values))
        return found

    def _bounds(self, e: Read) -> list[Expr]:
        """0 <= index < extent, where it is not plain from the ranks."""
        step = self.steps.get(e.tensor)
        ranks = step.ranks if step is not None else self.cascade.tensors[e.tensor].ranks
        slot = None if step is None else step.iterative
        found: list[Expr] = []
        partitions = {p.expression for p in self.cascade.partitions}
        sizes = {Const(0), *(r.extent for r in self.cascade.ranks)}  # never negative
        for place, (rank, index) in enumerate(zip(ranks, e.index, strict=True)):
            extent = self.cascade.rank[rank].extent
            if place == slot:  # the start, and one for each step
                extent = Map("+", (extent, Const(1)))
            if isinstance(index, Coordinate):
                own = self.cascade.rank.get(index.rank)  # none: a copy of a rank, just made
                if index.rank != rank and own is not None and own.extent != extent:
                    found.append(Map("<", (index, extent)))
                continue
            if (
                isinstance(index, Const)
                and isinstance(extent, Const)
                and 0 <= index.value < extent.value
            ):
                continue
            if index not in partitions and index not in sizes:
                found.append(Map("<=", (Const(0), index)))
            found.append(Map("<", (index, extent)))
        return [c for c in found if not always(c, self._extent, self.divides)]

    def _extent(self, rank: str) -> Expr:
        known = self.cascade.rank.get(rank)  # none of a rank that a rewrite has just made
        return Symbol(f"the extent of {rank}") if known is None else known.extent

    def _tensor(self, step: Step) -> tuple[Expr, ...] | None:
        """Conjuncts over a tensor's own ranks; None where they have no such form."""
        if step.target in self.known:
            return self.known[step.target]
        result: tuple[Expr, ...] | None
        if step.target in self.recurring:
            result = None
        elif step.op is not None and REDUCERS.get(step.op) is None:
            result = None
        else:
            found = self._of(step.body)
            bound = set(step.bound)
            if step.op is not None and REDUCERS[step.op].identity is None:
                result = None
            else:
                result = tuple(c for c in found if not bound & set(free_ranks(c)))
        self.known[step.target] = result
        return result


def _as_one(parts: tuple[Expr, ...], ranks: set[str]) -> Expr:
    """One condition on all the ranks: `x and y or p < 0`."""
    result = conjunction(parts)
    for r in sorted(ranks):
        result = Map("or", (result, Map("<", (Coordinate(r), Const(0)))))
    return result


def _parts(condition: Expr) -> tuple[Expr, ...]:
    """The conjuncts of what `_as_one` has made."""
    match condition:
        case Map("or", (rest, Map("<", (Coordinate(), Const(0))))):
            return _parts(rest)
    return conjuncts(condition)


def _captures(e: Expr, values: dict[str, Expr]) -> bool:
    """Whether a rank of the values has another meaning inside `e`."""
    bound = {r for node in walk(e) for r in bound_ranks(node)}
    along = {node.target for node in walk(e) if isinstance(node, Select)}
    if any(r in along and v != Coordinate(r) for r, v in values.items()):
        return True
    return bool(bound) and any(bound & set(free_ranks(v)) for v in values.values())


def is_present(e: Expr) -> Expr:
    """True where `e` is present (NaN included), unknown elsewhere."""
    return Map("or", (Map("==", (e, e)), Map("!=", (e, e))))


def print_condition(condition: Expr) -> str:
    """The text of a condition; that a value is present is said in words."""
    match condition:
        case Map("or", (Map("==", (e, same)), _)) if e == same and condition == is_present(e):
            return f"the presence of {print_expr(e)}"
    return print_expr(condition)
