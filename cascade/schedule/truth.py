"""Truth values in a short form: `and`, `or`, `not` and choices of them.

Conditions on what is present grow with every step that reads another; most of what they say twice
goes here, by the rules of Boolean algebra. Values are total: `x == x or x != x` holds, NaN or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations

from cascade.ir.expr import FALSE, TRUE, Const, Coordinate, Expr, Map

DUAL = {"and": "or", "or": "and"}
NEUTRAL: dict[str, Expr] = {
    "and": TRUE,
    "or": FALSE,
}  # what a conjunction, a disjunction of nothing is
COMPLEMENT = {"==": "!=", "!=": "=="}


def conjoin(parts: Iterable[Expr]) -> Expr:
    """`a and b and c` without what follows from the rest."""
    return _combined("and", tuple(parts))


def disjoin(parts: Iterable[Expr]) -> Expr:
    """`a or b or c` without what the rest follows from."""
    return _combined("or", tuple(parts))


def negate(e: Expr) -> Expr:
    match e:
        case Const(value):
            return Const(not value)
        case Map("not", (inner,)):
            return inner
        case Map("and" | "or" as op, _):
            parts = _parts(op, e)
            if all(isinstance(p, Map) and p.op == "not" for p in parts):
                return _combined(DUAL[op], tuple(negate(p) for p in parts))
    return Map("not", (e,))


def choose(c: Expr, a: Expr, b: Expr) -> Expr:
    """`a` if c else `b`, of truth values."""
    if a == b:
        return a
    return disjoin((conjoin((c, a)), conjoin((negate(c), b))))


def _parts(op: str, e: Expr) -> tuple[Expr, ...]:
    """`a and b and c` as (a, b, c), or the same of `or`."""
    if isinstance(e, Map) and e.op == op:
        return tuple(p for a in e.args for p in _parts(op, a))
    return (e,)


def _combined(op: str, given: tuple[Expr, ...]) -> Expr:
    parts = _flat(op, given)
    while True:
        before = parts
        parts = _flat(op, _given_each_other(op, parts))
        parts = _flat(op, _merged(op, _absorbed(op, parts)))
        if parts == before:
            break
    result = NEUTRAL[op]
    for part in parts:
        result = part if result == NEUTRAL[op] else Map(op, (result, part))
    return result


def _flat(op: str, given: Iterable[Expr]) -> tuple[Expr, ...]:
    """Each part once; one alone where it decides, or its contrary is among them."""
    zero = NEUTRAL[DUAL[op]]
    each = (p for e in given for p in _parts(op, e))
    parts = tuple(dict.fromkeys(FALSE if _never(p) else p for p in each))
    if zero in parts or any(q in parts for p in parts for q in _contraries(p)):
        return (zero,)
    return tuple(p for p in parts if p != NEUTRAL[op])


def _never(e: Expr) -> bool:
    """A coordinate below 0: there is none. Conditions say it to mention a rank."""
    return (
        isinstance(e, Map)
        and e.op == "<"
        and isinstance(e.args[0], Coordinate)
        and (e.args[1] == Const(0))
    )


def _contraries(e: Expr) -> tuple[Expr, ...]:
    """Expressions that hold where `e` does not, and only there."""
    found = [negate(e)]
    match e:
        case Map("==" | "!=" as op, args):
            found.append(Map(COMPLEMENT[op], args))
        case Map("not", (Map("==" | "!=" as op, args),)):
            found.append(negate(Map(COMPLEMENT[op], args)))
    return tuple(found)


def _given_each_other(op: str, parts: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Each part where the others decide nothing: in `a and (not a or b)` a holds, so b does."""
    known: dict[Expr, Expr] = {}
    for p in parts:
        if not _is_compound(p):
            known[p] = NEUTRAL[op]
            known.update(dict.fromkeys(_contraries(p), NEUTRAL[DUAL[op]]))
    if not known:
        return parts
    return tuple(_under(p, known) if _is_compound(p) else p for p in parts)


def _under(e: Expr, known: dict[Expr, Expr]) -> Expr:
    if e in known:
        return known[e]
    match e:
        case Map("and" | "or" as op, args):
            parts = [_under(a, known) for a in args]
            return e if tuple(parts) == args else _combined(op, tuple(parts))
        case Map("not", (inner,)):
            found = _under(inner, known)
            return e if found == inner else negate(found)
    return e


def _is_compound(e: Expr) -> bool:
    return isinstance(e, Map) and (e.op in DUAL or (e.op == "not" and _is_compound(e.args[0])))


def _absorbed(op: str, parts: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """`a or a and b` is a."""
    sets = {p: frozenset(_parts(DUAL[op], p)) for p in parts}
    return tuple(p for p in parts if not any(sets[q] < sets[p] for q in parts))


def _merged(op: str, parts: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """`a and b or a and not b` is a."""
    for p, q in permutations(parts, 2):
        first, second = (_parts(DUAL[op], x) for x in (p, q))
        if len(first) != len(second) or len(first) == 1:
            continue
        own = [x for x in first if x not in second]
        if len(own) == 1 and any(c in second for c in _contraries(own[0])):
            common = _combined(DUAL[op], tuple(x for x in first if x != own[0]))
            return tuple(common if x == p else x for x in parts if x != q)
    return parts
