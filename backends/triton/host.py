"""The function of an emitted file that a person calls: it checks shapes, makes memory, launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cascade.backends.triton.writer import ident
from cascade.ir.expr import Const, Expr, Map, Symbol
from cascade.ir.kinds import declared_kind
from cascade.schedule.program import Buffer, Program

if TYPE_CHECKING:
    from cascade.backends.triton.emit import Signature

INFIX = ("+", "-", "*", "/", "//", "%", "**", "<", "<=", ">", ">=", "==", "!=", "and", "or")
OF_MATH = ("exp", "log", "log2", "sqrt", "tanh", "erf", "sin", "cos", "floor", "ceil")
PYTHON = {
    **{op: f"({{}} {op} {{}})" for op in INFIX},
    **{f: f"math.{f}({{}})" for f in OF_MATH},
    "neg": "(-{})",
    "not": "(not {})",
    "select": "({1} if {0} else {2})",
    "exp2": "(2.0 ** {})",
    "rsqrt": "(1 / math.sqrt({}))",
    "relu": "max({}, 0)",
    "abs": "abs({})",
    "clamp": "min(max({}, {}), {})",
}

DTYPES = {
    "f64": "torch.float64", "f32": "torch.float32", "bf16": "torch.bfloat16",
    "f16": "torch.float16", "i64": "torch.int64", "i32": "torch.int32", "i16": "torch.int16",
    "i8": "torch.int8", "u8": "torch.uint8", "bool": "torch.bool", "int": "torch.int64",
}  # fmt: skip


def python(e: Expr) -> str:
    """An expression over extents and params as Python."""
    match e:
        case Const(value):
            if isinstance(value, float) and value in (float("inf"), float("-inf")):
                return f'float("{value}")'
            return repr(value)
        case Symbol(name):
            return f"n_{name}"
        case Map(op, args):
            parts = [python(a) for a in args]
            if op in ("min", "max"):
                return f"{op}({', '.join(parts)})"
            return PYTHON[op].format(*parts)
        case _:
            raise AssertionError(type(e).__name__)


def host(
    program: Program, signatures: tuple[Signature, ...], options: Callable[[str], tuple[int, int]]
) -> str:
    inputs = [b for b in program.buffers if b.kind == "in"]
    outputs = [b for b in program.buffers if b.kind == "out"]
    given = _given(program, inputs)
    arguments = [ident(b.name) for b in inputs]
    numbers = [f"{n}=None" for n, _ in program.values] + [f"{n}=None" for n in given]
    lines = [f"def run({', '.join([*arguments, *(['*', *numbers] if numbers else [])])}):"]
    lines.append(f'    """{program.name}: {_what(inputs)} to {_what(outputs)}, as a dictionary."""')
    lines += _extents(program, inputs)
    for b in (b for b in program.buffers if b.kind != "in"):
        lines.append(f"    {ident(b.name)} = {_memory(b, inputs)}")
    for s in signatures:
        lines += _launch(program, s, options(s.name))
    shown = ", ".join(f'"{b.name}": {ident(b.name)}' for b in outputs)
    lines.append(f"    return {{{shown}}}")
    return "\n".join(lines) + "\n"


def _what(buffers: list[Buffer]) -> str:
    return ", ".join(f"{b.name}[{','.join(b.ranks)}]" if b.ranks else b.name for b in buffers)


def _given(program: Program, inputs: list[Buffer]) -> list[str]:
    """Numbers that no shape and no definition gives."""
    from cascade.ir.walk import symbols

    known = {n for n, _ in program.values}
    for b in inputs:
        known |= {e.name for e in b.shape if isinstance(e, Symbol)}
    needed: set[str] = set()
    for b in program.buffers:
        for e in b.shape:
            needed |= symbols(e)
    for _, e in program.values:
        needed |= symbols(e)
    for k in program.kernels:
        for g in k.grid:
            needed |= symbols(g.count)
        for p in k.places:
            needed |= symbols(p.extent)
    return sorted(needed - known)


def _extents(program: Program, inputs: list[Buffer]) -> list[str]:
    """Extents from the shapes of the inputs, then what follows from them."""
    lines: list[str] = []
    known: set[str] = set()
    later: list[str] = []
    for b in inputs:
        name = ident(b.name)
        lines.append(
            f'    assert {name}.dim() == {len(b.shape)}, "{b.name} has {len(b.shape)} dimensions"'
        )
        for n, e in enumerate(b.shape):
            if isinstance(e, Symbol) and e.name not in known:
                known.add(e.name)
                lines.append(f"    n_{e.name} = {name}.shape[{n}]")
            else:
                rank = b.ranks[n]
                later.append(
                    f"    assert {name}.shape[{n}] == {python(e)}, "
                    f'"rank `{rank}` of `{b.name}` has another extent"'
                )
    for name in _given(program, inputs):
        lines.append(f"    n_{name} = {name}")
    for name, e in program.values:
        if name in known:
            continue
        lines.append(f"    n_{name} = {python(e)} if {name} is None else {name}")
    for name, size in program.widths:
        later.append(f'    assert n_{name} == {size}, "made for {name} = {size}"')
    return [*lines, *later]


def _memory(b: Buffer, inputs: list[Buffer]) -> str:
    shape = ", ".join(python(e) for e in b.shape)
    comma = "," if len(b.shape) == 1 else ""
    device = f"{ident(inputs[0].name)}.device" if inputs else '"cuda"'
    return f"torch.empty(({shape}{comma}), dtype={_dtype(b, inputs)}, device={device})"


def _dtype(b: Buffer, inputs: list[Buffer]) -> str:
    """Real outputs have the type of the first real input, temporaries are float32."""
    if b.dtype in DTYPES:
        return DTYPES[b.dtype]
    if b.kind == "temp" and b.like is None:
        return "torch.float32"
    real = [i for i in inputs if i.dtype in ("any", "real") or declared_kind(i.dtype) == "real"]
    like = b.like or (real[0].name if real else None)
    return f"{ident(like)}.dtype" if like else "torch.float32"


def _launch(program: Program, s: Signature, options: tuple[int, int]) -> list[str]:
    arguments = [ident(t) for t in s.tensors]
    arguments += [f"{ident(t)}.stride({n})" for t, n in s.strides]
    arguments += [f"n_{name}" for name in s.scalars]
    grid = " * ".join(f"({python(g)})" for g in s.grid) or "1"
    warps, stages = options
    return [
        f"    grid = {grid}",
        "    if grid:",
        f"        {ident(s.name)}_kernel[(grid,)](",
        f"            {', '.join(arguments)},",
        f"            num_warps={warps}, num_stages={stages},",
        "        )",
    ]
