"""A Program as dictionaries and texts, for other programs to read."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from cascade.ir.expr import Const, Coordinate, Map, Read, Symbol
from cascade.ir.printer import print_expr
from cascade.schedule.program import Program

EXPRESSIONS = (Const, Coordinate, Symbol, Read, Map)


def to_dict(program: Program) -> dict[str, Any]:
    """Nodes as dictionaries with their `node` name; expressions as texts."""
    found: dict[str, Any] = _value(program)
    return found


def _value(value: Any) -> Any:
    if isinstance(value, EXPRESSIONS):
        return print_expr(value)
    if is_dataclass(value) and not isinstance(value, type):
        shown = {f.name: _value(getattr(value, f.name)) for f in fields(value)}
        return {"node": type(value).__name__, **shown}
    if isinstance(value, tuple):
        return [_value(v) for v in value]
    return value
