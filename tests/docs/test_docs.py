"""Every block of docs/*.md and README.md is run, and what a page shows is what comes out.

```cascade  is parsed. A comment `# x = [1, 2]` gives an input or a setting, or the value of any
            other tensor, which must be exact; `absent` is a point without a value. A comment
            `# error: code` says that the text must be refused. Without `output`, every tensor is
            one.
```python   is run, in one namespace for the page; `spec` is the cascade of the block above.
```sh       has its `cascade …` lines run, in a folder with `examples/`, `spec.cascade` (the first
            cascade of the page) and `data.npz`; other lines are left alone.
```toml     is the file `machine.toml` for the commands after it.
```text     right after one of these is its output; after a cascade its analysis. A page may show
            some sections (parted by empty lines) of a report only, each from its first line on.

A fence without a language is a picture and is not run. `pytest tests/docs --update-golden` (or
CASCADE_UPDATE_GOLDEN=1) rewrites outputs and values in the pages.
"""

from __future__ import annotations

import contextlib
import io
import json
import linecache
import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cascade
from cascade import api, cli
from cascade.backends.arrays import as_inputs
from cascade.backends.reference import Stored, filled
from cascade.backends.reference import run as run_all
from cascade.ir.cascade import Cascade
from cascade.ir.extents import bind

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md")) + [p for p in [ROOT / "README.md"] if p.exists()]
RUN = ("cascade", "python", "sh", "toml")
FENCE = re.compile(r"^```(\S*)(.*)$")
VALUE = re.compile(r"^# (\w+) = (.*)$")
ERROR = re.compile(r"^# error: ([a-z-]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, and the lines of the page it takes up."""

    language: str
    text: str
    first: int
    last: int


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    start, language = None, ""
    lines = page.splitlines()
    for n, line in enumerate(lines):
        fence = FENCE.match(line)
        if start is None and fence:
            start, language = n, fence[1]
        elif start is not None and line == "```":
            text = "\n".join(lines[start + 1 : n]) + "\n"
            found.append(Block(language, text, start + 1, n))
            start = None
    assert start is None, f"the block of line {start} is never closed"
    return found


def shown_output(page: str, blocks: list[Block], n: int) -> Block | None:
    """The ```text block right after block n."""
    if n + 1 == len(blocks) or blocks[n + 1].language != "text":
        return None
    between = page.splitlines()[blocks[n].last + 1 : blocks[n + 1].first - 1]
    return None if any(line.strip() for line in between) else blocks[n + 1]


# -- cascades


def spec_of(text: str) -> Cascade:
    """The cascade of a block; without `output`, every tensor is one."""
    if not re.search(r"^output ", text, re.MULTILINE):
        found = re.findall(r"^(?:init +)?(\w+)(?:\[[^=\]]*\])? *=", text, re.MULTILINE)
        text += f"output {', '.join(dict.fromkeys(found))}\n"
    return api.parse(text, "spec.cascade")


def check_cascade(block: Block, spec: Cascade) -> str:
    """The text of the block with the values as they come out."""
    values = values_of(block.text)
    given = {v.name: v.text for v in values}
    shown = [name for name in given if name in spec.definitions]
    if not shown:
        return block.text
    inputs = {t.name: json_value(given[t.name]) for t in spec.inputs}
    settings = {n: json_value(v) for n, v in given.items() if n not in spec.tensors}
    arrays = as_inputs(spec, inputs)
    bindings = bind(spec, {n: a.shape for n, a in arrays.items()}, settings)
    tensors = run_all(spec, arrays, bindings)
    outputs = {name: filled(tensors[name]) for name in spec.outputs}
    for result in api.recheck(spec, inputs, settings, outputs):
        assert result["agrees"], result
    lines = block.text.splitlines()
    for value in reversed([v for v in values if v.name in shown]):
        lines[value.first : value.last] = comment(value.name, spelled(tensors[value.name]))
    return "\n".join(lines) + "\n"


@dataclass
class Value:
    """What comments say of a tensor, and their lines in the block."""

    name: str
    text: str
    first: int
    last: int


def values_of(text: str) -> list[Value]:
    """The values that comments give; one may go on over several comment lines."""
    found: list[Value] = []
    for n, line in enumerate(text.splitlines()):
        value = VALUE.match(line)
        if value:
            found.append(Value(value[1], value[2], n, n + 1))
        elif found and found[-1].last == n and line.startswith("#    "):
            found[-1].text += " " + line[1:].strip()
            found[-1].last = n + 1
    return found


def json_value(text: str) -> Any:
    return json.loads(re.sub(r"\binf\b", "Infinity", text))


def comment(name: str, value: str) -> list[str]:
    """`# name = value`, rows of a long matrix on lines of their own."""
    head = f"# {name} = "
    if len(head + value) <= 76:
        return [head + value]
    return (head + value.replace("], [", "],\n#" + " " * (len(head) - 1) + " [")).splitlines()


def spelled(tensor: Stored) -> str:
    present = filled(Stored(np.ones(tensor.array.shape), tensor.conditions)) > 0

    def part(array: Any, there: Any) -> str:
        if array.ndim:
            return f"[{', '.join(part(a, t) for a, t in zip(array, there, strict=True))}]"
        return number(array.item()) if there else "absent"

    return part(tensor.array, present)


def number(value: float | int | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def sections(report: str, shown: str) -> str:
    """The sections of a report whose first lines are shown; the whole report if one is missing."""
    found = report.rstrip("\n").split("\n\n")
    heads = [section.splitlines()[0] for section in shown.strip().split("\n\n")]
    wanted = [s for s in found if s.splitlines()[0] in heads]
    return "\n\n".join(wanted if len(wanted) == len(heads) else found) + "\n"


# -- commands


def run_commands(text: str) -> str:
    """What the `cascade …` lines of a block print; each must succeed."""
    printed = ""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["cascade"]:
            continue
        code, output = command(words)
        assert code == 0, f"`{line}` failed with {code}:\n{output}"
        printed += output
    return printed


def command(words: list[str]) -> tuple[int, str]:
    """Exit code and output of the command line, in this process."""
    output, before = io.StringIO(), sys.argv
    sys.argv = words
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            cli.main()
    except SystemExit as e:
        return int(e.code or 0), output.getvalue()
    finally:
        sys.argv = before
    return 0, output.getvalue()


def run_python(text: str, namespace: dict[str, Any], name: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), namespace)
    return output.getvalue()


# -- pages


class Page:
    """A page being run; `replaced` collects what its blocks should say."""

    def __init__(self, path: Path):
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.blocks = blocks_of(self.text)
        self.namespace: dict[str, Any] = {}
        self.replaced: list[tuple[Block, str]] = []

    def run(self) -> None:
        for n, block in enumerate(self.blocks):
            if block.language in RUN:
                try:
                    self._block(block, shown_output(self.text, self.blocks, n))
                except Exception as e:
                    e.add_note(f"in the block of {self.path.name}, line {block.first}")
                    raise

    def _block(self, block: Block, shown: Block | None) -> None:
        if block.language == "cascade":
            output = self._cascade(block, shown)
        elif block.language == "toml":
            output = ""
            Path("machine.toml").write_text(block.text)
        elif block.language == "sh":
            output = run_commands(block.text)
            output = sections(output, shown.text) if shown else output
        else:
            output = run_python(block.text, self.namespace, f"{self.path.name}:{block.first}")
            assert shown or not output, f"prints {output!r}, and the page does not show it"
        if shown is not None:
            self.replaced.append((shown, trimmed(output)))

    def _cascade(self, block: Block, shown: Block | None) -> str:
        error = ERROR.search(block.text)
        if error:
            with pytest.raises(cascade.CascadeError) as raised:
                spec_of(block.text)
            assert error[1] in [d.code for d in raised.value.diagnostics], str(raised.value)
            return f"{raised.value}\n"
        spec = spec_of(block.text)
        self.namespace["spec"] = spec
        self.replaced.append((block, check_cascade(block, spec)))
        return sections(str(cascade.analyse(spec)), shown.text) if shown else ""

    def refreshed(self) -> str:
        lines = self.text.splitlines()
        for block, text in reversed(self.replaced):
            lines[block.first : block.last] = text.splitlines()
        return "\n".join(lines) + "\n"


def trimmed(text: str) -> str:
    """Without spaces at the ends of lines, which pages do not keep."""
    return "\n".join(line.rstrip() for line in text.rstrip("\n").splitlines()) + "\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the shipped examples and some data, as the current one."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    draw = np.random.default_rng(0).standard_normal
    q, k, v = draw((5, 4)), draw((7, 4)), draw((7, 3))
    np.savez(tmp_path / "data.npz", Q=q, K=k, V=v)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def update(config: pytest.Config) -> bool:
    asked = config.getoption("--update-golden", default=False)
    return bool(asked) or os.environ.get("CASCADE_UPDATE_GOLDEN") == "1"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_page(path, folder, request):
    page = Page(path)
    first = next((b.text for b in page.blocks if b.language == "cascade"), None)
    if first is not None:
        (folder / "spec.cascade").write_text(first)
    page.run()
    if update(request.config):
        path.write_text(page.refreshed(), encoding="utf-8")
        return
    for block, text in page.replaced:
        assert block.text == text, f"{path.name}, line {block.first}"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_blocks_are_of_a_known_kind(path):
    page = path.read_text(encoding="utf-8")
    blocks = blocks_of(page)
    outputs = [shown_output(page, blocks, n) for n, b in enumerate(blocks) if b.language in RUN]
    for block in blocks:
        assert block.language in (*RUN, "text", ""), f"line {block.first}"
        if block.language == "text":
            assert block in outputs, f"line {block.first}: this text is the output of no block"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    prose = re.sub(r"(?ms)^```.*?^```$|`[^`]*`", "", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_a_wrong_value_is_found():
    text = "input x[m]\ny[m] = x[m+1] ?? 0\n\n# x = [1, 2]\n# y = [1, 2]\n"
    block = Block("cascade", text, 0, 0)
    assert check_cascade(block, spec_of(text)).endswith("# y = [2, 0]\n")
