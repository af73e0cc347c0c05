"""Macros are checked where they are defined, so that a call can only be wrong by itself.

A body sees its arguments, its binders and their extents, functions, and macros that do not lead
back to it. Also here: the message for a call of something that is no function.
"""

from __future__ import annotations

from collections.abc import Iterator

from cascade.diagnostics import CascadeError, Diagnostic, Span, did_you_mean, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.names import (
    FUNCTIONS,
    KNOWN_CALLS,
    WORDS,
    Names,
    check_rank_name,
    children,
    index_text,
    is_extent_name,
    library,
    reserved,
)
from cascade.ir import ops
from cascade.ir.order import strongly_connected


def check_macros(names: Names) -> list[Diagnostic]:
    """What is wrong with the macros of a file; those of the library are right."""
    errors: list[Diagnostic] = []
    for macro in names.macros.values():
        if macro.name in names.spans:
            errors += _check_head(macro) or _Body(names, macro).errors
    return errors + _cycles(names)


def _cycles(names: Names) -> list[Diagnostic]:
    """Macros that expand to themselves, each cycle once."""
    calls = {
        m.name: {c.name: c.span for c in _values(m.body) if isinstance(c, s.Call)}
        for m in names.macros.values()
    }
    edges = {name: [c for c in called if c in calls] for name, called in calls.items()}
    errors: list[Diagnostic] = []
    for group in strongly_connected([*edges], edges):
        own = [name for name in names.spans if name in group]
        if own and (len(group) > 1 or group[0] in edges[group[0]]):
            callee = next(c for c in edges[own[0]] if c in group)
            span = calls[own[0]][callee]
            message = f"the macro `{own[0]}` uses itself"
            hint = "a macro is put in its place whole; a recurrence is written `S[i+1] = f(S[i])`"
            where = span.word(callee) if span else None
            errors.append(Diagnostic("macro", message, where, hints=(hint,)))
    return errors


def form(macro: s.Define) -> str:
    """How a macro is called: `rmsnorm[e](x, eps)`."""
    binders = ",".join(b.text for b in macro.binders)
    args = ", ".join(a.text for a in macro.args)
    return f"{macro.name}[{binders}]({args})" if binders else f"{macro.name}({args})"


def _check_head(macro: s.Define) -> list[Diagnostic]:
    seen: set[str] = set()
    try:
        for item in (*macro.binders, *macro.args):
            if item.text in seen:
                message = f"`{item.text}` stands twice in the head of `{macro.name}`"
                raise fail("macro", message, item.span, hints=("rename one of them",))
            if item.text in WORDS:
                raise reserved(item.text, item.span, "an argument of a macro")
            seen.add(item.text)
        for binder in macro.binders:
            check_rank_name(binder.text, binder.span)
    except CascadeError as error:
        return [*error.diagnostics]
    return []


class _Body:
    """The names of one macro body; each unknown one is reported once, where it stands."""

    def __init__(self, names: Names, macro: s.Define):
        self.names = names
        self.macro = macro
        self.args = {a.text for a in macro.args}
        self.binders = {b.text for b in macro.binders}
        self.found: dict[str, Diagnostic] = {}
        for node in _values(macro.body):
            match node:
                case s.Name(text, span):
                    self._name(text, span)
                case s.Index(name, indices, span):
                    self._index(name, indices, span)
                case s.Call():
                    self._call(node)

    @property
    def errors(self) -> list[Diagnostic]:
        return [*self.found.values()]

    def _report(self, name: str, message: str, span: Span | None, *hints: str) -> None:
        self.found.setdefault(name, Diagnostic("macro", message, span, hints=hints))

    def _name(self, text: str, span: Span | None) -> None:
        extent = is_extent_name(text) and text.lower() in self.binders
        if text in self.args or text in self.binders or text in ops.CONSTANTS or extent:
            return
        hints = did_you_mean(text, self.args | self.binders)
        message = f"`{text}` is no argument of the macro `{self.macro.name}`"
        self._report(text, message, span, *(hints or (self._pass(text),)))

    def _pass(self, name: str) -> str:
        head, _, args = form(self.macro).partition("(")
        return f"a macro sees only what it is given: `def {head}({args[:-1]}, {name}) = …`"

    def _index(self, name: str, indices: tuple[s.Expr | s.Rebind, ...], span: Span | None) -> None:
        where = span.word(name) if span else None
        if name not in self.args:
            message = f"the macro `{self.macro.name}` reads `{name}`, which is no argument"
            hints = did_you_mean(name, self.args) or (self._pass(name.lower()),)
            self._report(name, message, where, *hints)
            return
        for index in indices:
            if not isinstance(index, s.Rebind) or index.rank not in self.binders:
                form = next(iter(b.text for b in self.macro.binders), "m")
                message = f"the argument `{name}` is read at another place as `{name}[{form} := …]`"
                value = index.value if isinstance(index, s.Rebind) else index
                there = index_text(value)
                hints = (f"write `{name}[{form} := {there}]`",) if there != "…" else ()
                self._report(f"{name}[", message, index.span, *hints)

    def _call(self, call: s.Call) -> None:
        for binder in (*call.binders, *call.targets):
            if isinstance(binder, s.Name) and binder.text not in self.binders:
                message = f"`{binder.text}` is no rank of the macro `{self.macro.name}`"
                ranks = ",".join([*(b.text for b in self.macro.binders), binder.text])
                args = ", ".join(a.text for a in self.macro.args)
                hint = f"write `def {self.macro.name}[{ranks}]({args}) = …`"
                self._report(binder.text, message, binder.span, hint)
        if call.name in self.args:
            message = f"the argument `{call.name}` is called, and it is a value"
            hint = "a macro is given values; call functions and macros by their names"
            where = call.span.word(call.name) if call.span else None
            self._report(f"{call.name}(", message, where, hint)
        elif call.name not in KNOWN_CALLS | set(self.names.macros):
            error = unknown_function(call, self.names)
            self.found.setdefault(f"{call.name}(", error.diagnostics[0])


def _values(e: s.Expr) -> Iterator[s.Expr]:
    """Every expression of a body that stands for a value: no binders, and no plain indices."""
    stack: list[s.Expr] = [e]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, s.Index) and not any(isinstance(i, s.Rebind) for i in node.indices):
            continue
        inner = node.args if isinstance(node, s.Call) else children(node)
        stack.extend(reversed([i.value if isinstance(i, s.Rebind) else i for i in inner]))


# -- functions of other languages

ELSEWHERE: dict[str, str] = {
    "if": "a choice is `select(condition, a, b)`",
    "argmin": "write `argmax[m](-x)`",
    "average": "write `mean[m](x)`",
    "avg": "write `mean[m](x)`",
    "maximum": "the larger of two is `max(a, b)`; along a rank, `max[m](x)`",
    "minimum": "the smaller of two is `min(a, b)`; along a rank, `min[m](x)`",
    "pow": "a power is written `x**2`",
    "power": "a power is written `x**2`",
    "square": "a power is written `x**2`",
    "mod": "a remainder is written `a % b`",
    "div": "a quotient of integers is written `a // b`",
    "ln": "the natural logarithm is `log(x)`",
    "log10": "write `log(x) / log(10)`",
    "log1p": "write `log(1 + x)`",
    "expm1": "write `exp(x) - 1`",
    "tan": "write `sin(x) / cos(x)`",
    "round": "write `floor(x + 0.5)`",
    "int": "write `floor(x)`",
    "norm": "write `sqrt(sum[m](x**2))`",
    "dot": "a product of reads is summed over the ranks that are not on the left",
    "einsum": "a product of reads is summed over the ranks that are not on the left",
    "matmul": "a product of reads is summed over the ranks that are not on the left",
    "transpose": "the left side gives the order of the ranks: `Z[n,m] = A[m,n]`",
    "reshape": "ranks are joined and split in the index: `A[n // C, n % C]`",
    "concat": "pieces are joined with `select`",
    "cat": "pieces are joined with `select`",
    "len": "the extent of rank `m` is `M`",
    "size": "the extent of rank `m` is `M`",
    "shape": "the extent of rank `m` is `M`",
    "range": "a rank is a number where it stands: `Z[m] = m`",
    "arange": "a rank is a number where it stands: `Z[m] = m`",
    "topk": "write `top[m -> j](x)`",
    "sort": "write `top[m -> j](x)`",
    "argsort": "write `order[m](x)`, the descending position",
    "elu": "write `select(x > 0, x, exp(x) - 1)`",
    "leaky_relu": "write `select(x > 0, x, 0.01 * x)`",
    "mish": "write `x * tanh(softplus(x))`",
    "swish": "write `silu(x)`",
    "cumsum": "write `Z[t] = sum[u](x[u] where u <= t)`",
    "zeros": "write the number: `Z[m] = 0`",
    "ones": "write the number: `Z[m] = 1`",
    "zeros_like": "write the number: `Z[m] = 0`",
}


def unknown_function(call: s.Call, names: Names, span: Span | None = None) -> CascadeError:
    """The message for a call of something that is no function."""
    name = call.name
    span = span or (call.span.word(name) if call.span else None)
    if name not in names.macros and any(d.name == name for d in library("std")):
        hints: tuple[str, ...] = ("it is in the library: add `import std`",)
    elif name in names.tensors:
        hints = (f"`{name}` is a tensor: its index goes in square brackets, `{names.form(name)}`",)
    elif name in ELSEWHERE:
        hints = (ELSEWHERE[name],)
    else:
        known = ops.REDUCERS if call.binders else FUNCTIONS
        hints = did_you_mean(name, KNOWN_CALLS | set(names.macros)) or (
            f"{'reductions' if call.binders else 'functions'}: {', '.join(sorted(known))}",
        )
    return fail("unknown-function", f"there is no function `{name}`", span, hints=hints)
