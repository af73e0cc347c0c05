"""Syntax mistakes in the user's words. Each row of the tables is a mistake people make."""

from __future__ import annotations

from cascade.diagnostics import CascadeError, Source, Span, fail

KEYWORDS = (
    *("cascade", "import", "input", "output", "param", "rank", "init", "require", "def"),
    *("where", "and", "or", "not"),
)

CHARACTERS: dict[str, str] = {
    "^": "a power is written `**`",
    "&": "write `and`",
    "|": "write `or`",
    "!": "write `not x`, or `!=`",
    ";": "a newline ends a statement",
    "'": "messages are written in double quotes",
    '"': "a message ends on the line where it begins",
    "{": "ranks go in square brackets, conditions after `where`",
    "}": "ranks go in square brackets, conditions after `where`",
    "@": "a matrix product is written as an Einsum: `Z[m,n] = A[m,k] * B[k,n]`",
    "\\": "a newline inside brackets or after an operator continues the statement; no `\\` is "
    "needed",
    "?": "a default is written `x ?? 0`; a choice `select(condition, a, b)`",
    "~": "write `not`",
    "$": "names are written without `$`",
    "`": "names are written without quotes",
    ".": "a number needs a digit beside the point; names have no dots",
}


def explain_character(source: Source, offset: int) -> CascadeError:
    c = source.text[offset : offset + 1]
    hint = CHARACTERS.get(c, "")
    return fail(
        "character",
        f"`{c}` has no meaning here",
        Span(source, offset, offset + 1),
        hints=(hint,) if hint else (),
    )


def explain_token(source: Source, token: object) -> CascadeError:
    """The message for the first token that cannot continue what stands before it."""
    kind = str(getattr(token, "type", "$END"))
    text = str(token)
    if kind in ("$END", "_NEWLINE"):
        end = len(source.text) if kind == "$END" else int(getattr(token, "start_pos", 0) or 0)
        return _too_early(source, end)
    start = int(getattr(token, "start_pos", 0) or 0)
    span = Span(source, start, start + len(text))
    before = source.text[:start].rstrip(" ")
    line = source.text[source.text.rfind("\n", 0, start) + 1 : start].strip()
    message, hints = _reason(kind, text, before, line)
    return fail("syntax", message, span, hints=hints)


def _too_early(source: Source, end: int) -> CascadeError:
    start = len(source.text[:end].rstrip())
    line = source.text[source.text.rfind("\n", 0, start) + 1 : start].strip()
    first = line.split(" ")[0] if line else ""
    hints = {
        "input": ("an input is declared as `input K[m,e]`",),
        "output": ("outputs are listed as `output O, LSE`",),
        "rank": ("a rank is declared as `rank j < J`, a partition as `rank m = m1*M0 + m0`",),
        "param": ("a param is declared as `param scale = 1/sqrt(E)`",),
        "init": ("a start is written `init S[0,e] = 0`",),
        "import": ("the library is imported with `import std`",),
        "cascade": ("the header is `cascade name`",),
        "def": ("a macro is written `def name[m](x) = …`",),
        "require": ('a requirement is written `require E % 2 == 0, "reason"`',),
    }.get(first, ("a statement has the form `Z[m,n] = expression`",))
    at = Span(source, max(0, start - 1), start)
    return fail(
        "syntax", "the statement ends too early", at, "something is missing after this", hints
    )


def _reason(kind: str, text: str, before: str, line: str) -> tuple[str, tuple[str, ...]]:
    first = line.split(" ")[0] if line else ""
    last = before[-1:] if before else ""
    if kind == "EQUAL":
        return _equals(first, last, line)
    if text in KEYWORDS and last in ("[", ",", "(", "") and text not in ("where", "and", "or"):
        return f"`{text}` is a word of the language", ("choose another name",)
    if text in KEYWORDS and first in ("input", "output", "param", "rank", "init", "def", "cascade"):
        return f"`{text}` is a word of the language", ("choose another name",)
    if kind == "RSQB" and last == "[":
        return "empty brackets", (
            "a scalar is written without brackets; a reduction names its ranks",
        )
    if kind == "RPAR" and last == "(":
        return "empty parentheses", ("every function takes at least one argument",)
    if kind in ("RSQB", "RPAR") and last == ",":
        return "a comma before the closing bracket", ("remove the comma",)
    if kind == "QQ":
        return "the left operand of `??` must be a single term", (
            "put it in parentheses: `(a + b) ?? 0`",
        )
    if last == "?" and before.endswith("??"):
        return "the right operand of `??` must be a single term", ("put it in parentheses",)
    if kind == "ASSIGN":
        return "`:=` belongs inside the brackets of a macro argument", (
            "a statement is written with `=`",
        )
    if kind in ("COMPARE", "LESS") and first == "rank":
        return "a rank is bounded with `<`", ("write `rank j < J`",)
    if kind in ("COMPARE", "LESS") and not line.endswith(("=", "where")) and "=" not in line:
        return f"`{text}` cannot stand here", ("a statement has the form `Z[m,n] = expression`",)
    if kind == "WHERE":
        return (
            "`where` cannot stand here",
            ("it is the loosest operator: put `(x where condition)` in parentheses",),
        )
    if kind == "COLON":
        return "a type belongs to an input", ("write `input K[m,e]: bf16`",)
    if kind == "ARROW":
        return "`->` belongs to `top[m -> j](x)` and `argtop[m -> j](x)`", ()
    if kind == "STRING":
        return "a text in quotes cannot stand here", (
            'it belongs to `require condition, "message"`',
        )
    if kind in ("NAME", "NUMBER", "LPAR", "NOT") and last and (last.isalnum() or last in "_])"):
        return _adjacent(text, first, last, before)
    if first in ("input", "output") and kind in (
        "NUMBER",
        "PLUS",
        "STAR",
        "MINUS",
        "SLASH",
        "LPAR",
    ):
        return "the ranks of an input are plain names", ("write `input K[m,e]`",)
    if last in "+-*/%<>=":
        return f"`{text}` cannot follow `{last}`", ("an operand is missing between them",)
    return f"`{text}` cannot stand here", ()


def _equals(first: str, last: str, line: str) -> tuple[str, tuple[str, ...]]:
    if last and last in "+-*/":
        return f"there is no `{last}=`", (
            "name a new tensor, or write a recurrence `S[i+1] = S[i] + …`",
        )
    if last == "=":
        return "a statement is written with one `=`", ("`==` compares, inside a `where`",)
    if "where" in line or "=" in line or first == "require":
        return "`=` cannot stand inside an expression", ("equality is written `==`",)
    if first == "output":
        return "an output is only named here", ("write its statement on a line of its own",)
    return "`=` cannot stand here", ("a statement has the form `Z[m,n] = expression`",)


def _adjacent(text: str, first: str, last: str, before: str) -> tuple[str, tuple[str, ...]]:
    word = ""
    for c in reversed(before):
        if not (c.isalnum() or c == "_"):
            break
        word = c + word
    if word in ("if", "else", "for", "in", "while", "return", "let") or text in (
        "if",
        "else",
        "for",
        "in",
    ):
        return (
            "the language has no "
            f"`{word if word in ('if', 'for', 'while', 'let', 'return') else text}`",
            (
                "a choice is `select(condition, a, b)`; a reduction is `sum[m](x)`; a "
                "condition is `where`",
            ),
        )
    if text == "(" and last == ")":
        return "two values without an operator between them", ("a product is written `*`",)
    if last == "]" and text != "(":
        return (
            f"`{text}` follows `]` without an operator",
            ("a product is written `*`; the body of a reduction goes in parentheses: `sum[m](x)`",),
        )
    return f"`{text}` follows without an operator or comma", ("a product is written `*`",)
