"""A name for every part of a statement whose value its derivative needs.

Reductions, selections, nonlinear functions and quotients inside a larger expression become
statements of their own; equal parts become one. Giving a part a name never changes its meaning
(docs/language.md, "Absence"). Afterwards a statement is a reduction of a pointwise expression, a
selection of one, or a pointwise expression. A recurrence writes its new value first
(`S_next[i] = ...`, `S[i+1] = S_next[i]`), so that a statement that reads `S[i+1]` reads the value
of its own step.
"""

from __future__ import annotations

from dataclasses import replace

from cascade.gradients.build import at
from cascade.gradients.names import Names
from cascade.ir.cascade import Cascade, Einsum
from cascade.ir.expr import Coordinate, Expr, Map, Read, Reduce, Select, Where
from cascade.ir.ops import MAPS
from cascade.ir.order import offset
from cascade.ir.walk import children, free_ranks, reads, rebuild, transform

PLAIN = {"+", "-", "*", "neg", "??", "min", "max", "relu", "abs", "sign"}
UNTOUCHED = {"integer", "compare"}  # kinds of work whose operands carry no gradient


def flatten(cascade: Cascade, names: Names) -> Cascade:
    """The same cascade in small statements, under the names it has."""
    return _Flatten(_next_values(cascade, names), names).cascade()


class _Flatten:
    def __init__(self, cascade: Cascade, names: Names):
        self.source = cascade
        self.names = names
        self.found: list[Einsum] = []
        self.known: dict[Expr, Read] = {}
        self.current: Einsum | None = None

    def cascade(self) -> Cascade:
        for e in self.source.einsums:
            if not e.init and e.step is None and set(free_ranks(e.body)) == set(e.ranks):
                if _named(e.body) and not any(r.tensor == e.tensor for r in reads(e.body)):
                    self.known.setdefault(e.body, at(e.tensor, e.ranks))
        for e in self.source.einsums:
            self.current = e
            body = self._top(e)
            if e.tensor in {r.tensor for r in self.known.values()} and _named(body):
                self.known.setdefault(body, at(e.tensor, e.ranks))
            self.found.append(replace(e, body=body))
        return replace(self.source, einsums=tuple(self.found))

    def _top(self, e: Einsum) -> Expr:
        body = e.body
        if isinstance(body, Reduce) and not set(body.ranks) & set(e.ranks):
            return replace(body, body=self._parts(body.body))
        if isinstance(body, Select) and (body.rank not in e.ranks or body.op == "order"):
            return replace(body, body=self._parts(body.body))
        if isinstance(body, Map):
            return self._children(body)
        return self._parts(body)

    def _children(self, e: Expr) -> Expr:
        match e:
            case Where(body, condition):
                return replace(e, body=self._parts(body), condition=self._condition(condition))
            case Map("select", (choice, yes, no)):
                return rebuild(e, (self._condition(choice), self._parts(yes), self._parts(no)))
            case Map(op, args) if not _carries(op):
                return e
            case Map(_, args):
                return rebuild(e, tuple(self._parts(a) for a in args))
            case Reduce() | Select():
                return replace(e, body=self._parts(e.body))
            case _:
                return e

    def _condition(self, e: Expr) -> Expr:
        """A condition whose reductions are reads: no gradient passes, but equal ones are one."""
        if isinstance(e, Reduce | Select):
            return self._parts(e)
        return rebuild(e, tuple(self._condition(c) for c in children(e)))

    def _parts(self, e: Expr) -> Expr:
        """An expression whose named parts are reads of their own statements."""
        whole = self.known.get(e)
        if whole is not None and self.current is not None and whole.tensor != self.current.tensor:
            return whole
        inner = self._children(e)
        read = {r.tensor for r in reads(inner)}
        bare = not read and not isinstance(inner, Select)
        if not _named(inner) or bare or (self.current and self.current.tensor in read):
            return inner
        assert self.current is not None
        if inner in self.known and self.known[inner].tensor == self.current.tensor:
            return inner
        if inner not in self.known:
            ranks = free_ranks(inner)
            word = inner.op if isinstance(inner, Reduce | Select) else _word(inner)
            name = self.names.tensor(f"{self.current.tensor}_{word}")
            self.known[inner] = at(name, ranks)
            self.found.append(Einsum(name, ranks, inner, span=self.current.span))
        return self.known[inner]


def _carries(op: str) -> bool:
    """Whether a gradient can pass through a map."""
    return MAPS[op].gives != "bool" and MAPS[op].gives != "int"


def _named(e: Expr) -> bool:
    match e:
        case Reduce() | Select():
            return True
        case Map("/", (_, below)):
            return any(True for _ in reads(below))
        case Map(op, _):
            return op not in PLAIN and _carries(op)
        case _:
            return False


def _word(e: Expr) -> str:
    assert isinstance(e, Map)
    return {"/": "ratio", "**": "power"}.get(e.op, e.op)


def _next_values(cascade: Cascade, names: Names) -> Cascade:
    """`S[i+1] = body` as `S_next[i] = body` and `S[i+1] = S_next[i]`; reads of `S[i+1]` follow."""
    made: dict[str, Einsum] = {}
    for e in cascade.einsums:
        if e.step is not None and not e.init:
            made[e.tensor] = e
    if not made:
        return cascade
    new = {t: names.tensor(f"{t}_next") for t in made}

    def rule(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.tensor not in made:
            return None
        update = made[node.tensor]
        assert update.step is not None
        rank = update.ranks[update.step]
        if offset(node.index[update.step], rank) != 1:
            return None
        index = list(node.index)
        index[update.step] = Coordinate(rank)
        return replace(node, tensor=new[node.tensor], index=tuple(index))

    found: list[Einsum] = []
    for e in cascade.einsums:
        body = transform(e.body, rule)
        if e.step is not None and not e.init:
            found.append(replace(e, tensor=new[e.tensor], step=None, body=body))
            body = at(new[e.tensor], e.ranks)
        found.append(replace(e, body=body))
    return replace(cascade, einsums=tuple(found))
