"""For each barrier that remains: the two statements, the condition that fails, and what would
remove it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cascade.analysis.normalise import Step
from cascade.analysis.passes import Mode, PassCount, Passes, Visit
from cascade.ir.expr import Expr, Map, Read, Where
from cascade.ir.walk import reads

DEPTH = 8  # producers of producers that are looked through
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
    use = _Uses(carrier.target, by_target).of(later.step.body)
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


class _Uses:
    """How expressions use one tensor, with pointwise producers looked through, a few levels deep.

    Each producer is looked at once for each depth: written out, those of a deep network would
    multiply.
    """

    def __init__(self, target: str, by_target: dict[str, Step]):
        self.target = target
        self.by_target = by_target
        self.used: dict[tuple[str, int], str] = {}
        self.read: dict[tuple[str, int], frozenset[str]] = {}

    def _producer(self, tensor: str, depth: int) -> Step | None:
        step = self.by_target.get(tensor)
        if step is None or depth > DEPTH:
            return None
        return step if step.op is None and step.recurs is None else None

    def reads(self, e: Expr, depth: int = 0) -> frozenset[str]:
        """The tensors that an expression reads, producers looked through."""
        return frozenset().union(*(self._reads(r.tensor, depth) for r in reads(e)))

    def _reads(self, tensor: str, depth: int) -> frozenset[str]:
        key = tensor, depth
        if key not in self.read:
            step = self._producer(tensor, depth)
            self.read[key] = self.reads(step.body, depth + 1) if step else frozenset({tensor})
        return self.read[key]

    def of(self, e: Expr, depth: int = 0) -> str:
        """As a factor, inside an exponent, as a term, or otherwise; empty: not at all."""
        if self.target not in self.reads(e, depth):
            return ""
        match e:
            case Read(tensor):
                return self._of_tensor(tensor, depth)
            case Where(body):
                return self.of(body, depth)
            case Map("*" | "/", args):
                inner = {self.of(a, depth) for a in args} - {""}
                return inner.pop() if len(inner) == 1 else "other"
            case Map("+" | "-" | "neg"):
                return "term"
            case Map("exp" | "exp2", args):
                return "exponent" if self.of(args[0], depth) in ("term", "factor") else "other"
            case Map("sqrt" | "rsqrt" | "log" | "**" as op, args):
                alone = self.reads(e, depth) == {self.target}
                return self.of(args[0], depth) if alone or op == "**" else "other"
            case _:
                return "other"

    def _of_tensor(self, tensor: str, depth: int) -> str:
        key = tensor, depth
        if key not in self.used:
            step = self._producer(tensor, depth)
            own = "factor" if tensor == self.target else ""
            self.used[key] = self.of(step.body, depth + 1) if step else own
        return self.used[key]
