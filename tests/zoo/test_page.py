"""The table of the zoo is current, and its commands work."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import cascade
from cascade import zoo
from cascade.cli import cli
from tests.zoo.test_zoo import ALL

PAGE = Path(__file__).resolve().parents[2] / "docs" / "zoo.md"


def run(*words):
    return CliRunner().invoke(cli, ["zoo", *words], catch_exceptions=False)


def test_page_is_current():
    assert PAGE.read_text("utf-8") == zoo.markdown(), "cascade zoo --markdown > docs/zoo.md"


def test_every_file_says_what_it_is():
    for e in zoo.entries():
        assert e.title and e.source and e.form, e.name
        assert e.family in ("softmax", "selection", "linear", "other"), e.name


def test_passes_are_those_of_the_register():
    """And where the literature counts others, the file says why."""
    found = {e.name: (e, c) for e, c in zoo.chosen()}
    for m in ALL:
        e, c = found[m.name]
        assert (c.rank, c.written, c.derived) == (m.rank, m.written, m.derived), m.name
        assert m.literature != (m.written, m.derived), m.name
        assert m.literature is None or e.why, m.name


def test_list_and_filters():
    every = json.loads(run("--json").output)
    assert len(every) >= 50
    one = json.loads(run("--passes", "1", "--json").output)
    assert 10 < len(one) < len(every)
    assert all(m["passes"]["derived"] == 1 for m in one)
    priced = run("--passes", "1", "--set", "M=4096,P=4096,E=64,F=64,B=1,H=1").output
    assert "2,147,483,648" in priced


def test_print_and_copy(tmp_path):
    text = run("flash_attention").output
    assert cascade.parse(text).name == "flash_attention"
    path = tmp_path / "mine.cascade"
    done = CliRunner().invoke(cli, ["new", "--from", "flash_attention", "-o", str(path)])
    assert done.exit_code == 0 and path.read_text() == text


def test_an_example_for_papers():
    assert cascade.parse(run("head_patching").output).name == "head_patching"
    assert "Circuit Component Reuse" in PAGE.read_text("utf-8")


def test_what_is_not_there():
    with pytest.raises(cascade.InputError, match="flash_attention"):
        zoo.entry("flash_atention")
