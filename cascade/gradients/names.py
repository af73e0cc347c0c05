"""Fresh names of tensors and ranks, and the ranks that a gradient adds to its cascade."""

from __future__ import annotations

from cascade.ir.cascade import Cascade, Rank
from cascade.ir.expr import Const, Expr, Symbol


class Names:
    """What is taken in a cascade; grows by what is made."""

    def __init__(self, cascade: Cascade):
        extents = {r.name.upper() for r in cascade.ranks}
        self.taken = {
            *cascade.tensors,
            *(r.name for r in cascade.ranks),
            *extents,
            *(p.name for p in cascade.params),
        }
        self.ranks: dict[str, Rank] = dict(cascade.rank)

    def tensor(self, stem: str) -> str:
        """A name that nothing has, `stem` if it is free."""
        name, n = stem, 2
        while name in self.taken:
            name, n = f"{stem}_{n}", n + 1
        self.taken.add(name)
        return name

    def rank(self, stem: str, extent: Expr) -> str:
        """A new rank of an extent: `stem` and a number, neither it nor its extent taken."""
        n = 2
        while f"{stem}{n}" in self.taken or f"{stem}{n}".upper() in self.taken:
            n += 1
        name = f"{stem}{n}"
        self.taken |= {name, name.upper()}
        self.ranks[name] = Rank(name, extent, declared=True)
        return name

    def extent(self, rank: str) -> Expr:
        return self.ranks[rank].extent

    def last(self, rank: str) -> Expr:
        """The extent of a rank as a statement writes it: the same for a rank and its copy."""
        extent = self.extent(rank)
        return extent if isinstance(extent, Symbol | Const) else Symbol(rank.upper())
