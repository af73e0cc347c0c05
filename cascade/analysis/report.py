"""The report: every number of the analysis as an attribute, `str()` to read, `to_dict()` for
programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cascade.analysis.counts import Count
from cascade.analysis.dependence import Relation, relations
from cascade.analysis.footprint import Footprint, footprints
from cascade.analysis.passes import PassCount, Passes, count_passes
from cascade.analysis.tables import quantity, seconds, table
from cascade.analysis.targets import load_target
from cascade.analysis.traffic import Roofline, Traffic, roofline, traffic
from cascade.analysis.whynot import Barrier, barriers
from cascade.analysis.work import StepWork, operations, step_work, sum_work
from cascade.diagnostics import CascadeError, Diagnostic, InputError
from cascade.ir.cascade import Cascade
from cascade.ir.extents import NOT_GIVEN, Bindings, Number, bind, check_settings


@dataclass(frozen=True)
class Report:
    """What a cascade costs. Extents are numbers where given, otherwise everything is symbolic."""

    cascade: Cascade
    bindings: Bindings | None
    passes: Passes
    barriers: tuple[Barrier, ...]
    footprints: tuple[Footprint, ...]
    works: tuple[StepWork, ...]
    work: dict[str, Count]
    traffic: Traffic
    roofline: Roofline | None
    relations: tuple[Relation, ...]
    missing: tuple[str, ...] = ()
    derived_passes: dict[str, int] | None = None

    @property
    def extents(self) -> Mapping[str, int] | None:
        return self.bindings.extents if self.bindings else None

    def intensity(self) -> float | None:
        """Operations per compulsory byte; a multiply-accumulate is two operations."""
        moved = self.traffic.compulsory_bytes(self.extents)
        if self.extents is None or not moved:
            return None
        return operations(self.work, self.extents) / moved

    def to_dict(self) -> dict[str, object]:
        extents = self.extents
        return {
            "name": self.cascade.name,
            "extents": dict(extents) if extents is not None else None,
            "passes": self.passes.of_rank(),
            "derived": {"passes": self.derived_passes},
            "proofs": [_proof(c) for c in self.passes.counts],
            "revisits": [
                {"tensor": k.tensor, "rank": k.rank, "statement": s.label(), "line": s.line}
                for k, s in self.passes.revisits
            ],
            "barriers": [b.to_dict() for b in self.barriers],
            "footprint": [f.to_dict(extents) for f in self.footprints],
            "work": {k: {"count": str(c), "value": c.value(extents)} for k, c in self.work.items()},
            "statements": [
                {
                    "statement": w.step.label(),
                    "line": w.step.line,
                    "work": {k: str(c) for k, c in w.by_kind.items()},
                }
                for w in self.works
            ],
            "traffic": {
                "compulsory_elements": {m.tensor: str(m) for m in self.traffic.compulsory},
                "compulsory_bytes": self.traffic.compulsory_bytes(extents),
                "as_written_bytes": self.traffic.as_written_bytes(extents),
                "intensity": self.intensity(),
            },
            "roofline": _roofline(self.roofline),
            "dependence": [str(r) for r in self.relations],
        }

    def __str__(self) -> str:
        sections = [
            self._heading(),
            self._passes(),
            self._chains(),
            self._footprints(),
            self._work(),
            self._traffic(),
            self._barriers(),
            self._dependence(),
        ]
        return "\n\n".join(s for s in sections if s)

    def _heading(self) -> str:
        if self.extents is None:
            names = dict.fromkeys(m.split("`")[1] for m in self.missing)
            wanted = ",".join(f"{n}=…" for n in names)
            return f"{self.cascade.name}: extents symbolic (give them with --set {wanted})"
        given = "  ".join(f"{r.upper()}={n}" for r, n in self.extents.items())
        return f"{self.cascade.name}: {given}"

    def _passes(self) -> str:
        by_rank: dict[str, list[PassCount]] = {}
        for c in self.passes.counts:
            by_rank.setdefault(c.inside or c.key.rank, []).append(c)
        rows = []
        for rank, counts in by_rank.items():
            most = max(c.passes for c in counts)
            over = ", ".join(f"{c.key.tensor}: {c.passes}" for c in counts)
            note = "inside a tile" if counts[0].inside else ""
            steps = sorted({s for c in counts for s in c.per_step})
            if steps:
                note = f"per step of {', '.join(steps)}"
            rows.append([rank, str(most), self._derived(rank), over, note])
        return "Passes\n" + table(["rank", "as written", "derived", "over", ""], rows)

    def _derived(self, rank: str) -> str:
        return "" if self.derived_passes is None else str(self.derived_passes.get(rank, ""))

    def _chains(self) -> str:
        lines: list[str] = []
        seen: set[tuple[object, ...]] = set()
        for c in self.passes.counts:
            names = tuple(v.step.label() for v in c.chain)
            if c.passes < 2 or (c.key.rank, c.inside, names) in seen:
                continue
            seen.add((c.key.rank, c.inside, names))
            where = f"inside a tile of {c.inside}" if c.inside else f"over {c.key.rank}"
            lines.append(f"  {c.passes} {where}, by {c.key.tensor}:")
            for n, visit in enumerate(c.chain, 1):
                line = f" (line {visit.step.line})" if visit.step.line else ""
                why = "visits it" if n == 1 else f"waits for {_carrier(visit, self.passes)}"
                lines.append(f"    pass {n}: {visit.step.label()}{line} {why}")
        for key, step in self.passes.revisits:
            lines.append(
                f"  revisit: {step.label()} gathers {key.tensor} by an index that depends on "
                "all of it"
            )
        return (
            "Proof: each visit waits for a value that needs the whole rank\n" + "\n".join(lines)
            if lines
            else ""
        )

    def _footprints(self) -> str:
        rows = []
        for f in self.footprints:
            held = {"whole": f"whole {f.rank}", "two steps": f"two steps of {f.rank}"}.get(
                f.holds, f.holds
            )
            live = quantity(f.live, f.live.value(self.extents), f.bytes_each)
            per = f"per ({','.join(f.per)})" if f.per else ""
            spill = (
                quantity(f.spill, f.spill.value(self.extents), f.bytes_each)
                if f.spill.terms
                else ""
            )
            again = ", ".join(f"{c} {k}" for k, c in f.recompute.items())
            again = f"read {f.tensor} again" if f.is_input else again
            rows.append([f.tensor, held, live, per, spill, again])
        if not rows:
            return "Footprint\n  tiles only: nothing crosses a barrier and nothing recurs"
        return "Footprint: what outlives a tile\n" + table(
            ["tensor", "live", "keep", "", "or spill", "or recompute"], rows
        )

    def _work(self) -> str:
        rows = [[k, str(c), _number(c.value(self.extents))] for k, c in self.work.items()]
        return "Work\n" + table(["kind", "count", ""], rows) if rows else ""

    def _traffic(self) -> str:
        compulsory = " + ".join(str(m) for m in self.traffic.compulsory)
        rows = [["compulsory", compulsory, _bytes(self.traffic.compulsory_bytes(self.extents))]]
        if self.traffic.extra:
            extra = " + ".join(str(m) for m in self.traffic.extra)
            rows.append(
                [
                    "as written, spilled",
                    f"… + {extra}",
                    _bytes(self.traffic.as_written_bytes(self.extents)),
                ]
            )
        text = "Traffic\n" + table(["", "elements", "bytes"], rows)
        intensity = self.intensity()
        if intensity is not None:
            text += f"\n  intensity {intensity:.4g} operations per compulsory byte"
        if self.roofline is not None:
            r = self.roofline
            parts = ", ".join(f"{k} {seconds(v)}" for k, v in r.seconds.items())
            text += (
                f"\n  {r.target.name}: at least {seconds(r.floor)}, bound by {r.bound} ({parts})"
            )
            if self.traffic.extra:
                text += f"\n  memory time as written, spilled: {seconds(r.written_seconds)}"
        return text

    def _barriers(self) -> str:
        if not self.barriers:
            return ""
        lines = []
        for b in self.barriers:
            lines.append(f"  {b.reason}")
            if b.remedy:
                lines.append(f"    {b.remedy}")
        return "Why not fewer\n" + "\n".join(lines)

    def _dependence(self) -> str:
        told = [str(r) for r in self.relations if r.sign in ("<=", ">=")]
        return "Dependence\n" + "\n".join(f"  {t}" for t in told) if told else ""


def analyse(
    cascade: Cascade,
    settings: dict[str, Number],
    shapes: Mapping[str, tuple[int, ...]],
    target: str | None = None,
) -> Report:
    """The report of a cascade. Numbers appear when every extent is known.

    Raises `InputError` for wrong settings, shapes or target.
    """
    check_settings(cascade, settings)
    chosen = load_target(target) if target else None
    bindings, missing = _bind(cascade, settings, shapes)
    if chosen is not None and bindings is None:
        raise InputError(*missing)
    passes = count_passes(cascade)
    works = tuple(step_work(s) for s in passes.steps)
    rows = footprints(cascade, passes, list(works))
    work = sum_work(list(works))
    moved = traffic(cascade, passes, rows)
    floor = roofline(chosen, work, moved, bindings.extents) if chosen and bindings else None
    return Report(
        cascade,
        bindings,
        passes,
        barriers(passes),
        rows,
        works,
        work,
        moved,
        floor,
        relations(cascade, passes),
        tuple(d.message for d in missing),
    )


def _bind(
    cascade: Cascade, settings: dict[str, Number], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Bindings | None, tuple[Diagnostic, ...]]:
    """Numbers if all extents are known; what is missing otherwise. Other mistakes are raised."""
    try:
        return bind(cascade, shapes, settings), ()
    except CascadeError as e:
        if all(d.code in NOT_GIVEN for d in e.diagnostics):
            return None, e.diagnostics
        raise


def _proof(c: PassCount) -> dict[str, object]:
    return {
        "tensor": c.key.tensor,
        "rank": c.inside or c.key.rank,
        "inside_tile": bool(c.inside),
        "passes": c.passes,
        "direction": c.direction,
        "per_step": list(c.per_step),
        "chain": [
            {
                "statement": v.step.label(),
                "line": v.step.line,
                "waits_for": v.through,
                "needs": v.mode.value if v.mode else None,
            }
            for v in c.chain
        ],
    }


def _carrier(visit: object, passes: Passes) -> str:
    through = getattr(visit, "through", "")
    step = next((s for s in passes.steps if s.target == through), None)
    return step.label() if step is not None else str(through)


def _roofline(r: Roofline | None) -> dict[str, object] | None:
    if r is None:
        return None
    return {
        "target": r.target.name,
        "floor_s": r.floor,
        "bound": r.bound,
        "bound_by_memory": r.bound == "memory",
        "operations": r.operations,
        "intensity": r.intensity,
        "balance": r.target.balance,
        "seconds": r.seconds,
        "as_written_memory_s": r.written_seconds,
    }


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _bytes(value: int | None) -> str:
    return "" if value is None else f"{value:,} B"
