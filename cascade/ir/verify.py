"""The rules of a well-formed cascade, one function each. `verify` runs them all.

Run on every cascade a frontend makes and, in the tests, after every rewrite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cascade.diagnostics import CascadeError, Diagnostic
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const
from cascade.ir.kinds import check_kinds
from cascade.ir.order import evaluation_order
from cascade.ir.printer import print_expr
from cascade.ir.walk import conjuncts, free_ranks, reads, walk

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
            left = ",".join("0" if n == e.step else r for n, r in enumerate(e.ranks))
            yield Diagnostic(
                "no-init",
                f"`{name}` is iterative and has no start",
                e.span,
                hints=(f"write `init {name}[{left}] = …`",),
            )
        elif inits and updates and inits[0].ranks != updates[0].ranks:
            yield Diagnostic(
                "init",
                f"the `init` of `{name}` has other ranks than its recurrence",
                inits[0].span,
                related=((updates[0].span, "the recurrence"),) if updates[0].span else (),
            )


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
                hints=("remove it; a rank that only needs an extent is declared with `rank`",),
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
            yield Diagnostic(
                "unused", f"the param `{p.name}` is never used", p.span, severity="warning"
            )


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


FIRST: tuple[Rule, ...] = (tensors_are_defined_once, reads_have_ranks, points_are_bound)
THEN: tuple[Rule, ...] = (recurrences_step, check_kinds, everything_is_used, conditions_can_hold)
