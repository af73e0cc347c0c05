"""Mistakes that no `.cascade` file can hold: texts made here, files, commands, Python programs.

Each entry is called in an empty folder and must raise `CascadeError`. The messages are in `texts/`.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import cascade
from cascade import api
from cascade.diagnostics import CascadeError
from cascade.ir.cascade import Cascade, Einsum, Rank, Tensor
from cascade.ir.expr import Coordinate, Expr, Map, Read, Symbol
from cascade.ir.verify import verify


def trace_a_sort() -> None:
    import torch

    scope: dict[str, Any] = {}
    with chdir(HERE):  # a message with the name of the file alone
        exec(compile(Path("traced.py").read_text(), "traced.py", "exec"), scope)
        api.trace(scope["ranked"], torch.ones(3, 4))


def host_without_queries() -> None:
    from cascade.integrations.hosted import roles

    roles(cascade.parse(INTEGERS))


HERE = Path(__file__).parent
INTEGERS = "cascade spec\ninput x[m], n[m]: int\nz[m] = x[m] * n[m]\noutput z\n"
SPEC = "input  A[m]\nZ[m] = A[m]\noutput Z\n"


def statement(body: str, before: str = "") -> str:
    return f"input  A[m]\n{before}Z[m] = {body}\noutput Z\n"


def of(term: str, joined: str, count: int = 5_000) -> str:
    """A left-deep expression over many lines."""
    return f"\n   {joined} ".join([term] * count)


def laughs(levels: int) -> str:
    """Macros that double what the one before makes."""
    macros = [f"def a{n}(x) = a{n - 1}(x) + a{n - 1}(x)\n" for n in range(1, levels)]
    return "def a0(x) = x + x\n" + "".join(macros)


TEXTS: dict[str, str] = {
    "long_line": statement("A[m] " + "+ A[m] " * 30_000),
    "deep_nesting": statement("(" * 500 + "A[m]" + ")" * 500),
    "nul_byte": "input  A[m]\0\nZ[m] = A[m]\noutput Z\n",
    "half_a_character": "input  A[m]\nZ[m] = A[m] \ud800\noutput Z\n",
    "old_line_ends": SPEC.replace("\n", "\r"),
    "empty": "",
    "only_empty_lines": "\n\n",
    "large_file": SPEC + "# line\n" * 300_000,
    "many_mistakes": "input  A[m]\n"
    + "".join(f"X{n}[m] = Y{n}[m]\n" for n in range(40))
    + "output X0\n",
    "macros_that_double": statement("a59(A[m])", laughs(60)),
    "sum_of_5000_terms": statement(of("A[m]", "+")),
    "product_of_5000_factors": statement(of("A[m]", "*")),
    "condition_of_5000_parts": statement("A[m] where " + of("m < 3", "and")),
    "comparison_of_500_parts": statement("A[m] where " + " < ".join(["m"] * 500)),
    "index_of_5000_terms": statement(f"A[{of('m', '+')}]"),
    "left_side_of_5000_terms": f"input  A[m]\nZ[{of('m', '+')}] = A[0]\noutput Z\n",
    "param_of_5000_terms": statement("s * A[m]", f"param  s = {of('1', '+')}\n"),
    "extent_of_5000_terms": statement("A[m]", f"rank   j < {of('1', '+')}\n"),
    "partition_of_5000_parts": statement("A[m]", f"rank   m = {of('m1*8', '+')} + m0\n"),
    "requirement_of_5000_terms": statement("A[m]", f"require 3 < {of('1', '+')}\n"),
    "macro_body_of_5000_terms": statement("f(A[m])", f"def f(x) = {of('x', '+')}\n"),
    "minus_signs": statement("-" * 900 + "A[m]"),
    "cycle_of_5000": "input  A[m]\nX0[m] = X4999[m] + A[m]\n"
    + "".join(f"X{n}[m] = X{n - 1}[m]\n" for n in range(1, 5_000))
    + "output X0\n",
}

PROGRAMS: dict[str, str] = {
    "python_truth": "c.let('Z', m, A[m], where=0 <= m < 3)",
    "python_value": "c.let('Z', m, A[m] * 'two')",
    "python_name": "c.input('2A', m)",
    "python_unknown_tensor": "c.let('Z', m, c.tensor('B')[m])\nc.build(outputs='Z')",
}


def load_directory() -> None:
    Path("specs.cascade").mkdir()
    cascade.load("specs.cascade")


def load_missing() -> None:
    Path("attention.cascade").write_text(SPEC)
    cascade.load("atention.cascade")


def load_bytes() -> None:
    Path("spec.cascade").write_bytes(b"input  A[m]\nZ[m] = A[m] \xff\noutput Z\n")
    cascade.load("spec.cascade")


def run_program(name: str, text: str) -> None:
    """A Python program that builds a cascade, as a file of its own."""
    head = (
        "from cascade.frontends.builder import Builder\n\n"
        "c = Builder('model')\n(m,) = c.ranks('m')\nA = c.input('A', m)\n"
    )
    Path(f"{name}.py").write_text(head + text + "\n")
    runpy.run_path(f"{name}.py")


def read_one_array_as_many() -> None:
    np.save("A.npz.npy", np.ones(3))
    Path("A.npz.npy").rename("A.npz")
    api.read_arrays(("A.npz",))


def read_directory() -> None:
    Path("data.npz").mkdir()
    api.read_arrays(("data.npz",))


def read_without_package() -> None:
    with patch.dict(sys.modules, {"safetensors": None}):
        api.read_arrays(("data.safetensors",))


def write_two_arrays_as_one() -> None:
    api.write_arrays("out.npy", {"Y": np.ones(3), "Z": np.ones(3)})


def copy_example_twice() -> None:
    api.copy_examples("attention", "folder")
    api.copy_examples("attention", "folder")


def draw_what_is_missing() -> None:
    api.random_inputs(cascade.parse(GATHER), {}, {"N": 4, "M": 3}, 0)


def read_target(text: str) -> None:
    Path("machine.toml").write_text(text)
    api.analyse(cascade.parse(SPEC), target="machine.toml")


def parts_without_a_state() -> None:
    from cascade.transforms.parts import parts_of

    parts_of(api.derive(cascade.parse(SPEC, "copy.cascade")))


def chunk_without_a_prefix() -> None:
    api.chunk(cascade.parse(SPEC, "copy.cascade"))


def schedule_what_reads_two_steps_back() -> None:
    text = "input x[i]\ninit S[0] = 0\nS[i+1] = S[i] + S[i-1] + x[i]\noutput S\n"
    api.schedule(cascade.parse(text, "spec.cascade"))


def emit_without_widths() -> None:
    from cascade.backends.triton.emit import emit

    text = "input Q[p,e], K[m,e]\nZ[p] = max[m](sum[e](Q[p,e] * K[m,e]))\noutput Z\n"
    emit(api.schedule(cascade.parse(text, "spec.cascade")).program)


def run_on_the_wrong_device() -> None:
    import torch

    with patch.dict("os.environ", {"TRITON_INTERPRET": "0"}):
        api.compile(cascade.parse(SPEC), "triton")(A=torch.ones(3))


def assume_sizes() -> None:
    """The warning of `cascade compile` without sizes, raised so that it is seen."""
    made = api.schedule(cascade.parse(ATTENTION, "spec.cascade"), {"E": 64})
    program = replace(made.program, widths=(("E", 64), ("F", 64)))
    raise CascadeError(*api.assumed_sizes(program, {"E": 64}))


def set_an_unused_tile() -> None:
    """The warning of `cascade compile` for a tile without effect, raised so that it is seen."""
    spec = cascade.parse(ATTENTION, "spec.cascade")
    raise CascadeError(*api.unused_tiles(spec, {"e": 64, "f": 64}, {"e": 32, "m": 64}, False))


def compile_a_derivation() -> None:
    derivation: Any = cascade.derive(cascade.parse(SPEC))
    cascade.compile(derivation)


def gradient_by_w(*lines: str) -> None:
    api.gradient(cascade.parse("\n".join(["input A[m]", *lines]), "spec.cascade"), ["W"])


def call(*args: Any, **given: Any) -> None:
    """A kernel of `ATTENTION`, called with an input or two too few."""
    arrays = {"Q": np.ones((2, 3)), "K": np.ones((4, 3)), "V": np.ones((4, 5))}
    arrays = {} if args else {n: a for n, a in arrays.items() if n.lower() not in given}
    kernel = api.compile(cascade.parse(TEMPERED, "spec.cascade"))
    kernel(*args, **arrays, **given)


def split_a_recurrence() -> None:
    api.schedule(cascade.parse(api.example_text("delta_rule")), split=4)


def choose_what_does_not_fit() -> None:
    from cascade.backends.triton import tiles
    from cascade.backends.triton.aot import Facts

    needs = Facts("Z", "sm_90", 200, 0, 425984, 24, 24, 8, 6, fits=False)
    with patch.object(tiles, "facts", return_value=[needs]):
        tiles.chosen(cascade.parse(SPEC), {}, "sm_90", tiles={"m": 4096}, stages=6)


def specialise_where_nothing_copies_boxes() -> None:
    from cascade.backends.triton.tiles import chosen

    chosen(cascade.parse(SPEC), {}, "sm_80", specialised=True)


def compile_while_interpreting() -> None:
    from cascade.backends.triton.aot import facts

    with patch.dict("os.environ", {"TRITON_INTERPRET": "1"}):
        facts(api.schedule(cascade.parse(SPEC)).program, "", "sm_90")


def compare_with(peers: list[str]) -> None:
    from cascade.comparison import compare

    compare(cascade.parse(SPEC, "copy.cascade"), peers, {}, 1)


def model_on(target: str, text: str | None = None, **settings: int) -> None:
    from cascade.spatial.model import model
    from cascade.spatial.target import load_spatial

    spec = cascade.parse(ATTENTION if text is None else text, "spec.cascade")
    machine = load_spatial(target)
    extents = {"P": 512, "M": 512, "E": 64, "F": 64}
    extents = {n: v for n, v in extents.items() if n.lower() in spec.rank}
    size = settings.pop("buffer", machine.buffer)
    model(spec, machine.with_buffer(size), {**extents, **settings})


def schedule_a_long_tile() -> None:
    from cascade.spatial.model import plan
    from cascade.spatial.target import load_spatial

    extents = {"P": 512, "M": 512, "E": 64, "F": 32768}
    roomy = load_spatial("fusemax").with_buffer(2**27)
    plan(cascade.parse(ATTENTION, "spec.cascade"), roomy, extents)


def workload_unknown() -> None:
    from cascade.spatial.workload import load_workload

    load_workload("brt")


def sweep_backwards() -> None:
    from cascade.modelling import read_sweep

    read_sweep("M=4096:1024")


def draw_latency_of_one_point() -> None:
    from cascade.backends.plots import draw

    draw([{"spec": "s", "target": "fusemax", "latency_s": 1.0}], (), "latency", "a.svg")


ATTENTION = """input Q[p,e], K[m,e], V[m,f]
S[p,m] = Q[p,e] * K[m,e]
A[p,m] = exp(S[p,m])
O[p,f] = A[p,m] * V[m,f]
output O
"""


def verify_by_hand(body: Expr) -> None:
    """A cascade that no frontend makes: `Z[m] = body` over an input `A[m]`."""
    tensor, rank = Tensor("A", ("m",)), Rank("m", Symbol("M"))
    errors = verify(Cascade("by_hand", (rank,), (tensor,), (Einsum("Z", ("m",), body),), ("Z",)))
    raise CascadeError(*errors)


TEMPERED = "param tau = 1\n" + ATTENTION.replace("exp(", "exp(tau * ")
GATHER = "input  page[m]: int, A[n]\nZ[m] = A[page[m]]\noutput Z\n"
STRAY = Map("+", (Read("A", (Coordinate("m"),)), Coordinate("n")))

CALLS: dict[str, Callable[[], object]] = {
    "directory": load_directory,
    "missing_file": load_missing,
    "missing_file_alone": partial(cascade.load, "spec.cascade"),
    "not_utf_8": load_bytes,
    "no_format": partial(api.read_arrays, ("data.csv",)),
    "array_without_name": partial(api.read_arrays, ("data.npy",)),
    "missing_data": partial(api.read_arrays, ("data.npz",)),
    "data_is_a_directory": read_directory,
    "one_array_as_many": read_one_array_as_many,
    "package_missing": read_without_package,
    "output_format": partial(api.check_output, "out.csv", 1),
    "output_folder": partial(api.check_output, "nowhere/out.npz", 1),
    "two_outputs_in_one": write_two_arrays_as_one,
    "example_unknown": partial(api.example_text, "atention"),
    "example_exists": copy_example_twice,
    "integers_are_not_drawn": draw_what_is_missing,
    "target_unknown": partial(api.analyse, cascade.parse(SPEC), target="h20"),
    "target_file_missing": partial(api.analyse, cascade.parse(SPEC), target="h20.toml"),
    "target_without_rates": partial(read_target, "bandwidth = 1e12\non_chip = 1024\n"),
    "no_single_state": parts_without_a_state,
    "nothing_to_chunk": chunk_without_a_prefix,
    "gradient_of_integers": partial(api.gradient, cascade.parse(INTEGERS), ["n"]),
    "gradient_by_an_index": partial(
        gradient_by_w, "param W = 2", "Z[m] = A[m - W] ?? 0", "output Z"
    ),
    "gradient_by_a_condition": partial(
        gradient_by_w, "param W = 2", "Z = sum[m](A[m] where m < W)", "output Z"
    ),
    "gradient_through_a_param": partial(
        gradient_by_w, "param W = 2.0", "param V = W * 3", "Z[m] = V * A[m]", "output Z"
    ),
    "gradient_unknown": partial(api.gradient, cascade.parse(INTEGERS), ["X"]),
    "traced_without_a_form": trace_a_sort,
    "not_a_model": host_without_queries,
    "no_schedule": schedule_what_reads_two_steps_back,
    "width_unknown": emit_without_widths,
    "tile_rank": partial(api.schedule, cascade.parse(SPEC), None, {"k": 64}),
    "tile_empty": partial(api.schedule, cascade.parse(SPEC), None, {"m": 0}),
    "split_none": partial(api.schedule, cascade.parse(SPEC), split=0),
    "split_in_order": split_a_recurrence,
    "footprint": choose_what_does_not_fit,
    "warps_that_cannot_load_alone": specialise_where_nothing_copies_boxes,
    "sizes_assumed": assume_sizes,
    "tile_unused": set_an_unused_tile,
    "call_of_a_spec": lambda: cascade.parse(ATTENTION, "spec.cascade")(Q=np.ones((2, 3))),
    "spec_of_another_kind": compile_a_derivation,
    "spec_missing_where_a_path_is_taken": partial(cascade.compile, "win.cascade"),
    "call_by_position": partial(call, np.ones((2, 3)), np.ones((4, 3))),
    "call_with_unknown_names": partial(call, taw=2, k=np.ones((4, 3)), window=4),
    "backend_unknown": partial(api.compile, cascade.parse(SPEC), "tritan"),
    "kernels_without_a_gpu": run_on_the_wrong_device,
    "compiling_while_interpreting": compile_while_interpreting,
    "array_operation": partial(model_on, "fusemax", ATTENTION.replace("exp", "erf")),
    "array_buffer": partial(model_on, "fusemax", buffer=65536),
    "array_form": partial(model_on, "flat", "input A[m], B[m]\nZ = A[m] * B[m]\noutput Z\n"),
    "array_stream": partial(model_on, "fusemax", "input A[m]\nZ[m] = exp(A[m])\noutput Z\n"),
    "array_epoch": schedule_a_long_tile,
    "workload_unknown": workload_unknown,
    "sweep_backwards": sweep_backwards,
    "plot_without_a_sweep": draw_latency_of_one_point,
    "peer_unknown": partial(compare_with, ["flash"]),
    "stray_rank_by_hand": partial(verify_by_hand, STRAY),
    "slots_by_hand": partial(verify_by_hand, Read("A", ())),
}
CALLS |= {name: partial(cascade.parse, text, "spec.cascade") for name, text in TEXTS.items()}
CALLS |= {name: partial(run_program, name, text) for name, text in PROGRAMS.items()}
