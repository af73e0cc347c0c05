"""Which newlines end a statement: not those inside brackets, after an operator or comma, or before
`where`, `and`, `or`, `+`, `*`."""

from __future__ import annotations

from collections.abc import Iterator

from lark import Token

OPENING = {"LPAR", "LSQB"}
CLOSING = {"RPAR", "RSQB"}
CONTINUES_AFTER = {
    *("+", "-", "*", "/", "//", "%", "**", "??", "=", "<", "<=", ">", ">=", "==", "!="),
    *(",", "->", ":=", "where", "and", "or", "not"),
}
CONTINUES_BEFORE = {"where", "and", "or", "+", "*"}


class Layout:
    """A lark post-lexer."""

    always_accept = ("_NEWLINE",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        depth = 0
        newline: Token | None = None
        previous = ""
        for token in stream:
            if token.type == "_NEWLINE":
                if depth == 0 and previous not in CONTINUES_AFTER:
                    newline = newline or token
                continue
            if newline is not None:
                if token not in CONTINUES_BEFORE:
                    yield newline
                newline = None
            depth += (token.type in OPENING) - (token.type in CLOSING)
            previous = str(token)
            yield token
        if newline is not None:
            yield newline
