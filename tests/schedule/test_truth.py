"""Conditions in their short form say what they said."""

import random
from itertools import product

import pytest

from cascade.ir.expr import FALSE, TRUE, Const, Coordinate, Expr, Map, Read
from cascade.ir.extents import evaluate
from cascade.ir.walk import size, transform
from cascade.schedule.truth import choose, conjoin, disjoin, negate

NAMES = "abcd"
A, B, C, D = (Read(n, ()) for n in NAMES)
SAME, OTHER = Map("==", (A, B)), Map("!=", (A, B))
LEAVES: list[Expr] = [A, B, C, D, SAME, OTHER, TRUE, FALSE]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (conjoin(()), TRUE),
        (disjoin(()), FALSE),
        (conjoin((A, TRUE, A)), A),
        (conjoin((A, FALSE)), FALSE),
        (conjoin((A, negate(A))), FALSE),
        (disjoin((SAME, OTHER)), TRUE),
        (conjoin((A, disjoin((negate(A), B)))), conjoin((A, B))),
        (disjoin((A, conjoin((negate(A), B)))), disjoin((A, B))),
        (disjoin((A, conjoin((A, B)))), A),
        (disjoin((conjoin((SAME, C)), conjoin((OTHER, C)), conjoin((C, C)))), C),
        (negate(disjoin((negate(A), negate(B)))), conjoin((A, B))),
        (negate(negate(A)), A),
        (choose(A, B, B), B),
        (choose(A, TRUE, B), disjoin((A, B))),
        (disjoin((A, Map("<", (Coordinate("p"), Const(0))))), A),
        (conjoin((A, Map("<", (Coordinate("p"), Const(0))))), FALSE),
    ],
)
def test_cases(found: Expr, expected: Expr) -> None:
    assert found == expected


def test_what_is_said_once_stays() -> None:
    once = Map("and", (Map("or", (A, B)), Map("not", (Map("and", (C, D)),))))
    assert conjoin(once.args) == once


@pytest.mark.parametrize("seed", range(300))
def test_random(seed: int) -> None:
    chance = random.Random(seed)
    plain = drawn(chance, 5)
    short = shortened(plain)
    assert size(short) <= size(plain)
    for values in product((False, True), repeat=len(NAMES)):
        known = dict(zip(NAMES, values, strict=True))
        assert truth(short, known) == truth(plain, known)


def drawn(chance: random.Random, depth: int) -> Expr:
    if depth == 0 or chance.random() < 0.15:
        return chance.choice(LEAVES)
    op = chance.choice(["and", "and", "or", "or", "not"])
    return Map(op, tuple(drawn(chance, depth - 1) for _ in range(1 if op == "not" else 2)))


def shortened(e: Expr) -> Expr:
    match e:
        case Map("and", args):
            return conjoin(tuple(map(shortened, args)))
        case Map("or", args):
            return disjoin(tuple(map(shortened, args)))
        case Map("not", (a,)):
            return negate(shortened(a))
    return e


def truth(e: Expr, known: dict[str, bool]) -> bool:
    def rule(n: Expr) -> Expr | None:
        return Const(known[n.tensor]) if isinstance(n, Read) else None

    def lookup(name: str) -> bool:
        raise KeyError(name)

    return bool(evaluate(transform(e, rule), lookup))
