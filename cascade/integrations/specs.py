"""A spec as users of other libraries give it: a cascade, its text, or the path of a file."""

from __future__ import annotations

from pathlib import Path

from cascade.diagnostics import Source, fail
from cascade.frontends.dsl import lower, parse
from cascade.ir.cascade import Cascade


def cascade_of(spec: Cascade | str | Path) -> Cascade:
    """The checked cascade. A string with a line end is a text. Raises `CascadeError`."""
    if isinstance(spec, Cascade):
        return spec
    if isinstance(spec, str) and "\n" in spec:
        return lower(parse(Source("<spec>", spec)), "<spec>")
    path = Path(spec)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise fail("file", f"{path} cannot be read: {error}") from None
    return lower(parse(Source(str(path), text)), str(path))
