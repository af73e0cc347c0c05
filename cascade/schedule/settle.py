"""Absence made explicit: every step with a total value, the conditions that filter its reduction,
and the conditions under which its tensor is present.

The rules are those of docs/language.md, "Absence", on expressions instead of arrays. A condition
has the ranks that it mentions. A reduction keeps those that mention a rank it binds as *filters*;
the others pass to its tensor. Afterwards no `where` and no `??` is left, and what is read where it
is absent does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cascade.analysis.normalise import Step, normalise
from cascade.ir.affine import always, divisible
from cascade.ir.cascade import Cascade
from cascade.ir.expr import TRUE, Const, Coordinate, Expr, Map, Read, Symbol, Where
from cascade.ir.kinds import is_whole_exponent, tensor_kinds
from cascade.ir.ops import DECIDING, MAPS, SELECTIONS
from cascade.ir.walk import conjuncts, free_ranks, rebuild, substitute, unfiltered
from cascade.schedule.truth import choose, conjoin, disjoin, negate

Conditions = dict[frozenset[str], tuple[Expr, ...]]  # the ranks mentioned -> conjuncts


@dataclass(frozen=True)
class Settled:
    """`name[ranks] = op over bound of value where filters`; present where `present` holds.

    `iterative` is the slot written at coordinate + 1, `start` the value of slot 0 of such a tensor,
    `recurs` the rank of the recurrence that the step belongs to. `target` is the rank that a
    selection fills. `kind` is real, int or bool.
    """

    name: str
    ranks: tuple[str, ...]
    op: str | None
    bound: tuple[str, ...]
    value: Expr
    filters: tuple[Expr, ...] = ()
    present: tuple[Expr, ...] = ()
    iterative: int | None = None
    start: Expr | None = None
    recurs: str | None = None
    target: str | None = None
    kind: str = "real"
    line: int | None = None
    named: bool = True

    @property
    def scope(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.ranks, *self.bound)))


def settle(cascade: Cascade) -> dict[str, Settled]:
    """The steps of a cascade by name, in an order in which all is made before it is read (but for
    the previous step of a recurrence).
    """
    steps = normalise(cascade)
    companions: set[str] = set()
    while True:
        settling = _Settling(cascade, steps, companions)
        found = settling.all()
        missing = settling.conditional - companions
        if not missing:
            return found
        companions |= missing


class _Settling:
    """`companions` are iterative tensors whose presence is itself a recurrence."""

    def __init__(self, cascade: Cascade, steps: tuple[Step, ...], companions: set[str]):
        self.cascade = cascade
        self.steps = steps
        self.companions = companions
        self.conditional: set[str] = set()
        self.kinds = tensor_kinds(cascade)
        self.iterative = {e.tensor: e.step for e in cascade.einsums if e.step is not None}
        self.ranks: dict[str, tuple[str, ...]] = {t.name: t.ranks for t in cascade.inputs}
        for e in cascade.einsums:
            self.ranks.setdefault(e.tensor, e.ranks)
        self.ranks |= {s.target: s.ranks for s in steps if s.target not in self.ranks}
        self.stepped = {e.ranks[e.step] for e in cascade.einsums if e.step is not None}
        self.conditions: dict[str, Conditions] = {t: self._of_slots(t) for t in companions}
        self.found: dict[str, Settled] = {}

    def all(self) -> dict[str, Settled]:
        starts: dict[str, Expr] = {}
        begun: dict[str, Expr] = {}  # where the start of an iterative tensor is present
        for step in self.steps:
            if step.einsum.init and step.named:
                body = step.body
                if step.op is not None:
                    self._step(replace(step, target=f"{step.target}.start", named=False), None)
                    body = Read(f"{step.target}.start", coordinates(step.ranks))
                value, conditions = self.settle(body)
                begun[step.target] = conjoin(tuple(c for own in conditions.values() for c in own))
                starts[step.target] = value
                if begun[step.target] != TRUE:
                    self.conditional.add(step.target)
                continue
            if step.named and step.target in self.companions:
                self._companion(step, begun.get(step.target, TRUE))
            self._step(step, starts.get(step.target))
        return self.found

    def _companion(self, step: Step, start: Expr) -> None:
        """A tensor over truth values that says where an iterative tensor is present."""
        _, conditions = self.settle(step.body)
        parts = tuple(c for own in conditions.values() for c in own)
        name = presence_name(step.target)
        self.ranks[name] = step.ranks
        self.found[name] = Settled(
            name, step.ranks, None, (), conjoin(parts), (), (), step.iterative, start, step.recurs,
            None, "bool", step.line,
        )  # fmt: skip

    def _step(self, step: Step, start: Expr | None) -> None:
        value, conditions = self.settle(step.body)
        bound = frozenset(step.bound)
        filters = tuple(c for key, own in conditions.items() if key & bound for c in own)
        passing = {key: own for key, own in conditions.items() if not key & bound}
        op, kind = step.op, self._kind(step, value)
        if op in ("max", "min") and kind == "int" and filters:
            kind = "real"  # over no point it is infinite
        target = step.ranks[-1] if op in ("top", "argtop") else None
        if op == "order":
            value, op, kind = self._position(step, value, filters), "sum", "int"
            bound_rank = f"{step.bound[0]}'"
            passing |= {frozenset(step.bound): filters} if filters else {}
            self._add(step, op, (bound_rank,), value, (), passing, None, None, kind)
            return
        if target is not None:
            target = self._target(step)
            number = self._number(step, filters, conditions)
            mentioned = {r for key in conditions if key & bound for r in key} - bound
            enough = Map("<", (Coordinate(target), number))
            passing = join(passing, {frozenset({*mentioned, target}): (enough,)})
        elif op in ("mean", "argmax"):
            number = self._number(step, filters, conditions)
            mentioned = {r for key in conditions if key & bound for r in key} - bound
            some = Map(">", (number, Const(0)))
            passing = join(passing, {frozenset(mentioned): (some,)})
            if op == "mean":
                total = f"{step.target}.sum"
                here = replace(step, target=total, iterative=None, named=False)
                self._add(here, "sum", step.bound, value, filters, {}, None, None, "real")
                op, filters, step = None, (), replace(step, bound=())
                value = Map("/", (Read(total, coordinates(here.ranks)), number))
        elif op == "count":
            if self._is_bool(value):
                filters, value = (*filters, value), Const(1)
            else:
                value = Const(1)
            op = "sum"
        elif op == "any" and value != TRUE:
            filters, value = self._either_way(step, filters, value), TRUE
        self._add(step, op, step.bound, value, filters, passing, start, target, kind)

    def _either_way(self, step: Step, filters: tuple[Expr, ...], value: Expr) -> tuple[Expr, ...]:
        """What a point must meet to make `any` true: the value of the body and that it is known,
        or, where the body is `x and y`, each of them by itself, which says the same in fewer words.
        """
        body, given = unfiltered(step.body)
        bound = frozenset(step.bound)
        if not (isinstance(body, Map) and body.op == "and"):
            return (*filters, *conjuncts(value))
        if any(not key & bound for key in self.settle(body)[1]):
            return (*filters, *conjuncts(value))
        kept = [part for part in given if bound & frozenset(free_ranks(part))]
        return tuple(self.truth(part) for part in (*kept, *conjuncts(body)))

    def _add(
        self,
        step: Step,
        op: str | None,
        bound: tuple[str, ...],
        value: Expr,
        filters: tuple[Expr, ...],
        passing: Conditions,
        start: Expr | None,
        target: str | None,
        kind: str,
    ) -> None:
        present = tuple(c for own in passing.values() for c in own)
        if step.iterative is not None or self._substitutes(step):
            if passing:
                self.conditional.add(step.target)
            passing, present = self._of_slots(step.target), ()
            if step.iterative is None:
                present = tuple(c for own in passing.values() for c in own)
        self.ranks[step.target] = step.ranks
        self.conditions[step.target] = passing
        self.found[step.target] = Settled(
            step.target, step.ranks, op, bound, value, tuple(dict.fromkeys(filters)),
            tuple(dict.fromkeys(present)), step.iterative, start, step.recurs, target, kind,
            step.line, step.named,
        )  # fmt: skip

    def _substitutes(self, step: Step) -> bool:
        """Whether a step reads itself at earlier rows, without slots."""
        forward = step.recurs in step.ranks and step.recurs not in self.stepped
        return forward and step.named and step.iterative is None

    def _of_slots(self, name: str) -> Conditions:
        if name not in self.companions:
            return {}
        own = Read(presence_name(name), coordinates(self.ranks[name]))
        return {frozenset(self.ranks[name]): (own,)}

    def _kind(self, step: Step, value: Expr) -> str:
        if step.op in ("count", "argmax", "argtop", "order"):
            return "int"
        if step.op in ("any", "all"):
            return "bool"
        if step.op == "mean":
            return "real"
        kind = kind_of(value, self._kind_of_tensor)
        if kind == "any":
            kind = self.kinds.get(step.target, "real")
        return kind if kind in ("int", "bool") else "real"

    def _is_bool(self, e: Expr) -> bool:
        return kind_of(e, self._kind_of_tensor) == "bool"

    def _is_int(self, e: Expr) -> bool:
        return kind_of(e, self._kind_of_tensor) == "int"

    def _kind_of_tensor(self, name: str) -> str:
        if name in self.found:
            return self.found[name].kind
        return self.kinds.get(name, "any")

    def _number(self, step: Step, filters: tuple[Expr, ...], conditions: Conditions) -> Expr:
        """How many points the reduction has: its extents, or a count of its own."""
        if not filters:
            number: Expr = Const(1)
            for r in step.bound:
                extent = self.cascade.rank[r].extent
                number = extent if number == Const(1) else Map("*", (number, extent))
            return number
        bound = set(step.bound)
        mentioned = {r for key in conditions if key & bound for r in key} - bound
        target = self._target(step) if step.op in SELECTIONS else None
        ranks = tuple(r for r in step.ranks if r in mentioned and r != target)
        name = f"{step.target}.count"
        here = replace(step, target=name, ranks=ranks, iterative=None, named=False)
        self._add(here, "sum", step.bound, Const(1), filters, {}, None, None, "int")
        return Read(name, coordinates(ranks))

    def _target(self, step: Step) -> str:
        from cascade.ir.expr import Select
        from cascade.ir.walk import walk

        node = next(n for n in walk(step.einsum.body) if isinstance(n, Select))
        return node.target

    def _position(self, step: Step, value: Expr, filters: tuple[Expr, ...]) -> Expr:
        """`order` as a count: the points that stand before this one, which is none of them even if
        the two sides of the comparison are rounded differently.
        """
        (rank,) = step.bound
        other: dict[str, Expr] = {rank: Coordinate(f"{rank}'")}
        there = substitute(value, other)
        elsewhere = Map("!=", (other[rank], Coordinate(rank)))
        ahead = Map("or", (
            Map("and", (Map(">", (there, value)), elsewhere)),
            Map("and", (Map("==", (there, value)), Map("<", (other[rank], Coordinate(rank))))),
        ))  # fmt: skip
        counted = conjoin((ahead, *(substitute(c, other) for c in filters)))
        return Map("select", (counted, Const(1), Const(0)))

    # -- expressions
    def settle(self, e: Expr) -> tuple[Expr, Conditions]:
        """The value of an expression without absence, and its conditions."""
        match e:
            case Const() | Coordinate() | Symbol():
                return e, {}
            case Read():
                return self._read(e)
            case Where(body, condition):
                value, conditions = self.settle(body)
                for part in conjuncts(condition):
                    truth = self.truth(part)
                    if truth != TRUE:
                        conditions = join(conditions, {frozenset(free_ranks(part)): (truth,)})
                return value, conditions
            case Map(op, args):
                settled = [self.settle(a) for a in args]
                if op in DECIDING and any(c for _, c in settled):
                    named = [frozenset(free_ranks(a)) for a in args]
                    return self._joined(op, settled, named)
                conditions = {}
                for _, own in settled:
                    conditions = join(conditions, own)
                return _simple(op, rebuild(e, tuple(v for v, _ in settled))), conditions
            case _:
                raise AssertionError(f"{type(e).__name__} in a step")

    def truth(self, part: Expr) -> Expr:
        """True where a condition is true and known."""
        value, conditions = self.settle(part)
        return conjoin((value, *(c for own in conditions.values() for c in own)))

    def _joined(
        self, op: str, args: list[tuple[Expr, Conditions]], named: list[frozenset[str]]
    ) -> tuple[Expr, Conditions]:
        values = [v for v, _ in args]
        known = [conjoin(tuple(c for own in cs.values() for c in own)) for _, cs in args]
        mentioned = frozenset(r for _, cs in args for key in cs for r in key)
        mentioned = mentioned.union(*named[: DECIDING[op]])
        if op == "??":
            result = Map("select", (known[0], *values))
            if not all(cs for _, cs in args):
                return result, {}
            return result, join({}, {mentioned: (disjoin(known),)})
        if op == "select":
            there = conjoin((known[0], choose(values[0], known[1], known[2])))
            return Map("select", tuple(values)), join({}, {mentioned: (there,)})
        x, y = values
        a, b = known
        if op == "or":
            yes = [conjoin((x, a)), conjoin((y, b))]
            there = disjoin([*yes, conjoin((a, b))])
            return disjoin(yes), join({}, {mentioned: (there,)})
        no = [conjoin((negate(x), a)), conjoin((negate(y), b))]
        there = disjoin([*no, conjoin((a, b))])
        return negate(disjoin(no)), join({}, {mentioned: (there,)})

    def _read(self, e: Read) -> tuple[Expr, Conditions]:
        conditions: Conditions = {}
        index = []
        for i in e.index:
            value, own = self.settle(i)
            index.append(value)
            conditions = join(conditions, own)
        ranks = self.ranks[e.tensor]
        for slot, (rank, i) in enumerate(zip(ranks, index, strict=True)):
            parts = (
                ()
                if slot == self.iterative.get(e.tensor, -1)
                else index_bounds(self.cascade, i, rank)
            )
            if parts:
                conditions = join(conditions, {frozenset(free_ranks(e.index[slot])): parts})
        places = dict(zip(ranks, index, strict=True))
        mentions = {r: frozenset(free_ranks(i)) for r, i in zip(ranks, e.index, strict=True)}
        for key, parts in self.conditions.get(e.tensor, {}).items():
            moved = tuple(substitute(c, places) for c in parts)
            named: frozenset[str] = frozenset[str]().union(
                *(mentions.get(r, frozenset({r})) for r in key)
            )
            conditions = join(conditions, {named: moved})
        return replace(e, index=tuple(index)), conditions


def index_bounds(cascade: Cascade, i: Expr, rank: str) -> tuple[Expr, ...]:
    """The tests that an index needs to lie inside a slot of a rank."""
    extent = cascade.rank[rank].extent
    if isinstance(i, Coordinate):
        own = i.rank.rstrip("'")
        if own == rank or cascade.rank[own].extent == extent:
            return ()
    if isinstance(i, Map) and i.op == "%" and i.args[1] == extent:
        return (Map("<", (Const(0), extent)),)  # a remainder is less, if there is any coordinate
    low = () if is_natural(i) else (Map("<=", (Const(0), i)),)
    return low if _below(cascade, i, extent) else (*low, Map("<", (i, extent)))


def _below(cascade: Cascade, i: Expr, extent: Expr) -> bool:
    """Whether an index is less than an extent, from its form."""

    def extent_of(rank: str) -> Expr:
        return cascade.rank[rank.rstrip("'")].extent

    match i:
        case Map("//", (Coordinate(r), d)):
            if extent_of(r) in (Map("*", (extent, d)), Map("*", (d, extent))):
                return True
    return always(Map("<", (i, extent)), extent_of, divisible(cascade))


def presence_name(tensor: str) -> str:
    """The tensor that says where an iterative tensor is present."""
    return f"{tensor}.present"


def coordinates(ranks: Iterable[str]) -> tuple[Expr, ...]:
    return tuple(Coordinate(r) for r in ranks)


def join(a: Conditions, b: Conditions) -> Conditions:
    """Both sets of conditions, by the ranks that they mention."""
    if not b:
        return a
    result = dict(a)
    for key, own in b.items():
        result[key] = conjuncts(conjoin((*result.get(key, ()), *own)))
    return {key: own for key, own in result.items() if own != (TRUE,)}


def _simple(op: str, e: Expr) -> Expr:
    """`and`, `or` and `not` in their short form."""
    match op, e:
        case "and", Map(_, parts):
            return conjoin(parts)
        case "or", Map(_, parts):
            return disjoin(parts)
        case "not", Map(_, (part,)):
            return negate(part)
    return e


def is_natural(e: Expr) -> bool:
    """Whether an integer expression is never negative, from its form alone."""
    match e:
        case Const(value):
            return value >= 0
        case Coordinate() | Symbol():
            return True  # extents and integer params of indices; a negative one is no extent
        case Map("+" | "*" | "//", args):
            return all(is_natural(a) for a in args)
        case Map("%", (_, d)):
            return is_natural(d)
        case Map("max", args):
            return any(is_natural(a) for a in args)
        case Map("min", args):
            return all(is_natural(a) for a in args)
        case Map("select", (_, a, b)):
            return is_natural(a) and is_natural(b)
        case _:
            return False


def kind_of(e: Expr, tensor: Mapping[str, str] | object) -> str:
    """real, int, bool or any: of an expression, by the kinds of the tensors it reads."""
    match e:
        case Const(value):
            return (
                "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "real"
            )
        case Coordinate():
            return "int"
        case Symbol():
            return "any"
        case Read(name, _):
            return str(tensor(name)) if callable(tensor) else "any"
        case Map("**", (_, b)) if not is_whole_exponent(b):
            return "real"
        case Map(op, args):
            gives = MAPS[op].gives
            if gives != "same":
                return gives
            found = {kind_of(a, tensor) for a in (args[1:] if op == "select" else args)}
            if "real" in found:
                return "real"
            return found.pop() if len(found) == 1 else "any"
        case _:
            return "any"
