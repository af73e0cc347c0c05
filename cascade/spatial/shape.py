"""The extents of one run on an array: how many tiles, and how large a statement is inside one.

A *stream* is one sequence of keys: query heads that share it (grouped queries) lie side by side as
rows of the same tile. A tile has as many coordinates of the streamed rank as the main array has
rows, and as many queries as it has columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, prod

from cascade.diagnostics import input_error
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Symbol
from cascade.ir.extents import Number, bind
from cascade.spatial.live import Axis, Live, live_tiles
from cascade.spatial.statements import Statement, Statements
from cascade.spatial.target import QUERY, SpatialTarget


@dataclass(frozen=True)
class Shape:
    """`streams` sequences of `length` keys, each met by `rows` queries: `steps` x `query_tiles`
    tiles a stream. `extents` are those of a whole run, `words` those of each input and output.
    """

    extents: Mapping[str, int]
    batch: tuple[str, ...]
    query: tuple[str, ...]
    outer: str
    inner: str
    streams: int
    length: int
    rows: int
    tile_length: int
    tile_rows: int
    words: Mapping[str, int]
    live: Live

    @property
    def steps(self) -> int:
        return ceil(self.length / self.tile_length)

    @property
    def query_tiles(self) -> int:
        return ceil(self.rows / self.tile_rows)

    @property
    def tiles(self) -> float:
        """Tiles of the whole run, those that a mask empties left out."""
        return self.streams * self.steps * self.query_tiles * self.live.share

    def inside(self, s: Statement) -> dict[str, int]:
        """Extents of a statement inside one tile, by rank; query ranks are one."""
        found: dict[str, int] = {}
        for r in s.ranks:
            if r in self.query:
                found[QUERY] = self.tile_rows
            elif r == self.inner:
                found[r] = self.tile_length
            elif r != self.outer and r not in self.batch:
                found[r] = self.extents[r]
        return found

    def points(self, s: Statement) -> float:
        """Points at which a statement has a value, over the whole run."""
        ranks = set(s.ranks)
        batch = prod(self.extents[r] for r in self.batch if r in ranks)
        count = float(batch * prod(self.extents[r] for r in self.query if r in ranks))
        if self.inner in ranks:
            count *= self.length
        elif self.outer in ranks:
            count *= self.steps
        rest = ranks - set(self.batch) - set(self.query) - {self.inner, self.outer}
        count *= prod(self.extents[r] for r in rest)
        if ranks & set(self.query):
            if self.inner in ranks:
                count *= self.live.points
            elif self.outer in ranks:
                count *= self.live.share
        return count

    def elements(self, ranks: Iterable[str]) -> int:
        """Elements of a tensor inside one tile."""
        here = set(ranks)
        count = self.width(ranks)
        if here & set(self.query):
            count *= self.tile_rows
        return count * self.tile_length if self.inner in here else count

    def width(self, ranks: Iterable[str]) -> int:
        """Elements of a tensor for one stream, one query and one step."""
        outside = {*self.batch, *self.query, self.outer, self.inner}
        return prod(self.extents[r] for r in ranks if r not in outside)


def make_shape(
    cascade: Cascade,
    found: Statements,
    target: SpatialTarget,
    settings: Mapping[str, Number],
) -> Shape:
    """The shape of a run. `settings` give extents by name (`M`) and values that conditions read.
    Raises `InputError` where one is missing.
    """
    tile_length, columns = target.main.rows, target.main.columns
    inner = cascade.rank.get(found.inner)
    given = dict(settings)
    if inner is not None and found.inner != found.streamed and isinstance(inner.extent, Symbol):
        given[inner.extent.name] = tile_length
    scalars = {t.name for t in cascade.inputs}
    bound = bind(cascade, {}, {k: v for k, v in given.items() if k not in scalars})
    extents = dict(bound.extents)
    length = extents[found.streamed]
    if not length:
        raise input_error("extent", f"rank `{found.streamed}` is empty: nothing streams")
    sequential = found.inner == ""
    extents[found.inner] = tile_length
    batch = _batch(found)
    moved = (*cascade.inputs, *(cascade.tensors[name] for name in cascade.outputs))
    words = {t.name: prod(bound.extents[r] for r in t.ranks) for t in moved}
    streams = _streams(cascade, found, extents, words, batch, length)
    total = prod(extents[r] for r in (*batch, *found.query))
    rows = ceil(total / streams)
    tile_rows = min(columns, rows) if rows else 1
    rank = found.query[0] if len(found.query) == 1 else ""
    positions = extents.get(rank, 1)
    # Heads that share a stream lie side by side: then a tile holds all positions, or some of one.
    axis = Axis(rank, tile_rows if rows == positions else max(1, positions), max(1, positions))
    step = Axis(found.streamed, 1 if sequential else tile_length, length)
    parts = (found.outer, found.inner)
    values = {**bound.values, **settings}
    live = live_tiles(found.conditions, axis, step, parts, values)
    return Shape(
        extents,
        batch,
        found.query,
        found.outer,
        found.inner,
        streams,
        length,
        max(1, rows),
        step.size,
        max(1, tile_rows),
        words,
        live,
    )


def _batch(found: Statements) -> tuple[str, ...]:
    """Ranks of every statement that reads an input in a tile: there is a run for each."""
    outside = {*found.query, found.outer, found.inner}
    common: dict[str, None] | None = None
    for s in found.items:
        if found.is_tile(s) and any(o.tensor in found.inputs for o in s.reads):
            here = dict.fromkeys(r for r in s.ranks if r not in outside)
            common = here if common is None else {r: None for r in common if r in here}
    return tuple(common or ())


def _streams(
    cascade: Cascade,
    found: Statements,
    extents: Mapping[str, int],
    words: Mapping[str, int],
    batch: tuple[str, ...],
    length: int,
) -> int:
    """How many sequences there are: grouped queries share one."""
    outside = {*batch, *found.query, found.outer, found.inner}
    counts = []
    for s in found.items:
        for o in s.reads:
            if o.tensor in found.inputs and {found.outer, found.inner} & set(o.ranks):
                width = prod(extents[r] for r in o.ranks if r not in outside)
                counts.append(words[o.tensor] // max(1, width * length))
    return max(1, max(counts, default=1))
