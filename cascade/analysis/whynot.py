"""For each barrier that remains: the two statements, the condition that fails, and what would
remove it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cascade.analysis.normalise import Step
from cascade.analysis.passes import Mode, PassCount, Passes, Visit
from cascade.ir.expr import Expr, Map, Read, Where
from cascade.ir.walk import children, reads, rebuild, substitute, walk

NEEDS = {
    Mode.ALL: "all of {rank}",
    Mode.PREFIX: "every {rank} up to another coordinate",
    Mode.SUFFIX: "every {rank} from another coordinate on",
}


@dataclass(frozen=True)
class Barrier:
    """Between two visits of an input: the earlier must see what the later needs before it can
    begin.
    """

    tensor: str
    rank: str
    before: str
    after: str
    before_line: int | None
    after_line: int | None
    through: str
    reason: str
    remedy: str

    def to_dict(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def barriers(passes: Passes) -> tuple[Barrier, ...]:
    """The barriers on the proving chain of each count, each pair of statements once."""
    found: dict[tuple[str, str, str], Barrier] = {}
    by_target = {s.target: s for s in passes.steps}
    for count in passes.counts:
        if count.inside:
            continue
        for earlier, later in zip(count.chain, count.chain[1:], strict=False):
            barrier = _barrier(count, earlier, later, by_target)
            found.setdefault((barrier.before, barrier.after, barrier.rank), barrier)
    return tuple(found.values())


def _barrier(count: PassCount, earlier: Visit, later: Visit, by_target: dict[str, Step]) -> Barrier:
    rank = count.key.rank
    carrier = by_target.get(later.through)
    name = carrier.label() if carrier is not None else later.through
    needs = NEEDS.get(later.mode or Mode.ALL, "all of {rank}").format(rank=rank)
    reason = (
        f"{later.step.label()} at one coordinate of {rank} reads {name}, "
        f"which needs {needs} in {earlier.step.label()}"
    )
    return Barrier(
        count.key.tensor,
        rank,
        earlier.step.label(),
        later.step.label(),
        earlier.step.line,
        later.step.line,
        name,
        reason,
        _remedy(carrier, later, rank, by_target),
    )


def _remedy(carrier: Step | None, later: Visit, rank: str, by_target: dict[str, Step]) -> str:
    """What the consumer does with the carried value decides which rewrite could apply."""
    if carrier is None:
        return ""
    if carrier.op in ("order", "top", "argtop", "argmax"):
        return "none: a position in the order of all points is not known before the last"
    use = _use(_seen_through(later.step.body, by_target), carrier.target)
    if use == "factor" and (later.step.op == "sum" or later.step.op is None):
        return (
            f"{carrier.label()} is a factor without {rank}: it can leave a sum over {rank} "
            "and be applied once at the end (deferral)"
        )
    if use == "exponent":
        return (
            f"{carrier.label()} only shifts an exponent: a running value, with earlier terms "
            "corrected "
            "when it moves, would do; none at all if the exponent is bounded"
        )
    if use == "term":
        return (
            f"{carrier.label()} is a term beside values of {rank}: separate sums of powers, or "
            "a running "
            "value with corrected sums, would do if the rest is polynomial or an exponential"
        )
    return "none that is general: the value stands inside a function of both"


def _seen_through(e: Expr, by_target: dict[str, Step], depth: int = 0) -> Expr:
    """An expression with its pointwise producers written out, a few levels deep."""
    if isinstance(e, Read):
        step = by_target.get(e.tensor)
        if step is None or step.op is not None or step.recurs is not None or depth > 8:
            return e
        body = substitute(step.body, dict(zip(step.ranks, e.index, strict=True)))
        return _seen_through(body, by_target, depth + 1)
    return rebuild(e, tuple(_seen_through(c, by_target, depth) for c in children(e)))


def _use(e: Expr, target: str) -> str:
    """How an expression uses a tensor: as a factor, inside an exponent, as a term, or otherwise."""
    if isinstance(e, Read):
        return "factor" if e.tensor == target else ""
    if not any(r.tensor == target for r in reads(e)):
        return ""
    if isinstance(e, Where):
        return _use(e.body, target)
    if isinstance(e, Map) and e.op in ("*", "/"):
        inner = {_use(a, target) for a in e.args} - {""}
        return inner.pop() if len(inner) == 1 else "other"
    if isinstance(e, Map) and e.op in ("+", "-", "neg"):
        return "term"
    if isinstance(e, Map) and e.op in ("exp", "exp2"):
        return "exponent" if _use(e.args[0], target) in ("term", "factor") else "other"
    if isinstance(e, Map) and e.op in ("sqrt", "rsqrt", "log", "**"):
        rest = [a for a in walk(e) if isinstance(a, Read) and a.tensor != target]
        return _use(e.args[0], target) if not rest or e.op == "**" else "other"
    return "other"
