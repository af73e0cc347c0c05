"""How many passes over each input any kernel for a cascade must make (FuseMax, section 2;
docs/analysis.md).

A *visit* of input X along a rank is a step that iterates all of the rank and reads X, or a tensor
that is pointwise in that rank and derived from X. A visit at coordinate c that depends on an
earlier visit at coordinates on both sides of c, or at all of them, cannot share a traversal with
it: a *barrier*. passes = 1 + the most barriers on a chain of visits. No mapping, tiling or fusion
goes lower.

The work is a data flow over steps. For each tensor and each input slot it keeps *dependences*:
which coordinates of the input a value needs, relative to one of its own slots (POINT: the same
coordinate; PREFIX, SUFFIX: those up to, from it; ALL; ONE: a single other coordinate), with the
barriers behind them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from cascade.analysis.conditions import Conditions, is_at_most, linear, remember, step_conditions
from cascade.analysis.normalise import Step, normalise
from cascade.ir.cascade import Cascade, Partition
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol
from cascade.ir.extents import evaluate
from cascade.ir.walk import free_ranks, reads, substitute, walk


class Mode(Enum):
    """Which coordinates of an input a value needs, relative to its own coordinate."""

    ONE = "one"
    POINT = "point"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Key:
    """A slot of an input. `rank` is the rank reported: the slot's, or a variable of an index
    expression.
    """

    tensor: str
    slot: int
    rank: str
    indexed: bool = False  # `rank` is a variable of an index expression, not the slot's coordinate


@dataclass(frozen=True, slots=True)
class Visit:
    """A step that visits an input along ranks; `after` is the visit behind its last barrier."""

    step: Step
    key: Key
    ranks: tuple[str, ...]
    level: int
    mode: Mode | None = None  # of the dependence on `after`
    through: str = ""  # the tensor that carries the dependence
    after: Visit | None = field(default=None, compare=False)

    def chain(self) -> tuple[Visit, ...]:
        """Visits from the first to this one, with a barrier between each two."""
        found: list[Visit] = []
        visit: Visit | None = self
        while visit is not None:
            found.append(visit)
            visit = visit.after
        return tuple(reversed(found))


@dataclass(frozen=True, slots=True)
class Dependence:
    """What a value needs of an input. `ranks` are ranks of its tensor (outermost part first).

    `flipped`: the ranks run against the input's coordinate. `whole`: the ranks carry the full
    coordinate, not only the outer part of a partition. `context`: for the count inside a tile, the
    ranks that fix it.
    """

    mode: Mode
    ranks: tuple[str, ...]
    flipped: bool = False
    whole: bool = True
    context: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PassCount:
    """passes over one input slot, with the chain that proves it."""

    key: Key
    passes: int
    chain: tuple[Visit, ...]
    visits: tuple[Visit, ...]
    direction: str
    per_step: tuple[str, ...] = ()  # recurrences inside which the count is per step
    inside: str = ""  # the rank of the tile, for counts inside a partition


@dataclass(frozen=True, slots=True)
class Passes:
    """Every count, and what each tensor depends on (for footprints and causality)."""

    counts: tuple[PassCount, ...]
    revisits: tuple[tuple[Key, Step], ...]
    dependences: dict[str, dict[Key, tuple[Dependence, ...]]]
    levels: dict[tuple[Key, str], int]  # level at which a step (by target) visits a key
    ready: dict[tuple[Key, str], int]  # traversals of a key that must be over before a step
    steps: tuple[Step, ...]

    def of_rank(self) -> dict[str, int]:
        """passes[r]: the maximum over inputs, for each rank that is traversed."""
        result: dict[str, int] = {}
        for count in self.counts:
            name = count.inside or count.key.rank
            result[name] = max(result.get(name, 0), count.passes)
        return result


def count_passes(cascade: Cascade) -> Passes:
    """Passes over every rank of every input, and inside the tiles of every partition.

    An input that a step pairs with itself (`X[p,d] * X[m,d]`) is traversed once by rows and, at
    each row, by columns: the two are counted under their own ranks, as those of two inputs are.
    """
    steps = normalise(cascade)
    forward = _Flow(cascade, steps, "forward")
    paired = frozenset(forward.paired)
    if paired:
        forward = _Flow(cascade, steps, "forward", paired=paired)
    backward = _turned(forward, steps)
    counts = [_better(forward, backward, key) for key in forward.visits]
    for partition in cascade.partitions:
        for level in range(1, len(partition.parts)):
            a = _Flow(cascade, steps, "forward", (partition, level), paired)
            b = _turned(a, steps)
            counts += [_better(a, b, key) for key in a.visits]
    order = {r.name: n for n, r in enumerate(cascade.ranks)}
    counts.sort(key=lambda c: (order.get(c.inside or c.key.rank, 0), c.key.tensor, c.key.slot))
    levels = {(c.key, v.step.target): v.level for c in counts if not c.inside for v in c.visits}
    dependences = {
        name: {key: tuple(d for d, _ in facts.items()) for key, facts in by_key.items()}
        for name, by_key in forward.facts.items()
    }
    return Passes(tuple(counts), tuple(forward.revisits), dependences, levels, forward.ready, steps)


def _turned(forward: _Flow, steps: tuple[Step, ...]) -> _Flow:
    """The flow in the other direction; the same one where it has no barrier, which is the least."""
    if all(v.level == 0 for visits in forward.visits.values() for v in visits):
        return forward
    return _Flow(forward.cascade, steps, "backward", forward.inner, forward.apart)


def _better(forward: _Flow, backward: _Flow, key: Key) -> PassCount:
    best = min((forward, backward), key=lambda flow: max(v.level for v in flow.visits[key]))
    visits = best.visits[key]
    last = max(visits, key=lambda v: v.level)
    per_step = {
        v.step.recurs
        for v in visits
        if v.step.recurs is not None and not best.follows(key.tensor, v.step)
    }
    inside = best.inner[0].parts[best.inner[1]] if best.inner else ""
    return PassCount(
        key,
        last.level + 1,
        last.chain(),
        tuple(visits),
        best.direction,
        tuple(sorted(per_step)) if not inside else (),
        inside,
    )


Facts = dict[Dependence, tuple[int, Visit | None, str]]  # -> barriers behind, last visit, through


class _Flow:
    """One data flow over the steps, for one direction of traversal."""

    def __init__(
        self,
        cascade: Cascade,
        steps: tuple[Step, ...],
        direction: str,
        inner: tuple[Partition, int] | None = None,
        paired: frozenset[tuple[str, int]] = frozenset(),
    ):
        self.cascade = cascade
        self.direction = direction
        self.inner = inner
        self.inputs = {t.name: t for t in cascade.inputs}
        self.parts = {p.expression: p.parts for p in cascade.partitions}
        self.wholes = {p.parts[0]: p.rank for p in cascade.partitions}
        self.apart = paired  # slots of inputs whose rows and columns are counted apart
        self.paired: set[tuple[str, int]] = set()
        self.ranks_of: dict[str, tuple[str, ...]] = {}
        self.iterative: dict[str, int] = {}
        self.facts: dict[str, dict[Key, Facts]] = {}
        self.visits: dict[Key, list[Visit]] = {}
        self.revisits: list[tuple[Key, Step]] = []
        self.conditions: Conditions = {}
        self.ready: dict[tuple[Key, str], int] = {}  # barriers that a step has to wait for
        for step in steps:
            self._step(step)

    def follows(self, tensor: str, step: Step) -> bool:
        """Whether the recurrence of a step traverses the input, rather than reading it in every
        step.
        """
        return any(
            step.recurs in v.ranks or step.recurs in step.bound
            for key, visits in self.visits.items()
            if key.tensor == tensor
            for v in visits
            if v.step.recurs == step.recurs
        )

    # -- one step
    def _step(self, step: Step) -> None:
        holding = step_conditions(step, self.conditions)
        arriving: dict[Key, Facts] = {}
        own: dict[Key, dict[Dependence, None]] = {}
        ahead: dict[Key, dict[Dependence, None]] = {}
        for read in reads(step.body):
            if read.tensor in self.inputs:
                for key, dependence in self._visit(read, step):
                    own.setdefault(key, {})[dependence] = None
                    index = read.index[key.slot]
                    side = _shifted(Mode.POINT, index, False, _direction(index))
                    if side is not Mode.POINT and not key.indexed:
                        ahead.setdefault(key, {})[replace(dependence, mode=side, whole=False)] = (
                            None
                        )
            elif read.tensor in self.facts:
                self._arrive(read, arriving)
        for key, facts in arriving.items():
            for d in facts:
                if d.mode is Mode.POINT and d.whole and d.ranks:
                    own.setdefault(key, {})[d] = None
        for key, groups in own.items():
            if len({g.ranks[0] for g in groups}) > 1:
                self.paired.add((key.tensor, key.slot))
            for group in groups:
                visit = self._level(step, key, group, arriving.get(key, {}))
                self.visits.setdefault(key, []).append(visit)
                for held in (group, *(d for d in ahead.get(key, {}) if d.ranks == group.ranks)):
                    arriving.setdefault(key, {})[held] = (visit.level, visit, step.target)
        for key, facts in arriving.items():
            waits = [level + 1 for d, (level, _, _) in facts.items() if d.mode is Mode.ALL]
            if waits:
                self.ready[key, step.target] = max(waits)
        leaving = {key: self._leave(step, facts, holding) for key, facts in arriving.items()}
        leaving = {key: facts for key, facts in leaving.items() if facts}
        if step.target in self.facts:  # the update of a tensor whose `init` came before
            for key, facts in self.facts[step.target].items():
                for d, value in facts.items():
                    _merge(leaving.setdefault(key, {}), d, value)
        self.facts[step.target] = leaving
        self.ranks_of[step.target] = step.einsum.ranks if step.named else step.ranks
        if step.named and step.einsum.step is not None:
            self.iterative[step.target] = step.einsum.step
        remember(step, holding, self.conditions)

    def _level(self, step: Step, key: Key, group: Dependence, facts: Facts) -> Visit:
        best = Visit(step, key, group.ranks, 0)
        for d, (level, visit, through) in facts.items():
            barrier = visit is not None and self._is_barrier(d, group)
            if level + barrier > best.level:
                after = visit if barrier else visit.after if visit else None
                mode = d.mode if barrier else visit.mode if visit else None
                carrier = through if barrier else visit.through if visit else ""
                best = Visit(step, key, group.ranks, level + barrier, mode, carrier, after)
        return best

    def _is_barrier(self, d: Dependence, group: Dependence) -> bool:
        """Whether a visit along `group` has to wait for all that `d` needs."""
        if d.mode is Mode.ALL:
            return True
        if d.mode in (Mode.POINT, Mode.ONE):
            return False
        if d.ranks[:1] != group.ranks[:1] or d.flipped != group.flipped:
            return True
        return d.mode is (Mode.SUFFIX if self.direction == "forward" else Mode.PREFIX)

    # -- reads
    def _visit(self, read: Read, step: Step) -> list[tuple[Key, Dependence]]:
        """The slots of an input that a read visits, and along which ranks."""
        found: list[tuple[Key, Dependence]] = []
        tensor = self.inputs[read.tensor]
        for slot, index in enumerate(read.index):
            rank = tensor.ranks[slot]
            if index in self.parts:
                parts = self.parts[index]
                if self.inner is None:
                    key = self._key(read.tensor, slot, rank, parts[0])
                    found.append((key, Dependence(Mode.POINT, parts)))
                elif parts == self.inner[0].parts:
                    level = self.inner[1]
                    d = Dependence(Mode.POINT, parts[level:], context=parts[:level])
                    found.append((Key(read.tensor, slot, rank), d))
                continue
            if self.inner is not None:
                continue
            variables = free_ranks(index)
            if any(isinstance(node, Read) for node in walk(index)):
                self._gather(read, slot, index, step)
            direction = _direction(index)
            if direction:
                d = Dependence(Mode.POINT, variables, direction < 0)
                found.append((self._key(read.tensor, slot, rank, variables[0]), d))
            else:
                found += [
                    (Key(read.tensor, slot, v, True), Dependence(Mode.POINT, (v,)))
                    for v in variables
                ]
        return found

    def _key(self, tensor: str, slot: int, rank: str, along: str) -> Key:
        apart = (tensor, slot) in self.apart
        return Key(tensor, slot, self.wholes.get(along, along) if apart else rank)

    def _gather(self, read: Read, slot: int, index: Expr, step: Step) -> None:
        """A gather whose index depends on all of the input revisits it; that is listed, not
        counted.
        """
        for inner in reads(index):
            for key, facts in self.facts.get(inner.tensor, {}).items():
                if key.tensor == read.tensor and any(d.mode is Mode.ALL for d in facts):
                    self.revisits.append((Key(read.tensor, slot, key.rank), step))

    def _arrive(self, read: Read, arriving: dict[Key, Facts]) -> None:
        """What the reader of a tensor depends on, in the reader's ranks."""
        ranks = self.ranks_of[read.tensor]
        index = dict(zip(ranks, read.index, strict=True))
        step_slot = self.iterative.get(read.tensor)
        for key, facts in self.facts[read.tensor].items():
            for d, (level, visit, _) in facts.items():
                moved = self._moved(d, index, ranks[step_slot] if step_slot is not None else None)
                if moved is not None:
                    _merge(arriving.setdefault(key, {}), moved, (level, visit, read.tensor))

    def _moved(
        self, d: Dependence, index: dict[str, Expr], stepping: str | None
    ) -> Dependence | None:
        context: list[str] = []
        for rank in d.context:
            found = _plain(index[rank], stepping == rank)
            if found is None:
                return None  # another tile
            context.append(found)
        if not d.ranks:
            return Dependence(d.mode, (), context=tuple(context))
        indices = [index[r] for r in d.ranks]
        if len(indices) == 1 and indices[0] in self.parts:
            return Dependence(d.mode, self.parts[indices[0]], d.flipped, d.whole, tuple(context))
        moved: list[str] = []
        mode, flipped = d.mode, d.flipped
        for n, i in enumerate(indices):
            variables = free_ranks(i)
            if not variables:
                last = Mode.ONE if d.mode in (Mode.POINT, Mode.ONE) else Mode.ALL
                return Dependence(last, (), context=tuple(context))
            direction = _direction(i)
            if not direction:
                return self._elsewhere(d, i, tuple(context))
            if n == 0:
                flipped ^= direction < 0
                mode = _shifted(mode, i, stepping == d.ranks[0], direction)
            moved.append(variables[0])
        return Dependence(mode, tuple(moved), flipped, d.whole, tuple(context))

    def _elsewhere(self, d: Dependence, index: Expr, context: tuple[str, ...]) -> Dependence:
        """A read through an index expression of several ranks: on one side of a rank, or on
        both.
        """
        if d.mode is not Mode.POINT or any(isinstance(n, Read) for n in walk(index)):
            mode = Mode.ONE if d.mode in (Mode.POINT, Mode.ONE) else Mode.ALL
            return Dependence(mode, (), context=context)
        for rank in free_ranks(index):
            side = _side(index, rank)
            if side is not None:
                return Dependence(side, (rank,), d.flipped, False, context)
        return Dependence(Mode.ALL, (), context=context)

    # -- results
    def _leave(self, step: Step, facts: Facts, holding: tuple[Expr, ...]) -> Facts:
        """What the tensor of a step depends on, in its own ranks."""
        result: Facts = {}
        for d, value in facts.items():
            if any(r in step.bound or r not in step.ranks for r in d.context):
                continue
            moved = self._reduced(step, d, holding)
            if step.iterative is not None and moved.ranks[:1] == (step.ranks[step.iterative],):
                moved = _accumulated(moved)
            _merge(result, moved, value)
        return result

    def _reduced(self, step: Step, d: Dependence, holding: tuple[Expr, ...]) -> Dependence:
        kept = [r in step.ranks and r not in step.bound for r in d.ranks]
        if all(kept):
            return d
        if kept[0]:  # the outer part of a partition survives: the block is complete
            outer = tuple(r for r, k in zip(d.ranks, kept, strict=True) if k)
            return Dependence(d.mode, outer, d.flipped, False, d.context)
        lead = d.ranks[0]
        if len(d.ranks) == 1:
            for q in step.ranks:
                below, above = is_at_most(holding, lead, q), is_at_most(holding, q, lead)
                if below or above:
                    side = Mode.PREFIX if below != d.flipped else Mode.SUFFIX
                    mode = _composed(d.mode, side)
                    if mode is not Mode.ALL:
                        return Dependence(mode, (q,), d.flipped, False, d.context)
        if d.mode is Mode.ONE:
            return d
        return Dependence(Mode.ALL, (), context=d.context)


def _merge(facts: Facts, d: Dependence, value: tuple[int, Visit | None, str]) -> None:
    if d not in facts or facts[d][0] < value[0]:
        facts[d] = value


def _composed(inner: Mode, outer: Mode) -> Mode:
    """Coordinates up to (or from) those that themselves need `inner`."""
    if inner in (Mode.POINT, outer):
        return outer
    return Mode.ONE if inner is Mode.ONE else Mode.ALL


def _accumulated(d: Dependence) -> Dependence:
    """A recurrence needs all earlier steps as well."""
    side = Mode.SUFFIX if d.flipped else Mode.PREFIX
    mode = _composed(d.mode, side)
    if mode is Mode.ALL:
        return Dependence(mode, (), context=d.context)
    return Dependence(mode, d.ranks[:1], d.flipped, False, d.context)


def _direction(index: Expr) -> int:
    """+1 for `r`, `r + c`; -1 for `R - 1 - r`; 0 for every other index."""
    match index:
        case Coordinate():
            return 1
        case Map("+", (a, b)):
            sides = [
                _direction(a) if free_ranks(a) else None,
                _direction(b) if free_ranks(b) else None,
            ]
            return next((s for s in sides if s is not None), 0) if None in sides else 0
        case Map("-", (a, b)):
            if not free_ranks(b):
                return _direction(a)
            return -_direction(b) if not free_ranks(a) else 0
        case _:
            return 0


def _plain(index: Expr, stepping: bool) -> str | None:
    """The rank of a read of the same tile: `m1`, or `m1+1` where the slot is iterative."""
    if stepping:
        form = linear(index)
        if form is not None and form[1] == 1 and len(form[0]) == 1:
            ((rank, coefficient),) = form[0].items()
            return rank if coefficient == 1 else None
        return None
    return index.rank if isinstance(index, Coordinate) else None


def _shifted(mode: Mode, index: Expr, stepping: bool, direction: int) -> Mode:
    """`T[r-1]` needs what lies before r; an iterative slot r+1 is step r."""
    form = linear(index)
    if direction < 0 or form is None:
        return mode
    shift = form[1] - (1 if stepping else 0)
    if mode is Mode.POINT:
        return mode if not shift or stepping else Mode.SUFFIX if shift > 0 else Mode.PREFIX
    if (mode is Mode.PREFIX and shift > 0) or (mode is Mode.SUFFIX and shift < 0 and not stepping):
        return Mode.ALL
    return mode


def _side(index: Expr, rank: str) -> Mode | None:
    """Whether index <= rank or index >= rank at every sampled point; None where both occur."""
    others = [r for r in free_ranks(index) if r != rank]
    names = sorted({n.name for n in walk(index) if isinstance(n, Symbol)})
    below = above = False
    for size in (3, 4, 7):
        values: dict[str, int | float | bool] = {name: size for name in names}
        for here in (0, size, 2 * size):
            for there in (0, size // 2, size - 1):
                point = {r: there for r in others} | {rank: here}
                try:
                    value = evaluate(_with_numbers(index, point), values.__getitem__)
                except (ArithmeticError, ValueError):
                    return None
                below |= value < here
                above |= value > here
    if below and above:
        return None
    return Mode.SUFFIX if above else Mode.PREFIX


def _with_numbers(e: Expr, point: dict[str, int]) -> Expr:
    return substitute(e, {r: Const(v) for r, v in point.items()})
