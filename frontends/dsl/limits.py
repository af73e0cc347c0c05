"""Cheap checks of the raw text before it is parsed, so that no input can cost much time or
memory.
"""

from __future__ import annotations

import unicodedata

from cascade.diagnostics import CascadeError, Diagnostic, Source, Span, fail

MAX_BYTES = 2 * 1024 * 1024  # of a file
MAX_LINE = 4_000  # characters of a line
MAX_NESTING = 64  # open brackets
MAX_DEPTH = 100  # levels of an expression tree, macros expanded
MAX_NODES = 20_000  # nodes of one statement, macros expanded
MAX_DIGITS = 40  # characters of a number
LARGEST = 2**63  # whole numbers are below

NO_TEXT = "the file may be binary, or saved in another encoding than UTF-8"
OLD_LINE_ENDS = "save the file with a newline at the end of each line"
CLOSES = {")": "(", "]": "["}
PARTNER = {opening: closing for closing, opening in CLOSES.items()}

LOOKALIKES = {
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "×": "*",
    "·": "*",
    "⋅": "*",
    "∗": "*",
    "⊙": "*",
    "÷": "/",
    "²": "**2",
    "³": "**3",
    "∞": "inf",
    "Σ": "sum[…](…)",
    "∑": "sum[…](…)",
    "∏": "prod[…](…)",
    "√": "sqrt(…)",
    "∧": "and",
    "∨": "or",
    "¬": "not",
    "→": "->",
    "←": "=",
    "…": "every index or term in full",
}


def _instead(c: str) -> str:
    """What to type for a character outside ASCII."""
    name = unicodedata.name(c, "")
    category = unicodedata.category(c)
    if c in LOOKALIKES:
        return f"write `{LOOKALIKES[c]}`"
    if category == "Zs":
        return "write an ordinary space"
    if category == "Cf":
        return "remove it"
    if category == "Pd" or name == "MINUS SIGN":
        return "write `-`"
    if category in ("Pi", "Pf"):
        return "a text stands in ordinary double quotes"
    if name.startswith("GREEK SMALL LETTER "):
        return f"write `{name.split()[3].lower()}`"
    plain = unicodedata.normalize("NFKC", c)
    if plain != c and plain.isascii():
        return f"write `{plain}`"
    return "names use the letters a-z and A-Z, digits and `_`"


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
        if " " <= c <= "~":
            continue
        if c == "\t":
            raise fail(
                "tab", "a tab stands here", Span(source, offset, offset + 1), hints=("use spaces",)
            )
        if unicodedata.category(c) in ("Cc", "Cs") and c != "\n" and not _ends_line(source, offset):
            raise fail(
                "control-character",
                f"a control character (U+{ord(c):04X})",
                Span(source, offset, offset + 1),
                hints=(OLD_LINE_ENDS if c == "\r" else NO_TEXT,),
            )
        if ord(c) >= 127 and not comment and not string:
            what = f"`{c}`" if c.isprintable() else f"the invisible character U+{ord(c):04X}"
            raise fail(
                "character",
                f"{what} has no meaning here",
                Span(source, offset, offset + 1),
                hints=(_instead(c),),
            )


def _ends_line(source: Source, offset: int) -> bool:
    """Whether a carriage return belongs to the end of a line."""
    return source.text[offset] == "\r" and source.text[offset + 1 : offset + 2] in ("\n", "")


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
            hints=(f"close it with `{PARTNER[source.text[stack[-1]]]}`",),
        )


def _mismatch(source: Source, stack: list[int], offset: int, c: str) -> CascadeError:
    here = Span(source, offset, offset + 1)
    if not stack:
        hints = (f"remove it, or open a `{CLOSES[c]}` before it",)
        return fail("bracket", f"this `{c}` closes nothing", here, hints=hints)
    opened = Span(source, stack[-1], stack[-1] + 1)
    return CascadeError(
        Diagnostic(
            "bracket",
            f"`{c}` cannot close `{opened.text}`",
            here,
            related=((opened, "opened here"),),
            hints=(f"`{opened.text}` is closed with `{PARTNER[opened.text]}`",),
        )
    )
