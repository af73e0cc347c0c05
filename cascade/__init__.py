"""cascade: attention as cascades of Einsums, analysed, executed and compiled.

spec = cascade.load("attention.cascade")
print(cascade.analyse(spec))
outputs = cascade.run(spec, {"Q": q, "K": k, "V": v})
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cascade.diagnostics import CascadeError, Diagnostic, InputError

__version__ = "0.1.0"
__all__ = [
    "CascadeError",
    "Diagnostic",
    "InputError",
    "__version__",
    "analyse",
    "as_torch",
    "compile",
    "derive",
    "gradient",
    "load",
    "parse",
    "run",
    "schedule",
    "trace",
]

if TYPE_CHECKING:
    from cascade.api import (
        analyse,
        as_torch,
        compile,
        derive,
        gradient,
        load,
        parse,
        run,
        schedule,
        trace,
    )


class _Package(ModuleType):
    """`cascade.schedule` is a function, although a package has that name, too."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """`cascade.load` and its siblings, imported at first use: `import cascade` costs nothing."""
    if name in __all__:
        from cascade import api

        return getattr(api, name)
    raise AttributeError(f"module 'cascade' has no attribute {name!r}")
