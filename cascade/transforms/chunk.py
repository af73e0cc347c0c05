"""Chunked forms: sums over a prefix and recurrences, with a state from chunk to chunk.

    O[p] = sum[m](body(p, m) where m <= p)      quadratic.py
    S[i+1] = D_i S[i] + b_i                     recurrence.py
    S[i+1] = D_i S[i] + u_i (w_i . S[i]) + b_i  delta.py

All three are one rule: what carries the row is separated from what carries the column, and the
state takes the place of the columns of earlier chunks. Sums without a predicate are reassociated.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from cascade.ir.cascade import Cascade, Einsum
from cascade.ir.expr import Expr, Reduce
from cascade.ir.printer import print_einsum, print_expr
from cascade.ir.walk import transform
from cascade.transforms.draft import Draft, NotChunkable
from cascade.transforms.forms import Form, find_forms
from cascade.transforms.mirror import mirrored
from cascade.transforms.products import Opener
from cascade.transforms.quadratic import Quadratic
from cascade.transforms.recurrence import Recurrence, find_recurrences
from cascade.transforms.shadow import without_shadows


@dataclass(frozen=True)
class Chunking:
    """One rewrite: the law, the statement, the identities used, and why each condition holds."""

    law: str
    statement: str
    line: int | None
    before: str
    identities: tuple[str, ...]
    conditions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Refused:
    """A sum or a recurrence that has no chunked form, with the part that prevents it."""

    statement: str
    line: int | None
    part: str
    reason: str

    def __str__(self) -> str:
        return f"{self.statement}: {self.part}: {self.reason}"


@dataclass(frozen=True)
class Chunked:
    """The result (the source itself, if all was refused), what was done, and what was not."""

    source: Cascade
    result: Cascade
    steps: tuple[Chunking, ...]
    refusals: tuple[Refused, ...]

    @property
    def changed(self) -> bool:
        return bool(self.steps)

    def to_dict(self) -> dict[str, object]:
        return {
            "name": self.source.name,
            "text": str(self.result),
            "steps": [asdict(s) for s in self.steps],
            "refusals": [asdict(r) for r in self.refusals],
        }

    def __str__(self) -> str:
        lines = []
        for s in self.steps:
            lines += [f"{s.law} ({s.statement})", f"  before    {s.before}"]
            lines += [f"  identity  {i}" for i in s.identities]
            lines += [f"  because   {says}: {shown}" for says, shown in s.conditions]
        lines += [f"refused   {r}" for r in self.refusals]
        return "\n".join([*lines, "", str(self.result)])


def chunk(cascade: Cascade) -> Chunked | None:
    """The chunked form; None where nothing in the cascade asks for one."""
    source = without_shadows(cascade)
    draft = Draft(source)
    opener = Opener(draft)
    steps: list[Chunking] = []
    refusals: list[Refused] = []
    for found in find_recurrences(opener):
        if isinstance(found, tuple):
            refusals.append(_refused(*found))
            continue
        try:
            steps.append(_recurrence(found))
        except NotChunkable as refused:
            refusals.append(_refused(found.update, refused))
    for e in source.einsums:
        if e.step is not None or e.tensor in opener.recurring:
            continue
        body = next(x.body for x in draft.einsums if x.tensor == e.tensor)
        body = _quadratics(opener, e, body, steps, refusals)
        current = next(x for x in draft.einsums if x.tensor == e.tensor)
        if body != current.body:
            draft.replace(current, body)
    if not steps and not refusals:
        return None
    result = draft.cascade() if steps else cascade
    return Chunked(cascade, result, tuple(steps), tuple(refusals))


def _quadratics(
    opener: Opener, e: Einsum, body: Expr, steps: list[Chunking], refusals: list[Refused]
) -> Expr:
    for form, node, refused in find_forms(opener, e):
        try:
            new = _rewritten(opener, e, form, node, refused, steps)
        except NotChunkable as reason:
            refusals.append(_refused(e, reason))
            continue
        body = transform(body, lambda n, old=node, new=new: new if n == old else None)  # type: ignore[misc]
    return body


def _rewritten(
    opener: Opener,
    e: Einsum,
    form: Form | None,
    node: Reduce,
    refused: NotChunkable | None,
    steps: list[Chunking],
) -> Expr:
    """What stands for a sum; a sum over a suffix is one over a prefix, counted from the end."""
    if form is None:
        assert refused is not None
        turned = mirrored(opener, e, node)
        if turned is None:
            raise refused
        back, read = turned
        found = find_forms(opener, back)
        form, _, refused = found[0] if len(found) == 1 else (None, node, refused)
        if form is None:
            raise refused or NotChunkable(print_expr(node), "it has no form from its end either")
        with opener.draft.attempt():
            new = _written(opener, form, steps, "chunk a suffix", node)
            opener.draft.add(back.tensor, back.ranks, new)
        return read
    law = "chunk a prefix" if form.causal else "reassociate"
    with opener.draft.attempt():
        return _written(opener, form, steps, law, node)


def _written(opener: Opener, form: Form, steps: list[Chunking], law: str, shown: Reduce) -> Expr:
    writer = Quadratic(opener, form)
    new = writer.rewrite()
    e = form.einsum
    identities, conditions = tuple(writer.identities), tuple(writer.conditions)
    steps.append(Chunking(law, e.tensor, _line(e), print_expr(shown), identities, conditions))
    return new


def _recurrence(found: Recurrence) -> Chunking:
    found.rewrite()
    e = found.update
    identities, conditions = tuple(found.identities), tuple(found.conditions)
    return Chunking(found.law, e.tensor, _line(e), print_einsum(e), identities, conditions)


def _refused(e: Einsum, reason: NotChunkable) -> Refused:
    return Refused(e.tensor, _line(e), reason.part, reason.reason)


def _line(e: Einsum) -> int | None:
    return e.span.line if e.span else None
