"""A cascade while it is being rewritten: fresh names, chunked ranks, and the finished text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from cascade.ir.cascade import Cascade, Einsum, Param, Partition, Rank
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.ops import MAPS
from cascade.ir.tails import with_tails
from cascade.ir.walk import bound_ranks, reads, walk
from cascade.transforms.placing import NotChunkable
from cascade.transforms.reals import keep_reals
from cascade.transforms.tiles import Tiles, filtered

CHUNK = 64  # the default extent of a chunk


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

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """What is written inside goes again if it turns out not to have a chunked form."""
        einsums, made = list(self.einsums), dict(self.made)
        try:
            yield
        except NotChunkable:
            self.einsums[:], self.made = einsums, made
            raise

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
                self.ranks[self.made[key]] = Rank(self.made[key], extent, True)
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
        """A statement for a value that several need, who may name its ranks in other orders."""
        known = (key, body, frozenset(ranks))
        if known not in self.made:
            self.made[known] = name = self.fresh(stem)
            self.add(name, ranks, body)
        made = next(e for e in self.einsums if e.tensor == self.made[known])
        return Read(made.tensor, tuple(Coordinate(r) for r in made.ranks))

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
        given = {r for t in self.source.inputs for r in t.ranks}
        for p in partitions:
            if p.rank not in given:  # its extent is that of the slots it was read from
                self.ranks[p.rank] = replace(self.ranks[p.rank], declared=True)
        loose = self._loose(einsums, {r for p in partitions for r in (p.rank, *p.parts)})
        for r in loose:
            self.ranks[r] = replace(self.ranks[r], declared=True)
        loose -= given
        if loose:  # declarations stand before statements
            ranks = dict.fromkeys(r for r in ranks if r not in loose)
            first = [r for r in ranks if self.ranks[r].declared]
            place = list(ranks).index(first[-1]) + 1 if first else len(ranks)
            ordered = [*list(ranks)[:place], *sorted(loose), *list(ranks)[place:]]
            ranks = dict.fromkeys(ordered)
        written = replace(
            self.source,
            ranks=tuple(self.ranks[r] for r in ranks),
            einsums=tuple(einsums),
            params=tuple(params),
            partitions=partitions,
            warnings=(),
        )
        return keep_reals(self.source, with_tails(written))

    def _loose(self, einsums: list[Einsum], split: set[str]) -> set[str]:
        """Ranks whose extent no input and no plain read gives any more."""
        tensors = {t.name: t.ranks for t in self.source.inputs} | {
            e.tensor: e.ranks for e in einsums
        }
        inputs = {r for t in self.source.inputs for r in t.ranks}
        given = split | {r for r in inputs if self.ranks[r].extent == Symbol(r.upper())}
        given |= {r.name for r in self.ranks.values() if r.declared}
        for e in einsums:
            for read in reads(e.body):
                for slot, i in zip(tensors[read.tensor], read.index, strict=True):
                    if isinstance(i, Coordinate) and i.rank != slot:
                        given |= {slot} if slot in inputs else {i.rank} - inputs
        return ({r for e in einsums for r in _ranks_of(e)} | inputs) - given


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


__all__ = ["CHUNK", "Draft", "NotChunkable", "reachable", "reads_inside"]
