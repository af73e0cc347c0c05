"""The command line: exit codes, JSON in every case, the bar of long work."""

import json
import sys
import time
from io import StringIO

import numpy as np
import pytest

from cascade import api, cli

SPEC = "input x[p,m]\n\ny[p] = sum[m](x[p,m])\n\noutput y\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A right spec, a wrong one, and data, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.cascade").write_text(SPEC)
    (tmp_path / "bad.cascade").write_text(SPEC.replace("x[p,m])", "z[p,m])"))
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3)))


@pytest.fixture
def cascade(monkeypatch, capsys):
    """`cascade("check s.cascade")`: exit code, standard output, standard error."""

    def run(line):
        monkeypatch.setattr(sys, "argv", ["cascade", *line.split()])
        code: object = 0
        try:
            cli.main()
        except SystemExit as e:
            code = e.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("check s.cascade", 0),
        ("check s.cascade bad.cascade", 1),
        ("check nope.cascade", 1),
        ("check .", 1),
        ("check", 2),
        ("fmt s.cascade", 0),
        ("fmt .", 1),
        ("analyse s.cascade", 0),
        ("analyse bad.cascade", 1),
        ("analyse s.cascade --set M=two", 2),
        ("analyse s.cascade --set M=-1", 3),
        ("analyse s.cascade --target nope", 3),
        ("derive s.cascade", 0),
        ("derive bad.cascade", 1),
        ("derive s.cascade --chunk --explain", 2),
        ("derive s.cascade --emit nowhere/t.cascade", 3),
        ("run s.cascade -i x.npz --check -o y.npy", 0),
        ("run bad.cascade", 1),
        ("run s.cascade --random one", 2),
        ("run s.cascade", 3),
        ("run s.cascade -i nope.npz", 3),
        ("run s.cascade --random 0 --set P=100000000,M=100000000", 3),
        ("graph s.cascade -o s.dot", 0),
        ("graph bad.cascade -o s.dot", 1),
        ("graph s.cascade", 2),
        ("graph s.cascade -o s.pdf", 3),
        ("examples", 0),
        ("examples attention", 0),
        ("examples atention", 3),
        ("examples attention --copy-to s.cascade/in", 3),
        ("bench", 2),
        ("nothing", 2),
    ],
)
def test_exit_code_and_json(cascade, line, code):
    found, printed, told = cascade(line)
    assert found == code
    assert (printed and not told) if code == 0 else told
    found, printed, told = cascade(f"{line} --json")
    assert found == code and told == ""
    data = json.loads(printed)
    if code:
        assert all(e["severity"] == "error" and e["message"] for e in data["errors"])


@pytest.mark.parametrize("flag", ["", " --json"])
def test_a_disagreement_is_a_bug_and_not_a_wrong_spec(cascade, monkeypatch, flag):
    row = {"tensor": "y", "compared": 1, "points": 2, "error": 1.0, "agrees": False}
    monkeypatch.setattr(api, "recheck", lambda *_, **__: [row])
    code, printed, told = cascade(f"run s.cascade -i x.npz --check{flag}")
    assert code == 70 and "disagree" in told
    if flag:
        assert json.loads(printed)["checks"] == [row]


class Terminal(StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("counts", [True, False])
def test_long_work_has_a_bar_whether_it_counts_or_not(monkeypatch, counts):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(cli, "SLOW", 0.01)
    with cli._Progress("waiting") as update:
        if counts:
            update(1, 4)
        end = time.monotonic() + 20
        while "waiting" not in screen.getvalue() and time.monotonic() < end:
            time.sleep(0.02)
    assert "waiting" in screen.getvalue()
    assert ("25%" in screen.getvalue()) == counts


def test_short_work_and_no_terminal_have_none(monkeypatch):
    for screen, slow in ((Terminal(), 60), (StringIO(), 0)):
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setattr(cli, "SLOW", slow)
        with cli._Progress("waiting"):
            time.sleep(0.05)
        assert screen.getvalue() == ""


def test_fmt_is_idempotent_on_every_example(cascade):
    cascade("examples --copy-to all")
    for name in api.list_examples():
        cascade(f"fmt -w all/{name}.cascade")
        assert cascade(f"fmt --check all/{name}.cascade")[0] == 0


def test_splits_are_predicted_and_checked(cascade):
    line = "run s.cascade --inputs x.npz --backend tiled --tile m=1 --split 2 --measure --json"
    code, out, err = cascade(line)
    assert code == 0, err
    kernels = json.loads(out)["measured"]["kernels"]
    assert set(kernels) == {"y", "y_parts"}
    for row in kernels.values():
        assert row["predicted"]["tensors"] == row["measured"]["tensors"]
    assert cascade("schedule s.cascade --split auto")[0] == 0
    wrong = ["run s.cascade --inputs x.npz --split 2", "schedule s.cascade --split 0"]
    wrong += ["schedule s.cascade --split few", "compile s.cascade -o k.py --stages 0"]
    wrong += [f"compile s.cascade -o k.py --tile {t}" for t in ("m", "m=1.5", "m=64,m=32")]
    for refused in wrong:
        assert cascade(refused)[0] == 2, refused


def test_a_tile_of_what_has_none_is_named(cascade):
    cascade("examples --copy-to all")
    line = "compile all/causal.cascade -o k.py --set E=16,F=16 --tile p=16,m=32"
    assert "warning" not in cascade(line)[1]
    code, out, _ = cascade(f"{line},e=8,b=2")
    assert code == 0
    assert [n for n in "bhpmef" if f"no tiles of `{n}`" in out] == ["b", "e"]
    code, _, said = cascade("schedule all/causal.cascade --tile p=16,e=8")
    assert code == 0 and "no tiles of `e`" in said and "of `p`" not in said
    given = "--random 0 --set B=1,H=1,P=4,M=4,E=4,F=4"
    code, _, said = cascade(f"run all/causal.cascade {given} --backend tiled --tile m=16,e=8")
    assert code == 0 and "no tiles of `e`" in said and "of `m`" not in said


def test_sizes_that_nobody_gave_are_named(cascade, tmp_path):
    (tmp_path / "two.cascade").write_text(
        "input q[p,e], k[m,e]\ns[p,m] = q[p,e] * k[m,e]\ny[p] = max[m](s[p,m])\noutput y\n"
    )
    code, out, _ = cascade("compile two.cascade -o k.py")
    assert code == 0 and "warning[assumed-size]: the kernels run for E = 64 only" in out
    code, out, _ = cascade("compile two.cascade -o k.py --set E=32")
    assert code == 0 and "warning" not in out
    warnings = json.loads(cascade("compile two.cascade -o k.py --json")[1])["warnings"]
    assert [w["code"] for w in warnings] == ["assumed-size"]
