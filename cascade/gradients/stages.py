"""A sum over several long ranks, one rank after the other.

`dK[b,g,m,e] = sum[p,h](...)` over the heads h of a group is a sum over p for each head, and then
one over the heads: the first is a pass of a kernel like that of any other gradient, the second is
short, and both add in an order that is always the same. What the first leaves must have no more
ranks than something that is there anyway, and none that only a condition gives it: what lacks the
rank of the first sum, and has another, is left to the second. Ranks along which tensors are
contiguous come first, as those of `e` in `sum[p,m,e](A[p,m] * V[m,e] * dO[p,e])`: a tile holds them
whole, and the sum over them is a product of matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from cascade.gradients.build import at
from cascade.gradients.joined import joined
from cascade.gradients.term import Term
from cascade.ir.cascade import Einsum
from cascade.ir.expr import Expr, Read
from cascade.ir.kinds import declared_kind
from cascade.ir.walk import free_ranks, reads, symbols

if TYPE_CHECKING:
    from cascade.gradients.reverse import Reverse


def staged(term: Term, name: str, left: tuple[str, ...], reverse: Reverse) -> Term:
    """The term with at most one long rank left to sum, and statements for the others."""
    while True:
        long = tuple(r for r in term.bound if _is_long(r, reverse))
        first = next(_firsts(term, long, reverse), None)
        if first is None:
            return joined(term, long, reverse)
        term = _summed(term, first, name, left, reverse)


def _is_long(rank: str, reverse: Reverse) -> bool:
    """Whether the extent of a rank is that of an input, or made of those of several."""
    ranks = reverse.names.ranks
    if rank in reverse.solve.members or not ranks[rank].declared:
        return True
    sides = [ranks.get(n.lower()) for n in symbols(ranks[rank].extent)]
    return len(sides) > 1 and all(r is not None and not r.declared for r in sides)


def _firsts(term: Term, long: tuple[str, ...], reverse: Reverse) -> Iterator[tuple[str, ...]]:
    """The ranks that may be summed first, the best of them first."""
    if len(long) < 2:
        return
    members = reverse.solve.members
    vectors = tuple(r for r in long if r not in members and _is_vector(r, reverse))
    places = {r: _place(r, term.read) for r in long}
    having = [r for r in long if places[r] is not None]
    having.sort(key=lambda r: (r not in members, places[r] or 0), reverse=True)
    found = [tuple(r for r in term.bound if r == last or r not in long) for last in having]
    if vectors and vectors != long:
        found.insert(0, vectors)
    for inner in found:
        if _is_small(term, inner, reverse) and not _repeats(term, inner):
            yield inner


def _is_vector(rank: str, reverse: Reverse) -> bool:
    """Whether a rank is the last one of every real matrix that is an input and has it."""
    real = (t for t in reverse.cascade.inputs if declared_kind(t.dtype) in ("any", "real"))
    having = [t.ranks for t in real if rank in t.ranks]
    matrices = any(len(ranks) > 1 for ranks in having)
    return matrices and all(ranks[-1] == rank for ranks in having)


def _is_small(term: Term, inner: tuple[str, ...], reverse: Reverse) -> bool:
    """Whether the sum over some ranks has no more long ranks than a tensor that is summed."""
    first, _ = _parts(term, inner)
    if not _has(first.read, inner):
        return False
    members = reverse.solve.members

    def size(ranks: Iterable[str]) -> int:
        return len({r for r in ranks if _is_long(r, reverse)} - members)

    own = set(first.ranks()) - set(inner)
    if not size(own & set(term.bound)):
        return True
    tensors = [r for e in term.parts() for r in reads(e)]
    return any(size(own) <= size(reverse.ranks_of(t.tensor) or free_ranks(t)) for t in tensors)


def _repeats(term: Term, inner: tuple[str, ...]) -> bool:
    """Whether the sum over some ranks has ranks that only conditions give it."""
    first, _ = _parts(term, inner)
    varying = {r for e in (first.read, *(f for f, _ in first.factors)) for r in free_ranks(e)}
    return not set(first.ranks()) <= varying


def _parts(term: Term, inner: tuple[str, ...]) -> tuple[Term, Term]:
    """What the sum over some ranks takes, and what is left to the sum over the others: what would
    add a rank to the first, and what is read along the others; but no divisors, which may be 0
    where the first has no points.
    """
    known = {r for e in term.parts() if _has(e, inner) for r in free_ranks(e)}
    others = tuple(r for r in term.bound if r not in inner)

    def stays(e: Expr, power: int = 1) -> bool:
        if _has(e, inner) or power < 0:
            return True
        return set(free_ranks(e)) <= known and not (isinstance(e, Read) and _has(e, others))

    within, without = (
        replace(
            term,
            factors=tuple((e, n) for e, n in term.factors if stays(e, n) == first),
            conditions=tuple(c for c in term.conditions if stays(c) == first),
            bound=tuple(r for r in term.bound if (r in inner) == first),
        )
        for first in (True, False)
    )
    return within, without


def _has(e: Expr, ranks: tuple[str, ...]) -> bool:
    return bool(set(free_ranks(e)) & set(ranks))


def _summed(
    term: Term, inner: tuple[str, ...], name: str, left: tuple[str, ...], reverse: Reverse
) -> Term:
    """The term with the sum over `inner` taken by a statement of its own."""
    first, rest = _parts(term, inner)
    own = set(first.ranks())
    there = [r for r in (*left, *rest.bound) if r in own]
    ranks = tuple(sorted(there, key=lambda r: _is_vector(r, reverse)))  # contiguous ones last
    made = reverse.names.tensor(f"{name}_{rest.bound[-1]}")
    body, absence = reverse.summed([first], frozenset())
    reverse.made[made] = (ranks, (first,))
    reverse.absence[made] = (ranks, absence)
    reverse.statements.append(Einsum(made, ranks, body))
    return replace(rest, read=at(made, ranks))


def _place(rank: str, read: Read) -> int | None:
    """The position of the index that a rank occurs in."""
    index: tuple[Expr, ...] = read.index
    found = [n for n, i in enumerate(index) if rank in free_ranks(i)]
    return found[-1] if found else None
