"""Sums that have a name: where a term sums a product that a statement sums, it reads the statement.

For `S[p,m] = sum[e](Q[p,e] * K[m,e] / tau[h])` the gradient by tau is a sum over e, p and m of
`Q * K / tau**2 * dS`. With `S / tau * dS` instead, the sum over e is the contraction that is there
anyway, and what is left is summed over the points of S.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from cascade.gradients.products import factored
from cascade.gradients.rules import Factor
from cascade.gradients.term import Term
from cascade.ir.cascade import Einsum
from cascade.ir.expr import Coordinate, Expr, Map, Read, Reduce
from cascade.ir.walk import free_ranks, substitute

Powers = dict[Expr, int]
Places = dict[str, Expr]


@dataclass(frozen=True)
class Sum:
    """`whole` is the sum over `bound` of the product of `parts`."""

    whole: Read
    bound: tuple[str, ...]
    parts: Mapping[Expr, int]


@dataclass
class Sums:
    """The statements of a cascade that sum products of reads."""

    known: list[Sum] = field(default_factory=list)

    @classmethod
    def of(cls, einsums: tuple[Einsum, ...]) -> Sums:
        """Learn from statements; a product that has a name of its own is seen through."""
        count: dict[str, int] = {}
        for e in einsums:
            count[e.tensor] = count.get(e.tensor, 0) + 1
        named = {e.tensor: e for e in einsums if count[e.tensor] == 1 and e.step is None}
        found = cls()
        for e in named.values():
            body = e.body
            if isinstance(body, Reduce) and body.op == "sum" and not set(body.ranks) & set(e.ranks):
                parts = factored(_seen_through(body.body, named))
                whole = Read(e.tensor, tuple(map(Coordinate, e.ranks)))
                if len(parts) > 1 and all(map(_is_plain, parts)) and any(_reads(parts)):
                    found.known.append(Sum(whole, body.ranks, parts))
        return found

    def fold(self, term: Term) -> Term:
        """The term with sums of its bound ranks read where a statement has them."""
        for known in self.known:
            powers = _powers(term.factors)
            for places in _matches(tuple(_reads(known.parts)), known.parts, powers, {}):
                folded = _folded(term, powers, known, places)
                if folded is not None:
                    return self.fold(folded)
        return term


def _folded(term: Term, powers: Powers, known: Sum, places: Places) -> Term | None:
    over = [places.get(r) for r in known.bound]
    ranks = {i.rank for i in over if isinstance(i, Coordinate)}
    outer = {i.rank for i in known.whole.index if isinstance(i, Coordinate)}
    if len(ranks) != len(known.bound) or not ranks <= set(term.bound) or not outer <= set(places):
        return None
    left = dict(powers)
    for part, n in known.parts.items():
        left[substitute(part, places)] = left.get(substitute(part, places), 0) - n
    if any(_misses(n, powers.get(e, 0)) for e, n in left.items()):
        return None
    rest = {e: n for e, n in left.items() if n}
    if any(ranks & set(free_ranks(e)) for e in (*rest, term.read, *term.conditions)):
        return None
    whole = substitute(known.whole, {r: places[r] for r in outer})
    rest[whole] = rest.get(whole, 0) + 1
    bound = tuple(r for r in term.bound if r not in ranks)
    return replace(term, factors=tuple(rest.items()), bound=bound)


def _misses(left: int, had: int) -> bool:
    """Whether more of a factor was taken than there was, on its side of the line."""
    return left * had < 0 or (had == 0 and left != 0)


def _matches(
    reads: tuple[Read, ...], parts: Mapping[Expr, int], powers: Powers, places: Places
) -> Iterator[Places]:
    """Coordinates of a statement's ranks under which its reads are factors of a term."""
    if not reads:
        yield places
        return
    first, others = reads[0], reads[1:]
    for e, n in powers.items():
        if not isinstance(e, Read) or e.tensor != first.tensor or n * parts[first] <= 0:
            continue
        extended = _extended(first, e, places)
        if extended is not None:
            yield from _matches(others, parts, powers, extended)


def _extended(part: Read, factor: Read, places: Places) -> Places | None:
    found = dict(places)
    for at, to in zip(part.index, factor.index, strict=True):
        if not isinstance(at, Coordinate):
            if substitute(at, found) != to:
                return None
        elif found.setdefault(at.rank, to) != to:
            return None
    return found


def _powers(factors: tuple[Factor, ...]) -> Powers:
    found: Powers = {}
    for whole, n in factors:
        for e, k in factored(whole).items():
            found[e] = found.get(e, 0) + n * k
    return {e: n for e, n in found.items() if n}


def _reads(parts: Mapping[Expr, int]) -> Iterator[Read]:
    return (e for e in parts if isinstance(e, Read))


def _is_plain(e: Expr) -> bool:
    """Whether a factor has no filter and no choice inside, so that it means the same anywhere."""
    match e:
        case Map("select" | "??", _) | Reduce():
            return False
        case Map(_, args):
            return all(map(_is_plain, args))
        case _:
            return not hasattr(e, "condition")


def _seen_through(e: Expr, named: Mapping[str, Einsum]) -> Expr:
    if not isinstance(e, Read) or e.tensor not in named:
        return e
    made = named[e.tensor]
    if isinstance(made.body, Reduce) or e.index != tuple(map(Coordinate, made.ranks)):
        return e
    return made.body
