"""Syntax mistakes in the user's words: what the parser stopped at, and what to type instead.

Each rule below is a mistake people make. A rule looks at the `_Place` and answers with a message
and a hint, or passes; the first answer is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from cascade.diagnostics import CascadeError, Source, Span, fail

DECLARATIONS = ("cascade", "import", "input", "output", "param", "rank", "init", "require", "def")
KEYWORDS = (*DECLARATIONS, "where", "and", "or", "not")

FORMS: dict[str, str] = {
    "input": "an input is declared as `input K[m,e]`",
    "output": "outputs are listed as `output O, LSE`",
    "rank": "a rank is declared as `rank j < J`, a partition as `rank m = m1*M0 + m0`",
    "param": "a param is declared as `param scale = 1/sqrt(E)`",
    "init": "a start is written `init S[0,e] = 0`",
    "import": "the library is imported with `import std`",
    "cascade": "the header is `cascade name`, with letters, digits and `_`",
    "def": "a macro is written `def name[m](x) = …`",
    "require": 'a requirement is written `require E % 2 == 0, "reason"`',
}
STATEMENT = "a statement has the form `Z[m,n] = expression`"

CHARACTERS: dict[str, str] = {
    "^": "a power is written `**`",
    "&": "write `and`",
    "|": "write `or`",
    "!": "write `not x`, or `!=`",
    ";": "a newline ends a statement",
    "'": "messages are written in double quotes",
    '"': "a text in quotes ends on the line where it begins",
    "{": "ranks go in square brackets, conditions after `where`",
    "}": "ranks go in square brackets, conditions after `where`",
    "@": "a matrix product is written as an Einsum: `Z[m,n] = A[m,k] * B[k,n]`",
    "\\": "a newline inside brackets or after an operator continues the statement without `\\`",
    "?": "a default is written `x ?? 0`; a choice `select(condition, a, b)`",
    "~": "write `not`",
    "$": "names are written without `$`",
    "`": "names are written without quotes",
    ".": "a number needs a digit beside the point; names have no dots",
}

OPERATORS = ("+", "-", "*", "/", "//", "%", "**", "??", "<", "<=", ">", ">=", "==", "!=")
MISSPELLED: dict[str, str] = {
    "=>": "an arrow is written `->`",
    "<>": "not equal is written `!=`",
    "=/=": "not equal is written `!=`",
    "!==": "not equal is written `!=`",
    "===": "equality is written `==`",
    "=<": "at most is written `<=`",
    "++": "one more is written `+ 1`",
    "***": "a power is written `**`",
    "???": "a default is written `x ?? 0`",
    "<=>": "a comparison is `<`, `<=`, `==`, `!=`, `>=` or `>`",
}
DIMENSIONS = ("dim", "dims", "axis", "axes")  # keywords of reductions elsewhere
FOREIGN = ("if", "else", "for", "in", "is", "while", "return", "let", "then", "as", "over")


def explain_character(source: Source, offset: int) -> CascadeError:
    c = source.text[offset]
    word = c * 2 if source.text[offset + 1 : offset + 2] == c and c in "&|" else c
    message = "this quote has no partner" if c == '"' else f"`{word}` has no meaning here"
    hint = CHARACTERS.get(c, "")
    span = Span(source, offset, offset + len(word))
    return fail("character", message, span, hints=(hint,) if hint else ())


def explain_token(source: Source, token: object) -> CascadeError:
    """The message for the first token that cannot continue what stands before it."""
    kind = str(getattr(token, "type", "$END"))
    offset = int(getattr(token, "start_pos", 0) or 0)
    if kind in ("$END", "_NEWLINE"):
        return _too_early(source, len(source.text) if kind == "$END" else offset)
    place = _Place.of(source, kind, str(token), offset)
    if unfinished := _unfinished_line(place):
        return _too_early(source, unfinished)
    for rule in RULES:
        if reason := rule(place):
            break
    else:
        reason = _Reason(f"`{place.text}` cannot stand here", FORMS.get(place.first, ""))
    span = reason.span or place.span(0, len(place.text))
    return fail("syntax", reason.message, span, hints=(reason.hint,) if reason.hint else ())


@dataclass(frozen=True)
class _Reason:
    message: str
    hint: str = ""
    span: Span | None = None


@dataclass(frozen=True)
class _Place:
    """Where the parser stopped. Comments are blank in all texts."""

    source: Source
    kind: str
    text: str
    offset: int
    before: str  # everything before the token, without the space at its end
    statement: str  # of that, what belongs to the same statement
    after: str

    @staticmethod
    def of(source: Source, kind: str, text: str, offset: int) -> _Place:
        code = _without_comments(source.text)
        before = code[:offset].rstrip()
        statement = before[_statement_start(before, text) :].strip()
        return _Place(source, kind, text, offset, before, statement, code[offset + len(text) :])

    @property
    def first(self) -> str:
        """The word that begins the statement."""
        return re.split(r"\W", self.statement, maxsplit=1)[0]

    @property
    def last(self) -> str:
        return self.statement[-1:]

    @property
    def word(self) -> str:
        """The name or number that ends just before the token."""
        found = re.search(r"\w+$", self.statement)
        return found.group() if found else ""

    @property
    def operator(self) -> str:
        """The operator that ends just before the token."""
        pattern = r"(->|:=|\?\?|\*\*|//|[<>=!]=|[-+*/%<>=]|\b(where|and|or|not))$"
        found = re.search(pattern, self.statement)
        return found.group() if found else ""

    @property
    def begins_line(self) -> bool:
        return "\n" in self.source.text[len(self.before) : self.offset]

    @property
    def bracket(self) -> str:
        """The innermost open bracket."""
        return (_open_brackets(self.statement) or [""])[-1]

    def span(self, start: int, end: int) -> Span:
        """A range of characters, counted from the token."""
        return Span(self.source, self.offset + start, self.offset + end)


def _without_comments(text: str) -> str:
    """The same length, with spaces for comments and for the inside of quotes."""
    pattern = r'"[^"\n]*"|#[^\n]*'
    return re.sub(pattern, lambda m: (" " if m[0][0] == "#" else '"') * len(m[0]), text)


def _statement_start(before: str, text: str) -> int:
    """Where the statement begins that the token after `before` belongs to."""
    start = len(before)
    while (newline := before.rfind("\n", 0, start)) >= 0:
        above, line = before[:newline].rstrip(), before[newline + 1 :].strip() or text
        begun = re.match(r"(where|and|or)\b|[+*]", line)
        if not begun and not _expects_more(above) and not _open_brackets(above):
            return newline + 1
        start = newline
    return 0


def statement_around(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The statement with a mistake, so that others can be read without it.

    Lines that are indented or continue an expression belong to it. None where a bracket is left
    open: nobody knows where the statement was meant to end.
    """
    code = _without_comments(text)
    first = _statement_start(code[:start], code[start:end])
    lines = code[end:].split("\n")
    last = end + len(lines[0])
    for line in lines[1:]:
        inside = bool(_open_brackets(code[first:last]))
        if not inside and not re.match(r"\s+\S|(where|and|or)\b|[+*]", line):
            return first, last
        last += 1 + len(line)
    return None if _open_brackets(code[first:last]) else (first, last)


def _expects_more(code: str) -> bool:
    return bool(re.search(r"([-+*/%<>=,?]|\b(where|and|or|not))$", code))


def _open_brackets(code: str) -> list[str]:
    found: list[str] = []
    for c in code:
        if c in "([":
            found.append(c)
        elif c in ")]" and found:
            found.pop()
    return found


def _unfinished_line(p: _Place) -> int:
    """The end of the line above, where that line and not the token is at fault; otherwise 0."""
    if p.begins_line and p.text in DECLARATIONS and _expects_more(p.before):
        return len(p.before)
    above, newline, line = p.before.rpartition("\n")
    left_side = p.text == "=" and re.fullmatch(r" *\w+ *(\[[^]]*\])? *", line)
    if newline and left_side and above and _expects_more(above.rstrip()):
        return len(above.rstrip())
    return 0


def _too_early(source: Source, end: int) -> CascadeError:
    before = _without_comments(source.text)[:end].rstrip()
    statement = before[_statement_start(before, "") :].strip()
    first = re.split(r"\W", statement, maxsplit=1)[0]
    span = Span(source, max(0, len(before) - 1), len(before))
    return fail(
        "syntax",
        "the statement ends too early",
        span,
        "something is missing after this",
        hints=(FORMS.get(first, STATEMENT),),
    )


# -- the rules


def _header(p: _Place) -> _Reason | None:
    if p.first not in ("cascade", "import"):
        return None
    return _Reason(f"`{p.text}` cannot stand here", FORMS[p.first])


def _misspelled(p: _Place) -> _Reason | None:
    """A run of operator characters that other languages have."""
    head = re.search(r"[-+*/%<>=!?]*$", p.source.text[: p.offset])
    tail = re.match(r"[-+*/%<>=!?]*", p.source.text[p.offset :])
    run = (head[0] if head else "") + (tail[0] if tail else "")
    if run == "=" and p.operator in ("<", ">", "="):
        start = len(p.before) - 1
        whole = f"{p.operator}="
        return _Reason(
            f"`{p.operator} =` is two signs",
            f"write `{whole}` without a space",
            Span(p.source, start, p.offset + 1),
        )
    if run not in MISSPELLED:
        return None
    start = p.offset - len(head[0] if head else "")
    return _Reason(
        f"`{run}` has no meaning here", MISSPELLED[run], Span(p.source, start, start + len(run))
    )


def _comment(p: _Place) -> _Reason | None:
    if p.text in ("//", "/", "*", "%", "-") and not p.statement and p.after[:1] != "=":
        return _Reason(f"no statement begins with `{p.text}`", "a comment begins with `#`")
    return None


def _line_begins_with_operator(p: _Place) -> _Reason | None:
    if p.begins_line and p.text in OPERATORS and not p.bracket:
        if p.text == "//" and p.after[:1] == " ":
            return _Reason("no line begins with `//`", "a comment begins with `#`")
        return _Reason(
            f"a line cannot begin with `{p.text}`",
            f"end the line above with `{p.text}`, or put the expression in parentheses",
        )
    return None


def _keyword_as_name(p: _Place) -> _Reason | None:
    word, span = p.text, None
    if p.text in ("[", "=", "(", ",") and p.statement in KEYWORDS:
        word, end = p.statement, len(p.before)
        span = Span(p.source, end - len(word), end)
    elif p.text in DECLARATIONS:
        if p.last not in "[,(" and not p.operator and p.statement not in DECLARATIONS:
            return None
    elif p.text not in KEYWORDS or (p.last != "[" and p.statement not in DECLARATIONS):
        return None
    return _Reason(
        f"`{word}` is a word of the language and cannot be a name",
        f"choose another name, such as `{word}_`",
        span,
    )


def _missing_operand(p: _Place) -> _Reason | None:
    before = p.operator or p.last
    if p.text == "+" and (p.operator or before in ("[", "(", ",")):
        return _Reason(f"`+` cannot follow `{before}`", "leave out the sign `+`")
    if p.text == "where" and p.after[:1] == "(":
        return _Reason("`where` is no function", "a choice is `select(condition, a, b)`")
    if p.text == "not" and p.operator:
        return _Reason(f"`not` cannot follow `{before}`", "put it in parentheses: `(not x)`")
    opens = before in ("[", "(", ",")
    if p.operator or (opens and p.text in ("where", "and", "or", ",", *OPERATORS)):
        return _Reason(f"`{p.text}` cannot follow `{before}`", "an operand is missing between them")
    return None


def _update(p: _Place) -> _Reason | None:
    """`Z += x`, `Z == x`, `Z := x`."""
    if "=" in p.statement or p.bracket or p.first in DECLARATIONS:
        return None
    if p.text in ("+", "-", "*", "/", "//", "**", "%") and p.after[:1] == "=":
        return _Reason(
            f"there is no `{p.text}=`",
            "name a new tensor, or write a recurrence `S[i+1] = S[i] + …`",
            p.span(0, len(p.text) + 1),
        )
    if p.text in ("==", ":="):
        return _Reason("a statement is written with one `=`", STATEMENT)
    return None


def _equals(p: _Place) -> _Reason | None:
    if p.text != "=":
        return None
    if p.first == "output":
        return _only_named(p)
    if p.first == "input":
        return _Reason(
            "an input has no value of its own", "a number with a default is a `param x = 1`"
        )
    if p.bracket == "[" and p.first == "init":
        return _Reason("`=` cannot stand inside an index", "slot 0 is written `S[0]`")
    if p.bracket == "[" and "=" not in p.statement:
        return _Reason("`=` cannot stand inside an index", STATEMENT)
    if p.word in DIMENSIONS and p.bracket == "(":
        return _Reason(
            "arguments have no names here", f"ranks stand in brackets: {_over_a_rank(p)}"
        )
    if "=" in p.statement or p.first == "require" or re.search(r"\bwhere\b", p.statement):
        return _Reason("`=` cannot stand inside an expression", "equality is written `==`")
    return _Reason("`=` cannot stand here", FORMS.get(p.first, STATEMENT))


def _over_a_rank(p: _Place) -> str:
    """`softmax(x[p,m], dim=` as the language has it: over the last rank that is read."""
    start = [m.start() for m in re.finditer(r"\(", p.statement)]
    opened = next(n for n in reversed(start) if len(_open_brackets(p.statement[n:])) == 1)
    name = re.search(r"\w*$", p.statement[:opened])
    argument = p.statement[opened + 1 :].rpartition(",")[0].strip() or "x"
    ranks = re.findall(r"\b([a-z]\w*)\]", argument)
    called = name[0] if name and name[0] else "sum"
    shown = argument if len(argument) <= 50 else "x"
    return f"`{called}[{ranks[-1] if ranks else 'm'}]({shown})`"


def _only_named(p: _Place) -> _Reason:
    return _Reason(
        "an output is only named here",
        f"write `output {p.word or 'Z'}`, and its statement on a line of its own",
    )


def _output_with_index(p: _Place) -> _Reason | None:
    return _only_named(p) if p.first == "output" and p.text == "[" else None


def _brackets(p: _Place) -> _Reason | None:
    if p.text == "]" and p.last == "[":
        span = Span(p.source, len(p.before) - 1, p.offset + 1)
        hint = "a scalar is written without brackets; a reduction names its ranks"
        return _Reason("empty brackets", hint, span)
    if p.text == ")" and p.last == "(":
        span = Span(p.source, len(p.before) - 1, p.offset + 1)
        return _Reason("empty parentheses", "every function takes at least one argument", span)
    if p.text in ("]", ")") and p.last == ",":
        comma = Span(p.source, len(p.before) - 1, len(p.before))
        return _Reason("a comma before the closing bracket", "remove the comma", comma)
    if p.text == "[" and p.last == "]":
        return _Reason("`[` cannot follow `]`", "indices are joined: `A[m,n]`")
    if p.text == "[" and p.last and (p.operator or p.last in ")([,"):
        return _Reason(
            f"`[` cannot follow `{p.operator or p.last}`",
            "an index belongs to a tensor name; grouping is written with parentheses",
        )
    return None


def _default(p: _Place) -> _Reason | None:
    if p.text == "??" and "??" in p.statement:
        return _Reason(
            "the operands of `??` are single terms", "put one in parentheses: `a ?? (b ?? 0)`"
        )
    if p.text == "??":
        return _Reason(
            "the left operand of `??` must be a single term",
            "put it in parentheses: `(a + b) ?? 0`",
        )
    if p.text in OPERATORS and re.search(r"\?\?[^(]*$", p.statement):
        return _Reason(
            "the right operand of `??` must be a single term",
            f"write `(a ?? b) {p.text} c` or `a ?? (b {p.text} c)`",
        )
    return None


def _assign(p: _Place) -> _Reason | None:
    if p.text != ":=":
        return None
    return _Reason(
        "`:=` belongs inside the brackets of a macro argument", "a statement is written with `=`"
    )


def _rank_bound(p: _Place) -> _Reason | None:
    if p.first != "rank" or "<" in p.statement:
        return None
    if p.text not in ((",",) if "=" in p.statement else (*OPERATORS, "in", ":", "[", "(")):
        return None
    names = re.findall(r"[a-z]\w*", p.statement)
    name = names[1] if len(names) > 1 else "j"
    return _Reason("a rank is bounded with `<`", f"write `rank {name} < {name.upper()}`")


def _where(p: _Place) -> _Reason | None:
    if p.text != "where":
        return None
    if p.first in DECLARATIONS and p.first not in ("init", "def"):
        return _Reason("`where` belongs to the right side of a statement", FORMS[p.first])
    if not p.bracket and re.search(r"\bwhere\b", p.statement):
        return _Reason("a second `where`", "conditions are joined with `and`")
    return _Reason(
        "`where` cannot stand here",
        "it is the loosest operator: put `(x where condition)` in parentheses",
    )


def _colon(p: _Place) -> _Reason | None:
    if p.text != ":":
        return None
    if p.first in ("input", "rank"):
        return _Reason(
            "an extent is not written beside its rank",
            "write `input K[m,e]`, and `rank m < 128` where the extent is fixed",
        )
    if p.bracket == "[":
        return _Reason(
            "a slice is not part of the language",
            "a shorter rank reads it: `rank j < 4`, then `Z[j] = A[j]`",
        )
    if p.first in FOREIGN:
        return _foreign(p, p.first)
    return _Reason(
        "a type belongs to an input or an output",
        "write `input K[m,e]: bf16`, or `output O: f32`",
    )


def _arrow(p: _Place) -> _Reason | None:
    if p.text != "->":
        return None
    return _Reason("`->` belongs to `top[m -> j](x)` and `argtop[m -> j](x)`")


def _string(p: _Place) -> _Reason | None:
    if p.first == "require" and p.last == "," and not p.bracket:
        return _Reason("a message stands in double quotes", FORMS["require"])
    if p.kind != "STRING":
        return None
    if p.first == "require" and p.last != ",":
        return _Reason("a comma is missing before the message", FORMS["require"])
    return _Reason(
        "a text in quotes cannot stand here", 'it belongs to `require condition, "message"`'
    )


def _foreign_word(p: _Place) -> _Reason | None:
    """`x if c else y`, `for m in M`: words of other languages."""
    if p.kind not in ("NAME", "NUMBER", "LPAR", "NOT"):
        return None
    if p.text in FOREIGN and (p.last.isalnum() or p.last in "_])"):
        return _foreign(p, p.text)
    if p.word in FOREIGN and (p.statement == p.word or p.kind != "LPAR"):
        start = len(p.before) - len(p.word)
        return _foreign(p, p.word, Span(p.source, start, start + len(p.word)))
    return None


def _foreign(p: _Place, word: str, span: Span | None = None) -> _Reason:
    hint = "a choice is `select(condition, a, b)`; a condition is `x where condition`"
    if word in ("for", "in", "while", "over"):
        hint = "a statement holds at every point of its left side; a reduction is `sum[m](x)`"
    return _Reason(f"the language has no `{word}`", hint, span)


def _adjacent(p: _Place) -> _Reason | None:
    """Two values side by side."""
    if p.kind not in ("NAME", "NUMBER", "LPAR", "NOT") or not p.last:
        return None
    if not (p.last.isalnum() or p.last in "_])"):
        return None
    if p.begins_line and not p.bracket and p.kind == "LPAR":
        return _Reason("`(` cannot begin a statement", STATEMENT)
    if p.text == "not":
        return _Reason("`not` stands before a condition", "write `not (m < 3)`, or `m >= 3`")
    if re.match(r"\s*(\[[^]\n]*\])? *=[^=]", p.after) and p.kind == "NAME":
        return _Reason(
            f"a second statement begins at `{p.text}`", "every statement has a line of its own"
        )
    if p.first == "input" and p.text == "(":
        return _Reason("ranks stand in square brackets", FORMS["input"])
    if p.first == "param" and "=" not in p.statement and p.kind == "NUMBER":
        return _Reason(f"`=` is missing before `{p.text}`", FORMS["param"])
    if p.first in ("input", "output", "param", "rank", "init") and not p.bracket:
        if p.statement != p.first and "=" not in p.statement:
            return _Reason(f"a comma is missing before `{p.text}`", FORMS[p.first])
    if p.first == "require" and not p.bracket and p.kind == "NAME":
        return _Reason(f"`{p.text}` follows without an operator", FORMS["require"])
    if p.text == "(" and p.last == ")":
        return _Reason("two values without an operator between them", "a product is written `*`")
    if p.kind == "NAME" and p.text[0] == "_" and p.last.isdigit():
        return _Reason("a number is written without `_`", "write `1000`")
    if p.last == "]" and p.text != "(":
        reduces = re.search(r"\b[a-z]\w*\[[a-z0-9_, ]+\]$", p.statement)
        return _Reason(
            f"`{p.text}` follows `]` without an operator",
            "the body of a reduction goes in parentheses: `sum[m](x)`"
            if reduces
            else "a product is written `*`",
        )
    return _Reason(f"`{p.text}` follows without an operator or comma", "a product is written `*`")


def _plain_names(p: _Place) -> _Reason | None:
    if p.first in ("input", "def") and "=" not in p.statement and p.bracket:
        fixed = p.first == "input" and p.kind == "NUMBER"
        hint = "an extent is fixed with `rank m < 128`" if fixed else FORMS[p.first]
        return _Reason("ranks and arguments are plain names here", hint)
    return None


def _comma(p: _Place) -> _Reason | None:
    if p.text != "," or "=" not in p.statement or p.bracket:
        return None
    return _Reason(
        "a comma between values",
        "a product is written `*`; every statement has a line of its own",
    )


def _no_equals(p: _Place) -> _Reason | None:
    if p.first in DECLARATIONS or "=" in p.statement:
        return None
    return _Reason(f"`{p.text}` cannot stand here", STATEMENT)


RULES: tuple[Callable[[_Place], _Reason | None], ...] = (
    *(
        _header,
        _misspelled,
        _comment,
        _keyword_as_name,
        _update,
        _rank_bound,
        _default,
        _line_begins_with_operator,
    ),
    *(_brackets, _output_with_index, _equals, _assign, _string, _colon, _arrow, _missing_operand),
    *(_where, _foreign_word, _adjacent, _plain_names, _comma, _no_equals),
)
