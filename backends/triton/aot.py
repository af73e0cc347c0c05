"""Compiles emitted kernels ahead of time, without a GPU, and reads what they need.

Registers and spilled bytes are those that the assembler reports; matrix instructions are counted in
the disassembly. Nothing is launched.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from cascade.backends.triton.emit import Options, Signature, signature_of, stepping
from cascade.backends.triton.scalars import scalar_kinds
from cascade.backends.triton.writer import ident, scalar
from cascade.diagnostics import input_error
from cascade.schedule.program import Buffer, Program

CAPABILITIES = {"sm_80": 80, "sm_86": 86, "sm_89": 89, "sm_90": 90, "sm_100": 100}
SCALARS = {"int": "i32", "real": "fp32", "bool": "i1"}
SHARED = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448}  # bytes an instance may use
E4M3_FROM = 89
POINTERS = {
    "f64": "*fp64", "f32": "*fp32", "bf16": "*bf16", "f16": "*fp16", "i64": "*i64", "i32": "*i32",
    "i16": "*i16", "i8": "*i8", "u8": "*u8", "int": "*i64", "bool": "*i1", "f8e4m3": "*fp8e4nv",
    "f8e5m2": "*fp8e5",
}  # fmt: skip

_screen = Lock()


@dataclass(frozen=True)
class Facts:
    """What one kernel needs on one target. `fits` says that the target has the shared memory.

    Of the matrix instructions, those of `wgmma_instructions` are by a group of four warps at once,
    with operands in shared memory: the fast ones of sm_90.
    """

    kernel: str
    target: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    tensor_core_instructions: int
    wgmma_instructions: int
    num_warps: int
    num_stages: int
    fits: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class NotCompiled(Exception):
    """The compiler gave up on a kernel."""


def facts(
    program: Program,
    source: str,
    target: str,
    dtype: str = "bf16",
    options: Options | None = None,
    until: bool = False,
    first: Sequence[str] = (),
) -> list[Facts]:
    """Facts of every kernel; real tensors without a type of their own are `dtype`.

    With `until`, kernels are compiled until one spills or does not fit, those named in `first`
    before others; the facts of that one are then the last, and matrix instructions not counted.
    Raises `InputError` for a target that is not known, and `NotCompiled`.
    """
    if target not in CAPABILITIES:
        known = ", ".join(CAPABILITIES)
        raise input_error("target", f"there is no target `{target}`", f"targets: {known}")
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise input_error(
            "interpreter",
            "triton interprets kernels while TRITON_INTERPRET is 1, and compiles none",
            "unset it to compile ahead of time",
        )
    _check_types(program, target)
    options = options or Options()
    module = _module(source)
    kinds = scalar_kinds(program)
    found: dict[str, tuple[Facts, bytes]] = {}
    names = [k.name for k in program.kernels]
    order = [*(n for n in first if n in names), *(n for n in names if n not in first)]
    for kernel in (program.kernels[names.index(n)] for n in order):
        signature = signature_of(program, kernel)
        function = getattr(module, f"{ident(kernel.name)}_kernel")
        warps, stages = options.of(kernel.name)
        try:
            with _quiet() if options.specialised else nullcontext():
                compiled = _compile(
                    function, program, signature, kinds, target, dtype, warps, stages
                )
        except Exception as error:
            raise NotCompiled(f"`{kernel.name}`: {error}") from error
        here = _usage(kernel.name, target, compiled, stages)
        found[kernel.name] = here, compiled.asm["cubin"]
        if until and (here.spill_bytes or not here.fits):
            return [f for f, _ in found.values()]
    return [_counted(*found[n]) for n in names]


def _check_types(program: Program, target: str) -> None:
    for b in program.buffers:
        if b.dtype == "f8e4m3" and CAPABILITIES[target] < E4M3_FROM:
            raise input_error(
                "target",
                f"{target} has no numbers of type f8e4m3, as `{b.name}` has",
                "targets from sm_89 on have them, and every target has f8e5m2 and i8",
            )


def _module(source: str) -> ModuleType:
    """The emitted file as a module; it must be a file for triton to read its text."""
    import importlib.util

    with tempfile.TemporaryDirectory(prefix="cascade-") as folder:
        path = Path(folder) / "kernels.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("cascade_kernels", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def _compile(
    function: Any,
    program: Program,
    signature: Signature,
    kinds: Mapping[str, str],
    target: str,
    dtype: str,
    warps: int,
    stages: int,
) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types: dict[str, str] = {}
    constants: dict[tuple[int, ...], int] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    aligned = [["tt.divisibility", 16]]
    for tensor in signature.tensors:
        attributes[(len(types),)] = aligned
        types[f"{ident(tensor)}_ptr"] = POINTERS[_dtype(program.buffer[tensor], dtype)]
    free = stepping(program, signature)
    for tensor, slot in signature.strides:
        position = (len(types),)
        last = slot == len(program.buffer[tensor].shape) - 1
        types[f"{ident(tensor)}_s{slot}"] = "constexpr" if last else "i32"
        if last:
            constants[position] = 1
        elif (tensor, slot) not in free:
            attributes[position] = aligned
    for name in signature.scalars:
        types[scalar(name)] = SCALARS[kinds.get(name, "real")]
    source = ASTSource(fn=function, signature=types, constexprs=constants, attrs=attributes)
    gpu = GPUTarget("cuda", CAPABILITIES[target], 32)
    return triton.compile(source, target=gpu, options={"num_warps": warps, "num_stages": stages})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the pages that the compiler itself writes to the screen where it gives up."""
    with _screen:
        sys.stderr.flush()
        kept = os.dup(2)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _dtype(buffer: Buffer, dtype: str) -> str:
    if buffer.dtype in ("any", "real"):
        return "f32" if buffer.kind == "temp" and buffer.like is None else dtype
    return buffer.dtype


def _usage(kernel: str, target: str, compiled: Any, stages: int) -> Facts:
    """What a kernel needs; its instructions are not counted."""
    usage = _tool("cuobjdump", compiled.asm["cubin"], "--dump-resource-usage")
    registers = int(re.search(r"REG:(\d+)", usage).group(1))  # type: ignore[union-attr]
    stack = int(re.search(r"STACK:(\d+)", usage).group(1))  # type: ignore[union-attr]
    shared = int(compiled.metadata.shared)
    fits = shared <= SHARED[CAPABILITIES[target]]
    warps = int(compiled.metadata.num_warps)  # more than asked for where some only load
    return Facts(kernel, target, registers, stack, shared, 0, 0, warps, stages, fits)


def _counted(found: Facts, cubin: bytes) -> Facts:
    assembly = _tool("nvdisasm", cubin)
    matrix = len(re.findall(r"\b(?:HGMMA|QGMMA|IGMMA|HMMA|IMMA|UTCHMMA|UTCQMMA)\b", assembly))
    group = len(re.findall(r"\b(?:HGMMA|QGMMA|IGMMA)\b", assembly))
    return replace(found, tensor_core_instructions=matrix, wgmma_instructions=group)


def _tool(name: str, cubin: bytes, *options: str) -> str:
    """What a binary tool that comes with triton says of a kernel."""
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [str(folder / name), *options, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
