"""The meaning of a cascade at one point, in plain Python numbers: a second opinion.

It follows the definition of the language and shares only the IR and the checked inputs with other
backends. An expression becomes a `Term`: a value, and the conditions under which it is present.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count, product, takewhile
from typing import Any

from cascade.backends.arrays import as_inputs
from cascade.backends.scalars import OPERATIONS, REDUCTIONS, descending, real_power
from cascade.backends.terms import (
    Condition,
    Place,
    Point,
    Ranks,
    Statement,
    Term,
    applied,
    conditions_of,
    filtering,
    hold,
    inside,
    joined,
    ranks_of,
    through,
)
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.extents import Number, bind
from cascade.ir.kinds import is_whole_exponent
from cascade.ir.ops import MAPS, REDUCERS
from cascade.ir.walk import conjuncts

Key = tuple[str, Ranks | None, Place]  # a value, or the conditions that mention the ranks

LEVELS = 60  # expression levels evaluated inside each other before the innermost point goes first
KEPT = 2_000_000  # values remembered from one sampled point to the next


@dataclass(frozen=True, slots=True)
class Checked:
    """One output compared: the largest error, relative to 1 or the value, and how many points."""

    tensor: str
    error: float
    compared: int
    points: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Deeper(Exception):
    """This key must be evaluated first: recursion would go too deep."""

    def __init__(self, key: Key):
        self.key = key


class _OutOfTime(Exception):
    """The deadline passed."""


class Pointwise:
    """Evaluates points on demand and remembers the values of tensors and reductions."""

    def __init__(
        self,
        cascade: Cascade,
        inputs: Mapping[str, Any],
        settings: Mapping[str, Number] | None = None,
        deadline: float = math.inf,
    ):
        self.tensors = cascade.tensors
        self.arrays = as_inputs(cascade, inputs)
        shapes = {name: array.shape for name, array in self.arrays.items()}
        self.bindings = bind(cascade, shapes, settings)
        self.deadline = deadline
        self.shape = {
            name: tuple(int(self.bindings.of(cascade.extent(t, n))) for n in range(len(t.ranks)))
            for name, t in self.tensors.items()
        }
        self.memo: dict[Any, Any] = {}
        self.open: set[Key] = set()
        self.assumed: set[Key] = set()
        self.levels = 0
        self.numbers = count()
        self.mentions: dict[str, tuple[Ranks, ...]] = dict.fromkeys(self.tensors, ())
        while self._compile(cascade):  # until recurrences have all of each other's conditions
            pass

    def value_at(self, tensor: str, place: Place) -> Number | None:
        """The value of a tensor at a point, None where it is absent."""
        result: Number | None = self._settle((tensor, None, place))
        return result

    def failed(self, tensor: str, place: Place) -> set[Ranks]:
        """The conditions that fail at a point, each as the ranks that it mentions."""
        return {
            mentions
            for mentions in self.mentions[tensor]
            if not self._settle(self._restricted(tensor, mentions, place))
        }

    def _compile(self, cascade: Cascade) -> bool:
        before = self.mentions
        self.statements = {
            tensor: [Statement(e, self._term(e.body)) for e in einsums]
            for tensor, einsums in cascade.definitions.items()
        }
        self.mentions = dict.fromkeys(self.tensors, ()) | {
            tensor: tuple(dict.fromkeys(m for s in statements for m in s.conditions))
            for tensor, statements in self.statements.items()
        }
        return self.mentions != before

    # -- points of tensors
    def _settle(self, key: Key) -> Any:
        """Evaluate a key. What lies too deep goes first: a long recurrence does not recurse."""
        pending = [key]
        while True:
            self.levels = 0
            self.assumed.clear()
            try:
                result = self._visit(pending[-1])
            except _Deeper as deeper:
                pending += self._up_to(deeper.key)
                continue
            pending.pop()
            if not pending:
                return result

    def _visit(self, key: Key) -> Any:
        """The result for a key; None for the value of a point that is absent."""
        tensor, mentions, place = key
        if mentions is None:
            for m in self.mentions[tensor]:
                if not self._get(self._restricted(tensor, m, place)):
                    return None
        return self._get(key)

    def _restricted(self, tensor: str, mentions: Ranks, place: Place) -> Key:
        ranks = self.tensors[tensor].ranks
        kept = tuple(c for r, c in zip(ranks, place, strict=True) if r in mentions)
        return tensor, mentions, kept

    def _up_to(self, key: Key) -> list[Key]:
        """The key, then the same at the earlier steps of an iterative tensor that are not known."""
        tensor, mentions, place = key
        t = self.tensors[tensor]
        if t.iterative is None:
            return [key]
        slots = [n for n, r in enumerate(t.ranks) if mentions is None or r in mentions]
        step = slots.index(t.iterative)
        keys = [
            (tensor, mentions, (*place[:step], n, *place[step + 1 :]))
            for n in range(place[step], -1, -1)
        ]
        return list(takewhile(lambda k: k not in self.memo, keys))

    def _get(self, key: Key) -> Any:
        tensor, mentions, place = key
        if tensor in self.arrays:
            return self.arrays[tensor].item(place)
        if key in self.memo:
            return self.memo[key]
        if key in self.open and mentions is not None:  # the condition is its own: it adds nothing
            self.assumed.add(key)
            return True
        statement, at = self._statement(key)
        if self.levels and self.levels + statement.levels > LEVELS:
            raise _Deeper(key)
        if time.monotonic() > self.deadline:
            raise _OutOfTime
        self.levels += statement.levels
        self.open.add(key)
        try:
            if mentions is None:
                result = statement.term.value(at)
            else:
                result = hold(statement.conditions.get(mentions, ()), at)
        finally:
            self.levels -= statement.levels
            self.open.discard(key)
        self.assumed.discard(key)
        if not self.assumed or result is False:
            self.memo[key] = result
        return result

    def _statement(self, key: Key) -> tuple[Statement, Point]:
        tensor, mentions, place = key
        for statement in self.statements[tensor]:
            at = statement.point(mentions, place)
            if at is not None:
                return statement, at
        raise KeyError(key)

    # -- expressions
    def _term(self, e: Expr) -> Term:
        match e:
            case Const(value):
                return Term(lambda at: value)
            case Coordinate(rank):
                return Term(lambda at: at[rank])
            case Symbol(name):
                number = self.bindings.values[name]
                return Term(lambda at: number)
            case Read():
                return self._read(e)
            case Where(body, condition):
                inner = self._term(body)
                guards = tuple(self._conjunct(part) for part in conjuncts(condition))
                return Term(inner.value, guards + inner.conditions)
            case Map(op, args):
                terms = [self._term(a) for a in args]
                if MAPS[op].absence != "strict":
                    return joined(e, terms)
                function = OPERATIONS[op]
                if op == "**" and not is_whole_exponent(args[1]):
                    function = real_power
                return Term(applied(function, terms), conditions_of(terms))
            case Reduce():
                return self._reduce(e)
            case Select():
                return self._select(e)

    def _conjunct(self, e: Expr) -> Condition:
        term = self._term(e)
        return Condition(ranks_of(e), lambda at: term.present(at) and bool(term.value(at)))

    def _read(self, e: Read) -> Term:
        index = [self._term(i) for i in e.index]
        mentioned = [ranks_of(i) for i in e.index]
        extents = self.shape[e.tensor]
        conditions = list(conditions_of(index))
        for node, term, ranks, extent in zip(e.index, index, mentioned, extents, strict=True):
            if not (isinstance(node, Coordinate) and self.bindings.extents[node.rank] <= extent):
                conditions.append(Condition(ranks, inside(term, extent)))
        for mentions in self.mentions[e.tensor]:
            slots = [n for n, r in enumerate(self.tensors[e.tensor].ranks) if r in mentions]
            ranks = frozenset[str]().union(*(mentioned[n] for n in slots))
            at_slots = [(index[n], extents[n]) for n in slots]
            conditions.append(Condition(ranks, self._inherited(e.tensor, mentions, at_slots)))

        def value(at: Point) -> Any:
            place = tuple([term.value(at) for term in index])
            return self._get((e.tensor, None, place))

        return Term(value, tuple(conditions))

    def _inherited(
        self, tensor: str, mentions: Ranks, slots: list[tuple[Term, int]]
    ) -> Callable[[Point], bool]:
        """The conditions of a tensor at an index. Without an index, those of the index fail."""

        def holds(at: Point) -> bool:
            place = []
            for term, extent in slots:
                if not term.present(at) or not 0 <= term.value(at) < extent:
                    return True
                place.append(term.value(at))
            return bool(self._get((tensor, mentions, tuple(place))))

        return holds

    def _reduce(self, e: Reduce) -> Term:
        body = self._term(e.body)
        points = self._points(body, e.ranks)
        fold = REDUCTIONS[e.op]

        def value(at: Point) -> Any:
            present = list(points(at))
            result = fold([body.value(p) for p in present])
            return present[result][e.ranks[0]] if e.op == "argmax" else result

        conditions = through(body, e.ranks)
        if REDUCERS[e.op].identity is None:
            others = filtering(body, e.ranks)
            some = self._remembered(others, lambda at: next(points(at), None) is not None)
            conditions += (Condition(others, some),)
        return Term(self._remembered(ranks_of(e), value), conditions)

    def _select(self, e: Select) -> Term:
        body = self._term(e.body)
        points = self._points(body, (e.rank,))

        def sort(at: Point) -> list[tuple[Any, int]]:
            row = [(body.value(p), p[e.rank]) for p in points(at)]
            return [row[n] for n in descending([v for v, _ in row])]

        ranked = self._remembered(ranks_of(e) - {e.target}, sort)
        if e.op == "order":
            return Term(lambda at: [m for _, m in ranked(at)].index(at[e.rank]), body.conditions)
        part = 0 if e.op == "top" else 1
        others = filtering(body, (e.rank,))
        number = self._remembered(others, lambda at: sum(1 for _ in points(at)))
        enough = Condition(others | {e.target}, lambda at: at[e.target] < number(at))
        conditions = (*through(body, (e.rank,)), enough)
        return Term(lambda at: ranked(at)[at[e.target]][part], conditions)

    def _points(self, body: Term, ranks: tuple[str, ...]) -> Callable[[Point], Iterator[Point]]:
        """The points along the ranks that fail no condition mentioning one of them."""
        filters = tuple(c for c in body.conditions if not c.ranks.isdisjoint(ranks))
        extents = [range(self.bindings.extents[r]) for r in ranks]

        def points(at: Point) -> Iterator[Point]:
            for place in product(*extents):
                inner = at | dict(zip(ranks, place, strict=True))
                if hold(filters, inner):
                    yield inner

        return points

    def _remembered(self, ranks: Ranks, function: Callable[[Point], Any]) -> Callable[[Point], Any]:
        """A function of these ranks, evaluated once for each of their points."""
        number = next(self.numbers)

        def evaluate(at: Point) -> Any:
            key = (number, *[at[r] for r in ranks])
            if key in self.memo:
                return self.memo[key]
            result = function(at)
            if not self.assumed:
                self.memo[key] = result
            return result

        return evaluate


def check(
    cascade: Cascade,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Number] | None,
    outputs: Mapping[str, Any],
    samples: int = 64,
    seed: int = 0,
    budget_seconds: float = 10.0,
) -> list[Checked]:
    """Compare outputs with their definition, at corners and random points, until time is up."""
    evaluator = Pointwise(cascade, inputs, settings, time.monotonic() + budget_seconds)
    chance = random.Random(seed)
    places = {name: _sample(evaluator.shape[name], samples, chance) for name in cascade.outputs}
    errors: dict[str, list[float]] = {name: [] for name in cascade.outputs}
    try:
        for n in range(max(map(len, places.values()), default=0)):
            for name, chosen in places.items():
                if n < len(chosen):
                    value = evaluator.value_at(name, chosen[n])
                    errors[name].append(error(outputs[name][chosen[n]].item(), value))
            if len(evaluator.memo) > KEPT:
                evaluator.memo.clear()
    except _OutOfTime:
        pass
    return [
        Checked(name, max(found, default=0.0), len(found), math.prod(evaluator.shape[name]))
        for name, found in errors.items()
    ]


def error(found: Number, value: Number | None) -> float:
    """The difference relative to 1 or the value. An absent point is 0, false or -1."""
    if value is None:
        return (
            0.0
            if found == (-1 if isinstance(found, int) and found is not False else 0)
            else math.inf
        )
    if found == value or (found != found and value != value):
        return 0.0
    difference = abs(float(found) - float(value)) / max(1.0, abs(float(value)))
    return difference if math.isfinite(difference) else math.inf


def _sample(shape: tuple[int, ...], samples: int, chance: random.Random) -> list[Place]:
    """The first and the last point, the other corners, then random ones; never one twice."""
    if 0 in shape:
        return []
    corners = list(product(*[(0, n - 1) for n in shape]))
    places = dict.fromkeys([corners[0], corners[-1], *corners])
    for _ in range(max(0, samples - len(places))):
        places[tuple(chance.randrange(n) for n in shape)] = None
    return list(places)
