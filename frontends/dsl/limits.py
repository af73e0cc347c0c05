"""Cheap checks of the raw text before it is parsed, so that no input can cost much time or
memory.
"""

from __future__ import annotations

from cascade.diagnostics import CascadeError, Diagnostic, Source, Span, fail

MAX_BYTES = 2 * 1024 * 1024  # of a file
MAX_LINE = 4_000  # characters of a line
MAX_NESTING = 64  # open brackets
MAX_DEPTH = 100  # levels of an expression tree, macros expanded
MAX_NODES = 20_000  # nodes of one statement, macros expanded
MAX_DIGITS = 40  # characters of a number

CLOSES = {")": "(", "]": "["}

LOOKALIKES = {
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "−": "-",
    "–": "-",
    "×": "*",
    "·": "*",
    "÷": "/",
    "∞": "inf",
    "π": "pi",
    "∑": "sum[…](…)",
    "√": "sqrt(…)",
    "∧": "and",
    "∨": "or",
    "¬": "not",
    "→": "->",
    "“": '"',
    "”": '"',
    "\u00a0": "an ordinary space",
}


def check_text(source: Source) -> None:
    """Raise `CascadeError` for text that is too large, too deep, or has characters of no
    meaning.
    """
    text = source.text
    if len(text) > MAX_BYTES:
        raise fail(
            "file-too-large",
            f"the file has {len(text):,} characters; the limit is {MAX_BYTES:,}",
            Span(source, 0, 1),
            hints=("split the operator into several cascades",),
        )
    start = 0
    for line in text.split("\n"):
        if len(line) > MAX_LINE:
            raise fail(
                "line-too-long",
                f"this line has {len(line):,} characters; the limit is {MAX_LINE:,}",
                Span(source, start, start + 1),
                hints=("break it after an operator or a comma, or name an intermediate tensor",),
            )
        start += len(line) + 1
    _check_characters(source)
    _check_brackets(source)


def _check_characters(source: Source) -> None:
    comment = string = False
    for offset, c in enumerate(source.text):
        if c == "\n":
            comment = string = False
        elif c == '"' and not comment:
            string = not string
        elif c == "#" and not string:
            comment = True
        if c == "\t":
            raise fail(
                "tab", "a tab character", Span(source, offset, offset + 1), hints=("use spaces",)
            )
        if (ord(c) < 32 and c not in "\n\r") or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF:
            raise fail(
                "control-character",
                f"a control character (code {ord(c)})",
                Span(source, offset, offset + 1),
                hints=("the file may be binary, or saved in another encoding than UTF-8",),
            )
        if ord(c) > 126 and not comment and not string:
            instead = LOOKALIKES.get(c)
            hint = f"write `{instead}`" if instead else "names use the letters a-z, digits and `_`"
            raise fail(
                "character",
                f"`{c}` has no meaning here",
                Span(source, offset, offset + 1),
                hints=(hint,),
            )


def _check_brackets(source: Source) -> None:
    stack: list[int] = []
    comment = string = False
    for offset, c in enumerate(source.text):
        if c == "\n":
            comment = string = False
        elif c == '"' and not comment:
            string = not string
        elif c == "#" and not string:
            comment = True
        if comment or string:
            continue
        if c in "([":
            stack.append(offset)
            if len(stack) > MAX_NESTING:
                raise fail(
                    "nesting",
                    f"more than {MAX_NESTING} brackets are open here",
                    Span(source, offset, offset + 1),
                    hints=("name an intermediate tensor",),
                )
        elif c in CLOSES:
            if not stack or source.text[stack[-1]] != CLOSES[c]:
                raise _mismatch(source, stack, offset, c)
            stack.pop()
    if stack:
        raise fail(
            "bracket",
            f"this `{source.text[stack[-1]]}` is never closed",
            Span(source, stack[-1], stack[-1] + 1),
        )


def _mismatch(source: Source, stack: list[int], offset: int, c: str) -> CascadeError:
    here = Span(source, offset, offset + 1)
    if not stack:
        return fail("bracket", f"this `{c}` closes nothing", here)
    opened = Span(source, stack[-1], stack[-1] + 1)
    return CascadeError(
        Diagnostic(
            "bracket",
            f"`{c}` cannot close `{opened.text}`",
            here,
            related=((opened, "opened here"),),
        )
    )
