"""From a cascade as written to the fewest passes: the driver, and the derivation that it records.

The objective is passes, then work. For each rank that is traversed more than once, reductions are
rewritten one by one in the order of their dependences; each is a step of the derivation, with the
identity used, its side conditions and how each was discharged. A step never raises the number of
passes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from cascade.analysis.normalise import Step as NormalStep
from cascade.analysis.normalise import normalise
from cascade.analysis.passes import count_passes
from cascade.analysis.work import step_work, sum_work
from cascade.ir.cascade import Cascade
from cascade.ir.printer import print_einsum, print_expr
from cascade.ir.walk import reads
from cascade.transforms.emit import emit, state_of
from cascade.transforms.fuse import MAX, Anchor, Barrier, Fused, Plan, plan
from cascade.transforms.means import expand_means
from cascade.transforms.spell import to_expr
from cascade.transforms.state import State

HONEST = (
    "fewest with finitely many accumulators that are linear under the reducer; "
    "no claim is made about other methods"
)


@dataclass(frozen=True)
class Condition:
    """A side condition of a rewrite, and what shows that it holds."""

    says: str
    shown_by: str


@dataclass(frozen=True)
class Step:
    """One rewrite: what was applied to which statement, why it is allowed, and its effect."""

    law: str
    statement: str
    line: int | None
    before: str
    identity: tuple[str, ...]
    after: tuple[str, ...]
    conditions: tuple[Condition, ...]
    passes_before: int
    passes_after: int
    work_before: dict[str, str]
    work_after: dict[str, str]
    rank: str

    def to_dict(self) -> dict[str, object]:
        found: dict[str, object] = {n: getattr(self, n) for n in self.__dataclass_fields__}
        found["conditions"] = [{"says": c.says, "shown_by": c.shown_by} for c in self.conditions]
        return found


@dataclass(frozen=True)
class Obstacle:
    """A barrier that remains: the reduction, the part that does not separate, and what would
    remove it.
    """

    statement: str
    line: int | None
    rank: str
    part: str
    reason: str
    remedy: str

    def to_dict(self) -> dict[str, object]:
        return {n: getattr(self, n) for n in self.__dataclass_fields__}


@dataclass(frozen=True)
class Derivation:
    """The cascade as written, the derived one, and the steps between them."""

    source: Cascade
    result: Cascade
    steps: tuple[Step, ...]
    obstacles: tuple[Obstacle, ...]
    remarks: tuple[str, ...]
    passes_before: dict[str, int]
    passes_after: dict[str, int]
    plans: tuple[Plan, ...] = field(default=(), compare=False, repr=False)
    states: tuple[State, ...] = field(default=(), compare=False, repr=False)
    complete: bool = True  # false where steps were left out on request

    def to_dict(self) -> dict[str, object]:
        return {
            "name": self.source.name,
            "passes": self.passes_before,
            "derived": {"passes": self.passes_after, "text": str(self.result)},
            "steps": [s.to_dict() for s in self.steps],
            "barriers": [o.to_dict() for o in self.obstacles],
            "remarks": list(self.remarks),
            "fewest": HONEST,
        }

    def explanation(self) -> str:
        """What stands in the way of fewer passes: each barrier, its reason, what would remove
        it.
        """
        parts = [_heading(self)]
        none = "No barrier remains." if self.complete else "Not all steps were taken."
        parts.append(_obstacles_text(self.obstacles) if self.obstacles else none)
        parts += [_remarks_text(self.remarks)] if self.remarks else []
        return "\n\n".join([*parts, f"({HONEST})"])

    def __str__(self) -> str:
        return "\n\n".join(
            [_heading(self)]
            + [_step_text(n, s) for n, s in enumerate(self.steps, 1)]
            + ([_remarks_text(self.remarks)] if self.remarks else [])
            + ([_obstacles_text(self.obstacles)] if self.obstacles else [])
            + ([self._ending()] if self.steps else [])
        )

    def _ending(self) -> str:
        title = f"Derived ({HONEST})" if self.complete else f"After {len(self.steps)} steps"
        return f"{title}:\n\n{self.result}".rstrip()


def derive(
    cascade: Cascade, most: int | None = None, keep: frozenset[str] = frozenset()
) -> Derivation:
    """The form with the fewest passes, with its derivation; at most `most` steps of it.

    Ranks of `keep` are left as they are: those that are short enough to be held whole.
    """
    before = dict(_passes(cascade))
    current = cascade
    steps: list[Step] = []
    obstacles: list[Obstacle] = []
    remarks: list[str] = []
    plans: list[Plan] = []
    states: list[State] = []
    able: set[str] = set()  # reductions that could join, in a form that gains nothing by it
    for rank, counted in _ranks_to_stream(cascade):
        if rank in keep:
            continue
        if most is not None and len(steps) >= most:
            break
        left = None if most is None else most - len(steps)
        streamed = _stream(current, rank, counted, left)
        if streamed is None:
            continue
        obstacles += [_obstacle(b, rank, streamed.plan) for b in streamed.plan.barriers]
        remarks += _remarks(streamed.plan, streamed.enabled)
        if streamed.cancels:
            remarks.append(f"over {rank}: an input cancels altogether, and is read as written")
        if not streamed.steps:
            able |= {f.step.label() for f in streamed.plan.fused.values() if f.laws}
        if streamed.steps:
            current = streamed.result
            steps += streamed.steps
            plans.append(streamed.plan)
            numbers = sorted({streamed.plan.passes[n] for n in streamed.enabled})
            states += [state_of(streamed.plan, n, streamed.enabled) for n in numbers]
    complete = most is None or len(steps) < most
    if complete:
        obstacles += _unexplained(cascade, current, obstacles, able)
    return Derivation(
        cascade,
        current,
        tuple(steps),
        tuple(obstacles),
        tuple(dict.fromkeys(remarks)),
        before,
        dict(_passes(current)),
        tuple(plans),
        tuple(states),
        complete,
    )


def derived_passes(cascade: Cascade) -> dict[str, int]:
    """The passes of the derived form."""
    return dict(_passes(derived_form(cascade)))


def derived_form(cascade: Cascade) -> Cascade:
    """The form with the fewest passes, without the steps that lead to it."""
    current = cascade
    for rank, counted in _ranks_to_stream(cascade):
        found = plan(expand_means(current), rank)
        if any(f.laws for f in found.fused.values()):
            after = emit(found)
            if _passes(after).get(counted, 1) < _passes(current).get(counted, 1):
                current = after
    return current


@lru_cache(maxsize=64)
def _passes(cascade: Cascade) -> Mapping[str, int]:
    """Passes by rank; a step asks for those of the form before it again."""
    return count_passes(cascade).of_rank()


def _ranks_to_stream(cascade: Cascade) -> list[tuple[str, str]]:
    """What is traversed more than once, the worst first: the rank to stream over, and the rank of
    the input under which its passes are reported. They differ where one tensor is read along two
    ranks, as rows and as columns. A partition is streamed by its outer part.
    """
    counted = count_passes(cascade)
    passes = counted.of_rank()
    inner = {p for partition in cascade.partitions for p in partition.parts[1:]}
    outer = {p.rank: p.parts[0] for p in cascade.partitions}
    along: dict[str, dict[str, None]] = {}
    for count in counted.counts:
        visited = along.setdefault(count.inside or count.key.rank, {})
        if not count.inside:
            visited.update(dict.fromkeys(v.ranks[0] for v in count.visits))
    reduced = {r for s in counted.steps for r in s.bound}
    found: dict[tuple[str, str], None] = {}
    for rank in sorted((r for r, n in passes.items() if n > 1), key=lambda r: -passes[r]):
        if rank not in inner:
            others = (r for r in along[rank] if r in reduced)
            found.update(dict.fromkeys((outer.get(r, r), rank) for r in (rank, *others)))
    return list(found)


@dataclass
class _Streamed:
    plan: Plan
    enabled: set[str]
    steps: list[Step]
    result: Cascade
    cancels: bool = False  # a form with fewer passes would no longer read every input


def _stream(cascade: Cascade, rank: str, counted: str, most: int | None) -> _Streamed | None:
    """Rewrite the reductions over one rank, one by one, while the passes over the rank `counted`
    do not rise.
    """
    prepared = expand_means(cascade)
    found = plan(prepared, rank)
    order = [n for n, f in found.fused.items() if f.laws]
    shown = cascade
    passes = _passes(cascade).get(counted, 1)
    whole = emit(found) if order else prepared
    best = _passes(whole).get(counted, 1)
    if best >= passes or not _reads_its_inputs(whole):
        kept = best < passes
        return (
            _Streamed(found, set(), [], cascade, kept)
            if found.barriers or found.bounded or kept
            else None
        )
    enabled: set[str] = set()
    steps: list[Step] = []
    for name in order:
        if most is not None and len(steps) >= most:
            break
        enabled.add(name)
        after = emit(found, set(enabled))
        steps.append(_step(found, name, shown, after, counted))
        shown = after
    return _Streamed(found, enabled, steps, shown)


def _reads_its_inputs(cascade: Cascade) -> bool:
    """Whether no input is left with only its extents in use: where it cancels, it stays as it
    is.
    """
    read = {r.tensor for e in cascade.einsums for r in reads(e.body)}
    return all(t.name in read for t in cascade.inputs)


# -- what a step says


def _step(found: Plan, name: str, before: Cascade, after: Cascade, rank: str) -> Step:
    fused = found.fused[name]
    step = fused.step
    old = print_einsum(step.einsum)
    known = {print_einsum(e) for e in before.einsums}
    new = [("init " if e.init else "") + print_einsum(e) for e in after.einsums]
    return Step(
        _law(fused),
        step.label(),
        step.line,
        old,
        _identities(found, fused),
        tuple(t for t in new if t.removeprefix("init ") not in known),
        _conditions(found, fused),
        _passes(before).get(rank, 1),
        _passes(after).get(rank, 1),
        _work(before),
        _work(after),
        rank,
    )


def _law(fused: Fused) -> str:
    names = {"defer": "defer", "anchor": "stream", "split classes": "split classes"}
    return " and ".join(names[law] for law in dict.fromkeys(fused.laws))


def _identities(found: Plan, fused: Fused) -> tuple[str, ...]:
    """The equations of a step, in the names of the cascade."""
    step = fused.step
    over = ",".join(step.bound)
    lines = [f"{_name(found, step.target)} = {_readable(found, print_expr(to_expr(fused.value)))}"]
    for name in fused.accumulators:
        if name in found.accumulators:
            a = found.accumulators[name]
            chi = _readable(found, print_expr(to_expr(a.chi)))
            lines.append(f"{name} = {a.op}[{over}]({chi})")
    for anchor in _anchors(found, fused):
        lines += _anchor_identities(found, anchor, fused)
    if fused.summed:
        rank = ",".join(fused.summed)
        lines.append(f"W[c(m)] = sum[{rank}](W[{rank}] where c(m) == {rank})")
    return tuple(lines)


def _anchors(found: Plan, fused: Fused) -> list[Anchor]:
    names = {
        n
        for a in fused.accumulators
        if a in found.accumulators
        for n, _, _ in found.accumulators[a].powers
    }
    return [a for a in found.anchors.values() if a.name in names]


def _anchor_identities(found: Plan, anchor: Anchor, fused: Fused) -> list[str]:
    u = f"u_{_shift_name(found, anchor.name)}"
    x = _readable(found, print_expr(anchor.value))
    kind = "maximum" if anchor.kind == MAX else "mean"
    if anchor.weights is not None:
        whole, total = anchor.weights
        kind = f"mean {total} / {whole}"
    lines = [f"{u} = {x} - k, k the running {kind} of {x}"]
    powers = [
        p
        for a in fused.accumulators
        if a in found.accumulators
        for p in found.accumulators[a].powers
        if p[0] == anchor.name
    ]
    for _, degree, slope in dict.fromkeys(powers):
        decay = "exp(k - k')" if slope == 1 else f"exp({slope} (k - k'))"
        if slope and degree:
            lines.append(
                f"k -> k':  A_{degree}' = {decay} * sum_i binom({degree},i) (k - "
                f"k')^({degree}-i) A_i"
            )
        elif slope:
            lines.append(f"k -> k':  A' = {decay} * A")
        elif degree:
            lines.append(
                f"k -> k':  A_{degree}' = sum_i binom({degree},i) (k - k')^({degree}-i) A_i"
            )
    return lines


def _name(found: Plan, name: str) -> str:
    step = found.stream.by_name.get(name)
    return step.label() if step is not None else name


def _shift_name(found: Plan, name: str) -> str:
    """A name without spaces for the shifted value of an anchor."""
    step = found.stream.by_name.get(name)
    return name if step is None or step.named else f"{step.einsum.tensor}_{step.op}"


def _readable(found: Plan, text: str) -> str:
    """Symbols of the plan as a reader would write them."""

    def put(old: str, new: str, text: str) -> str:
        return re.sub(rf"(?<![\w.]){re.escape(old)}", lambda _: new, text)

    for name in found.anchors:
        text = put(f"{name}#u", f"u_{_shift_name(found, name)}", text)
        text = put(f"{name}#k", f"k_{_shift_name(found, name)}", text)
    for name, step in found.stream.by_name.items():
        if not step.named:
            text = put(f"{name}[", f"({step.label()})[", text)
    return text.replace("#d", "")


def _conditions(found: Plan, fused: Fused) -> tuple[Condition, ...]:
    rank = found.stream.rank
    result = [
        Condition(
            f"every factor is free of {rank} or free of results",
            "normal form: no atom and no term of an exponent has both",
        )
    ]
    for anchor in _anchors(found, fused):
        x = _readable(found, print_expr(anchor.value))
        if anchor.kind == MAX:
            source = (
                f"k is {_name(found, anchor.name)}, a maximum over a set with all these points"
                if anchor.result is not None
                else "k is a maximum taken over exactly these points"
            )
            result.append(Condition(f"u_{_shift_name(found, anchor.name)} <= 0", source))
            result.append(
                Condition(
                    f"{x} is not proved bounded, so it is shifted",
                    "range analysis",
                )
            )
        else:
            result.append(
                Condition(
                    f"{x} would cancel against its mean",
                    "it stands in a polynomial beside a result; the difference stays one symbol",
                )
            )
    if fused.guard:
        masks = " and ".join(print_expr(c) for c in fused.guard)
        result.append(
            Condition("the same points count", f"each accumulator keeps the condition {masks}")
        )
    result.append(
        Condition(
            "where no point is present the result is the reducer's identity",
            _guard_text(fused, found),
        )
    )
    return tuple(result)


def _guard_text(fused: Fused, found: Plan) -> str:
    numbers = all(r.tensor in found.accumulators for r in reads(to_expr(fused.value)))
    return "accumulators alone: it is" if numbers else "a guard was inserted"


def _work(c: Cascade) -> dict[str, str]:
    return {k: str(v) for k, v in sum_work([step_work(s) for s in normalise(c)]).items()}


# -- barriers and remarks

OUTSIDE = "statements outside of that recurrence, which do not read its state"

REMEDIES: tuple[tuple[Callable[[str], bool], str], ...] = (
    (
        lambda r: "inside an exponential" in r,
        "a factor on the outside of the exponential, or a result known before this traversal",
    ),
    (lambda r: "addition theorem" in r, "an exponential or a polynomial in its place"),
    (lambda r: "split by classes" in r, "a sum in its place"),
    (lambda r: "not proved bounded" in r, "an exponent that is bounded"),
    (lambda r: "not written out" in r, "a lower power"),
    (lambda r: "power of a sum" in r, "a whole power, or the sum split before"),
    (lambda r: "root of a product" in r, "factors proved positive"),
    (lambda r: "a value at each" in r, "a value there that needs no result of this traversal"),
    (lambda r: "recurrence" in r, OUTSIDE),
    (lambda r: "condition" in r, "a condition that does not read a result of the same traversal"),
    (
        lambda r: "indexed by" in r,
        "an index from a range whose extent does not grow with the stream",
    ),
    (lambda r: "sign" in r or "position" in r, "a factor proved positive"),
)


def _obstacle(b: Barrier, rank: str, found: Plan) -> Obstacle:
    reason = b.refusal.reason
    remedy = next(
        (text for test, text in REMEDIES if test(reason)), "a value known before this traversal"
    )
    return Obstacle(
        b.step.label(), b.step.line, rank, _readable(found, b.refusal.part), reason, remedy
    )


def _unexplained(
    source: Cascade, result: Cascade, known: list[Obstacle], able: set[str]
) -> list[Obstacle]:
    """Barriers of the derived form that no refused reduction stands for: a visit that has to wait
    although nothing in the algebra speaks against it.
    """
    inner = {p for partition in source.partitions for p in partition.parts[1:]}
    partitioned = {p.rank: p.parts for p in source.partitions}
    counted = count_passes(result)
    by_target = {s.target: s for s in counted.steps}
    found: list[Obstacle] = []
    for count in counted.counts:
        rank = count.key.rank
        if count.inside or rank in inner:
            continue
        parts = partitioned.get(rank, (rank,))
        said = {o.statement for o in (*known, *found) if o.rank == parts[0]}
        said |= able if said else set()
        for visit in count.chain[1:]:
            step = visit.step
            made_for = _producers(said - {o.statement for o in found}, by_target)
            if step.label() in said or (step.op is None and step.target in made_for):
                continue
            said.add(step.label())
            through = by_target[visit.through].label()
            reason, remedy = _waiting(step, rank, parts, through)
            found.append(Obstacle(step.label(), step.line, parts[0], through, reason, remedy))
    return found


def _producers(labels: set[str], by_target: dict[str, NormalStep]) -> set[str]:
    """The pointwise statements that only exist for statements with these labels to read."""
    found: set[str] = set()
    stack = [r.tensor for s in by_target.values() if s.label() in labels for r in reads(s.body)]
    while stack:
        step = by_target.get(stack.pop())
        if step is not None and step.op is None and step.target not in found:
            found.add(step.target)
            stack += [r.tensor for r in reads(step.body)]
    kept = {s.target for s in by_target.values() if s.label() in labels} | found
    read_by_others = {
        r.tensor for s in by_target.values() if s.target not in kept for r in reads(s.body)
    }
    return found - read_by_others


def _waiting(step: NormalStep, rank: str, parts: tuple[str, ...], through: str) -> tuple[str, str]:
    """Why a visit that no reduction was refused for has to wait, and what would remove it."""
    late = f"{through}, which is known after the last {rank}"
    if step.recurs is not None and step.recurs != rank:
        return (
            f"it is part of a recurrence over {step.recurs}, whose steps are not streamed",
            OUTSIDE,
        )
    if len(parts) > 1 and rank in step.scope:
        return (
            f"it is written over {rank} as a whole, while {parts[0]} is what is streamed",
            f"the same statement over {' and '.join(parts)}",
        )
    if step.op is None:
        return (
            f"it has a value at each {rank} and reads {late}",
            f"a sum over {rank} in its place, which {through} can leave",
        )
    if rank not in step.bound:
        return (
            f"it reduces {','.join(step.bound)} at each {rank} and reads {late}",
            f"a form in which {through} leaves the reduction over {','.join(step.bound)}",
        )
    return f"it reads {late}", f"{through} known before this traversal"


def _remarks(found: Plan, enabled: set[str]) -> list[str]:
    remarks = []
    for b in found.bounded:
        why = f"exp of {b.exponent} needs no maximum: {b.why or 'it is bounded'}"
        remarks.append(f"{b.step.label()}: {_readable(found, why)}")
    for name, fused in found.fused.items():
        if name in enabled and "defer" in fused.laws and "anchor" not in fused.laws:
            remarks.append(f"{fused.step.label()}: deferral alone, nothing to correct")
    return remarks


# -- text


def _heading(d: Derivation) -> str:
    changed = [
        f"{r}: {n} -> {d.passes_after.get(r, n)}"
        for r, n in d.passes_before.items()
        if max(n, d.passes_after.get(r, n)) > 1
    ]
    if not changed:
        return f"{d.source.name}: every rank is traversed once already"
    return f"{d.source.name}: passes {', '.join(changed)}"


def _step_text(n: int, s: Step) -> str:
    line = f", line {s.line}" if s.line else ""
    lines = [f"Step {n}: {s.law} ({s.statement}{line})", f"  before    {s.before}"]
    lines += [f"  {'identity' if i == 0 else '        '}  {t}" for i, t in enumerate(s.identity)]
    lines += [f"  {'after' if i == 0 else '     '}     {t}" for i, t in enumerate(s.after)]
    lines += [f"  because   {c.says}: {c.shown_by}" for c in s.conditions]
    lines.append(f"  passes    {s.rank}: {s.passes_before} -> {s.passes_after}")
    for kind in dict.fromkeys((*s.work_before, *s.work_after)):
        a, b = s.work_before.get(kind, "0"), s.work_after.get(kind, "0")
        if a != b:
            lines.append(f"  work      {kind}: {a} -> {b}")
    return "\n".join(lines)


def _remarks_text(remarks: tuple[str, ...]) -> str:
    return "Remarks\n" + "\n".join(f"  {r}" for r in remarks)


def _obstacles_text(obstacles: tuple[Obstacle, ...]) -> str:
    lines = ["Barriers that remain"]
    for o in obstacles:
        line = f" (line {o.line})" if o.line else ""
        lines.append(f"  {o.statement}{line}, over {o.rank}: {o.part}")
        lines.append(f"    {o.reason}")
        lines.append(f"    would be removed by: {o.remedy}")
    return "\n".join(lines)
