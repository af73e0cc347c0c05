"""From the point of a statement to the point of a tensor that it reads.

A statement at ranks r reads T[x(r)]. Its term for T at t is the sum over all r with x(r) = t. An
index that can be solved for a rank replaces it (`first(p) + w = t` gives `w = t - first(p)`, with
its bounds as conditions, and the parts of a partition are quotient and remainder); any other stays
as a condition of the sum, which is what a scatter is in this language.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from cascade.gradients.build import ZERO, compare, minus, plus
from cascade.gradients.names import Names
from cascade.gradients.pull import Pulled
from cascade.gradients.term import Term
from cascade.ir.affine import grouped
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read
from cascade.ir.walk import bound_ranks, free_ranks, reads, substitute, walk

MARK = "'"  # ends the names of ranks while they are not yet those of the result


class Solve:
    """Terms over the ranks of the tensors they belong to."""

    def __init__(self, cascade: Cascade, names: Names):
        self.cascade = cascade
        self.names = names
        self.copies: dict[tuple[str, int], str] = {}
        self.slots: dict[str, str] = {}
        self.groups: dict[tuple[str, Expr], str] = {}
        self.members: set[str] = set()
        self.partitions = {p.expression: p for p in cascade.partitions}

    def left(self, tensor: str) -> tuple[str, ...]:
        """Ranks for the points of a tensor, none of them twice."""
        t = self.cascade.tensors.get(tensor)
        found: list[str] = []
        for n, rank in enumerate(() if t is None else t.ranks):
            if t is not None and n == t.iterative:
                rank = self.slot(rank)
            found.append(self.copy(rank, found) if rank in found else rank)
        return tuple(found)

    def slot(self, rank: str) -> str:
        """A rank for the slots of a state that steps along a rank: one coordinate more."""
        if rank not in self.slots:
            self.slots[rank] = self.names.rank(rank, plus(self.names.last(rank), Const(1)))
        return self.slots[rank]

    def copy(self, rank: str, taken: Container[str]) -> str:
        """Another rank of the same extent."""
        n = 0
        while True:
            if (rank, n) not in self.copies:
                self.copies[rank, n] = self.names.rank(rank, self.names.last(rank))
            if self.copies[rank, n] not in taken:
                return self.copies[rank, n]
            n += 1

    def term(self, pulled: Pulled, left: tuple[str, ...]) -> Term:
        """The term with free ranks `left`, everything else summed."""
        term = pulled.term
        ranks = tuple(dict.fromkeys((*pulled.scope, *term.bound)))
        marked = {r: r + MARK for r in ranks}
        values: dict[str, Expr] = {r: Coordinate(m) for r, m in marked.items()}
        term = replace(term.moved(values), bound=())
        index = [substitute(i, values) for i in pulled.index]
        solved: dict[str, Expr] = {}
        extra: list[Expr] = []
        rest = list(zip(left, index, strict=True))
        for step in (self._plain, self._parts, self._affine, self._group):
            kept = []
            for target, x in rest:
                x = substitute(x, solved)
                if not step(target, x, solved, extra):
                    kept.append((target, x))
            rest = kept
        for target, x in rest:
            extra.append(compare("==", substitute(x, solved), Coordinate(target)))
        settled = _settle(solved)
        term = term.moved(settled).times((), tuple(substitute(c, settled) for c in extra))
        open_ranks = [r for r in ranks if marked[r] not in solved]
        found = self._unmark(self._tidied(term), open_ranks, left)
        members = [r for v in settled.values() for r in free_ranks(v) if r in self.members]
        return found.over(dict.fromkeys(members))

    def _tidied(self, term: Term) -> Term:
        """Coordinates of groups and members in their shortest form."""
        if not self.members:
            return term
        read = grouped(term.read, self._extent)
        assert isinstance(read, Read)
        return replace(
            term,
            read=read,
            factors=tuple((grouped(e, self._extent), n) for e, n in term.factors),
            conditions=tuple(grouped(c, self._extent) for c in term.conditions),
        )

    def _extent(self, rank: str) -> Expr:
        return self.names.extent(rank.removesuffix(MARK))

    def _plain(self, target: str, x: Expr, solved: dict[str, Expr], extra: list[Expr]) -> bool:
        if not isinstance(x, Coordinate) or not x.rank.endswith(MARK) or x.rank in solved:
            return False
        solved[x.rank] = Coordinate(target)
        rank = x.rank[: -len(MARK)]
        if self.names.extent(rank) != self.names.extent(target):
            extra.append(compare("<", Coordinate(target), self.names.last(rank)))
        return True

    def _parts(self, target: str, x: Expr, solved: dict[str, Expr], extra: list[Expr]) -> bool:
        """`m1*M0 + m0 = m`: the tile and the place in it."""
        plain = substitute(x, {r + MARK: Coordinate(r) for r in self.names.ranks})
        partition = self.partitions.get(plain)
        if partition is None or any(p + MARK in solved for p in partition.parts):
            return False
        rest: Expr = Coordinate(target)
        for n, part in enumerate(reversed(partition.parts)):
            size = self.names.last(part)
            outermost = n == len(partition.parts) - 1
            solved[part + MARK] = rest if outermost else Map("%", (rest, size))
            rest = Map("//", (rest, size))
        return True

    def _affine(self, target: str, x: Expr, solved: dict[str, Expr], extra: list[Expr]) -> bool:
        found = isolate(x, Coordinate(target))
        if found is None:
            return False
        rank, value = found
        solved[rank] = value
        extra.append(compare("<=", ZERO, value))
        extra.append(compare("<", value, self.names.last(rank[: -len(MARK)])))
        return True

    def _group(self, target: str, x: Expr, solved: dict[str, Expr], extra: list[Expr]) -> bool:
        """`h // n = g`: the members of a group of n, along a rank of their own."""
        match x:
            case Map("//", (Coordinate(rank), size)) if rank.endswith(MARK):
                if rank in solved or free_ranks(size) or any(True for _ in reads(size)):
                    return False
            case _:
                return False
        own = rank[: -len(MARK)]
        if (own, size) not in self.groups:
            member = self.names.rank(own, size)
            self.groups[own, size] = member
            self.members.add(member)
        value = plus(Map("*", (Coordinate(target), size)), Coordinate(self.groups[own, size]))
        solved[rank] = value
        extra.append(compare("<", value, self.names.last(own)))
        return True

    def _unmark(self, term: Term, bound: list[str], left: tuple[str, ...]) -> Term:
        """The summed ranks under their own names, or under new ones where those are taken."""
        taken = set(left) | {r for r in term.ranks() if not r.endswith(MARK)}
        names: dict[str, str] = {}
        for rank in bound:
            away = taken | _bound_around(rank + MARK, term)
            names[rank + MARK] = rank if rank not in away else self.copy(rank, away)
            taken.add(names[rank + MARK])
        return replace(term, bound=tuple(r + MARK for r in bound)).renamed(names)


def _bound_around(rank: str, term: Term) -> set[str]:
    """The ranks that a rank cannot be named as: those of reductions in the term that mention it."""
    nodes = (n for part in term.parts() for n in walk(part) if bound_ranks(n))
    return {r for n in nodes if rank in free_ranks(n) for r in bound_ranks(n)}


def _settle(solved: dict[str, Expr]) -> dict[str, Expr]:
    """Solutions that mention no rank that was solved later."""
    found = dict(solved)
    for _ in solved:
        for rank, value in found.items():
            others = {r: v for r, v in found.items() if r != rank}
            found[rank] = substitute(value, others)
    return found


def isolate(x: Expr, target: Expr) -> tuple[str, Expr] | None:
    """`rank` and its value if `x == target`, where a rank occurs once, with coefficient 1 or -1."""
    if isinstance(x, Coordinate):
        return (x.rank, target) if x.rank.endswith(MARK) else None
    match x:
        case Map("+", (a, b)):
            for one, other in ((a, b), (b, a)):
                found = isolate(one, minus(target, other))
                if found is not None and found[0] not in free_ranks(other):
                    return found
        case Map("-", (a, b)):
            found = isolate(a, plus(target, b))
            if found is not None and found[0] not in free_ranks(b):
                return found
            found = isolate(b, minus(a, target))
            if found is not None and found[0] not in free_ranks(a):
                return found
    return None
