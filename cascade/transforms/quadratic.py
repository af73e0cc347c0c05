"""Quadratic forms: `sum[m](body(p, m))` through a state, where rows and columns separate.

With a prefix `m <= p` the rows fall into chunks: columns of earlier chunks come through a state,
those of the own chunk through the form as written. Without a predicate the sum is reassociated, as
in `phi(Q) (phi(K)^T V)`. An exponent of columns is anchored at its running maximum, one that is
linear in `p - m` at the boundary of the chunk: no exponential of a growing sum is formed.
"""

from __future__ import annotations

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce
from cascade.ir.printer import print_expr
from cascade.ir.walk import conjunction, free_ranks, walk
from cascade.transforms.draft import Draft, NotChunkable, reads_inside
from cascade.transforms.forms import Form, Summand, by_exponent, summands
from cascade.transforms.normal_form import (
    Monomial,
    Poly,
    atom,
    exponential,
    multiply,
    of_monomial,
    subtract,
)
from cascade.transforms.products import Opener
from cascade.transforms.spell import to_expr
from cascade.transforms.tile_form import TileForm
from cascade.transforms.tiles import Tiles, add, filtered, mentions, summed, times

INFINITY = Const(float("inf"))
LOWEST = Const(float("-inf"))
GUARD = "a guard was inserted"
PARTIAL = ("/", "log", "rsqrt", "**")  # maps that have no value at some numbers


class Quadratic:
    """Writes the statements of one form into a draft."""

    def __init__(self, opener: Opener, form: Form):
        self.opener = opener
        self.draft: Draft = opener.draft
        self.form = form
        self.identities: list[str] = []
        self.conditions: list[tuple[str, str]] = []

    def rewrite(self) -> Expr:
        """What stands for the sum; its statements are added to the draft."""
        found = summands(self.opener, self.form)
        return self._chunked(found) if self.form.causal is not None else self._whole(found)

    # -- without a predicate
    def _whole(self, found: list[Summand]) -> Expr:
        column, stem = self.form.column, self.form.einsum.tensor
        own = tuple(c for c in self.form.kept if not mentions(c, set(self.form.node.ranks)))
        parts = []
        for s in found:
            inner, kept, present = self._split(s)
            exponent, anchor = s.exponent, None
            if exponent is not None:
                x = to_expr(exponent)
                ranks = self._ranks(self._free(x, present) - {column, *inner})
                top = Reduce("max", (column, *inner), filtered(x, present))
                best = self.draft.once("max", f"{stem}_top", ranks, top)
                anchor = self.draft.once("kappa", f"{stem}_anchor", ranks, finite(best))
                exponent = subtract(exponent, atom(anchor))
                self._anchored(x, "maximum")
            value = to_expr(multiply(s.chi, exponential(exponent) if exponent else _ONE))
            total = summed((column, *inner), value, present)
            state = self.draft.once("state", f"{stem}_state", kept, total)
            rho = s.rho if anchor is None else multiply(s.rho, exponential(atom(anchor)))
            outer = tuple(r for r in s.bound if r not in inner)
            filters = tuple(c for c in s.conditions if not mentions(c, {column}))
            there = self._some(present, inner) if self._may_have_no_number(s.rho) else None
            parts.append(_guarded_sum(there, outer, times(to_expr(rho), state), filters))
            self._note(s, state)
        return filtered(add(*parts) if parts else Const(0), own)

    # -- with a prefix
    def _chunked(self, found: list[Summand]) -> Expr:
        form = self.form
        assert form.causal is not None
        tiles = self.draft.tiles(form.causal, form.column if form.column != form.causal else None)
        inner = TileForm(self.opener, tiles, form.column, form.prefix, form.strict)
        parts = [self._through_state(s, tiles) for s in found]
        parts.append(self._inside(inner, tiles))
        body = add(*parts)
        ranks: list[str] = []
        free = free_ranks(form.node)
        for r in form.einsum.scope:
            if r == form.causal:
                ranks += [tiles.outer, tiles.inner]
            elif r in free or mentions(body, {r}):
                ranks.append(r)
        name = self.draft.fresh(f"{form.einsum.tensor}_chunk")
        self.draft.add(name, tuple(ranks), body)
        self.conditions.append(
            (
                f"{form.column} of an earlier chunk is before every {form.causal} of this one",
                f"`{print_expr(form.prefix[0])}`, proved by its linear form",
            )
        )
        return tiles.whole(name, tuple(ranks))

    def _inside(self, inner: TileForm, tiles: Tiles) -> Expr:
        """The form as written, on a chunk of rows and columns."""
        form = self.form
        body = inner.placed(form.node.body)
        bound = tuple(tiles.column if r == form.column else r for r in form.node.ranks)
        before = inner.before if not inner.has_prefix(body) else ()
        tail = self._column_tail(body, tiles)
        return summed(bound, filtered(body, (*before, *tail)))

    def _column_tail(self, body: Expr, tiles: Tiles) -> tuple[Expr, ...]:
        """`m < M` in a chunk, where rows may go on after the columns end."""
        extent = self.draft.ranks[self.form.column].extent
        point = tiles.point(tiles.column)
        if extent == tiles.extent or reads_inside(self.draft, body, point, extent):
            return ()
        return (Map("<", (point, extent)),)

    def _through_state(self, s: Summand, tiles: Tiles) -> Expr:
        form, draft, column = self.form, self.draft, self.form.column
        assert form.causal is not None
        stem = form.einsum.tensor
        inner, kept, present = self._split(s)
        over = (tiles.column, *inner)
        value = s.chi
        leaving: list[Expr] = []
        carry: list[Expr] = []
        best: Read | None = None
        if s.exponent is not None:
            x = to_expr(s.exponent)
            ranks = (*self._ranks(self._free(x, present) - {column, *inner}), tiles.outer)
            best = self._running_maximum(x, present, ranks, over, tiles)
            after = Read(best.tensor, (*best.index[:-1], tiles.after))
            kappa = draft.once("kappa", f"{stem}_anchor", ranks, finite(after))
            fade = draft.once("fade", f"{stem}_fade", ranks, guarded(best, Map("-", (best, after))))
            value = multiply(value, exponential(subtract(s.exponent, atom(kappa))))
            carry.append(fade)
            self._anchored(x, "running maximum")
        for step in s.steps:
            carry.append(step.of(tiles.size))
            to_end = Map("-", (tiles.size, Coordinate(tiles.column)))
            leaving.append(step.of(to_end, start=True))
        body = times(*(tiles.at(e, column, tiles.column) for e in (*leaving, to_expr(value))))
        conditions = tuple(tiles.at(c, column, tiles.column) for c in present)
        lifted = summed(over, body, (*conditions, *self._column_tail(body, tiles)))
        state = self._state(stem, (*kept, tiles.outer), carry, lifted, tiles)
        rho = s.rho
        entered: Expr
        if best is not None:
            rho = multiply(rho, exponential(atom(best)))
            entered = _guarded_exponents(rho, best)
        else:
            entered = to_expr(rho)
        factors = [entered, *(step.of(Coordinate(tiles.inner)) for step in s.steps), state]
        outer = tuple(r for r in s.bound if r not in inner)
        filters = tuple(c for c in s.conditions if not mentions(c, {column}))
        placed = [tiles.at(e, form.causal, tiles.inner) for e in (times(*factors), *filters)]
        self._note(s, state)
        there = self._some_before(present, over, tiles) if self._may_have_no_number(s.rho) else None
        return _guarded_sum(there, outer, placed[0], tuple(placed[1:]))

    # -- where a factor of the row is evaluated
    def _may_have_no_number(self, rho: Poly) -> bool:
        """Whether a factor may be infinite or NaN though the inputs are finite: all but a
        polynomial in inputs, and in what only adds and multiplies them.
        """
        return any(
            m.exponent is not None
            or any(
                n.denominator != 1 or n < 0 or not isinstance(a, Read) or self._unbounded(a.tensor)
                for a, n in m.powers
            )
            for m, _ in rho.terms
        )

    def _unbounded(self, tensor: str) -> bool:
        """Whether a statement that a tensor comes from makes infinity out of finite numbers, as a
        maximum of no point does.
        """
        above, found = [tensor], {tensor}
        while above:
            for e in self.draft.source.definitions.get(above.pop(), ()):
                for node in walk(e.body):
                    if isinstance(node, Reduce) and node.op in ("max", "min"):
                        return True
                    if isinstance(node, Map) and node.op in PARTIAL:
                        return True
                    if isinstance(node, Read) and node.tensor not in found:
                        found.add(node.tensor)
                        above.append(node.tensor)
        return False

    def _some(self, present: tuple[Expr, ...], inner: tuple[str, ...]) -> Expr:
        """Whether there is a column."""
        column, stem = self.form.column, self.form.einsum.tensor
        self._guards()
        if not present:
            return Map(">", (self.draft.ranks[column].extent, Const(0)))
        ranks = self._ranks({r for c in present for r in free_ranks(c)} - {column, *inner})
        test = conjunction(present)
        if self.opener.presence.passing(test, (column, *inner)):
            test = filtered(Const(True), present)  # unknown is not there
        there = Reduce("any", (column, *inner), test)
        return self.draft.once("any", f"{stem}_some", ranks, there)

    def _some_before(self, present: tuple[Expr, ...], over: tuple[str, ...], tiles: Tiles) -> Expr:
        """Whether there is a column in an earlier chunk."""
        column, draft = self.form.column, self.draft
        self._guards()
        if not present:
            extent = draft.ranks[column].extent
            first = Map("<", (Const(0), Coordinate(tiles.outer)))
            return Map("and", (first, Map("<", (Const(0), extent))))
        gone = {column, *over}
        kept = self._ranks({r for c in present for r in free_ranks(c)} - gone)
        ranks = (*kept, tiles.outer)
        conditions = tuple(tiles.at(c, column, tiles.column) for c in present)
        conditions += self._column_tail(Const(1), tiles)
        number = summed(over, Const(1), conditions)
        key = ("number", ranks, number)
        if key not in draft.made:
            draft.made[key] = name = draft.fresh(f"{self.form.einsum.tensor}_seen")
            here = Read(name, tuple(Coordinate(r) for r in ranks))
            draft.iterate(name, ranks, Const(0), add(here, number))
        seen = Read(draft.made[key], tuple(Coordinate(r) for r in ranks))
        return Map("<", (Const(0), seen))

    def _guards(self) -> None:
        says = "where there is no column the sum is 0, whatever the factor of the row"
        if (says, GUARD) not in self.conditions:
            self.conditions.append((says, GUARD))

    def _state(
        self, stem: str, ranks: tuple[str, ...], carry: list[Expr], lifted: Expr, tiles: Tiles
    ) -> Read:
        key = ("state", ranks, tuple(carry), lifted)
        if key not in self.draft.made:
            self.draft.made[key] = name = self.draft.fresh(f"{stem}_state")
            here = Read(name, tuple(Coordinate(r) for r in ranks))
            self.draft.iterate(name, ranks, Const(0), add(times(here, *carry), lifted))
        return Read(self.draft.made[key], tuple(Coordinate(r) for r in ranks))

    def _running_maximum(
        self,
        x: Expr,
        present: tuple[Expr, ...],
        ranks: tuple[str, ...],
        over: tuple[str, ...],
        tiles: Tiles,
    ) -> Read:
        placed = tiles.at(x, self.form.column, tiles.column)
        conditions = tuple(tiles.at(c, self.form.column, tiles.column) for c in present)
        conditions += self._column_tail(placed, tiles)
        top = Reduce("max", over, filtered(placed, conditions))
        key = ("running", ranks, top)
        if key not in self.draft.made:
            self.draft.made[key] = name = self.draft.fresh(f"{self.form.einsum.tensor}_top")
            here = Read(name, tuple(Coordinate(r) for r in ranks))
            self.draft.iterate(name, ranks, LOWEST, Map("max", (here, top)))
        return Read(self.draft.made[key], tuple(Coordinate(r) for r in ranks))

    # -- ranks
    def _split(self, s: Summand) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Expr, ...]]:
        """Ranks summed with the columns, ranks that the state keeps, and conditions of columns."""
        column = self.form.column
        conditions = (*self.form.kept, *s.conditions)
        present = tuple(c for c in conditions if mentions(c, {column}))
        if any(mentions(c, self.form.rows) for c in s.conditions if c in present):
            raise NotChunkable(print_expr(present[-1]), "a condition joins rows and columns")
        chi = self._free(to_expr(s.chi), present)
        if s.exponent is not None:
            chi |= set(free_ranks(to_expr(s.exponent)))
        row = set(free_ranks(to_expr(s.rho)))
        row |= {r for c in s.conditions if c not in present for r in free_ranks(c)}
        for step in s.steps:
            row |= set(free_ranks(step.rate))
        chi |= {r for step in s.steps for r in free_ranks(step.rate)}
        inner = tuple(r for r in s.bound if r in chi and r not in row)
        return inner, self._ranks(chi - {column, *inner}, s.bound), present

    def _free(self, e: Expr, present: tuple[Expr, ...]) -> set[str]:
        return set(free_ranks(e)) | {r for c in present for r in free_ranks(c)}

    def _ranks(self, chosen: set[str], bound: tuple[str, ...] = ()) -> tuple[str, ...]:
        order = dict.fromkeys((*self.form.einsum.scope, *bound, *sorted(chosen)))
        return tuple(r for r in order if r in chosen)

    # -- what the derivation says
    def _note(self, s: Summand, state: Read) -> None:
        column = Coordinate(self.form.column)
        value = s.chi if s.exponent is None else multiply(s.chi, exponential(s.exponent))
        weights = []
        if self.form.causal is not None:
            way = Map("-", (Coordinate(self.form.causal), column))
            weights = [step.of(way) for step in s.steps]
        body = print_expr(times(to_expr(s.rho), *weights, to_expr(value)))
        over = ",".join((column.rank, *s.bound))
        self.identities.append(f"{state.tensor} carries the columns of sum[{over}]({body})")

    def _anchored(self, x: Expr, kind: str) -> None:
        self.conditions.append(
            (
                f"exp of {print_expr(x)} is shifted by its {kind}",
                "the exponent of a column is then at most 0",
            )
        )


def _guarded_sum(
    there: Expr | None, outer: tuple[str, ...], value: Expr, filters: tuple[Expr, ...]
) -> Expr:
    """The sum over `outer`, 0 where there is no column; said inside where that depends on it."""
    if there is None:
        return summed(outer, value, filters)
    if mentions(there, set(outer)):
        return summed(outer, Map("select", (there, value, Const(0))), filters)
    return Map("select", (there, summed(outer, value, filters), Const(0)))


def _guarded_exponents(rho: Poly, best: Expr) -> Expr:
    """rho, with every exponential 0 where the running maximum in it has seen no point."""
    parts = []
    for exponent, rest in by_exponent(rho).items():
        weight = guarded(best, to_expr(exponent)) if exponent is not None else Const(1)
        parts.append(times(weight, to_expr(rest)))
    return add(*parts)


_ONE = of_monomial(Monomial(frozenset()))


def finite(e: Expr) -> Expr:
    """A maximum as an anchor: 0 where it is infinite."""
    below = Map("<", (e, INFINITY))
    return Map("select", (Map("and", (finite_above(e), below)), e, Const(0)))


def finite_above(e: Expr) -> Expr:
    return Map("<", (LOWEST, e))


def guarded(e: Expr, exponent: Expr) -> Expr:
    """exp(exponent) where the running maximum e has seen a point, else 0."""
    return Map("select", (finite_above(e), Map("exp", (exponent,)), Const(0)))
