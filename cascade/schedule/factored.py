"""A number that multiplies all that a loop adds up multiplies the sum instead, once: the sum of
`scale * (dS . K)` over tiles is `scale` times that of `dS . K`, which a matrix unit accumulates.
The number must be finite, for a loop without a visit leaves 0, whatever it would have multiplied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cascade.ir.expr import Const, Expr, Map, Read, Symbol
from cascade.ir.names import fresh
from cascade.ir.walk import symbols, transform
from cascade.schedule.facts import is_number
from cascade.schedule.program import (
    Carry,
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
from cascade.schedule.prune import pruned
from cascade.schedule.rewrite import reads_in, rewritten
from cascade.schedule.signs import Signs


def factored_sums(program: Program) -> Program:
    """The same program with factors of what loops add up moved behind the loops."""
    return replace(program, kernels=tuple(_kernel(program, k) for k in program.kernels))


def _kernel(program: Program, kernel: Kernel) -> Kernel:
    taken = {name for node in inside(kernel.body) for name in results(node)}

    def is_finite(factor: Expr, carry: Carry) -> bool:
        """Whether a factor is finite where a carry has an element: its extents are not 0 then."""
        sizes = [a.size for a in kernel.axes if a.name in carry.axes]
        return Signs.of(program, {s.name for s in sizes if isinstance(s, Symbol)}).finite(factor)

    body = _nodes(kernel.body, taken, is_finite)
    return kernel if body == kernel.body else replace(kernel, body=pruned(body))


def _nodes(
    nodes: tuple[Node, ...], taken: set[str], is_finite: Callable[[Expr, Carry], bool]
) -> tuple[Node, ...]:
    done: list[Node] = []
    for node in nodes:
        after: list[Node] = []
        if isinstance(node, For | Seq):
            node = replace(node, body=_nodes(node.body, taken, is_finite))
            for carry in node.carries:
                found = _factor(node, carry)
                if found is not None and is_finite(found[0], carry):
                    name = fresh(f"{carry.name}_sum", taken)
                    node = _without(node, carry, name, *found)
                    after.append(Let(carry.name, Map("*", (found[0], tile(name)))))
        done += [node, *after]
    return tuple(done)


def _factor(loop: For | Seq, carry: Carry) -> tuple[Expr, str, str] | None:
    """The factor, the tile that it multiplies and that product, where a carry starts at 0 and is
    added nothing else; what was carried may itself be multiplied first. Nothing else in the loop
    reads what is carried or what it becomes: a state that is stored at each step is whole.
    """
    made = {name: n for n in loop.body for name in results(n)}
    reads = reads_in(loop.body)
    following = made.get(carry.next)
    if carry.init != Const(0.0) or not isinstance(following, Let):
        return None
    if reads[carry.name] != 1 or reads[carry.next]:
        return None
    match following.value:
        case Map("+", (before, Read(added, ()))) if _is_carried(before, carry.name):
            pass
        case _:
            return None
    product = made.get(added)
    if not isinstance(product, Let) or reads[added] != 1:
        return None
    own = {n.scalar for n in (loop, *inside(loop.body)) if isinstance(n, For | Seq)}
    match product.value:
        case Map("*", (factor, Read(name, ()))) | Map("*", (Read(name, ()), factor)):
            fixed = is_number(factor)
            return (factor, name, added) if fixed and not symbols(factor) & own else None
    return None


def _is_carried(e: Expr, name: str) -> bool:
    """Whether an expression is what was carried, or a multiple of it."""
    match e:
        case Read(tensor, ()):
            return tensor == name
        case Map("*", (a, b)):
            return _is_carried(a, name) != _is_carried(b, name)
    return False


def _without(
    loop: For | Seq, carry: Carry, name: str, factor: Expr, plain: str, product: str
) -> For | Seq:
    other = {carry.name: tile(name), product: tile(plain)}

    def rule(e: Expr) -> Expr | None:
        return other.get(e.tensor) if isinstance(e, Read) else None

    body = rewritten(loop.body, lambda e: transform(e, rule))
    carries = tuple(replace(c, name=name) if c is carry else c for c in loop.carries)
    return replace(loop, body=body, carries=carries)
