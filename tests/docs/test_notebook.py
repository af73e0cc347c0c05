"""The notebook runs, and shows what comes out."""

import contextlib
import io
import json
import linecache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "pytorch.ipynb"


def test_notebook():
    namespace: dict[str, Any] = {}
    run = 0
    for n, cell in enumerate(json.loads(NOTEBOOK.read_text("utf-8"))["cells"]):
        if cell["cell_type"] != "code":
            continue
        text, name, output = "".join(cell["source"]), f"cell {n}", io.StringIO()
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        with contextlib.redirect_stdout(output):
            exec(compile(text, name, "exec"), namespace)
        shown = "".join("".join(o["text"]) for o in cell["outputs"])
        assert output.getvalue() == shown, name
        run += 1
    assert run >= 5
