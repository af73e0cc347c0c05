"""Products that have a name: `exp(x - G) / s` is the tensor A wherever it occurs in a term."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cascade.gradients.rules import Factor
from cascade.ir.cascade import Einsum
from cascade.ir.expr import Coordinate, Expr, Map, Read
from cascade.ir.walk import substitute


def factored(e: Expr) -> dict[Expr, int]:
    """The factors of a product or quotient and their powers."""
    found: dict[Expr, int] = {}
    for part, n in _factors(e, 1):
        found[part] = found.get(part, 0) + n
    return {part: n for part, n in found.items() if n}


def _factors(e: Expr, n: int) -> Iterable[Factor]:
    match e:
        case Map("*", (a, b)):
            yield from _factors(a, n)
            yield from _factors(b, n)
        case Map("/", (a, b)):
            yield from _factors(a, n)
            yield from _factors(b, -n)
        case _:
            yield e, n


@dataclass
class Products:
    """Pointwise tensors that are quotients of two others, with their definitions."""

    known: list[tuple[Read, dict[Expr, int]]] = field(default_factory=list)

    def learn(self, e: Einsum) -> None:
        """Remember a statement `A[..] = S[..] / D[..]` of reads that have all its ranks."""
        parts = factored(e.body)
        if len(parts) < 2 or not all(isinstance(p, Read) for p in parts):
            return
        if min(parts.values()) > 0:
            return
        if all(isinstance(i, Coordinate) for p in parts if isinstance(p, Read) for i in p.index):
            self.known.append((Read(e.tensor, tuple(map(Coordinate, e.ranks))), parts))

    def fold(self, factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
        found = list(factors)
        for whole, parts in self.known:
            while (folded := _folded(found, whole, parts)) is not None:
                found = folded
        return tuple(found)


def _folded(factors: list[Factor], whole: Read, parts: dict[Expr, int]) -> list[Factor] | None:
    """The factors with one occurrence of the parts replaced by the whole."""
    ranks = [i.rank for i in whole.index if isinstance(i, Coordinate)]
    powers: dict[Expr, int] = {}
    for e, n in factors:
        powers[e] = powers.get(e, 0) + n
    lead = next(p for p in parts if isinstance(p, Read) and parts[p] > 0)
    for e in powers:
        if not isinstance(e, Read) or e.tensor != lead.tensor:
            continue
        values = {
            i.rank: x for i, x in zip(lead.index, e.index, strict=True) if isinstance(i, Coordinate)
        }
        if set(values) != set(ranks):
            continue
        wanted = {substitute(p, values): n for p, n in parts.items()}
        if all(powers.get(p, 0) * n >= n * n for p, n in wanted.items()):
            for p, n in wanted.items():
                powers[p] -= n
            read = substitute(whole, values)
            powers[read] = powers.get(read, 0) + 1
            return [(p, n) for p, n in powers.items() if n]
    return None
