"""Nodes as steps of a tape, once for each size that the tiles of a body have; and the same steps
bound to the memory of one thread, as a flat list of calls.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

import numpy as np

from cascade.backends.tiled import address, contract, selection
from cascade.backends.tiled.counters import Moved
from cascade.backends.tiled.machine import Machine
from cascade.backends.tiled.memory import Placing
from cascade.backends.tiled.scope import Scope
from cascade.backends.tiled.tape import BOOL, INT, Cell, Run, Value, constant
from cascade.ir.expr import Expr
from cascade.ir.walk import conjuncts
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
)


class Body:
    """The steps of a list of nodes. `holding` are conditions that need no test here."""

    def __init__(
        self,
        scope: Scope,
        nodes: tuple[Node, ...],
        depth: int,
        owner: Hashable,
        holding: Iterable[Expr] = (),
        carries: tuple[tuple[Carry, Value], ...] = (),
    ):
        self.scope, self.depth, self.owner = scope, depth, owner
        self.holding = {part for c in holding for part in conjuncts(c)}
        self.moved: dict[str, Moved] = {}
        for node in nodes:
            self._node(node)
        pairs = [(value, self._following(c, carries)) for c, value in carries]
        self.placing = Placing(scope.tape, pairs)

    def _following(self, carry: Carry, carries: tuple[tuple[Carry, Value], ...]) -> Value:
        """What a carried value becomes; apart from every carried value as it was."""
        value = self.scope.tile(carry.next)
        if any(value.memory is old for _, old in carries):
            value = self.scope.copy(value)
        axes = next(v.axes for c, v in carries if c is carry)
        return self.scope.spread(value, axes)

    def _node(self, node: Node) -> None:
        scope = self.scope
        match node:
            case Let(name, e):
                scope.tiles[name] = scope.value(e)
            case Load():
                scope.tiles[node.name] = address.load(scope, node)
                self._count(node)
            case Mask():
                scope.tiles[node.name] = self._mask(node)
            case Fold():
                scope.tiles[node.name] = contract.fold(scope, node)
            case Contract():
                scope.tiles[node.name] = contract.contract(scope, node)
            case Pick():
                scope.tiles[node.name] = selection.pick(scope, node)
            case Best():
                first, second = selection.best(scope, node, self._tests(node.conditions))
                scope.tiles |= {node.names[0]: first, node.names[1]: second}
            case For() | Seq():
                from cascade.backends.tiled.loops import loop_of

                loop_of(self, node)
            case Store():
                address.store(scope, node)
                self._count(node)

    def _tests(self, conditions: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """The conjuncts that may fail here."""
        return tuple(
            part
            for c in conditions
            for part in conjuncts(c)
            if part not in self.holding and not self.scope.trivial(part)
        )

    def _mask(self, node: Mask) -> Value:
        scope = self.scope
        value = scope.value(node.value)
        there = scope.all_of(self._tests(node.conditions))
        if there is None:
            return value
        fails = scope.pointwise(np.logical_not, [there], BOOL)
        fill = node.fill.value
        if value.dtype == INT and isinstance(fill, float) and fill.is_integer():
            return scope.choose(fails, constant(int(fill), INT), value)
        return scope.choose(fails, scope.value(node.fill), value)

    def _count(self, node: Load | Store) -> None:
        array = self.scope.context.tensors[node.tensor].array
        axes = {a for i in node.index for a in self.scope.axes_of(i)}
        lanes = math.prod(self.scope.lengths[a] for a in axes)
        moved = self.moved.setdefault(node.tensor, Moved())
        if isinstance(node, Load):
            moved.add(Moved(tiles_loaded=1, bytes_loaded=lanes * array.dtype.itemsize), 1)
        else:
            moved.add(Moved(tiles_stored=1, bytes_stored=lanes * array.dtype.itemsize), 1)


class BoundBody:
    """A body on one thread, with the bodies that its loops are likely to need."""

    def __init__(self, body: Body, machine: Machine):
        tape = body.scope.tape
        self.times = 0
        body.placing.bind(machine, body.depth, body.owner)
        for step in tape.binding:
            step.make(machine)()
        first = len(machine.loops)
        self.entry = [step.make(machine) for step in tape.entry]
        self.steps = [step.make(machine) for step in tape.body]
        self.steps += [_update(machine[c], machine[new]) for c, new in body.placing.copied]
        machine.bodies[body] = self
        for loop in machine.loops[first:]:
            loop.prepare()

    def enter(self) -> None:
        for step in self.entry:
            step()

    def visit(self) -> None:
        self.times += 1
        for step in self.steps:
            step()


def _update(carry: Cell, new: Cell) -> Run:
    def run() -> None:
        np.copyto(carry.array, new.array, casting="unsafe")

    return run
