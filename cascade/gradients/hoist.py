"""Deferral in the gradient: what does not carry the summed rank comes out of the sum.

The cotangent of a row result, `dL[p] = -sum[m](A[p,m] * dA[p,m])` with `dA[p,m] = sum[f](dO[p,f] *
V[m,f])`, would take a pass over m of its own. dO has no m: `-sum[f](dO[p,f] * sum[m](A[p,m] *
V[m,f]))`, and the inner sum is what the forward cascade calls O. So `dL[p] = -sum[f](dO * O)`, the
row term D of FlashAttention-2 (Dao 2023, section 3.1) for attention. An inner sum without a name
becomes one more result of the forward cascade, if a pass waits for it and it is no larger than some
input or output.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cascade.gradients.build import ZERO, at, compare, where
from cascade.gradients.products import factored
from cascade.gradients.rules import Factor
from cascade.gradients.term import Term, product
from cascade.ir.cascade import Einsum
from cascade.ir.expr import Const, Expr, Read, Reduce
from cascade.ir.printer import print_einsum
from cascade.ir.walk import bound_ranks, free_ranks, reads, substitute, unfiltered, walk

if TYPE_CHECKING:
    from cascade.gradients.reverse import Reverse

MOST = 16  # terms that a sum may expand into


class Hoist:
    def __init__(self, reverse: Reverse):
        self.reverse = reverse

    def hoisted(self, e: Einsum, terms: list[Term]) -> list[Term]:
        """The same terms, each sum over ranks that its cotangent does not carry taken inside; or
        the very same where that is not possible for all.
        """
        found: list[Term] = []
        for term in terms:
            if term.pointwise:
                found.append(term)
                continue
            expanded = self._expanded(term)
            if expanded is None:
                return terms
            made = [self._taken_in(e, t) for t in expanded]
            if any(t is None for t in made):
                return terms
            found += [t for t in made if t is not None]
        if found != terms:
            self._tell(e, terms, found)
        return found

    def _tell(self, e: Einsum, before: list[Term], after: list[Term]) -> None:
        """What was deferred, in the names of the cascade."""
        name = f"d{e.tensor}"

        def statement(terms: list[Term]) -> str:
            body = self.reverse.summed(terms, frozenset())[0]
            return print_einsum(Einsum(name, e.ranks, body))

        inner = dict.fromkeys(t.read.tensor for t in before if t.read.tensor in self.reverse.made)
        expanded = [s for s in self.reverse.statements if s.tensor in inner]
        sums = [x for t in after for x, _ in t.factors if isinstance(x, Read)]
        known = [
            d
            for name in dict.fromkeys(x.tensor for x in sums)
            for d in (*self.reverse.cascade.einsums, *self.reverse.forward)
            if d.tensor == name and isinstance(d.body, Reduce)
        ]
        ranks = dict.fromkeys(
            r for t in before for r in t.bound if r not in {x for u in after for x in u.bound}
        )
        self.reverse.record.add(
            "defer in",
            name,
            (statement(before), *map(print_einsum, expanded)),
            (statement(after),),
            (
                *(f"the cotangent has no {r}: it comes out of the sum over {r}" for r in ranks),
                *(f"what is left inside is {print_einsum(d)}" for d in known),
            ),
        )

    def _expanded(self, term: Term) -> list[Term] | None:
        """Cotangents of the same pass replaced by their terms, until none carries a summed rank
        that the others can do without.
        """
        done: list[Term] = []
        todo = [term]
        while todo:
            if len(done) + len(todo) > MOST:
                return None
            t = todo.pop(0)
            carried = set(free_ranks(t.read)) & set(t.bound)
            if not carried or t.read.tensor not in self.reverse.made:
                done.append(t)
                continue
            ranks, terms = self.reverse.made[t.read.tensor]
            values = dict(zip(ranks, t.read.index, strict=True))
            for inner in terms:
                names = {
                    r: self.reverse.copy(r, {*t.bound, *t.ranks(), *inner.bound})
                    for r in inner.bound
                    if r in t.bound or r in t.ranks()
                }
                inner = inner.renamed(names).moved(values)
                joined = inner.times(t.factors, t.conditions)
                joined = replace(joined, chosen=t.chosen or inner.chosen)
                todo.append(self.reverse.shortened(joined.over(t.bound)))
        return done

    def _taken_in(self, e: Einsum, term: Term) -> Term | None:
        """`sum[m,f](w[p,m,f] * dO[p,f])` as `sum[f](core[p,f] * dO[p,f])`."""
        carried = set(free_ranks(term.read))
        inner = tuple(r for r in term.bound if r not in carried)
        if not inner:
            return None
        outside = [(x, n) for x, n in term.factors if not set(free_ranks(x)) & set(inner)]
        inside = [(x, n) for x, n in term.factors if set(free_ranks(x)) & set(inner)]
        kept = tuple(c for c in term.conditions if not set(free_ranks(c)) & set(inner))
        filters = tuple(c for c in term.conditions if set(free_ranks(c)) & set(inner))
        core = self._core(e, inner, inside, filters)
        if core is None:
            return None
        bound = tuple(r for r in term.bound if r in carried)
        below = [x for x, n in (*outside, *core) if n < 0 and any(True for _ in reads(x))]
        kept += tuple(compare("!=", x, ZERO) for x in below)  # 0 / 0 where the sum has no points
        return replace(term, factors=(*outside, *core), bound=bound, conditions=kept)

    def _core(
        self,
        e: Einsum,
        inner: tuple[str, ...],
        inside: list[Factor],
        filters: tuple[Expr, ...],
    ) -> tuple[Factor, ...] | None:
        """A sum of forward tensors: the name it has, with what else it takes, or a new one."""
        sign = [(x, n) for x, n in inside if isinstance(x, Const)]
        wanted: dict[Expr, int] = {}
        for x, n in inside:
            if not isinstance(x, Const):
                for part, k in factored(x).items():
                    wanted[part] = wanted.get(part, 0) + n * k
        for known in self.reverse.cascade.einsums:
            match = self._match(known, inner, wanted, filters)
            if match is not None:
                return (*sign, *match)
        if not self._is_awaited(e):
            return None
        ranks: dict[str, None] = {}
        for x in (*wanted, *filters):
            ranks.update(dict.fromkeys(r for r in free_ranks(x) if r not in inner))
        like = self._fitting(set(ranks))
        if like is None:
            return None
        ranks = {r: None for r in like if r in ranks}
        body = where(product(tuple(wanted.items())), filters)
        name = f"{e.tensor}_{'_'.join(inner)}"
        read = self.reverse._named(name, tuple(ranks), Reduce("sum", inner, body))
        return (*sign, (read, 1))

    def _is_awaited(self, e: Einsum) -> bool:
        """Whether the cotangent goes on to more points than its own, in a pass that waits for it:
        otherwise it is summed in the pass that is there, and a new result would save nothing.
        """
        named = {d.tensor: d for d in self.reverse.cascade.einsums}
        seen, todo = set(), [e]
        while todo:
            body = todo.pop().body
            for r in reads(body):
                if r.tensor not in self.reverse.active or r.tensor in seen:
                    continue
                seen.add(r.tensor)
                ranks = set(self.reverse.cascade.tensors[r.tensor].ranks)
                if r.tensor in named:
                    todo.append(named[r.tensor])
                    ranks.update(
                        b for node in walk(named[r.tensor].body) for b in bound_ranks(node)
                    )
                if not ranks <= set(e.ranks):
                    return True
        return any(True for node in walk(e.body) if bound_ranks(node))

    def _fitting(self, ranks: set[str]) -> tuple[str, ...] | None:
        """The ranks of an output or input that has all of these: a tensor of them is no larger."""
        cascade = self.reverse.cascade
        sizes = [cascade.tensors[o].ranks for o in cascade.outputs]
        sizes += [t.ranks for t in cascade.inputs]
        return next((s for s in sizes if ranks <= set(s)), None)

    def _match(
        self,
        known: Einsum,
        inner: tuple[str, ...],
        wanted: dict[Expr, int],
        filters: tuple[Expr, ...],
    ) -> tuple[Factor, ...] | None:
        """`wanted` as factors without the inner ranks times a statement of the cascade."""
        if not isinstance(known.body, Reduce) or known.body.op != "sum" or known.step is not None:
            return None
        if set(known.body.ranks) != set(inner):
            return None
        body, conditions = unfiltered(known.body.body)
        own = factored(body)
        values = _ranks_match(own, wanted)
        if values is None:
            return None
        own = {substitute(p, values): n for p, n in own.items()}
        rest = dict(wanted)
        for part, n in own.items():
            rest[part] = rest.get(part, 0) - n
        rest = {p: n for p, n in rest.items() if n}
        if any(set(free_ranks(p)) & set(inner) for p in rest):
            return None
        brought = {c for p in own for c in self.reverse.presence.of(p)}
        needed = {substitute(c, values) for c in conditions} - brought
        if needed != set(filters) - brought:
            return None
        read = substitute(at(known.tensor, known.ranks), values)
        assert isinstance(read, Read)
        return (*rest.items(), (read, 1))


def _ranks_match(own: dict[Expr, int], wanted: dict[Expr, int]) -> dict[str, Expr] | None:
    """How the ranks of a statement must be called for its factors to be among the wanted ones."""
    values: dict[str, Expr] = {}
    for part in own:
        if not isinstance(part, Read):
            continue
        for other in wanted:
            if isinstance(other, Read) and other.tensor == part.tensor:
                for a, b in zip(part.index, other.index, strict=True):
                    for r in free_ranks(a):
                        if a == at("", (r,)).index[0]:
                            values.setdefault(r, b)
                break
        else:
            return None
    if any(own[p] != wanted.get(substitute(p, values), 0) for p in own if isinstance(p, Read)):
        carriers = [p for p in own if wanted.get(substitute(p, values), 0) != own[p]]
        if any(wanted.get(substitute(p, values), 0) * own[p] < 0 for p in carriers):
            return None
    return values
