"""A cascade as statements of one operation each: what an array of units runs for one tile.

Cost on a spatial array is counted on operations, one at a time (FuseMax, section 4): a running sum
`R = R*c + x` is a multiplication and an addition. What costs nothing is dropped here: factors that
are one number for the whole run, starts of recurrences, conditions and guards (`x where c`,
`x ?? 0`, `select(c, x, 0)`), and statements that only rename. A product is formed from the factors
with the fewest ranks first.

Ranks have roles. The *streamed* rank is the one that is traversed in steps: split into `outer`
(steps, M1) and `inner` (inside a tile, M0). *Query* ranks belong to results and to no input that
carries the streamed rank. A reduction over the whole streamed rank becomes one inside the tile and
an accumulation from step to step. A statement that needs a result over all steps and goes over the
steps itself begins another *phase*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cascade.diagnostics import Span
from cascade.ir.expr import Expr

FINAL = "final"  # a read of the last step


@dataclass(frozen=True)
class Operand:
    """A tensor as read or written, with its ranks. `offset` is the step, relative to the current
    one, of a carried tensor; FINAL for its value after the last.
    """

    tensor: str
    ranks: tuple[str, ...]
    offset: int | str = 0


@dataclass(frozen=True)
class Statement:
    """`write = operations(reads)` at every point of `ranks`. Operations run one after another in
    the same unit. `reduced` are the ranks that the last operation sums (or takes the maximum) over.
    """

    name: str
    operations: tuple[str, ...]
    ranks: tuple[str, ...]
    reads: tuple[Operand, ...]
    write: Operand
    reduced: tuple[str, ...] = ()
    phase: int = 0
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        over = f" over {','.join(self.reduced)}" if self.reduced else ""
        args = ", ".join(f"{o.tensor}[{','.join(o.ranks)}]" for o in self.reads)
        left = f"{self.write.tensor}[{','.join(self.write.ranks)}]"
        return f"{left} = {'-'.join(self.operations)}{over}({args})"


@dataclass(frozen=True)
class Statements:
    """All statements of a cascade in order, and the roles of its ranks and tensors."""

    name: str
    items: tuple[Statement, ...]
    inputs: Mapping[str, tuple[str, ...]]
    outputs: tuple[str, ...]
    streamed: str
    outer: str
    inner: str
    query: tuple[str, ...]
    carried: tuple[str, ...]
    conditions: tuple[Expr, ...]
    split: bool

    def is_tile(self, s: Statement) -> bool:
        """Runs in every step (or in every tile), not once after the last."""
        return self.outer in s.ranks or self.inner in s.ranks

    def has_query(self, ranks: Iterable[str]) -> bool:
        return bool(set(self.query) & set(ranks))

    @property
    def phases(self) -> int:
        return 1 + max((s.phase for s in self.items), default=0)

    def operand(self, tensor: str) -> Operand | None:
        return next((s.write for s in self.items if s.write.tensor == tensor), None)
