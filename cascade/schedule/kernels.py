"""Which steps share a kernel, and what each kernel leaves in memory.

Results of loops along one rank, over the same grid, share a kernel as long as nothing between them
has to leave it. Everything else is computed where it is read, or, where that would repeat too much
of it, in a kernel of its own. A kernel stores what outputs or other kernels need of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import networkx as nx

from cascade.ir.affine import from_end
from cascade.ir.cascade import extent_symbol
from cascade.ir.expr import Coordinate, Expr, Map, Read
from cascade.ir.ops import MAPS
from cascade.ir.printer import print_expr
from cascade.ir.walk import free_ranks, reads, walk
from cascade.schedule.errors import NoSchedule
from cascade.schedule.roles import Loop, Roles, parts_of, placed, shifted
from cascade.schedule.settle import Settled, presence_name
from cascade.schedule.small import WIDTH


@dataclass
class Draft:
    """A kernel in the making: the results of its loops, and what it stores."""

    loop: Loop | None
    grid: tuple[str, ...]
    members: list[str] = field(default_factory=list)
    stores: list[str] = field(default_factory=list)  # tensors written, at each point of the grid
    histories: list[str] = field(default_factory=list)  # iterative tensors stored slot by slot
    ends: list[str] = field(default_factory=list)  # iterative tensors of which the last slot is
    rows: tuple[str, ...] = ()  # ranks of the grid that an instance takes a tile of


def _is_over_chunks(k: Draft) -> bool:
    """Whether a kernel has a loop over chunks of a recurrence, in order."""
    return k.loop is not None and k.loop.ordered and bool(k.loop.inner)


class Partition:
    """Kernels in the order of their launches."""

    def __init__(self, roles: Roles):
        self.roles = roles
        self.steps = roles.steps
        self.cascade = roles.cascade
        self.inputs = {t.name for t in self.cascade.inputs}
        self.needs: dict[str, frozenset[Read]] = {}
        self.parts = {r for p in self.cascade.partitions for r in p.parts}
        try:
            self._divide(whole_tiles=True)
        except NoSchedule:  # one needs tiles of the other, and the other way round
            self._divide(whole_tiles=False)

    def _divide(self, whole_tiles: bool) -> None:
        """Kernels, begun again as long as a step turns out to need one of its own."""
        self.own: set[str] = set()  # steps that are computed once, in a kernel of their own
        self.apart: set[str] = set(self.cascade.outputs)  # results that need their own grid
        self.kept: set[str] = set()  # states of chunks, all of which are in memory
        while True:
            self.kernels: list[Draft] = []
            self.of: dict[str, Draft] = {}
            self._results()
            self._outputs()
            self._stored()
            for kernel in self.kernels:
                kernel.rows = self._rows(kernel)
            again = self._repeated() | self._solved() | self._of_all_columns()
            apart = self._narrow() - self.apart
            again = (again | self._scattered() if whole_tiles else again) - self.own
            kept = {n for k in self.kernels if _is_over_chunks(k) for n in k.histories} - self.kept
            if not again and not apart and not kept:
                break
            self.own |= again
            self.apart |= apart
            self.kept |= kept
        self.kernels = self._ordered()

    # -- results of loops
    def _results(self) -> None:
        for cluster in self._clusters():
            found = next((k for k in reversed(self.kernels) if self._all_join(cluster, k)), None)
            if found is None:
                found = Draft(self.roles.loops[cluster[0].name], ())
                self.kernels.append(found)
            grid = self._grid_of_all(cluster)
            found.grid = (*found.grid, *(r for r in grid if r not in found.grid))
            for s in cluster:
                found.members.append(s.name)
                self.of[s.name] = found
        for kernel in self.kernels:
            kernel.grid = self._without_widths(kernel)

    def _clusters(self) -> list[list[Settled]]:
        """Results that cannot be apart: iterative tensors that read each other as they run."""
        names = [n for n in self.steps if self.roles.streams(n)]
        graph = nx.Graph()
        graph.add_nodes_from(names)
        for n in names:
            if presence_name(n) in self.steps:
                graph.add_edge(n, presence_name(n))
            for r in self._needs(self.steps[n]):
                s = self.steps[r.tensor]
                if s.iterative is not None and self.roles.loops[n] == self.roles.loops[s.name]:
                    beside = shifted(r.index[s.iterative], s.ranks[s.iterative]) in (0, 1)
                    if beside and not self._waits_for(n, r.tensor):
                        graph.add_edge(n, r.tensor)
        order = {n: k for k, n in enumerate(names)}
        found = [sorted(c, key=order.__getitem__) for c in nx.connected_components(graph)]
        return [[self.steps[n] for n in c] for c in sorted(found, key=lambda c: order[c[-1]])]

    def _waits_for(self, name: str, tensor: str) -> bool:
        """Whether a result needs one of another loop that was made from a tensor."""
        loop = self.roles.loops[name]
        others = [r.tensor for r in self._needs(self.steps[name]) if r.tensor != tensor]
        return any(self.roles.loops[n] != loop and self._made_from(n, tensor) for n in others)

    def _made_from(self, name: str, tensor: str, seen: set[str] | None = None) -> bool:
        seen = set() if seen is None else seen
        if name in seen:
            return False
        seen.add(name)
        needed = {r.tensor for r in self._needs(self.steps[name])}
        return tensor in needed or any(self._made_from(n, tensor, seen) for n in needed)

    def _grid_of_all(self, cluster: list[Settled]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(r for s in cluster for r in self.grid_of(s)))

    def _all_join(self, cluster: list[Settled], k: Draft) -> bool:
        grid = set(self._grid_of_all(cluster))
        if grid != set(k.grid):
            fewer = [s.name for s in cluster] if len(grid) < len(k.grid) else k.members
            if not self.apart.isdisjoint(fewer):
                return False
            nested = grid <= set(k.grid) or set(k.grid) <= grid
            if not nested or not self._shares([s.name for s in cluster], k):
                return False
        inside = {s.name for s in cluster}
        return all(self._joins(s, k, inside) for s in cluster)

    def grid_of(self, s: Settled) -> tuple[str, ...]:
        loop = self.roles.loops.get(s.name)
        gone = loop.ranks if loop is not None else frozenset()
        return tuple(r for r in self.roles.long(s.ranks) if r not in gone)

    def _joins(self, s: Settled, k: Draft, cluster: set[str]) -> bool:
        loop = self.roles.loops[s.name]
        if loop != k.loop and not (k.loop and loop.rank == k.loop.rank and not loop.ordered):
            return False
        needed = self._needs(s)
        if any(r.tensor in k.members and not self.in_place(r, k) for r in needed):
            return False
        elsewhere = {r.tensor for r in needed if r.tensor not in k.members} - cluster
        return not any(self._reaches(n, k) for n in elsewhere)

    def _needs(self, s: Settled) -> frozenset[Read]:
        if s.name not in self.needs:
            self.needs[s.name] = frozenset(r for e in parts_of(s) for r in self.roles.requires(e))
        return self.needs[s.name]

    def _reaches(self, name: str, k: Draft, seen: set[int] | None = None) -> bool:
        """Whether the kernel of a result waits for another: for what it makes beside it, too."""
        seen = set() if seen is None else seen
        home = self.of.get(name)
        if home is None or home is k or id(home) in seen:
            return False
        seen.add(id(home))
        for n in (*home.members, *home.stores):
            for r in self._needs(self.steps[n]):
                if r.tensor in k.members or self._reaches(r.tensor, k, seen):
                    return True
        return False

    def _shares(self, names: list[str], k: Draft) -> bool:
        """Whether steps read along the loop what the kernel reads anyway, or nothing."""
        assert k.loop is not None
        own = self._streamed(names, k.loop)
        others = self._streamed(k.members, k.loop)
        return own <= others or others <= own or bool(own & others)

    def _streamed(self, names: Iterable[str], loop: Loop) -> set[str]:
        """The inputs that steps read along a loop."""
        found: set[str] = set()
        seen: set[str] = set()
        todo = list(names)
        while todo:
            s = self.steps[todo.pop()]
            for part in parts_of(s):
                for r in reads(part):
                    if r.tensor in self.inputs:
                        if loop.ranks & set(free_ranks(r)):
                            found.add(r.tensor)
                    elif r.tensor not in seen and not self.roles.streams(r.tensor):
                        seen.add(r.tensor)
                        todo.append(r.tensor)
        return found

    def in_place(self, r: Read, k: Draft) -> bool:
        """Whether a result is read at the point where the kernel has it."""
        s = self.steps[r.tensor]
        for slot, (rank, i) in enumerate(zip(s.ranks, r.index, strict=True)):
            if slot == s.iterative:
                outer = k.loop.outer if k.loop is not None else None
                last = self._is_last(i, rank)
                if rank != outer or not (shifted(i, rank) in (0, 1) or last):
                    return False
            elif rank not in self.roles.widths and i != Coordinate(rank):
                return False
        return True

    def _without_widths(self, k: Draft) -> tuple[str, ...]:
        """The grid, less a rank that tiles hold whole: one that some values along the loop have
        and others do not, and along which tensors are contiguous, if it is small and another rank
        is left.
        """
        if k.loop is None:
            return k.grid
        whole = self._read_elsewhere(k)
        self.roles.widths |= whole
        k.grid = tuple(r for r in k.grid if r not in whole)
        if len(k.grid) < 2:
            return k.grid
        values = [set(self.grid_of(self.steps[n])) for n in k.members if self._weighs(n)]
        some = [r for r in k.grid if any(r not in own for own in values)]
        if not some:
            inlined = [self.steps[n] for n in self.inlined(k)]
            along = [
                set(s.ranks) for s in inlined if set(s.ranks) & k.loop.ranks and self._costs(s)
            ]
            some = [r for r in k.grid if any(r not in own for own in along)]
        some = [r for r in some if self.is_contiguous(r)]
        order = self._output_order()
        for r in sorted(some, key=lambda r: -order.get(r, 0))[:1]:
            size = self.roles.size(r)
            if size is None or size <= WIDTH:
                self.roles.widths.add(r)
                return tuple(x for x in k.grid if x != r)
        return k.grid

    def _read_elsewhere(self, k: Draft) -> set[str]:
        """Ranks of the grid at other coordinates of which a step of the loop needs what it had
        before: no point of the grid can be by itself.
        """
        states = [n for n in k.members if self.roles.iterative(n)]
        found: set[str] = set()
        for r in (r for n in states for r in self._needs(self.steps[n]) if r.tensor in states):
            ranks = self.steps[r.tensor].ranks
            found |= {x for x, i in zip(ranks, r.index, strict=True) if i != Coordinate(x)}
        return {r for r in found & set(k.grid) if (self.roles.size(r) or 0) <= WIDTH}

    def is_contiguous(self, rank: str) -> bool:
        """Whether a rank is the last one of every input and output that has it."""
        outputs = [self.steps[n].ranks for n in self.cascade.outputs]
        seen = [t.ranks for t in self.cascade.inputs] + outputs
        having = [ranks for ranks in seen if rank in ranks]
        return bool(having) and all(ranks[-1] == rank for ranks in having)

    def is_vector(self, rank: str) -> bool:
        """Whether a rank has the extent of one along which inputs and outputs are contiguous."""
        extent = self.cascade.rank[rank].extent
        return any(
            self.cascade.rank[r].extent == extent and self.is_contiguous(r)
            for r in self.roles.widths
            if r in self.cascade.rank
        )

    def _weighs(self, name: str) -> bool:
        """Truth values along the way do not decide on the grid."""
        return self.steps[name].kind != "bool"

    def _output_order(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in self.cascade.outputs:
            for n, r in enumerate(self.steps[name].ranks):
                found[r] = max(n, found.get(r, 0))
        return found

    # -- what is stored
    def _outputs(self) -> None:
        for name in (*sorted(self.own), *self.cascade.outputs):
            if self.roles.streams(name):
                self._store(self.of[name], name)
                continue
            s = self.steps[name]
            home = self._home(s)
            if home is None or not self._takes(home, name):
                grid = self._spread(s) if name in self.own else self.roles.long(s.ranks)
                free = (k for k in self.kernels if k.loop is None and k.grid == grid)
                fit = (k for k in free if not self._crosses(s, k) and self._takes(k, name))
                home = next(fit, None) if not self._makes_columns(s, grid) else None
                if home is None:
                    home = Draft(None, grid)
                    self.kernels.append(home)
            home.stores.append(name)
            self.of[name] = home

    def _spread(self, s: Settled) -> tuple[str, ...]:
        """The grid of a step in a kernel of its own: the ranks that nothing in it needs whole."""
        made = [self.steps[n] for n in self.inlined(Draft(None, (), [s.name]))]
        whole = {r for x in (s, *made) for r in (*x.bound, x.target)} | self.parts
        return tuple(r for r in s.ranks if r not in self.roles.widths or r not in whole)

    def _makes_columns(self, s: Settled, grid: tuple[str, ...]) -> bool:
        """Whether an instance makes columns of a chunk: contractions of what is in memory, of which
        registers hold those of one result.
        """
        return bool(self.parts & set(s.ranks) - set(grid)) and any(map(self.is_vector, grid))

    def _takes(self, k: Draft, name: str) -> bool:
        """Whether kernels have an order still if one of them stores a tensor."""
        k.stores.append(name)
        self.of[name] = k
        graph = nx.DiGraph((id(b), id(x)) for x in self.kernels for b in self._before(x))
        k.stores.remove(name)
        del self.of[name]
        return bool(nx.is_directed_acyclic_graph(graph))

    def _store(self, k: Draft, name: str, index: tuple[Expr, ...] = ()) -> None:
        s = self.steps[name]
        into = k.stores
        if s.iterative is not None:
            last = bool(index) and self._is_last(index[s.iterative], s.ranks[s.iterative])
            into = k.ends if last and name not in k.histories else k.histories
        if name not in into:
            into.append(name)
        if into is k.histories and name in k.ends:
            k.ends.remove(name)

    def _is_last(self, i: Expr, rank: str) -> bool:
        return i in (self.cascade.rank[rank].extent, extent_symbol(rank))

    def _home(self, s: Settled) -> Draft | None:
        """The kernel at whose points a tensor can be computed from results that are there."""
        needed = [r for r in self._needs(s) if r.tensor in self.of]
        for k in reversed(self.kernels):
            if k.loop is None or not any(r.tensor in k.members for r in needed):
                continue
            long = set(self.roles.long(s.ranks))
            left = long - set(k.grid) - set(self.place_in(k, s.ranks))
            inside = set(k.grid) <= long and left <= k.loop.ranks and self._steps_along(s, k)
            if inside and not self._crosses(s, k) and self._belongs(s, k):
                here = [r for r in self._placed_needs(s, k) if r.tensor in k.members]
                if all(self.in_place(r, k) for r in here):
                    return k
        return None

    def _belongs(self, s: Settled, k: Draft) -> bool:
        """Whether a loop over chunks makes a tensor as it runs, and not another kernel from the
        states of all chunks at once. It does where the states need not be in memory otherwise, or
        are made of the tensor, and where an instance can still have a slice of what is carried
        (`cascade.schedule.slices`): of a width that nothing in the loop needs whole.
        """
        if not _is_over_chunks(k):
            return True
        if self.kept & set(k.members):
            return s.name in self.inlined(Draft(None, (), k.members), kept=self._stands_alone)
        free = self._carried_widths(k) - self._whole_widths((*k.members, *k.stores), k)
        return not free or bool(free - self._whole_widths((s.name,), k))

    def _carried_widths(self, k: Draft) -> set[str]:
        """The widths of the matrices that a loop carries."""
        ranks = (set(self.steps[n].ranks) & self.roles.widths for n in k.members)
        return {r for own in ranks if len(own) > 1 for r in own}

    def _whole_widths(self, names: Iterable[str], k: Draft) -> set[str]:
        """The ranks that steps need whole: those they bind, or read a result of the loop along at
        another coordinate.
        """
        inlined = self.inlined(Draft(None, (), list(names)), kept=self._stands_alone)
        found: set[str] = set()
        for s in (self.steps[n] for n in {*names, *inlined}):
            found |= set(s.bound)
            for r in (r for part in parts_of(s) for r in reads(part)):
                if r.tensor in k.members:
                    ranks = self.steps[r.tensor].ranks
                    found |= {x for x, i in zip(ranks, r.index, strict=True) if i != Coordinate(x)}
        return found

    def _placed_needs(self, s: Settled, k: Draft) -> set[Read]:
        """What a tensor needs, its rows along the loop placed in the tile of a step."""
        places = self.place_in(k, s.ranks)
        found: set[Read] = set()
        for part in parts_of(s):
            found |= self.roles.requires(placed(part, places))
        return found

    def place_in(self, k: Draft, ranks: tuple[str, ...]) -> dict[str, Expr]:
        """Where the coordinates of a tensor are in an ordered loop over tiles, or in its reverse:
        `i = I - 1 - i2`, as a gradient has it.
        """
        loop = k.loop
        if loop is None or not loop.ordered or not loop.inner:
            return {}
        here = next(p for p in self.cascade.partitions if p.rank == loop.rank).expression
        if loop.rank in ranks:
            return {loop.rank: here}
        extent = self.cascade.rank[loop.rank].extent
        away = loop.ranks | set(k.grid) | self.roles.widths
        turned = [r for r in ranks if r not in away and self.cascade.rank[r].extent == extent]
        if len(turned) != 1:
            return {}
        return {turned[0]: from_end(extent, here)}

    def _steps_along(self, s: Settled, k: Draft) -> bool:
        """Whether a tensor, if it is placed in the reverse of a loop, reads it step by step."""
        assert k.loop is not None
        turned = set(self.place_in(k, s.ranks)) - {k.loop.rank}
        needed = [r for r in self._needs(s) if r.tensor in k.members]
        return not turned or any(turned & set(free_ranks(r)) for r in needed)

    def _crosses(self, s: Settled, k: Draft) -> bool:
        """Whether a kernel would need a result made elsewhere from what it makes."""
        needed = {r.tensor for r in self._needs(s)} - set(k.members)
        return any(self._reaches(n, k) for n in needed if n in self.of and self.of[n] is not k)

    def _stored(self) -> None:
        """Results that another kernel reads, or that a kernel reads elsewhere than it has them."""
        for k in self.kernels:
            for name in (*k.members, *k.stores):
                s = self.steps[name]
                needed = self._placed_needs(s, k) if name in k.stores else self._needs(s)
                for r in sorted(needed, key=print_expr):  # a kernel has the name of the first
                    home = self.of.get(r.tensor)
                    if home is None:
                        continue
                    if home is not k or not self.in_place(r, k):
                        self._store(home, r.tensor, r.index)

    def _narrow(self) -> set[str]:
        """What a kernel would write again and again, for having fewer ranks than its grid."""
        return {
            n
            for k in self.kernels
            for n in (*k.stores, *k.histories, *k.ends)
            if n in k.members and not set(k.grid) <= set(self.grid_of(self.steps[n]))
        }

    # -- tiles of the grid
    def _rows(self, k: Draft) -> tuple[str, ...]:
        """The ranks of which an instance takes a tile: those along which a tensor of the loop is
        the same, so that it is loaded once for the tile.
        """
        if not k.grid:
            return ()
        ranks_of = [set(s) for s in self._indexed(k)]
        along = [own for own in ranks_of if k.loop is None or own & k.loop.ranks]
        heaviest = max((len(own & self.roles.widths) for own in along), default=0)
        along = [own for own in along if len(own & self.roles.widths) == heaviest]
        lacking = {r: frozenset(n for n, own in enumerate(along) if r not in own) for r in k.grid}
        order = self._output_order()
        for name in k.stores:
            order |= {r: n for n, r in enumerate(self.steps[name].ranks) if r not in order}
        chosen: dict[frozenset[int], str] = {}
        for r in sorted(k.grid, key=lambda r: order.get(r, -1)):
            if lacking[r]:
                chosen[lacking[r]] = r
        found = tuple(r for r in k.grid if r in chosen.values())
        if k.loop is None:
            few = -2 if any(self.steps[n].op == "sum" for n in k.stores) else -1
            return found[few:] or tuple(r for r in k.grid[-1:] if r not in self.parts)
        if not found and not (k.loop.ordered and k.loop.inner) and not self._makes_matrices(k):
            return k.grid[-1:]
        return found[-2:]

    def _makes_matrices(self, k: Draft) -> bool:
        """Whether a loop has a matrix for each point of the grid: more points gain nothing."""
        widths = self.roles.widths
        return any(len(widths & set(self.steps[n].ranks)) > 1 for n in k.members)

    def _indexed(self, k: Draft) -> list[tuple[str, ...]]:
        """The ranks that each read of a tensor in memory depends on, inside a kernel."""
        found: dict[tuple[str, tuple[Expr, ...]], tuple[str, ...]] = {}
        for name in (*k.members, *k.stores):
            for part in parts_of(self.steps[name]):
                self._collect(part, k, found, set())
        return list(found.values())

    def _collect(
        self,
        e: Expr,
        k: Draft,
        found: dict[tuple[str, tuple[Expr, ...]], tuple[str, ...]],
        seen: set[Read],
    ) -> None:
        for r in [n for n in walk(e) if isinstance(n, Read)]:
            step = self.steps.get(r.tensor)
            if step is None or r.tensor in self.own or self.roles.streams(r.tensor):
                if r.index and r.tensor not in k.members:
                    found[r.tensor, r.index] = free_ranks(r)
            elif r not in seen and not self.roles.streams(r.tensor):
                seen.add(r)
                places = dict(zip(step.ranks, r.index, strict=True))
                for part in parts_of(step):
                    self._collect(placed(part, places, step.bound), k, found, seen)

    def _repeated(self) -> set[str]:
        """Steps that a loop would compute again for every tile of rows, at a cost."""
        found: set[str] = set()
        for k in self.kernels:
            if k.loop is None:
                continue
            read_at = self._read_at(k)
            for name in self.inlined(k):
                s = self.steps[name]
                if s.recurs is not None or name in self.own or not s.ranks:
                    continue
                if self._costs(s) and self._can_stand_alone(s, k):
                    places = (frozenset(s.ranks), *read_at.get(name, ()))
                    if any(self._is_again(ranks, k) for ranks in places):
                        found.add(name)
        return {n for n in found if not self._only_inside(n, found)}

    def _solved(self) -> set[str]:
        """Systems that are solved row by row, need nothing of a loop, and are read in one, or by
        several kernels: all chunks are solved at once then, each once. And what is made of a
        solution inside a loop, where other kernels read it.
        """
        solved = {n for n, s in self.steps.items() if self._is_solved(s)}
        made = {n for n in self.steps if n not in solved and not self.roles.streams(n)}
        made = {n for n in made if solved & self._read_by(n) and self._needs(self.steps[n])}
        inlined = [(k, self.inlined(k) | set(k.stores)) for k in self.kernels]
        looped = {n for k, own in inlined if k.loop is not None for n in own}
        several = {n for n in made | solved if sum(n in own for _, own in inlined) > 1}
        alone = {n for n in solved & (looped | several) if not self._needs(self.steps[n])}
        found = several & made
        return {n for own in (alone, found) for n in own if not self._only_inside(n, own)}

    def _read_by(self, name: str) -> set[str]:
        return {r.tensor for e in parts_of(self.steps[name]) for r in reads(e)}

    def _of_all_columns(self) -> set[str]:
        """Contractions of vectors, as the products of all places of a chunk, that a kernel without
        a loop would compute again for every slice of columns that it makes.
        """
        found: set[str] = set()
        for k in self.kernels:
            columns = {r for r in k.rows if k.loop is None and self.is_vector(r)}
            for s in (self.steps[n] for n in (self.inlined(k) if columns else ())):
                of_all = s.recurs is None and not columns & set(s.ranks)
                if of_all and len(self.parts & set(s.ranks)) > 1 and self._contracts_vectors(s):
                    found.add(s.name)
        return {n for n in found if not self._only_inside(n, found)}

    def _contracts_vectors(self, s: Settled) -> bool:
        """Whether a step is a sum over a width that is no part of a chunk."""
        inner = (self.steps[r.tensor] for r in reads(s.value) if r.tensor in self.steps)
        return any((self.roles.widths - self.parts) & set(x.bound) for x in (s, *inner))

    def _is_solved(self, s: Settled) -> bool:
        """Whether a step is of a system that is solved row by row along a width."""
        along = s.recurs in s.ranks and s.recurs in self.roles.widths
        return s.iterative is None and along and self._weighs(s.name)

    def _is_again(self, ranks: frozenset[str], k: Draft) -> bool:
        """Whether a value of these ranks is one along the loop and the same for a tile of rows. A
        rank is there where all its parts are.
        """
        assert k.loop is not None
        own = ranks | {p.rank for p in self.cascade.partitions if ranks.issuperset(p.parts)}
        return bool(ranks & k.loop.ranks) and not own.issuperset(k.rows)

    def _read_at(self, k: Draft) -> dict[str, set[frozenset[str]]]:
        """The ranks on which reads of the steps of a kernel depend: `h` for `G[b,p,h-S]`."""
        found: dict[str, set[frozenset[str]]] = {}
        seen: set[Read] = set()
        todo = [part for n in (*k.members, *k.stores) for part in parts_of(self.steps[n])]
        while todo:
            for r in (n for n in walk(todo.pop()) if isinstance(n, Read)):
                step = self.steps.get(r.tensor)
                if step is None or r in seen or r.tensor in self.own:
                    continue
                seen.add(r)
                if not self.roles.streams(r.tensor):
                    found.setdefault(r.tensor, set()).add(frozenset(free_ranks(r)))
                    places = dict(zip(step.ranks, r.index, strict=True))
                    todo += [placed(part, places, step.bound) for part in parts_of(step)]
        return found

    def _scattered(self) -> set[str]:
        """Steps over tiles, made of results of loops or reduced over a tile, that a kernel would
        compute row by row, for it has other tiles.
        """
        found: set[str] = set()
        for k in self.kernels:
            seen: set[Read] = set()
            for name in (*k.members, *k.stores):
                s = self.steps[name]
                places = self.place_in(k, s.ranks) if name in k.stores else {}
                for part in parts_of(s):
                    self._computed_tiles(placed(part, places), found, seen)
        return found

    def _computed_tiles(self, e: Expr, found: set[str], seen: set[Read]) -> None:
        for r in [n for n in walk(e) if isinstance(n, Read)]:
            step = self.steps.get(r.tensor)
            if step is None or r.tensor in self.own or self.roles.streams(r.tensor):
                continue
            r = Read(r.tensor, tuple(self.roles.tidy(i) for i in r.index))
            if r in seen:
                continue
            seen.add(r)
            places = dict(zip(step.ranks, r.index, strict=True))
            if any(self._is_computed(places[x]) for x in step.ranks if x in self.parts):
                if self._needs(step) or set(step.bound) & self.parts:
                    found.add(r.tensor)
                    continue
            for part in parts_of(step):
                self._computed_tiles(placed(part, places, step.bound), found, seen)

    def _is_computed(self, i: Expr) -> bool:
        return isinstance(i, Map) and i.op == "//"

    def _only_inside(self, name: str, found: set[str]) -> bool:
        """Whether every reader of a step is itself to be stored, or only serves one that is."""
        seen, above = {name}, [name]
        while above:
            readers = {r.name for r in self.roles.readers.get(above.pop(), [])}
            if not readers or any(self.roles.streams(r) for r in readers):
                return False
            above += readers - found - seen  # a forward substitution reads itself
            seen |= readers
        return True

    def inlined(self, k: Draft, kept: Callable[[str], bool] | None = None) -> set[str]:
        """The steps that a kernel computes in place; `kept` says which have a kernel of their own,
        where not all do that are computed once.
        """
        kept = kept or self.own.__contains__
        found: set[str] = set()
        todo = [*k.members, *k.stores]
        while todo:
            for part in parts_of(self.steps[todo.pop()]):
                for r in reads(part):
                    inner = r.tensor in self.steps and not self.roles.streams(r.tensor)
                    if inner and r.tensor not in found and not kept(r.tensor):
                        found.add(r.tensor)
                        todo.append(r.tensor)
        return found

    def _stands_alone(self, name: str) -> bool:
        """Whether a step has a kernel of its own that waits for no loop."""
        return name in self.own and not self._needs(self.steps[name])

    def _costs(self, s: Settled) -> bool:
        if s.op is not None:
            return True
        maps = [n for n in walk(s.value) if isinstance(n, Map)]
        return any(
            MAPS[m.op].cost in ("exp", "log", "sqrt", "trigonometric", "power") for m in maps
        )

    def _can_stand_alone(self, s: Settled, k: Draft) -> bool:
        """Whether a step is over the whole rank, and made of nothing that its loop makes."""
        assert k.loop is not None
        parts = k.loop.ranks - {k.loop.rank}
        if set(s.ranks) & parts:
            return False
        return not any(r.tensor in k.members for r in self._needs(s))

    # -- the order of launches
    def _ordered(self) -> list[Draft]:
        done: list[Draft] = []
        todo = list(self.kernels)
        while todo:
            ready = [k for k in todo if all(d in done for d in self._before(k))]
            if not ready:
                raise NoSchedule("kernels wait for each other")
            done += ready
            todo = [k for k in todo if k not in ready]
        return [k for k in done if k.stores or k.histories or k.ends]

    def _before(self, k: Draft) -> list[Draft]:
        found = []
        for name in (*k.members, *k.stores):
            s = self.steps[name]
            needed = {r.tensor for r in self._needs(s)} | (self._own_reads(name) - {name})
            for n in needed:
                home = self.of.get(n)
                if home is not None and home is not k and home not in found:
                    found.append(home)
        return found

    def _own_reads(self, name: str) -> set[str]:
        found: set[str] = set()
        seen = {name}
        todo = [name]
        while todo:
            for part in parts_of(self.steps[todo.pop()]):
                for r in reads(part):
                    if r.tensor in self.own:
                        found.add(r.tensor)
                    elif r.tensor in self.steps and r.tensor not in seen:
                        seen.add(r.tensor)
                        todo.append(r.tensor)
        return found
