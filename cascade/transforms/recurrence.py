"""First-order linear recurrences `S[i+1] = D_i S[i] + b_i` in chunks.

Unrolled, the state after a step is what it was before the chunk, decayed, and the inputs of the
chunk up to the step, each decayed since: a readout `q_i . S` is a quadratic form of the chunk and a
product with the state before it. Only the state at the ends of chunks is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cascade.ir.affine import from_end, simplified, simplified_indexes
from cascade.ir.cascade import Einsum
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce
from cascade.ir.order import evaluation_order, offset
from cascade.ir.printer import print_expr
from cascade.ir.walk import children, free_ranks, reads, rebuild, substitute
from cascade.transforms.decay import Decay, decay_of
from cascade.transforms.draft import NotChunkable, reads_inside
from cascade.transforms.normal_form import (
    Poly,
    from_terms,
    of_monomial,
)
from cascade.transforms.products import Opener
from cascade.transforms.spell import atom_expr, to_expr
from cascade.transforms.state_terms import StateTerms, Term, factors, is_setting
from cascade.transforms.tiles import add, filtered, mentions, sum_of_products, summed, times

Inputs = list[list[Expr]]  # products of factors, placed at a column of a chunk


def find_recurrences(opener: Opener) -> list[Recurrence | tuple[Einsum, NotChunkable]]:
    """The recurrences along an iterative rank, with those that step together refused."""
    found: list[Recurrence | tuple[Einsum, NotChunkable]] = []
    for group in evaluation_order(opener.draft.source):
        stepping = [e for e in group.einsums if e.step is not None]
        if not stepping:
            continue
        if len(stepping) > 1:
            names = ", ".join(e.tensor for e in stepping)
            refused = NotChunkable(names, "several states step together")
            found.append((stepping[0], refused))
            continue
        members = {e.tensor: e for e in group.einsums if e.step is None}
        found.append(Recurrence(opener, stepping[0], group.inits[0], members))
    return found


@dataclass(frozen=True)
class Row:
    """A rank that reads the state of step `step + shift`; `back` is the step of a row."""

    rank: str
    step: Expr  # what stands for the rank where the state's own rank steps
    back: Expr
    shift: int


class Recurrence:
    """One state, its update, and its readouts."""

    def __init__(self, opener: Opener, update: Einsum, init: Einsum, members: dict[str, Einsum]):
        assert update.step is not None
        self.opener, self.draft = opener, opener.draft
        self.update, self.init, self.members = update, init, members
        self.name = update.tensor
        self.slot = update.step
        self.rank = update.ranks[update.step]
        self.own = tuple(r for n, r in enumerate(update.ranks) if n != update.step)
        self.terms = StateTerms(opener, self.name, self.slot, self.rank, members)
        self.inputs: Inputs = []
        self.law = "chunk a recurrence"
        self.identities: list[str] = []
        self.conditions: list[tuple[str, str]] = []

    def rewrite(self) -> None:
        """Adds the statements of the chunks, and turns every reader of the state to them."""
        from cascade.transforms.delta import solve

        before = list(self.draft.einsums)
        with self.draft.attempt():
            self._prepare()
            if self.feedback:
                self.law = "chunk a recurrence with feedback"
                solve(self)
            self._state()
            self._readers(before)

    # -- the update, taken apart
    def _prepare(self) -> None:
        terms, inputs = self.terms.linear(self.update.body, 0, self.own)
        value = self._without_state(self.update.body)
        for c in self.opener.conditions(value, lambda r: False):
            if self.name not in {r.tensor for r in reads(c)}:
                raise NotChunkable(print_expr(c), "the update may be absent")
        here = tuple(Coordinate(r) for r in self.own)
        factor = Poly(frozenset())
        self.feedback: list[Term] = []
        for t in terms:
            if not t.bound and t.index == here:
                factor = from_terms([*factor.terms, *t.value.terms])
            elif t.bound:
                self.feedback.append(t)
            else:
                raise NotChunkable(
                    print_expr(self.read(t.index)), "the state is read at another place of its own"
                )
        if factor.is_zero and not self.feedback:
            raise NotChunkable(self.name, "a step does not read the state before it")
        self.tiles = self.draft.tiles(self.rank)
        factor_expr = self._factor(factor)
        self.decay: Decay = decay_of(self.opener, self.tiles, self.name, factor_expr)
        self.state_name = self.draft.fresh(f"{self.name}_state")
        self.inputs = [
            [self.tiles.at(f, self.rank, self.tiles.column) for f in factors] for factors in inputs
        ]
        self.identities.append(
            f"{self.name}[i] = E(i,0) {self.name}[0] + sum[j](E(i,j) b[j]), "
            f"E(i,j) the product of {print_expr(factor_expr)} over j+1..i"
        )
        self.conditions.append(("every step is linear in the state", "normal form of the update"))
        self.conditions.append(("weights are taken over the steps between", self.decay.says))

    def _factor(self, factor: Poly) -> Expr:
        """The diagonal factor, as it was written where the update has it as such."""
        single = factor.single()
        if single is not None and single[1] == 1 and len(single[0].powers) == 1:
            ((a, n),) = single[0].powers
            if n == 1 and single[0].exponent is None:
                return atom_expr(a)
        return to_expr(factor)

    def _without_state(self, e: Expr) -> Expr:
        if isinstance(e, Read) and (e.tensor == self.name or e.tensor in self.members):
            return Const(1)
        return rebuild(e, tuple(self._without_state(c) for c in children(e)))

    def read(self, index: tuple[Expr, ...]) -> Read:
        """The state where the source reads it."""
        full = list(index)
        full.insert(self.slot, Coordinate(self.rank))
        return Read(self.name, tuple(full))

    # -- the state at the ends of chunks
    def state(self, index: tuple[Expr, ...], chunk: Expr | None = None) -> Read:
        return Read(self.state_name, (*index, chunk or self.tiles.chunk))

    def _state(self) -> None:
        tiles = self.tiles
        here = self.state(tuple(Coordinate(r) for r in self.own))
        parts: list[Expr] = [times(here, self.decay.across())]
        if self.inputs:
            body = times(self.decay.leaving(), *sum_of_products(self.inputs))
            parts.append(summed((tiles.column,), body, self._tail(body)))
        ranks = (*self.own, tiles.outer)
        self.draft.iterate(self.state_name, ranks, self.init.body, add(*parts))

    def _tail(self, body: Expr) -> tuple[Expr, ...]:
        point = self.tiles.point(self.tiles.column)
        inside = reads_inside(self.draft, body, point, self.tiles.extent)
        return () if inside else (Map("<", (point, self.tiles.extent)),)

    # -- readouts
    def through_state(self, t: Term, strict: bool) -> Expr:
        """The part of a readout that comes from before the chunk."""
        tiles = self.tiles
        row = tiles.at(to_expr(t.value), self.rank, tiles.inner)
        weight = self.placed(self.decay.after(strict), t)
        conditions = tuple(tiles.at(c, self.rank, tiles.inner) for c in t.conditions)
        index = tuple(tiles.at(i, self.rank, tiles.inner) for i in t.index)
        return summed(t.bound, times(row, weight, self.state(index)), conditions)

    def placed(self, e: Expr, t: Term) -> Expr:
        """An expression over the ranks of the state, where the term reads it."""
        places = {
            r: self.tiles.at(i, self.rank, self.tiles.inner)
            for r, i in zip(self.own, t.index, strict=True)
            if i != Coordinate(r)
        }
        return self.opener.substituted(e, places)

    def inside(self, t: Term, strict: bool, inputs: Inputs) -> list[tuple[Expr, list[Expr]]]:
        """The products of the chunk: a square over row and column, and factors to sum it with."""
        tiles = self.tiles
        found: dict[Expr, list[list[Expr]]] = {}
        for m, c in sorted(t.value.terms, key=lambda x: print_expr(to_expr(of_monomial(*x)))):
            rows = [tiles.at(f, self.rank, tiles.inner) for f in factors(m, c)]
            for product in inputs:
                columns = [self.placed(f, t) for f in product]
                between = self.placed(self.decay.between(strict), t)
                square, light = self._square(t, [*rows, *columns], between, strict)
                found.setdefault(square, []).append(light)
        return [(square, sum_of_products(lights)) for square, lights in found.items()]

    def before(self, strict: bool) -> Expr:
        pair = (Coordinate(self.tiles.column), Coordinate(self.tiles.inner))
        return Map("<" if strict else "<=", pair)

    def _square(
        self, t: Term, product: list[Expr], between: Expr, strict: bool
    ) -> tuple[Expr, list[Expr]]:
        """The factors over the bound ranks, summed, for every row and column of a chunk."""
        if not t.bound:
            return Const(1), [*product, between]
        tiles, bound = self.tiles, set(t.bound)
        inner = [f for f in (*product, between) if mentions(f, bound) or is_setting(f)]
        light = [f for f in (*product, between) if f not in inner]
        conditions = tuple(tiles.at(c, self.rank, tiles.inner) for c in t.conditions)
        value = summed(t.bound, times(*inner), conditions)
        pair = (tiles.outer, tiles.inner, tiles.column)
        free = set(free_ranks(value)) - set(pair)
        if (
            between in light
            and between != Const(1)
            and set(free_ranks(between)) <= free | set(pair)
        ):
            value = times(value, between)
            light.remove(between)
        ranks = (*(r for r in self.draft.ranks if r in free), *pair)
        body = filtered(value, (self.before(strict),))
        return self.draft.once("square", f"{self.name}_square", ranks, body), light

    def from_inside(self, t: Term, strict: bool, inputs: Inputs) -> list[Expr]:
        """The part of a readout that comes from the chunk itself."""
        mask = (self.before(strict),)
        return [
            summed((self.tiles.column,), times(square, *light), mask)
            for square, light in self.inside(t, strict, inputs)
        ]

    # -- the statements that read the state
    def _readers(self, statements: list[Einsum]) -> None:
        """Every statement but the update reads the state at the ends of chunks.

        What a step makes of the state point by point is read through it, so that the sum it stands
        in is seen: a tensor of the size of all states is not made.
        """
        through = self._pointwise()
        for e in statements:
            if e.tensor == self.name:
                continue
            body = e.body if e.tensor in through else self._seen_through(e.body, through)
            if self.terms.holds(body):
                self.draft.replace(e, self._turned(e, body))

    def _seen_through(self, e: Expr, through: dict[str, Einsum]) -> Expr:
        if not any(r.tensor in through for r in reads(e)):
            return e
        return self.opener.inlined(e, lambda r: through.get(r.tensor))

    def _pointwise(self) -> dict[str, Einsum]:
        """What a step makes of every place of the state, and what it is made of."""
        found: dict[str, Einsum] = {}
        for name, e in self.members.items():
            if set(self.update.ranks) <= set(e.ranks) and name not in self.draft.source.outputs:
                found[name] = e
        whole = self.update.body
        if isinstance(whole, Read) and whole.tensor in found:  # it is the state of the next step
            e = found[whole.tensor]
            if whole.index == tuple(Coordinate(r) for r in e.ranks):
                index: list[Expr] = [Coordinate(r) for r in self.update.ranks]
                index[self.slot] = add(Coordinate(self.rank), Const(1))
                found[e.tensor] = replace(e, body=Read(self.name, tuple(index)))
        return found

    def _turned(self, e: Einsum, node: Expr) -> Expr:
        if not self.terms.holds(node):
            return node
        if isinstance(node, Read) and node.tensor == self.name:
            at = node.index[self.slot]
            if at == self.draft.ranks[self.rank].extent:
                others = tuple(i for k, i in enumerate(node.index) if k != self.slot)
                return self.state(others, self.tiles.last)
            return self._readout(e, node, node)
        if isinstance(node, Reduce) and node.op == "sum":
            first = next(r for r in reads(node) if r.tensor == self.name)
            bound = {r for i in first.index for r in free_ranks(i)}
            if bound & set(node.ranks) and self._row(first) is not None:
                return self._readout(e, node, first)
        return rebuild(node, tuple(self._turned(e, c) for c in children(node)))

    def _row(self, r: Read) -> Row | None:
        """The rank that steps through the state, and how: `S[i+1]`, or `S[I-1-i]` of a reverse."""
        at = r.index[self.slot]
        for rank in free_ranks(at):
            if self.draft.ranks[rank].extent != self.tiles.extent:
                continue
            shift = offset(at, rank)
            if shift is not None:
                return Row(rank, Coordinate(self.rank), Coordinate(rank), shift)
            turned = self._reversed(self.rank)
            shift = offset(simplified(substitute(at, {rank: turned})), self.rank)
            if shift is not None:
                return Row(rank, turned, self._reversed(rank), shift)
        return None

    def _reversed(self, rank: str) -> Expr:
        return from_end(self.tiles.extent, Coordinate(rank))

    def _readout(self, e: Einsum, node: Expr, first: Read) -> Expr:
        found = self._row(first)
        if found is None or found.shift not in (0, 1):
            raise NotChunkable(print_expr(first), "the state of another step is read")
        if not set(free_ranks(node)) <= set(e.scope):
            raise NotChunkable(print_expr(node), "the state is read inside another reduction")
        if found.step != Coordinate(found.rank):
            if found.rank != self.rank and self.rank in free_ranks(node):
                raise NotChunkable(print_expr(node), "the state is read along another rank")
            node = self.opener.substituted(node, {found.rank: found.step})
            node = simplified_indexes(node)
        strict = found.shift == 0
        scope = tuple(self.rank if r == found.rank else r for r in e.scope)
        terms, rest = self.terms.linear(node, found.shift, scope)
        parts = []
        for t in terms:
            parts.append(self.through_state(t, strict))
            parts += self.from_inside(t, strict, self.inputs)
        for product in rest:
            parts.append(self.tiles.at(times(*product), self.rank, self.tiles.inner))
        body = filtered(add(*parts), self._there(node))
        ranks: list[str] = []
        for r in scope:
            if r == self.rank:
                ranks += [self.tiles.outer, self.tiles.inner]
            elif r in free_ranks(body):
                ranks.append(r)
        name = self.draft.fresh(f"{e.tensor}_chunk")
        self.draft.add(name, tuple(ranks), body)
        whole = self.tiles.whole(name, tuple(ranks))
        return self.opener.substituted(whole, {self.rank: found.back})

    def _there(self, node: Expr) -> tuple[Expr, ...]:
        """Where a readout is present, placed in the chunk."""
        opened = self.opener.inlined(node, lambda r: self.members.get(r.tensor))
        found = self.opener.conditions(opened, lambda r: r.op == "sum" and self.terms.holds(r))
        for c in found:
            if self.terms.holds(c):
                raise NotChunkable(print_expr(c), "whether it is there depends on the state")
        return tuple(self.tiles.at(c, self.rank, self.tiles.inner) for c in found)
