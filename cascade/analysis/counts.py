"""Counts as polynomials over rank extents: `B*H*P*M*E`, with a number where extents are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

Monomial = tuple[str, ...]  # ranks, sorted


@dataclass(frozen=True)
class Count:
    """A sum of products of rank extents."""

    terms: tuple[tuple[Monomial, int], ...] = ()

    @staticmethod
    def of(ranks: Iterable[str], factor: int = 1) -> Count:
        """The number of points over these ranks."""
        return Count(((tuple(sorted(ranks)), factor),)) if factor else Count()

    def __add__(self, other: Count) -> Count:
        return total((self, other))

    def times(self, factor: int) -> Count:
        return Count(tuple((m, c * factor) for m, c in self.terms)) if factor else Count()

    def value(self, extents: Mapping[str, int] | None) -> int | None:
        """The number, or None while extents are unknown."""
        if extents is None:
            return None
        return sum(c * prod(extents[r] for r in m) for m, c in self.terms)

    def __str__(self) -> str:
        """Extents by name, largest products first."""
        if not self.terms:
            return "0"
        ordered = sorted(self.terms, key=lambda t: (-len(t[0]), t[0]))
        return " + ".join(_monomial(m, c) for m, c in ordered)


def _monomial(ranks: Monomial, factor: int) -> str:
    names = [r.upper() for r in ranks]
    return "*".join(names if factor == 1 and names else [str(factor), *names])


def total(counts: Iterable[Count]) -> Count:
    terms: dict[Monomial, int] = {}
    for count in counts:
        for monomial, factor in count.terms:
            terms[monomial] = terms.get(monomial, 0) + factor
    return Count(tuple((m, c) for m, c in terms.items() if c))
