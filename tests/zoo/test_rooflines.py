"""Time floors of the mechanisms on GPUs: numbers, bounds, pictures."""

import json

import pytest
from click.testing import CliRunner

import cascade
from cascade import rooflines, zoo
from cascade.analysis.targets import gpu_targets, load_target
from cascade.cli import cli


def run(*words):
    return CliRunner().invoke(cli, ["zoo", *words], catch_exceptions=False)


def one(name, target="h100", **settings):
    (found,) = rooflines.compute([target], settings, [name])
    return found.to_dict()


def test_decoding_is_bound_by_memory_and_prefill_by_arithmetic():
    m, e, h = 32768, 128, 32
    decode = one("tidal_select", M=m, E=e, F=e, H=h, B=1, J=256)
    moved = 2 * h * (2 * m * e + 2 * e) + 4 * h * 256
    assert decode["bytes"] == moved and decode["bound"] == "memory"
    assert decode["floor_s"] == pytest.approx(moved / 3.35e12)
    prefill = one("sink_bias", M=m, P=m)
    assert prefill["bound"] == "mac" and prefill["intensity"] > prefill["balance"]
    assert prefill["compute_s"] == prefill["floor_s"] > prefill["memory_s"]


def test_exponentials_bound_what_a_faster_tensor_core_leaves():
    assert one("flash_attention", "a100")["bound"] == "mac"
    faster = one("flash_attention", "b200")
    assert faster["bound"] == "exp" and faster["speed"] < faster["peak"]


def test_every_mechanism_has_a_floor_on_every_gpu():
    found = rooflines.compute(gpu_targets())
    priced = [p.to_dict() for p in found if p.roof is not None]
    assert {p.entry.name for p in found} == {e.name for e in zoo.entries()}
    assert all(p.missing for p in found if p.roof is None)
    for row in priced:
        assert row["floor_s"] == max(row["memory_s"], row["compute_s"]) > 0
        assert (row["bound"] == "memory") == (row["memory_s"] >= row["compute_s"])
        roof = row["peak"] * min(1, row["intensity"] / row["balance"])
        assert row["speed"] <= 1.05 * roof  # other units work beside the tensor cores


def test_what_the_user_sets_goes_first():
    given = one("agent_attention", N=128)["extents"]
    usual = one("agent_attention")["extents"]
    assert (given["n"], usual["n"], usual["m"]) == (128, 64, 4096)


def test_steps_of_a_recurrence_are_tokens():
    assert one("gla")["extents"]["i"] == one("flash_attention")["extents"]["p"]


def test_an_extent_that_nothing_gives_is_named(monkeypatch):
    entry = zoo.Entry("odd", "odd", "", "", "", "", "input x[z]\ny = sum[z](x[z])\noutput y\n")
    monkeypatch.setattr(rooflines, "entries", lambda: [entry])
    found = rooflines.compute(["h100", "a100"])
    assert len(found) == 1 and "`Z`" in found[0].missing
    assert "odd: the extent `Z`" in rooflines.text(found)
    assert "missing" in found[0].to_dict()
    with pytest.raises(cascade.InputError, match="nothing to draw"):
        rooflines.draw(found, "a.svg")


def test_gathered_inputs_move_what_is_read():
    text = "input x[m], at[j]: i32\ny[j] = x[at[j]]\noutput y\n"
    report = cascade.analyse(cascade.parse(text), {"M": 1000, "J": 10})
    assert report.traffic.compulsory_bytes(report.extents) == 2 * 10 + 4 * 10 + 2 * 10
    assert "min(M, J)" in str(report)
    small = cascade.analyse(cascade.parse(text), {"M": 5, "J": 10})
    assert small.traffic.compulsory_bytes(small.extents) == 2 * 5 + 4 * 10 + 2 * 10
    both = cascade.analyse(cascade.parse(text.replace("at[j]]", "at[j]] + x[j]")), {"M": 9, "J": 1})
    assert both.traffic.compulsory_bytes(both.extents) == 2 * 9 + 4 + 2


def test_command(tmp_path):
    lines = run("--roofline", "--target", "h100", "--target", "a100").output.splitlines()
    assert "H100" in lines[0] and "A100" in lines[0]
    alone = run("flash_attention", "--roofline", "--target", "h100").output.splitlines()
    assert len(alone) == 2 and alone[0].split()[2:4] == ["memory", "compute"]
    picture = tmp_path / "a.svg"
    shown = run("flash_attention", "--roofline", "--plot", str(picture)).output
    assert "written to" in shown and "flash_attention" in picture.read_text()
    rows = json.loads(run("flash_attention", "--roofline", "--json").output)
    assert {r["target"] for r in rows} == {load_target(t).name for t in gpu_targets()}
    linear = json.loads(run("--roofline", "--target", "h100", "--linear", "--json").output)
    assert {r["name"] for r in linear} == {e.name for e, _ in zoo.chosen(linear=True)}
    assert run("flash_attention", "--roofline", "--linear").exit_code == 2


def test_a_target_needs_the_roofline():
    assert run("--target", "h100").exit_code == 2
    assert run("--plot", "a.svg").exit_code == 2
    with pytest.raises(cascade.InputError, match="neither an"):
        run("flash_attention", "--roofline", "--plot", "a.pdf")
