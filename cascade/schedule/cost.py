"""What a Program takes on a GPU, roughly: to put choices of tiles, warps and stages in order.

Visits and bytes are those that `cascade.schedule.predict` counts, rates are those of a target file.
The lanes of a tile are paid for whether they exist or not, so tiles that are larger than what there
is to do cost more. The numbers are not meant as times: what is close is measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, prod

from cascade.analysis.targets import Target
from cascade.ir.expr import Expr, Map, Read
from cascade.ir.extents import Number, evaluate
from cascade.ir.ops import MAPS
from cascade.ir.walk import walk
from cascade.schedule.counts import Counts, KernelCounts, Traffic, item_size
from cascade.schedule.facts import Axes, axes_of, tile_axes
from cascade.schedule.program import (
    Best,
    Contract,
    Fold,
    For,
    Kernel,
    Let,
    Load,
    Mask,
    Node,
    Pick,
    Place,
    Program,
    Seq,
    inside,
)

WARP = 32  # threads
REGISTERS = 2**16  # of a multiprocessor
MOST_REGISTERS = 255  # of a thread
THREADS = 2048  # of a multiprocessor
OTHERS = 40  # registers of a thread for addresses and numbers
VISIT = 4e-7  # seconds from the end of a visit to the next one's, where nothing else is at work
HIDDEN = 0.8  # of the shorter of arithmetic and loads, where tiles are loaded beforehand
GROUP = 64  # rows that four warps multiply at once, from operands in shared memory


@dataclass(frozen=True)
class Launch:
    """Warps of an instance, and tiles of a loop that are on their way at once."""

    warps: int
    stages: int


@dataclass(frozen=True)
class Needs:
    """Bytes of shared memory of an instance, and registers of each of its threads."""

    shared: int
    registers: int


class Cost:
    """Of a Program whose visits and bytes are counted. `values` has the extents of its axes,
    `dtypes` the types of its arguments.
    """

    def __init__(
        self,
        program: Program,
        counts: Counts | None,
        values: Mapping[str, Number],
        dtypes: Mapping[str, str],
    ):
        sizes = {b.name: item_size(b, dtypes) for b in program.buffers}
        self.kernels = [_Kernel(k, values, sizes) for k in program.kernels]
        self.counts = counts

    def needs(self, launch: Launch) -> Needs:
        """Of the kernel that needs most."""
        every = [k.needs(launch) for k in self.kernels]
        return Needs(max(n.shared for n in every), max(n.registers for n in every))

    def seconds(self, launch: Launch, target: Target) -> float | None:
        """The sum over kernels; None where nothing is counted."""
        if self.counts is None:
            return None
        counted = self.counts.kernel
        return sum(k.seconds(counted[k.kernel.name], launch, target) for k in self.kernels)


class _Kernel:
    def __init__(self, kernel: Kernel, values: Mapping[str, Number], sizes: Mapping[str, int]):
        self.kernel = kernel
        self.sizes = sizes
        self.axes = tile_axes(kernel)
        self.lanes = {a.name: max(1, int(evaluate(a.size, values.__getitem__)))
                      for a in kernel.axes}  # fmt: skip
        self.places = _places(kernel)
        self.loops = [n for n in inside(kernel.body) if isinstance(n, For | Seq)]
        self.loads = {n.name: n for n in inside(kernel.body) if isinstance(n, Load)}

    # -- what an instance needs
    def needs(self, launch: Launch) -> Needs:
        streamed = max((self._streamed(loop, launch) for loop in self.loops), default=0)
        return Needs(streamed + self._resident(), self._registers(launch))

    def _streamed(self, loop: For | Seq, launch: Launch) -> int:
        """Tiles on their way to matrix units. Where groups of warps read them in place, none can
        be written over before the product is there: that takes a tile more.
        """
        found = [self._bytes(n) for n in self._multiplied(loop.body) if n in _loaded(loop.body)]
        if launch.stages == 1:
            return max(found, default=0)
        in_place = self._by_groups(loop.body)
        return sum(found) * (launch.stages if in_place else launch.stages - 1)

    def _resident(self) -> int:
        """Tiles that are loaded before a loop, and multiplied in each of its visits."""
        found = {n for loop in self.loops for n in self._multiplied(loop.body)
                 if n not in _loaded(loop.body)}  # fmt: skip
        return sum(self._bytes(n) for n in found)

    def _multiplied(self, nodes: tuple[Node, ...]) -> list[str]:
        """Loaded tiles of two axes or more that products read."""
        factors = (f for n in nodes if isinstance(n, Contract) for f in n.factors)
        names = dict.fromkeys(f.tensor for f in factors if isinstance(f, Read))
        return [n for n in names if n in self.loads and len(self.axes[n]) > 1]

    def _by_groups(self, nodes: tuple[Node, ...]) -> bool:
        products = [n for n in nodes if isinstance(n, Contract)]
        rows = (self._rows(self.axes[n.name]) for n in products)
        narrow = all(self.sizes[self.loads[n].tensor] <= 2 for n in self._multiplied(nodes))
        return narrow and min(rows, default=1) >= GROUP

    def _rows(self, axes: Axes) -> int:
        """Lanes of the first axis of a product."""
        return next((self.lanes[a.name] for a in self.kernel.axes if a.name in axes), 1)

    def _bytes(self, name: str) -> int:
        return self._elements(self.axes[name]) * self.sizes[self.loads[name].tensor]

    def _registers(self, launch: Launch) -> int:
        """What a loop carries, and one and a half of its widest product, for what is made of it."""
        most = 0
        for loop in self.loops:
            carried = sum(self._elements(frozenset(c.axes)) for c in loop.carries)
            products = (self._elements(self.axes[n.name]) for n in loop.body
                        if isinstance(n, Contract))  # fmt: skip
            most = max(most, 2 * carried + 3 * max(products, default=0))
        return OTHERS + most // (2 * WARP * launch.warps)

    def _elements(self, axes: Axes, lanes: Mapping[str, int] | None = None) -> int:
        return prod((lanes or self.lanes)[a] for a in axes)

    # -- what all instances take
    def seconds(self, counted: KernelCounts, launch: Launch, target: Target) -> float:
        if not counted.instances:
            return 0.0
        needs = self.needs(launch)
        work, visits = self._work(counted)
        compute = sum(n / target.rate_of(kind) for kind, n in work.items())
        compute *= max(1.0, needs.registers / MOST_REGISTERS)  # what spills is loaded again
        moved = sum(counted.tensors.values(), Traffic())
        memory = (moved.bytes_loaded + moved.bytes_stored) / target.bandwidth
        hidden = HIDDEN if launch.stages > 1 else 0.0
        busy = compute + memory - hidden * min(compute, memory)
        waits = VISIT * visits / (target.multiprocessors * launch.stages)
        waits /= min(_resident(needs, launch, target), ceil(_share(counted, target)))
        return (busy + waits) * ceil(_share(counted, target)) / _share(counted, target)

    def _work(self, counted: KernelCounts) -> tuple[Counter[str], int]:
        """Operations by kind, as target files name them, and visits of all loops."""
        total: Counter[str] = Counter()
        visits = 0
        for nodes, lanes, times in self._bodies(counted):
            visits += times
            for node in nodes:
                for kind, n in self._operations(node, lanes):
                    total[kind] += n * times
        return total, visits

    def _bodies(
        self, counted: KernelCounts
    ) -> Iterator[tuple[tuple[Node, ...], Mapping[str, int], int]]:
        yield self.kernel.body, self.lanes, counted.instances
        for loop in self.loops:
            visits = counted.loops[loop.scalar]
            yield loop.body, self.lanes, visits.full
            part = {loop.axis: loop.part} if isinstance(loop, For) else {}
            yield loop.body, {**self.lanes, **part}, visits.partial

    def _operations(self, node: Node, lanes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
        match node:
            case Contract():
                axes = self._of(*node.factors)
                kind = "mac" if self._by_matrix_units(node) else "other"
                yield kind, self._elements(axes, lanes)
                return
            case Let(value=e) | Pick(value=e) | Mask(value=e):
                parts: tuple[Expr, ...] = (e,)
            case Fold(value=e):
                parts = (e,)
                yield "other", self._elements(self._of(e), lanes)
            case Best():
                parts = (node.value, *node.conditions)
                lanes_of_target = lanes[node.target]
                yield "other", self._elements(self._of(*parts), lanes) * lanes_of_target
            case _:
                return
        for part in parts:
            for e in walk(part):
                if isinstance(e, Map):
                    kind = "exp" if MAPS[e.op].cost == "exp" else "other"
                    yield kind, self._elements(self._of(e), lanes)

    def _by_matrix_units(self, node: Contract) -> bool:
        """Products of two tiles in 16 bits; the computed one takes the type of the loaded one."""
        wide = [f for f in node.factors if len(self._of(f)) > 1]
        loaded = [f.tensor for f in wide if isinstance(f, Read) and f.tensor in self.loads]
        narrow = all(self.sizes[self.loads[n].tensor] <= 2 for n in loaded)
        return len(wide) > 1 and narrow

    def _of(self, *parts: Expr) -> Axes:
        found: Axes = frozenset()
        for e in parts:
            found |= axes_of(e, self.places, self.axes)
        return found


def _places(kernel: Kernel) -> dict[str, Place]:
    found = {p.rank: p for p in kernel.places}
    for n in inside(kernel.body):
        if isinstance(n, For):
            found[n.place.rank] = n.place
        elif isinstance(n, Seq):
            found |= {p.rank: p for p in n.places}
    return found


def _loaded(nodes: tuple[Node, ...]) -> set[str]:
    return {n.name for n in nodes if isinstance(n, Load)}


def _share(counted: KernelCounts, target: Target) -> float:
    """Instances for each multiprocessor."""
    return counted.instances / target.multiprocessors


def _resident(needs: Needs, launch: Launch, target: Target) -> int:
    """Instances that a multiprocessor holds at once."""
    threads = WARP * launch.warps
    registers = min(MOST_REGISTERS, needs.registers) * threads
    bounds = [REGISTERS // registers, THREADS // threads]
    if needs.shared:
        bounds.append(target.on_chip // needs.shared)
    return max(1, min(bounds))
