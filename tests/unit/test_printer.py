"""The text of a cascade says all that the cascade does."""

from dataclasses import replace

import cascade
from cascade.ir.expr import Symbol


def test_ranks_of_inputs_that_share_an_extent_are_declared():
    """A tracer makes such ranks: `declared` is false, and the extent is that of another."""
    spec = cascade.parse("input x[m], y[n]\nz = sum[m](x[m]) - sum[n](y[n])\noutput z\n")
    shared = tuple(replace(r, extent=Symbol("M")) for r in spec.ranks)
    again = cascade.parse(str(replace(spec, ranks=shared)))
    assert {r.name: r.extent for r in again.ranks} == {"m": Symbol("M"), "n": Symbol("M")}


def test_a_sum_over_a_rank_that_nothing_else_names_is_written():
    for body in ("sum[n](L[n] where n <= m)", "sum[n](L[n] * L[m])"):
        spec = cascade.parse(f"input L[m]\nC[m] = {body}\noutput C\n")
        assert cascade.parse(str(spec)) == spec


def test_a_rank_that_only_a_sum_names_keeps_its_sum() -> None:
    made = cascade.parse("input K[m,e], H[e]\nO[m] = sum[n](K[m,n] * H[n])\noutput O\n", "x")
    assert "sum[n](" in str(made)
    assert cascade.parse(str(made)) == made
