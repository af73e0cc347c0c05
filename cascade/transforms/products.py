"""Contractions opened: a body as sums of products, each over its own copies of the bound ranks.

    z[p,m] = sum[e](Q[p,e] * K[m,e])     z**2  ->  sum[e,e2](Q[p,e] * K[m,e] * Q[p,e2] * K[m,e2])

so that a power of a dot product separates into a factor with p and a factor with m. A tensor is
seen through where it has both; what a statement says of presence stays with the product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cascade.analysis.normalise import Step, normalise
from cascade.ir.cascade import Einsum
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Where
from cascade.ir.ops import MAPS
from cascade.ir.printer import print_expr
from cascade.ir.walk import bound_ranks, children, free_ranks, reads, rebuild, transform, walk
from cascade.transforms.draft import Draft, NotChunkable
from cascade.transforms.normal_form import (
    Monomial,
    Poly,
    add,
    multiply,
    normal_form,
    of_monomial,
)
from cascade.transforms.placing import place
from cascade.transforms.present import present
from cascade.transforms.ranges import Ranges
from cascade.transforms.tiles import bare, filtered

MOST_COPIES = 4  # of one contraction in a product


@dataclass(frozen=True)
class Product:
    """sum[bound](value where conditions); the conditions mention bound ranks."""

    bound: tuple[str, ...]
    value: Poly
    conditions: tuple[Expr, ...]


class Opener:
    """Definitions, presence and ranges of the source, for bodies that are taken apart."""

    def __init__(self, draft: Draft):
        self.draft = draft
        self.steps = normalise(draft.source)
        by_name: dict[str, Step] = {s.target: s for s in self.steps}
        self.presence = present(draft.source)
        self.ranges = Ranges(by_name)
        self.recurring = {
            s.einsum.tensor for s in self.steps if s.recurs is not None or s.iterative is not None
        }

    def definition(self, name: str) -> Einsum | None:
        """The one statement of a tensor that does not recur."""
        found = self.draft.source.definitions.get(name, ())
        return found[0] if len(found) == 1 and name not in self.recurring else None

    def inlined(self, e: Expr, seen: Callable[[Read], Einsum | None]) -> Expr:
        """`e` with the tensors that `seen` defines written out."""
        if isinstance(e, Read):
            index = tuple(self.inlined(i, seen) for i in e.index)
            definition = seen(e)
            e = replace(e, index=index)
            if definition is None:
                return e
            body = self.placed(definition, index)
            self._learn_ranks()
            return self.inlined(filtered(body, self.presence.bounds(e, body)), seen)
        return rebuild(e, tuple(self.inlined(c, seen) for c in children(e)))

    def placed(self, definition: Einsum, index: tuple[Expr, ...]) -> Expr:
        """The body of a statement at an index."""
        if index == tuple(map(Coordinate, definition.ranks)):
            return definition.body
        return self.substituted(definition.body, dict(zip(definition.ranks, index, strict=True)))

    def substituted(self, e: Expr, places: dict[str, Expr]) -> Expr:
        """`e` with expressions for coordinates; its bound ranks keep clear of theirs."""
        hidden = {r for i in places.values() for r in free_ranks(i)}
        return place(self._clear(e, hidden), places)

    def _clear(self, e: Expr, hidden: set[str]) -> Expr:
        def rule(node: Expr) -> Expr | None:
            if isinstance(node, Reduce) and set(node.ranks) & hidden:
                taken = hidden | (ranks_inside(node.body) - set(node.ranks))
                names = {r: self.draft.copy(r, taken) for r in node.ranks}
                body = place(node.body, {r: Coordinate(n) for r, n in names.items()})
                return Reduce(node.op, tuple(names.values()), body, node.span)
            return None

        return transform(e, rule)

    def normal(self, e: Expr) -> Poly:
        return normal_form(e, self.ranges.is_positive, self._stays)

    def _stays(self, e: Expr) -> bool:
        """Choices stay as they are: a branch not taken may have no number, or be absent.

        One between values of a state is opened, for both branches are computed from it.
        """
        if not isinstance(e, Map) or MAPS[e.op].absence == "strict":
            return False
        if e.op != "select" or not self._recurs(e):
            return True
        conditions = (c for a in e.args for c in self.presence.of(a))
        return any(not self._recurs(c) for c in conditions)

    def _recurs(self, e: Expr) -> bool:
        return any(r.tensor in self.recurring for r in reads(e))

    def conditions(self, e: Expr, opened: Callable[[Reduce], bool]) -> tuple[Expr, ...]:
        """Where `e` is present, but for what filters the sums that are opened."""
        self._learn_ranks()
        found: dict[Expr, None] = {}

        def closed(node: Expr) -> Expr:
            if isinstance(node, Reduce) and opened(node):
                inside = self.conditions(node.body, opened)
                passing = (c for c in inside if not set(free_ranks(c)) & set(node.ranks))
                found.update(dict.fromkeys(passing))
                return Const(1)
            if isinstance(node, Where):  # a sum in a condition decides, and is not opened
                return replace(node, body=closed(node.body))
            if isinstance(node, Map) and MAPS[node.op].absence != "strict":
                return node
            return rebuild(node, tuple(closed(c) for c in children(node)))

        found.update(dict.fromkeys(self.presence.of(closed(e))))
        return tuple(found)

    def _learn_ranks(self) -> None:
        """Presence asks for extents of the ranks that were made since."""
        if len(self.presence.cascade.ranks) < len(self.draft.ranks):
            ranks = tuple(self.draft.ranks.values())
            self.presence.cascade = replace(self.presence.cascade, ranks=ranks)

    def products(
        self, e: Expr, opened: Callable[[Reduce], bool], hidden: set[str]
    ) -> list[Product]:
        """The value as sums of products."""
        return self._opened(self.normal(bare(e)), opened, hidden)

    def _opened(
        self, poly: Poly, opened: Callable[[Reduce], bool], hidden: set[str]
    ) -> list[Product]:
        found: dict[tuple[tuple[str, ...], tuple[Expr, ...]], Poly] = {}
        for monomial, coefficient in poly.terms:
            for p in self._monomial(monomial, opened, hidden):
                key = (p.bound, p.conditions)
                value = Poly(frozenset((m, c * coefficient) for m, c in p.value.terms))
                found[key] = add(found[key], value) if key in found else value
        ordered = sorted(found.items(), key=lambda item: (len(item[0][0]), item[0][0]))
        return [Product(b, v, c) for (b, c), v in ordered if not v.is_zero]

    def _monomial(
        self, m: Monomial, opened: Callable[[Reduce], bool], hidden: set[str]
    ) -> list[Product]:
        sums = [(a, n) for a, n in m.powers if isinstance(a, Reduce) and opened(a)]
        rest = Monomial(frozenset(p for p in m.powers if p not in sums), m.exponent)
        result = [Product((), of_monomial(rest), ())]
        for a, n in sorted(sums, key=lambda item: print_expr(item[0])):
            if n.denominator != 1 or not 0 < n <= MOST_COPIES:
                raise NotChunkable(print_expr(a), f"a sum to the power {n} has infinite rank")
            for _ in range(int(n)):
                result = [q for p in result for q in self._times(p, a, opened, hidden)]
        return result

    def _times(
        self, p: Product, a: Reduce, opened: Callable[[Reduce], bool], hidden: set[str]
    ) -> list[Product]:
        taken = hidden | set(p.bound) | (ranks_inside(a.body) - set(a.ranks))
        names = {r: self.draft.copy(r, taken) for r in a.ranks}
        places: dict[str, Expr] = {r: Coordinate(n) for r, n in names.items()}
        body = place(a.body, places)
        bound = (*p.bound, *names.values())
        inside = [c for c in self.conditions(a.body, opened) if set(free_ranks(c)) & set(a.ranks)]
        own = tuple(place(c, places) for c in inside)
        return [
            Product(
                (*bound, *q.bound), multiply(p.value, q.value), (*p.conditions, *own, *q.conditions)
            )
            for q in self.products(body, opened, hidden | set(bound))
        ]


def ranks_inside(e: Expr) -> set[str]:
    """Every rank that `e` mentions, those that it binds included."""
    return {r for node in walk(e) for r in (*bound_ranks(node), *free_ranks(node))}
