"""Errors as data: where (`Source`, `Span`), what (`Diagnostic`), and the one exception users see.

A diagnostic says what is wrong in the user's words, why here (`related`), and what to type
(`hints`). Rendering happens only in `Diagnostic.render`; nothing else in the project prints a
caret.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

EXCERPT_WIDTH = 100  # longest stretch of a source line that an excerpt shows


@dataclass(frozen=True, slots=True)
class Source:
    """A text and the name it is reported under."""

    name: str
    text: str = field(repr=False)

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, both counted from 1, of a character offset."""
        offset = max(0, min(offset, len(self.text)))
        line = self.text.count("\n", 0, offset) + 1
        return line, offset - (self.text.rfind("\n", 0, offset) + 1) + 1

    def line(self, number: int) -> str:
        lines = self.text.split("\n")
        return lines[number - 1] if 0 < number <= len(lines) else ""


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range of characters of a source."""

    source: Source
    start: int
    end: int

    def to(self, other: Span | None) -> Span:
        """The span from the start of this one to the end of `other`."""
        return self if other is None else Span(self.source, self.start, max(self.end, other.end))

    def word(self, text: str) -> Span:
        """The first occurrence of a whole word inside this span, or the span itself."""
        found = re.search(rf"(?<!\w){re.escape(text)}(?!\w)", self.text)
        if found is None:
            return self
        return Span(self.source, self.start + found.start(), self.start + found.end())

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    @property
    def line(self) -> int:
        return self.source.position(self.start)[0]

    def location(self) -> str:
        line, column = self.source.position(self.start)
        return f"{self.source.name}:{line}:{column}"

    def excerpt(self, label: str = "") -> str:
        """The source line with carets under the span."""
        number, column = self.source.position(self.start)
        text = self.source.line(number).rstrip()
        first = max(0, column - 1 - EXCERPT_WIDTH // 2) if len(text) > EXCERPT_WIDTH else 0
        last = first + EXCERPT_WIDTH
        shown = "".join(c if c.isprintable() else " " for c in text[first:last])
        start = column - 1 - first
        marked = shown[start : max(start, start + self.end - self.start)]
        before, after = "…" if first else "", "…" if last < len(text) else ""
        indent = " " * _columns(before + shown[:start])
        gutter = " " * len(str(number))
        lines = [
            f"{gutter} |",
            f"{number} | {before}{shown}{after}".rstrip(),
            f"{gutter} | {indent}{'^' * max(1, _columns(marked))}{' ' + label if label else ''}",
        ]
        return "\n".join(lines)


def _columns(text: str) -> int:
    """The width of a text on a terminal: East Asian characters are wide, accents take no room."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `code` is a kebab-case word listed in docs/errors.md."""

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    hints: tuple[str, ...] = ()
    related: tuple[tuple[Span, str], ...] = ()
    severity: str = "error"

    def render(self) -> str:
        where = f"{self.span.location()}: " if self.span else ""
        lines = [f"{where}{self.severity}[{self.code}]: {self.message}"]
        if self.span and self.span.source.text.strip():
            lines.append(self.span.excerpt(self.label))
        for span, text in self.related:
            lines.append(f"  note: {text} ({span.location()})")
            lines.append(span.excerpt())
        lines.extend(f"  hint: {hint}" for hint in self.hints)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        place: dict[str, object] = {}
        if self.span:
            line, column = self.span.source.position(self.span.start)
            place = {"file": self.span.source.name, "line": line, "column": column}
        return {
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            **place,
            "hints": list(self.hints),
        }


class CascadeError(Exception):
    """Every mistake a user can make. Carries all diagnostics found, not only the first."""

    def __init__(self, *diagnostics: Diagnostic):
        super().__init__(diagnostics)
        self.diagnostics = diagnostics

    def __str__(self) -> str:
        return "\n\n".join(d.render() for d in self.diagnostics)


class InputError(CascadeError):
    """The spec is fine; the data given to it is not (a missing tensor, a wrong shape, a bad
    file).
    """


def fail(
    code: str,
    message: str,
    span: Span | None = None,
    label: str = "",
    hints: Iterable[str] = (),
    related: Iterable[tuple[Span, str]] = (),
) -> CascadeError:
    """A `CascadeError` with a single diagnostic, to be raised by the caller."""
    return CascadeError(Diagnostic(code, message, span, label, tuple(hints), tuple(related)))


def input_error(code: str, message: str, *hints: str, span: Span | None = None) -> InputError:
    """An `InputError` with a single diagnostic; `span` is the place in the spec it is about."""
    return InputError(Diagnostic(code, message, span, hints=hints))


def did_you_mean(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """A one-hint tuple naming the closest known name, or nothing."""
    others = sorted(set(known) - {name})
    close = [k for k in others if k.lower() == name.lower()]
    close += difflib.get_close_matches(name[:80], others, n=1, cutoff=0.6)
    return (f"did you mean `{close[0]}`?",) if close else ()
