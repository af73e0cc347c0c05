"""Syntax tree to IR: names get their meaning, macros are expanded, implicit sums become explicit.

The order: names (`names.py`), declarations, statements (here), expressions (`expressions.py`),
extents of ranks that only statements bound (`ranks.py`), and the rules of a well-formed cascade
(`cascade.ir.verify`). All independent mistakes of a file are reported together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import TypeVar

from cascade.diagnostics import CascadeError, Diagnostic, Source, Span, did_you_mean, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.expressions import Lowering, Scope
from cascade.frontends.dsl.left_sides import LeftSides
from cascade.frontends.dsl.macros import check_macros
from cascade.frontends.dsl.mistakes import KEYWORDS
from cascade.frontends.dsl.names import (
    Names,
    check_type,
    collect,
    index_text,
    mentioned,
    type_span,
)
from cascade.frontends.dsl.partitions import partition_of, shared_parts
from cascade.frontends.dsl.ranks import bound_ranks_of_file
from cascade.frontends.dsl.stray_ranks import check_implicit, stray_condition
from cascade.ir.cascade import (
    Cascade,
    Einsum,
    OutputType,
    Param,
    Partition,
    Requirement,
    Tensor,
)
from cascade.ir.expr import Expr, Reduce, Where
from cascade.ir.implicit import implicit_ranks
from cascade.ir.tails import guard_tails
from cascade.ir.verify import verify
from cascade.ir.walk import bound_ranks, conjunction, conjuncts, free_ranks, unfiltered, walk

COLLECTED, SHOWN = 100, 20  # errors of one file

A = TypeVar("A")
B = TypeVar("B")
Kind = TypeVar("Kind", bound=s.Statement)


def lower(tree: s.File, default_name: str = "cascade") -> Cascade:
    """The checked cascade of a file. Raises `CascadeError` with every mistake found."""
    return _File(tree, default_name).cascade()


class _File:
    """One file on its way to the IR; `errors` and `warnings` collect what is found."""

    def __init__(self, tree: s.File, default_name: str):
        self.tree = tree
        self.file = default_name
        self.name = _as_name(PurePath(default_name).stem)
        self.names: Names = collect(tree)
        self.errors: list[Diagnostic] = [*self.names.errors, *check_macros(self.names)]
        self.warnings: list[Diagnostic] = []
        self.left_sides = LeftSides(self.names, self._assignments())
        self.partitions: tuple[Partition, ...] = ()

    def cascade(self) -> Cascade:
        self._stop_on_errors()
        self.partitions = tuple(self._each(self.names.partitions, self._partition))
        self.errors += shared_parts(self.partitions)
        for partition in self.partitions:
            for part in partition.parts:
                self.names.ranks.setdefault(part, partition.span)
        self._stop_on_errors()
        params = tuple(self._each(self.names.params.values(), self._param))
        requirements = tuple(self._each(self._of(s.Require), self._requirement))
        einsums = tuple(self._each(self._assignments(), self._einsum))
        outputs = self._outputs(einsums)
        declared = (o for statement in self._of(s.Outputs) for o in statement.items if o.dtype)
        types = tuple(self._each(declared, self._type))
        for header in self._of(s.Header):
            self.name = header.name
        self._stop_on_errors()
        inputs = tuple(self._input(i) for i in self.names.inputs.values())
        ranks = bound_ranks_of_file(self.names, self.partitions, inputs, einsums, self.lower_extent)
        cascade = Cascade(
            self.name,
            ranks,
            inputs,
            einsums,
            outputs,
            params,
            self.partitions,
            requirements,
            types,
        )
        findings = verify(cascade)
        self.errors += [d for d in findings if d.severity == "error"]
        self.warnings += [d for d in findings if d.severity == "warning"]
        self._stop_on_errors()
        object.__setattr__(cascade, "warnings", tuple(self.warnings))  # not part of its identity
        return cascade

    def _of(self, kind: type[Kind]) -> list[Kind]:
        return [st for st in self.tree.statements if isinstance(st, kind)]

    def _each(self, items: Iterable[A], function: Callable[[A], B]) -> list[B]:
        results: list[B] = []
        for item in items:
            if len(self.errors) >= COLLECTED:
                break
            try:
                results.append(function(item))
            except CascadeError as e:
                self.errors.extend(e.diagnostics)
        return results

    def _stop_on_errors(self) -> None:
        if self.errors:
            raise CascadeError(*_once(self.errors)[:SHOWN])

    # -- declarations
    def _input(self, item: s.InputDecl) -> Tensor:
        return Tensor(item.name, tuple(r.text for r in item.ranks), item.dtype, None, item.span)

    def lower_extent(self, e: s.Expr) -> Expr:
        """An expression over extents and params alone."""
        return Lowering(self.names, ()).extent(e)

    def _partition(self, item: s.PartitionDecl) -> Partition:
        return partition_of(item, self.names, self.lower_extent)

    def _param(self, item: s.ParamDecl) -> Param:
        return Param(
            item.name, None if item.value is None else self.lower_extent(item.value), item.span
        )

    def _requirement(self, item: s.Require) -> Requirement:
        return Requirement(self.lower_extent(item.condition), item.message, item.span)

    def _outputs(self, einsums: tuple[Einsum, ...]) -> tuple[str, ...]:
        outputs: dict[str, None] = {}
        for statement in self._of(s.Outputs):
            for item in statement.items:
                name = s.Name(item.name, item.span and item.span.word(item.name))
                if name.text not in self.names.writes:
                    self.errors.append(self._unknown_output(name))
                elif name.text in outputs:
                    message = f"`{name.text}` is an output twice"
                    self.errors.append(Diagnostic("declared-twice", message, name.span))
                outputs[name.text] = None
        if not outputs and not self.errors:
            hint = (
                f"add `output {einsums[-1].tensor}`"
                if einsums
                else "write statements and `output O`"
            )
            message = "the cascade has no output" if einsums else "the file has no statement"
            self.errors.append(Diagnostic("no-output", message, self._end(), hints=(hint,)))
        return tuple(outputs)

    def _type(self, item: s.OutputDecl) -> OutputType:
        check_type(item)
        return OutputType(item.name, item.dtype or "", type_span(item))

    def _unknown_output(self, name: s.Name) -> Diagnostic:
        if name.text in self.names.tensors:
            hint = f"a cascade computes its outputs: write `Z = {name.text}` and `output Z`"
            message = f"`{name.text}` is an input, which no statement defines"
            return Diagnostic("unknown-output", message, name.span, hints=(hint,))
        hints = did_you_mean(name.text, self.names.tensors)
        if not hints and name.text in (*self.names.params, *self.names.ranks):
            hints = (f"an output is a tensor: write `Z = {name.text}` and `output Z`",)
        if not hints and len(self.names.writes) <= 8:
            hints = (f"statements: {', '.join(f'`{t}`' for t in self.names.writes)}",)
        message = f"no statement defines `{name.text}`"
        return Diagnostic("unknown-output", message, name.span, hints=hints)

    def _end(self) -> Span | None:
        """Where something is missing at the end: the last statement, or an empty file."""
        if self.tree.statements:
            return self.tree.statements[-1].span
        return Span(Source(self.file, ""), 0, 0)

    # -- statements
    def _assignments(self) -> list[tuple[s.Assign, bool]]:
        found: list[tuple[s.Assign, bool]] = []
        for statement in self.tree.statements:
            if isinstance(statement, s.Assign):
                found.append((statement, False))
            elif isinstance(statement, s.Inits):
                found.extend((item, True) for item in statement.items)
        return found

    def _einsum(self, item: tuple[s.Assign, bool]) -> Einsum:
        assign, init = item
        ranks, step = self.left_sides.read(assign, init)
        scope = tuple(r for n, r in enumerate(ranks) if not (init and n == step))
        active = self._active_partitions(assign, scope)
        lowering = Lowering(self.names, active)
        body = self._right_side(lowering, assign, scope)
        body = guard_tails(body, scope, active, self._slots)
        return Einsum(assign.name, ranks, body, step, init, assign.span)

    def _slots(self, tensor: str) -> tuple[list[str], bool]:
        indices = self.names.indices(tensor)
        return [index_text(i) for i in indices], tensor in self.names.inputs

    def _active_partitions(self, assign: s.Assign, scope: tuple[str, ...]) -> tuple[Partition, ...]:
        used = mentioned(assign.value) | set(scope)
        active = tuple(p for p in self.partitions if set(p.parts) & used)
        for n, p in enumerate(active):
            for q in active[:n]:
                if p.rank == q.rank:
                    parts = [", ".join(x.parts) for x in (q, p)]
                    raise fail(
                        "partition",
                        f"this statement mixes two partitions of `{p.rank}`: {' and '.join(parts)}",
                        assign.span,
                        hints=(f"name an intermediate tensor over {parts[0]}, or over `{p.rank}`",),
                        related=[(x.span, "a partition") for x in (q, p) if x.span],
                    )
            if p.rank in scope:
                raise fail(
                    "partition",
                    f"`{p.rank}` stands on the left, and the statement uses its parts "
                    f"`{'`, `'.join(p.parts)}`",
                    assign.left,
                    hints=(f"write the left side over `{'`, `'.join(p.parts)}`",),
                )
        return active

    def _right_side(self, lowering: Lowering, assign: s.Assign, scope: tuple[str, ...]) -> Expr:
        value = assign.value
        condition = value.condition if isinstance(value, s.Filter) else None
        unmasked = value.body if isinstance(value, s.Filter) else value
        body = lowering.expr(unmasked, Scope(scope))
        summed = implicit_ranks(body, scope)
        guards: list[Expr] = []
        filters: list[Expr] = []
        inside = body.ranks if isinstance(body, Reduce) and not summed else summed
        if condition is not None:
            for part in conjuncts(lowering.expr(condition, Scope(scope))):
                named = set(free_ranks(part))
                if named <= set(scope):
                    guards.append(part)
                    self._warn_late_mask(part, body)
                elif named <= {*scope, *inside}:
                    filters.append(part)
                else:
                    raise stray_condition(part, named - {*scope, *inside}, value)
        if summed:
            check_implicit(body, summed, unmasked, assign)
            body = Reduce("sum", summed, _where(body, filters), unmasked.span)
        elif filters and isinstance(body, Reduce):
            inner, kept = unfiltered(body.body)
            body = Reduce(body.op, body.ranks, _where(inner, [*kept, *filters]), body.span)
        return _where(body, guards)

    def _warn_late_mask(self, part: Expr, body: Expr) -> None:
        hidden = {r for node in walk(body) for r in bound_ranks(node)}
        late = [r for r in free_ranks(part) if r in hidden]
        if late and len(free_ranks(part)) > 1:
            self.warnings.append(
                Diagnostic(
                    "late-mask",
                    f"this masks the result, after a reduction over `{late[0]}` has seen every "
                    "point",
                    part.span,
                    hints=(
                        "to leave points out of the reduction, put `where` in the statement "
                        "before it",
                    ),
                    severity="warning",
                )
            )


def _once(errors: list[Diagnostic]) -> list[Diagnostic]:
    """Each mistake once: a wrong name is one mistake, however often it is used."""
    unique: dict[object, Diagnostic] = {}
    for d in errors:
        of_name = d.code.startswith("unknown-") or d.code == "shadowed"
        unique.setdefault((d.code, d.message) if of_name else d, d)
    return [*unique.values()]


def _as_name(text: str) -> str:
    """A file name as a name of the language."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")
    return f"_{name}" if name[:1].isdigit() or name in KEYWORDS else name or "cascade"


def _where(body: Expr, parts: list[Expr]) -> Expr:
    return Where(body, conjunction(tuple(parts)), body.span) if parts else body
