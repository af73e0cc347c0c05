"""Types of outputs: printed, kept by what is made of a cascade, and counted."""

import pytest

import cascade
from cascade.diagnostics import Source
from cascade.frontends.dsl.format import format_text
from cascade.gradients import gradients
from cascade.ir.verify import verify
from cascade.transforms.chunk import chunk
from cascade.transforms.derive import derive
from cascade.transforms.parts import parts_of
from tests.examples.test_examples import spec

TEXT = "input x[m]\ny[m]=2.0*x[m]\nz=sum[m](y[m])\noutput y,z:f32"


def test_texts_keep_them():
    made = cascade.parse(TEXT)
    assert str(made).endswith("output y, z: f32\n")
    assert cascade.parse(str(made)) == made
    assert cascade.parse(TEXT.replace(":f32", "")) != made
    assert format_text(Source("text", TEXT)).endswith("output y, z: f32\n")


def test_transformations_keep_them():
    derivation = derive(spec("causal"))
    assert derivation.result.output_types == {"LSE": "f32"}
    parts = parts_of(derivation)
    assert parts.finalise.output_types == {"LSE": "f32"}
    assert parts.merge.output_types == {}
    found = gradients(spec("causal"))
    assert found.forward.output_types == {"LSE": "f32"}
    declared = {t.name: t.dtype for t in found.backward.inputs if t.dtype}
    assert declared == {"LSE": "f32", "dLSE": "f32"}
    for made in (derivation.result, parts.finalise, found.forward, found.backward):
        assert cascade.parse(str(made)) == made
        assert not [d for d in verify(made) if d.severity == "error"]


def test_chunks_keep_them():
    text = str(spec("retention"))
    name = spec("retention").outputs[-1]
    made = chunk(cascade.parse(text.rstrip() + ": f32\n"))
    assert made is not None and made.changed
    assert made.result.output_types == {name: "f32"}


def test_a_schedule_has_them():
    buffers = {b.name: b.dtype for b in cascade.schedule(spec("causal")).program.buffers}
    assert buffers["O"] == "real" and buffers["LSE"] == "f32"


@pytest.mark.parametrize("dtype, size", [("", 2), (": bf16", 2), (": f32", 4), (": f64", 8)])
def test_bytes_are_counted_by_them(dtype, size):
    made = cascade.parse(f"input x[m]: bf16\ny[m] = 2.0 * x[m]\noutput y{dtype}")
    moved = cascade.analyse(made).traffic.compulsory_bytes({"m": 100})
    assert moved == 100 * (2 + size)


def test_integers_are_asked_for_where_nothing_is_known():
    made = cascade.parse("input x[m]\ny[m] = 2 * x[m]\noutput y: i32")
    with pytest.raises(cascade.InputError):
        cascade.run(made, {"x": [1.5, 2.5]})
    assert cascade.run(made, {"x": [1, 2]})["y"].tolist() == [2, 4]
