"""Expressions of the syntax tree to expressions of the IR, with macros expanded hygienically.

A macro body sees only its arguments, its binders, and their extents. Arguments are lowered where
they are written; whatever goes wrong inside a body is reported at the call.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cascade.diagnostics import CascadeError, Diagnostic, Span, did_you_mean, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.limits import MAX_DEPTH, MAX_NODES
from cascade.frontends.dsl.names import FUNCTIONS, WORDS, Names, is_extent_name, library
from cascade.ir import ops
from cascade.ir.cascade import Partition, extent_symbol
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.walk import children, conjunction, conjuncts, free_ranks, size, substitute


@dataclass(frozen=True)
class Scope:
    """Where an expression stands: ranks with a coordinate, and inside a macro its parameters."""

    ranks: tuple[str, ...] = ()
    values: dict[str, Expr] | None = None  # macro arguments
    binders: dict[str, tuple[str, ...]] = field(default_factory=dict)  # macro binders -> ranks
    call: Span | None = None  # the macro call that errors point at
    active: tuple[str, ...] = ()  # macros being expanded
    depth: int = 0
    extents_only: bool = False

    def binding(self, ranks: tuple[str, ...]) -> Scope:
        return replace(self, ranks=self.ranks + tuple(r for r in ranks if r not in self.ranks))


class Lowering:
    """Lowers the expressions of one statement."""

    def __init__(self, names: Names, partitions: tuple[Partition, ...]):
        self.names = names
        self.partition = {p.rank: p for p in partitions}
        self.nodes = 0

    def extent(self, e: s.Expr) -> Expr:
        """An expression of numbers, extents and params alone."""
        return self.expr(e, Scope(extents_only=True))

    def expr(self, e: s.Expr, scope: Scope) -> Expr:
        span = scope.call or e.span
        self.nodes += 1
        if scope.depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise fail(
                "too-deep",
                f"this expression has more than {MAX_DEPTH} levels or {MAX_NODES:,} parts, "
                "macros expanded",
                span,
                hints=("name an intermediate tensor",),
            )
        inner = replace(scope, depth=scope.depth + 1)
        match e:
            case s.Number(text):
                return Const(int(text) if text.isdigit() else float(text), span)
            case s.Name():
                return self._name(e, scope)
            case s.Index():
                return self._index(e, inner)
            case s.Call():
                return self._call(e, inner)
            case s.Unary(op, operand):
                value = self.expr(operand, inner)
                if op == "neg" and isinstance(value, Const) and not isinstance(value.value, bool):
                    return Const(-value.value, span)
                return Map(op, (value,), span)
            case s.Binary(op, left, right):
                return Map(op, (self.expr(left, inner), self.expr(right, inner)), span)
            case s.Compare(first, rest):
                return self._compare(first, rest, inner, span)
            case s.Filter(body, condition):
                parts = conjuncts(self.expr(condition, inner))
                return Where(self.expr(body, inner), conjunction(parts), span)

    def _compare(
        self, first: s.Expr, rest: tuple[tuple[str, s.Expr], ...], scope: Scope, span: Span | None
    ) -> Expr:
        left = self.expr(first, scope)
        result: Expr | None = None
        for n, (op, operand) in enumerate(rest):
            if n >= MAX_DEPTH:
                raise fail("too-deep", "a chain of too many comparisons", span)
            right = self.expr(operand, scope)
            part = Map(op, (left, right), span)
            result = part if result is None else Map("and", (result, part), span)
            left = right
        assert result is not None
        return result

    # -- names
    def _name(self, e: s.Name, scope: Scope) -> Expr:
        text, span = e.text, scope.call or e.span
        if scope.values is not None:
            found = self._macro_name(text, span, scope)
            if found is not None:
                return found
        if text in ops.CONSTANTS:
            return Const(ops.CONSTANTS[text], span)
        if scope.values is None:
            found = self._file_name(text, span, scope)
            if found is not None:
                return found
        raise self._unknown_name(text, span, scope)

    def _macro_name(self, text: str, span: Span | None, scope: Scope) -> Expr | None:
        assert scope.values is not None
        if text in scope.values:
            self.nodes += size(scope.values[text])
            return scope.values[text]
        if text in scope.binders:
            ranks = scope.binders[text]
            if len(ranks) != 1:
                raise fail("macro", f"this macro takes one rank, not {len(ranks)}", span)
            return Coordinate(ranks[0], span)
        if text.lower() in scope.binders and is_extent_name(text):
            extents: list[Expr] = [
                replace(extent_symbol(r), span=span) for r in scope.binders[text.lower()]
            ]
            result = extents[0]
            for extent in extents[1:]:
                result = Map("*", (result, extent), span)
            return result
        return None

    def _file_name(self, text: str, span: Span | None, scope: Scope) -> Expr | None:
        if text in scope.ranks:
            return Coordinate(text, span)
        if text in self.names.params:
            return Symbol(text, span)
        if text in self.names.scalars and not scope.extents_only:
            return Read(text, (), span)
        if text in self.names.ranks and not is_extent_name(text) and not scope.extents_only:
            if text in self.partition:
                return _at(self.partition[text].expression, span)
            return Coordinate(text, span)
        if is_extent_name(text) and text.lower() in self.names.ranks:
            return Symbol(text, span)
        return None

    def _unknown_name(self, text: str, span: Span | None, scope: Scope) -> CascadeError:
        if scope.values is not None:
            known = [*scope.values, *scope.binders]
            return fail(
                "macro",
                f"`{text}` is no argument of the macro `{scope.active[-1]}`",
                span,
                hints=did_you_mean(text, known)
                or ("a macro body uses its arguments and binders only",),
            )
        if text in self.names.tensors:
            slots = self.names.tensors[text]
            hint = (
                f"write `{text}[{','.join('…' * slots)}]`: it has {slots} rank{'s' * (slots != 1)}"
            )
            if scope.extents_only:
                hint = "an extent or param is made of numbers, extents and params"
            return fail("bare-tensor", f"the tensor `{text}` needs its index", span, hints=(hint,))
        if scope.extents_only and text in self.names.ranks:
            return fail(
                "extent",
                f"the rank `{text}` has no coordinate here",
                span,
                hints=(f"its extent is `{text.upper()}`",),
            )
        if text in WORDS:
            return fail("bare-function", f"the function `{text}` needs its argument", span)
        if is_extent_name(text):
            hints = did_you_mean(text, [r.upper() for r in self.names.ranks] + [*self.names.params])
            return fail(
                "unknown-name",
                f"`{text}` is no extent and no param: there is no rank `{text.lower()}`",
                span,
                hints=hints or (f"declare `param {text}`",),
            )
        hints = did_you_mean(text, [*self.names.ranks, *self.names.params, *self.names.scalars])
        return fail(
            "unknown-name",
            f"`{text}` is no rank, param or scalar",
            span,
            "not declared",
            hints or (f"declare `rank {text} < {text.upper()}` or `param {text}`",),
        )

    # -- reads
    def _index(self, e: s.Index, scope: Scope) -> Expr:
        span = scope.call or e.span
        if scope.values is not None and e.name in scope.values:
            return self._reindex(e, scope)
        if any(isinstance(i, s.Rebind) for i in e.indices):
            raise fail("macro", "`:=` re-indexes an argument inside a macro body", span)
        if scope.values is not None or e.name not in self.names.tensors:
            raise self._unknown_tensor(e, span, scope)
        slots = self.names.tensors[e.name]
        if scope.extents_only:
            raise fail("extent", f"the tensor `{e.name}` cannot be read here", span)
        if len(e.indices) != slots:
            raise fail(
                "slots",
                f"`{e.name}` has {slots} rank{'s' * (slots != 1)}, and {len(e.indices)} are given",
                span,
            )
        index = tuple(self.expr(i, scope) for i in e.indices if not isinstance(i, s.Rebind))
        return Read(e.name, index, span)

    def _reindex(self, e: s.Index, scope: Scope) -> Expr:
        """`x[e := f(e)]`: the argument with its coordinate replaced."""
        assert scope.values is not None
        span = scope.call or e.span
        values: dict[str, Expr] = {}
        for index in e.indices:
            if not isinstance(index, s.Rebind) or index.rank not in scope.binders:
                raise fail(
                    "macro", f"the argument `{e.name}` is re-indexed as `{e.name}[rank := …]`", span
                )
            for rank in scope.binders[index.rank]:
                values[rank] = self.expr(index.value, scope)
        self.nodes += size(scope.values[e.name])
        return substitute(scope.values[e.name], values)

    def _unknown_tensor(self, e: s.Index, span: Span | None, scope: Scope) -> CascadeError:
        name = e.name
        if scope.values is not None:
            return fail("macro", f"a macro body reads only its arguments, not `{name}`", span)
        if name in WORDS or name in self.names.macros:
            return fail(
                "bare-function",
                f"`{name}` needs its argument in parentheses",
                span,
                hints=(f"write `{name}[…](x)`" if name not in FUNCTIONS else f"write `{name}(x)`",),
            )
        if name in self.names.params or name in self.names.ranks or is_extent_name(name):
            known = did_you_mean(name, self.names.tensors)
            if name in self.names.params or name in self.names.ranks:
                return fail("no-index", f"`{name}` is a number and has no index", span, hints=known)
        return fail(
            "unknown-tensor",
            f"`{name}` is read, but no statement and no input defines it",
            span,
            "not defined",
            did_you_mean(name, self.names.tensors),
        )

    # -- calls
    def _call(self, e: s.Call, scope: Scope) -> Expr:
        span = scope.call or e.span
        if scope.extents_only and (e.binders or e.name in self.names.macros):
            raise fail("extent", f"`{e.name}` cannot be used here", span)
        if e.targets or e.name in ops.SELECTIONS:
            return self._select(e, scope, span)
        if e.name in self.names.macros and (scope.values is None or e.name not in scope.values):
            return self._expand(self.names.macros[e.name], e, scope, span)
        if e.name in ops.REDUCERS and (e.binders or e.name not in FUNCTIONS):
            return self._reduce(e, scope, span)
        if e.name in FUNCTIONS:
            return self._function(e, scope, span)
        raise self._unknown_function(e, span)

    def _function(self, e: s.Call, scope: Scope, span: Span | None) -> Expr:
        low, high = ops.MAPS[e.name].arity
        if e.binders:
            raise fail(
                "arguments", f"`{e.name}` takes no ranks", span, hints=(f"write `{e.name}(x)`",)
            )
        if not low <= len(e.args) <= high:
            reducer = e.name in ops.REDUCERS
            wanted = (
                f"{low}"
                if low == high
                else f"at least {low}"
                if high >= ops.UNBOUNDED
                else f"{low}-{high}"
            )
            raise fail(
                "arguments",
                f"`{e.name}` takes {wanted} argument{'s' * (wanted != '1')}, and {len(e.args)} "
                f"{'is' if len(e.args) == 1 else 'are'} given",
                span,
                hints=(f"a reduction names its ranks: `{e.name}[m](x)`",) if reducer else (),
            )
        return Map(e.name, tuple(self.expr(a, scope) for a in e.args), span)

    def _reduce(self, e: s.Call, scope: Scope, span: Span | None) -> Expr:
        if not e.binders:
            raise fail(
                "arguments",
                f"`{e.name}` is a reduction and needs its ranks",
                span,
                hints=(f"write `{e.name}[m](x)`",),
            )
        if len(e.args) != 1:
            raise fail("arguments", f"`{e.name}[…]` takes one argument", span)
        ranks = self._binders(e.binders, scope, e.name)
        if e.name == "argmax" and len(ranks) != 1:
            raise fail("arguments", "`argmax` takes one rank", span)
        return Reduce(e.name, ranks, self.expr(e.args[0], scope.binding(ranks)), span)

    def _binders(
        self, binders: tuple[s.Expr | s.Rebind, ...], scope: Scope, name: str
    ) -> tuple[str, ...]:
        ranks: list[str] = []
        for binder in binders:
            span = scope.call or binder.span
            if not isinstance(binder, s.Name):
                raise fail("binder", f"`{name}[…]` is given plain ranks", span)
            if scope.values is not None:
                if binder.text not in scope.binders:
                    raise fail("macro", f"`{binder.text}` is no binder of this macro", span)
                ranks.extend(scope.binders[binder.text])
                continue
            if is_extent_name(binder.text):
                hint = f"the rank is `{binder.text.lower()}`"
                raise fail(
                    "binder", f"`{binder.text}` is an extent, not a rank", span, hints=(hint,)
                )
            ranks.append(binder.text)
        if len(set(ranks)) != len(ranks):
            raise fail("binder", f"`{name}[…]` names a rank twice", scope.call or binders[0].span)
        return tuple(ranks)

    def _select(self, e: s.Call, scope: Scope, span: Span | None) -> Expr:
        if e.name not in ops.SELECTIONS:
            raise fail(
                "selection",
                f"`{e.name}` does not select",
                span,
                hints=("selections are `top[m -> j](x)` and `argtop[m -> j](x)`",),
            )
        wants_target = e.name != "order"
        if len(e.binders) != 1 or len(e.targets) != wants_target or len(e.args) != 1:
            form = f"{e.name}[m -> j](x)" if wants_target else f"{e.name}[m](x)"
            raise fail("selection", f"the form is `{form}`, with one rank on each side", span)
        (rank,) = self._binders(e.binders, scope, e.name)
        (target,) = self._binders(e.targets, scope, e.name) if wants_target else (rank,)
        body = self.expr(e.args[0], scope.binding((rank,)))
        if target != rank and target in free_ranks(body):
            raise fail(
                "selection", f"`{target}` is the result's rank and cannot stand inside", span
            )
        if target == rank and wants_target:
            raise fail(
                "selection",
                "the selected values lie along a rank of their own",
                span,
                hints=(f"declare `rank j < J` and write `{e.name}[{rank} -> j](x)`",),
            )
        return Select(e.name, rank, target, body, span)

    def _expand(self, macro: s.Define, e: s.Call, scope: Scope, span: Span | None) -> Expr:
        if macro.name in scope.active:
            raise fail("macro", f"the macro `{macro.name}` uses itself", span)
        if len(macro.args) != len(e.args):
            form = ", ".join(a.text for a in macro.args)
            raise fail(
                "macro",
                f"`{macro.name}` takes {len(macro.args)} argument{'s' * (len(macro.args) != 1)} "
                f"({form}), and {len(e.args)} {'is' if len(e.args) == 1 else 'are'} given",
                span,
            )
        ranks = self._binders(e.binders, scope, macro.name)
        if bool(ranks) != bool(macro.binders) or (
            len(macro.binders) > 1 and len(macro.binders) != len(ranks)
        ):
            wanted = ",".join(b.text for b in macro.binders)
            form = f"{macro.name}[{wanted}](…)" if wanted else f"{macro.name}(…)"
            raise fail("macro", f"the form is `{form}`", span)
        groups = [ranks] if len(macro.binders) == 1 else [(r,) for r in ranks]
        argument_scope = scope.binding(ranks)
        values = {
            name.text: self.expr(arg, argument_scope)
            for name, arg in zip(macro.args, e.args, strict=True)
        }
        body_scope = Scope(
            argument_scope.ranks,
            values,
            {b.text: g for b, g in zip(macro.binders, groups, strict=True)},
            span,
            (*scope.active, macro.name),
            scope.depth,
        )
        result = self.expr(macro.body, body_scope)
        if _depth(result) > MAX_DEPTH:
            raise fail(
                "too-deep", f"the expanded `{macro.name}` has more than {MAX_DEPTH} levels", span
            )
        return result

    def _unknown_function(self, e: s.Call, span: Span | None) -> CascadeError:
        known = FUNCTIONS | set(ops.REDUCERS) | set(ops.SELECTIONS) | set(self.names.macros)
        if e.name not in self.names.macros and any(d.name == e.name for d in library("std")):
            hints: tuple[str, ...] = ("it is in the library: add `import std`",)
        elif e.name in self.names.tensors:
            hints = (f"`{e.name}` is a tensor: its index goes in square brackets",)
        else:
            hints = did_you_mean(e.name, known) or ("functions: " + ", ".join(sorted(FUNCTIONS)),)
        return CascadeError(
            Diagnostic("unknown-function", f"there is no function `{e.name}`", span, hints=hints)
        )


def _at(e: Expr, span: Span | None) -> Expr:
    return replace(e, span=span)


def _depth(e: Expr) -> int:
    """Levels of an expression, without recursion."""
    deepest, stack = 0, [(e, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        stack.extend((child, depth + 1) for child in children(node))
    return deepest
