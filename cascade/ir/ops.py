"""Operators and their laws, in two tables. Transformations ask the tables; backends own the
spelling.

`MAPS` are pointwise. `absence` says what an absent operand does: `strict` makes the result absent,
the others (`default`, `select`, `and`, `or`) follow docs/language.md, "Absence". `cost` is the kind
of work the analyser counts. `REDUCERS` are commutative monoids with an identity, or derived from
one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MapOp:
    """A pointwise operator: arity, kinds of its operands and result, absence rule, kind of work."""

    arity: tuple[int, int]
    takes: str = "number"  # number | int | bool | any | same
    gives: str = "real"  # real | int | bool | same (as the operands)
    absence: str = "strict"
    cost: str = "other"
    symbol: str = ""  # infix or prefix spelling, where it has one
    precedence: int = 0


@dataclass(frozen=True, slots=True)
class Reducer:
    """A reduction: its value over no points, and whether that value is absent."""

    identity: float | bool | int | None  # None: absent over no points
    takes: str = "number"
    gives: str = "same"
    cost: str = "add"


# Precedence: higher binds tighter. `where` is 1, atoms and calls 100.
OR, AND, NOT, COMPARE, DEFAULT, SUM, PRODUCT, NEGATE, POWER, ATOM = (
    10,
    20,
    30,
    40,
    45,
    50,
    60,
    70,
    80,
    100,
)

UNBOUNDED = 64


def _compare(symbol: str, takes: str = "number") -> MapOp:
    return MapOp((2, 2), takes, "bool", cost="compare", symbol=symbol, precedence=COMPARE)


def _function(cost: str, arity: int = 1, gives: str = "real") -> MapOp:
    return MapOp((arity, arity), "number", gives, cost=cost)


MAPS: dict[str, MapOp] = {
    "+": MapOp((2, 2), gives="same", cost="add", symbol="+", precedence=SUM),
    "-": MapOp((2, 2), gives="same", cost="add", symbol="-", precedence=SUM),
    "*": MapOp((2, 2), gives="same", cost="multiply", symbol="*", precedence=PRODUCT),
    "/": MapOp((2, 2), cost="divide", symbol="/", precedence=PRODUCT),
    "//": MapOp((2, 2), "int", "int", cost="integer", symbol="//", precedence=PRODUCT),
    "%": MapOp((2, 2), "int", "int", cost="integer", symbol="%", precedence=PRODUCT),
    "**": MapOp((2, 2), gives="same", cost="power", symbol="**", precedence=POWER),
    "neg": MapOp((1, 1), gives="same", cost="add", symbol="-", precedence=NEGATE),
    "<": _compare("<"),
    "<=": _compare("<="),
    ">": _compare(">"),
    ">=": _compare(">="),
    "==": _compare("==", "same"),
    "!=": _compare("!=", "same"),
    "and": MapOp((2, 2), "bool", "bool", "and", "compare", "and", AND),
    "or": MapOp((2, 2), "bool", "bool", "or", "compare", "or", OR),
    "not": MapOp((1, 1), "bool", "bool", cost="compare", symbol="not", precedence=NOT),
    "??": MapOp((2, 2), "same", "same", "default", "compare", "??", DEFAULT),
    "select": MapOp((3, 3), "select", "same", "select", "compare"),
    "exp": _function("exp"),
    "exp2": _function("exp"),
    "log": _function("log"),
    "log2": _function("log"),
    "sqrt": _function("sqrt"),
    "rsqrt": _function("sqrt"),
    "tanh": _function("exp"),
    "sigmoid": _function("exp"),
    "silu": _function("exp"),
    "gelu": _function("exp"),
    "softplus": _function("exp"),
    "erf": _function("exp"),
    "sin": _function("trigonometric"),
    "cos": _function("trigonometric"),
    "relu": _function("compare", gives="same"),
    "abs": _function("compare", gives="same"),
    "sign": _function("compare", gives="same"),
    "floor": _function("integer", gives="int"),
    "ceil": _function("integer", gives="int"),
    "min": MapOp((2, UNBOUNDED), gives="same", cost="compare"),
    "max": MapOp((2, UNBOUNDED), gives="same", cost="compare"),
    "clamp": MapOp((3, 3), gives="same", cost="compare"),
}

REDUCERS: dict[str, Reducer] = {
    "sum": Reducer(0),
    "max": Reducer(-math.inf, cost="compare"),
    "min": Reducer(math.inf, cost="compare"),
    "prod": Reducer(1, cost="multiply"),
    "any": Reducer(False, "bool", "bool", "compare"),
    "all": Reducer(True, "bool", "bool", "compare"),
    "count": Reducer(0, "any", "int"),
    "argmax": Reducer(None, "number", "int", "compare"),
    "mean": Reducer(None, "number", "real"),
}

SELECTIONS: dict[str, str] = {"top": "same", "argtop": "int", "order": "int"}  # name -> kind given

CONSTANTS: dict[str, float | bool] = {"inf": math.inf, "pi": math.pi, "true": True, "false": False}

COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")

# of maps that may be present without one of their operands: how many decide on it by their value
DECIDING = {"??": 0, "select": 1, "or": 2, "and": 2}
