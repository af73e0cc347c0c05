"""Every mistake has a message that helps; the expected ones are in files beside the wrong specs.

`pytest tests/errors --update-golden` writes the messages as they come out, and docs/errors.md.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cascade
from cascade.diagnostics import CascadeError, InputError
from tests.errors import make_docs
from tests.errors.inputs import RUNS
from tests.errors.texts import CALLS

HERE = Path(__file__).parent
SPECS = sorted(HERE.glob("*.cascade"))


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_message(path, golden):
    text = path.read_bytes().decode()
    try:
        found = "\n\n".join(w.render() for w in cascade.parse(text, path.name).warnings)
    except CascadeError as error:
        found = str(error)
    assert found, "neither an error nor a warning"
    golden(path.with_suffix(".txt"), found)


@pytest.mark.parametrize("run", RUNS, ids=lambda r: r.name)
def test_wrong_input(run, golden):
    spec = cascade.parse(run.spec, "spec.cascade")
    with pytest.raises(InputError) as caught:
        cascade.run(spec, run.inputs, run.settings)
    golden(HERE / "inputs" / f"{run.name}.txt", str(caught.value))


@pytest.mark.parametrize("name", CALLS)
def test_made_text(name, golden, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CascadeError) as caught:
        CALLS[name]()
    golden(HERE / "texts" / f"{name}.txt", str(caught.value))


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_message_for_programs(path):
    """The same findings as data: a code, a place in the file, the hints."""
    try:
        findings = cascade.parse(path.read_bytes().decode(), path.name).warnings
    except CascadeError as error:
        findings = error.diagnostics
    for finding in findings:
        data = finding.to_dict()
        assert data["code"] == finding.code
        assert data["severity"] in ("error", "warning")
        assert data["file"] == path.name
        assert finding.span is not None
        assert 0 <= finding.span.start <= finding.span.end <= len(finding.span.source.text)


def test_every_code_has_an_expected_message():
    assert make_docs.codes_in_source() - set(make_docs.examples()) == set()


def test_no_expected_message_is_left_over():
    used = {p.with_suffix(".txt") for p in SPECS}
    used |= {HERE / "inputs" / f"{r.name}.txt" for r in RUNS}
    used |= {HERE / "texts" / f"{name}.txt" for name in CALLS}
    assert set(HERE.rglob("*.txt")) - used == set()


def test_messages_speak_of_the_language():
    """No terminal of the grammar, no Python type, no unfilled place."""
    for path in HERE.rglob("*.txt"):
        first = [line for line in path.read_text("utf-8").splitlines() if "error[" in line]
        for line in first:
            assert not re.search(r"__ANON|LSQB|RSQB|Token\(|None|Traceback|``", line), path.name
            assert not line.endswith((".", ":", " ")), path.name


def test_page_is_up_to_date(golden):
    golden(make_docs.PAGE, make_docs.page())
