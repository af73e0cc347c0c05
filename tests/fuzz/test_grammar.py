"""The grammar has no LALR conflicts, and no two of its terminals match the same text unawares."""

import pytest

from cascade.frontends.dsl.parse import make_parser

pytest.importorskip("interegular")


def test_no_conflicts_and_no_collisions():
    make_parser(strict=True)
