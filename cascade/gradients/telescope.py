"""The gradient of a gate, without the states at every step.

For `S[i+1] = w[i] * S[i] + B[i]` with `w = exp(x)`, or a sigmoid, the gradient by x has the factor
`w[i] * (S[i] . dS[i+1])`, summed over the ranks that the gate does not have: a product of two
states. But

    w[i] * S[i]  = S[i+1] - B[i]
    dS[i+1]      = R[i+1] + w[i+1] * dS[i+2]        R: what the readers of S[i+1] send back

so that with `G[i] = w[i] * (S[i] . dS[i+1])` the products of states telescope:

    G[i] = G[i+1] + S[i+1] . R[i+1] - B[i] . dS[i+1]

Both new products are read-outs, `q . dq` and `k . dk` for linear attention: the sum over later
steps that gated linear attention is trained with (Yang et al., "Gated Linear Attention Transformers
with Hardware-Efficient Training", 2024), by algebra. No state is kept for every step. Where a gate
is closed, w[i] = 0, G[i] is 0: it is not left to the rounding of the sum.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascade.gradients.build import at, plus, point
from cascade.gradients.products import factored
from cascade.gradients.pull import Pulled
from cascade.gradients.term import Term
from cascade.ir.cascade import Cascade, Einsum
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read
from cascade.ir.order import Group
from cascade.ir.printer import print_einsum
from cascade.ir.walk import reads

if TYPE_CHECKING:
    from cascade.gradients.reverse import Reverse


@dataclass(frozen=True)
class Gate:
    """`following = weight * state + rest`, where `state` at the next step is `following`.

    `summed` are the ranks that the state has and the weight has not. `rest` are summands with
    their signs.
    """

    state: str
    following: Einsum
    weight: Read
    rest: tuple[tuple[int, Expr], ...]
    summed: tuple[str, ...]


def gate_of(
    cascade: Cascade, group: Group, active: Collection[str], outputs: Collection[str]
) -> Gate | None:
    """The gate of a recurrence of one state that only its own step reads; None for any other."""
    states = [e for e in group.einsums if e.step is not None]
    members = [e for e in group.einsums if e.step is None]
    if len(states) != 1 or len(members) != 1:
        return None
    (state,), (following,) = states, members
    if state.body != at(following.tensor, following.ranks) or following.ranks != state.ranks:
        return None
    if state.tensor in outputs or _readers(cascade, state.tensor) != {following.tensor}:
        return None
    own = at(state.tensor, state.ranks)
    parts = _summands(following.body, 1)
    holding = [(sign, x) for sign, x in parts if any(r.tensor == own.tensor for r in reads(x))]
    if len(holding) != 1 or holding[0][0] != 1:
        return None
    powers = factored(holding[0][1])
    others = [f for f in powers if f != own]
    if powers.get(own) != 1 or len(others) != 1 or powers[others[0]] != 1:
        return None
    weight = others[0]
    if not isinstance(weight, Read) or weight.tensor not in active:
        return None
    if not _divides_its_derivative(cascade, weight, following.tensor):
        return None
    ranks = {i.rank for i in weight.index if isinstance(i, Coordinate)}
    summed = tuple(r for r in state.ranks if r not in ranks)
    assert state.step is not None
    if not summed or state.ranks[state.step] in summed:
        return None
    rest = tuple(p for p in parts if p not in holding)
    return Gate(state.tensor, following, weight, rest, summed)


def telescoped(reverse: Reverse, gate: Gate, readers: list[Term], rank: str, back: str) -> None:
    """What a step passes on; to its gate, a sum over later steps. `back` is `rank` from the end.

    `readers` are what the readers of the new state send.
    """
    e, weight = gate.following, gate.weight
    cotangent = reverse.cotangent[e.tensor]
    for pulled in reverse.pull.statement(e, cotangent):
        if pulled.tensor != weight.tensor:
            reverse.pending.setdefault(pulled.tensor, []).append(pulled)
    carried = reverse.cotangent[gate.state].read.tensor
    own = at(e.tensor, e.ranks)
    terms = [t.times(((own, 1),)).over(gate.summed) for t in readers if t.read.tensor != carried]
    for sign, x in gate.rest:
        factors = ((x, 1),) if sign < 0 else ((Const(-1), 1), (x, 1))
        terms.append(Term(cotangent.read, factors, gate.summed))
    left = tuple(i.rank for i in weight.index if isinstance(i, Coordinate))
    step = reverse.names.tensor(f"d{weight.tensor}_step")
    reverse.write(step, left, [reverse.shortened(t) for t in terms], frozenset())
    later = _summed_later(reverse, f"d{weight.tensor}_later", step, left, rank, back)
    whole = list(point(left))
    whole[left.index(rank)] = Map("-", (reverse.names.last(rank), Coordinate(rank)))
    opened = Map("!=", (weight, Const(0)))
    term = Term(Read(later, tuple(whole)), ((weight, -1),), conditions=(opened,), chosen=True)
    reverse.pending.setdefault(weight.tensor, []).append(
        Pulled(weight.tensor, weight.index, term, left)
    )
    _tell(reverse, gate, cotangent.read.tensor, step, later)


def _summed_later(
    reverse: Reverse, stem: str, step: str, left: tuple[str, ...], rank: str, back: str
) -> str:
    """`later[j+1] = later[j] + step[I-1-j]`."""
    later = reverse.names.tensor(stem)
    ranks = tuple(back if r == rank else r for r in left)
    slot = left.index(rank)
    index = tuple(reverse.flip(rank, back) if r == rank else Coordinate(r) for r in left)
    body = plus(at(later, ranks), Read(step, index))
    reverse.statements.append(Einsum(later, ranks, Const(0.0), slot, init=True))
    reverse.statements.append(Einsum(later, ranks, body, slot))
    return later


def _tell(reverse: Reverse, gate: Gate, name: str, step: str, later: str) -> None:
    made = {e.tensor: print_einsum(e) for e in reverse.statements if not e.init}
    over, weight = ",".join(gate.summed), gate.weight.tensor
    reverse.record.add(
        "telescope",
        f"d{weight}",
        (f"{weight} * sum[{over}]({gate.state} * {name}): a product of states at every step",),
        (made[step], made[later]),
        (
            f"{weight} * {gate.state} is what the step makes, less what it adds",
            f"{name} is what readers send back, and {weight} * {name} of the step after",
        ),
    )


def _divides_its_derivative(cascade: Cascade, weight: Read, reader: str) -> bool:
    """Whether the derivative of a weight has the weight as a factor, as that of `exp` has: then
    nothing is divided by it. It is read at its own point, and by one statement alone.
    """
    found = cascade.definitions.get(weight.tensor, ())
    if len(found) != 1 or _readers(cascade, weight.tensor) != {reader}:
        return False
    body = found[0].body
    plain = weight.index == tuple(map(Coordinate, found[0].ranks))
    return plain and isinstance(body, Map) and body.op in ("exp", "exp2", "sigmoid")


def _readers(cascade: Cascade, tensor: str) -> set[str]:
    return {e.tensor for e in cascade.einsums if any(r.tensor == tensor for r in reads(e.body))}


def _summands(e: Expr, sign: int) -> list[tuple[int, Expr]]:
    match e:
        case Map("+", (a, b)):
            return [*_summands(a, sign), *_summands(b, sign)]
        case Map("-", (a, b)):
            return [*_summands(a, sign), *_summands(b, -sign)]
        case Map("neg", (a,)):
            return _summands(a, -sign)
        case _:
            return [(sign, e)]
