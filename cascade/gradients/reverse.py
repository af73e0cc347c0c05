"""Reverse mode over the statements of a flattened cascade, last to first."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from cascade.diagnostics import fail
from cascade.gradients.build import ZERO, at, or_zero, plus, point
from cascade.gradients.hoist import Hoist
from cascade.gradients.names import Names
from cascade.gradients.pinned import pinned
from cascade.gradients.products import Products
from cascade.gradients.pull import Pull, Pulled
from cascade.gradients.record import Record
from cascade.gradients.rules import Factor
from cascade.gradients.solve import Solve
from cascade.gradients.stages import staged
from cascade.gradients.sums import Sums
from cascade.gradients.telescope import gate_of, telescoped
from cascade.gradients.term import Term
from cascade.ir.affine import always, divisible, from_end, simplified_indexes
from cascade.ir.cascade import Cascade, Einsum
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.order import Group, evaluation_order, offset
from cascade.ir.walk import free_ranks, reads, substitute
from cascade.transforms.presence import is_present
from cascade.transforms.present import Present


@dataclass
class Reverse:
    """Cotangent statements of a flattened cascade.

    `cotangents` names the input that arrives for each output, `active` the tensors and params that
    lie between a wanted input and an output.
    """

    cascade: Cascade
    names: Names
    presence_in: Callable[[Cascade], Present]
    active: frozenset[str]
    cotangents: Mapping[str, str]
    products: Products
    record: Record
    defer: bool = True
    statements: list[Einsum] = field(default_factory=list)
    forward: list[Einsum] = field(default_factory=list)  # what the gradient adds to the forward
    results: dict[str, str] = field(default_factory=dict)  # input -> its gradient

    def __post_init__(self) -> None:
        self.presence = self.presence_in(self.cascade)
        self.divides = divisible(self.cascade)
        self.solve = Solve(self.cascade, self.names)
        self.pull = Pull(self.presence, self.active, self._named, self.copy)
        self.hoist = Hoist(self)
        self.sums = Sums.of(self.cascade.einsums)
        self.pending: dict[str, list[Pulled]] = {}
        self.cotangent: dict[str, Term] = {}  # of a tensor at its own point
        self.made: dict[str, tuple[tuple[str, ...], tuple[Term, ...]]] = {}
        self.absence: dict[str, tuple[tuple[str, ...], tuple[Expr, ...]]] = {}
        self.known: dict[Expr, Read] = {}
        self.points: dict[tuple[str, ...], str] = {}  # ranks -> the rank of all their points
        self.quotients: dict[tuple[str, Expr], str] = {}  # rank, divisor -> the rank of quotients

    # -- the walk -------------------------------------------------------------------------------

    def run(self, wanted: Iterable[str]) -> None:
        for group in reversed(evaluation_order(self.cascade)):
            if group.rank is None:
                for e in group.einsums:
                    self._statement(e)
            else:
                self._recurrence(group, group.rank)
        for name in wanted:
            left = self.solve.left(name)
            terms = self._terms(name, left)
            result = self.names.tensor(f"d{name}")
            self.results[name] = result
            if terms:
                self.write(result, left, terms, frozenset())
            else:
                self.statements.append(Einsum(result, left, self._zero(name, left)))

    def _zero(self, name: str, left: tuple[str, ...]) -> Expr:
        """The gradient by what reaches no output but through conditions and indices.

        Raises `CascadeError` for a param that is an integer: it was never meant to be real.
        """
        param = next((p for p in self.cascade.params if p.name == name), None)
        if param is None:
            there = Map("select", (Map("==", (at(name, left), at(name, left))), ZERO, ZERO))
            return there if left else Map("*", (ZERO, at(name, left)))
        if isinstance(param.value, Const) and not isinstance(param.value.value, float):
            raise fail(
                "no-derivative",
                f"`{name}` is no real input: it only says which points there are",
                param.span,
                hints=("gradients are taken by real inputs and params",),
            )
        return Map("*", (Const(0.0), Symbol(name)))

    def _statement(self, e: Einsum) -> None:
        if e.tensor not in self.active:
            return
        term = self._cotangent(e)
        if term is not None:
            self._spread(e, term)

    def _spread(self, e: Einsum, term: Term) -> None:
        for pulled in self.pull.statement(e, term):
            self.pending.setdefault(pulled.tensor, []).append(pulled)

    def _cotangent(self, e: Einsum) -> Term | None:
        """The cotangent of a statement's left side; a statement of its own where it is a sum."""
        terms = self._terms(e.tensor, e.ranks)
        arrived = self.cotangents.get(e.tensor)
        if arrived is not None:
            whole = at(e.tensor, e.ranks)
            there = self.presence.of(whole)
            terms.append(Term(at(arrived, e.ranks), conditions=there))
        if not terms:
            return None
        if self.defer:
            terms = self.hoist.hoisted(e, terms)
        if len(terms) == 1 and terms[0].pointwise:
            return terms[0]
        name = self.names.tensor(f"d{e.tensor}")
        own = frozenset(self.presence.of(at(e.tensor, e.ranks)))
        self.write(name, e.ranks, terms, own)
        chosen = any(t.chosen for t in terms)
        term = Term(at(name, e.ranks), chosen=chosen)
        if chosen and _singular(e.body):  # never taken: its derivative may be infinite, times 0
            return term.times((), (Map("!=", (term.read, ZERO)),))
        return term

    def _terms(self, tensor: str, left: tuple[str, ...]) -> list[Term]:
        found = [self.solve.term(p, left) for p in self.pending.pop(tensor, [])]
        return [self.shortened(t) for t in found]

    def _holds(self, condition: Expr) -> bool:
        return always(condition, self.names.extent, self.divides)

    def ranks_of(self, tensor: str) -> tuple[str, ...]:
        """The ranks of a tensor of the forward cascade, or of a cotangent."""
        if tensor in self.made:
            return self.made[tensor][0]
        known = self.cascade.tensors.get(tensor)
        return () if known is None else known.ranks

    def shortened(self, term: Term) -> Term:
        """Products that have a name under it; no condition that a factor brings anyway."""
        self._meet_ranks()
        term = pinned(term, self.names, self.ranks_of)
        term = replace(term, factors=_cancelled(term.factors))
        term = self.sums.fold(replace(term, factors=self.products.fold(term.factors)))
        implied = {*self._brought(term), *_implied(term.conditions, self.names)}
        kept = (c for c in term.conditions if c not in implied)
        return replace(term, conditions=tuple(c for c in kept if not self._holds(c)))

    # -- statements -----------------------------------------------------------------------------

    def write(
        self, name: str, left: tuple[str, ...], terms: list[Term], there: frozenset[Expr]
    ) -> None:
        terms = [staged(t, name, left, self) for t in terms]
        body, absence = self.summed(terms, there)
        self.made[name] = (left, tuple(terms))
        self.absence[name] = (left, absence)
        self.statements.append(Einsum(name, left, body))

    def summed(self, terms: list[Term], there: frozenset[Expr]) -> tuple[Expr, tuple[Expr, ...]]:
        """The sum of terms, each 0 where it is absent and the tensor is not; where it is absent."""
        body: Expr | None = None
        absence: dict[Expr, None] = {}
        for term in terms:
            part, passing = term.expr(), self._passing(term)
            if len(terms) > 1 and not set(passing) <= there:
                part = or_zero(part)
            else:
                absence.update(dict.fromkeys(passing))
            body = part if body is None else plus(body, part)
        assert body is not None
        return body, tuple(absence)

    def _brought(self, term: Term) -> dict[Expr, None]:
        """Conditions that the factors and the cotangent of a term bring with them."""
        found: dict[Expr, None] = {}
        for e, _ in term.factors:
            found.update(dict.fromkeys(self.presence.of(e)))
        ranks, held = self.absence.get(term.read.tensor, ((), ()))
        values = dict(zip(ranks, term.read.index, strict=True)) if ranks else {}
        found.update({substitute(c, values): None for c in held})
        for rank, index in zip(self.ranks_of(term.read.tensor), term.read.index, strict=False):
            if not isinstance(index, Coordinate):
                bounds = Map("<=", (ZERO, index)), Map("<", (index, self.names.extent(rank)))
                found.update(dict.fromkeys(bounds))
        return {c: None for c in found if not self._holds(c)}

    def _passing(self, term: Term) -> tuple[Expr, ...]:
        """Conditions under which a term is absent.

        The presence of something unclear counts whatever its ranks: the reason may have fewer.
        """
        every = {**self._brought(term), **dict.fromkeys(term.conditions)}
        bound = set(term.bound)
        return tuple(
            c for c in every if not set(free_ranks(c)) & bound or self.presence.is_unclear(c)
        )

    def copy(self, rank: str, taken: Container[str]) -> str:
        """Another rank of the same extent, known to the analysis of presence."""
        name = self.solve.copy(rank, taken)
        self._meet_ranks()
        return name

    def _meet_ranks(self) -> None:
        if len(self.presence.cascade.ranks) != len(self.names.ranks):
            ranks = tuple(self.names.ranks.values())
            self.presence.cascade = replace(self.presence.cascade, ranks=ranks)

    def _named(self, stem: str, ranks: tuple[str, ...], body: Expr) -> Read:
        """A tensor of the forward cascade with this body: one that is there, or a new one."""
        for e in self.cascade.einsums:
            if e.body == body and e.ranks == ranks and e.step is None:
                return at(e.tensor, ranks)
        if body not in self.known:
            name = self.names.tensor(stem)
            self.forward.append(Einsum(name, ranks, body))
            every = tuple(self.names.ranks.values())
            einsums = (*self.cascade.einsums, *self.forward)
            whole = replace(self.cascade, ranks=every, einsums=einsums)
            self.presence = self.pull.presence = self.presence_in(whole)
            self.known[body] = at(name, ranks)
        return self.known[body]

    # -- recurrences ----------------------------------------------------------------------------

    def _recurrence(self, group: Group, rank: str) -> None:
        """The same recurrence from the last step to the first: step j is i = I - 1 - j.

        The cotangent of slot i of a state is slot I - i of its reverse, so that its own last slot
        is the cotangent of the start.
        """
        members = {e.tensor: e for e in group.einsums}
        if not set(members) & self.active:
            return
        back = self.names.rank(rank, self.names.last(rank))
        inits = {e.tensor: e for e in group.inits}
        gate = gate_of(self.cascade, group, self.active, self.cotangents) if self.defer else None
        if gate is not None and self.presence.of(gate.following.body):
            gate = None
        for t in members:
            if t in self.active:
                self.cotangent[t] = Term(self._reversed(members[t], rank))
        for e in reversed(group.einsums):
            if e.tensor not in self.active:
                continue
            readers = self._member(e, rank, back) if e.step is None else []
            if gate is not None and e is gate.following:
                telescoped(self, gate, readers, rank, back)
            else:
                self._spread(e, self.cotangent[e.tensor])
        for e in group.einsums:
            if e.step is not None and e.tensor in self.active:
                self._state(e, rank, back)
                if e.tensor in inits:
                    start = list(point(e.ranks))
                    start[e.step] = self.names.last(rank)
                    read = Read(self.cotangent[e.tensor].read.tensor, tuple(start))
                    self._spread(inits[e.tensor], Term(read))

    def _reversed(self, e: Einsum, rank: str) -> Read:
        """The cotangent of a member of a recurrence at its own point."""
        name = self.names.tensor(f"d{e.tensor}")
        return Read(
            name, tuple(self.flip(rank, rank) if r == rank else Coordinate(r) for r in e.ranks)
        )

    def flip(self, rank: str, coordinate: str) -> Expr:
        return from_end(self.names.last(rank), Coordinate(coordinate))

    def _turned(self, term: Term, rank: str, back: str) -> Term:
        """A term of step `rank` as one of step `back` of the reverse."""
        moved = term.moved({rank: self.flip(rank, back)})
        read = simplified_indexes(moved.read)
        assert isinstance(read, Read)
        return replace(
            moved,
            read=read,
            factors=tuple((simplified_indexes(e), n) for e, n in moved.factors),
            conditions=tuple(simplified_indexes(c) for c in moved.conditions),
        )

    def _member(self, e: Einsum, rank: str, back: str) -> list[Term]:
        """The cotangent of a tensor inside a recurrence, in reverse steps; what its readers send,
        in steps of the recurrence.
        """
        name = self.cotangent[e.tensor].read.tensor
        ranks = tuple(back if r == rank else r for r in e.ranks)
        own = [p for p in self.pending.get(e.tensor, [])]
        if any(r.tensor == e.tensor for r in reads(e.body)):  # forward substitution
            own += list(self.pull.statement(e, self.cotangent[e.tensor]))
            own = [p for p in own if p.tensor == e.tensor]
        self.pending[e.tensor] = own
        sent = self._terms(e.tensor, e.ranks)
        terms = [self._turned(t, rank, back) for t in sent]
        terms = [self._earlier(t, name, rank, back) for t in terms]
        arrived = self.cotangents.get(e.tensor)
        if arrived is not None:
            term = Term(at(arrived, e.ranks), conditions=self.presence.of(at(e.tensor, e.ranks)))
            terms.append(self._turned(term, rank, back))
            sent.append(term)
        if terms:
            self.write(name, ranks, terms, frozenset())
        else:
            self.statements.append(Einsum(name, ranks, ZERO))
        return sent

    def _earlier(self, term: Term, name: str, rank: str, back: str) -> Term:
        """A sum over later points of the tensor itself, as one over earlier points of the
        reverse.
        """
        if term.read.tensor != name or not term.bound:
            return term
        later = next((r for r in term.bound if self.names.extent(r) == self.names.last(rank)), None)
        if later is None:
            return term
        other = self.copy(rank, {*term.bound, *term.ranks()})
        turned = self._turned(replace(term, bound=()), later, other)
        return replace(
            turned,
            bound=tuple(other if r == later else r for r in term.bound),
            conditions=(
                *turned.conditions,
                Map("<", (Coordinate(other), Coordinate(back))),
            ),
        )

    def _state(self, e: Einsum, rank: str, back: str) -> None:
        """`dS[j+1]`: the terms of slot i = I - 1 - j; `dS[0]`: those of the end."""
        assert e.step is not None
        slot = e.step
        name = self.cotangent[e.tensor].read.tensor
        ranks = tuple(back if r == rank else r for r in e.ranks)
        here: list[Pulled] = []
        end: list[Pulled] = []
        elsewhere: list[Pulled] = []
        for p in self.pending.pop(e.tensor, []):
            x = p.index[slot]
            step = offset(x, rank) if rank in p.scope else None
            if step is not None and step <= 0:
                here.append(p)
            elif x == self.names.last(rank):
                end.append(p)
            else:
                elsewhere.append(p)
        outer = tuple(r for r in e.ranks if r != rank)
        self.pending[e.tensor] = here
        terms = [self._turned(t, rank, back) for t in self._terms(e.tensor, e.ranks)]
        last: list[Term] = []
        for p in end:
            others = tuple(i for n, i in enumerate(p.index) if n != slot)
            last.append(self.shortened(self.solve.term(replace(p, index=others), outer)))
        arrived = self.cotangents.get(e.tensor)
        if elsewhere or arrived is not None:
            whole = self._every_slot(e, elsewhere, arrived)
            index: list[Expr] = [
                Coordinate(r) if r != rank else self.flip(rank, back) for r in e.ranks
            ]
            terms.append(Term(Read(whole, tuple(index))))
            index[slot] = self.names.last(rank)
            last.append(Term(Read(whole, tuple(index))))
        start = self.summed(last, frozenset())[0] if last else Const(0.0)
        body = self.summed(terms, frozenset())[0] if terms else Const(0.0)
        if len(terms) == 1 and self._passing(terms[0]):
            body = or_zero(body)
        if len(last) == 1 and self._passing(last[0]):
            start = or_zero(start)
        self.statements.append(Einsum(name, ranks, start, slot, init=True))
        self.statements.append(Einsum(name, ranks, body, slot))

    def _every_slot(self, e: Einsum, pulled: list[Pulled], arrived: str | None) -> str:
        """What statements outside the step ask of any slot of a state."""
        left = self.solve.left(e.tensor)
        self.pending[e.tensor] = pulled
        terms = self._terms(e.tensor, left)
        if arrived is not None:
            terms.append(Term(at(arrived, left), conditions=self.presence.of(at(e.tensor, left))))
        name = self.names.tensor(f"d{e.tensor}_read")
        body = self.summed(terms, frozenset())[0]
        if len(terms) == 1 and self._passing(terms[0]):
            body = or_zero(body)
        self.statements.append(Einsum(name, left, body))
        return name


def _cancelled(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
    """The factors without any that stands above and below the line."""
    left = list(factors)
    for e, n in factors:
        if n == 1 and (e, -1) in left and (e, 1) in left:
            left.remove((e, 1))
            left.remove((e, -1))
    return tuple(left)


def _implied(conditions: tuple[Expr, ...], names: Names) -> set[Expr]:
    """What an equation `x == r` says besides: x is present, and within the extent of r."""
    found: set[Expr] = set()
    for c in conditions:
        match c:
            case Map("==", (x, Coordinate(r))) | Map("==", (Coordinate(r), x)):
                bounds = (Map("<=", (ZERO, x)), Map("<", (x, names.extent(r))))
                found |= {*bounds, *(is_present(n) for n in reads(x))}
            case Map("==", (Const(int(n)), x)):
                for other in conditions:
                    match other:
                        case Map("<=", (Const(int(low)), y)) if x == y and low <= n:
                            found.add(other)
                        case Map("<", (y, Const(int(high)))) if x == y and n < high:
                            found.add(other)
    return found


def _singular(e: Expr) -> bool:
    """Whether the derivative of a statement can be infinite at a finite point."""
    return isinstance(e, Map) and e.op in ("/", "log", "log2", "sqrt", "rsqrt", "**")
