"""Emitted lines that are too long, broken where calls, arguments and sums have their parts."""

from __future__ import annotations

WIDTH = 100
INDENT = "    "
OPENING, CLOSING = "([{", ")]}"


def grouped(text: str) -> str:
    """An expression as an operand of anything: in brackets, where it has none around it."""
    return text if text.isidentifier() or _is_enclosed(text) else f"({text})"


def bare(text: str) -> str:
    """An expression as an argument, or as what is assigned: without brackets around it."""
    while _is_enclosed(text):
        text = text[1:-1]
    return text


def _is_enclosed(text: str) -> bool:
    return text.startswith("(") and _closing(text, 0) == len(text) - 1


def broken(line: str) -> list[str]:
    """A line of code on as many lines as it needs: a call with an argument or a term on each."""
    if len(line) <= WIDTH:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    start = _call(line)
    if start is None:
        return [line]
    end = _closing(line, start)
    inside = indent + INDENT
    lines = [line[: start + 1]]
    for argument in _split(line[start + 1 : end], ", "):
        lines += _argument(f"{inside}{argument},", inside)
    return [*lines, f"{indent}{line[end:]}"]


def _argument(line: str, indent: str) -> list[str]:
    if len(line) <= WIDTH:
        return [line]
    terms = _split(line[len(indent) :], " + ")
    if len(terms) > 1:
        return _packed(terms, indent)
    return broken(line)


def _packed(terms: list[str], indent: str) -> list[str]:
    """Terms of a sum on lines that they fill; all but the first begin with the operator."""
    lines = [indent + terms[0]]
    for term in terms[1:]:
        if len(lines[-1]) + 3 + len(term) <= WIDTH:
            lines[-1] += f" + {term}"
        else:
            lines.append(f"{indent}+ {term}")
    return lines


def packed(items: list[str], indent: str) -> list[str]:
    """Items with commas on lines that they fill."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 2 + len(item) < WIDTH:
            lines[-1] += f" {item},"
        else:
            lines.append(f"{indent}{item},")
    return lines


def _call(line: str) -> int | None:
    """Where the arguments of the longest call begin that is in no other brackets."""
    found, longest, n = None, 0, 0
    while n < len(line):
        if line[n] in OPENING:
            end = _closing(line, n)
            is_call = line[n] == "(" and n and (line[n - 1].isalnum() or line[n - 1] in "_]")
            if is_call and end - n > longest:
                found, longest = n, end - n
            n = end
        n += 1
    return found


def _closing(text: str, start: int) -> int:
    """Where the bracket at `start` closes."""
    depth = 0
    for n in range(start, len(text)):
        depth += (text[n] in OPENING) - (text[n] in CLOSING)
        if not depth:
            return n
    return -1


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators that are in no bracket."""
    parts, depth, start = [], 0, 0
    for n, character in enumerate(text):
        depth += (character in OPENING) - (character in CLOSING)
        if not depth and text.startswith(separator, n):
            parts.append(text[start:n])
            start = n + len(separator)
    return [*parts, text[start:]]
