"""Workloads: shipped, one's own, and wrong ones."""

import pytest

from cascade.diagnostics import InputError
from cascade.spatial.workload import load_workload, shipped_workloads

OWN = """
name = "mine"
length = ["m"]
tokens = ["b"]
[extents]
b = 2
e = 32
[linear]
up = [32, 64]
"""


def test_shipped():
    assert shipped_workloads() == ("bert", "t5", "trxl", "xlm")
    bert = load_workload("BERT")
    assert bert.extents(1024) == {"b": 64, "h": 12, "e": 64, "f": 64, "m": 1024, "p": 1024}
    assert bert.tokens(1024) == 64 * 1024
    assert [layer for layer, _, _ in bert.linear] == ["q", "k", "v", "out", "expand", "contract"]


def test_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    mine = load_workload(str(path))
    assert mine.extents(7) == {"b": 2, "e": 32, "m": 7}
    assert mine.tokens(7) == 2
    assert mine.linear == (("up", 32, 64),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is not a workload file"),
        ('length = ["m"]', r"`\[extents\]` must give"),
        ('length = "m"\n[extents]\nb = 1', "`length` must be a list"),
        ("[extents]\nb = 0", r"`\[extents\]` must give a positive"),
        ('tokens = ["z"]\n[extents]\nb = 1', "names rank z"),
        ("[extents]\nb = 1\n[linear]\nup = [3]", "layer up must be"),
    ],
)
def test_wrong(tmp_path, text, message):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_workload(str(path))


def test_unknown():
    with pytest.raises(InputError, match="did you mean `bert`"):
        load_workload("brt")
    with pytest.raises(InputError, match="there is no workload file"):
        load_workload("nowhere.toml")
