"""Specs of the examples, loaded once."""

from functools import cache
from pathlib import Path

import pytest

from cascade import api

EXAMPLES = Path(__file__).parents[2] / "examples"


@cache
def load(name):
    return api.load(EXAMPLES / f"{name}.cascade")


@pytest.fixture
def example():
    """`example("causal")`: a shipped spec."""
    return load
