"""Drawings of cascades: complete, deterministic, without overlaps, and right about who waits."""

import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cascade import api
from cascade.analysis.passes import count_passes
from cascade.backends.drawing import CHARACTER, PAD, draw, graph, layout, to_dict, to_dot
from cascade.diagnostics import InputError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.cascade"))
DRAWN = ("attention", "attention_1pass", "delta_rule")

COUPLED = """
cascade coupled
input A[i,e], B[i,e], C[m,e]
rank  j < I
init  X[0,e] = 0, Y[0,e] = 1
X[i+1,e] = X[i,e] * A[i,e] + Y[i,e]
Y[i+1,e] = Y[i,e] + B[i,e] * X[i,e]
L[i]     = A[i,0] - sum[j](L[j] * B[j,0] where j < i)
N[m]     = order[m](C[m,0]) + 1
S[j,e]   = top[m -> j](C[m,e]) + 1
output X, L, N, S
"""


def counted(name):
    spec = api.parse(COUPLED) if name == "coupled" else api.load(EXAMPLES / f"{name}.cascade")
    return spec, count_passes(spec)


def edges(name, kind):
    return {(e.source, e.target) for e in graph(*counted(name)).edges if e.kind == kind}


@pytest.mark.parametrize("name", DRAWN)
def test_svg_holds_every_tensor_and_is_the_same_each_time(name, tmp_path):
    spec, passes = counted(name)
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    draw(spec, passes, first)
    draw(spec, passes, str(second))
    assert first.read_bytes() == second.read_bytes()
    texts = [t.text or "" for t in ElementTree.parse(first).iter() if t.tag.endswith("}text")]
    for tensor in spec.tensors:
        assert any(text.startswith(f"{tensor}[") for text in texts), tensor
    assert any(text.startswith(f"{spec.name}, ") and "pass" in text for text in texts)
    assert "pass 1" in texts


def test_png_is_a_picture(tmp_path):
    spec, passes = counted("attention")
    draw(spec, passes, tmp_path / "a.PNG")
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [*NAMES, "coupled"])
def test_nothing_overlaps(name):
    g = graph(*counted(name))
    made = layout(g)
    for layer in made.layers:
        for a, b in pairwise(layer):
            assert a.x + a.width / 2 < b.x - b.width / 2, (a.name, b.name)
        for box in layer:
            top, bottom = made.rows[box.layer]
            assert top - 1e-9 <= box.top and box.top + box.height <= bottom + 1e-9
            for line in box.node.lines() if box.node else ():
                assert len(line) * CHARACTER + 2 * PAD <= box.width + 1e-9
    for (_, above), (below, _) in pairwise(made.rows):
        assert above < below
    for e, route in made.routes.items():
        layers = [made.boxes[box].layer for box in route]
        assert {abs(a - b) for a, b in pairwise(layers)} == {1}
        assert e.kind == "previous" or layers[0] < layers[-1]


@pytest.mark.parametrize("name", [*NAMES, "coupled"])
def test_dot_and_dictionary_name_everything(name):
    spec, passes = counted(name)
    dot, told = to_dot(spec, passes), to_dict(spec, passes)
    names = {node["name"] for node in told["nodes"]}
    assert set(spec.tensors) <= names
    assert {n["name"] for n in told["nodes"] if n["output"]} == set(spec.outputs)
    for node in names:
        assert f'  "{node}" [label="' in dot
    for edge in told["edges"]:
        assert {edge["from"], edge["to"]} <= names
        assert f'  "{edge["from"]}" -> "{edge["to"]}" [' in dot
    assert dot.count('"') % 2 == 0 and dot.endswith("}\n")


def test_dot_needs_no_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    spec, passes = counted("attention")
    draw(spec, passes, tmp_path / "a.dot")
    assert (tmp_path / "a.dot").read_text(encoding="utf-8") == to_dot(spec, passes)
    with pytest.raises(InputError, match="pip install matplotlib"):
        draw(spec, passes, tmp_path / "a.svg")


@pytest.mark.parametrize("path", ["a.pdf", "a", "svg", "absent/a.svg", "absent/a.dot"])
def test_a_path_that_cannot_be_drawn_to(path, tmp_path):
    spec, passes = counted("sigmoid_attention")
    with pytest.raises(InputError) as raised:
        draw(spec, passes, tmp_path / path)
    assert ("no folder" if "/" in path else ".svg, .png or .dot") in str(raised.value)


@pytest.mark.parametrize(
    ("name", "barriers"),
    [
        ("attention_3pass", {("GM", "SN"), ("SD", "A")}),
        ("attention", {("A.1", "A.2"), ("A.1", "A"), ("A.2", "A")}),
        ("attention_1pass", set()),
        ("sigmoid_attention", set()),
        ("landmark", {("GM", "SN"), ("SD", "PR"), ("PL", "A")}),
        ("var_class_split", {("A.1", "A.2"), ("A.1", "A"), ("A.2", "A"), ("W", "O")}),
        ("layernorm_matmul", {("MU", "VAR"), ("MU", "N"), ("VAR", "N")}),
    ],
)
def test_who_waits(name, barriers):
    assert edges(name, "barrier") == barriers


def test_who_reads_the_previous_step():
    assert edges("attention_1pass", "previous") == {(t, t) for t in ("RM", "RD", "RNV")}
    assert edges("delta_rule", "previous") == {("S", "S"), ("S", "R")}
    mutual = {("X", "X"), ("X", "Y"), ("Y", "X"), ("Y", "Y"), ("L", "L")}
    assert edges("coupled", "previous") == mutual


def test_passes_and_texts():
    g = graph(*counted("var_class_split"))
    numbers = {n.name: n.number for n in g.nodes}
    assert g.title == "var_class_split, m: 4 passes"
    assert [numbers[t] for t in ("QK", "A.1", "A.2", "A", "O")] == [1, 1, 2, 3, 4]
    assert numbers["W"] is None and numbers["D"] == 3
    by_name = {n.name: n for n in graph(*counted("attention_1pass")).nodes}
    assert by_name["RM"].left == "RM[b,h,m1+1,p]"
    assert by_name["RM"].lines()[-1] == "init RM[b,h,0,p] = -inf"
    assert by_name["RM"].heading() == "↻ m1"
    assert by_name["V"].heading() == "input"
    coupled = {n.name: n for n in graph(*counted("coupled")).nodes}
    assert coupled["S"].right == ("= top[m -> j](C[m,e]) + 1",)
    assert coupled["N"].right == ("= order[m](C[m,0]) + 1",)
