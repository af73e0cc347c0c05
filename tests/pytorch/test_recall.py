"""The training example learns its task."""

import pytest

pytest.importorskip("torch")

from cascade.examples.train_recall import SPECS, main


def recalled(name, steps, tmp_path):
    picture = tmp_path / "recall.svg"
    curve = main(["--only", name, "--steps", str(steps), "--plot", str(picture)])[name]
    assert picture.read_text().lstrip().startswith("<?xml")
    assert len(curve) == steps
    return sum(right for _, right in curve[-5:]) / 5


def test_softmax_learns_recall(tmp_path):
    assert recalled("softmax", 50, tmp_path) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in SPECS if n != "softmax"])
def test_linear_mechanisms_learn_recall(name, tmp_path):
    assert recalled(name, 100, tmp_path) > 0.95
