"""Canonical text of a syntax tree: `cascade fmt`. Comments stay where they were, in line order.

Statements keep their order; runs of assignments are aligned on `=`; redundant parentheses go.
"""

from __future__ import annotations

from cascade.diagnostics import Source
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.parse import parse
from cascade.ir import text
from cascade.ir.ops import MAPS
from cascade.ir.text import Text

WIDTH = 100
ALIGN_WITHIN = 24  # left sides longer than this do not push a whole block to the right


def format_text(source: Source) -> str:
    """The canonical text of a source. Raises `CascadeError` if it does not parse."""
    return format_file(parse(source))


def format_file(tree: s.File) -> str:
    """Text such that parsing it gives the same tree."""
    lines: list[str] = []
    comments = sorted(tree.comments, key=lambda c: c.line)
    previous: s.Statement | None = None
    widths = _alignments(tree.statements)
    taken = 0
    last_line = 0
    for n, statement in enumerate(tree.statements):
        first, last = _lines(statement)
        before = [c for c in comments[taken:] if c.line < first or (c.own_line and c.line <= first)]
        gap = _starts_block(previous, statement)
        for comment in before:
            apart = gap or comment.line > last_line + 1
            if lines and apart and lines[-1] and not lines[-1].startswith("#"):
                lines.append("")
            lines.append(comment.text.rstrip())
            last_line = comment.line
        taken += len(before)
        apart = gap or first > last_line + 1
        if lines and apart and (not before or first > last_line + 1):
            lines.append("")
        body = _statement(statement, widths.get(n, 0))
        inner = [c for c in comments[taken:] if c.line <= last]
        taken += len(inner)
        trailing = [c for c in inner if not c.own_line]
        for comment in inner:
            if comment.own_line:
                lines.append(comment.text.rstrip())
        if len(trailing) == 1:
            body[-1] += f"  {trailing[0].text.rstrip()}"
        else:
            lines += [c.text.rstrip() for c in trailing]
        lines += body
        previous, last_line = statement, last
    for comment in comments[taken:]:
        if lines and comment.line > last_line + 1:
            lines.append("")
        lines.append(comment.text.rstrip())
        last_line = comment.line
    return "\n".join(lines) + "\n" if lines else ""


def _lines(statement: s.Statement) -> tuple[int, int]:
    span = statement.span
    if span is None:
        return 0, 0
    return span.line, span.source.position(max(span.start, span.end - 1))[0]


def _starts_block(previous: s.Statement | None, statement: s.Statement) -> bool:
    """A blank line stands round the header and imports, declarations, statements and outputs."""
    return previous is not None and _block(previous) != _block(statement)


def _block(statement: s.Statement) -> int:
    match statement:
        case s.Header():
            return 0
        case s.Import():
            return 1
        case s.Define():
            return 2
        case s.Inputs() | s.Params() | s.RankBounds() | s.PartitionDecl() | s.Require():
            return 3
        case s.Assign() | s.Inits():
            return 4
        case s.Outputs():
            return 5


def _alignments(statements: tuple[s.Statement, ...]) -> dict[int, int]:
    """The width of the left side of each assignment, equal within a run."""
    widths: dict[int, int] = {}
    run: list[int] = []
    for n, statement in enumerate((*statements, None)):
        if isinstance(statement, s.Assign):
            run.append(n)
            continue
        lengths = [len(_left(a)) for i in run if isinstance(a := statements[i], s.Assign)]
        width = max((length for length in lengths if length <= ALIGN_WITHIN), default=0)
        widths |= dict.fromkeys(run, width)
        run = []
    return widths


def _statement(statement: s.Statement, width: int) -> list[str]:
    match statement:
        case s.Header(name):
            return [f"cascade {name}"]
        case s.Import(name):
            return [f"import {name}"]
        case s.Inputs(items):
            return _wrapped("input", [_input(i) for i in items])
        case s.Outputs(items):
            return _wrapped("output", [_typed(o.name, o.dtype) for o in items])
        case s.Params(items):
            return _wrapped("param", [_param(p) for p in items])
        case s.RankBounds(items):
            return _wrapped("rank", [f"{b.name} < {spell(b.extent).text}" for b in items])
        case s.PartitionDecl(name, value):
            return [f"rank {name} = {text.tight_product(spell(value).text)}"]
        case s.Require(condition, message):
            return [f"require {spell(condition).text}" + (f', "{message}"' if message else "")]
        case s.Define(name, binders, args, body):
            ranks = f"[{','.join(b.text for b in binders)}]" if binders else ""
            return [f"def {name}{ranks}({', '.join(a.text for a in args)}) = {spell(body).text}"]
        case s.Inits(items):
            return _wrapped("init", [f"{_left(a)} = {spell(a.value).text}" for a in items])
        case s.Assign():
            return _assign(statement, width)


def _wrapped(word: str, items: list[str]) -> list[str]:
    """`word a, b, c`, broken after commas where the line would be too long."""
    lines = [f"{word} {items[0]}"]
    for item in items[1:]:
        if len(lines[-1]) + len(item) + 2 > WIDTH:
            lines[-1] += ","
            lines.append(" " * (len(word) + 1) + item)
        else:
            lines[-1] += f", {item}"
    return lines


def _assign(a: s.Assign, width: int) -> list[str]:
    left = f"{_left(a).ljust(width)} = "
    line = left + spell(a.value).text
    if len(line) <= WIDTH or not isinstance(a.value, s.Filter):
        return [line]
    body = spell(a.value.body).text
    if spell(a.value.body).precedence <= text.WHERE:
        body = f"({body})"
    return [left + body, " " * len(left) + f"where {spell(a.value.condition).text}"]


def _left(a: s.Assign) -> str:
    return a.name if a.indices is None else _indexed(a.name, a.indices)


def _input(i: s.InputDecl) -> str:
    ranks = f"[{','.join(r.text for r in i.ranks)}]" if i.ranks else ""
    return _typed(f"{i.name}{ranks}", i.dtype)


def _typed(name: str, dtype: str | None) -> str:
    return f"{name}: {dtype}" if dtype else name


def _param(p: s.ParamDecl) -> str:
    return p.name if p.value is None else f"{p.name} = {spell(p.value).text}"


def _indexed(name: str, indices: tuple[s.Expr | s.Rebind, ...]) -> str:
    return text.index(name, [_index(i) for i in indices]).text


def _index(i: s.Expr | s.Rebind) -> str:
    if isinstance(i, s.Rebind):
        return f"{i.rank} := {spell(i.value).text}"
    return text.tight(spell(i).text)


def spell(e: s.Expr) -> Text:
    """An expression of the syntax tree as text with its precedence."""
    match e:
        case s.Number(digits):
            return Text(digits)
        case s.Name(name):
            return Text(name)
        case s.Index(name, indices):
            return Text(_indexed(name, indices))
        case s.Call(name, binders, targets, args):
            inside = ",".join(_index(b) for b in binders)
            if targets:
                inside += " -> " + ",".join(_index(t) for t in targets)
            return text.call(name, inside, [spell(a) for a in args])
        case s.Unary(op, operand):
            return text.prefix(op, spell(operand))
        case s.Binary(op, left, right):
            return text.infix(op, spell(left), spell(right))
        case s.Compare(first, rest):
            return text.chain(spell(first), [(MAPS[op].symbol, spell(x)) for op, x in rest])
        case s.Filter(body, condition):
            return text.filtered(spell(body), spell(condition))
