"""The function of an emitted file that a person calls: it checks shapes, makes memory, launches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cascade.backends.triton.arithmetic import helpers, python
from cascade.backends.triton.layout import packed
from cascade.backends.triton.writer import ident, scalar
from cascade.ir.expr import Map, Symbol
from cascade.ir.kinds import declared_kind, is_wide_real
from cascade.ir.walk import free_ranks, symbols, walk
from cascade.schedule.program import Buffer, For, Program, inside

if TYPE_CHECKING:
    from cascade.backends.triton.emit import Signature

DTYPES = {
    "f64": "torch.float64", "f32": "torch.float32", "bf16": "torch.bfloat16",
    "f16": "torch.float16", "i64": "torch.int64", "i32": "torch.int32", "i16": "torch.int16",
    "i8": "torch.int8", "u8": "torch.uint8", "bool": "torch.bool", "int": "torch.int64",
}  # fmt: skip


def host(
    program: Program,
    signatures: tuple[Signature, ...],
    kinds: Mapping[str, str],
    options: Callable[[str], tuple[int, int]],
    described: frozenset[str] = frozenset(),
    positive: frozenset[str] = frozenset(),
) -> str:
    """`described` are the tensors that kernels load by descriptors, `positive` the params that they
    take to be positive.
    """
    inputs = [b for b in program.buffers if b.kind == "in"]
    outputs = [b for b in program.buffers if b.kind == "out"]
    given = _given(program, inputs, signatures)
    arguments = [ident(b.name) for b in inputs]
    taken = {ident(b.name) for b in inputs}
    names = [*(n for n, _ in program.values), *given]
    numbers = [f"{number_keyword(n, taken)}=None" for n in names]
    lines = [f"def run({', '.join([*arguments, *(['*', *numbers] if numbers else [])])}):"]
    lines.append(f'    """{program.name}: {_what(inputs)} to {_what(outputs)}, as a dictionary."""')
    lines += _types(inputs)
    lines += _extents(program, inputs, given, kinds)
    for name in sorted(positive):
        lines.append(
            f'    _check({scalar(name)} > 0, f"these kernels are for {name} > 0, '
            f'not {{{scalar(name)}}}")'
        )
    lines += _descriptors(program, described)
    for b in (b for b in program.buffers if b.kind != "in"):
        lines.append(f"    {ident(b.name)} = {_memory(b, inputs)}")
    indent = "    "
    if inputs:  # whichever device is the current one
        lines.append(f"    with torch.cuda.device_of({ident(inputs[0].name)}):")
        indent = "        "
    for s in signatures:
        lines += [indent + line for line in _launch(s, options(s.name), indent)]
    shown = ", ".join(f'"{b.name}": {ident(b.name)}' for b in outputs)
    lines.append(f"    return {{{shown}}}")
    text = "\n".join(lines) + "\n"
    aligned = f"{ALIGNED.strip()}\n\n\n" if described else ""
    return f"{helpers(text)}{CHECK.strip()}\n\n\n{aligned}{text}"


CHECK = """
def _check(holds, message):
    if not holds:
        raise ValueError(message)
"""


# The last stride is 1, the others and the address are multiples of 16 bytes.
ALIGNED = """
def aligned(tensor):
    \"\"\"Whether a descriptor can copy from a tensor.\"\"\"
    steps = [s * tensor.element_size() for s in tensor.stride()[:-1]]
    return tensor.stride(-1) == 1 and all(n % 16 == 0 for n in (tensor.data_ptr(), *steps))
"""


def _descriptors(program: Program, described: frozenset[str]) -> list[str]:
    """Tests of what descriptors need, and the memory that they are kept in."""
    if not described:
        return []
    lines = []
    for b in program.buffers:
        if b.name in described:
            lines.append(
                f'    _check(aligned({ident(b.name)}), "`{b.name}` is not aligned for descriptors")'
            )
    like = ident(next(b.name for b in program.buffers if b.kind == "in"))
    memory = f"torch.empty(size, dtype=torch.int8, device={like}.device)"
    lines.append(f"    triton.set_allocator(lambda size, alignment, stream: {memory})")
    return lines


def _what(buffers: list[Buffer]) -> str:
    return ", ".join(_shown(b) for b in buffers)


def _shown(b: Buffer) -> str:
    return f"{b.name}[{','.join(b.ranks)}]" if b.ranks else b.name


def number_keyword(name: str, taken: set[str]) -> str:
    """The keyword of an extent or param: its name, where no tensor has the same."""
    return f"n_{ident(name)}" if ident(name) in taken else ident(name)


def _given(program: Program, inputs: list[Buffer], signatures: tuple[Signature, ...]) -> list[str]:
    """Numbers that no shape and no definition gives."""
    known = {n for n, _ in program.values}
    for b in inputs:
        known |= {e.name for e in b.shape if isinstance(e, Symbol)}
    shown = [e for b in program.buffers for e in b.shape]
    shown += [e for _, e in program.values]
    shown += [e for s in signatures for e in s.grid]
    needed = {n for s in signatures for n in s.scalars} | {n for n, _ in program.widths}
    return sorted(needed.union(*(symbols(e) for e in shown)) - known)


def _types(inputs: list[Buffer]) -> list[str]:
    """Tests of the dimensions, types and devices of the arguments."""
    lines = []
    for b in inputs:
        name, shown = ident(b.name), f"`{_shown(b)}`"
        lines.append(
            f"    _check({name}.dim() == {len(b.shape)}, "
            f'f"{shown} has {len(b.shape)} dimensions, not {{{name}.dim()}}")'
        )
        kind = "real" if b.dtype in ("any", "real") else declared_kind(b.dtype)
        lines.append(
            f'    _check({TYPED[kind].format(name)}, f"{shown} is {kind}, not {{{name}.dtype}}")'
        )
        if is_wide_real(b.dtype):
            lines.append(f'    _check({name}.element_size() > 1, f"{shown} {NARROW}")')
    for b in inputs[1:]:
        here, first = ident(b.name), ident(inputs[0].name)
        lines.append(
            f"    _check({here}.device == {first}.device, "
            f'f"`{b.name}` is on {{{here}.device}}, and `{inputs[0].name}` on {{{first}.device}}")'
        )
    return lines


ANYWHERE = '"cuda" if torch.cuda.is_available() else "cpu"'  # where nothing is given
NARROW = "is not declared as one of 8 bits, and these kernels would round what it meets"
TYPED = {
    "real": "{}.is_floating_point()",
    "int": "not {0}.is_floating_point() and {0}.dtype != torch.bool",
    "bool": "{}.dtype == torch.bool",
}


def _extents(
    program: Program, inputs: list[Buffer], given: list[str], kinds: Mapping[str, str]
) -> list[str]:
    """Extents from the shapes of the inputs, then what follows from them."""
    lines: list[str] = []
    known: set[str] = set()
    later: list[str] = []
    for b in inputs:
        name = ident(b.name)
        for n, e in enumerate(b.shape):
            if isinstance(e, Symbol) and e.name not in known:
                known.add(e.name)
                lines.append(f"    {scalar(e.name)} = {name}.shape[{n}]")
            else:
                later.append(
                    f"    _check({name}.shape[{n}] == {python(e)}, "
                    f'f"rank `{b.ranks[n]}` of `{_shown(b)}` has {{{python(e)}}} coordinates, '
                    f'not {{{name}.shape[{n}]}}")'
                )
    widths = dict(program.widths)
    taken = {ident(b.name) for b in inputs}
    for name in given:
        number = number_keyword(name, taken)
        if name in widths:
            lines.append(f"    {scalar(name)} = {widths[name]} if {number} is None else {number}")
        else:
            lines.append(f'    _check({number} is not None, "`{name}` is needed: {number}=...")')
            lines.append(f"    {scalar(name)} = {number}")
            lines += _as_kind(name, kinds)
    for name, e in program.values:
        if name in known:
            continue
        number = number_keyword(name, taken)
        lines.append(f"    {scalar(name)} = {python(e, widths)} if {number} is None else {number}")
        lines += _as_kind(name, kinds)
    for name in sorted(_divisors(program) - widths.keys()):
        lines.append(
            f'    _check({scalar(name)} > 0, "`{name}` divides what loops run over: 1 or more")'
        )
    for name, size in program.widths:
        later.append(
            f'    _check({scalar(name)} == {size}, f"these kernels are for {name} = {size}, '
            f'not {{{scalar(name)}}}")'
        )
    return [*lines, *later]


def _divisors(program: Program) -> set[str]:
    """Numbers by which the rank of a loop is divided or multiplied where its bounds are found:
    they are taken to be positive. Extents of tensors are.
    """
    shapes = {n for b in program.buffers for e in b.shape for n in symbols(e)}
    found: set[str] = set()
    for node in (n for k in program.kernels for n in inside(k.body) if isinstance(n, For)):
        for e in (e for condition in node.predicate for e in walk(condition)):
            match e:
                case Map("//", (a, b)) if node.place.rank in free_ranks(a):
                    found |= symbols(b)
                case Map("*", (a, b)) if node.place.rank in free_ranks(e):
                    found |= symbols(a) | symbols(b)
    return found - shapes


def _as_kind(name: str, kinds: Mapping[str, str]) -> list[str]:
    """A number as the kind of number that the kernels take."""
    match kinds.get(name, "real"):
        case "real":
            return [f"    {scalar(name)} = float({scalar(name)})"]
        case "int":
            message = f"`{name}` is an integer, not {{{scalar(name)}}}"
            return [
                f'    _check({scalar(name)} == int({scalar(name)}), f"{message}")',
                f"    {scalar(name)} = int({scalar(name)})",
            ]
        case _:
            return []


def _memory(b: Buffer, inputs: list[Buffer]) -> str:
    shape = ", ".join(python(e) for e in b.shape)
    comma = "," if len(b.shape) == 1 else ""
    device = f"{ident(inputs[0].name)}.device" if inputs else ANYWHERE
    return f"torch.empty(({shape}{comma}), dtype={_dtype(b, inputs)}, device={device})"


def _dtype(b: Buffer, inputs: list[Buffer]) -> str:
    """Real outputs have the type of the first real input of more than 8 bits; temporaries are
    float32.
    """
    if b.dtype in DTYPES:
        return DTYPES[b.dtype]
    if b.kind == "temp" and b.like is None:
        return "torch.float32"
    real = [i for i in inputs if is_wide_real(i.dtype)]
    like = b.like or (real[0].name if real else None)
    return f"{ident(like)}.dtype" if like else "torch.float32"


def _launch(s: Signature, options: tuple[int, int], indent: str) -> list[str]:
    tensors = [ident(t) for t in s.tensors]
    strides = [f"{ident(t)}.stride({n})" for t, n in s.strides]
    numbers = [scalar(name) for name in s.scalars]
    inner = f"{indent}        "
    arguments = [a for kind in (tensors, strides, numbers) for a in packed(kind, inner)]
    grid = " * ".join(f"({python(g)})" for g in s.grid) or "1"
    warps, stages = options
    return [
        f"grid = {grid}",
        "if grid > 0:",
        f"    {ident(s.name)}_kernel[(grid,)](",
        *(a.removeprefix(indent) for a in arguments),
        f"        num_warps={warps}, num_stages={stages},",
        "    )",
    ]
