"""The rules of a well-formed cascade, one function each. `verify` runs them all.

Run on every cascade a frontend makes and, in the tests, after every rewrite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cascade.diagnostics import CascadeError, Diagnostic, Span
from cascade.ir.cascade import Cascade, Einsum, Tensor
from cascade.ir.expr import Const, Coordinate, Select, Symbol
from cascade.ir.kinds import check_kinds
from cascade.ir.order import evaluation_order, strongly_connected
from cascade.ir.printer import print_expr
from cascade.ir.walk import bound_ranks, conjuncts, free_ranks, reads, symbols, walk

Rule = Callable[[Cascade], Iterator[Diagnostic]]


def verify(cascade: Cascade) -> list[Diagnostic]:
    """Every finding, errors and warnings."""
    found = [d for rule in FIRST for d in rule(cascade)]
    if not any(d.severity == "error" for d in found):
        found += [d for rule in THEN for d in rule(cascade)]
    return found


def tensors_are_defined_once(c: Cascade) -> Iterator[Diagnostic]:
    for name, einsums in c.definitions.items():
        inits = [e for e in einsums if e.init]
        updates = [e for e in einsums if not e.init]
        if len(updates) > 1 or len(inits) > 1:
            first, second = (updates if len(updates) > 1 else inits)[:2]
            yield Diagnostic(
                "defined-twice",
                f"`{name}` is defined by two statements",
                second.span,
                related=((first.span, "the first"),) if first.span else (),
                hints=("give each its own name; pieces are joined with `select` or `??`",),
            )
        elif updates and updates[0].step is not None and not inits:
            e = updates[0]
            yield Diagnostic(
                "no-init",
                f"`{name}` is iterative and has no start",
                e.span,
                hints=(f"write `init {name}[{_start(e)}] = …`",),
            )
        elif inits and updates and inits[0].ranks != updates[0].ranks:
            yield Diagnostic(
                "init",
                f"the `init` of `{name}` has other ranks than its recurrence",
                inits[0].span,
                related=((updates[0].span, "the recurrence"),) if updates[0].span else (),
                hints=(f"write `init {name}[{_start(updates[0])}] = …`",),
            )


def _start(e: Einsum) -> str:
    """The index of the `init` of a recurrence."""
    return ",".join("0" if n == e.step else r for n, r in enumerate(e.ranks))


def definitions_end(c: Cascade) -> Iterator[Diagnostic]:
    """No param and no extent is defined by itself."""
    uses: dict[str, list[str]] = {
        p.name: sorted(symbols(p.value)) if p.value else [] for p in c.params
    }
    for r in c.ranks:
        name = r.name.upper()
        if name not in uses:
            uses[name] = sorted(symbols(r.extent)) if r.extent != Symbol(name) else []
    spans = {r.name.upper(): r.span for r in c.ranks} | {p.name: p.span for p in c.params}
    edges = {name: [u for u in used if u in uses] for name, used in uses.items()}
    for group in strongly_connected([*edges], edges):
        if len(group) > 1 or group[0] in edges[group[0]]:
            chain = " -> ".join([*group, group[0]])
            hints = ("give one of them a value, or set it when the cascade runs",)
            message = f"`{group[0]}` is defined by itself: {chain}"
            yield Diagnostic("extent", message, spans.get(group[0]), hints=hints)


def reads_have_ranks(c: Cascade) -> Iterator[Diagnostic]:
    for e in c.einsums:
        for read in reads(e.body):
            tensor = c.tensors.get(read.tensor)
            if tensor is None or len(tensor.ranks) != len(read.index):
                yield Diagnostic(
                    "slots", f"`{print_expr(read)}` does not fit its tensor", read.span or e.span
                )


def points_are_bound(c: Cascade) -> Iterator[Diagnostic]:
    """Every coordinate belongs to the left side or to a reduction round it."""
    for e in c.einsums:
        stray = [r for r in free_ranks(e.body) if r not in e.scope]
        if stray:
            yield Diagnostic(
                "stray-rank",
                f"`{stray[0]}` has no coordinate in the statement of `{e.tensor}`",
                e.span,
                hints=(f"put `{stray[0]}` on the left, or reduce over it: `sum[{stray[0]}](…)`",),
            )


def everything_is_used(c: Cascade) -> Iterator[Diagnostic]:
    read: set[str] = set(c.outputs)
    named: set[str] = set()
    for e in c.einsums:
        read |= {r.tensor for r in reads(e.body) if r.tensor != e.tensor}
    expressions = [e.body for e in c.einsums] + [r.extent for r in c.ranks]
    expressions += [p.value for p in c.params if p.value is not None]
    expressions += [p.expression for p in c.partitions] + [r.condition for r in c.requirements]
    for body in expressions:
        named |= {n.name for n in walk(body) if hasattr(n, "name")}
    for t in c.inputs:
        if t.name not in read:
            yield Diagnostic(
                "unused-input",
                f"the input `{t.name}` is never read",
                t.span,
                hints=(_how_to_read(t, named),),
            )
    for name, einsums in c.definitions.items():
        if name not in read:
            yield Diagnostic(
                "unused",
                f"`{name}` is never read and is no output",
                einsums[-1].span,
                hints=(f"add it to the outputs: `output {', '.join([*c.outputs, name])}`",),
                severity="warning",
            )
    extents = {r.name.upper() for r in c.ranks}
    for p in c.params:
        if p.name not in named and p.name not in extents:
            yield _unused(f"the param `{p.name}` is never used", p.span)
    used = _used_ranks(c)
    for rank in c.ranks:
        if rank.declared and rank.name not in used and rank.name.upper() not in named:
            yield _unused(f"the rank `{rank.name}` is never used", rank.span)
    for partition in c.partitions:
        if not used & {partition.rank, *partition.parts}:
            yield _unused(f"the partition of `{partition.rank}` is never used", partition.span)
        elif partition.rank not in used:
            message = f"nothing has rank `{partition.rank}`, which this partition divides"
            yield _unused(message, partition.span)


def _unused(message: str, span: Span | None) -> Diagnostic:
    return Diagnostic("unused", message, span, severity="warning")


def _used_ranks(c: Cascade) -> set[str]:
    """Ranks of a tensor, of a reduction, or with a coordinate somewhere."""
    used = {r for t in c.inputs for r in t.ranks}
    for e in c.einsums:
        used.update(e.ranks)
        for node in walk(e.body):
            used.update(bound_ranks(node))
            used.update(free_ranks(node) if isinstance(node, Coordinate | Select) else ())
    return used


def _how_to_read(t: Tensor, named: set[str]) -> str:
    """A hint for an input that nothing reads."""
    if t.name in named and t.ranks:
        index = f"{t.name}[{','.join(t.ranks)}]"
        return f"read it as `{index}`: without an index `{t.name}` is the extent of a rank"
    return "remove it; a rank that only needs an extent is declared with `rank`"


def conditions_can_hold(c: Cascade) -> Iterator[Diagnostic]:
    for e in c.einsums:
        for node in walk(e.body):
            condition = getattr(node, "condition", None)
            if condition is None:
                continue
            for part in conjuncts(condition):
                if part == Const(False):
                    yield Diagnostic(
                        "never",
                        "this condition is never true",
                        part.span or e.span,
                        severity="warning",
                    )


def recurrences_step(c: Cascade) -> Iterator[Diagnostic]:
    try:
        evaluation_order(c)
    except CascadeError as error:
        yield from error.diagnostics


FIRST: tuple[Rule, ...] = (
    *(tensors_are_defined_once, definitions_end, reads_have_ranks, points_are_bound),
)
THEN: tuple[Rule, ...] = (recurrences_step, check_kinds, everything_is_used, conditions_can_hold)
