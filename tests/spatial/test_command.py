"""`cascade model` on the command line."""

import csv
import json
import sys
from pathlib import Path

import pytest

from cascade import cli, modelling
from cascade.diagnostics import InputError

SPEC = str(Path(__file__).parents[2] / "examples" / "attention.cascade")


@pytest.fixture
def cascade(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cascade", *words])
        code: object = 0
        try:
            cli.main()
        except SystemExit as e:
            code = e.code or 0
        return code, *capsys.readouterr()

    return run


def test_a_point(cascade):
    code, out, _ = cascade("model", SPEC, "--set", "B=2,H=4,M=4096,E=64,F=64", "--json")
    assert code == 0
    (row,) = json.loads(out)
    assert row["mapping"]["cycles_per_tile"] == {"2d": 137, "1d": 138}
    for key in ("latency_s", "cycles_2d", "cycles_1d", "utilisation_2d", "utilisation_1d"):
        assert row[key] > 0
    assert set(row["energy_j"]) == {"published", "charged"}


def test_a_sweep_with_everything(cascade, tmp_path):
    code, out, _ = cascade(
        *("model", SPEC, "--target", "fusemax", "--target", "flat", "--baseline", "flat"),
        *("--workload", "bert", "--sweep", "M=1024:16384:4", "--csv", "rows.csv", "-o", "a.svg"),
    )
    assert code == 0
    assert "16,384" in out
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert [int(r["M"]) for r in rows] == [1024, 1024, 4096, 4096, 16384, 16384]
    assert float(rows[0]["speedup"]) == pytest.approx(6.65, abs=0.01)
    assert "<svg" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("kind", ["utilisation", "latency", "speedup", "energy", "pareto"])
def test_every_picture(cascade, tmp_path, kind):
    code, _, _ = cascade(
        *("model", SPEC, "--target", "fusemax", "--target", "flat", "--baseline", "flat"),
        *("--workload", "t5", "--sweep", "M=1024,2048", "--plot", kind, "-o", f"{kind}.svg"),
    )
    assert code == 0
    assert "<svg" in (tmp_path / f"{kind}.svg").read_text()


def test_statements(cascade):
    code, out, _ = cascade("model", SPEC, "--workload", "bert", "--set", "M=4096", "--statements")
    assert code == 0
    assert "once a query tile" in out


def test_paper(cascade):
    code, out, _ = cascade("model", "--paper", "fusemax", "--json")
    assert code == 0
    rows = json.loads(out)
    assert {"BERT", "TrXL", "T5", "XLM"} == {r["model"] for r in rows}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "give a spec"),
        (("--paper", "fusemax", SPEC), 2, "stands alone"),
        ((SPEC, "--target", "h200", "--set", "M=64"), 3, "is no array"),
        ((SPEC, "--target", "fusemx", "--set", "M=64"), 3, "did you mean `fusemax`"),
        ((SPEC, "--sweep", "M=0:4"), 3, "is no sweep"),
        ((SPEC, "--workload", "bert"), 3, "has no length"),
        ((SPEC, "--set", "M=64"), 3, "extent"),
        (
            (SPEC, "--workload", "bert", "--set", "M=64", "--plot", "latency", "-o", "a.svg"),
            3,
            "needs a sweep",
        ),
        (
            (SPEC, "--workload", "bert", "--sweep", "M=64,65", "--plot", "speedup", "-o", "a.svg"),
            3,
            "needs a baseline",
        ),
        ((SPEC, "--workload", "bert", "--set", "M=64", "-o", "a.pdf"), 3, "neither an .svg"),
    ],
)
def test_mistakes(cascade, words, code, message):
    found, _, err = cascade("model", *words)
    assert (found, message in err) == (code, True), err


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("M=4:16", (4, 8, 16)),
        ("M=4:20", (4, 8, 16)),
        ("M=4:64:4", (4, 16, 64)),
        ("M=3,5", (3, 5)),
        ("M,P=7", (7,)),
    ],
)
def test_sweeps(text, values):
    assert modelling.read_sweep(text).values == values


@pytest.mark.parametrize("text", ["M", "M=", "=4", "M=8:4", "M=4:8:1", "M=1:2:3:4", "M=a", "2=4"])
def test_wrong_sweeps(text):
    with pytest.raises(InputError, match="is no sweep"):
        modelling.read_sweep(text)


def test_schedule(cascade, tmp_path):
    words = ("schedule", SPEC, "--target", "fusemax", "--workload", "bert", "--set", "M=4096")
    code, out, _ = cascade(*words, "-o", "gantt.svg")
    assert code == 0
    assert "a tile every 138 cycles" in out
    assert "<svg" in (tmp_path / "gantt.svg").read_text()
    code, out, _ = cascade(*words, "--json")
    assert json.loads(out)["epochs"][0]["interval"] == 138


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--target", "fusemax", "--tile", "m=64"), 2, "has no meaning on an array"),
        (("--workload", "bert"), 2, "need --target"),
        (("--target", "flat", "--workload", "bert", "--set", "M=64"), 3, "has no epochs"),
        (
            ("--target", "fusemax", "--workload", "bert", "--set", "M=64", "-o", "a.pdf"),
            3,
            "neither an .svg",
        ),
    ],
)
def test_schedule_mistakes(cascade, words, code, message):
    found, _, err = cascade("schedule", SPEC, *words)
    assert (found, message in err) == (code, True), err
