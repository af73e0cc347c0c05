"""Comparisons that the extents decide: never claimed where one point denies them."""

import operator
import random
from collections.abc import Callable, Iterator
from itertools import product

import pytest

from cascade.ir.affine import always, simplified
from cascade.ir.expr import Const, Coordinate, Expr, Map, Symbol

OPERATORS: dict[str, Callable[..., int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": lambda a, b: a // b if b else 0,
    "%": lambda a, b: a % b if b else 0,
    "neg": operator.neg,
    "<": operator.lt,
    "<=": operator.le,
}
EXTENTS = {"i": Symbol("I"), "j": Symbol("I"), "k": Symbol("K"), "g": Symbol("G")}
DIVIDES = frozenset({(Symbol("I"), Symbol("G"))})


def value(e: Expr, at: dict[str, int]) -> int:
    match e:
        case Const(number):
            return int(number)
        case Coordinate(name) | Symbol(name):
            return at[name]
        case Map(op, args):
            return int(OPERATORS[op](*(value(a, at) for a in args)))
    raise AssertionError(e)


def points() -> Iterator[dict[str, int]]:
    """Every place of every extent where G divides I."""
    for i, k, g in product(range(1, 5), range(1, 4), range(1, 4)):
        if i % g:
            continue
        extents = {"I": i, "K": k, "G": g}
        for place in product(range(i), range(i), range(k), range(g)):
            yield extents | dict(zip("ijkg", place, strict=True))


POINTS = tuple(points())


def drawn(chance: random.Random, depth: int) -> Expr:
    if depth == 0 or chance.random() < 0.2:
        leaf = chance.choice(["rank", "extent", "number"])
        if leaf == "rank":
            return Coordinate(chance.choice("ijkg"))
        return Symbol(chance.choice("IKG")) if leaf == "extent" else Const(chance.randrange(3))
    op = chance.choice(["+", "-", "-", "neg", "//", "*"])
    arity = 1 if op == "neg" else 2
    return Map(op, tuple(drawn(chance, depth - 1) for _ in range(arity)))


def test_always_is_never_wrong() -> None:
    chance, claimed = random.Random(0), 0
    for _ in range(4000):
        op = chance.choice(["<", "<="])
        condition = Map(op, (drawn(chance, chance.randrange(3)), drawn(chance, 2)))
        if always(condition, EXTENTS.__getitem__, DIVIDES):
            claimed += 1
            assert all(value(condition, at) for at in POINTS), condition
    assert claimed > 100


def test_the_shortest_form_has_the_same_value() -> None:
    chance = random.Random(1)
    for _ in range(1000):
        e = drawn(chance, 3)
        assert all(value(e, at) == value(simplified(e), at) for at in POINTS[::37]), e


EXTENT = Symbol("I")
LAST = Map("-", (EXTENT, Const(1)))


@pytest.mark.parametrize(
    "condition",
    [
        Map("<=", (Const(0), Map("-", (LAST, Coordinate("j"))))),
        Map("<", (Map("-", (LAST, Coordinate("j"))), EXTENT)),
        Map("<", (Map("//", (Coordinate("j"), Map("//", (EXTENT, Symbol("G"))))), Symbol("G"))),
    ],
    ids=["a reverse starts in range", "a reverse ends in range", "the group of a head"],
)
def test_is_decided(condition: Expr) -> None:
    assert always(condition, EXTENTS.__getitem__, DIVIDES)
    assert all(value(condition, at) for at in POINTS)
