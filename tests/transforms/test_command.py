"""`cascade derive` from the shell: its options, alone and together, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import cascade
from cascade.cli import cli

FOLDER = Path(__file__).resolve().parents[2] / "examples"


def run(*args: str, code: int = 0) -> str:
    found = CliRunner().invoke(cli, ["derive", *args])
    assert found.exit_code == code, found.output
    return found.output


def example(name: str) -> str:
    return str(FOLDER / f"{name}.cascade")


@pytest.mark.parametrize("name", ["attention", "entropy", "var_class_split", "landmark_blocks"])
def test_check_proves_and_compares(name):
    text = run(example(name), "--check")
    assert "obligations hold" in text and "0 disagree" in text and "FAILED" not in text


@pytest.mark.parametrize("name", ["retention", "delta_rule", "selective_state_space"])
def test_a_chunked_form_is_compared(name):
    assert "0 disagree" in run(example(name), "--chunk", "--check")


@pytest.mark.parametrize("steps", [0, 1, 2, 9])
def test_every_step_is_a_cascade(steps, tmp_path):
    file = tmp_path / "out.cascade"
    text = run(example("attention"), "--steps", str(steps), "--emit", str(file))
    assert text.count("\nStep ") == min(steps, 2)
    passes = cascade.analyse(cascade.load(file)).passes.of_rank()["m"]
    assert passes == (3, 2, 1)[min(steps, 2)]


def test_explain_says_that_steps_were_left_out():
    assert "Not all steps were taken." in run(example("attention"), "--steps", "1", "--explain")
    assert "No barrier remains." in run(example("attention"), "--explain")


def test_explain_names_each_barrier():
    text = run(example("landmark"), "--explain")
    assert "PL (line 21), over m" in text and "the presence of" in text
    assert text.count("would be removed by") == 2


def test_json_holds_the_check():
    found = json.loads(run(example("variance"), "--json", "--check"))
    assert found["check"]["ok"] and found["derived"]["passes"]["d"] == 1
    assert found["passes"]["d"] == 2 and "fewest" in found


def test_shifted_values_have_names_without_spaces():
    assert "exp(u_A_max) * V[b,h,m,f]" in run(example("attention"))


def test_chunk_does_not_go_with_steps():
    assert "--chunk stands alone" in run(example("retention"), "--chunk", "--steps", "1", code=2)
