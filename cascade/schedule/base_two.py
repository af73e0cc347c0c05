"""Exponentials in base 2, the one that devices have: `exp(x - m)` is `exp2(k*x - m2)`, where
k = log2(e) and m2 = k*m. A device multiplies and subtracts at once, so the factor costs nothing.

A running maximum is kept as m2 from the start, so that all that was weighed by it stays exact when
it moves. A factor of the scores joins k and is left out of the maximum, for max(s*x) = s*max(x)
where s is proved positive. What an earlier kernel made (a row's log-sum-exp) is multiplied where it
is loaded. A maximum that is read in other ways, too, stays as it is, and so does one that is an
output or is compared with scores: it is one of them, and the way to base 2 and back would round it.

Scores that may be huge stay in base e, for there `x - m` is exact where a row is all of one number,
and `k*x` overflows: the scores that have a loaded term, as masks that are added have the lowest
float32 in them, and those that have a large number as a term or a choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from cascade.ir.expr import Const, Expr, Map, Read
from cascade.ir.names import fresh
from cascade.ir.ops import COMPARISONS
from cascade.ir.walk import symbols, transform, walk
from cascade.schedule.build import FLOOR
from cascade.schedule.facts import is_number, tile_axes, tile_kinds
from cascade.schedule.kept import kept_exact
from cascade.schedule.program import (
    Carry,
    Fold,
    For,
    Kernel,
    Let,
    Load,
    Mask,
    Node,
    Pick,
    Program,
    Seq,
    inside,
    results,
    tile,
)
from cascade.schedule.prune import pruned
from cascade.schedule.rewrite import every, reads_in, replaced, rewritten
from cascade.schedule.signs import Signs

LOG2E = Const(math.log2(math.e))
LN2 = Const(math.log(2))
INFINITE = Const(-math.inf)
HUGE = 2**24  # above, a difference of rounded products may be more than 1


def in_base_two(program: Program, signs: Signs) -> Program:
    """The same program with exponentials of differences in base 2. It is for the params that
    `signs.used` holds afterwards only where they are positive, as their definitions are.
    """
    exact = kept_exact(program)
    kernels = (_Rewriting(program, k, signs, exact[k.name]).kernel() for k in program.kernels)
    return replace(program, kernels=tuple(kernels))


@dataclass(frozen=True)
class _Scores:
    """What a maximum is taken of: `factor * value`, whose maximum is `factor * max(value)`. `nodes`
    are those that make the scores, without the factor.
    """

    factor: Expr
    value: Expr
    nodes: tuple[Let | Mask | Fold, ...]


class _Rewriting:
    def __init__(self, program: Program, kernel: Kernel, signs: Signs, exact: set[str]):
        self.source = kernel
        self.signs = signs
        self.exact = exact
        self.kinds = tile_kinds(program, kernel)
        self.axes = tile_axes(kernel)
        self.taken = {name for node in inside(kernel.body) for name in results(node)}
        self.made = {name: node for node in inside(kernel.body) for name in results(node)}
        self.reads = reads_in(kernel.body)
        self.steps = {n.scalar for n in inside(kernel.body) if isinstance(n, For | Seq)}
        self.factors: dict[Expr, str] = {}

    def kernel(self) -> Kernel:
        body = self._running(self.source.body)
        body = self._differences(body)
        if body == self.source.body:
            return self.source
        lets = tuple(Let(name, e) for e, name in self.factors.items())
        return replace(self.source, body=pruned((*lets, *body)))

    def factor(self, e: Expr) -> Expr:
        """log2(e) times a factor, computed once for an instance."""
        product = Map("*", (e, LOG2E))
        if product not in self.factors:
            self.factors[product] = fresh("factor", self.taken)
        return tile(self.factors[product])

    # -- running maxima
    def _running(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        done: list[Node] = []
        rest = list(nodes)
        while rest:
            node = rest.pop(0)
            if isinstance(node, For | Seq):
                node = replace(node, body=self._running(node.body))
                for carry in node.carries:
                    found = self._maximum(node, carry)
                    if found is None:
                        continue
                    node, name = self._in_base_two(node, carry, *found)
                    there = Map(">", (tile(name), _times(carry.init)))
                    value = Map("*", (tile(name), LN2))
                    back = Let(carry.name, Map("select", (there, value, carry.init)))
                    rest = [back, *rewritten(tuple(rest), _compared(carry.name, name))]
            done.append(node)
        return tuple(done)

    def _maximum(self, loop: For | Seq, carry: Carry) -> tuple[Let, Fold] | None:
        """The node that raises a maximum to that of a tile, where differences to it are all that
        reads it.
        """
        made = {name: n for n in loop.body for name in results(n)}
        following = made.get(carry.next)
        match following:
            case Let(_, Map("max", (Read(first, ()), Read(second, ())))):
                here = second if first == carry.name else first
            case _:
                return None
        maximum = made.get(here)
        if not isinstance(maximum, Fold) or maximum.op != "max" or self.kinds[carry.name] != "real":
            return None
        if {first, second} != {carry.name, here} or self.reads[here] != 1:
            return None
        if carry.name in self.exact or self._may_be_huge(maximum.value):
            return None
        own = {carry.name, carry.next}
        weighed = _weights(loop.body, own)
        counted = _count(loop.body, own)
        if not weighed or counted != 1 + sum(_count_in(e, own) for e in weighed):
            return None
        return following, maximum

    def _in_base_two(
        self, loop: For | Seq, carry: Carry, following: Let, maximum: Fold
    ) -> tuple[For | Seq, str]:
        name, after = (fresh(f"{n}_base2", self.taken) for n in (carry.name, carry.next))
        self.axes |= {name: self.axes[carry.name], after: self.axes[carry.next]}
        renamed = {carry.name: tile(name), carry.next: tile(after)}
        scores = self._scores(loop, carry, maximum)
        factor: Expr = LOG2E if scores is None else self.factor(scores.factor)
        changed: dict[str, Node] = {
            following.name: Let(
                after, Map("max", (tile(name), Map("*", (tile(maximum.name), factor))))
            )
        }
        changed |= {n.name: n for n in (scores.nodes if scores is not None else ())}

        def rule(e: Expr) -> Expr | None:
            found = _weight(e, set(renamed))
            if found is None:
                return None
            value, top = found
            if isinstance(value, Read) and value.tensor in renamed:
                value = renamed[value.tensor]
            else:
                value = Map("*", (value if scores is None else scores.value, factor))
            return Map("exp2", (Map("-", (value, renamed[top])),))

        body = replaced(loop.body, changed)
        carries = tuple(
            replace(carry, name=name, next=after, init=_times(carry.init)) if c is carry else c
            for c in loop.carries
        )
        body = rewritten(body, lambda e: transform(e, rule))
        return replace(loop, body=body, carries=carries), name

    def _scores(self, loop: For | Seq, carry: Carry, maximum: Fold) -> _Scores | None:
        """The factor of the scores, where it is positive and the maximum and the weights are all
        that reads them.
        """
        if not isinstance(maximum.value, Read):
            return None
        name = maximum.value.tensor
        made = {n: node for node in loop.body for n in results(node)}
        own = {carry.name, carry.next}
        found = (_weight(e, own) for e in _weights(loop.body, own))
        values = [w[0] for w in found if w is not None and not _count_in(w[0], own)]
        if any(v != maximum.value for v in values) or self.reads[name] != len(values) + 1:
            return None
        node = made.get(name)
        if isinstance(node, Let):
            scaled = self._scaled(node.value)
            if scaled is None:
                return None
            factor, rest = scaled
            if isinstance(rest, Read):
                return _Scores(factor, rest, (replace(maximum, value=rest),))
            return _Scores(factor, maximum.value, (replace(node, value=rest),))
        if not isinstance(node, Mask) or node.fill != INFINITE:
            return None
        inner = made.get(node.value.tensor) if isinstance(node.value, Read) else None
        alone = isinstance(inner, Let) and self.reads[inner.name] == 1
        scaled = self._scaled(inner.value if isinstance(inner, Let) and alone else node.value)
        if scaled is None:
            return None
        return _Scores(scaled[0], maximum.value, (replace(node, value=scaled[1]),))

    def _scaled(self, e: Expr) -> tuple[Expr, Expr] | None:
        """The positive factor of a product, and the rest."""
        found = _scaled(e)
        return found if found is not None and self.signs.positive(found[0]) else None

    def _may_be_huge(self, e: Expr) -> bool:
        """Whether a score has a term that memory holds, or a large number as one."""
        match e:
            case Const(c):
                return HUGE < abs(c) < math.inf
            case Read(name, ()):
                match self.made.get(name):
                    case Let(_, value) | Mask(_, value) | Pick(_, value):
                        return self._may_be_huge(value)
                    case made:
                        return isinstance(made, Load)
            case Map("select", (_, *parts)) | Map("+" | "-" | "neg" | "max" | "min", parts):
                return any(self._may_be_huge(part) for part in parts)
            case Map("/", (a, b)) if is_number(b):
                return self._may_be_huge(a)
        scaled = _scaled(e)
        return scaled is not None and self._may_be_huge(scaled[1])

    # -- differences to what is there before
    def _differences(self, body: tuple[Node, ...]) -> tuple[Node, ...]:
        """exp(x - row) of the tiles of a loop, where the row was loaded or is made before it."""
        wanted: dict[str, str] = {}  # rows -> their name in base 2
        body = tuple(self._in_loop(n, wanted) if isinstance(n, For | Seq) else n for n in body)
        return tuple(self._with_rows(body, wanted)) if wanted else body

    def _in_loop(self, loop: For | Seq, wanted: dict[str, str]) -> For | Seq:
        inner = {name for node in (loop, *inside(loop.body)) for name in results(node)}

        def rule(e: Expr) -> Expr | None:
            match e:
                case Map("exp", (Map("-", (Read(name, ()) as value, Read(row, ()))),)):
                    pass
                case _:
                    return None
            if row in inner and not isinstance(self.made.get(row), Load):
                return None
            if row not in self.made or self.kinds[row] != "real":
                return None
            if not self.axes[row] < self.axes[name] or self._may_be_huge(value):
                return None
            maker = self.made.get(name)
            scaled = _scaled(maker.value) if isinstance(maker, Let) else None
            product = Map("*", (value, LOG2E))
            known = scaled is not None and not symbols(scaled[0]) & self.steps
            if scaled is not None and known and isinstance(scaled[1], Read):
                product = Map("*", (scaled[1], self.factor(scaled[0])))
            if row not in wanted:
                wanted[row] = fresh(f"{row}_base2", self.taken)
            return Map("exp2", (Map("-", (product, tile(wanted[row]))),))

        return rewritten((loop,), lambda e: transform(e, rule))[0]  # type: ignore[return-value]

    def _with_rows(self, nodes: tuple[Node, ...], wanted: dict[str, str]) -> Iterator[Node]:
        for node in nodes:
            if isinstance(node, For | Seq):
                node = replace(node, body=tuple(self._with_rows(node.body, wanted)))
            yield node
            for name in results(node):
                if name in wanted:
                    yield Let(wanted[name], Map("*", (tile(name), LOG2E)))


def _scaled(e: Expr) -> tuple[Expr, Expr] | None:
    """The factor and the rest of `factor * rest`, where the factor is a number of the run."""
    if isinstance(e, Map) and e.op == "*":
        for factor, rest in (e.args, e.args[::-1]):
            if is_number(factor):
                return factor, rest
    return None


def _weight(e: Expr, own: set[str]) -> tuple[Expr, str] | None:
    """x and m of exp(x - m), m one of `own`, and x none of them or just one."""
    match e:
        case Map("exp", (Map("-", (value, Read(name, ()))),)) if name in own:
            if not _count_in(value, own) or isinstance(value, Read):
                return value, name
    return None


def _weights(nodes: Iterable[Node], own: set[str]) -> list[Expr]:
    return [e for e in every(nodes) if _weight(e, own) is not None]


def _compared(name: str, other: str) -> Callable[[Expr], Expr]:
    """Comparisons of a tile with a number as comparisons of the tile in base 2."""

    def rule(e: Expr) -> Expr | None:
        match e:
            case Map(op, (Read(n, ()), Const() as c)) if n == name and op in COMPARISONS:
                return Map(op, (tile(other), _times(c)))
        return None

    return lambda e: transform(e, rule)


def _times(e: Expr) -> Expr:
    """log2(e) times an expression; of the floor, the floor."""
    if e == FLOOR:
        return e
    return Const(float(e.value) * LOG2E.value) if isinstance(e, Const) else Map("*", (e, LOG2E))


def _count(nodes: Iterable[Node], names: set[str]) -> int:
    return sum(isinstance(e, Read) and e.tensor in names for e in every(nodes))


def _count_in(e: Expr, names: set[str]) -> int:
    return sum(isinstance(n, Read) and n.tensor in names for n in walk(e))
