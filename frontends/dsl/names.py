"""What each name of a file stands for. Built from the declarations before any statement is
lowered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from cascade.diagnostics import CascadeError, Diagnostic, Source, Span, did_you_mean, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.parse import parse
from cascade.ir import ops

LIBRARIES = ("std",)
DTYPES = (
    *("real", "int", "bool", "f64", "f32", "bf16", "f16", "f8e4m3", "f8e5m2"),
    *("i64", "i32", "i16", "i8", "u8"),
)
FUNCTIONS = {n for n, op in ops.MAPS.items() if not op.symbol}
WORDS = FUNCTIONS | set(ops.REDUCERS) | set(ops.SELECTIONS) | set(ops.CONSTANTS)


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
    tensors: dict[str, int] = field(default_factory=dict)  # name -> number of slots
    left: dict[str, tuple[str, ...]] = field(default_factory=dict)  # plain ranks of a left side
    scalars: set[str] = field(default_factory=set)
    ranks: dict[str, Span | None] = field(default_factory=dict)  # every rank, where first mentioned
    given: dict[str, Span | None] = field(
        default_factory=dict
    )  # extent carried by an input or selection
    spans: dict[str, Span | None] = field(
        default_factory=dict
    )  # where a tensor, param or macro is declared
    errors: list[Diagnostic] = field(default_factory=list)

    def report(self, error: CascadeError) -> None:
        self.errors.extend(error.diagnostics)

    def tensor_names(self) -> list[str]:
        return [*self.tensors]


def collect(tree: s.File) -> Names:
    """The names of a file; mistakes are collected in `Names.errors`."""
    names = Names()
    for statement in tree.statements:
        try:
            _declare(names, statement)
        except CascadeError as e:
            names.report(e)
    for statement in tree.statements:
        for assign in _assigns(statement):
            try:
                _declare_tensor(names, assign)
            except CascadeError as e:
                names.report(e)
    _check_clashes(names)
    return names


def _assigns(statement: s.Statement) -> tuple[s.Assign, ...]:
    if isinstance(statement, s.Assign):
        return (statement,)
    return statement.items if isinstance(statement, s.Inits) else ()


def _declare(names: Names, statement: s.Statement) -> None:
    match statement:
        case s.Import(name, span):
            if name not in LIBRARIES:
                raise fail(
                    "import", f"there is no library `{name}`", span, hints=("write `import std`",)
                )
            for macro in library(name):
                names.macros.setdefault(macro.name, macro)
        case s.Inputs(items):
            for item in items:
                _new(names, item.name, item.span, "input")
                _declare_input(names, item)
        case s.Params(items):
            for p in items:
                _new(names, p.name, p.span, "param")
                names.params[p.name] = p
        case s.RankBounds(items):
            for bound in items:
                if bound.name in names.bounds:
                    raise fail(
                        "declared-twice", f"rank `{bound.name}` is bounded twice", bound.span
                    )
                _check_rank_name(bound.name, bound.span)
                names.bounds[bound.name] = bound
                names.ranks.setdefault(bound.name, bound.span)
        case s.PartitionDecl():
            names.partitions.append(statement)
        case s.Define(name, span=span):
            if name in WORDS:
                raise fail("shadowed", f"`{name}` is a function of the language", span)
            _new(names, name, span, "macro")
            names.macros[name] = statement
        case _:
            pass


def _new(names: Names, name: str, span: Span | None, what: str) -> None:
    if name in names.spans:
        first = names.spans[name]
        related = ((first, "declared here"),) if first else ()
        raise fail("declared-twice", f"`{name}` is declared twice", span, related=related)
    if name in WORDS and what != "macro":
        raise fail(
            "shadowed",
            f"`{name}` is a word of the language and cannot name {_article(what)} {what}",
            span,
            hints=(f"choose another name, such as `{name}_`",),
        )
    names.spans[name] = span


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _check_rank_name(name: str, span: Span | None) -> None:
    if is_extent_name(name):
        raise fail(
            "rank-name",
            f"a rank is a lower-case name; `{name}` is the extent of rank `{name.lower()}`",
            span,
            hints=(f"write `{name.lower()}`",),
        )
    if name in WORDS:
        raise fail("shadowed", f"`{name}` is a word of the language and cannot name a rank", span)


def _declare_input(names: Names, item: s.InputDecl) -> None:
    if item.dtype is not None and item.dtype not in DTYPES:
        raise fail(
            "type",
            f"there is no type `{item.dtype}`",
            item.span,
            hints=did_you_mean(item.dtype, DTYPES) or ("types: " + ", ".join(DTYPES),),
        )
    seen: set[str] = set()
    for rank in item.ranks:
        _check_rank_name(rank.text, rank.span)
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
    slots = 0 if assign.indices is None else len(assign.indices)
    if assign.name in names.inputs or assign.name in names.params or assign.name in names.macros:
        first = names.spans.get(assign.name)
        what = "an input" if assign.name in names.inputs else "declared above"
        raise fail(
            "declared-twice",
            f"`{assign.name}` is {what} and cannot be written",
            assign.left,
            related=((first, "declared here"),) if first else (),
        )
    if assign.name in WORDS:
        raise fail("shadowed", f"`{assign.name}` is a word of the language", assign.left)
    names.spans.setdefault(assign.name, assign.left)
    if names.tensors.setdefault(assign.name, slots) != slots:
        raise fail(
            "slots",
            f"`{assign.name}` has {names.tensors[assign.name]} ranks elsewhere and {slots} here",
            assign.left,
        )
    if not slots:
        names.scalars.add(assign.name)
    indices = assign.indices or ()
    plain = tuple(i.text if isinstance(i, s.Name) else "" for i in indices)
    names.left.setdefault(assign.name, plain)
    for index in assign.indices or ():
        for node in walk(index):
            if isinstance(node, s.Name) and not is_extent_name(node.text):
                names.ranks.setdefault(node.text, node.span)
    _collect_binders(names, assign.value)


def _collect_binders(names: Names, value: s.Expr) -> None:
    """Ranks that reductions bind; the target of a selection is bounded by its own extent."""
    for node in walk(value):
        if isinstance(node, s.Call):
            for binder in (*node.binders, *node.targets):
                if isinstance(binder, s.Name) and not is_extent_name(binder.text):
                    names.ranks.setdefault(binder.text, binder.span)
            for target in node.targets:
                if isinstance(target, s.Name):
                    names.given.setdefault(target.text, target.span)


def _check_clashes(names: Names) -> None:
    for name in {*names.tensors, *names.params, *names.macros} & set(names.ranks):
        if name in names.params or name in names.scalars or name in names.macros:
            names.report(
                fail(
                    "shadowed",
                    f"`{name}` names a rank, and also "
                    f"{'a param' if name in names.params else 'a value'}",
                    names.spans.get(name),
                    hints=("rename one of them",),
                )
            )
    for name in sorted(names.scalars):
        if is_extent_name(name) and name.lower() in names.ranks:
            names.report(
                fail(
                    "shadowed",
                    f"the scalar `{name}` has the name of the extent of rank `{name.lower()}`",
                    names.spans.get(name),
                    hints=("rename the scalar",),
                )
            )
