"""What launches ask of triton, without a device: a driver that compiles for sm_90 and runs nothing.

Each test is a process of its own, for the other tests interpret triton.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

DRIVER = """
import os, sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

class Driver:
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0
    def get_current_target(self): return GPUTarget("cuda", 90, 32)

driver.set_active(Driver())

from cascade.api import example_text, parse
from cascade.backends.triton.launch import TritonKernel, _arguments

def tensors(spec, **sizes):
    kinds = {None: torch.bfloat16, "real": torch.bfloat16, "int": torch.int64, "bool": torch.bool}
    return {t.name: torch.zeros([sizes.get(r, 8) for r in t.ranks], dtype=kinds[t.dtype])
            for t in spec.inputs}
"""

COUNTS = """
compiled = []

def compile(self, key, signature, device, *rest):
    compiled.append(self._fn_name)
    self.device_caches[device][0][key] = object()
    return self.device_caches[device][0][key]

run = JITFunction.run
JITFunction._do_compile = compile
JITFunction.run = lambda self, *args, grid, warmup, **given: run(
    self, *args, grid=grid, warmup=True, **given
)
spec = parse(example_text(sys.argv[1]), sys.argv[1])
kernel = TritonKernel(spec)
for length in map(int, sys.argv[2:]):
    given = tensors(spec, b=2, h=4, g=4, p=length, m=length, i=length, e=64, f=64)
    _, module = kernel.made(given, {})
    module.run(**_arguments(given, {}, module))
print(len(compiled))
"""


def alone(folder, text: str, *arguments: object) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"CASCADE_CACHE": str(folder / "cascade"), "TRITON_CACHE_DIR": str(folder / "t")}
    command = [sys.executable, "-c", DRIVER + text, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("name", "kernels"), [("causal", 1), ("document_mask", 3)])
def test_one_compilation_for_all_lengths(tmp_path, name, kernels):
    """Of documents there are two sources: one for fewer than four tiles, without lists."""
    lengths = (1, 2, 15, 16, 17, 64, 100, 256, 1000, 4096)
    assert alone(tmp_path, COUNTS, name, *lengths) == f"{kernels}\n"


PARALLEL = """
from cascade.backends.triton.parallel import LATE, compile_all
from cascade.backends.triton.launch import _module

spec = parse(example_text("attention"), "attention")
given = tensors(spec, b=1, h=1, p=64, m=64, e=16, f=16)
jobs, seconds = [], float(sys.argv[1])
if not seconds:
    os.sched_getaffinity = lambda _: {0}
for n in (16, 32, 64) if seconds else (16, 17, 18, 19, 20, 21):
    _, module = TritonKernel(spec, {"p": n, "m": n}).made(given, {})
    arguments = _arguments(given, {}, module)
    jobs.append((module, lambda module=module, arguments=arguments: module.run(**arguments)))
broken = _module(open(jobs[0][0].__file__).read().replace("tl.dot(", "tl.no_such("))
jobs.insert(1, (broken, lambda: broken.run(**given)))
found = compile_all(jobs, seconds)
kernels = [module.O_kernel for module, _ in jobs]
assert all(type(k) is JITFunction for k in kernels)
there = [len(k.device_caches[0][0]) for k in kernels]
print(there, [text == LATE for text in found], "AttributeError" in found[1])
"""


def test_candidates_are_compiled_at_once(tmp_path):
    assert alone(tmp_path, PARALLEL, 300) == f"{[1, 0, 1, 1]} {[False] * 4} True\n"


def test_what_would_be_late_is_not_compiled(tmp_path):
    """One is compiled in any case, and what was begun by then."""
    there, late, _ = alone(tmp_path, PARALLEL, 0).replace("] ", "]|").split("|")
    assert there.startswith("[1, 0") and late.startswith("[False") and "True" in late
