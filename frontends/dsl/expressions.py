"""Expressions of the syntax tree to expressions of the IR, with macros expanded hygienically.

A macro body sees only its arguments, its binders, and their extents. Arguments are lowered where
they are written; whatever goes wrong inside a body is reported at the call.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cascade.diagnostics import CascadeError, Span, did_you_mean, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.limits import MAX_DEPTH, MAX_NODES
from cascade.frontends.dsl.macros import form as macro_form
from cascade.frontends.dsl.macros import unknown_function
from cascade.frontends.dsl.names import (
    FUNCTIONS,
    WORDS,
    Names,
    index_text,
    is_extent_name,
    ranks_in_words,
)
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
        self.root: Span | None = None  # the whole expression

    def extent(self, e: s.Expr) -> Expr:
        """An expression of numbers, extents and params alone."""
        return self.expr(e, Scope(extents_only=True))

    def expr(self, e: s.Expr, scope: Scope) -> Expr:
        span = scope.call or e.span
        if scope.depth == 0:
            self.root = span
        self.nodes += 1
        if scope.depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise fail(
                "too-deep",
                f"this expression has more than {MAX_DEPTH} levels or {MAX_NODES:,} parts, "
                "macros expanded",
                self.root,
                hints=(SPLIT,),
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
            case s.Filter() if scope.extents_only:
                hints = ("a choice is `select(condition, a, b)`",)
                raise fail("extent", "`where` cannot be used here", span, hints=hints)
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
                raise fail("too-deep", "a chain of too many comparisons", span, hints=(SPLIT,))
            right = self.expr(operand, scope)
            part = Map(op, (left, right), span)
            result = part if result is None else Map("and", (result, part), span)
            left = right
        assert result is not None
        return result

    # -- names
    def _name(self, e: s.Name, scope: Scope) -> Expr:
        text, span = e.text, scope.call or e.span
        if text in ops.CONSTANTS:
            return Const(ops.CONSTANTS[text], span)
        if scope.values is not None:
            return self._macro_name(text, scope.values, span, scope)
        found = self._file_name(text, span, scope)
        if found is None:
            raise self._unknown_name(text, span, scope)
        return found

    def _macro_name(
        self, text: str, values: dict[str, Expr], span: Span | None, scope: Scope
    ) -> Expr:
        if text in values:
            self.nodes += size(values[text])
            return values[text]
        if text in scope.binders:
            return Coordinate(_only(scope.binders[text], text, span), span)
        extents = [replace(extent_symbol(r), span=span) for r in scope.binders[text.lower()]]
        result: Expr = extents[0]
        for extent in extents[1:]:
            result = Map("*", (result, extent), span)
        return result

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
        names = self.names
        if text in names.tensors:
            hint = NUMBERS if scope.extents_only else f"write `{names.form(text)}`"
            return fail("bare-tensor", f"the tensor `{text}` needs its index", span, hints=(hint,))
        if scope.extents_only and text in names.ranks:
            return fail(
                "extent",
                f"the rank `{text}` has no coordinate here",
                span,
                hints=(f"its extent is `{text.upper()}`",),
            )
        if text in WORDS or text in names.macros:
            form = self._form(text)
            return fail(
                "bare-function",
                f"the function `{text}` needs its argument",
                span,
                hints=(f"write `{form}`",),
            )
        if is_extent_name(text):
            hints = did_you_mean(text, [r.upper() for r in names.ranks] + [*names.params])
            return fail(
                "unknown-name",
                f"`{text}` is no extent and no param: there is no rank `{text.lower()}`",
                span,
                hints=hints or (f"declare `param {text}`",),
            )
        rank, param = f"`rank {text} < {text.upper()}`", f"`param {text}`"
        declare = f"declare {rank} or {param}" if len(text) <= 2 else f"declare {param}"
        return fail(
            "unknown-name",
            f"`{text}` is no rank, param or scalar",
            span,
            "not declared",
            did_you_mean(text, [*names.ranks, *names.params, *names.scalars]) or (declare,),
        )

    def _form(self, name: str) -> str:
        """How something callable is written."""
        if name in self.names.macros:
            return macro_form(self.names.macros[name])
        if name in ops.SELECTIONS:
            return f"{name}[m](x)" if name == "order" else f"{name}[m -> j](x)"
        if name in FUNCTIONS:
            return FORMS.get(name, f"{name}(x)")
        return f"{name}[m](x)"

    # -- reads
    def _index(self, e: s.Index, scope: Scope) -> Expr:
        span = scope.call or e.span
        if scope.values is not None:
            return self._reindex(e, scope.values, scope)
        if any(isinstance(i, s.Rebind) for i in e.indices):
            indices = [i.value if isinstance(i, s.Rebind) else i for i in e.indices]
            hint = f"write `{e.name}[{','.join(map(index_text, indices))}]`"
            message = "`:=` re-indexes an argument inside a macro body"
            raise fail("macro", message, span, hints=(hint,))
        if e.name not in self.names.tensors:
            raise self._unknown_tensor(e, scope.call or _word(e.span, e.name))
        slots = self.names.tensors[e.name]
        if scope.extents_only:
            message = f"the tensor `{e.name}` cannot be read here"
            raise fail("extent", message, span, hints=(NUMBERS,))
        if len(e.indices) != slots:
            count = len(e.indices)
            first = self.names.spans.get(e.name)
            raise fail(
                "slots",
                f"`{e.name}` has {ranks_in_words(slots)}, and {count} {_are(count)} given",
                span,
                hints=(f"write `{self.names.form(e.name)}`",),
                related=((first, "declared here"),) if first else (),
            )
        index = tuple(self.expr(i, scope) for i in e.indices if not isinstance(i, s.Rebind))
        return Read(e.name, index, span)

    def _reindex(self, e: s.Index, values: dict[str, Expr], scope: Scope) -> Expr:
        """`x[e := f(e)]`: the argument with its coordinate replaced."""
        moved: dict[str, Expr] = {}
        for index in e.indices:
            assert isinstance(index, s.Rebind)
            for rank in scope.binders[index.rank]:
                moved[rank] = self.expr(index.value, scope)
        self.nodes += size(values[e.name])
        return substitute(values[e.name], moved)

    def _unknown_tensor(self, e: s.Index, span: Span | None) -> CascadeError:
        name, names = e.name, self.names
        if name in WORDS or name in names.macros:
            return fail(
                "bare-function",
                f"`{name}` needs its argument in parentheses",
                span,
                hints=(f"write `{self._form(name)}`",),
            )
        hints = did_you_mean(name, names.tensors)
        if name in names.params or name in names.ranks:
            what = "a param" if name in names.params else "a rank"
            message = f"`{name}` is {what} and has no index"
            return fail("no-index", message, span, hints=hints or (f"write `{name}`",))
        if not hints and len(names.tensors) <= 8:
            hints = (f"tensors: {', '.join(f'`{t}`' for t in names.tensors)}",)
        message = f"`{name}` is read, but no statement and no input defines it"
        return fail("unknown-tensor", message, span, "not defined", hints)

    # -- calls
    def _call(self, e: s.Call, scope: Scope) -> Expr:
        span = scope.call or e.span
        if scope.extents_only and (e.binders or e.name in self.names.macros):
            raise fail("extent", f"`{e.name}` cannot be used here", span, hints=(NUMBERS,))
        if e.targets or e.name in ops.SELECTIONS:
            return self._select(e, scope, span)
        if e.name in self.names.macros:
            return self._expand(self.names.macros[e.name], e, scope, span)
        if e.name in ops.REDUCERS and (e.binders or e.name not in FUNCTIONS):
            return self._reduce(e, scope, span)
        if e.name in FUNCTIONS:
            return self._function(e, scope, span)
        raise unknown_function(e, self.names, scope.call)

    def _function(self, e: s.Call, scope: Scope, span: Span | None) -> Expr:
        low, high = ops.MAPS[e.name].arity
        if e.binders:
            raise fail(
                "arguments", f"`{e.name}` takes no ranks", span, hints=(f"write `{e.name}(x)`",)
            )
        if not low <= len(e.args) <= high:
            count = len(e.args)
            wanted = f"at least {low}" if high >= ops.UNBOUNDED else str(low)
            hint = f"write `{self._form(e.name)}`"
            if e.name in ops.REDUCERS:
                hint = f"a reduction names its ranks: `{e.name}[m](x)`"
            raise fail(
                "arguments",
                f"`{e.name}` takes {wanted} argument{'s' * (wanted != '1')}, "
                f"and {count} {_are(count)} given",
                span,
                hints=(hint,),
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
            raise fail(
                "arguments",
                f"`{e.name}[…]` takes one argument, and {len(e.args)} are given",
                span,
                hints=(f"write `{e.name}[m](x)`; of two values, `{e.name}(a, b)`",)
                if e.name in FUNCTIONS
                else (f"write `{e.name}[m](x)`",),
            )
        ranks = self._binders(e.binders, scope, e.name)
        if e.name == "argmax":
            _only(ranks, e.name, span)
        return Reduce(e.name, ranks, self.expr(e.args[0], scope.binding(ranks)), span)

    def _binders(
        self, binders: tuple[s.Expr | s.Rebind, ...], scope: Scope, name: str
    ) -> tuple[str, ...]:
        ranks: list[str] = []
        for binder in binders:
            span = scope.call or binder.span
            if not isinstance(binder, s.Name):
                hints = (f"write `{name}[m]`; what to do with `m` stands in the parentheses",)
                if name in ("top", "argtop") and isinstance(binder, s.Number):
                    hints = (f"declare `rank j < {binder.text}`, and write `{name}[m -> j](x)`",)
                raise fail("binder", f"`{name}[…]` takes plain ranks", span, hints=hints)
            if scope.values is not None:
                ranks.extend(scope.binders[binder.text])
                continue
            if is_extent_name(binder.text):
                hint = f"the rank is `{binder.text.lower()}`"
                raise fail(
                    "binder", f"`{binder.text}` is an extent, not a rank", span, hints=(hint,)
                )
            if binder.text in ranks:
                raise fail("binder", f"`{name}[…]` names `{binder.text}` twice", span)
            ranks.append(binder.text)
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
            message = f"the form is `{self._form(e.name)}`, with one rank"
            raise fail("selection", message + " on each side" * wants_target, span)
        rank = _only(self._binders(e.binders, scope, e.name), e.name, span)
        target = rank
        if wants_target:
            target = _only(self._binders(e.targets, scope, e.name), e.name, span)
        body = self.expr(e.args[0], scope.binding((rank,)))
        if target != rank and target in free_ranks(body):
            raise fail(
                "selection",
                f"`{target}` is the rank of the result and cannot stand inside",
                span,
                hints=(f"declare `rank k < K`, and write `{e.name}[{rank} -> k](x)`",),
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
        hints = (f"write `{macro_form(macro)}`",)
        given, wanted = len(e.args), len(macro.args)
        if given != wanted:
            message = f"`{macro.name}` takes {wanted} argument{'s' * (wanted != 1)}"
            message += f", and {given} {_are(given)} given"
            raise fail("macro", message, span, hints=hints)
        ranks = self._binders(e.binders, scope, macro.name)
        given, wanted = len(ranks), len(macro.binders)
        if bool(given) != bool(wanted) or (wanted > 1 and given != wanted):
            count = f"{given} {_are(given)}" if given else "none is"
            message = f"`{macro.name}` takes {ranks_in_words(wanted)}, and {count} given"
            raise fail("macro", message, span, hints=hints)
        groups = [ranks] if wanted == 1 else [(r,) for r in ranks]
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
            scope.depth,
        )
        result = self._body(macro, body_scope)
        if _depth(result) > MAX_DEPTH:
            message = f"the expanded `{macro.name}` has more than {MAX_DEPTH} levels"
            raise fail("too-deep", message, span, hints=(SPLIT,))
        return result

    def _body(self, macro: s.Define, scope: Scope) -> Expr:
        """The body of a macro; what is wrong in it is reported at the call, with a note."""
        try:
            return self.expr(macro.body, scope)
        except CascadeError as error:
            place = macro.body.span
            if place is None or error.diagnostics[0].related:
                raise
            note = ((place, f"in the body of `{macro.name}`"),)
            raise CascadeError(*(replace(d, related=note) for d in error.diagnostics)) from None


NUMBERS = "only numbers, extents and params can stand here"
SPLIT = "name an intermediate tensor"
FORMS = {
    "select": "select(condition, a, b)",
    "clamp": "clamp(x, low, high)",
    "min": "min(a, b)",
    "max": "max(a, b)",
}


def _only(ranks: tuple[str, ...], name: str, span: Span | None) -> str:
    if len(ranks) != 1:
        message = f"`{name}` stands for one rank, and {len(ranks)} are given"
        raise fail("binder", message, span)
    return ranks[0]


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _word(span: Span | None, name: str) -> Span | None:
    return span.word(name) if span else None


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
