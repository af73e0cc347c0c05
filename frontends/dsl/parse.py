"""Text to syntax tree: lark does the parsing, `_Build` makes the nodes, `mistakes.py` the
messages.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

import lark

from cascade.diagnostics import CascadeError, Diagnostic, Source, Span, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.layout import Layout
from cascade.frontends.dsl.limits import LARGEST, MAX_DIGITS, check_text
from cascade.frontends.dsl.mistakes import explain_character, explain_token, statement_around

SHOWN = 10  # syntax mistakes of one file


@cache
def grammar() -> str:
    return (files("cascade.frontends.dsl") / "grammar.lark").read_text()


def make_parser(transformer: Any = None, **options: Any) -> lark.Lark:
    return lark.Lark(
        grammar(),
        parser="lalr",
        lexer="basic",
        postlex=Layout(),
        keep_all_tokens=True,
        maybe_placeholders=False,
        transformer=transformer,
        **options,
    )


@cache
def _parser() -> tuple[lark.Lark, _Build]:
    build = _Build()
    return make_parser(build, lexer_callbacks={"COMMENT": build.keep_comment}), build


def parse(source: Source) -> s.File:
    """The syntax tree of a source. Raises `CascadeError` with a mistake of each wrong statement."""
    check_text(source)
    found: list[Diagnostic] = []
    rest: Source | None = source
    while rest is not None and len(found) < SHOWN:
        try:
            tree = _tree(rest)
        except CascadeError as error:
            found += [_placed(d, source) for d in error.diagnostics]
            rest = _without_statement(rest, error.diagnostics[0].span)
            continue
        if not found:
            return tree
        break
    raise CascadeError(*found)


def _placed(d: Diagnostic, source: Source) -> Diagnostic:
    """A finding in a text of which something was left out, at the same place of the whole."""
    return replace(d, span=d.span and Span(source, d.span.start, d.span.end))


def _without_statement(source: Source, wrong: Span | None) -> Source | None:
    """The source with spaces for a statement; None where it is unclear what else is wrong."""
    place = statement_around(source.text, wrong.start, wrong.end) if wrong else None
    if place is None:
        return None
    first, last = place
    blank = re.sub(r"[^\n]", " ", source.text[first:last])
    text = source.text[:first] + blank + source.text[last:]
    return Source(source.name, text) if text != source.text else None


def _tree(source: Source) -> s.File:
    parser, build = _parser()
    build.begin(source)
    try:
        statements: s.File = parser.parse(source.text)  # type: ignore[assignment]
        return statements
    except lark.exceptions.UnexpectedCharacters as e:
        raise explain_character(source, e.pos_in_stream or 0) from None
    except lark.exceptions.UnexpectedToken as e:
        raise explain_token(source, e.token) from None
    except lark.exceptions.VisitError as e:
        raise e.orig_exc from None


def _is(token: Any, *types: str) -> bool:
    return isinstance(token, lark.Token) and token.type in types


class _Build(lark.Transformer[lark.Token, Any]):
    """Callbacks of the parser, one per rule. Children include the punctuation, for spans."""

    def begin(self, source: Source) -> None:
        self.source = source
        self.comments: list[s.Comment] = []

    def keep_comment(self, token: lark.Token) -> lark.Token:
        start = token.start_pos or 0
        before = self.source.text[self.source.text.rfind("\n", 0, start) + 1 : start]
        self.comments.append(s.Comment(str(token), token.line or 1, not before.strip()))
        return token

    def _span(self, parts: list[Any]) -> Span:
        first, last = parts[0], parts[-1]
        start = first.start_pos if isinstance(first, lark.Token) else first.span.start
        end = last.end_pos if isinstance(last, lark.Token) else last.span.end
        return Span(self.source, start or 0, end or 0)

    def _names(self, tokens: list[Any]) -> tuple[s.Name, ...]:
        return tuple(s.Name(str(t), self._span([t])) for t in tokens if _is(t, "NAME"))

    # -- expressions
    def number(self, parts: list[Any]) -> s.Number:
        span = self._span(parts)
        if len(parts[0]) > MAX_DIGITS:
            raise fail(
                "number",
                f"a number of more than {MAX_DIGITS} characters",
                span,
                hints=("round it",),
            )
        value = float(parts[0])
        if value == float("inf"):
            hints = ("infinity is written `inf`",)
            raise fail("number", "this number is too large", span, hints=hints)
        if str(parts[0]).isdigit() and int(parts[0]) >= LARGEST:
            hints = (f"as a real number it is `{value:g}`",)
            raise fail("number", "a whole number is less than 2**63", span, hints=hints)
        return s.Number(str(parts[0]), span)

    def name(self, parts: list[Any]) -> s.Name:
        return s.Name(str(parts[0]), self._span(parts))

    def group(self, parts: list[Any]) -> s.Expr:
        inner: s.Expr = parts[1]
        object.__setattr__(inner, "span", self._span(parts))  # nobody else holds the node yet
        return inner

    def indices(self, parts: list[Any]) -> list[Any]:
        return [p for p in parts if not isinstance(p, lark.Token)]

    arguments = indices

    def rebind(self, parts: list[Any]) -> s.Rebind:
        return s.Rebind(str(parts[0]), parts[2], self._span(parts))

    def index(self, parts: list[Any]) -> s.Index:
        return s.Index(str(parts[0]), tuple(parts[2]), self._span(parts))

    def call(self, parts: list[Any]) -> s.Call:
        lists = [tuple(p) for p in parts if isinstance(p, list)]
        binders = lists[0] if len(lists) > 1 else ()
        targets = lists[1] if len(lists) > 2 else ()
        return s.Call(str(parts[0]), binders, targets, lists[-1], self._span(parts))

    def unary(self, parts: list[Any]) -> s.Unary:
        op = "neg" if parts[0] == "-" else str(parts[0])
        return s.Unary(op, parts[1], self._span(parts))

    def binary(self, parts: list[Any]) -> s.Binary:
        return s.Binary(str(parts[1]), parts[0], parts[2], self._span(parts))

    def compare(self, parts: list[Any]) -> s.Compare:
        rest = tuple((str(op), x) for op, x in zip(parts[1::2], parts[2::2], strict=True))
        return s.Compare(parts[0], rest, self._span(parts))

    def filter(self, parts: list[Any]) -> s.Filter:
        return s.Filter(parts[0], parts[2], self._span(parts))

    # -- statements
    def header(self, parts: list[Any]) -> s.Header:
        return s.Header(str(parts[1]), self._span(parts))

    def import_(self, parts: list[Any]) -> s.Import:
        return s.Import(str(parts[1]), self._span(parts))

    def names(self, parts: list[Any]) -> list[Any]:
        return parts

    binders = indices

    def declaration(self, parts: list[Any]) -> s.InputDecl:
        ranks = next((self._names(p) for p in parts if isinstance(p, list)), ())
        dtype = str(parts[-1]) if len(parts) > 2 and _is(parts[-2], "COLON") else None
        return s.InputDecl(str(parts[0]), ranks, dtype, self._span(parts))

    def input_(self, parts: list[Any]) -> s.Inputs:
        return s.Inputs(tuple(self.indices(parts)), self._span(parts))

    def output_(self, parts: list[Any]) -> s.Outputs:
        return s.Outputs(tuple(self.indices(parts)), self._span(parts))

    def result(self, parts: list[Any]) -> s.OutputDecl:
        dtype = str(parts[2]) if len(parts) > 2 else None
        return s.OutputDecl(str(parts[0]), dtype, self._span(parts))

    def parameter(self, parts: list[Any]) -> s.ParamDecl:
        return s.ParamDecl(str(parts[0]), parts[2] if len(parts) > 2 else None, self._span(parts))

    def param_(self, parts: list[Any]) -> s.Params:
        return s.Params(tuple(self.indices(parts)), self._span(parts))

    def bound(self, parts: list[Any]) -> s.RankBound:
        return s.RankBound(str(parts[0]), parts[2], self._span(parts))

    def rank_(self, parts: list[Any]) -> s.RankBounds:
        return s.RankBounds(tuple(self.indices(parts)), self._span(parts))

    def partition(self, parts: list[Any]) -> s.PartitionDecl:
        return s.PartitionDecl(str(parts[1]), parts[3], self._span(parts))

    def assignment(self, parts: list[Any]) -> s.Assign:
        indices = tuple(parts[2]) if _is(parts[1], "LSQB") else None
        left = self._span(parts[:4] if indices is not None else parts[:1])
        return s.Assign(str(parts[0]), indices, parts[-1], left, self._span(parts))

    def init_(self, parts: list[Any]) -> s.Inits:
        return s.Inits(tuple(self.indices(parts)), self._span(parts))

    def require_(self, parts: list[Any]) -> s.Require:
        message = str(parts[-1])[1:-1] if _is(parts[-1], "STRING") else ""
        return s.Require(parts[1], message, self._span(parts))

    def define(self, parts: list[Any]) -> s.Define:
        lists = [p for p in parts if isinstance(p, list)]
        binders = self._names(lists[0][0]) if len(lists) > 1 else ()
        return s.Define(
            str(parts[1]), binders, self._names(lists[-1]), parts[-1], self._span(parts)
        )

    def start(self, parts: list[Any]) -> s.File:
        return s.File(tuple(self.indices(parts)), tuple(self.comments))
