"""From a cascade to its statements: the roles of ranks, what is needed, and the phases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cascade.analysis.normalise import Step, normalise
from cascade.diagnostics import fail
from cascade.ir.cascade import Cascade
from cascade.ir.walk import reads
from cascade.spatial.operands import Lower
from cascade.spatial.statements import FINAL, Operand, Statement, Statements


def statements(cascade: Cascade, split: bool = True) -> Statements:
    """The statements of a cascade, the streamed rank split into steps or (for an array that takes
    whole rows) not. Raises `CascadeError` for what an array cannot be given.
    """
    steps = normalise(cascade)
    streamed, parts = _streamed(cascade, steps)
    if parts is None:
        parts = (f"{streamed}1", f"{streamed}0") if split else ("", streamed)
    lower = Lower(cascade, streamed, parts, split)
    for step in steps:
        lower.step(step)
    items = _phased(_live(lower.items, cascade.outputs, lower.alias), parts[0], parts[1])
    inputs = {t.name: lower.split_ranks(t.ranks) for t in cascade.inputs}
    used = {o.tensor for s in items for o in s.reads}
    return Statements(
        cascade.name,
        items,
        {n: r for n, r in inputs.items() if n in used},
        tuple(lower.alias[o].tensor if o in lower.alias else o for o in cascade.outputs),
        streamed,
        parts[0],
        parts[1],
        _query(cascade, lower, items),
        tuple(dict.fromkeys(s.write.tensor for s in items if s.write.offset == 1)),
        tuple(lower.conditions),
        split,
    )


def _streamed(cascade: Cascade, steps: tuple[Step, ...]) -> tuple[str, tuple[str, str] | None]:
    """The rank that is traversed in steps, and its parts where the cascade names them: a rank whose
    steps carry state; else the last that is reduced.
    """
    iterative = {s.recurs for s in steps if s.recurs}
    for p in cascade.partitions:
        if len(p.parts) == 2 and (p.parts[0] in iterative or not iterative):
            return p.rank, (p.parts[0], p.parts[1])
    if iterative:
        rank = sorted(iterative)[0]
        return rank, (rank, "")
    carried = {r for t in cascade.inputs for r in t.ranks}
    for step in reversed(steps):
        for rank in reversed(step.bound):
            if rank in carried and any(reads(step.body)):
                return rank, None
    raise fail(
        "array-stream",
        f"{cascade.name or 'the cascade'} reduces no rank of an input: nothing streams past the "
        "array",
        hints=("an array runs cascades that sum over a rank of an input",),
    )


def _query(cascade: Cascade, lower: Lower, items: tuple[Statement, ...]) -> tuple[str, ...]:
    """Ranks of results that no read of a streamed input mentions."""
    results = {r for name in cascade.outputs for r in cascade.tensors[name].ranks}
    stream = {lower.parts[0], lower.parts[1], lower.streamed} - {""}
    inputs = {t.name for t in cascade.inputs}
    mentioned: set[str] = set()
    for s in items:
        for o in s.reads:
            if o.tensor in inputs and set(o.ranks) & stream:
                mentioned |= set(o.ranks)
    ordered = dict.fromkeys(r for s in items for r in s.ranks)
    return tuple(r for r in ordered if r in results - mentioned - stream)


def _live(
    items: list[Statement], outputs: tuple[str, ...], alias: Mapping[str, Operand]
) -> tuple[Statement, ...]:
    """Only what an output needs."""
    wanted = {alias[o].tensor if o in alias else o for o in outputs}
    while True:
        more = {o.tensor for s in items if s.write.tensor in wanted for o in s.reads} - wanted
        if not more:
            break
        wanted |= more
    kept = [s for s in items if s.write.tensor in wanted]
    return tuple(
        replace(s, name=s.name.removeprefix("~"), write=s.write, reads=s.reads) for s in kept
    )


def _phased(items: tuple[Statement, ...], outer: str, inner: str) -> tuple[Statement, ...]:
    """A statement over the steps that reads a result over all of them waits for another phase."""
    phase: dict[str, int] = {}
    whole = {s.write.tensor: _is_whole(s, outer, inner) for s in items}
    found = []
    for s in items:
        steps = bool({outer, inner} & set(s.ranks))
        level = 0
        for o in s.reads:
            if o.tensor in phase:
                complete = o.offset == FINAL or (whole[o.tensor] and o.offset == 0)
                mine = o.tensor == s.write.tensor
                barrier = steps and complete and not mine
                level = max(level, phase[o.tensor] + (1 if barrier else 0))
        phase[s.write.tensor] = max(level, phase.get(s.write.tensor, 0))
        found.append(replace(s, phase=level))
    return tuple(found)


def _is_whole(s: Statement, outer: str, inner: str) -> bool:
    """Made from all steps, and not a running value."""
    over = {outer, inner} & set(s.ranks)
    return bool(over) and not ({outer, inner} & set(s.write.ranks))
