"""Random Programs and random cascades as Triton kernels: equal to NumPy, and accepted by triton."""

import importlib.util
import inspect
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import cascade
from cascade.backends.arrays import as_inputs, checked_inputs
from cascade.backends.kernel import typed
from cascade.backends.reference import evaluate
from cascade.backends.tiled.run import run
from cascade.backends.triton.emit import emit
from cascade.backends.triton.writer import ident
from cascade.diagnostics import CascadeError
from cascade.ir.walk import symbols
from cascade.schedule.choose import schedule
from cascade.schedule.program import Program
from cascade.schedule.sizes import Sizes
from tests.schedule.random_programs import random_program
from tests.transforms.campaign import generate

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

# A GPU does not warn of infinities; the interpreter takes bounds of loops from arrays.
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def interpreted(program: Program, arrays: dict[str, Any], sizes: dict[str, Any], folder: Any):
    """The outputs of the emitted file, in the interpreter."""
    path = folder / "kernels.py"
    path.write_text(emit(program))
    spec = importlib.util.spec_from_file_location("kernels", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    narrow = {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in arrays.items()}
    given = {ident(n): torch.from_numpy(np.array(a)) for n, a in narrow.items()}
    accepted = inspect.signature(module.run).parameters
    found = module.run(**{n: v for n, v in {**sizes, **given}.items() if n in accepted})
    return {n: t.numpy().astype(float) for n, t in found.items()}


LARGEST = float(np.finfo(np.float32).max)


def compare(found, wanted, tolerance, text):
    """Kernels map in float32: a value that it cannot hold is infinite there."""
    for name, expected in wanted.items():
        finite = np.abs(expected) <= LARGEST
        beyond = np.isfinite(expected) & ~finite
        assert (np.abs(found[name])[beyond] >= LARGEST).all(), f"{name}\n{text}"
        error = np.abs(found[name] - expected)[finite] / (1 + np.abs(expected[finite]))
        assert (error < tolerance).all(), f"{name}\n{text}"


def case_of_program(seed):
    program = random_program(seed)
    sizes = {"P": 5 + seed % 13, "M": 8 + seed % 12, "E": 3 + seed % 3}
    rng = np.random.default_rng(seed)
    arrays = {
        b.name: rng.standard_normal([sizes[r.upper()] for r in b.ranks])
        for b in program.buffers
        if b.kind == "in"
    }
    return replace(program, widths=(("E", sizes["E"]),)), arrays, sizes


def check_program(seed, folder):
    program, arrays, sizes = case_of_program(seed)
    single = {n: a.astype(np.float32).astype(float) for n, a in arrays.items()}
    wanted = run(program, single, sizes, 1, dtype=np.float64).outputs
    compare(interpreted(program, single, sizes, folder), wanted, 3e-4, str(program))


def check_cascade(seed, tiles, folder):
    case = generate(random.Random(seed))
    spec = cascade.parse(case.text)
    try:
        wanted = evaluate(spec, case.inputs)
    except CascadeError:
        return
    spec = typed(spec, checked_inputs(spec, case.inputs))
    inputs = as_inputs(spec, case.inputs)
    made = schedule(spec, Sizes(rows=tiles, stream=tiles))
    values = made.bind({n: a.shape for n, a in inputs.items()})
    sizes = [a.size for k in made.program.kernels for a in k.axes]
    widths = {n: int(values[n]) for e in sizes for n in symbols(e)}
    if all(widths.values()):
        program = replace(made.program, widths=tuple(widths.items()))
        found = interpreted(program, inputs, values, folder)
        compare(found, {n: a.astype(float) for n, a in wanted.items()}, 2e-3, case.text)


@pytest.mark.parametrize("first", range(0, 24, 8))
def test_programs(first, tmp_path):
    for seed in range(first, first + 8):
        check_program(seed, tmp_path)


@pytest.mark.parametrize("tiles", [2, 5, 16])
def test_cascades(tiles, tmp_path):
    for seed in range(12):
        check_cascade(seed, tiles, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 400, 50))
def test_many_programs(first, tmp_path):
    for seed in range(first, first + 50):
        check_program(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 400, 50))
def test_many_cascades(first, tmp_path):
    for seed in range(first, first + 50):
        check_cascade(seed, 3, tmp_path)


COMPILE = """
import json
from cascade.backends.triton.aot import facts
from cascade.backends.triton.emit import emit
from tests.kernels.test_random import case_of_program
for seed in range(0, 20):
    program, _, _ = case_of_program(seed)
    found = facts(program, emit(program), "sm_90", "f32")
    print(json.dumps([f.to_dict() for f in found]))
"""


@pytest.mark.slow
def test_triton_compiles_what_it_interprets(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert all(k["registers"] > 0 for k in json.loads(line))
