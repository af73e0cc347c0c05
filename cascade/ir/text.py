"""Combinators that spell expressions with as few parentheses as the grammar allows.

A `Text` is a string with the precedence of its outermost operator. Both printers (of the IR and of
the syntax tree) are written with these, so a precedence rule lives in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

from cascade.ir import ops

WHERE = 1


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    precedence: int = ops.ATOM


def paren(t: Text, at_least: int) -> str:
    """The text, in parentheses if its outermost operator binds less tightly than `at_least`."""
    return t.text if t.precedence >= at_least else f"({t.text})"


def infix(op: str, left: Text, right: Text) -> Text:
    """A binary operator. All are left associative but `**`, `??` and comparisons."""
    level = ops.MAPS[op].precedence
    symbol = ops.MAPS[op].symbol
    if op == "**":
        return Text(f"{paren(left, ops.ATOM)}{symbol}{paren(right, ops.NEGATE)}", level)
    if op == "??":  # operands are unary
        return Text(f"{paren(left, ops.NEGATE)} ?? {paren(right, ops.NEGATE)}", level)
    if level == ops.COMPARE:
        return Text(f"{paren(left, level + 1)} {symbol} {paren(right, level + 1)}", level)
    return Text(f"{paren(left, level)} {symbol} {paren(right, level + 1)}", level)


def prefix(op: str, operand: Text) -> Text:
    level = ops.MAPS[op].precedence
    gap = " " if op == "not" else ""
    return Text(f"{ops.MAPS[op].symbol}{gap}{paren(operand, level)}", level)


def chain(first: Text, rest: list[tuple[str, Text]]) -> Text:
    """A chained comparison `a <= b < c`."""
    level = ops.COMPARE
    parts = [paren(first, level + 1)]
    for op, operand in rest:
        parts += [op, paren(operand, level + 1)]
    return Text(" ".join(parts), level)


def index(name: str, indices: list[str]) -> Text:
    return Text(f"{name}[{','.join(indices)}]")


def call(name: str, binders: str, args: list[Text]) -> Text:
    """`name[binders](args)`; arguments may be filtered expressions."""
    brackets = f"[{binders}]" if binders else ""
    return Text(f"{name}{brackets}({', '.join(a.text for a in args)})")


def filtered(body: Text, condition: Text) -> Text:
    return Text(f"{paren(body, WHERE + 1)} where {paren(condition, WHERE + 1)}", WHERE)


def tight(text: str) -> str:
    """An index expression, without spaces round its operators: `m1*M0+m0`."""
    for symbol in ("//", "**", "*", "+", "-", "%"):
        text = text.replace(f" {symbol} ", symbol)
    return text


def tight_product(text: str) -> str:
    """A partition, as it is written by hand: `m1*M0 + m0`."""
    return text.replace(" * ", "*")
