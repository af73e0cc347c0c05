"""The order in which statements can be evaluated, and what recurs along which rank.

Statements form a graph by what they read. A strongly connected group is a recurrence: it must step
along one rank, either *iterative* (written at i+1, read at i) or by *forward substitution* (a
statement reads itself inside a reduction filtered by `u < t`). Everything else is evaluated once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from cascade.diagnostics import CascadeError, Span, fail
from cascade.ir.cascade import Cascade, Einsum
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Where
from cascade.ir.printer import print_expr
from cascade.ir.walk import children, conjuncts, reads


@dataclass(frozen=True, slots=True)
class Group:
    """Statements evaluated together. `rank` is None for a single statement that does not recur."""

    einsums: tuple[Einsum, ...]
    rank: str | None = None
    inits: tuple[Einsum, ...] = ()


def evaluation_order(cascade: Cascade) -> tuple[Group, ...]:
    """Groups in an order in which everything is defined before it is read.

    Raises `CascadeError` for cycles that are no legal recurrence.
    """
    tensors = list(cascade.definitions)
    edges = {t: _dependencies(cascade, t) for t in tensors}
    groups: list[Group] = []
    for component in strongly_connected(tensors, edges):
        members = set(component)
        einsums = [e for e in cascade.einsums if e.tensor in members] if len(members) > 1 else []
        einsums = einsums or list(cascade.definitions[component[0]])
        recurs = len(members) > 1 or component[0] in edges[component[0]]
        groups.append(_group(cascade, members, einsums) if recurs else _single(einsums))
    return tuple(groups)


def _dependencies(cascade: Cascade, tensor: str) -> list[str]:
    found: dict[str, None] = {}
    for e in cascade.definitions[tensor]:
        for read in reads(e.body):
            if read.tensor in cascade.definitions:
                found[read.tensor] = None
    return list(found)


def _single(einsums: list[Einsum]) -> Group:
    inits = tuple(e for e in einsums if e.init)
    updates = tuple(e for e in einsums if not e.init)
    if inits or updates[0].step is not None:
        step = updates[0].step if updates else inits[0].step
        assert step is not None
        return Group(updates, einsums[0].ranks[step], inits)
    return Group(updates)


def _group(cascade: Cascade, members: set[str], einsums: list[Einsum]) -> Group:
    inits = tuple(e for e in einsums if e.init)
    updates = [e for e in einsums if not e.init]
    for init in inits:
        for read in reads(init.body):
            if read.tensor in members:
                raise fail(
                    "cycle",
                    f"the start of `{init.tensor}` reads `{read.tensor}`, which depends on it",
                    read.span or init.span,
                    hints=("a start is made of inputs and of tensors outside the recurrence",),
                )
    steps = {e.ranks[e.step] for e in updates if e.step is not None}
    if not steps:
        if len(members) == 1:
            return Group((updates[0],), _substitution_rank(updates[0]))
        raise _cycle(updates, {t: _dependencies(cascade, t) for t in members})
    if len(steps) > 1:
        first, second = _of_two_ranks(updates)
        raise fail(
            "recurrence",
            f"`{'`, `'.join(sorted(members))}` recur together along different ranks: "
            f"`{'`, `'.join(sorted(steps))}`",
            first.span,
            hints=("coupled recurrences step along one rank",),
            related=[(second.span, "the other rank")] if second.span else (),
        )
    (rank,) = steps
    return Group(_order_within_step(cascade, members, updates, rank), rank, inits)


def _of_two_ranks(updates: list[Einsum]) -> tuple[Einsum, Einsum]:
    """The first two statements that step along different ranks."""
    first: dict[str, Einsum] = {}
    for e in updates:
        if e.step is not None:
            first.setdefault(e.ranks[e.step], e)
    a, b = list(first.values())[:2]
    return a, b


def _order_within_step(
    cascade: Cascade, members: set[str], updates: list[Einsum], rank: str
) -> tuple[Einsum, ...]:
    by_name = {e.tensor: e for e in updates}
    now: dict[str, list[str]] = {}
    for e in updates:
        if rank not in e.ranks:
            raise fail(
                "cycle",
                f"`{e.tensor}` takes part in the recurrence along `{rank}`, "
                f"and has no rank `{rank}`",
                e.span,
                hints=(_end_of(updates, rank),),
            )
    for e in updates:
        now[e.tensor] = [
            read.tensor
            for read in reads(e.body)
            if read.tensor in members
            and _reads_this_step(cascade, e, read, by_name[read.tensor], rank)
        ]
    order: list[Einsum] = []
    for component in strongly_connected(list(by_name), now):
        if len(component) > 1 or component[0] in now[component[0]]:
            raise _cycle([by_name[t] for t in component], now, rank)
        order.append(by_name[component[0]])
    return tuple(order)


def _reads_this_step(
    cascade: Cascade, reader: Einsum, read: Read, written: Einsum, rank: str
) -> bool:
    """Whether a read inside a recurrence needs the value made in the same step. Raises if a
    later one.
    """
    index = read.index[written.ranks.index(rank)]
    shift = offset(index, rank)
    if shift is None:
        raise fail(
            "recurrence",
            f"inside the recurrence along `{rank}`, `{read.tensor}` is read at "
            f"`{print_expr(index)}`",
            read.span or reader.span,
            hints=(f"read it at `{rank}`, or at an earlier step `{rank}-1`",),
        )
    ahead = shift - (1 if written.step is not None else 0)
    if ahead > 0:
        raise fail(
            "reads-ahead",
            f"the recurrence reads ahead: `{print_expr(read)}` is not known in step `{rank}`",
            read.span or reader.span,
            hints=(
                f"a step that makes slot `{rank}+1` reads slots up to `{rank}`; "
                f"the reverse direction is written with `{rank.upper()}-1-{rank}`",
            ),
        )
    return ahead == 0


def offset(index: Expr, rank: str) -> int | None:
    """The constant c of an index `rank + c`, or None for any other index."""
    match index:
        case Coordinate(r) if r == rank:
            return 0
        case Map("+", (left, Const(int(c)))) | Map("+", (Const(int(c)), left)):
            inner = offset(left, rank)
            return None if inner is None else inner + c
        case Map("-", (left, Const(int(c)))):
            inner = offset(left, rank)
            return None if inner is None else inner - c
        case _:
            return None


def _substitution_rank(e: Einsum) -> str:
    """The rank t such that every read of the statement's own tensor stands under `u < t`."""
    candidates: set[str] | None = None
    for read, filters in _own_reads(e.body, e.tensor, ()):
        found = set()
        for slot, index in enumerate(read.index):
            t = e.ranks[slot]
            if any(_before(c, index, t) for c in filters):
                found.add(t)
        candidates = found if candidates is None else candidates & found
    if not candidates:
        raise _not_before(e)
    return next(r for r in e.ranks if r in candidates)


def _own_reads(
    e: Expr, tensor: str, filters: tuple[Expr, ...]
) -> Iterable[tuple[Read, tuple[Expr, ...]]]:
    if isinstance(e, Read) and e.tensor == tensor:
        yield e, filters
    if isinstance(e, Reduce) and isinstance(e.body, Where):
        filters = filters + conjuncts(e.body.condition)
    elif isinstance(e, Where):
        filters = filters + conjuncts(e.condition)
    for child in children(e):
        yield from _own_reads(child, tensor, filters)


def _before(condition: Expr, index: Expr, t: str) -> bool:
    """Whether the condition says `index < t`."""
    match condition:
        case Map("<", (a, Coordinate(r))) | Map(">", (Coordinate(r), a)):
            return a == index and r == t
        case _:
            return False


RECURRENCE = "a recurrence is written `S[i+1] = f(S[i])` with a start `init S[0] = …`"


def _not_before(e: Einsum) -> CascadeError:
    """A statement that reads its own tensor, and nothing says that it reads what is known."""
    (read, _filters), *_ = _own_reads(e.body, e.tensor, ())
    hints = [RECURRENCE]
    for index, t in zip(read.index, e.ranks, strict=True):
        if isinstance(index, Coordinate) and index.rank not in e.ranks:
            hints = [f"a substitution reads only what stands before: `where {index.rank} < {t}`"]
    return fail("cycle", f"`{e.tensor}` depends on itself", read.span or e.span, hints=hints)


def _cycle(
    einsums: list[Einsum], edges: dict[str, list[str]], rank: str | None = None
) -> CascadeError:
    """Statements none of which can be the first; `rank` is that of a recurrence round them."""
    by_name = {e.tensor: e for e in einsums}
    chain = _shortest_cycle(einsums[0].tensor, edges, set(by_name))
    places = [_place(by_name[a], b) for a, b in pairwise(chain)]
    names = ", ".join(f"`{a}` reads `{b}`" for a, b in pairwise(chain[:6]))
    message = f"these statements depend on each other: {names}" + ", …" * (len(chain) > 6)
    hint = RECURRENCE
    if len(chain) == 2:
        message = f"`{chain[0]}` depends on itself"
    if rank is not None:
        message += f" in one step of `{rank}`"
        what = "it" if len(chain) == 2 else "one of them"
        hint = f"read {what} a step earlier, at `{rank}`"
    related = [(p, "and here") for p in places[1:3] if p]
    return fail("cycle", message, places[0], hints=(hint,), related=related)


def _shortest_cycle(start: str, edges: dict[str, list[str]], members: set[str]) -> list[str]:
    """Names from `start` back to it, each reading the next."""
    came_from: dict[str, str] = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for successor in edges[node]:
            if successor == start:
                chain = [start]
                while node != start:
                    chain.append(node)
                    node = came_from[node]
                return [start, *reversed(chain[1:]), start]
            if successor in members and successor not in came_from:
                came_from[successor] = node
                queue.append(successor)
    return [start, start]


def _place(e: Einsum, tensor: str) -> Span | None:
    """Where a statement reads a tensor."""
    return next((r.span for r in reads(e.body) if r.tensor == tensor and r.span), e.span)


def _end_of(updates: list[Einsum], rank: str) -> str:
    """The hint to read a recurrence after its last step."""
    e = next(e for e in updates if e.step is not None)
    index = ",".join(rank.upper() if n == e.step else r for n, r in enumerate(e.ranks))
    return f"what needs all steps reads the end, `{e.tensor}[{index}]`, outside the recurrence"


def strongly_connected(nodes: list[str], edges: dict[str, list[str]]) -> list[list[str]]:
    """Tarjan's algorithm without recursion; components come after those they depend on."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    result: list[list[str]] = []
    for root in nodes:
        if root in number:
            continue
        work = [(root, iter(edges[root]))]
        number[root] = low[root] = len(number)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, successors = work[-1]
            for successor in successors:
                if successor not in number:
                    number[successor] = low[successor] = len(number)
                    stack.append(successor)
                    on_stack.add(successor)
                    work.append((successor, iter(edges[successor])))
                    break
                if successor in on_stack:
                    low[node] = min(low[node], number[successor])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == number[node]:
                    component = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.append(member)
                        if member == node:
                            break
                    result.append(component[::-1])
    return result
