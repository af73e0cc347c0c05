"""Every expression of nodes at once, and nodes by the names of what they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from cascade.ir.expr import Expr, Read
from cascade.ir.walk import walk
from cascade.schedule.program import (
    Best,
    Carry,
    Contract,
    Fold,
    For,
    Let,
    Load,
    Mask,
    Node,
    Pick,
    Seq,
    Store,
    results,
)
from cascade.schedule.prune import expressions

Rule = Callable[[Expr], Expr]


def every(nodes: Iterable[Node]) -> Iterator[Expr]:
    """Every expression of nodes, those of loops and the parts of each included."""
    for node in nodes:
        for e in expressions(node):
            yield from walk(e)
        if isinstance(node, For | Seq):
            yield from every(node.body)


def reads_in(nodes: Iterable[Node]) -> Counter[str]:
    """How often each tile is read."""
    return Counter(e.tensor for e in every(nodes) if isinstance(e, Read))


def replaced(nodes: tuple[Node, ...], others: Mapping[str, Node]) -> tuple[Node, ...]:
    """The nodes with others for those that make tiles of these names."""
    return tuple(others.get(next(iter(results(n)), ""), n) for n in nodes)


def rewritten(nodes: tuple[Node, ...], rule: Rule) -> tuple[Node, ...]:
    """The nodes with every expression as `rule` gives it."""
    return tuple(_node(n, rule) for n in nodes)


def _node(node: Node, rule: Rule) -> Node:
    def each(parts: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(rule(e) for e in parts)

    def start(carries: tuple[Carry, ...]) -> tuple[Carry, ...]:
        return tuple(replace(c, init=rule(c.init)) for c in carries)

    match node:
        case Let() | Fold():
            return replace(node, value=rule(node.value))
        case Load():
            return replace(node, index=each(node.index), present=each(node.present))
        case Mask():
            return replace(node, value=rule(node.value), conditions=each(node.conditions))
        case Contract():
            return replace(node, factors=each(node.factors))
        case Pick():
            return replace(node, value=rule(node.value), at=rule(node.at))
        case Best():
            return replace(
                node, value=rule(node.value), place=rule(node.place),
                conditions=each(node.conditions),
            )  # fmt: skip
        case For():
            return replace(
                node, predicate=each(node.predicate), carries=start(node.carries),
                body=rewritten(node.body, rule), values=each(node.values),
            )  # fmt: skip
        case Seq():
            return replace(
                node, count=rule(node.count), carries=start(node.carries),
                body=rewritten(node.body, rule),
            )  # fmt: skip
        case Store():
            return replace(
                node, index=each(node.index), value=rule(node.value), present=each(node.present)
            )
