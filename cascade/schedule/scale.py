"""A number that multiplies a contraction in a loop multiplies an operand that does not change in
it instead: `scale * sum(q * k)` is `sum((scale * q) * k)`, and `scale * q` is computed once.

In float32 this costs nothing; an operand of 16 bits would be rounded once more, so executors that
contract in the type of the inputs do without.
"""

from __future__ import annotations

from dataclasses import replace

from cascade.ir.expr import Expr, Map, Read
from cascade.ir.names import fresh
from cascade.ir.walk import symbols, transform
from cascade.schedule.facts import is_number
from cascade.schedule.program import (
    Contract,
    For,
    Kernel,
    Let,
    Node,
    Program,
    Seq,
    inside,
    results,
    tile,
)
from cascade.schedule.rewrite import reads_in, replaced, rewritten


def scaled_operands(program: Program) -> Program:
    """The same program with factors of contractions moved out of loops."""
    return replace(program, kernels=tuple(_kernel(k) for k in program.kernels))


def _kernel(kernel: Kernel) -> Kernel:
    nodes: list[Node] = []
    taken = {name for node in inside(kernel.body) for name in results(node)}
    for node in kernel.body:
        if isinstance(node, For | Seq):
            before, node = _loop(node, {n for b in nodes for n in results(b)}, taken)
            nodes += before
        nodes.append(node)
    return replace(kernel, body=tuple(nodes))


def _loop(loop: For | Seq, outside: set[str], taken: set[str]) -> tuple[list[Let], For | Seq]:
    contracts = {n.name: n for n in loop.body if isinstance(n, Contract)}
    reads = reads_in(loop.body)
    before: list[Let] = []
    changed: dict[str, Node] = {}
    made: dict[Expr, str] = {}  # operands times factors, and their names
    for node in loop.body:
        found = _scaled(node)
        if found is None or loop.scalar in symbols(found[0]):
            continue
        if found[1] not in contracts or reads[found[1]] != 1:
            continue
        factor, name = found
        contract = contracts[name]
        own = next(
            (f for f in contract.factors if isinstance(f, Read) and f.tensor in outside), None
        )
        if own is None or not isinstance(node, Let):
            continue
        product = Map("*", (own, factor))
        if product not in made:
            made[product] = fresh(f"{own.tensor}_scaled", taken)
            before.append(Let(made[product], product))
        factors = tuple(tile(made[product]) if f is own else f for f in contract.factors)
        changed[name] = replace(contract, factors=factors)
        changed[node.name] = replace(node, value=tile(name))
    body = replaced(loop.body, changed)
    return before, _without_copies(replace(loop, body=body), set(changed))


def _scaled(node: Node) -> tuple[Expr, str] | None:
    """The factor and the tile of `factor * tile`, where the factor is a number of the run."""
    match node:
        case Let(_, Map("*", (factor, Read(name, ())))):
            if is_number(factor):
                return factor, name
    return None


def _without_copies(loop: For | Seq, changed: set[str]) -> For | Seq:
    """`b = a` is left out, and b read as a."""
    copies: dict[str, Expr] = {}
    body: list[Node] = []

    def rule(e: Expr) -> Expr | None:
        return copies.get(e.tensor) if isinstance(e, Read) and not e.index else None

    for node in loop.body:
        if isinstance(node, Let) and isinstance(node.value, Read) and node.name in changed:
            copies[node.name] = node.value
        else:
            body += rewritten((node,), lambda e: transform(e, rule))
    carries = tuple(
        replace(c, next=copies[c.next].tensor) if c.next in copies else c  # type: ignore[union-attr]
        for c in loop.carries
    )
    return replace(loop, body=tuple(body), carries=carries)
