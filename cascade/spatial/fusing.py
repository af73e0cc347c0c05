"""Pairs of operations that an array runs as one: `x*c + y` as a multiply-accumulate.

FuseMax counts the product and the sum of a corrected running sum apart, although its 1D array has
multiply-accumulates (an exponential is six). A target may say `fuse = ["mul_add"]`.
"""

from __future__ import annotations

from dataclasses import replace

from cascade.spatial.statements import Statement, Statements

PAIRS = {"mul_add": "mac"}  # first and second operation -> the one that does both


def fuse_pairs(found: Statements, pairs: tuple[str, ...]) -> Statements:
    """The statements with each pair joined where nothing else reads the first result."""
    items = found.items
    for pair in pairs:
        first, _, second = pair.partition("_")
        items = _fuse(items, first, second, PAIRS[pair])
    return replace(found, items=items)


def _fuse(
    items: tuple[Statement, ...], first: str, second: str, both: str
) -> tuple[Statement, ...]:
    readers: dict[str, list[Statement]] = {}
    for s in items:
        for o in s.reads:
            readers.setdefault(o.tensor, []).append(s)
    joined: dict[str, Statement] = {}
    for s in items:
        users = readers.get(s.write.tensor, [])
        if s.operations != (first,) or s.reduced or len(users) != 1:
            continue
        user = users[0]
        matches = user.operations == (second,) and not user.reduced and user.name not in joined
        if matches and set(user.ranks) == set(s.ranks):
            joined[user.name] = s
    gone = {s.name for s in joined.values()}
    return tuple(_joined(s, joined.get(s.name), both) for s in items if s.name not in gone)


def _joined(s: Statement, first: Statement | None, both: str) -> Statement:
    if first is None:
        return s
    reads = (*first.reads, *(o for o in s.reads if o.tensor != first.write.tensor))
    return replace(s, operations=(both,), reads=reads)
