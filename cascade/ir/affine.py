"""Index expressions in their shortest form: `I - 1 - (I - 1 - j)` is `j`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.walk import children, rebuild, transform

Sum = dict[Expr, int]  # atom -> coefficient; the constant under Const(1)
ONE = Const(1)


def simplified(e: Expr) -> Expr:
    """The same value, with sums and differences collected wherever that makes them shorter."""
    found = _sum(e)
    if found is not None and _sums(e) > max(0, len([n for n in found.values() if n]) - 1):
        return _written(found)
    return rebuild(e, tuple(simplified(c) for c in children(e)))


def simplified_indexes(e: Expr) -> Expr:
    """Indexes of reads, and sides of comparisons, in their shortest form."""

    def rule(n: Expr) -> Expr | None:
        match n:
            case Read(_, index):
                return replace(n, index=tuple(simplified(i) for i in index))
            case Map("<" | "<=" | ">" | ">=" | "==" | "!=", (a, b)):
                return replace(n, args=(simplified(a), simplified(b)))
        return None

    return transform(e, rule)


def from_end(extent: Expr, place: Expr) -> Expr:
    """The coordinate as far from the end as `place` is from the start: `I - 1 - i`."""
    return Map("-", (Map("-", (extent, ONE)), place))


def compared(e: Expr) -> Expr:
    """The same truth, with `<` and `<=` of sums that share terms in their shortest form."""

    def rule(n: Expr) -> Expr | None:
        match n:
            case Map("<" | "<=" | ">" | ">=" as op, (a, b)):
                found = _joined(_sum(a), _sum(b), -1)
                if found is None or not _shorter(found, a, b):
                    return None
                low = {x: k for x, k in found.items() if k > 0}
                high = {x: -k for x, k in found.items() if k < 0}
                return Map(op, (_written(low), _written(high)))
        return None

    return transform(e, rule)


def _shorter(found: Sum, a: Expr, b: Expr) -> bool:
    return len([k for k in found.values() if k]) < _sums(a) + _sums(b) + 2


def divisible(cascade: Cascade) -> frozenset[tuple[Expr, Expr]]:
    """(x, y) for each `require x % y == 0`."""
    found = set()
    for r in cascade.requirements:
        match r.condition:
            case Map("==", (Map("%", (x, y)), Const(0))):
                found.add((x, y))
    return frozenset(found)


def always(
    condition: Expr,
    extent: Callable[[str], Expr],
    divides: frozenset[tuple[Expr, Expr]] = frozenset(),
) -> bool:
    """Whether `x <= y` or `x < y` holds at every point of the ranks in it, by their extents."""
    match condition:
        case Map("<=", (Const(0), Map("//", (x, y)))) if _is_size(y):
            return always(Map("<=", (Const(0), x)), extent, divides)
        case Map("<", (Map("//", (Coordinate(r), Map("//", (x, y)))), z)) if y == z:
            if extent(r) == x and (x, y) in divides:  # the last of x is in the last of y groups
                return True
        case Map("<", (Map("+", (Map("*", (Coordinate(g), size)), Coordinate(r))), x)):
            match size:
                case Map("//", (whole, z)) if whole == x and extent(g) == z and extent(r) == size:
                    return True  # y groups of x // y members are no more than x
    match condition:
        case Map("<=" | "<" as op, (low, high)):
            found = _joined(_sum(high), _sum(low), -1)
        case _:
            return False
    if found is None:
        return False
    least: Sum | None = {}
    for atom, n in found.items():
        part: Sum | None = {atom: 1}
        if isinstance(atom, Coordinate):  # 0 .. extent - 1
            part = {} if n > 0 else _joined(_sum(extent(atom.rank)), {ONE: 1}, -1)
        least = _joined(least, part, n)
    if least is None or any(n for atom, n in least.items() if atom != ONE):
        return False
    return least.get(ONE, 0) >= (1 if op == "<" else 0)


def grouped(e: Expr, extent: Callable[[str], Expr]) -> Expr:
    """`(g*n + r) // n` is g, and `% n` is r, where r has the extent n."""

    def rule(e: Expr) -> Expr | None:
        match e:
            case Map("//" | "%" as op, (Map("+", (Map("*", (g, n)), Coordinate(r))), size)):
                if n == size and extent(r) == n:
                    return g if op == "//" else Coordinate(r)
        return None

    return transform(e, rule)


def _is_size(e: Expr) -> bool:
    """Whether an expression of extents is never negative."""
    match e:
        case Const(int(n)):
            return n >= 0
        case Symbol():
            return True
        case Map("//" | "*" | "+", args):
            return all(_is_size(a) for a in args)
    return False


def _sums(e: Expr) -> int:
    """The number of additions and subtractions at the top of an expression."""
    if isinstance(e, Map) and e.op in ("+", "-", "neg"):
        return 1 + sum(_sums(a) for a in e.args)
    return 0


def _sum(e: Expr) -> Sum | None:
    match e:
        case Const(int(value)) if not isinstance(value, bool):
            return {ONE: value}
        case Coordinate() | Symbol() | Map("*" | "//" | "%", _):
            return {e: 1}
        case Map("+", (a, b)):
            return _joined(_sum(a), _sum(b), 1)
        case Map("-", (a, b)):
            return _joined(_sum(a), _sum(b), -1)
        case Map("neg", (a,)):
            return _joined({}, _sum(a), -1)
    return None


def _joined(a: Sum | None, b: Sum | None, sign: int) -> Sum | None:
    if a is None or b is None:
        return None
    found = dict(a)
    for atom, n in b.items():
        found[atom] = found.get(atom, 0) + sign * n
    return found


def _written(found: Sum) -> Expr:
    """Positive terms, negative terms, the constant: `I - 1 - j` as `I - j - 1`."""
    constant = found.get(ONE, 0)
    atoms = [(a, n) for a, n in found.items() if a != ONE and n]
    result: Expr | None = None
    for atom, n in sorted(atoms, key=lambda item: item[1] < 0):
        part = atom if abs(n) == 1 else Map("*", (Const(abs(n)), atom))
        if result is None:
            result = part if n > 0 else Map("neg", (part,))
        else:
            result = Map("+" if n > 0 else "-", (result, part))
    if result is None:
        return Const(constant)
    if constant:
        result = Map("+" if constant > 0 else "-", (result, Const(abs(constant))))
    return result
