"""What `import cascade` offers."""

import numpy as np

import cascade
import cascade.schedule.choose


def test_names_are_functions_whatever_was_imported():
    for name in ("schedule", "gradient", "trace", "compile", "derive"):
        assert callable(getattr(cascade, name)), name
    spec = cascade.parse("input x[m]\ny = sum[m](x[m])\noutput y\n")
    assert "kernel" in str(cascade.schedule(spec))


def test_a_path_or_a_text_stands_for_a_spec(tmp_path):
    text = "input x[m]\ny = sum[m](x[m])\noutput y\n"
    path = tmp_path / "total.cascade"
    path.write_text(text)
    for spec in (text, path, str(path), cascade.parse(text)):
        x = np.arange(3.0)
        assert cascade.run(spec, {"x": x})["y"] == 3
        assert cascade.compile(spec)(x=x) == 3
        assert cascade.analyse(spec).passes.of_rank() == {"m": 1}
        assert cascade.derive(spec).result.outputs == ("y",)
        assert cascade.gradient(spec).backward.outputs == ("dx",)
        assert "kernel" in str(cascade.schedule(spec))


def test_what_holds_a_spec_is_short():
    spec = cascade.parse("cascade total\ninput x[m]\ny = sum[m](x[m])\noutput y\n")
    assert repr(spec) == "<Cascade total: x[m] -> y>"
    assert "<Cascade total: x[m] -> y>" in repr(cascade.compile(spec))
    assert len(repr(cascade.compile(spec))) < 200
