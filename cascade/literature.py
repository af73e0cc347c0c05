"""Papers of the field that have no attention algorithm of their own, and what a spec offers them.

The examples are the files of `examples/zoo/papers`: the first line says what an example is, a line
`# Paper:` names each paper that needs it, and `# Offers:` says what it shows.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from cascade import api

PREFACE = """## Papers without an attention of their own

What they need of attention, in a spec of a few lines each (`examples/zoo/papers`; `cascade zoo
NAME` prints one, too), tested against NumPy (`tests/zoo/test_papers.py`). Per-head outputs, head
scales, group sums and statistics cost no pass: the counts are those of attention alone.
"""

# What a paper is about, and where it is.
COVERED = (
    ("FuseMax: the notation itself, and the count of passes", "[fusemax.md](fusemax.md)"),
    ("Kinetics: costs of generating text", "`block_topk`, [analysis.md](analysis.md#decoding)"),
    ("Graph of tokens in a sparse mixture of experts", "`attention_aware_routing`"),
    ("CAB: a benchmark of attention in four patterns", "`cab_causal_self` and its like"),
    ("BAM: a mixture of attention experts", "`bam`, `bam_shared`"),
    ("Attention sinks: other normalisers, biases", "`sink_bias`, `sink_sigmoid` and their like"),
    ("Visual analytics of vision transformers: hops, entropy, peaks", "`head_statistics`"),
    ("In-context linear regression", "`in_context_regression`"),
    ("Recall of efficient models (MQAR): an accuracy test", "`examples/train_recall.py`"),
)


@dataclass(frozen=True)
class Example:
    """A spec of a few lines, the papers that need it, and what it offers them."""

    name: str
    title: str
    papers: tuple[str, ...]
    offers: str
    text: str

    @property
    def body(self) -> str:
        """The spec without its head."""
        lines = self.text.splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("# "))


def examples() -> Iterator[Example]:
    """Every example, by name."""
    folder = files("cascade.examples") / "zoo" / "papers"
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        if path.name.endswith(".cascade"):
            yield _example(path.name.removesuffix(".cascade"), path.read_text("utf-8"))


def _example(name: str, text: str) -> Example:
    head = [line[2:] for line in text.splitlines() if line.startswith("# ")]
    said = [line.partition(": ")[::2] for line in head[1:]]
    papers = tuple(value for key, value in said if key == "Paper")
    offers = next((value for key, value in said if key == "Offers"), "")
    return Example(name, head[0] if head else name, papers, offers, text)


def passes(e: Example) -> tuple[str, int, int]:
    """The rank of tokens, and the passes over it as written and derived."""
    report = api.analyse(api.parse(e.text, f"{e.name}.cascade"))
    written = report.passes.of_rank()
    rank = "m" if "m" in written else next(iter(written))
    return rank, written[rank], (report.derived_passes or written)[rank]


def markdown() -> str:
    """The part of docs/zoo.md that lists the papers."""
    rows = "\n".join(f"| {what} | {where} |" for what, where in COVERED)
    covered = (
        f"Papers that other pages and mechanisms cover:\n\n| paper | see |\n|---|---|\n{rows}\n"
    )
    return "\n".join([PREFACE, *map(_section, examples()), covered])


def _section(e: Example) -> str:
    rank, written, derived = passes(e)
    counted = f"{written} as written, {derived} derived" if written != derived else str(written)
    said = textwrap.fill(f"{e.title} Offered: {e.offers}. Passes over `{rank}`: {counted}.", 100)
    papers = "\n".join(f"- {paper}" for paper in e.papers)
    return f"### {e.name}\n\n{said}\n\n{papers}\n\n```cascade\n{e.body}```\n"
