"""Which contractions are matrix products, and which ranks a loop runs along."""

import cascade
from cascade.schedule.choose import schedule
from cascade.schedule.operands import operands
from cascade.schedule.sizes import Sizes


def sides(factors: list[str], summed: str) -> set[str] | None:
    found = operands(factors, summed)
    return None if found is None else {"".join(sorted(s.axes)) for s in found}


def test_two_operands_with_axes_of_their_own():
    assert sides(["pe", "me"], "e") == {"ep", "em"}
    assert sides(["pe", "me", "e", "p"], "e") == {"ep", "em"}


def test_a_batch_and_several_summed_axes():
    assert sides(["hpe", "hme"], "e") == {"ehp", "ehm"}
    assert sides(["hpf", "hfn"], "hf") == {"fhp", "fhn"}


def test_more_factors_make_the_smallest_operands():
    assert sides(["me", "mg", "mf"], "m") in ({"egm", "fm"}, {"efm", "gm"}, {"fgm", "em"})


def test_what_is_no_matrix_product():
    assert sides(["pe", "pe"], "e") is None
    assert sides(["hpe", "he"], "e") is None
    assert sides(["pm", "mf", "f"], "mf") is None


PROJECTED = """
input A[h,p,f], W[h,f,n]
Y[p,n] = A[h,p,f] * W[h,f,n]
output Y
"""


def test_a_projection_loops_over_heads():
    program = schedule(cascade.parse(PROJECTED), Sizes({"f": 64}, 32, 128)).program
    (kernel,) = program.kernels
    text = str(program)
    assert "for h in tiles of 2:" in text and "sum[h,f]" in text, text
    assert len(kernel.grid) == 2
