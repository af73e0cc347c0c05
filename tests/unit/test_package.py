"""What `import cascade` offers."""

import cascade
import cascade.schedule.choose


def test_names_are_functions_whatever_was_imported():
    for name in ("schedule", "gradient", "trace", "compile", "derive"):
        assert callable(getattr(cascade, name)), name
    spec = cascade.parse("input x[m]\ny = sum[m](x[m])\noutput y\n")
    assert "kernel" in str(cascade.schedule(spec))
