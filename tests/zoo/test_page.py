"""The table of the zoo is current, and its commands work."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import cascade
from cascade import rooflines, zoo
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


def test_a_mechanism_that_refuses_the_extents_says_why():
    given = {n: 8 for n in "BHPMEFDNSR"} | {"A": 2}
    found = zoo.entry("mixture_of_heads")
    costs = zoo.costs(found, given)
    assert "`H == S + R` does not hold" in costs.missing and "B*E*H*M*P" in costs.work["mac"]
    listed = zoo.listed([(found, costs)], priced=True).splitlines()
    assert listed[-1] == f"mixture_of_heads: {costs.missing}"
    assert zoo.as_dict(found, costs)["missing"] == costs.missing
    (row,) = rooflines.compute(["h100"], given, ["mixture_of_heads"])
    assert row.missing == costs.missing
    assert not zoo.costs(found, given | {"H": 16}).missing


def test_a_setting_that_no_mechanism_has():
    with pytest.raises(cascade.InputError, match=r"`recnt`(?s:.*)`recent`"):
        run("--set", "recnt=4")
    with pytest.raises(cascade.InputError, match="`recnt`"):
        run("--roofline", "--set", "recnt=4")


def test_print_and_copy(tmp_path):
    text = run("flash_attention").output
    assert cascade.parse(text).name == "flash_attention"
    path = tmp_path / "mine.cascade"
    done = CliRunner().invoke(cli, ["new", "--from", "flash_attention", "-o", str(path)])
    assert done.exit_code == 0 and path.read_text() == text
    path.write_text("changed")
    with pytest.raises(cascade.InputError, match=r"exists already(?s:.*)-o mine"):
        CliRunner().invoke(
            cli, ["new", "--from", "flash_attention", "-o", str(path)], catch_exceptions=False
        )
    assert path.read_text() == "changed"


def test_an_example_for_papers():
    assert cascade.parse(run("head_patching").output).name == "head_patching"
    assert "Circuit Component Reuse" in PAGE.read_text("utf-8")


def test_what_is_not_there():
    with pytest.raises(cascade.InputError, match="flash_attention"):
        zoo.entry("flash_atention")
