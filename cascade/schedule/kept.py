"""Which tiles must hold the very numbers that a maximum was taken of: those that are outputs as
they are, and those that are compared with other tiles. A sum or a product of one may be rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cascade.ir.expr import Const, Expr, Map, Read
from cascade.ir.ops import COMPARISONS
from cascade.ir.walk import walk
from cascade.schedule.program import Fold, For, Kernel, Let, Load, Mask, Node, Program, Seq, Store
from cascade.schedule.prune import expressions


def kept_exact(program: Program) -> dict[str, set[str]]:
    """The tiles of each kernel."""
    buffers = {b.name for b in program.buffers if b.kind == "out"}
    found: dict[str, set[str]] = {}
    for kernel in reversed(program.kernels):
        found[kernel.name] = _Kernel(kernel, buffers).tiles()
    return found


@dataclass
class _Kernel:
    """`buffers` are those whose elements must be exact; what a kernel loads of them joins."""

    kernel: Kernel
    buffers: set[str]
    exact: set[str] = field(default_factory=set)

    def tiles(self) -> set[str]:
        before = -1
        while before != len(self.exact):  # what is carried goes round
            before = len(self.exact)
            self._nodes(self.kernel.body)
        return self.exact

    def _nodes(self, nodes: tuple[Node, ...]) -> None:
        for node in reversed(nodes):
            for e in expressions(node):
                self._compared(e)
            match node:
                case For() | Seq():
                    for c in node.carries:
                        if c.name in self.exact:
                            self.exact |= {c.next, *_passed(c.init)}
                    self._nodes(node.body)
                case Store(tensor, _, value) if tensor in self.buffers:
                    self.exact |= set(_passed(value))
                case Load(name, tensor) if name in self.exact:
                    self.buffers.add(tensor)
                case Let(name, e) | Mask(name, e) | Fold(name, "max" | "min", e):
                    if name in self.exact:
                        self.exact |= set(_passed(e))
                case _:
                    pass

    def _compared(self, e: Expr) -> None:
        for n in walk(e):
            if isinstance(n, Map) and n.op in COMPARISONS:
                if not any(isinstance(a, Const) for a in n.args):
                    self.exact |= {name for a in n.args for name in _passed(a)}


def _passed(e: Expr) -> Iterator[str]:
    """The tiles that an expression may be, as they are."""
    match e:
        case Read(name, ()):
            yield name
        case Map("select", (_, *args)) | Map("max" | "min" | "neg", args):
            for a in args:
                yield from _passed(a)
