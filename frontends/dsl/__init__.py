"""The `.cascade` language: text -> syntax tree (`parse`) -> checked IR (`lower`); `format_text`
prints it.
"""

from cascade.frontends.dsl.lower import lower
from cascade.frontends.dsl.parse import parse

__all__ = ["lower", "parse"]
