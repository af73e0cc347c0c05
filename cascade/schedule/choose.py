"""Which form of a cascade is run, and with which tiles.

The form with the fewest passes is the derived one; prefix sums and recurrences are chunked where
that turns them into contractions. Ranks of few coordinates stay whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from cascade.diagnostics import fail
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Map, Reduce
from cascade.ir.extents import Number, bind, evaluate
from cascade.ir.walk import free_ranks, reads, walk
from cascade.schedule.describe import to_dict
from cascade.schedule.errors import NoSchedule
from cascade.schedule.factored import factored_sums
from cascade.schedule.lists import with_lists
from cascade.schedule.lower import lower
from cascade.schedule.order import heavy_first
from cascade.schedule.pack import pack
from cascade.schedule.program import Program
from cascade.schedule.sizes import Sizes
from cascade.schedule.small import small_ranks
from cascade.schedule.split import split

STATE = 2**11  # elements of a state that an instance can hold at a few coordinates of a vector
CHUNK = 64  # places of a chunk, where nothing asks for fewer


@dataclass(frozen=True)
class Form:
    """A cascade to lower. `unordered` names the ranks whose steps merge in any order, `free` the
    parts whose extent is ours to choose; `how` says what was done.
    """

    cascade: Cascade
    unordered: frozenset[str] = frozenset()
    free: frozenset[str] = frozenset()
    how: str = "as written"


@dataclass(frozen=True)
class Schedule:
    """A cascade, the form of it that is run, and the Program of that form."""

    source: Cascade
    form: Form
    program: Program

    def bind(
        self, shapes: Mapping[str, tuple[int, ...]], settings: Mapping[str, Number] | None = None
    ) -> dict[str, Number]:
        """The scalars of a run: extents from the shapes of the inputs, params from settings.

        Raises `InputError` where a shape is wrong or something is missing.
        """
        bind(self.source, shapes, settings)  # messages speak of the spec, not of its form
        known = {n: v for n, v in (settings or {}).items()}
        values = dict(bind(self.form.cascade, shapes, known).values)
        for name, e in self.program.values:  # splits are of the program, not of the cascade
            if name not in values:
                values[name] = evaluate(e, values.__getitem__)
        return values

    def to_dict(self) -> dict[str, object]:
        """The program as names, numbers and texts, for other programs."""
        return {
            "name": self.source.name,
            "form": self.form.how,
            "cascade": str(self.form.cascade),
            "program": to_dict(self.program),
        }

    def __str__(self) -> str:
        return str(self.program)


def schedule(cascade: Cascade, sizes: Sizes, as_written: bool = False) -> Schedule:
    """The Program of a cascade: that of its form with the fewest passes, or as it is written.

    Raises `CascadeError` where a step has no place in a kernel, with what stands in the way.
    """
    chosen = Form(cascade) if as_written else _sized(form(cascade, sizes.extents), sizes)
    attempts = [chosen]
    if chosen.unordered:
        attempts.append(replace(chosen, unordered=frozenset()))  # steps in order need less
    if chosen.cascade != cascade:
        attempts.append(Form(cascade))
    for n, attempt in enumerate(attempts):
        try:
            program = lower(attempt.cascade, sizes, attempt.unordered, attempt.free)
            program = pack(factored_sums(program), sizes)
            program = with_lists(_split(cascade, program, sizes), sizes)
            return Schedule(cascade, attempt, heavy_first(program))
        except NoSchedule as reason:
            if n == len(attempts) - 1:
                raise fail(
                    "no-schedule",
                    f"`{cascade.name}` has no kernel yet: {reason}",
                    hints=(
                        "`cascade run` evaluates any spec; `--backend reference` is its default",
                    ),
                ) from None
    raise AssertionError


def _split(cascade: Cascade, program: Program, sizes: Sizes) -> Program:
    if sizes.split == 1:
        return program
    try:
        return split(program, sizes.split, sizes.multiprocessors)
    except NoSchedule as reason:
        raise fail(
            "no-split",
            f"`{cascade.name}` cannot be split: {reason}",
            hints=("`--split auto` leaves whole what cannot be split",),
        ) from None


def _sized(chosen: Form, sizes: Sizes) -> Form:
    """The form with chunks of the size of a tile, where the size is ours to choose."""
    given: dict[str, int] = {}
    new = [p for p in chosen.cascade.partitions if len(p.parts) == 2 and p.parts[1] in chosen.free]
    shared = _shared([p.rank for p in new], sizes) if len(new) > 1 else {}
    for p in new:
        ordered = p.parts[0] not in chosen.unordered
        size = min(CHUNK, sizes.stream) if ordered else shared.get(p.rank)
        size = sizes.tiles.get(p.rank, size)
        if size is not None:
            given[p.parts[1].upper()] = size
    params = tuple(
        replace(q, value=Const(given[q.name])) if q.name in given else q
        for q in chosen.cascade.params
    )
    return replace(chosen, cascade=replace(chosen.cascade, params=params))


def _shared(ranks: list[str], sizes: Sizes) -> dict[str, int]:
    """Sizes of tiles of several streamed ranks, which together are no larger than one of one rank:
    a kernel may hold a tile of each at once. Short ranks first.
    """
    found: dict[str, int] = {}
    left = sizes.stream
    for rank in sorted(ranks, key=lambda r: sizes.extents.get(r, left)):
        covering = 1 << max(0, sizes.extents.get(rank, left) - 1).bit_length()
        found[rank] = max(1, min(covering, left))
        left //= found[rank]
    return found


def form(cascade: Cascade, extents: Mapping[str, int]) -> Form:
    """The form of a cascade with the fewest passes, or its chunked form."""
    keep = small_ranks(cascade, extents)
    found = _form(cascade, keep)
    if found.how == "chunked" and _widest(found.cascade, extents) > STATE:
        return _form(cascade, keep, chunks=False)
    return found


def _widest(chunked: Cascade, extents: Mapping[str, int]) -> int:
    """The elements of the largest state at a coordinate of its last vector: of `S[e,e2,f]` those of
    e by e2. Vectors run along memory in some input, or have the extent of one that does.
    """
    last = {chunked.rank[t.ranks[-1]].extent for t in chunked.inputs if t.ranks}
    sizes = {chunked.rank[r].extent: n for r, n in extents.items() if r in chunked.rank}
    found = 0
    for e in chunked.einsums:
        own = [chunked.rank[r].extent for n, r in enumerate(e.ranks) if n != e.step]
        vectors = sorted(sizes.get(x, 1) for x in own if x in last)
        if e.step is not None:
            found = max(found, prod(vectors[:-1]))
    return found


@lru_cache(maxsize=64)
def _form(cascade: Cascade, keep: frozenset[str], chunks: bool = True) -> Form:
    """`keep` are the ranks that stay whole."""
    from cascade.transforms.chunk import chunk
    from cascade.transforms.derive import derive

    found = chunk(cascade) if chunks else None
    if found is not None and found.changed and not _is_worse(cascade, found.result):
        parts = {r for p in found.result.partitions for r in p.parts[1:]}
        known = {r for p in cascade.partitions for r in p.parts[1:]}
        return Form(found.result, frozenset(), frozenset(parts - known), "chunked")
    derivation = derive(cascade, keep=keep)
    if not derivation.steps:
        return Form(cascade)
    result = derivation.result
    new = [p for p in result.partitions if p not in cascade.partitions]
    outer = {p.rank: p.parts[0] for p in result.partitions}
    streamed = {plan.stream.rank for plan in derivation.plans}
    return Form(
        result,
        frozenset(outer.get(r, r) for r in streamed),
        frozenset(r for p in new for r in p.parts[1:]),
        "derived",
    )


def _is_worse(cascade: Cascade, chunked: Cascade) -> bool:
    """Whether what is written has less to do than its chunked form."""
    return _expands(chunked) or _keeps_pairs(cascade, chunked)


def _keeps_pairs(cascade: Cascade, chunked: Cascade) -> bool:
    """Whether all that is gained is a product of vectors for each key, instead of for each query:
    `A * (V * WO)` for `(A * V) * WO`.
    """
    if chunked.partitions != cascade.partitions:
        return False
    vectors = {t.ranks[-1] for t in cascade.inputs if t.ranks}
    known = {e.tensor for e in cascade.einsums}
    new = [e for e in chunked.einsums if e.tensor not in known]
    gone = [{r for n in reads(e.body) for r in free_ranks(n)} - set(e.ranks) for e in new]
    left = {r for e in new for r in e.ranks} - vectors - _batch(cascade)
    made = {e.tensor for e in new}
    readers = [e.body for e in chunked.einsums if made & {n.tensor for n in reads(e.body)}]
    summed = {r for body in readers for n in walk(body) if isinstance(n, Reduce) for r in n.ranks}
    return bool(new) and all(own <= vectors for own in gone) and bool(left & summed)


def _expands(chunked: Cascade) -> bool:
    """Whether a chunked form has an exponential at every pair of places of a chunk *and* at every
    coordinate of another rank: the recurrence has fewer.
    """
    inner = {r for p in chunked.partitions for r in p.parts[1:]}
    sizes = {chunked.rank[r].extent for r in inner}
    places = {r.name for r in chunked.ranks if r.extent in sizes}
    for e in chunked.einsums:
        for node in walk(e.body):
            if isinstance(node, Map) and node.op in ("exp", "exp2"):
                free = set(free_ranks(node))
                others = free - places - {p.parts[0] for p in chunked.partitions}
                if len(free & places) > 1 and len(others) > len(_batch(chunked)):
                    return True
    return False


def _batch(cascade: Cascade) -> set[str]:
    """Ranks that every input of the largest rank count has."""
    most = max((len(t.ranks) for t in cascade.inputs), default=0)
    wide = [set(t.ranks) for t in cascade.inputs if len(t.ranks) == most]
    return set.intersection(*wide) if wide else set()
