"""Loads by tensor descriptors: the hardware copies a box of a tensor, with zeros where it ends.

A load in a loop goes by one where its index is a scalar of the instance along all ranks but
two, and a run of coordinates along those two, the last being the contiguous one. The descriptor is
made before the loop; its base is the tensor at the scalars. What a mask would test is then the end
of the tensor, which the hardware knows. Such loads need no registers for addresses, but strides
and base must be multiples of 16 bytes; the host tests that.
"""

from __future__ import annotations

from dataclasses import dataclass

from cascade.backends.triton.writer import Axes, Code, Writer, ident
from cascade.ir.expr import Const, Coordinate, Expr, Map
from cascade.ir.walk import free_ranks, substitute, symbols
from cascade.schedule.program import Load, Place

LARGEST_BOX = 256  # coordinates along one rank
LEAST_BOX = 16  # contiguous coordinates: 16 bytes of the smallest type


@dataclass(frozen=True)
class Slot:
    """A slot of an index: a lane and an offset from it, or a scalar of the instance alone."""

    offset: Expr
    axis: str | None = None


def described(w: Writer, node: Load) -> Code | None:
    """The load by a descriptor; None where it has no such form."""
    if w.program.buffer[node.tensor].kind != "in":
        return None  # strides of our own may not be aligned
    if w.depth == 1 and not w.specialised:
        return None  # once an instance it would not pay
    found = [_slot(w, i) for i in node.index]
    slots = [s for s in found if s is not None]
    lanes = [n for n, s in enumerate(slots) if s.axis is not None]
    if len(slots) < len(found) or len(lanes) != 2 or lanes[-1] != len(slots) - 1:
        return None
    axes = tuple(slots[n].axis or "" for n in lanes)
    boxes = [w.sizes[a] for a in axes]
    if max(boxes) > LARGEST_BOX or boxes[-1] < LEAST_BOX or axes[0] == axes[1]:
        return None
    shape = w.program.buffer[node.tensor].shape
    ends = {Map("<", (i, e)) for i, e in zip(node.index, shape, strict=True)}
    if not set(node.present) <= ends or not _ends_are_known(w, node, axes, lanes):
        return None
    name = _descriptor(w, node.tensor, slots, lanes, shape)
    offsets = ", ".join(w.code(slots[n].offset).text for n in lanes)
    text = f"{name}.load([{offsets}])"
    order = w.ordered(axes)
    return Code(text if order == axes else f"tl.trans({text})", order)


def _slot(w: Writer, i: Expr) -> Slot | None:
    """None where neither a run of coordinates nor a scalar of the instance."""
    value = _placed(w, i)
    match value:
        case Coordinate(rank) if rank.startswith("#"):
            return Slot(Const(0), rank[1:])
        case Map("+", (offset, Coordinate(rank))) if rank.startswith("#"):
            return None if free_ranks(offset) else Slot(offset, rank[1:])
    instance = {g.scalar for g in w.kernel.grid}
    if free_ranks(value) or symbols(value) & (w.scalars - instance):
        return None  # it changes in the loop, or reads a tensor
    return Slot(value)


def _placed(w: Writer, i: Expr) -> Expr:
    """An index in lanes, positions and numbers."""
    return substitute(i, {rank: place.value for rank, place in w.places.items()})


def _ends_are_known(w: Writer, node: Load, axes: Axes, lanes: list[int]) -> bool:
    """Whether each lane that may not exist is past the end of the tensor."""
    shape = w.program.buffer[node.tensor].shape
    ends = dict(zip(axes, (shape[n] for n in lanes), strict=True))
    ranks = dict(zip(axes, (node.index[n] for n in lanes), strict=True))

    def known(place: Place) -> bool:
        own = [a for a in axes if f"#{a}" in free_ranks(place.value)]
        if len(own) != 1:
            return False
        same = w.code(place.extent).text == w.code(ends[own[0]]).text
        return same and (
            ranks[own[0]] == Coordinate(place.rank) or _placed(w, ranks[own[0]]) == place.value
        )

    return all(known(p) for p in w.missing(axes))


def _descriptor(
    w: Writer, tensor: str, slots: list[Slot], lanes: list[int], shape: tuple[Expr, ...]
) -> str:
    """The name of a descriptor, which is made at the head of the kernel at first use."""
    name = ident(tensor)
    base = [f"{name}_ptr"]
    for n, s in enumerate(slots):
        if s.axis is None and s.offset != Const(0):
            base.append(f"tl.cast({w.code(s.offset).text}, tl.int64) * {name}_s{n}")
    extents = ", ".join(w.code(shape[n]).text for n in lanes)
    boxes = ", ".join(str(w.sizes[slots[n].axis or ""]) for n in lanes)
    made = (
        f"tl.make_tensor_descriptor({' + '.join(base)}, [{extents}], [{name}_s{lanes[0]}, 1],"
        f" [{boxes}])"
    )
    if made not in w.descriptors:
        count = sum(n.startswith(f"d_{name}") for n in w.descriptors.values())
        w.descriptors[made] = f"d_{name}_{count + 1}" if count else f"d_{name}"
        w.described.add(tensor)
        w.lines.insert(w.head, f"    {w.descriptors[made]} = {made}")
        w.head += 1
    return w.descriptors[made]
