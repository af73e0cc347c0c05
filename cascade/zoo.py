"""The zoo: published mechanisms as specs, what they cost, and a table of them.

Everything is read from the files of `examples/zoo`: the first lines of a spec say what it is, its
source, the form it follows and its family; the rest is analysed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from cascade import literature
from cascade.analysis.report import Report, analyse
from cascade.analysis.state import state
from cascade.analysis.tables import table
from cascade.diagnostics import InputError, did_you_mean, input_error
from cascade.ir.cascade import Cascade
from cascade.ir.extents import setting_names

Number = int | float | bool
FIELDS = ("Source", "Form", "Family", "Phase", "Passes", "Sizes")

PREFACE = """# The zoo

Published mechanisms as specs, one file each in `examples/zoo`. `cascade zoo` lists them, `cascade
zoo NAME` prints one, and `cascade new --from NAME` copies it to start from. The passes are those
over the keys, or what takes their place, as written and as the rewriter derives them: no file has a
hint. Where the literature counts others, the table is followed by why. The state is what the
derived form carries along that rank, in elements; the products are multiplications added to a sum,
of all points, masked ones too.

Each spec runs as kernels, in NumPy and by Triton. Each is tested against a reference written from
the maths, its passes against a register, its kernels in NumPy and in the interpreter of Triton, and
its gradient against differences (`tests/zoo`).

This page is written by `cascade zoo --markdown`.
"""

COLUMNS = (
    "name", "what it is", "source", "passes written", "derived", "state", "products", "runs as",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One mechanism: its file and what the head of it says."""

    name: str
    title: str
    source: str
    form: str
    family: str
    phase: str
    text: str
    passes: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def rank(self) -> str:
        """The rank whose passes are counted, if the file names it."""
        return self.passes.partition("; ")[0]

    @property
    def why(self) -> str:
        """Why the passes are not those that the literature counts."""
        return self.passes.partition("; ")[2]

    @property
    def recurs(self) -> bool:
        """Whether the spec has a state that steps."""
        return re.search(r"^init\b", self.text, re.MULTILINE) is not None


@dataclass(frozen=True)
class Costs:
    """Passes over a rank, as written and derived; what the derived form carries along it, in
    elements; and work by kind, as written. `missing` says why the work is not that of the settings.
    """

    rank: str
    written: int
    derived: int
    state: str
    work: Mapping[str, str]
    missing: str = ""


def entries() -> Iterator[Entry]:
    """Every mechanism, by name."""
    folder = files("cascade.examples") / "zoo"
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        if path.name.endswith(".cascade"):
            yield _entry(path.name.removesuffix(".cascade"), path.read_text("utf-8"))


def _entry(name: str, text: str) -> Entry:
    head = [line[2:] for line in text.splitlines() if line.startswith("# ")]
    found = dict.fromkeys(FIELDS, "")
    for line in head[1:]:
        key, _, value = line.partition(": ")
        if key in found and not found[key]:
            found[key] = value
    title = head[0] if head else name
    sizes = {n: int(v) for n, v in re.findall(r"(\w+)=(\d+)", found.pop("Sizes"))}
    said = {key.lower(): value for key, value in found.items()}
    return Entry(name, title, text=text, sizes=sizes, **said)


def entry(name: str) -> Entry:
    """A mechanism, or an example for papers, by its name. Raises `InputError`."""
    known = {e.name: _entry(e.name, e.text) for e in literature.examples()}
    known |= {e.name: e for e in entries()}
    if name not in known:
        hints = did_you_mean(name, known) or ("`cascade zoo` lists them",)
        raise input_error("example", f"the zoo has no `{name}`", *hints)
    return known[name]


def costs(e: Entry, settings: Mapping[str, Number] | None = None) -> Costs:
    """The costs of a mechanism, with the extents of `settings` that it has."""
    from cascade import api
    from cascade.analysis.passes import count_passes
    from cascade.transforms.derive import derived_form

    spec = api.parse(e.text, f"{e.name}.cascade")
    report, missing = priced(spec, settings_of(spec, settings or {}))
    form = derived_form(spec)
    written, derived = report.passes.of_rank(), count_passes(form).of_rank()
    rank = e.rank or _rank(spec, written)
    counted: Any = report.to_dict()["work"]
    work = {
        kind: str(found["count"] if found["value"] is None else f"{found['value']:,}")
        for kind, found in counted.items()
    }
    return Costs(rank, written[rank], derived[rank], str(state(form, rank)), work, missing)


def priced(spec: Cascade, settings: Mapping[str, Number]) -> tuple[Report, str]:
    """What a spec costs; where it refuses the settings, for extents that are symbols, and why."""
    try:
        return analyse(spec, dict(settings), {}), ""
    except InputError as error:
        return analyse(spec, {}, {}), "; ".join(d.message for d in error.diagnostics)


def _rank(spec: Cascade, written: Mapping[str, int]) -> str:
    """The rank of the steps, else that which the most passes are over."""
    steps = {t.ranks[t.iterative] for t in spec.tensors.values() if t.iterative is not None}
    return max(written, key=lambda r: (r in steps, written[r], r not in ("e", "f", "d"), r == "m"))


def settings_of(spec: Cascade, settings: Mapping[str, Number]) -> dict[str, Number]:
    """Those of the settings that a spec has a name for."""
    own = {r.name.upper() for r in spec.ranks if not r.declared} | {p.name for p in spec.params}
    return {n: v for n, v in settings.items() if n in own}


def check_names(found: Iterable[Entry], settings: Mapping[str, Number]) -> None:
    """Raises `InputError` for a setting that no mechanism has a name for."""
    from cascade import api

    if settings:
        specs = [api.parse(e.text, f"{e.name}.cascade") for e in found]
        known = {n for spec in specs for n in settings if settings_of(spec, {n: 0})}
        for name in settings.keys() - known:
            every = {n for spec in specs for n in setting_names(spec)}
            hints = did_you_mean(name, every)
            raise input_error("setting", f"no mechanism has an extent or param `{name}`", *hints)


def chosen(
    passes: int | None = None, linear: bool = False, settings: Mapping[str, Number] | None = None
) -> list[tuple[Entry, Costs]]:
    """The mechanisms with so many derived passes, or with a state, and their costs."""
    check_names(entries(), settings or {})
    found = []
    for e in entries():
        if linear and not (e.recurs or e.family == "linear"):
            continue
        c = costs(e, settings)
        if passes is None or c.derived == passes:
            found.append((e, c))
    return found


def listed(found: list[tuple[Entry, Costs]], priced: bool) -> str:
    """A table for the screen."""
    header = ["name", "family", "passes", *(["mac", "exp"] if priced else []), "what it is"]
    rows = []
    for e, c in found:
        work = [c.work.get("mac", "0"), c.work.get("exp", "0")] if priced else []
        rows.append([e.name, e.family, _passes(c), *work, _short(e.title)])
    missing = [f"{e.name}: {c.missing}" for e, c in found if c.missing]
    return "\n".join([table(header, rows, indent=""), *missing])


def _passes(c: Costs) -> str:
    changed = f"{c.written} -> {c.derived}" if c.written != c.derived else str(c.written)
    return f"{c.rank}: {changed}"


def _short(title: str, most: int = 60) -> str:
    return title if len(title) <= most else f"{title[: most - 1].rstrip()}…"


def markdown() -> str:
    """The text of docs/zoo.md."""
    found = chosen()
    families = dict.fromkeys(e.family for e, _ in found)
    parts = [PREFACE]
    for family in families:
        rows = [
            f"| [{e.name}](../examples/zoo/{e.name}.cascade) | {e.title} | {e.source} | "
            f"{c.rank}: {c.written} | {c.derived} | {c.state} | {_products(c)} | {_form(e)} |"
            for e, c in found
            if e.family == family
        ]
        parts.append(
            f"## {family.capitalize()}\n\n"
            f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n" + "\n".join(rows) + "\n"
        )
        notes = [f"- `{e.name}`: {e.why}" for e, _ in found if e.family == family and e.why]
        if notes:
            parts.append("Of these counts:\n\n" + "\n".join(notes) + "\n")
    return "\n".join([*parts, literature.markdown()])


def _products(c: Costs) -> str:
    return c.work.get("mac", "0").replace("*", " ")


def _form(e: Entry) -> str:
    return "recurrence, chunked" if e.recurs else "streaming"


def as_dict(e: Entry, c: Costs) -> dict[str, Any]:
    """For programs."""
    row = {
        "name": e.name,
        "title": e.title,
        "source": e.source,
        "form": e.form,
        "family": e.family,
        "passes": {"rank": c.rank, "written": c.written, "derived": c.derived},
        "state": c.state,
        "work": dict(c.work),
    }
    return row | {"missing": c.missing} if c.missing else row
