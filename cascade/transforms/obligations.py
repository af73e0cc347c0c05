"""What a checked derivation is made of: obligations, and the report of them."""

from __future__ import annotations

from dataclasses import dataclass

from cascade.ir.expr import Expr
from cascade.ir.printer import print_expr
from cascade.transforms.proofs import Prover

FINITE = "finite-rank refusal"


@dataclass(frozen=True)
class Obligation:
    """One thing to show, and whether it was shown."""

    kind: str
    statement: str
    ok: bool
    method: str = "symbolic"
    detail: str = ""

    def __str__(self) -> str:
        mark = "ok    " if self.ok else "FAILED"
        return f"{mark} {self.kind:<10} {self.method:<8} {self.statement}" + (
            f" ({self.detail})" if self.detail else ""
        )


@dataclass(frozen=True)
class CheckReport:
    """All obligations of a derivation."""

    name: str
    obligations: tuple[Obligation, ...]

    @property
    def ok(self) -> bool:
        return all(o.ok for o in self.obligations)

    @property
    def failures(self) -> tuple[Obligation, ...]:
        return tuple(o for o in self.obligations if not o.ok)

    @property
    def finite_refusals(self) -> int:
        """Refused bodies whose sampled rank is finite: not wrong, and maybe not needed."""
        return sum(o.detail.startswith(FINITE) for o in self.obligations)

    def to_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "ok": self.ok,
            "finite_rank_refusals": self.finite_refusals,
            "obligations": [
                {n: getattr(o, n) for n in Obligation.__dataclass_fields__}
                for o in self.obligations
            ],
        }

    def __str__(self) -> str:
        done = sum(o.ok for o in self.obligations)
        by_proof = sum(o.ok and o.method == "symbolic" for o in self.obligations)
        head = f"{self.name}: {done} of {len(self.obligations)} obligations hold"
        head += f", {by_proof} of them by proof, {done - by_proof} at random points"
        if self.finite_refusals:
            head += f"; {self.finite_refusals} finite-rank refusals"
        return "\n".join([head, *map(str, self.obligations)])


def difference(wanted: frozenset[Expr], given: frozenset[Expr]) -> str:
    """What is lost and what is added, in words; empty where nothing is."""
    lost, added = sorted(map(print_expr, wanted - given)), sorted(map(print_expr, given - wanted))
    parts = [f"lost: {', '.join(lost)}"] if lost else []
    return "; ".join([*parts, *([f"added: {', '.join(added)}"] if added else [])])


def equal(prover: Prover, kind: str, statement: str, left: Expr, right: Expr) -> Obligation:
    """That two expressions are the same."""
    v = prover.zero(left, right)
    return Obligation(kind, statement, v.ok, v.method, v.detail)
