"""A Program reads as pseudo-code: on one screen, in order, with nothing left out."""

from dataclasses import replace
from pathlib import Path

import pytest

from cascade.api import parse
from cascade.ir.expr import Const, Coordinate, Map, Symbol
from cascade.schedule.choose import schedule
from cascade.schedule.program import (
    Best,
    Buffer,
    Carry,
    Contract,
    Fold,
    Kernel,
    Let,
    Load,
    Pick,
    Place,
    Program,
    Seq,
    Store,
    inside,
    results,
    tile,
)
from cascade.schedule.sizes import Sizes
from cascade.schedule.text import print_program
from tests.schedule import programs as P

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

CAUSAL = """\
program attention
    input Q[b,h,p,e]: any, K[b,h,m,e]: any, V[b,h,m,f]: any
    output O[b,h,p,f]: real

kernel O for each b_at < B, h_at < H, p_tile < (P + 127) // 128
    lanes #p < 128, #m < 64, #e < E, #f < F
    at b = b_at, h = h_at, p = p_tile * 128 + #p < P, e = #e, f = #f
    raw = load Q[b,h,p,e]
    Q = scale * raw
    carry top[p] = -1e+38, total[p] = 0.0, out[p,f] = 0.0
    for m in tiles of 64 and 16 where m <= p:
        at m = m_at + #m < M
        K = load K[b,h,m,e]
        scores = sum[e](Q * K)
        masked = scores where m <= p else -inf
        highest = max[m](masked)
        top_next = max(top, highest)
        weights = exp(masked - top_next)
        kept = exp(top - top_next)
        weight = sum[m](weights)
        total_next = total * kept + weight
        V = load V[b,h,m,f]
        added = sum[m](weights * V)
        out_next = out * kept + added
        next top = top_next, total = total_next, out = out_next
    mean = out / total
    result = select(total > 0.0, mean, 0.0)
    store O[b,h,p,f] = result
"""

ALL = """\
program all
    input X[S+1,N]: bf16
    output Z[s]: real
    temporary T: as X
    fixed N = 8
    with half = N / 2

kernel Z
    carry run[n] = 1
    for s_at = 0 .. S - 1, in order:
        at s = s_at
        x = load X[s+1,n] where s < M and (s < M or s == n)
        y = x - run
        c = sum[n,p](y * (x + 1))
        one = x at #n = 0
        v, i = best[n -> j](x) with n where s < M and v0, i0
        run_next = prod[n](y)
        store Z[s] = run where s < M or s == n
        next run = run_next

note: chosen by hand
"""


def test_causal_attention_on_one_screen():
    program = P.causal(128, 64, 16)
    assert print_program(program) == str(program) == CAUSAL
    assert len(CAUSAL.splitlines()) <= 40 and max(map(len, CAUSAL.splitlines())) <= 100


def test_every_kind_of_node():
    s, n = Coordinate("s"), Coordinate("n")
    past = Map("<", (s, Symbol("M")))
    either = Map("or", (past, Map("==", (s, n))))
    body = (
        Load("x", "X", (Map("+", (s, Const(1))), n), (past, either)),
        Let("y", Map("-", (tile("x"), tile("run")))),
        Contract("c", (tile("y"), Map("+", (tile("x"), Const(1)))), ("n", "p")),
        Pick("one", tile("x"), "n", Const(0)),
        Best(("v", "i"), tile("x"), n, (past,), "n", "j", ("v0", "i0")),
        Fold("run_next", "prod", tile("y"), ("n",)),
        Store("Z", (s,), tile("run"), (either,)),
    )
    steps = Seq("s_at", Symbol("S"), (Place("s", Symbol("s_at"), Symbol("S")),),
                (Carry("run", Const(1), ("n",), "run_next"),), body)  # fmt: skip
    shape = (Map("+", (Symbol("S"), Const(1))), Symbol("N"))
    buffers = (
        Buffer("Z", ("s",), (Symbol("S"),), "real", "out"),
        Buffer("X", ("s", "n"), shape, "bf16", "in"),
        Buffer("T", (), (), "real", "temp", "X"),
    )
    kernel = Kernel("Z", (), (), (), (steps,))
    values = (("half", Map("/", (Symbol("N"), Const(2)))), ("N", Const(8)))
    program = Program("all", buffers, (kernel,), values, (("N", 8),), ("chosen by hand",))
    assert print_program(program) == ALL


@pytest.mark.parametrize("name", ["sliding_window", "landmark", "retention", "topk_attention"])
def test_every_tile_and_tensor_of_a_spec_is_there(name):
    spec = parse((EXAMPLES / f"{name}.cascade").read_text(), name)
    program = schedule(spec, Sizes({"e": 64, "f": 64}, part=32)).program
    text = print_program(program)
    for kernel in program.kernels:
        assert f"kernel {kernel.name} for each {kernel.grid[0].scalar} < " in text
        for node in inside(kernel.body):
            assert all(f"{made} = " in text or f"{made}[" in text or f"{made}, " in text
                       for made in results(node))  # fmt: skip
    assert all(f"{b.name}[" in text for b in program.buffers)


def test_long_lists_go_on_under_their_first_item():
    program = P.attention()
    many = tuple(P.buffer(f"input_number_{n}", "bhpe") for n in range(9))
    lines = print_program(replace(program, buffers=many)).splitlines()[1:4]
    assert [len(line) - len(line.lstrip()) for line in lines] == [4, 10, 10]
    assert lines[0].endswith(",") and max(map(len, lines)) <= 100
