"""A body as it is written, on the square of one chunk: rows `p1*P0 + p0`, columns `p1*P0 + m0`.

Tensors over rows and columns, which would be whole squares, are written again for one chunk.
"""

from __future__ import annotations

from cascade.ir.expr import Coordinate, Expr, Map, Read, Reduce, Where
from cascade.ir.walk import bound_ranks, children, free_ranks, rebuild, transform, walk
from cascade.transforms.placing import place
from cascade.transforms.products import Opener
from cascade.transforms.tiles import Tiles, filtered, mentions


class TileForm:
    """Places expressions on a chunk, and writes the tensors they need there."""

    def __init__(
        self, opener: Opener, tiles: Tiles, column: str, prefix: tuple[Expr, ...], strict: bool
    ):
        self.opener = opener
        self.draft = opener.draft
        self.tiles = tiles
        self.column = column
        op = "<" if strict else "<="
        mask = Map(op, (Coordinate(tiles.column), Coordinate(tiles.inner)))
        self.before = (mask,)
        self.prefix = {self._at(c): mask for c in prefix}

    def _at(self, e: Expr) -> Expr:
        places = {
            self.tiles.row: self.tiles.point(self.tiles.inner),
            self.column: self.tiles.point(self.tiles.column),
        }
        return place(e, places)

    def placed(self, e: Expr) -> Expr:
        """`e` at a row and a column of the chunk."""
        e = self._tiled(e)
        return transform(self._at(e), self._simplified)

    def _simplified(self, e: Expr) -> Expr | None:
        """Conditions and distances inside a chunk do not depend on the chunk."""
        row, column = (self.tiles.point(p) for p in (self.tiles.inner, self.tiles.column))
        if e == Map("-", (row, column)):
            return Map("-", (Coordinate(self.tiles.inner), Coordinate(self.tiles.column)))
        return self.prefix.get(e)

    def has_prefix(self, e: Expr) -> bool:
        return any(node in self.before for node in walk(e))

    def _tiled(self, e: Expr) -> Expr:
        if {self.tiles.row, self.column} & set(bound_ranks(e)):
            return e  # other coordinates of the same names
        both = mentions(e, {self.tiles.row}) and mentions(e, {self.column})
        if isinstance(e, Read) and both:
            return self._read(e)
        if isinstance(e, Reduce) and both:
            return self._hoisted(e)
        return rebuild(e, tuple(self._tiled(c) for c in children(e)))

    def _hoisted(self, e: Reduce) -> Expr:
        return self._statement("square", self._inside(e))

    def _inside(self, e: Expr) -> Expr:
        """The body of a statement: its own sum stays, what is in it is tiled."""
        if isinstance(e, Where):
            return Where(self._inside(e.body), self._tiled(e.condition), e.span)
        if isinstance(e, Reduce):
            return Reduce(e.op, e.ranks, self._tiled(e.body), e.span)
        return self._tiled(e)

    def _read(self, e: Read) -> Expr:
        definition = self.opener.definition(e.tensor)
        if definition is None:
            return rebuild(e, tuple(self._tiled(i) for i in e.index))
        body = self._inside(self.opener.placed(definition, e.index))
        return self._statement(f"{e.tensor}_tile", body)

    def _statement(self, stem: str, body: Expr) -> Read:
        tiles = self.tiles
        placed = transform(self._at(body), self._simplified)
        if not self.has_prefix(placed):
            placed = filtered(placed, self.before)
        free = free_ranks(placed)
        pair = (tiles.outer, tiles.inner, tiles.column)
        others = [r for r in self.draft.ranks if r in free and r not in pair]
        return self.draft.once("tile", stem, (*others, *pair), placed)
