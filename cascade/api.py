"""The composition root: the only module that names frontends and backends.

Everything the command line does is a call of a function here; imports are lazy, by what is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.diagnostics import Source, fail
from cascade.ir.cascade import Cascade

if TYPE_CHECKING:
    import numpy as np

    from cascade.analysis.report import Report

Number = int | float | bool


def read_source(path: str | Path) -> Source:
    """The text of a spec. Raises `CascadeError` for what cannot be read as text."""
    path = Path(path)
    name = str(path)
    if path.is_dir():
        raise fail("file", f"{name} is a directory, not a .cascade file")
    try:
        return Source(name, path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    except FileNotFoundError:
        raise fail("file", f"there is no file {name}", hints=_nearby(path)) from None
    except UnicodeDecodeError as e:
        raise fail("file", f"{name} is not UTF-8 text (byte {e.start})") from None
    except OSError as e:
        raise fail("file", f"{name} cannot be read: {e.strerror}") from None


def _nearby(path: Path) -> tuple[str, ...]:
    from cascade.diagnostics import did_you_mean

    folder = path.parent
    names = [p.name for p in folder.glob("*.cascade")] if folder.is_dir() else []
    return did_you_mean(path.name, names) or ("`cascade examples` lists specs to start from",)


def parse(text: str, name: str = "<text>") -> Cascade:
    """The checked cascade of a text. Raises `CascadeError` with every mistake found."""
    from cascade.frontends.dsl import lower, parse

    return lower(parse(Source(name, text)), name)


def load(path: str | Path) -> Cascade:
    """The checked cascade of a file. Raises `CascadeError`."""
    from cascade.frontends.dsl import lower, parse

    source = read_source(path)
    return lower(parse(source), source.name)


def analyse(
    spec: Cascade,
    settings: Mapping[str, Number] | None = None,
    target: str | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Report:
    """Passes with their proof, footprints, work, traffic and bounds.

    `settings` gives extents and params (`{"M": 65536}`), `inputs` arrays whose shapes give them; without
    either the report is symbolic. `target` names a file of `cascade/targets` or a path to one.
    """
    from cascade.analysis.report import analyse

    shapes = {name: tuple(getattr(a, "shape", ())) for name, a in (inputs or {}).items()}
    return analyse(spec, dict(settings or {}), shapes, target)


def run(
    spec: Cascade,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Number] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs, by the reference evaluator: float64, whole tensors. Raises `InputError`."""
    from cascade.backends.reference import evaluate

    return evaluate(spec, inputs, settings, progress)
