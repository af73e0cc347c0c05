"""Where the tensors of a cascade are present, recurrences included."""

from __future__ import annotations

from cascade.analysis.normalise import normalise
from cascade.ir.cascade import Cascade, Einsum
from cascade.ir.expr import Expr, Reduce, Select
from cascade.ir.ops import REDUCERS
from cascade.ir.order import evaluation_order
from cascade.ir.walk import free_ranks, reads
from cascade.transforms.presence import Presence, is_present

Known = dict[str, tuple[Expr, ...] | None]


class Present(Presence):
    """Presence by conditions, or asked of the value itself.

    `unclear` are tensors that may be absent for a reason that mentions fewer ranks than they have:
    a recurrence that leaves points out, and sums of such.
    """

    unclear: frozenset[str] = frozenset()

    def is_unclear(self, condition: Expr) -> bool:
        """Whether a condition asks for the presence of something unclear."""
        return any(r.tensor in self.unclear for r in reads(condition)) and _asks(condition)


def present(cascade: Cascade) -> Present:
    """A recurrence that leaves no point out, if none is left out before, is always there."""
    steps = normalise(cascade)
    first = Present.as_written(cascade, steps)
    by_name: dict[str, list[Einsum]] = {}
    for e in cascade.einsums:
        by_name.setdefault(e.tensor, []).append(e)
    always, asked = set(first.recurring), _asked(cascade, first)
    while True:
        found = Present.as_written(cascade, steps)
        found.known.update({t: () for t in always})
        found.known.update(asked)
        wrong = {t for t in always if any(found.of(e.body) for e in by_name.get(t, ()))}
        if not wrong:
            break
        always -= wrong
    unclear = frozenset(found.recurring - always)
    return _spread(cascade, found, unclear) if unclear else found


def _spread(cascade: Cascade, found: Present, unclear: frozenset[str]) -> Present:
    """Reductions of something unclear are unclear, too."""
    known = dict(found.known)
    found.unclear = unclear
    for group in evaluation_order(cascade):
        for e in group.einsums:
            if isinstance(e.body, Reduce) and any(map(found.is_unclear, found.of(e.body.body))):
                known[e.tensor] = None
                found.unclear |= {e.tensor}
                found.known = dict(known)
    return found


def _asked(cascade: Cascade, presence: Presence) -> Known:
    """Selections, and means of points that may all be missing."""
    found: Known = {}
    for e in cascade.einsums:
        if isinstance(e.body, Select):
            found[e.tensor] = None
        elif isinstance(e.body, Reduce) and REDUCERS[e.body.op].identity is None:
            inner = presence.of(e.body.body)
            filtered = any(set(free_ranks(c)) & set(e.body.ranks) for c in inner)
            found[e.tensor] = None if filtered else inner
    return found


def _asks(condition: Expr) -> bool:
    return any(condition == is_present(r) for r in reads(condition))
