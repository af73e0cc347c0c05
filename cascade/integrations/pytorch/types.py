"""The type in which torch tensors are computed together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch

from cascade.ir.cascade import Cascade
from cascade.ir.kinds import tensor_kinds

EIGHT_BITS = frozenset((torch.float8_e4m3fn, torch.float8_e5m2))
TYPES = {
    "f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16,
    "i64": torch.int64, "i32": torch.int32, "i16": torch.int16, "i8": torch.int8,
    "u8": torch.uint8, "bool": torch.bool, "int": torch.int64,
}  # fmt: skip
NOT_IN_NUMPY = EIGHT_BITS | {torch.bfloat16}


def real_type(tensors: Iterable[torch.Tensor], usual: torch.dtype = torch.float32) -> torch.dtype:
    """That of the real tensors together; the usual one where there are none.

    Reals of 8 bits do not count: they are how a tensor is kept, and nothing is computed in them.
    """
    types = [t.dtype for t in tensors if t.is_floating_point() and t.dtype not in EIGHT_BITS]
    found = types[0] if types else usual
    for dtype in types[1:]:
        found = torch.promote_types(found, dtype)
    return found


def output_types(
    spec: Cascade,
    tensors: Mapping[str, torch.Tensor],
    usual: torch.dtype = torch.float32,
    kept: Collection[str] = (),
) -> dict[str, torch.dtype]:
    """The types of the outputs: those declared, else that of the real inputs together, but for
    those of `kept`, which are wider than what they were made of.

    Where an argument is float64 everything is computed in it, and real outputs are float64.
    """
    wide = any(t.dtype == torch.float64 for t in tensors.values())
    counted = [t for n, t in tensors.items() if n not in kept and t.is_floating_point()]
    real = torch.float64 if wide else real_type(counted or tensors.values(), usual)
    kinds = tensor_kinds(spec)
    found = {}
    for name in spec.outputs:
        kind = kinds.get(name, "any")
        dtype = TYPES.get(spec.output_types.get(name) or kind, real)
        found[name] = real if wide and dtype.is_floating_point else dtype
    return found
