"""Texts that are nearly, or not at all, in the language. Deterministic for a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from tests.property.generate import generate

ROOT = Path(__file__).resolve().parents[2]
TOKENS = (
    *("cascade", "import", "std", "input", "output", "param", "rank", "init", "require", "def"),
    *("where", "and", "or", "not", "sum", "max", "mean", "argmax", "top", "argtop", "order"),
    *("count", "any", "select", "clamp", "exp", "softmax", "inf", "true", "bf16", "int", "bool"),
    *("Q", "K", "A", "S", "M", "P", "M0", "m", "p", "e", "j", "i", "m1", "m0", "x", "scale"),
    *("0", "1", "2", "128", "1.5", "1e999", ".5", "99999999999999999999", '"text"', '"'),
    *("+", "-", "*", "/", "//", "%", "**", "<", "<=", ">", ">=", "==", "!=", "=", ":=", "->", "??"),
    *("(", ")", "[", "]", ",", ":", "\n", "\n", " ", "# note", "?", "$", "\t", "\x00", "≤", "é"),
)
PIECES = re.compile(r"\w+|\*\*|//|\?\?|->|:=|[<>=!]=|\s+|.", re.DOTALL)


def seeds() -> list[str]:
    """The shipped examples, the specs written in the tests, and some random ones."""
    paths = [path for name in ("examples", "tests") for path in (ROOT / name).rglob("*.cascade")]
    texts = [path.read_bytes().decode("latin-1") for path in sorted(paths)]
    for path in sorted((ROOT / "tests").rglob("*.py")):
        found = re.findall(r'"""(.*?)"""', path.read_text(), re.DOTALL)
        texts += [t for t in found if "output " in t and "=" in t]
    return texts + [generate(random.Random(n)).text for n in range(40)]


def mutate(text: str, others: list[str], chance: random.Random) -> str:
    """One to four mutations of characters, tokens and lines."""
    for _ in range(chance.randint(1, 4)):
        text = chance.choice(MUTATIONS)(text, others, chance)
    return text


def _flip(text: str, others: list[str], chance: random.Random) -> str:
    n = chance.randrange(len(text) + 1)
    return text[:n] + chr(chance.randrange(256)) + text[n + 1 :]


def _cut(text: str, others: list[str], chance: random.Random) -> str:
    n = chance.randrange(len(text) + 1)
    return text[:n] + text[n + chance.choice((1, 1, 3, 10, 100)) :]


def _double(text: str, others: list[str], chance: random.Random) -> str:
    n = chance.randrange(len(text) + 1)
    part = text[n : n + chance.choice((1, 5, 20, 200))]
    return text[:n] + part * chance.choice((2, 2, 3, 20)) + text[n:]


def _truncate(text: str, others: list[str], chance: random.Random) -> str:
    return text[: chance.randrange(len(text) + 1)]


def _splice(text: str, others: list[str], chance: random.Random) -> str:
    other = chance.choice(others)
    n, k = chance.randrange(len(text) + 1), chance.randrange(len(other) + 1)
    return text[:n] + other[k:]


def _swap(text: str, others: list[str], chance: random.Random) -> str:
    tokens = PIECES.findall(text) or [""]
    a, b = chance.randrange(len(tokens)), chance.randrange(len(tokens))
    tokens[a], tokens[b] = tokens[b], tokens[a]
    return "".join(tokens)


def _replace(text: str, others: list[str], chance: random.Random) -> str:
    tokens = PIECES.findall(text) or [""]
    tokens[chance.randrange(len(tokens))] = chance.choice(TOKENS)
    return "".join(tokens)


def _rename(text: str, others: list[str], chance: random.Random) -> str:
    """Every use of one word becomes another word of the same text."""
    words = sorted(set(re.findall(r"\w+", text))) or ["m"]
    old, new = chance.choice(words), chance.choice(words)
    return re.sub(rf"\b{old}\b", new, text)


def _move_line(text: str, others: list[str], chance: random.Random) -> str:
    lines = text.split("\n")
    line = lines.pop(chance.randrange(len(lines)))
    lines.insert(chance.randrange(len(lines) + 1), line)
    return "\n".join(lines)


def _drop_line(text: str, others: list[str], chance: random.Random) -> str:
    lines = text.split("\n")
    del lines[chance.randrange(len(lines))]
    return "\n".join(lines)


def _nest(text: str, others: list[str], chance: random.Random) -> str:
    n = chance.randrange(len(text) + 1)
    depth = chance.choice((3, 60, 70, 5000))
    opened, closed = chance.choice(("()", "[]", ("exp(", ")"), ("-", ""), ("not ", "")))
    return text[:n] + opened * depth + chance.choice(TOKENS) + closed * depth + text[n:]


MUTATIONS = (
    *(_flip, _cut, _double, _truncate, _splice, _swap),
    *(_replace, _replace, _rename, _move_line, _drop_line, _nest),
)


def texts(number: int, seed: int) -> Iterator[str]:
    """Mutated specs, texts of random tokens, and random bytes."""
    chance = random.Random(seed)
    known = seeds()
    for n in range(number):
        if n % 10 == 8:
            count = chance.choice((1, 5, 30, 300))
            yield "".join(chance.choice(TOKENS) + chance.choice((" ", "")) for _ in range(count))
        elif n % 10 == 9:
            count = chance.choice((1, 20, 400, 20_000))
            yield bytes(chance.randrange(256) for _ in range(count)).decode("latin-1")
        else:
            yield mutate(chance.choice(known), known, chance)
