"""Tiles, warps and stages for a target: the first candidate that spills nothing.

Candidates run from large tiles to small. Those whose tiles cannot be held are left out by their
size: what a loop carries is in registers all the while, and the widest product beside it; what is
on its way to matrix units is in shared memory. Of the others each is compiled ahead of time, and
what the assembler reports is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from cascade.backends.triton.aot import CAPABILITIES, SHARED, Facts, NotCompiled, facts
from cascade.backends.triton.emit import Options, emit
from cascade.diagnostics import InputError, input_error
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const
from cascade.ir.extents import Number
from cascade.ir.walk import symbols
from cascade.schedule.choose import Schedule, schedule
from cascade.schedule.cost import Cost, Launch
from cascade.schedule.footprint import tile_sizes
from cascade.schedule.program import Contract, For, Program, Seq, inside
from cascade.schedule.sizes import MULTIPROCESSORS, Sizes
from cascade.schedule.slices import sliced

USUAL_WIDTH = 64  # the extent of a head, where nothing says another
USUAL_ROWS = 16  # with fewer rows matrix units have lanes that do nothing
MOST = 2**15  # elements of a tile: 128 by 256
LARGEST = 2**17  # of a tile whose size is set: all registers of a multiprocessor, 16 bits each
REGISTERS = 255  # of a thread
THREADS = 32  # of a warp
MUCH = 256  # bytes; a kernel that spills as many does so with fewer stages, too
FEW = 3  # candidates that are compiled whole, where all spill


@dataclass(frozen=True)
class Cut:
    """In how many splits loops are cut, or AUTO, for a device with so many multiprocessors."""

    number: int = 1
    multiprocessors: int = MULTIPROCESSORS


WHOLE = Cut()


@dataclass(frozen=True)
class Candidate:
    """Rows and coordinates of a tile, warps, and stages of the pipeline; `ranks` is the number of
    ranks that rows are taken of at once, `columns` those of a state of chunks, where not all.
    """

    rows: int
    stream: int
    warps: int
    stages: int
    ranks: int = 2
    columns: int | None = None


CANDIDATES = (
    Candidate(128, 128, 8, 3),
    Candidate(128, 128, 8, 2),
    Candidate(128, 64, 8, 3),
    Candidate(128, 64, 8, 2),
    Candidate(128, 32, 8, 2),
    Candidate(64, 64, 8, 2, 2, 64),
    Candidate(64, 64, 8, 2, 2, 32),
    Candidate(64, 64, 4, 3),
    Candidate(64, 64, 4, 2),
    Candidate(64, 32, 4, 2),
    Candidate(32, 64, 4, 2),
    Candidate(32, 32, 4, 2),
    Candidate(16, 32, 4, 2),
    Candidate(16, 32, 4, 1),
    Candidate(16, 16, 4, 1),
    Candidate(16, 16, 8, 1),
    Candidate(64, 32, 4, 2, 1),
    Candidate(32, 32, 4, 2, 1),
    Candidate(16, 32, 4, 1, 1),
    Candidate(16, 16, 4, 1, 1),
    Candidate(16, 16, 8, 1, 1),
    Candidate(4, 16, 8, 1, 1),
    Candidate(1, 16, 8, 1, 1),
)


# The compiler adds groups to the four warps: one loads, and two share the rows.
SPECIALISED = (
    Candidate(128, 128, 4, 2),
    Candidate(128, 64, 4, 3),
    Candidate(128, 64, 4, 2),
    Candidate(128, 32, 4, 2),
)
SPECIALISED_FROM = 90
COMPUTING = 2  # groups of four warps


@dataclass(frozen=True)
class Made:
    """A source, what it was made from, and what it needs."""

    schedule: Schedule
    program: Program
    options: Options
    candidate: Candidate
    source: str
    facts: tuple[Facts, ...]

    @property
    def spills(self) -> int:
        return sum(f.spill_bytes for f in self.facts)

    @property
    def fits(self) -> bool:
        return all(f.fits for f in self.facts)

    @property
    def holds(self) -> bool:
        """Whether nothing spills, and all fits."""
        return self.fits and self.spills == 0


def widths(program: Program, known: Mapping[str, Number]) -> tuple[tuple[str, int], ...]:
    """The extents that axes need, by their numbers: given, defined by the spec, or usual."""
    values = dict(program.values)
    found: dict[str, int] = {}
    for kernel in program.kernels:
        for axis in kernel.axes:
            for name in sorted(symbols(axis.size)):
                value: object = known.get(name)
                default = values.get(name)
                if value is None and isinstance(default, Const):
                    value = default.value
                found[name] = int(value) if isinstance(value, int) else USUAL_WIDTH
    return tuple(sorted(found.items()))


def programs(
    spec: Cascade,
    extents: Mapping[str, int],
    tiles: Mapping[str, int] | None = None,
    as_written: bool = False,
    cut: Cut = WHOLE,
    stages: int | None = None,
    specialised: bool = False,
) -> Iterator[tuple[Candidate, Schedule, Program]]:
    """The candidates whose tiles can be held, with their Programs; the smallest in any case."""
    candidates = _listed(specialised)
    if stages is not None:
        candidates = tuple(dict.fromkeys(replace(c, stages=stages) for c in candidates))
    known = {**{n.upper(): v for n, v in extents.items()}, **extents}
    for candidate in candidates:
        repeated = candidate.ranks == 1 and candidate.rows >= USUAL_ROWS
        if repeated and not _rows_of_several_ranks(spec, extents, as_written):
            continue
        sizes = Sizes(
            extents, candidate.rows, candidate.stream, None, dict(tiles or {}),
            cut.number, cut.multiprocessors, candidate.ranks,
        )  # fmt: skip
        made = schedule(spec, sizes, as_written)
        program = replace(made.program, widths=widths(made.program, known))
        if candidate.columns is not None:
            whole, program = program, sliced(program, candidate.columns)
            if program == whole:
                continue
            made = replace(made, program=program)
        held = can_be_held(program, candidate.warps * (COMPUTING if specialised else 1))
        if held or candidate is candidates[-1]:
            yield candidate, made, program


@lru_cache(maxsize=64)
def _several(spec: Cascade, extents: tuple[tuple[str, int], ...], as_written: bool) -> bool:
    sizes = dict(extents)
    two, one = (schedule(spec, Sizes(sizes, row_ranks=n), as_written).program for n in (2, 1))
    return two != one


def _rows_of_several_ranks(spec: Cascade, extents: Mapping[str, int], as_written: bool) -> bool:
    """Whether a kernel takes rows of more than one rank at once."""
    return _several(spec, tuple(sorted(extents.items())), as_written)


def can_be_held(program: Program, warps: int) -> bool:
    """Whether registers can hold the tiles: each by itself, and those that are there at once."""
    tiles = list(tile_sizes(program, dict(program.widths)))
    if any(t.elements > MOST for t in tiles):
        return False
    registers = REGISTERS * THREADS * warps
    for kernel in program.kernels:
        if any(t.elements > registers for t in tiles if t.kernel == kernel.name and t.is_computed):
            return False
        loops = [n for n in inside(kernel.body) if isinstance(n, For | Seq)]
        sizes = {t.name: t.elements for t in tiles if t.kernel == kernel.name}
        for loop in loops:
            carried = sum(sizes[c.name] for c in loop.carries)
            product = max((sizes[n.name] for n in loop.body if isinstance(n, Contract)), default=0)
            if carried + product > registers:
                return False
    return True


def shared_bytes(program: Program, candidate: Candidate, dtype: str) -> int:
    """Shared memory of an instance, by the model; real tensors without a type are `dtype`."""
    types = {b.name: dtype for b in program.buffers
             if b.dtype in ("any", "real") and b.kind != "temp"}  # fmt: skip
    cost = Cost(program, None, dict(program.widths), types)
    return cost.needs(Launch(candidate.warps, candidate.stages)).shared


def first(
    spec: Cascade,
    extents: Mapping[str, int],
    tiles: Mapping[str, int] | None = None,
    as_written: bool = False,
    descriptors: bool = False,
    cut: Cut = WHOLE,
    stages: int | None = None,
    specialised: bool = False,
) -> Made:
    """The first candidate, not compiled."""
    every = programs(spec, extents, tiles, as_written, cut, stages, specialised)
    candidate, made, program = next(every)
    _check_set(program, tiles or {})
    options = _options(candidate, descriptors, specialised)
    return Made(made, program, options, candidate, emit(program, options), ())


def chosen(
    spec: Cascade,
    extents: Mapping[str, int],
    target: str,
    dtype: str = "bf16",
    tiles: Mapping[str, int] | None = None,
    as_written: bool = False,
    progress: Callable[[int, int], None] | None = None,
    descriptors: bool = False,
    cut: Cut = WHOLE,
    stages: int | None = None,
    specialised: bool = False,
) -> Made:
    """The first candidate that fits a target and spills nothing; else the one that spills least.

    With `descriptors` the loads in loops go by tensor descriptors, where they can, and with
    `specialised` by warps of their own. `tiles` and `stages` are as they are set. Raises
    `InputError` where nothing fits the target, or where no warps can be specialised.
    """
    if specialised and CAPABILITIES.get(target, 0) < SPECIALISED_FROM:
        raise _not_specialised(spec, f"{target} copies no boxes by itself")
    spilled: list[Made] = []
    first: list[str] = []  # kernels that spilled are likely to spill again
    failure: NotCompiled | None = None
    limit = SHARED.get(CAPABILITIES.get(target, 0), 2**31)  # an unknown target is refused below
    candidates = _listed(specialised)
    every = programs(spec, extents, tiles, as_written, cut, stages, specialised)
    for n, (candidate, made, program) in enumerate(every):
        _check_set(program, tiles or {})
        if progress is not None:
            progress(n, len(candidates))
        free = not tiles and stages is None and candidate is not candidates[-1]
        if free and shared_bytes(program, candidate, dtype) > limit:
            continue
        if free and any(_differs_in_stages(candidate, m) and m.spills > MUCH for m in spilled):
            continue
        options = _options(candidate, descriptors, specialised)
        here = Made(made, program, options, candidate, emit(program, options), ())
        try:
            here = _until_it_spills(here, target, dtype, first)
        except NotCompiled as error:
            failure = failure or error
            continue
        if specialised and not _has_loading_warps(here):
            continue
        if here.holds:
            return here
        spilled.append(here)
        worst = here.facts[-1].kernel
        first = [worst, *(k for k in first if k != worst)]
    if specialised and not spilled:
        raise _not_specialised(spec, "the compiler finds no loop whose loads stand by themselves")
    if failure is not None and not spilled:
        raise failure
    if not spilled:
        raise _too_wide(spec, program, target)
    best = min(_compiled(spilled, target, dtype), key=lambda m: (not m.fits, m.spills))
    if not best.fits:
        raise _too_large(spec, best, target, bool(tiles) or stages is not None)
    return best


def _listed(specialised: bool) -> tuple[Candidate, ...]:
    return SPECIALISED if specialised else CANDIDATES


def _options(candidate: Candidate, descriptors: bool, specialised: bool) -> Options:
    """Warps that only load do so by descriptors."""
    return Options(candidate.warps, candidate.stages, descriptors or specialised, specialised)


def _has_loading_warps(made: Made) -> bool:
    """Whether some kernel got more warps than those that compute."""
    return any(f.num_warps > made.options.of(f.kernel)[0] for f in made.facts)


def _not_specialised(spec: Cascade, why: str) -> InputError:
    return input_error(
        "specialise",
        f"no kernel of `{spec.name}` can give its loads to warps of their own: {why}",
        "`--loads descriptors` loads by the same boxes in all warps",
    )


def _check_set(program: Program, tiles: Mapping[str, int]) -> None:
    """Raises `InputError` where a tile of the size that is set is one that no GPU can hold, and
    that takes minutes to compile, if it can be.
    """
    worst = max(tile_sizes(program, dict(program.widths)), key=lambda t: t.elements, default=None)
    if tiles and worst is not None and worst.elements > LARGEST:
        raise input_error(
            "footprint",
            f"`{worst.name}` of the kernel `{worst.kernel}` has {worst.elements} elements in a "
            f"tile, and no GPU holds more than {LARGEST} at once",
            "smaller tiles (`--tile`) have fewer",
        )


def _differs_in_stages(candidate: Candidate, made: Made) -> bool:
    return replace(candidate, stages=made.candidate.stages) == made.candidate


def _until_it_spills(made: Made, target: str, dtype: str, first: list[str]) -> Made:
    found = facts(made.program, made.source, target, dtype, made.options, True, first)
    return replace(made, facts=tuple(found))


def _compiled(spilled: list[Made], target: str, dtype: str) -> list[Made]:
    """All kernels of the few of which the kernel that spilled does so least; one at least."""
    found: list[Made] = []
    failure: NotCompiled | None = None
    for made in sorted(spilled, key=lambda m: (not m.fits, m.spills)):
        try:
            every = facts(made.program, made.source, target, dtype, made.options)
        except NotCompiled as error:
            failure = failure or error
            continue
        found.append(replace(made, facts=tuple(every)))
        if len(found) == FEW:
            break
    if failure is not None and not found:
        raise failure
    return found


def _too_wide(spec: Cascade, program: Program, target: str) -> InputError:
    widest = max(tile_sizes(program, dict(program.widths)), key=lambda t: t.elements)
    return input_error(
        "footprint",
        f"the kernel `{widest.kernel}` of `{spec.name}` has tiles of {widest.elements} elements, "
        f"and {target} has no room for them",
        "the extents of what tiles hold whole can be given: `--set`",
    )


def _too_large(spec: Cascade, made: Made, target: str, forced: bool) -> InputError:
    worst = max(made.facts, key=lambda f: f.shared_bytes)
    hints = ("smaller tiles (`--tile`) or fewer stages (`--stages`) need less",) if forced else ()
    return input_error(
        "footprint",
        f"the kernel `{worst.kernel}` of `{spec.name}` needs {worst.shared_bytes} bytes of shared "
        f"memory, and {target} has {SHARED[CAPABILITIES[target]]}",
        *hints,
    )
