"""A spec as users of other libraries give it: a cascade, its text, or the path of a file."""

from __future__ import annotations

from pathlib import Path

from cascade.diagnostics import Source, fail
from cascade.files import read_source
from cascade.frontends.dsl import lower, parse
from cascade.ir.cascade import Cascade


def cascade_of(spec: Cascade | str | Path) -> Cascade:
    """The checked cascade. A string with a line end is a text. Raises `CascadeError`."""
    if isinstance(spec, Cascade):
        return spec
    if not isinstance(spec, (str, Path)):
        raise _no_spec(spec)
    is_text = isinstance(spec, str) and "\n" in spec
    source = Source("<spec>", str(spec)) if is_text else read_source(spec)
    return lower(parse(source), source.name)


def _no_spec(given: object) -> Exception:
    """The error for another object; derivations, gradients and kernels hold a cascade."""
    kind = type(given).__name__
    held = [
        n for n in ("result", "backward", "spec") if isinstance(getattr(given, n, None), Cascade)
    ]
    hints = [f"a {kind} holds one: its `{held[0]}`"] if held else []
    message = f"a spec is a cascade, its text or the path of a file, and this is a {kind}"
    return fail("not-a-spec", message, hints=hints)
