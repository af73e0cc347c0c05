"""What a statement passes on: the terms of each tensor that it reads, from its own cotangent."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace

from cascade.diagnostics import fail
from cascade.gradients.build import compare, where
from cascade.gradients.rules import partial
from cascade.gradients.term import Term
from cascade.ir.cascade import Einsum
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.walk import conjunction, conjuncts, free_ranks, reads, substitute, walk
from cascade.transforms.presence import Presence

Copy = Callable[[str, Container[str]], str]  # another rank of the same extent
Named = Callable[[str, tuple[str, ...], Expr], Read]  # stem, ranks, body -> the tensor of it


@dataclass(frozen=True)
class Pulled:
    """A term for the tensor (or param) read at `index`, in the ranks of the reading statement."""

    tensor: str
    index: tuple[Expr, ...]
    term: Term
    scope: tuple[str, ...]


class Pull:
    """Reverse mode through the expression of one statement."""

    def __init__(self, presence: Presence, active: frozenset[str], named: Named, copy: Copy):
        self.presence = presence
        self.active = active
        self.named = named
        self.copy = copy

    def statement(self, e: Einsum, term: Term) -> Iterator[Pulled]:
        """`term` is the cotangent of the left side, at its point."""
        self.einsum = e
        body, whole = e.body, Read(e.tensor, e.index)
        if isinstance(body, Reduce):
            yield from self._reduce(body, term, whole)
        elif isinstance(body, Select):
            yield from self._select(body, term)
        else:
            yield from self._pull(body, term, whole)

    def _touches(self, e: Expr) -> bool:
        """Whether a gradient is wanted of anything that `e` reads."""
        if any(r.tensor in self.active for r in reads(e)):
            return True
        return any(isinstance(n, Symbol) and n.name in self.active for n in walk(e))

    def _pull(self, e: Expr, term: Term, value: Expr | None = None) -> Iterator[Pulled]:
        match e:
            case Read(tensor, index):
                if tensor in self.active:
                    yield Pulled(tensor, index, term, self.einsum.scope)
            case Symbol(name):
                if name in self.active:
                    yield Pulled(name, (), term, self.einsum.scope)
            case Where(body, condition):
                yield from self._pull(body, term.times((), conjuncts(condition)))
            case Map("??", (first, second)):
                there = self.presence.of(first)
                term = replace(term, chosen=True)
                if self._touches(first):
                    yield from self._pull(first, term.times((), there))
                if self._touches(second) and there:
                    yield from self._pull(second, term.times((), (self._lacking(first),)))
            case Map("select", (choice, yes, no)):
                term = replace(term, chosen=True)
                if self._touches(yes):
                    yield from self._pull(yes, term.times((), conjuncts(choice)))
                if self._touches(no):
                    yield from self._pull(no, term.times((), (Map("not", (choice,)),)))
            case Map(_, args):
                for k, arg in enumerate(args):
                    if not self._touches(arg):
                        continue
                    found = partial(e, k, e if value is None else value)
                    if found is not None:
                        yield from self._pull(arg, term.times(found.factors, found.conditions))
            case Reduce():  # of the tensor's own earlier points: all others have a name
                yield from self._reduce(e, term, e)
            case Select():
                if self._touches(e):
                    raise fail(
                        "no-derivative",
                        f"`{self.einsum.tensor}` selects among its own earlier values, "
                        "and that has no derivative here",
                        e.span or self.einsum.span,
                    )

    def _lacking(self, e: Expr) -> Expr:
        """True where `e` is absent."""
        there = self.presence.of(e)
        if any(self.presence.of(c) for c in there):
            present: Expr = Map("??", (conjunction(there), Const(False)))
        else:
            present = conjunction(there)
        return Map("not", (present,))

    def _reduce(self, e: Reduce, term: Term, whole: Expr) -> Iterator[Pulled]:
        if not self._touches(e.body):
            return
        left = self.einsum
        body, bound = e.body, e.ranks
        there = self._there(e)
        inner = term.over(bound).times((), there)
        match e.op:
            case "sum":
                pass
            case "mean":
                inner = inner.times(((self._number(e, there), -1),))
            case "max" | "min" if not self._is_picked(body):
                places = zip(self._places(e), map(Coordinate, bound), strict=True)
                inner = inner.times((), tuple(compare("==", at, r) for at, r in places))
            case "max" | "min":
                same = compare("==", body.body if isinstance(body, Where) else body, whole)
                ties = self.named(
                    f"{left.tensor}_ties",
                    left.scope,
                    Reduce("count", bound, compare("==", body, whole)),
                )
                inner = inner.times(((ties, -1),), (same,))
            case "prod":
                inner = inner.times(((self._others(e), 1),))
            case _:
                return
        yield from self._pull(body, inner)

    def _is_picked(self, e: Expr) -> bool:
        """Whether a value is one of the inputs or of the numbers of a run, or the negative of one:
        equal to itself however often it is made. What is computed rounds as it is computed.
        """
        match e:
            case Const() | Coordinate() | Symbol():
                return True
            case Read(tensor):
                own = self.presence.cascade.definitions.get(tensor, ())
                return not any(d.step is not None or not self._is_picked(d.body) for d in own)
            case Where(body) | Reduce("max" | "min", _, body):
                return self._is_picked(body)
            case Map("select", (_, *args)) | Map("??" | "neg" | "abs" | "max" | "min", args):
                return all(self._is_picked(a) for a in args)
        return False

    def _places(self, e: Reduce) -> list[Read]:
        """The first coordinates at which a maximum or a minimum is, along each rank at those of the
        ranks before; -1 where there is no point.
        """
        body = e.body if e.op == "max" else Map("neg", (e.body,))
        name, ranks = f"{self.einsum.tensor}_at", self.einsum.scope
        found: list[Read] = []
        for n, rank in enumerate(e.ranks):
            here = substitute(body, dict(zip(e.ranks, found, strict=False)))
            if e.ranks[n + 1 :]:
                here = Reduce("max", e.ranks[n + 1 :], here)
            place = Map("??", (Reduce("argmax", (rank,), here), Const(-1)))
            found.append(self.named(name, ranks, place))
        return found

    def _there(self, e: Reduce) -> tuple[Expr, ...]:
        """Conditions by which a reduction leaves points out."""
        return tuple(c for c in self.presence.of(e.body) if set(free_ranks(c)) & set(e.ranks))

    def _number(self, e: Reduce, there: tuple[Expr, ...]) -> Expr:
        """The number of points of a mean."""
        if not there:
            number: Expr = Const(1)
            for rank in e.ranks:
                extent = Symbol(rank.upper())
                number = extent if number == Const(1) else Map("*", (number, extent))
            return number
        name, ranks = f"{self.einsum.tensor}_count", self.einsum.scope
        return self.named(name, ranks, Reduce("count", e.ranks, e.body))

    def _others(self, e: Reduce) -> Expr:
        """The product over all other points."""
        copies = {r: self.copy(r, e.ranks) for r in e.ranks}
        values: dict[str, Expr] = {r: Coordinate(c) for r, c in copies.items()}
        same = conjunction(
            tuple(compare("==", Coordinate(r), Coordinate(c)) for r, c in copies.items())
        )
        body = where(substitute(e.body, values), (Map("not", (same,)),))
        return Reduce("prod", tuple(copies.values()), body)

    def _select(self, e: Select, term: Term) -> Iterator[Pulled]:
        if e.op != "top" or not self._touches(e.body):
            return
        left = self.einsum
        chosen = self.named(
            f"{left.tensor}_at", left.scope, Select("argtop", e.rank, e.target, e.body)
        )
        inner = term.over((e.rank,)).times(
            (), (compare("==", chosen, Coordinate(e.rank)), *self.presence.of(e.body))
        )
        yield from self._pull(e.body, inner)
