"""Recurrences whose update reads the state through a vector:

    S[i+1] = D_i S[i] + u_i (w_i . S[i]) + b_i

The readout `y_i = w_i . S[i]` is taken as one more input. Unrolled with the diagonal part alone,
the readouts of a chunk meet each other in a unit lower triangular system `(I - L) Y = W S + R`,
with `L[i,j] = w_i . E(i-1,j) u_j` for j < i. It is solved by forward substitution, for the part of
the state and for the rest on their own, so neither waits for the state.
"""

from __future__ import annotations

from fractions import Fraction

from cascade.ir.expr import Const, Coordinate, Expr, Map, Read
from cascade.ir.printer import print_expr
from cascade.ir.walk import free_ranks
from cascade.transforms.draft import NotChunkable
from cascade.transforms.normal_form import Atom, Monomial, Poly, from_terms, of_monomial
from cascade.transforms.recurrence import Inputs, Recurrence
from cascade.transforms.spell import atom_expr, to_expr
from cascade.transforms.state_terms import Term, factors
from cascade.transforms.tiles import add, filtered, mentions, summed, times


def solve(r: Recurrence) -> None:
    """Adds the readouts of the feedback to the inputs of a recurrence."""
    term, into = _split(r)
    tiles = r.tiles
    column = Coordinate(tiles.column)
    pushed: Inputs = [
        [tiles.at(f, r.rank, tiles.column) for f in factors(m, c)]
        for m, c in sorted(into.terms, key=lambda t: print_expr(to_expr(of_monomial(*t))))
    ]
    lower = r.inside(term, True, pushed)
    row = tiles.at(to_expr(term.value), r.rank, tiles.inner)
    entering = times(row, r.placed(r.decay.after(True), term))
    conditions = tuple(tiles.at(c, r.rank, tiles.inner) for c in term.conditions)
    of_state = _substituted(r, "solved_state", [filtered(entering, conditions)], lower)
    rest = r.from_inside(term, True, r.inputs)
    of_inputs = _substituted(r, "solved_inputs", rest, lower) if rest else None

    body = summed(term.bound, times(of_state, r.state(term.index)))
    if of_inputs is not None:
        body = add(body, of_inputs)
    free = set(free_ranks(body)) - {tiles.outer, tiles.inner}
    ranks = (*(x for x in r.draft.ranks if x in free), tiles.outer, tiles.inner)
    name = r.draft.fresh(f"{r.name}_readout")
    r.draft.add(name, ranks, body)
    here = Read(name, (*(Coordinate(x) for x in ranks[:-1]), column))
    r.inputs += [[*product, here] for product in pushed]
    r.identities.append(
        f"(I - L) {name} = W S + R, L[i,j] = w[i] . E(i-1,j) u[j] for j < i, "
        f"w = {print_expr(to_expr(term.value))}, u = {print_expr(to_expr(into))}"
    )
    r.conditions.append(("a readout meets only readouts of earlier steps", "L is strictly lower"))


def _substituted(
    r: Recurrence, stem: str, start: list[Expr], lower: list[tuple[Expr, list[Expr]]]
) -> Read:
    """The solution of (I - L) X = start, by forward substitution along the rows."""
    tiles = r.tiles
    free = {x for e in start for x in free_ranks(e)}
    free |= {x for square, light in lower for x in free_ranks(times(square, *light))}
    free -= {tiles.outer, tiles.inner, tiles.column}
    ranks = (*(x for x in r.draft.ranks if x in free), tiles.outer, tiles.inner)
    name = r.draft.fresh(f"{r.name}_{stem}")
    earlier = Read(name, (*(Coordinate(x) for x in ranks[:-1]), Coordinate(tiles.column)))
    body = add(*start)
    for square, light in lower:
        minus = Const(-1) in light
        product = times(square, *(f for f in light if f != Const(-1)), earlier)
        part = summed((tiles.column,), product, (r.before(True),))
        body = Map("-" if minus else "+", (body, part))
    r.draft.add(name, ranks, body)
    return Read(name, tuple(Coordinate(x) for x in ranks))


def _split(r: Recurrence) -> tuple[Term, Poly]:
    """The vector that reads the state, and the one that writes what was read."""
    found: dict[Term, Poly] = {}
    for t in r.feedback:
        replaced = {x for x, i in zip(r.own, t.index, strict=True) if i != Coordinate(x)}
        for i in t.index:
            if not isinstance(i, Coordinate) or i.rank == r.rank:
                raise NotChunkable(print_expr(r.read(t.index)), "the state is read at an index")
        for condition in t.conditions:
            if mentions(condition, replaced):
                text = print_expr(condition)
                raise NotChunkable(text, "a full transition of the state has no low rank")
        for m, c in sorted(t.value.terms, key=lambda t: print_expr(to_expr(of_monomial(*t)))):
            reading: list[tuple[Atom, Fraction]] = []
            writing: list[tuple[Atom, Fraction]] = []
            for a, n in m.powers:
                e = atom_expr(a)
                if mentions(e, set(t.bound)) and mentions(e, replaced):
                    text = print_expr(e)
                    raise NotChunkable(text, "a full transition of the state has no low rank")
                (reading if mentions(e, set(t.bound)) else writing).append((a, n))
            if m.exponent is not None and mentions(to_expr(m.exponent), set(t.bound)):
                raise NotChunkable(
                    print_expr(to_expr(m.exponent)), "an exponential joins two places of the state"
                )
            w = of_monomial(Monomial(frozenset(reading)))
            key = Term(t.bound, w, t.index, t.conditions)
            u = (Monomial(frozenset(writing), m.exponent), c)
            found[key] = from_terms([*found[key].terms, u]) if key in found else from_terms([u])
    if len(found) > 1:
        texts = ", ".join(print_expr(to_expr(t.value)) for t in found)
        raise NotChunkable(texts, "the state is read through more than one vector in a step")
    return next(iter(found.items()))
