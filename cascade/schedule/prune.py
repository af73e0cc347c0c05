"""Nodes whose results nothing reads are left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cascade.ir.expr import Expr, Read
from cascade.ir.walk import walk
from cascade.schedule.program import (
    Best,
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


def pruned(nodes: tuple[Node, ...], needed: frozenset[str] = frozenset()) -> tuple[Node, ...]:
    """The nodes that stores, or the tiles `needed`, depend on."""
    wanted = set(needed)
    kept: list[Node] = []
    for node in reversed(nodes):
        if isinstance(node, For | Seq):
            node = _loop(node, wanted)
        if isinstance(node, Store) or _stores(node) or wanted & set(results(node)):
            kept.append(node)
            for e in expressions(node):
                wanted |= {r.tensor for r in walk(e) if isinstance(r, Read)}
            if isinstance(node, Best) and node.before is not None:
                wanted |= set(node.before)
            if isinstance(node, For | Seq):
                wanted |= _read_in(node.body)
    return tuple(reversed(kept))


def _loop(node: For | Seq, wanted: set[str]) -> For | Seq:
    """A loop with the carries that are read after it, or in it by what is."""
    carries = {c.name: c for c in node.carries}
    kept = {n for n in carries if n in wanted}
    while True:
        body = pruned(node.body, frozenset(carries[n].next for n in kept))
        more = {n for n in carries if n in _read_in(body)} | kept
        if more == kept:
            break
        kept = more
    return replace(node, carries=tuple(c for c in node.carries if c.name in kept), body=body)


def _stores(node: Node) -> bool:
    return isinstance(node, For | Seq) and any(
        isinstance(n, Store) or _stores(n) for n in node.body
    )


def _read_in(nodes: tuple[Node, ...]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        for e in expressions(node):
            found |= {r.tensor for r in walk(e) if isinstance(r, Read)}
        if isinstance(node, Best) and node.before is not None:
            found |= set(node.before)
        if isinstance(node, For | Seq):
            found |= _read_in(node.body)
    return found


def expressions(node: Node) -> Iterator[Expr]:
    """The expressions of a node itself, not of the body of a loop."""
    match node:
        case Let(_, value) | Fold(_, _, value, _):
            yield value
        case Load(_, _, index, present):
            yield from (*index, *present)
        case Mask(_, value, conditions, _):
            yield from (value, *conditions)
        case Contract(_, factors, _):
            yield from factors
        case Pick(_, value, _, at):
            yield from (value, at)
        case Best(_, value, place, conditions):
            yield from (value, place, *conditions)
        case For(predicate=predicate, carries=carries, place=place):
            yield from (place.value, place.extent, *predicate, *(c.init for c in carries))
            yield from (i for found in node.lists for i in found.index)
        case Seq(count=count, places=places, carries=carries):
            yield count
            yield from (p.value for p in places)
            yield from (c.init for c in carries)
        case Store(_, index, value, present):
            yield from (*index, value, *present)
