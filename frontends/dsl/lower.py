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

from cascade.diagnostics import CascadeError, Diagnostic, Span, did_you_mean, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.expressions import Lowering, Scope
from cascade.frontends.dsl.mistakes import KEYWORDS
from cascade.frontends.dsl.names import Names, collect, is_extent_name, mentioned
from cascade.frontends.dsl.partitions import guard_tails, partition_of
from cascade.frontends.dsl.ranks import bound_ranks_of_file
from cascade.ir.cascade import Cascade, Einsum, Param, Partition, Requirement, Tensor
from cascade.ir.expr import Expr, Reduce, Where
from cascade.ir.implicit import implicit_ranks, offending_factor
from cascade.ir.printer import print_expr
from cascade.ir.verify import verify
from cascade.ir.walk import bound_ranks, conjunction, conjuncts, free_ranks, unfiltered, walk

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
        self.name = _as_name(PurePath(default_name).stem)
        self.names: Names = collect(tree)
        self.errors: list[Diagnostic] = list(self.names.errors)
        self.warnings: list[Diagnostic] = []
        self.partitions: tuple[Partition, ...] = ()

    def cascade(self) -> Cascade:
        self._stop_on_errors()
        self.partitions = tuple(self._each(self.names.partitions, self._partition))
        for partition in self.partitions:
            for part in partition.parts:
                self.names.ranks.setdefault(part, partition.span)
        self._stop_on_errors()
        params = tuple(self._each(self.names.params.values(), self._param))
        requirements = tuple(self._each(self._of(s.Require), self._requirement))
        einsums = tuple(self._each(self._assignments(), self._einsum))
        outputs = self._outputs(einsums)
        for header in self._of(s.Header):
            self.name = header.name
        self._stop_on_errors()
        inputs = tuple(self._input(i) for i in self.names.inputs.values())
        ranks = bound_ranks_of_file(self.names, self.partitions, inputs, einsums, self.lower_extent)
        cascade = Cascade(
            self.name, ranks, inputs, einsums, outputs, params, self.partitions, requirements
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
            try:
                results.append(function(item))
            except CascadeError as e:
                self.errors.extend(e.diagnostics)
        return results

    def _stop_on_errors(self) -> None:
        if self.errors:
            unique = list(dict.fromkeys(self.errors))
            raise CascadeError(*unique[:20])

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
            for name in statement.names:
                if name.text not in self.names.tensors:
                    hints = did_you_mean(name.text, self.names.tensors)
                    self.errors.append(
                        Diagnostic(
                            "unknown-output",
                            f"no statement defines `{name.text}`",
                            name.span,
                            hints=hints,
                        )
                    )
                elif name.text in outputs:
                    self.errors.append(
                        Diagnostic("declared-twice", f"`{name.text}` is an output twice", name.span)
                    )
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

    def _end(self) -> Span | None:
        return self.tree.statements[-1].span if self.tree.statements else None

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
        ranks, step = self._left_side(assign, init)
        scope = tuple(r for n, r in enumerate(ranks) if not (init and n == step))
        active = self._active_partitions(assign, scope)
        lowering = Lowering(self.names, active)
        body = self._right_side(lowering, assign.value, scope)
        body = guard_tails(body, scope, active, self.names)
        return Einsum(assign.name, ranks, body, step, init, assign.span)

    def _left_side(self, assign: s.Assign, init: bool) -> tuple[tuple[str, ...], int | None]:
        ranks: list[str] = []
        step: int | None = None
        for slot, index in enumerate(assign.indices or ()):
            match index:
                case s.Name(text) if text in self.names.ranks:
                    rank = text
                case s.Number("0") if init and step is None:
                    rank, step = self._iterative_rank(assign, slot), slot
                case s.Binary("+", s.Name(text), s.Number("1")) if not init and step is None:
                    rank, step = text, slot
                case _:
                    raise self._bad_left(index, assign, init)
            if rank in ranks:
                raise fail(
                    "repeated-rank",
                    f"rank `{rank}` stands twice on the left",
                    index.span,
                    hints=("a diagonal is written with a condition: `Z[m,n] = x where m == n`",),
                )
            ranks.append(rank)
        if init and step is None:
            raise fail(
                "init",
                f"`init` gives slot 0 of an iterative rank, and `{assign.name}` has none here",
                assign.left,
                hints=(f"write the slot as 0: `init {assign.name}[0,…] = …`",),
            )
        return tuple(ranks), step

    def _iterative_rank(self, assign: s.Assign, slot: int) -> str:
        for other, init in self._assignments():
            if other.name != assign.name or init or len(other.indices or ()) <= slot:
                continue
            match (other.indices or ())[slot]:
                case s.Binary("+", s.Name(text), s.Number("1")):
                    return text
        raise fail(
            "init",
            f"`{assign.name}` has an `init` but no recurrence",
            assign.left,
            hints=(f"write `{assign.name}[i+1,…] = …`, or drop `init`",),
        )

    def _bad_left(self, index: s.Expr | s.Rebind, assign: s.Assign, init: bool) -> CascadeError:
        hints: tuple[str, ...] = ("the left side has plain ranks, or `i+1` for an iterative rank",)
        match index:
            case s.Name(text) if is_extent_name(text):
                hints = (f"`{text}` is an extent; the rank is `{text.lower()}`",)
            case s.Number() if not init:
                hints = ("the first slot of an iterative rank is written with `init`",)
            case s.Binary("+") if init:
                hints = ("`init` writes slot 0: `init S[0,…] = …`",)
        return fail(
            "left-side", f"`{assign.name}` cannot be written at this index", index.span, hints=hints
        )

    def _active_partitions(self, assign: s.Assign, scope: tuple[str, ...]) -> tuple[Partition, ...]:
        used = mentioned(assign.value) | set(scope)
        active = tuple(p for p in self.partitions if set(p.parts) & used)
        for n, p in enumerate(active):
            for q in active[:n]:
                if p.rank == q.rank:
                    raise fail(
                        "partition",
                        f"this statement mixes two partitions of `{p.rank}`",
                        assign.span,
                        hints=("name an intermediate tensor in one of them",),
                    )
            if p.rank in scope:
                raise fail(
                    "partition",
                    f"`{p.rank}` stands on the left beside its part `{'`, `'.join(p.parts)}`",
                    assign.left,
                    hints=(f"write the left side over `{'`, `'.join(p.parts)}`",),
                )
        return active

    def _right_side(self, lowering: Lowering, value: s.Expr, scope: tuple[str, ...]) -> Expr:
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
                    raise self._stray_condition(part, named - {*scope, *inside}, body)
        if summed:
            self._check_implicit(body, summed)
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

    def _stray_condition(self, part: Expr, stray: set[str], body: Expr) -> CascadeError:
        rank = sorted(stray)[0]
        hidden = {r for node in walk(body) for r in bound_ranks(node)}
        if rank in hidden:
            hints: tuple[str, ...] = (f"put it inside the reduction: `sum[{rank}](x where …)`",)
        else:
            hints = (f"no value of this statement has rank `{rank}`",)
        return fail(
            "condition-rank",
            f"the condition names `{rank}`, which has no coordinate here",
            part.span,
            hints=hints,
        )

    def _check_implicit(self, body: Expr, summed: tuple[str, ...]) -> None:
        offender = offending_factor(body, summed)
        if offender is None:
            return
        rank = next(r for r in summed if r in free_ranks(offender))
        what = print_expr(offender)
        what = what if len(what) <= 60 else what[:57] + "…"
        raise fail(
            "implicit-sum",
            f"`{rank}` is on the right and not on the left, and `{what}` is not a plain read",
            offender.span or body.span,
            f"has rank {rank}",
            hints=(
                f"only a product of reads is summed without saying so: write `sum[{rank}](…)`, "
                f"or put `{rank}` on the left",
            ),
        )


def _as_name(text: str) -> str:
    """A file name as a name of the language."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")
    return f"_{name}" if name[:1].isdigit() or name in KEYWORDS else name or "cascade"


def _where(body: Expr, parts: list[Expr]) -> Expr:
    return Where(body, conjunction(tuple(parts)), body.span) if parts else body
