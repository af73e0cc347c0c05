"""Sums of rows and columns, taken apart: `body(p, m) = sum_k rho_k(p) * weight(p - m) * chi_k(m)`.

A form is a sum over a column rank whose body reads rows too. It may have a prefix condition
`m <= p`; any other condition on both is a refusal, as is a factor in which a row meets a column.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from cascade.analysis.conditions import upper_bounds
from cascade.ir.cascade import Einsum
from cascade.ir.expr import Expr, Map, Read, Reduce
from cascade.ir.printer import print_expr
from cascade.ir.walk import children, free_ranks, reads, walk
from cascade.transforms.draft import NotChunkable
from cascade.transforms.normal_form import (
    Atom,
    Indicator,
    Monomial,
    Opaque,
    Poly,
    Total,
    atoms,
    exponential,
    from_terms,
    multiply,
    of_monomial,
)
from cascade.transforms.products import Opener, Product
from cascade.transforms.separate import Classes, Refusal, separate
from cascade.transforms.spell import atom_expr, to_expr
from cascade.transforms.steps import Steps, take_steps
from cascade.transforms.tiles import mentions

SMALL = 60  # exponents up to here are not shifted: sums of their exponentials stay in range


@dataclass(frozen=True)
class Form:
    """A sum over `column`, for rows that it does not see: the causal rank, or none."""

    einsum: Einsum
    node: Reduce
    column: str
    rows: frozenset[str]
    causal: str | None
    strict: bool
    value: Expr
    prefix: tuple[Expr, ...]  # conditions that say `column <= row`
    kept: tuple[Expr, ...]  # the other conditions


def find_forms(opener: Opener, e: Einsum) -> list[tuple[Form | None, Reduce, NotChunkable | None]]:
    """The sums of a statement that rows and columns may share; a refusal where one cannot be."""
    found: list[tuple[Form | None, Reduce, NotChunkable | None]] = []

    def visit(node: Expr) -> None:
        if isinstance(node, Reduce) and node.op == "sum":
            for column in node.ranks:
                try:
                    form = _form(opener, e, node, column)
                except NotChunkable as refused:
                    found.append((None, node, refused))
                    return
                if form is not None:
                    found.append((form, node, None))
                    return
        for child in children(node):
            visit(child)

    visit(e.body)
    return found


def _form(opener: Opener, e: Einsum, node: Reduce, column: str) -> Form | None:
    if not set(free_ranks(node)) <= set(e.scope):
        return None
    left = [r for r in e.scope if r not in node.ranks and r != column]
    rows = []
    for row in left:
        value = opener.inlined(node.body, lambda r, row=row: _seen(opener, r, column, {row}))  # type: ignore[misc]
        met = any(mentions(r, {column}) and mentions(r, {row}) for r in reads(value))
        if not met and mentions(value, {row}):
            rows.append(row)
    if not rows:
        return None
    own = frozenset(rows)
    value = opener.inlined(node.body, lambda r: _seen(opener, r, column, own))
    conditions = opener.conditions(value, lambda r: _opened(r, column, own))
    prefix: list[Expr] = []
    kept: list[Expr] = []
    causal: str | None = None
    strict = False
    for c in conditions:
        if not (mentions(c, {column}) and mentions(c, own)):
            kept.append(c)
            continue
        found, is_strict = _prefix(c, column)
        if found is None or causal not in (None, found):
            raise NotChunkable(print_expr(c), f"the condition is no prefix of `{column}`")
        causal, strict = found, strict or is_strict
        prefix.append(c)
    if causal is None and _is_width(opener, column):
        return None
    if (
        causal is None
        and value == node.body
        and not any(isinstance(r, Reduce) and _opened(r, column, own) for r in walk(node.body))
    ):
        return None
    return Form(e, node, column, own, causal, strict, value, tuple(prefix), tuple(kept))


def _is_width(opener: Opener, column: str) -> bool:
    """Whether a rank runs along memory in every input that has it: features, not positions.

    Two projections to it are not multiplied ahead: `X (WQ WK') Y'` is more work than
    `(X WQ) (Y WK)'`.
    """
    having = [t.ranks for t in opener.draft.source.inputs if column in t.ranks]
    return bool(having) and all(ranks[-1] == column for ranks in having)


def _seen(opener: Opener, r: Read, column: str, rows: set[str] | frozenset[str]) -> Einsum | None:
    if not (mentions(r, {column}) and mentions(r, rows)):
        return None
    return opener.definition(r.tensor)


def _opened(r: Reduce, column: str, rows: frozenset[str]) -> bool:
    return r.op == "sum" and mentions(r, {column}) and mentions(r, rows)


def _prefix(condition: Expr, column: str) -> tuple[str | None, bool]:
    """The row of `column <= row` or `column < row`, and whether it is the strict one."""
    for coefficients, constant in upper_bounds(condition):
        rows = [r for r, c in coefficients.items() if c == -1]
        if len(coefficients) == 2 and coefficients.get(column) == 1 and len(rows) == 1:
            if constant in (0, 1) and not (isinstance(condition, Map) and condition.op == "=="):
                return rows[0], constant == 1
    return None, False


@dataclass(frozen=True)
class Summand:
    """rho(row) * steps(row - column) * exp(exponent(column)) * chi(column), summed over bound."""

    bound: tuple[str, ...]
    conditions: tuple[Expr, ...]
    steps: tuple[Steps, ...]
    rho: Poly
    chi: Poly
    exponent: Poly | None


def summands(opener: Opener, form: Form) -> list[Summand]:
    """The body of a form, separated. Raises `NotChunkable` with the part that does not."""
    others = tuple(r for r in form.node.ranks if r != form.column)
    inside = tuple(
        c for c in form.kept if mentions(c, set(others)) and not mentions(c, {form.column})
    )
    hidden = {*form.einsum.scope, *form.node.ranks}
    products = opener.products(form.value, lambda r: _opened(r, form.column, form.rows), hidden)
    classes = Classes(
        lambda a: mentions(atom_expr(a), {form.column}),
        lambda a: mentions(atom_expr(a), form.rows),
    )
    found = []
    for product in products:
        for steps, poly in _by_steps(product, form).items():
            _check(poly, classes, form)
            pairs = separate(poly, classes)
            if isinstance(pairs, Refusal):
                raise NotChunkable(pairs.part, pairs.reason)
            for chi, rho in pairs:
                for exponent, part in by_exponent(chi).items():
                    bound = (*others, *product.bound)
                    if exponent is not None and _is_small(opener, exponent):
                        part, exponent = multiply(part, exponential(exponent)), None
                    conditions = (*inside, *product.conditions)
                    found.append(Summand(bound, conditions, steps, rho, part, exponent))
    return sorted(found, key=_text)


def _text(s: Summand) -> tuple[int, str]:
    parts = [s.rho, s.chi, *([s.exponent] if s.exponent is not None else [])]
    return len(s.bound), " ".join(print_expr(to_expr(p)) for p in parts)


def _is_small(opener: Opener, exponent: Poly) -> bool:
    """Whether an exponent lies in known bounds, so that it needs no anchor."""
    known = opener.ranges.of(to_expr(exponent))
    return -SMALL <= known.low and known.high <= SMALL


def _by_steps(product: Product, form: Form) -> dict[tuple[Steps, ...], Poly]:
    found: dict[tuple[Steps, ...], Poly] = {}
    for monomial, c in product.value.terms:
        steps: tuple[Steps, ...] = ()
        if form.causal is not None:
            monomial, steps = take_steps(monomial, form.causal, form.column)
        term = of_monomial(monomial, c)
        found[steps] = from_terms([*found[steps].terms, *term.terms]) if steps in found else term
    return found


def by_exponent(chi: Poly) -> dict[Poly | None, Poly]:
    found: dict[Poly | None, Poly] = {}
    for m, c in chi.terms:
        term = of_monomial(Monomial(m.powers), c)
        old = found.get(m.exponent)
        found[m.exponent] = term if old is None else from_terms([*old.terms, *term.terms])
    return found


def _check(poly: Poly, classes: Classes, form: Form) -> None:
    """Refuse a factor in which a row meets a column."""
    both = f"values of {','.join(sorted(form.rows))} and of {form.column}"
    found: list[tuple[str, str]] = []
    for monomial, _ in poly.terms:
        for a, n in monomial.powers:
            if all(classes.of(a)):
                found.append((print_expr(atom_expr(a)), _reason(a, n, both)))
        for term, _ in monomial.exponent.terms if monomial.exponent is not None else ():
            if all(classes.of_monomial(term)):
                text = print_expr(to_expr(of_monomial(term)))
                sums = [a for a in atoms(of_monomial(term)) if isinstance(a, Reduce)]
                what = f"a sum over {','.join(sums[0].ranks)}" if sums else "a product"
                reason = f"{what} of {both} inside an exponential has infinite rank"
                found.append((f"exp of {text}", reason))
    if found:
        raise NotChunkable(*min(found))


def _reason(a: Atom, n: Fraction, both: str) -> str:
    match a:
        case Opaque(op, _):
            return f"no addition theorem takes {op} of {both} apart"
        case Total():
            return f"a sum of {both} to the power {n} has infinite rank"
        case Indicator():
            return f"a condition on {both} has infinite rank"
        case Map():
            return f"a choice on {both} does not separate"
        case _:
            return f"one tensor has {both}"
