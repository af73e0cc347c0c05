"""Causality: which coordinates of each input an output can depend on, relative to its own ranks."""

from __future__ import annotations

from dataclasses import dataclass

from cascade.analysis.passes import Dependence, Key, Mode, Passes
from cascade.ir.cascade import Cascade

SIGN = {Mode.POINT: "==", Mode.PREFIX: "<=", Mode.SUFFIX: ">="}


@dataclass(frozen=True)
class Relation:
    """`output[rank]` reads `tensor` at coordinates `sign` its own; `sign` is `all` for no
    restriction.
    """

    output: str
    rank: str
    tensor: str
    slot_rank: str
    sign: str

    def __str__(self) -> str:
        name, slot = self.tensor, self.slot_rank
        if self.sign == "all":
            return f"{self.output} reads all of {name} along {slot}"
        other = slot if slot != self.rank else f"{slot}'"
        where = f"{other} {self.sign} {self.rank}"
        return f"{self.output}[{self.rank}] reads {name}[{other}] only for {where}"


def relations(cascade: Cascade, passes: Passes) -> tuple[Relation, ...]:
    """For every output and every input slot it depends on, the tightest relation that is proved."""
    found: list[Relation] = []
    for output in cascade.outputs:
        for key, dependences in passes.dependences.get(output, {}).items():
            if key.indexed:  # the slot's own coordinate is not known
                slot = cascade.tensors[key.tensor].ranks[key.slot]
                found.append(Relation(output, "", key.tensor, slot, "all"))
                continue
            relation = _relation(output, key, dependences)
            if relation is not None:
                found.append(relation)
    whole = {(r.output, r.tensor, r.slot_rank) for r in found if r.sign == "all"}
    told = [r for r in found if r.sign == "all" or (r.output, r.tensor, r.slot_rank) not in whole]
    return tuple(dict.fromkeys(told))


def _relation(output: str, key: Key, dependences: tuple[Dependence, ...]) -> Relation | None:
    signs = {_sign(d) for d in dependences if d.mode is not Mode.ONE}
    ranks = {d.ranks[0] for d in dependences if d.ranks}
    if not signs:
        return None
    if len(ranks) != 1 or "all" in signs or {"<=", ">="} <= signs:
        return Relation(output, "", key.tensor, key.rank, "all")
    (rank,) = ranks
    sign = "<=" if "<=" in signs else ">=" if ">=" in signs else "=="
    return Relation(output, rank, key.tensor, key.rank, sign)


def _sign(d: Dependence) -> str:
    if d.mode is Mode.ALL or d.flipped or not d.ranks:
        return "all"
    return SIGN.get(d.mode, "all")


def is_causal(cascade: Cascade, passes: Passes, rank: str) -> bool:
    """Whether no output at coordinate c of `rank` depends on an input slot at a later coordinate.

    Only slots related to `rank` count: those that some output reads at, before or after its own
    coordinate.
    """
    found = relations(cascade, passes)
    related = {(r.tensor, r.slot_rank) for r in found if r.rank == rank or r.slot_rank == rank}
    told = [r for r in found if (r.tensor, r.slot_rank) in related]
    return bool(told) and all(r.sign in ("<=", "==") for r in told)
