"""What each name of a file stands for. Built from the declarations before any statement is
lowered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TypeAlias, TypeVar

from cascade.diagnostics import CascadeError, Diagnostic, Source, Span, did_you_mean, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.parse import parse
from cascade.ir import ops

A = TypeVar("A")

LIBRARIES = ("std",)
DTYPES = (
    *("real", "int", "bool", "f64", "f32", "bf16", "f16", "f8e4m3", "f8e5m2"),
    *("i64", "i32", "i16", "i8", "u8"),
)
FUNCTIONS = {n for n, op in ops.MAPS.items() if not op.symbol}
KNOWN_CALLS = FUNCTIONS | set(ops.REDUCERS) | set(ops.SELECTIONS)
WORDS = KNOWN_CALLS | set(ops.CONSTANTS)


def is_extent_name(name: str) -> bool:
    return name == name.upper() and name != name.lower()


def children(e: s.Expr | s.Rebind) -> tuple[s.Expr | s.Rebind, ...]:
    match e:
        case s.Number() | s.Name():
            return ()
        case s.Rebind():
            return (e.value,)
        case s.Index():
            return e.indices
        case s.Call():
            return e.binders + e.targets + e.args
        case s.Unary():
            return (e.operand,)
        case s.Binary():
            return (e.left, e.right)
        case s.Compare():
            return (e.first, *(x for _, x in e.rest))
        case s.Filter():
            return (e.body, e.condition)


def walk(e: s.Expr | s.Rebind) -> Iterator[s.Expr | s.Rebind]:
    stack = [e]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(children(node))


def mentioned(e: s.Expr | s.Rebind) -> set[str]:
    """Every bare name inside an expression."""
    return {n.text for n in walk(e) if isinstance(n, s.Name)}


@cache
def library(name: str) -> tuple[s.Define, ...]:
    text = (files("cascade.frontends.dsl") / "std" / f"{name}.cascade").read_text()
    tree = parse(Source(f"{name} (library)", text))
    return tuple(d for d in tree.statements if isinstance(d, s.Define))


@dataclass
class Names:
    """The symbol table of a file."""

    inputs: dict[str, s.InputDecl] = field(default_factory=dict)
    params: dict[str, s.ParamDecl] = field(default_factory=dict)
    bounds: dict[str, s.RankBound] = field(default_factory=dict)
    partitions: list[s.PartitionDecl] = field(default_factory=list)
    macros: dict[str, s.Define] = field(default_factory=dict)
    writes: dict[str, s.Assign] = field(default_factory=dict)  # the first statement of each tensor
    tensors: dict[str, int] = field(default_factory=dict)  # name -> number of slots
    scalars: set[str] = field(default_factory=set)
    ranks: dict[str, Span | None] = field(default_factory=dict)  # every rank, where first mentioned
    given: dict[str, Span | None] = field(
        default_factory=dict
    )  # extent carried by an input or selection
    spans: dict[str, Span | None] = field(
        default_factory=dict
    )  # where a tensor, param or macro is declared
    errors: list[Diagnostic] = field(default_factory=list)

    def attempt(self, declare: Callable[[Names, A], None], item: A) -> None:
        """Declare one item; what is wrong with it is collected."""
        try:
            declare(self, item)
        except CascadeError as e:
            self.errors.extend(e.diagnostics)

    def indices(self, tensor: str) -> tuple[s.Expr | s.Rebind, ...]:
        """The slots of a tensor, as it is declared or first written."""
        if tensor in self.inputs:
            return self.inputs[tensor].ranks
        return (self.writes[tensor].indices or ()) if tensor in self.writes else ()

    def form(self, tensor: str) -> str:
        """How a tensor is read at its own ranks."""
        indices = ",".join(map(index_text, self.indices(tensor)))
        return f"{tensor}[{indices}]" if indices else tensor


def index_text(index: s.Expr | s.Rebind) -> str:
    match index:
        case s.Name(text) | s.Number(text):
            return text
        case s.Binary("+", s.Name(text), s.Number(step)):
            return f"{text}+{step}"
        case _:
            return "…"


def collect(tree: s.File) -> Names:
    """The names of a file; mistakes are collected in `Names.errors`."""
    names = Names()
    for statement in tree.statements:
        for item in _items(statement):
            names.attempt(_declare, item)
    for statement in tree.statements:
        for assign in _assigns(statement):
            names.attempt(_declare_tensor, assign)
    _check_clashes(names)
    _check_headers(names, tree)
    return names


def _assigns(statement: s.Statement) -> tuple[s.Assign, ...]:
    if isinstance(statement, s.Assign):
        return (statement,)
    return statement.items if isinstance(statement, s.Inits) else ()


Item: TypeAlias = s.Statement | s.InputDecl | s.ParamDecl | s.RankBound


def _items(statement: s.Statement) -> tuple[Item, ...]:
    if isinstance(statement, s.Inputs | s.Params | s.RankBounds):
        return statement.items
    return (statement,)


def _declare(names: Names, item: Item) -> None:
    match item:
        case s.Import(name, span):
            if name not in LIBRARIES:
                where = span.word(name) if span else None
                hints = ("write `import std`",)
                raise fail("import", f"there is no library `{name}`", where, hints=hints)
            for macro in library(name):
                names.macros.setdefault(macro.name, macro)
        case s.InputDecl(name, span=span):
            _new(names, name, span, "an input")
            _declare_input(names, item)
        case s.ParamDecl(name, span=span):
            _new(names, name, span, "a param")
            names.params[name] = item
        case s.RankBound(name, span=span):
            where = span.word(name) if span else None
            if name in names.bounds:
                raise _twice(f"rank `{name}` is bounded twice", where, names.ranks[name])
            check_rank_name(name, where)
            names.bounds[name] = item
            names.ranks.setdefault(name, where)
        case s.PartitionDecl(name, span=span):
            check_rank_name(name, span.word(name) if span else None)
            names.partitions.append(item)
        case s.Define(name, span=span):
            _new(names, name, span, "a macro")
            names.macros[name] = item
        case _:
            pass


def _new(names: Names, name: str, span: Span | None, what: str) -> None:
    where = span.word(name) if span else None
    if name in names.spans:
        raise _twice(f"`{name}` is declared twice", where, names.spans[name])
    if name in WORDS:
        raise reserved(name, where, what)
    names.spans[name] = where


def _twice(message: str, span: Span | None, first: Span | None) -> CascadeError:
    related = ((first, "declared here"),) if first else ()
    return fail("declared-twice", message, span, related=related)


def reserved(name: str, span: Span | None, what: str) -> CascadeError:
    return fail(
        "shadowed",
        f"`{name}` is a word of the language and cannot name {what}",
        span,
        hints=(f"choose another name, such as `{name}_`",),
    )


def check_rank_name(name: str, span: Span | None) -> None:
    if is_extent_name(name):
        raise fail(
            "rank-name",
            f"a rank is a lower-case name; `{name}` is the extent of rank `{name.lower()}`",
            span,
            hints=(f"write `{name.lower()}`",),
        )
    if name in WORDS:
        raise reserved(name, span, "a rank")


def _check_headers(names: Names, tree: s.File) -> None:
    headers = [st for st in tree.statements if isinstance(st, s.Header)]
    for second in headers[1:]:
        error = _twice("the cascade is named twice", second.span, headers[0].span)
        names.errors.extend(error.diagnostics)


def check_type(item: s.InputDecl | s.OutputDecl) -> None:
    """Raise `CascadeError` for a type that the language has not."""
    if item.dtype is not None and item.dtype not in DTYPES:
        raise fail(
            "type",
            f"there is no type `{item.dtype}`",
            type_span(item),
            hints=did_you_mean(item.dtype, DTYPES) or ("types: " + ", ".join(DTYPES),),
        )


def type_span(item: s.InputDecl | s.OutputDecl) -> Span | None:
    """Where the type of a declaration stands."""
    return item.span.word(item.dtype) if item.span and item.dtype else None


def _declare_input(names: Names, item: s.InputDecl) -> None:
    check_type(item)
    seen: set[str] = set()
    for rank in item.ranks:
        check_rank_name(rank.text, rank.span)
        if rank.text in seen:
            raise fail(
                "repeated-rank",
                f"rank `{rank.text}` stands twice in `{item.name}`",
                rank.span,
                hints=("give the second slot a rank of its own: two slots are two ranks",),
            )
        seen.add(rank.text)
        names.ranks.setdefault(rank.text, rank.span)
        names.given.setdefault(rank.text, rank.span)
    names.inputs[item.name] = item
    names.tensors[item.name] = len(item.ranks)
    if not item.ranks:
        names.scalars.add(item.name)


def _declare_tensor(names: Names, assign: s.Assign) -> None:
    name, slots = assign.name, len(assign.indices or ())
    where = assign.left.word(name) if assign.left else None
    first = names.spans.get(name)
    for what, known in (
        ("an input", names.inputs),
        ("a param", names.params),
        ("a macro", names.macros),
    ):
        if name in known and name in names.spans:
            message = f"`{name}` is {what} and cannot be written"
            related = ((first, "declared here"),) if first else ()
            raise fail("declared-twice", message, where, related=related)
    if name in WORDS:
        raise reserved(name, where, "a tensor")
    names.spans.setdefault(name, assign.left)
    names.writes.setdefault(name, assign)
    if names.tensors.setdefault(name, slots) != slots:
        raise fail(
            "slots",
            f"`{name}` has {ranks_in_words(names.tensors[name])} above and {slots} here",
            assign.left,
            hints=("a tensor has the same ranks wherever it is written",),
            related=((first, "above"),) if first else (),
        )
    if not slots:
        names.scalars.add(name)
    for index in assign.indices or ():
        for node in walk(index):
            if isinstance(node, s.Name):
                _mention(names, node)
    _collect_binders(names, assign.value)


def _mention(names: Names, rank: s.Name) -> None:
    if rank.text in WORDS:
        raise reserved(rank.text, rank.span, "a rank")
    if not is_extent_name(rank.text):
        names.ranks.setdefault(rank.text, rank.span)


def ranks_in_words(count: int) -> str:
    return "no rank" if count == 0 else "1 rank" if count == 1 else f"{count} ranks"


def _collect_binders(names: Names, value: s.Expr) -> None:
    """Ranks that reductions bind; the target of a selection is bounded by its own extent."""
    for node in walk(value):
        if isinstance(node, s.Call):
            for binder in (*node.binders, *node.targets):
                if isinstance(binder, s.Name):
                    _mention(names, binder)
            for target in node.targets:
                if isinstance(target, s.Name):
                    names.given.setdefault(target.text, target.span)


def _check_clashes(names: Names) -> None:
    for name, span in names.spans.items():
        kind = _kind_of_value(names, name)
        rank = name if name in names.ranks else ""
        message = f"`{name}` names a rank, and also {kind}"
        if name in names.scalars and is_extent_name(name):
            rank = name.lower() if name.lower() in names.ranks else ""
            message = f"the scalar `{name}` has the name of the extent of rank `{rank}`"
        if kind and rank:
            place = names.ranks[rank]
            related = ((place, "the rank"),) if place else ()
            error = fail("shadowed", message, span, hints=("rename one of them",), related=related)
            names.errors.extend(error.diagnostics)


def _kind_of_value(names: Names, name: str) -> str:
    """What a name is that stands without an index; empty for a tensor with ranks."""
    if name in names.params:
        return "a param"
    return "a macro" if name in names.macros else "a scalar" if name in names.scalars else ""
