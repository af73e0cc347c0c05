"""How many query tiles the buffer holds: P1 of them stay while the keys stream past, P2 times.

Mapping of FuseMax, section 4.2: `for p2, for m1, for p1, all of a P0 x M0 tile at once`. What stays
is found from the statements: every tensor that has a value for each query and none for each key
(the query itself and the carried state). Arrays without links between them keep what passes from
one to the other as well. The buffer must also hold one tile of each streamed input.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from cascade.diagnostics import input_error


@dataclass(frozen=True)
class Chunks:
    """`inner` query tiles (P1) stay on chip at once; the keys stream past `outer` (P2) times.

    `needed` are the bytes in use.
    """

    inner: int
    outer: int
    needed: int


def choose_chunks(
    tiles: int, buffer: int, row_bytes: int, tile_rows: int, streamed_bytes: int, ragged: bool
) -> Chunks:
    """The most query tiles that fit `buffer` bytes: `tiles` of `tile_rows` rows each, `row_bytes` a
    row, beside `streamed_bytes` for the streamed inputs.

    The number divides `tiles`, as published; with `ragged` the last chunk may be smaller. Raises
    `InputError` if not even one tile fits.
    """
    tile_bytes = row_bytes * tile_rows
    room = buffer - streamed_bytes
    if tile_bytes <= 0:
        return Chunks(max(1, tiles), 1, streamed_bytes)
    fits = room // tile_bytes
    if fits < 1:
        raise input_error(
            "array-buffer",
            f"the buffer of {buffer} bytes does not hold one tile: its {tile_rows} rows need "
            f"{tile_bytes} bytes, one tile of each streamed input {streamed_bytes}",
            "give the target a larger `on_chip` (bytes), or arrays with fewer rows and columns",
        )
    inner = max(1, min(fits, tiles))
    if not ragged:
        while tiles % inner:
            inner -= 1
    outer = max(1, ceil(tiles / inner))
    return Chunks(inner, outer, inner * tile_bytes + streamed_bytes)
