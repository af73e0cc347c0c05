"""A cascade while it is being rewritten: fresh names, chunked ranks, and the finished text.

`Tiles` sees a rank as chunks: row `p` is `p1*P0 + p0`, and a column of the same chunk, which a row
may read, is `p1*P0 + j0`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cascade.ir.cascade import Cascade, Einsum, Param, Partition, Rank
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.ops import MAPS
from cascade.ir.walk import (
    bound_ranks,
    conjunction,
    conjuncts,
    free_ranks,
    reads,
    substitute,
    walk,
)

CHUNK = 64  # the default extent of a chunk


class NotChunkable(Exception):
    """Why a form has no chunked one: the part, and the reason, in the words of the spec."""

    def __init__(self, part: str, reason: str):
        super().__init__(f"{part}: {reason}")
        self.part = part
        self.reason = reason


@dataclass(frozen=True)
class Tiles:
    """The chunks of one rank: `row = outer*size + inner`; `column` is another place in a chunk."""

    row: str
    extent: Expr
    outer: str
    inner: str
    column: str
    step: str  # a place that recurrences inside a chunk run along

    @property
    def size(self) -> Expr:
        return Symbol(self.inner.upper())

    @property
    def chunk(self) -> Expr:
        return Coordinate(self.outer)

    @property
    def after(self) -> Expr:
        return add(self.chunk, Const(1))

    @property
    def last(self) -> Expr:
        """The number of chunks."""
        return Symbol(self.outer.upper())

    def point(self, place: str) -> Expr:
        return add(times(self.chunk, self.size), Coordinate(place))

    @property
    def filled(self) -> Expr:
        """How many points the chunk has: fewer in a ragged last one."""
        left = Map("-", (self.extent, times(self.chunk, self.size)))
        return Map("min", (self.size, left))

    def at(self, e: Expr, rank: str, place: str) -> Expr:
        """`e` with a coordinate of the whole rank placed in the chunk."""
        return substitute(e, {rank: self.point(place)})

    def whole(self, tensor: str, ranks: tuple[str, ...]) -> Read:
        """A tensor over chunks, read at the row it stands for."""
        row = Coordinate(self.row)
        places = {
            self.outer: Map("//", (row, self.size)),
            self.inner: Map("%", (row, self.size)),
        }
        return Read(tensor, tuple(places.get(r, Coordinate(r)) for r in ranks))


class Draft:
    """Statements to come, on top of a source; nothing of the source is changed."""

    def __init__(self, source: Cascade):
        self.source = source
        taken = {*source.tensors, *(r.name for r in source.ranks)}
        taken |= {p.name for p in source.params} | {r.name.upper() for r in source.ranks}
        taken |= {s.name for r in source.ranks for s in walk(r.extent) if isinstance(s, Symbol)}
        self.taken = taken
        self.ranks: dict[str, Rank] = dict(source.rank)
        self.params: list[Param] = list(source.params)
        self.partitions: list[Partition] = list(source.partitions)
        self.einsums: list[Einsum] = list(source.einsums)
        self.tiled: dict[str, Tiles] = {}
        self.made: dict[object, str] = {}

    # -- names
    def fresh(self, stem: str) -> str:
        name, n = stem, 2
        while name in self.taken or (name != name.upper() and name.upper() in self.taken):
            name, n = f"{stem}_{n}", n + 1
        self.taken |= {name, name.upper()} if name == name.lower() else {name}
        return name

    def copy(self, rank: str, hidden: set[str]) -> str:
        """The rank itself, or another of its extent where it is in use."""
        name, n = rank, 1
        while name in hidden:
            n += 1
            key = ("copy", rank, n)
            if key not in self.made:
                self.made[key] = self.fresh(f"{rank}{n}")
                extent = self.ranks[rank].extent
                self.ranks[self.made[key]] = Rank(self.made[key], extent)
            name = self.made[key]
        return name

    def tiles(self, row: str, column: str | None = None) -> Tiles:
        """The chunks of a rank, made at first use."""
        if row not in self.tiled:
            if any(row == p.rank or row in p.parts for p in self.source.partitions):
                raise NotChunkable(row, "the rank is partitioned already")
            following = chr(ord(row[0]) + 1) if row[0] < "z" else "a"
            outer, inner = self.fresh(f"{row}1"), self.fresh(f"{row}0")
            place = self.fresh(f"{column or following}0")
            step = self.fresh(f"{row}_step")
            tiles = Tiles(row, self.ranks[row].extent, outer, inner, place, step)
            size = tiles.size
            top = Map("-", (Map("+", (tiles.extent, size)), Const(1)))
            self.ranks[outer] = Rank(outer, Map("//", (top, size)))
            self.ranks[inner] = Rank(inner, size)
            for local in (place, step):
                self.ranks[local] = Rank(local, size, True)
            self.partitions.append(Partition(row, (outer, inner), tiles.point(inner)))
            self.params.append(Param(inner.upper(), Const(CHUNK)))
            self.tiled[row] = tiles
        return self.tiled[row]

    # -- statements
    def add(self, name: str, ranks: tuple[str, ...], body: Expr) -> None:
        self.einsums.append(Einsum(name, ranks, self._with_tail(ranks, body)))

    def iterate(self, name: str, ranks: tuple[str, ...], start: Expr, body: Expr) -> None:
        """`init name[.., 0] = start` and `name[.., c+1] = body`, along the last rank."""
        slot = len(ranks) - 1
        self.einsums.append(Einsum(name, ranks, start, slot, True))
        self.einsums.append(Einsum(name, ranks, body, slot))

    def once(self, key: object, stem: str, ranks: tuple[str, ...], body: Expr) -> Read:
        """A statement for a value that several need."""
        if (key, body) not in self.made:
            self.made[key, body] = name = self.fresh(stem)
            self.add(name, ranks, body)
        return Read(self.made[key, body], tuple(Coordinate(r) for r in ranks))

    def replace(self, old: Einsum, body: Expr) -> None:
        place = next(n for n, e in enumerate(self.einsums) if e is old)
        self.einsums[place] = replace(old, body=body)

    def _with_tail(self, ranks: tuple[str, ...], body: Expr) -> Expr:
        """Rows past the extent are absent; said, where no read says it."""
        for tiles in self.tiled.values():
            if {tiles.outer, tiles.inner} <= set(ranks) and not self._tail_kept(body, tiles):
                tail = Map("<", (tiles.point(tiles.inner), Symbol(tiles.row.upper())))
                body = filtered(body, (tail,))
        return body

    def _tail_kept(self, e: Expr, tiles: Tiles) -> bool:
        """Whether a strict read makes rows past the extent absent."""
        match e:
            case Read(tensor, index):
                held = {i.rank for i in index if isinstance(i, Coordinate)}
                if {tiles.outer, tiles.inner} <= held:
                    return True
                known = self.source.tensors.get(tensor)
                slots = zip(index, known.ranks, strict=True) if known is not None else ()
                return any(i == tiles.point(tiles.inner) and r == tiles.row for i, r in slots)
            case Map(op, args):
                strict = MAPS[op].absence == "strict"
                return strict and any(self._tail_kept(a, tiles) for a in args)
            case Where(body, _) | Reduce(_, _, body):
                return self._tail_kept(body, tiles)
            case _:
                return False

    # -- the result
    def cascade(self) -> Cascade:
        einsums = reachable(self.einsums, self.source.outputs)
        used = {r for e in einsums for r in _ranks_of(e)}
        used |= {r for t in self.source.inputs for r in t.ranks}
        partitions = tuple(
            p
            for p in self.partitions
            if p in self.source.partitions or any(r in used for r in p.parts)
        )
        ranks = dict.fromkeys(r for t in self.source.inputs for r in t.ranks)
        ranks |= dict.fromkeys(r for p in partitions for r in (p.rank, *p.parts))
        declared = [r for r in self.ranks.values() if r.declared and r.name in used]
        ranks |= dict.fromkeys(r.name for r in declared)
        ranks |= dict.fromkeys(r for e in einsums for r in _ranks_of(e))
        kept = {r.upper() for r in ranks}
        params = (p for p in self.params if p in self.source.params or p.name in kept)
        return replace(
            self.source,
            ranks=tuple(self.ranks[r] for r in ranks),
            einsums=tuple(einsums),
            params=tuple(params),
            partitions=partitions,
            warnings=(),
        )


def _ranks_of(e: Einsum) -> list[str]:
    found = list(e.ranks)
    for node in walk(e.body):
        if isinstance(node, Coordinate):
            found.append(node.rank)
        found += bound_ranks(node)
        if isinstance(node, Select):
            found.append(node.target)
    return found


def reachable(einsums: list[Einsum], outputs: tuple[str, ...]) -> list[Einsum]:
    """The statements that outputs need; of equal needs, definitions stand before reads."""
    by_name: dict[str, list[Einsum]] = {}
    for e in einsums:
        by_name.setdefault(e.tensor, []).append(e)
    wanted: set[str] = set()
    ordered: list[str] = []

    def visit(name: str) -> None:
        if name in wanted or name not in by_name:
            return
        wanted.add(name)
        for e in by_name[name]:
            for r in reads(e.body):
                visit(r.tensor)
        ordered.append(name)

    for e in einsums:
        if e.tensor in outputs:
            visit(e.tensor)
    return [e for name in ordered for e in by_name[name]]


# -- small expressions


def add(*parts: Expr) -> Expr:
    result = parts[0]
    for part in parts[1:]:
        result = Map("+", (result, part))
    return result


def times(*factors: Expr) -> Expr:
    """The product, without ones."""
    kept = [f for f in factors if f not in (Const(1), Const(1.0))]
    result: Expr | None = None
    for factor in kept:
        result = factor if result is None else Map("*", (result, factor))
    return Const(1) if result is None else result


def filtered(e: Expr, conditions: tuple[Expr, ...]) -> Expr:
    """`e where conditions`, joined with those it has."""
    if not conditions:
        return e
    if isinstance(e, Where):
        own = conjuncts(e.condition)
        return Where(e.body, conjunction((*own, *(c for c in conditions if c not in own))))
    return Where(e, conjunction(tuple(dict.fromkeys(conditions))))


def summed(ranks: tuple[str, ...], e: Expr, conditions: tuple[Expr, ...] = ()) -> Expr:
    body = filtered(e, conditions)
    return Reduce("sum", ranks, body) if ranks else body


def bare(e: Expr) -> Expr:
    """The value without the conditions of strict operations, which `Presence` knows."""
    if isinstance(e, Where):
        return bare(e.body)
    if isinstance(e, Map) and MAPS[e.op].absence == "strict":
        parts = tuple(bare(a) for a in e.args)
        return e if parts == e.args else Map(e.op, parts, e.span)
    return e


def reads_inside(draft: Draft, e: Expr, point: Expr, extent: Expr) -> bool:
    """Whether a strict read at the point makes what lies past the extent absent."""
    match e:
        case Read(tensor, index):
            known = draft.source.tensors.get(tensor)
            if known is None or known.iterative is not None:
                return False
            slots = zip(index, known.ranks, strict=True)
            return any(i == point and draft.ranks[r].extent == extent for i, r in slots)
        case Map(op, args):
            strict = MAPS[op].absence == "strict"
            return strict and any(reads_inside(draft, a, point, extent) for a in args)
        case Where(body, _):
            return reads_inside(draft, body, point, extent)
        case _:
            return False


def mentions(e: Expr, ranks: set[str] | frozenset[str]) -> bool:
    return bool(ranks & set(free_ranks(e)))
