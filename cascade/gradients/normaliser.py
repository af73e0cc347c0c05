"""Weights that sum to one, as one exponential: exp(x - g) / sum(exp(x - g)) = exp(x - L).

L = g + log(sum) is one number a row where g and the sum are two, and the gradient needs no other:
it is what FlashAttention-2 saves (Dao 2023, section 3.1). The sum is not 0 where the quotient has a
point, since it contains that point. Weights of the same x are the same whatever was subtracted, so
one L serves them all; one that the cascade has already is taken before a new one is made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cascade.gradients.build import at, minus, plus
from cascade.gradients.names import Names
from cascade.gradients.products import Products
from cascade.gradients.record import Record
from cascade.ir.cascade import Cascade, Einsum
from cascade.ir.expr import Coordinate, Expr, Map, Read, Reduce, Where
from cascade.ir.printer import print_einsum
from cascade.ir.walk import conjuncts, free_ranks, substitute, transform


@dataclass(frozen=True)
class Weight:
    """`share = exp / total`, with `logit = x` and the part `g` that was subtracted (or None)."""

    exponential: Einsum
    total: Einsum
    logit: Expr
    shift: Expr | None  # over the ranks of the total

    @property
    def key(self) -> tuple[object, ...]:
        assert isinstance(self.total.body, Reduce)
        body = self.total.body
        filters = body.body.condition if isinstance(body.body, Where) else None
        return self.logit, self.exponential.ranks, self.total.ranks, body.ranks, filters


def normalised(cascade: Cascade, names: Names, products: Products, record: Record) -> Cascade:
    """The cascade with its weights as single exponentials; `products` learns their quotients."""
    by_name = {e.tensor: e for e in cascade.einsums if not e.init and e.step is None}
    weights = [w for e in by_name.values() if (w := _weight(e, by_name)) is not None]
    extra: list[Einsum] = []
    rows: dict[tuple[object, ...], str] = {}
    for weight in weights:
        found = _logarithm(weight, cascade)
        if found is not None:
            rows.setdefault(weight.key, found)
    bodies: dict[str, Expr] = {}
    shares: dict[tuple[object, ...], str] = {}
    for weight in weights:
        if weight.key not in rows:
            name = names.tensor(f"{weight.total.tensor}_log")
            log: Expr = Map("log", (at(weight.total.tensor, weight.total.ranks),))
            body = log if weight.shift is None else plus(weight.shift, log)
            extra.append(Einsum(name, weight.total.ranks, body))
            rows[weight.key] = name
        row = rows[weight.key]
        for e in by_name.values():
            values = _quotient(e, weight)
            if values is not None:
                logit = substitute(weight.logit, _own(weight, e))
                index = tuple(values[r] for r in weight.total.ranks)
                bodies[e.tensor] = Map("exp", (minus(logit, Read(row, index)),))
                if e.ranks == weight.exponential.ranks:
                    shares.setdefault(weight.key, e.tensor)
                made = [x for x in extra if x.tensor == row]
                record.add(
                    "take the sum into the exponent of",
                    e.tensor,
                    (print_einsum(e),),
                    (*map(print_einsum, made), print_einsum(replace(e, body=bodies[e.tensor]))),
                    (f"{weight.total.tensor} > 0 where {e.tensor} has a point: it sums that one",),
                )
                products.learn(e)
    for weight in weights:
        values = _inside(weight)
        if values is None:
            continue
        if weight.key not in shares:
            name = names.tensor(f"{weight.exponential.tensor}_share")
            index = tuple(values[r] for r in weight.total.ranks)
            body = Map("exp", (minus(weight.logit, Read(rows[weight.key], index)),))
            extra.append(Einsum(name, weight.exponential.ranks, body))
            shares[weight.key] = name
        index = tuple(values[r] for r in weight.total.ranks)
        ranks = weight.exponential.ranks
        above = at(weight.exponential.tensor, ranks)
        quotient = Map("/", (above, Read(weight.total.tensor, index)))
        products.learn(Einsum(shares[weight.key], ranks, quotient))
    einsums = [replace(e, body=bodies.get(e.tensor, e.body)) for e in cascade.einsums]
    return replace(cascade, einsums=(*einsums, *extra))


def _weight(e: Einsum, by_name: dict[str, Einsum]) -> Weight | None:
    """`e` as the sum of an exponential over some ranks."""
    if not isinstance(e.body, Reduce) or e.body.op != "sum":
        return None
    body = e.body.body.body if isinstance(e.body.body, Where) else e.body.body
    if not isinstance(body, Read) or body.tensor not in by_name:
        return None
    inner = by_name[body.tensor]
    if not isinstance(inner.body, Map) or inner.body.op != "exp":
        return None
    if body.index != tuple(map(Coordinate, inner.ranks)):
        return None
    if not set(e.ranks) <= {*inner.ranks, *_groups(e)}:
        return None
    x = inner.body.args[0]
    if isinstance(x, Map) and x.op == "-":
        shift = _grouped(x.args[1], e)
        of = set(free_ranks(shift))
        if not of & set(e.body.ranks) and of <= set(e.ranks):
            return Weight(inner, e, x.args[0], shift)
    return Weight(inner, e, x, None)


def _groups(e: Einsum) -> dict[str, Expr]:
    """`y` and `x` for each filter `x == y` of a sum whose left side has y."""
    assert isinstance(e.body, Reduce)
    found: dict[str, Expr] = {}
    if isinstance(e.body.body, Where):
        for c in conjuncts(e.body.body.condition):
            match c:
                case Map("==", (x, Coordinate(y))) | Map("==", (Coordinate(y), x)) if y in e.ranks:
                    found[y] = x
    return found


def _grouped(shift: Expr, e: Einsum) -> Expr:
    """A part of a row over the ranks of its sum: under `x == y` the one stands for the other."""
    for y, x in _groups(e).items():
        shift = transform(shift, lambda n, x=x, y=y: Coordinate(y) if n == x else None)  # type: ignore[misc]
    return shift


def _inside(weight: Weight) -> dict[str, Expr] | None:
    """The point of the sum that contains a point of the exponential, if it is plain."""
    groups = _groups(weight.total)
    body = weight.total.body
    assert isinstance(body, Reduce)
    if isinstance(body.body, Where) and len(conjuncts(body.body.condition)) != len(groups):
        return None  # a sum that leaves points out has no share of those
    return {r: groups.get(r, Coordinate(r)) for r in weight.total.ranks}


def _quotient(e: Einsum, weight: Weight) -> dict[str, Expr] | None:
    """For `e` = exponential / total: the index of the total by its ranks."""
    match e.body:
        case Map("/", (Read(a, index), Read(s, of))):
            if a != weight.exponential.tensor or s != weight.total.tensor:
                return None
            values = _inside(weight)
            if values is None:
                return None
            own = dict(zip(weight.exponential.ranks, index, strict=True))
            wanted = {r: substitute(v, own) for r, v in values.items()}
            found = dict(zip(weight.total.ranks, of, strict=True))
            return found if found == wanted else None
    return None


def _own(weight: Weight, e: Einsum) -> dict[str, Expr]:
    assert isinstance(e.body, Map) and isinstance(e.body.args[0], Read)
    return dict(zip(weight.exponential.ranks, e.body.args[0].index, strict=True))


def _logarithm(weight: Weight, cascade: Cascade) -> str | None:
    """A tensor of the cascade that is g + log(total) already."""
    total = at(weight.total.tensor, weight.total.ranks)
    logs = {e.tensor: e for e in cascade.einsums if e.body == Map("log", (total,))}
    for e in cascade.einsums:
        if e.ranks != weight.total.ranks or e.step is not None:
            continue
        if weight.shift is None:
            if e.tensor in logs:
                return e.tensor
            continue
        named: list[Expr] = [at(n, log.ranks) for n, log in logs.items()]
        for part in (*named, Map("log", (total,))):
            if e.body in (plus(part, weight.shift), plus(weight.shift, part)):
                return e.tensor
    return None
