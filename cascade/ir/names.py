"""Names that nothing has yet."""

from __future__ import annotations


def fresh(stem: str, taken: set[str]) -> str:
    """The stem, or the stem with a number, which is then taken."""
    name, n = stem, 2
    while name in taken:
        name, n = f"{stem}_{n}", n + 1
    taken.add(name)
    return name
