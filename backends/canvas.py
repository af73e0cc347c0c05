"""A picture by matplotlib, which is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cascade.diagnostics import input_error

FORMS = (".svg", ".png")
COLOURS = ("#2a6f97", "#d98200", "#00875f", "#b8568f", "#857500", "#555555")


@contextmanager
def figure(path: str | Path, size: tuple[float, float]) -> Iterator[Any]:
    """A figure of `size` inches, written to an .svg or .png file at the end.

    An .svg is the same, byte by byte, for the same data. Raises `InputError`.
    """
    target = Path(path)
    if target.suffix not in FORMS:
        raise input_error("file-write", f"{path} is neither an .svg nor a .png file")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise input_error(
            "missing-package",
            "drawing needs the package matplotlib",
            "install it: `pip install matplotlib`",
        ) from None
    with matplotlib.rc_context({"svg.hashsalt": "cascade", "svg.fonttype": "none"}):
        made = Figure(figsize=size, layout="constrained")
        yield made
        try:
            made.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
        except OSError as e:
            raise input_error(
                "file-write", f"{path} cannot be written: {e.strerror or e}"
            ) from None


@contextmanager
def canvas(path: str | Path, size: tuple[float, float]) -> Iterator[Any]:
    """The axes of a figure that has one picture."""
    with figure(path, size) as made:
        axes = made.add_subplot()
        yield axes
        axes.spines[["top", "right"]].set_visible(False)
