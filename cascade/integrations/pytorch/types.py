"""The type in which torch tensors are computed together."""

from __future__ import annotations

from collections.abc import Iterable

import torch

EIGHT_BITS = frozenset((torch.float8_e4m3fn, torch.float8_e5m2))
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
