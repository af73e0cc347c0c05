"""Which reductions over a rank can share a traversal, and the accumulators that let them.

Reductions are taken in the order of their dependences. One joins the pass of the results it reads
if its body separates (`separate.py`); otherwise it goes to the next, where those results are final,
and the refusal is the barrier. "Fewest" means: fewest with finitely many accumulators that are
linear under the reducer.

Deferral alone is always right algebraically. An accumulator whose exponent is not proved bounded,
or whose polynomial would cancel, is then *anchored*: it is kept for the shifted value u = x -
kappa, where kappa is a running maximum or mean, and is transported when the anchor moves (`Anchor`,
`Accumulator`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from cascade.analysis.normalise import Step
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Where
from cascade.ir.ops import MAPS, REDUCERS
from cascade.ir.printer import print_expr
from cascade.ir.walk import children, conjuncts, free_ranks, reads, rebuild, symbols, walk
from cascade.transforms.inline import Stream, TooLarge, without_conditions
from cascade.transforms.normal_form import (
    ONE,
    Atom,
    Indicator,
    Monomial,
    Opaque,
    Poly,
    Total,
    add,
    atom,
    atoms,
    from_terms,
    multiply,
    normal_form,
    of_monomial,
    power,
    replace_atoms,
    scale,
)
from cascade.transforms.presence import print_condition
from cascade.transforms.ranges import Range, Ranges
from cascade.transforms.separate import Classes, Refusal, Separated, is_trivial, separate
from cascade.transforms.spell import atom_expr, in_order, to_expr

MAX = "max"
MEAN = "mean"
ONE_EXPR = Const(1)
START = "it is the start of a recurrence, and stays as it is written"
OWN_VALUES = "its statement reads its own earlier values, and is evaluated as it is written"


@dataclass(frozen=True)
class Anchor:
    """A running value that accumulators are shifted by. `value` is x, over the result's ranks and
    the streamed one; `present` the conjuncts under which its points count; `result` the
    reduction of the cascade that it is, if it is one. A mean is of all points alike, or has
    `weights`: the accumulators of w and of w * x that it is the quotient of.
    """

    name: str
    kind: str
    ranks: tuple[str, ...]
    value: Expr
    present: tuple[Expr, ...]
    result: str | None = None
    weights: tuple[str, str] | None = None

    @property
    def shift(self) -> Read:
        """The shifted value u = x - kappa, as a symbol."""
        return Read(f"{self.name}#u", ())

    @property
    def kappa(self) -> Read:
        """The anchor's value, as a symbol or as the result that it is."""
        name = self.result if self.result is not None else f"{self.name}#k"
        return Read(name, tuple(Coordinate(r) for r in self.ranks))


@dataclass(frozen=True)
class Accumulator:
    """`op` over the streamed points of `chi`, in terms of shifted values.

    `powers`: for each anchor, the degree of u and the coefficient of u in the exponent.
    """

    name: str
    op: str
    ranks: tuple[str, ...]
    bound: tuple[str, ...]
    chi: Poly
    present: tuple[Expr, ...]
    powers: tuple[tuple[str, int, Fraction], ...] = ()

    @property
    def read(self) -> Read:
        return Read(self.name, tuple(Coordinate(r) for r in self.ranks))


@dataclass(frozen=True)
class Fused:
    """A reduction of the cascade as a function of accumulators. `summed`: ranks of a class split,
    over which the value is summed at the end. `terms`: where points fall into classes, the parts of
    the value, each with the accumulators that must not be 0 for it to count: a class without a
    point contributes nothing, whatever its factor is.
    """

    step: Step
    value: Poly
    accumulators: tuple[str, ...]
    summed: tuple[str, ...]
    guard: tuple[Expr, ...]  # conjuncts of the presence of the body that mention the streamed rank
    outer: tuple[Expr, ...]  # those that pass through
    laws: tuple[str, ...] = ()
    terms: tuple[tuple[Poly, Poly | None], ...] = ()


@dataclass(frozen=True)
class Barrier:
    """A reduction that had to wait for the next pass, and why."""

    step: Step
    refusal: Refusal
    results: tuple[str, ...]


@dataclass(frozen=True)
class Bounded:
    """An exponent that needs no anchor, with the argument."""

    step: Step
    exponent: str
    why: str


@dataclass
class Plan:
    """Everything decided about one streamed rank."""

    stream: Stream
    passes: dict[str, int] = field(default_factory=dict)  # reduction -> its pass
    fused: dict[str, Fused] = field(default_factory=dict)
    anchors: dict[str, Anchor] = field(default_factory=dict)
    accumulators: dict[str, Accumulator] = field(default_factory=dict)
    deltas: dict[str, Poly] = field(default_factory=dict)  # symbol kept whole -> its value
    delta_ranks: dict[str, tuple[str, ...]] = field(default_factory=dict)  # that it is read at
    barriers: list[Barrier] = field(default_factory=list)
    bounded: list[Bounded] = field(default_factory=list)
    classes: dict[str, Expr] = field(default_factory=dict)  # fresh rank of a class split -> extent


def plan(cascade: Cascade, rank: str) -> Plan:
    """Assign every reduction over `rank` to a pass and find its accumulators."""
    return _Planner(cascade, rank).plan()


@dataclass(frozen=True)
class _Body:
    """A reduction ready for the algebra."""

    step: Step
    expr: Expr
    present: tuple[Expr, ...]
    summed: tuple[str, ...]
    needs: dict[str, int]
    classes: tuple[Map, ...] = ()  # `c(m) == i` for each rank i of a class split


@dataclass
class _Shifts:
    """The places `x - r` of a body, until the weights beside them are known: `factor * u + delta`
    with a symbol u for each unit of x, and a symbol delta for each (unit, factor, -r).
    """

    units: list[Poly] = field(default_factory=list)
    deltas: list[tuple[int, Fraction, Poly]] = field(default_factory=list)

    def shifted(self, x: Poly, rest: Poly) -> Expr:
        unit, factor = _unit(x)
        if unit not in self.units:
            self.units.append(unit)
        delta = (self.units.index(unit), factor, rest)
        if delta not in self.deltas:
            self.deltas.append(delta)
        u: Expr = Read(f"{delta[0]}#u", ())
        if factor != 1:
            u = Map("*", (to_expr(scale(ONE, factor)), u))
        return Map("+", (u, Read(f"{self.deltas.index(delta)}#d", ())))


class _Planner:
    def __init__(self, cascade: Cascade, rank: str):
        self.cascade = cascade
        self.rank = rank
        self.stream = Stream(cascade, rank)
        self.ranges = Ranges(self.stream.by_name)
        self.result = Plan(self.stream)
        self.names = set(cascade.tensors) | {r.name for r in cascade.ranks}

    def plan(self) -> Plan:
        available = self.stream.available
        for step in self.stream.steps:
            if step.recurs == self.rank or step.iterative is not None:
                if self.rank in step.ranks:
                    available.setdefault(step.target, 0)
                continue
            reason = self._as_written(step)
            if reason:
                if self.stream.reduces(step):
                    self._wait(step, Refusal(step.label(), reason))
                continue
            if step.op == "order" and self.stream.reduces(step):
                needed = self._needs(self.stream.inlined(step.body))
                available[step.target] = max(needed.values(), default=0) + 1
            elif self.stream.reduces(step):
                self._reduction(step)
            elif self.rank not in step.ranks:
                needed = self.stream.results(step.body)
                if needed:
                    available[step.target] = max(needed.values())
            elif step.op is not None:
                self._opaque(step)
        return self.result

    def _as_written(self, step: Step) -> str:
        """Why a step stays as it is, whatever it reads."""
        if step.einsum.tensor in self.stream.substituted:
            return OWN_VALUES
        return START if step.named and step.einsum.init else ""

    def _opaque(self, step: Step) -> None:
        """A reduction over another rank that carries the streamed one: a value of the tile, unless
        it reads results.
        """
        needed = self._needs(self.stream.inlined(step.body))
        if needed:
            self.stream.available[step.target] = max(needed.values()) + 1
            self.result.passes[step.target] = max(needed.values()) + 1

    def _normal(self, e: Expr) -> Poly:
        return normal_form(e, self.ranges.is_positive, self._stays_whole)

    def _stays_whole(self, e: Expr) -> bool:
        """Choices between results are made at the end, and choices between streamed values in the
        tile; they are never turned into sums of products.
        """
        if not isinstance(e, Map) or e.op not in ("select", "??", "min", "max", "clamp"):
            return False
        depends = any("#" in r.tensor or self.stream.depends_deeply(r.tensor) for r in reads(e))
        split = depends or (self._splits_choices and e.op == "select")
        return not split or not (self.rank in free_ranks(e) or _has_shift(e))

    _splits_choices = False  # between streamed values too: tried where a body is refused

    def _needs(self, e: Expr) -> dict[str, int]:
        return self.stream.results(e)

    # -- one reduction
    def _reduction(self, step: Step) -> None:
        try:
            body = self._body(step)
        except TooLarge:
            self._wait(step, Refusal(step.label(), "its producers, written out, are too large"))
            return
        base = max(body.needs.values(), default=1)
        fused = self._fuse(body, base)
        if isinstance(fused, Refusal):
            waiting = tuple(n for n, p in body.needs.items() if p == base)
            self.result.barriers.append(Barrier(step, fused, waiting))
            base += 1
        else:
            self.result.fused[step.target] = fused
        self.result.passes[step.target] = base
        self.stream.available[step.target] = base

    def _wait(self, step: Step, refusal: Refusal) -> None:
        """A reduction that is left as it is, after everything that it reads."""
        waiting = self.stream.results(step.body)
        self.result.barriers.append(Barrier(step, refusal, tuple(waiting)))
        self.result.passes[step.target] = max(waiting.values(), default=0) + 1
        self.stream.available[step.target] = self.result.passes[step.target]

    def _body(self, step: Step) -> _Body:
        inlined = self.stream.inlined(step.body)
        present = tuple(dict.fromkeys(self.stream.presence.of(inlined)))
        chosen = self.stream.presence.chosen(inlined)
        value, summed = self._split_classes(without_conditions(chosen), step, present)
        conditions = tuple(
            c
            for c in present
            if not any(self._is_index_bound(c, index, r) for r, index in summed.items())
        )
        classes = tuple(Map("==", (index, Coordinate(r))) for r, index in summed.items())
        needs = self._needs(value)
        if step.op == "count" and self._counts_points(step.body):
            value = ONE_EXPR
        return _Body(step, value, conditions, tuple(summed), needs, classes)

    def _counts_points(self, e: Expr) -> bool:
        """Whether a count of `e` is of present points, and not of true ones."""
        if isinstance(e, Where):
            return self._counts_points(e.body)
        if isinstance(e, Map):
            op = MAPS[e.op]
            return op.gives in ("real", "int") or (op.gives, op.takes) == ("same", "number")
        return isinstance(e, Const) and not isinstance(e.value, bool)

    def _is_index_bound(self, condition: Expr, index: Expr, rank: str) -> bool:
        """0 <= f or f < C of a class index: the indicator of the class says it already."""
        extent = self.result.classes.get(rank)
        if extent is None:
            extent = self.cascade.rank[rank].extent
        return condition in (Map("<=", (Const(0), index)), Map("<", (index, extent)))

    def _split_classes(
        self, e: Expr, step: Step, present: tuple[Expr, ...]
    ) -> tuple[Expr, dict[str, Expr]]:
        """A result read at a streamed index, `W[c(m)]`, is summed over its classes at the end.

        Where only the points with `c(m) == i` count, it is `W[i]`. A read that not every point that
        counts has, as one branch of a choice, stays: a point without a class would be in no sum.
        """
        found: dict[str, Expr] = {}

        def visit(node: Expr) -> Expr:
            if isinstance(node, Read) and self.stream.depends(node.tensor):
                ranks = self.stream.by_name[node.tensor].ranks
                always = set(self.stream.presence.of(node)) <= set(present)
                index: list[Expr] = []
                for rank, i in zip(ranks, node.index, strict=True):
                    only = self._only_class(i, rank, present)
                    if only is not None:
                        index.append(only)
                    elif always and self.rank in free_ranks(i) and not self._grows(rank, i):
                        fresh = next((r for r, known in found.items() if known == i), None)
                        if fresh is None:
                            fresh = self._class_rank(rank, step, found)
                            found[fresh] = i
                        index.append(Coordinate(fresh))
                    else:
                        index.append(visit(i))
                return rebuild(node, tuple(index))
            return rebuild(node, tuple(visit(c) for c in children(node)))

        return visit(e), found

    def _only_class(self, index: Expr, slot: str, present: tuple[Expr, ...]) -> Coordinate | None:
        """`i` where every point that counts has `index == i`, for a rank i of the slot's extent."""
        if self.rank not in free_ranks(index):
            return None
        for condition in present:
            if isinstance(condition, Map) and condition.op == "==" and index in condition.args:
                other = condition.args[1 if condition.args[0] == index else 0]
                if isinstance(other, Coordinate) and other.rank != self.rank:
                    extents = {self.cascade.rank[r].extent for r in (other.rank, slot)}
                    if len(extents) == 1:
                        return other
        return None

    def _grows(self, rank: str, index: Expr) -> bool:
        """Whether a state with an entry for each coordinate of `rank` would grow with the stream,
        as it does where each coordinate of the stream is one of them.
        """
        if isinstance(index, Coordinate):
            return True
        streamed = symbols(self.cascade.rank[self.rank].extent)
        return bool(symbols(self.cascade.rank[rank].extent) & streamed)

    def _class_rank(self, rank: str, step: Step, found: dict[str, Expr]) -> str:
        """A rank for the classes: the slot's own, unless it means something in this statement."""
        if rank not in {*step.ranks, *step.bound, *found}:
            return rank
        name = self._fresh(rank)
        self.result.classes[name] = self.cascade.rank[rank].extent
        return name

    def _fresh(self, stem: str) -> str:
        name = stem
        n = 2
        while name in self.names:
            name, n = f"{stem}{n}" if not stem[-1].isdigit() else f"{stem}_{n}", n + 1
        self.names.add(name)
        return name

    def _classes(self, base: int) -> Classes:
        def is_streamed(a: Atom) -> bool:
            if isinstance(a, Opaque | Total):
                return False
            e = a.condition if hasattr(a, "condition") else a
            return _has_shift(e) or bool({self.rank, *self._tile_ranks} & set(free_ranks(e)))

        def is_result(a: Atom) -> bool:
            if isinstance(a, Opaque | Total):
                return False
            e = a.condition if hasattr(a, "condition") else a
            return any(
                r.tensor.endswith(("#k", "#d")) or self.stream.available.get(r.tensor, 0) >= base
                for r in reads(e)
            )

        return Classes(is_streamed, is_result)

    _tile_ranks: tuple[str, ...] = ()

    def _fuse(self, body: _Body, base: int) -> Fused | Refusal:
        step = body.step
        self._tile_ranks = tuple(r for r in step.bound if r != self.rank)
        classes = self._classes(base)
        streamed = tuple(c for c in body.present if {*step.bound} & set(free_ranks(c)))
        outer = tuple(c for c in body.present if c not in streamed)
        for condition in streamed:
            if self._is_late(condition, base):
                reason = "the condition compares with a result of this pass"
                return Refusal(print_condition(condition), reason)
        if not body.needs and step.op != "sum":
            return self._plain(body, streamed, outer)
        if step.op == "sum" or (step.op == "count" and body.expr == ONE_EXPR):
            found = self._sum(body, classes, streamed, outer)
            if isinstance(found, Refusal):
                self._splits_choices = True
                again = self._sum(body, classes, streamed, outer)
                self._splits_choices = False
                return found if isinstance(again, Refusal) else again
            return found
        if step.op in ("max", "min"):
            if body.classes:
                return Refusal(
                    print_expr(body.classes[0].args[0]),
                    f"a result is indexed by it under a {step.op}, and only sums split by classes",
                )
            return self._extreme(body, classes, streamed, outer)
        if step.op == "mean":
            return Refusal(step.label(), "a mean of values that read a result; write sum / count")
        return Refusal(
            f"{step.op}",
            "its operand reads a result of this pass, and only sums, maxima and minima pass it",
        )

    def _is_late(self, condition: Expr, base: int) -> bool:
        return any(self.stream.available.get(r.tensor, 0) >= base for r in reads(condition))

    def _plain(self, body: _Body, streamed: tuple[Expr, ...], outer: tuple[Expr, ...]) -> Fused:
        """A reduction that reads no result of its pass is its own accumulator."""
        step = body.step
        accumulator = Accumulator(step.target, step.op or "", step.ranks, step.bound, ONE, streamed)
        return Fused(step, atom(accumulator.read), (step.target,), (), streamed, outer)

    # -- sums
    def _sum(
        self,
        body: _Body,
        classes: Classes,
        streamed: tuple[Expr, ...],
        outer: tuple[Expr, ...],
    ) -> Fused | Refusal:
        poly = self._normal(body.expr)
        first = separate(poly, classes)
        if isinstance(first, Refusal):
            return first
        scaled = self._keeps_in_range(first)
        if scaled is not None:
            return scaled
        laws = ["defer"] if not is_trivial(first) or body.step.op == "count" else []
        if body.summed:
            laws.append("split classes")
        here = (*streamed, *body.classes)
        shifted, shifts = self._polynomial_shifts(body, classes)
        parts = self._parts(body, self._normal(shifted), classes, here, shifts)
        if isinstance(parts, Refusal):  # a shift made it worse: keep the plain form
            parts = self._parts(body, poly, classes, here, None)
        if isinstance(parts, Refusal):
            return parts
        terms, names, anchored = parts
        if anchored and body.step.recurs is not None:
            return Refusal(
                body.step.label(),
                f"it is part of a recurrence over {body.step.recurs}: a running value inside its "
                "steps cannot be written",
            )
        if not anchored and not laws:
            return self._plain(body, streamed, outer)
        if anchored:
            laws.append("anchor")
        return Fused(
            body.step,
            add(*(value for value, _ in terms)),
            tuple(dict.fromkeys(names)),
            body.summed,
            streamed,
            outer,
            tuple(laws),
            tuple(terms) if any(test is not None for _, test in terms) else (),
        )

    def _keeps_in_range(self, pairs: Separated) -> Refusal | None:
        """A division by a power of the largest of what is summed: squares overflow without it."""
        for chi, rho in pairs:
            summed = {r.tensor for r in reads(to_expr(chi))}
            for divisor in (a for m, _ in rho.terms for a, n in m.powers if n < -1):
                if any(self._is_largest(r, summed) for r in reads(atom_expr(divisor))):
                    return Refusal(
                        print_expr(atom_expr(divisor)),
                        "it is the largest of what is summed, and powers of that may overflow "
                        "without a division by it",
                    )
        return None

    def _is_largest(self, r: Read, tensors: set[str]) -> bool:
        """Whether a result is the largest magnitude of values of these tensors, or made of it."""
        step = self.stream.by_name.get(r.tensor)
        if step is not None and step.op is None and step.recurs is None:
            return any(self._is_largest(x, tensors) for x in reads(step.body))
        if step is None or step.op != "max":
            return False
        sizes = (e for e in walk(self.stream.inlined(step.body)) if isinstance(e, Map))
        return any(e.op == "abs" and tensors & {x.tensor for x in reads(e)} for e in sizes)

    def _parts(
        self,
        body: _Body,
        poly: Poly,
        classes: Classes,
        streamed: tuple[Expr, ...],
        shifts: _Shifts | None,
    ) -> tuple[list[tuple[Poly, Poly | None]], list[str], bool] | Refusal:
        """The terms of a sum, those of each class of points by themselves. No shifts if `shifts`
        is None.
        """
        terms: list[tuple[Poly, Poly | None]] = []
        names: list[str] = []
        anchored = False
        for conditions, part in _by_condition(poly, classes):
            present = (*streamed, *(c for c in conditions if c not in streamed))
            anchors: list[Anchor] = []
            if shifts is not None:
                part, anchors = self._exponential_shifts(body, part, classes, present)
                refused = separate(part, classes)
                if isinstance(refused, Refusal):
                    return refused
                part, means = self._placed(body, part, classes, streamed, present, shifts, anchors)
                anchors += (a for a in means if a not in anchors)
                names += (n for a in means for n in a.weights or ())
                anchored |= bool(anchors)
            pairs = separate(part, classes)
            if isinstance(pairs, Refusal):
                return pairs
            for chi, rho in pairs:
                total, found = self._accumulate(body, chi, present, anchors)
                names += found
                partial = bool(conditions or body.classes) and any(True for _ in atoms(rho))
                terms.append((multiply(rho, total), total if partial else None))
        return terms, names, anchored

    def _accumulate(
        self, body: _Body, chi: Poly, streamed: tuple[Expr, ...], used: list[Anchor]
    ) -> tuple[Poly, list[str]]:
        """Accumulators of the monomials of chi; those with a common shift and degree are kept
        apart.
        """
        grouped: dict[tuple[tuple[str, int, Fraction], ...], Poly] = {}
        for monomial, coefficient in in_order(chi):
            key = _degrees(monomial, used)
            grouped[key] = add(
                grouped.get(key, Poly(frozenset())), of_monomial(monomial, coefficient)
            )
        total = Poly(frozenset())
        names = []
        for key, part in grouped.items():
            for lower in _closure(key):
                self._accumulator(body, _lowered(part, key, lower, used), streamed, lower, used)
            accumulator = self._accumulator(body, part, streamed, key, used)
            names.append(accumulator.name)
            total = add(total, atom(accumulator.read))
        return total, names

    def _accumulator(
        self,
        body: _Body,
        chi: Poly,
        streamed: tuple[Expr, ...],
        key: tuple[tuple[str, int, Fraction], ...],
        used: list[Anchor],
    ) -> Accumulator:
        step = body.step
        anchors = [a for a in used if any(a.name == name for name, _, _ in key)]
        e = to_expr(chi)
        ranks = {r for r in free_ranks(e)} | {r for c in streamed for r in free_ranks(c)}
        ranks |= {r for a in anchors for r in a.ranks}
        ranks |= {
            r for a in atoms(chi) if isinstance(a, Read) for i in a.index for r in free_ranks(i)
        }
        order = [*step.ranks, *body.summed]
        kept = tuple(r for r in order if r in ranks and r not in step.bound)
        for known in self.result.accumulators.values():
            same = (known.op, known.chi, known.present) == ("sum", chi, streamed)
            if same and (known.ranks, known.bound) == (kept, step.bound):
                return known
        name = self._fresh(f"{step.target.split('.')[0]}s")
        accumulator = Accumulator(name, "sum", kept, step.bound, chi, streamed, key)
        self.result.accumulators[name] = accumulator
        return accumulator

    # -- shifts
    def _exponential_shifts(
        self, body: _Body, poly: Poly, classes: Classes, streamed: tuple[Expr, ...]
    ) -> tuple[Poly, list[Anchor]]:
        """Anchor every streamed exponent that is not proved bounded, at a running maximum."""
        used: list[Anchor] = []
        done: set[Poly] = set()
        while True:
            exponent = self._open_exponent(body, poly, classes, done)
            if exponent is None:
                return poly, used
            done.add(exponent)
            unit, _ = _unit(exponent)
            anchor = self._anchor(body, unit, streamed, MAX)
            poly = self._shifted(poly, unit, anchor)
            if anchor not in used:
                used.append(anchor)

    def _open_exponent(
        self, body: _Body, poly: Poly, classes: Classes, done: set[Poly]
    ) -> Poly | None:
        for monomial, _ in sorted(poly.terms, key=lambda t: print_expr(to_expr(of_monomial(*t)))):
            if monomial.exponent is None:
                continue
            streamed = from_terms(
                (t, c)
                for t, c in monomial.exponent.terms
                if classes.of_monomial(t)[0]
                and not any(isinstance(a, Read) and a.tensor.endswith("#u") for a, _ in t.powers)
            )
            if streamed.is_zero or streamed in done:
                continue
            extent = self._bounded(streamed)
            if extent.fits_exponent:
                self.result.bounded.append(
                    Bounded(body.step, print_expr(to_expr(streamed)), extent.why)
                )
                done.add(streamed)
                continue
            return streamed
        return None

    def _bounded(self, exponent: Poly) -> Range:
        return self.ranges.of(to_expr(exponent))

    def _anchor(self, body: _Body, unit: Poly, streamed: tuple[Expr, ...], kind: str) -> Anchor:
        e = to_expr(unit)
        bound = set(body.step.bound)
        for name, fused in self.result.fused.items():
            other = fused.step
            if kind == MAX and other.op == "max" and name == fused.accumulators[0]:
                same = self._normal(without_conditions(self.stream.inlined(other.body)))
                if same == unit and set(fused.guard) <= set(streamed) and set(other.bound) == bound:
                    found = Anchor(name, MAX, other.ranks, e, fused.guard, name)
                    return self.result.anchors.setdefault(name, found)
        ranks = {*free_ranks(e), *(r for c in streamed for r in free_ranks(c))} - bound
        order = [*body.step.ranks, *body.summed]
        kept = tuple(r for r in order if r in ranks)
        for known in self.result.anchors.values():
            if (known.kind, known.value, known.present, known.ranks) == (kind, e, streamed, kept):
                return known
        anchor = Anchor(self._fresh("R" if kind == MAX else "C"), kind, kept, e, streamed)
        self.result.anchors[anchor.name] = anchor
        return anchor

    def _shifted(self, poly: Poly, unit: Poly, anchor: Anchor) -> Poly:
        """x = u + kappa in the exponents that are linear in x, and in the powers beside them."""
        moved = add(atom(anchor.shift), atom(anchor.kappa))
        single = unit.single()
        x: Atom | None = None
        if single is not None and len(single[0].powers) == 1 and single[0].exponent is None:
            ((base, n),) = single[0].powers
            x = base if n == 1 and single[1] == 1 else None
        result = Poly(frozenset())
        for monomial, coefficient in in_order(poly):
            factor = None if monomial.exponent is None else _multiple(monomial.exponent, unit)
            if monomial.exponent is None or factor is None:
                result = add(result, of_monomial(monomial, coefficient))
                continue
            rest = add(monomial.exponent, scale(unit, -factor), scale(moved, factor))
            degree = dict(monomial.powers).get(x, Fraction(0)) if x is not None else Fraction(0)
            powers = monomial.powers
            if x is not None and degree > 0 and degree.denominator == 1:
                powers = powers - {(x, degree)}
            else:
                degree = Fraction(0)
            term = of_monomial(Monomial(powers, None if rest.is_zero else rest), coefficient)
            result = add(result, multiply(term, power(moved, degree, self.ranges.is_positive)))
        return result

    def _polynomial_shifts(self, body: _Body, classes: Classes) -> tuple[Expr, _Shifts]:
        """`x - r` in a polynomial becomes `u + delta`: the part that would cancel stays one
        symbol.
        """
        shifts = _Shifts()

        def visit(e: Expr) -> Expr:
            if isinstance(e, Map) and e.op in ("+", "-"):
                poly = self._normal(e)
                x = from_terms(t for t in poly.terms if classes.of_monomial(t[0])[0])
                rest = from_terms(t for t in poly.terms if not classes.of_monomial(t[0])[0])
                mixed = any(all(classes.of_monomial(m)) for m, _ in poly.terms)
                results = any(classes.of_monomial(m)[1] for m, _ in rest.terms)
                if not x.is_zero and results and not mixed and _is_plain(x, Coordinate):
                    return shifts.shifted(x, rest)
                return Map(e.op, (visit(e.args[0]), visit(e.args[1])), e.span)
            if self._stays_whole(e):
                return e
            if isinstance(e, Map) and e.op in ("*", "/", "neg", "**", "select"):
                return rebuild(e, tuple(visit(a) for a in e.args))
            return e

        return visit(body.expr), shifts

    def _placed(
        self,
        body: _Body,
        poly: Poly,
        classes: Classes,
        streamed: tuple[Expr, ...],
        present: tuple[Expr, ...],
        shifts: _Shifts,
        maxima: list[Anchor],
    ) -> tuple[Poly, list[Anchor]]:
        """Every u and delta at an anchor: the mean of x under the weight of the term, which is
        that of all terms of the same polynomial. `maxima` shift the exponents of the weights.
        """
        used: list[Anchor] = []
        result = Poly(frozenset())
        for monomial, coefficient in in_order(poly):
            weight = self._weight(monomial, classes)

            def anchor_of(unit: Poly, weight: Monomial = weight) -> Anchor | None:
                if weight.powers or weight.exponent is not None:
                    anchor = self._weighted(body, unit, weight, present, maxima)
                elif _is_plain(unit):
                    anchor = self._anchor(body, unit, streamed, MEAN)
                else:
                    return None
                if anchor not in used:
                    used.append(anchor)
                return anchor

            def rule(a: Atom) -> Poly | None:
                number, _, kind = a.tensor.partition("#") if isinstance(a, Read) else ("", "", "")
                if not number.isdigit():
                    return None
                if kind == "u":
                    unit = shifts.units[int(number)]
                    anchor = anchor_of(unit)
                    return unit if anchor is None else atom(anchor.shift)
                which, factor, rest = shifts.deltas[int(number)]
                anchor = anchor_of(shifts.units[which])
                if anchor is None:
                    return rest
                return atom(self._delta(anchor, add(scale(atom(anchor.kappa), factor), rest)))

            term = of_monomial(monomial, coefficient)
            result = add(result, replace_atoms(term, rule, self.ranges.is_positive))
        return result, used

    def _weight(self, monomial: Monomial, classes: Classes) -> Monomial:
        """The streamed factors of a term that are never negative."""

        def weighs(a: Atom) -> bool:
            return self.ranges.is_positive(a) or (
                isinstance(a, Read) and self.ranges.of(a).low >= 0
            )

        powers = frozenset(
            (a, n) for a, n in monomial.powers if classes.of(a) == (True, False) and weighs(a)
        )
        above = () if monomial.exponent is None else monomial.exponent.terms
        exponent = from_terms((t, c) for t, c in above if classes.of_monomial(t)[0])
        return Monomial(powers, None if exponent.is_zero else exponent)

    def _weighted(
        self,
        body: _Body,
        unit: Poly,
        weight: Monomial,
        present: tuple[Expr, ...],
        maxima: list[Anchor],
    ) -> Anchor:
        """The mean of x under a weight. Under exp(x) itself, the maximum of x is near it."""
        e = to_expr(unit)
        degrees = _degrees(weight, maxima)
        for known in maxima:
            alone = len(degrees) == 1 and degrees[0][0] == known.name and not weight.powers
            if alone and known.value == e and set(known.present) == set(present):
                return known
        chi = of_monomial(weight)
        whole = self._accumulator(body, chi, present, degrees, maxima)
        total = self._accumulator(body, multiply(chi, unit), present, degrees, maxima)
        weights = (whole.name, total.name)
        found = next((a for a in self.result.anchors.values() if a.weights == weights), None)
        if found is None:
            order = [*body.step.ranks, *body.summed]
            ranks = tuple(r for r in order if r in {*whole.ranks, *total.ranks})
            found = Anchor(self._fresh("C"), MEAN, ranks, e, present, None, weights)
            self.result.anchors[found.name] = found
        return found

    def _delta(self, anchor: Anchor, value: Poly) -> Read:
        name = next((n for n, known in self.result.deltas.items() if known == value), None)
        if name is None:
            stem = f"D{anchor.name.split('.')[0]}"
            name = f"{self._fresh(stem)}#d"
            ranks = dict.fromkeys((*anchor.ranks, *free_ranks(to_expr(value))))
            self.result.deltas[name], self.result.delta_ranks[name] = value, tuple(ranks)
        return Read(name, tuple(Coordinate(r) for r in self.result.delta_ranks[name]))

    # -- maxima and minima
    def _extreme(
        self,
        body: _Body,
        classes: Classes,
        streamed: tuple[Expr, ...],
        outer: tuple[Expr, ...],
    ) -> Fused | Refusal:
        """max(x + r) = max(x) + r;  max(r x) = r max(x) for r > 0 (min for r < 0)."""
        step = body.step
        assert step.op is not None
        poly = self._normal(body.expr)
        for monomial, _ in in_order(poly):
            if all(classes.of_monomial(monomial)):
                break
        else:
            x = from_terms(t for t in poly.terms if classes.of_monomial(t[0])[0])
            rest = from_terms(t for t in poly.terms if not classes.of_monomial(t[0])[0])
            return self._shifted_extreme(body, step.op, x, ONE, rest, streamed, outer)
        rest = from_terms(t for t in poly.terms if not classes.of_monomial(t[0])[0])
        x = from_terms(t for t in poly.terms if classes.of_monomial(t[0])[0])
        pairs = separate(x, classes)
        if isinstance(pairs, Refusal):
            return pairs
        if len(pairs) != 1:
            return Refusal(
                print_expr(to_expr(x)),
                f"terms with different factors of results: the position of the {step.op} can "
                "change",
            )
        chi, rho = pairs[0]
        sign = self._sign(rho)
        if sign is None:
            return Refusal(
                print_expr(to_expr(rho)), f"the sign of this factor of a {step.op} is not known"
            )
        op = step.op if sign else {"max": "min", "min": "max"}[step.op]
        return self._shifted_extreme(body, op, chi, rho, rest, streamed, outer)

    def _sign(self, rho: Poly) -> bool | None:
        """Whether a factor is never negative, or never positive, where it is a number."""
        if self._never_negative(rho):
            return True
        return False if self._never_negative(scale(rho, -1)) else None

    def _never_negative(self, rho: Poly) -> bool:
        def squared(a: Atom, n: Fraction) -> bool:
            return n.denominator % 2 == 0 or n.numerator % 2 == 0 or self.ranges.is_positive(a)

        return self.ranges.poly_positive(rho) or all(
            c > 0 and all(squared(a, n) for a, n in m.powers) for m, c in rho.terms
        )

    def _shifted_extreme(
        self,
        body: _Body,
        op: str,
        x: Poly,
        rho: Poly,
        rest: Poly,
        streamed: tuple[Expr, ...],
        outer: tuple[Expr, ...],
    ) -> Fused | Refusal:
        """The reduction of x; an exponential is reduced in its exponent."""
        single = x.single()
        inside, through = x, False
        if single is not None and not single[0].powers and single[0].exponent is not None:
            if single[1] > 0:
                inside, through = single[0].exponent, True
                rho = scale(rho, single[1])
        for monomial, _ in () if through else in_order(x):
            if monomial.exponent is not None and not self._bounded(monomial.exponent).fits_exponent:
                return Refusal(
                    f"exp of {print_expr(to_expr(monomial.exponent))}",
                    f"it is not proved bounded, and stands beside other values under a {op}",
                )
        e = to_expr(inside)
        step = body.step
        ranks = {*free_ranks(e), *(r for c in streamed for r in free_ranks(c))} - set(step.bound)
        kept = tuple(r for r in [*step.ranks, *body.summed] if r in ranks)
        name = self._fresh(f"{step.target.split('.')[0]}{op[0]}")
        accumulator = Accumulator(name, op, kept, step.bound, inside, streamed)
        self.result.accumulators[name] = accumulator
        reduced = atom(accumulator.read)
        if through:
            reduced = Poly(frozenset({(Monomial(frozenset(), reduced), Fraction(1))}))
        value = add(multiply(rho, reduced), rest)
        return Fused(step, value, (name,), body.summed, streamed, outer, ("defer",))


def _by_condition(poly: Poly, classes: Classes) -> list[tuple[tuple[Expr, ...], Poly]]:
    """The terms of a poly, grouped by the streamed conditions under which they count."""
    groups: dict[tuple[Expr, ...], list[tuple[Monomial, Fraction]]] = {}
    for monomial, coefficient in in_order(poly):
        conditions: list[Expr] = []
        rest: list[tuple[Atom, Fraction]] = []
        for a, n in monomial.powers:
            if isinstance(a, Indicator) and classes.of(a) == (True, False):
                conditions += conjuncts(a.condition)
            else:
                rest.append((a, n))
        key = tuple(sorted(set(conditions), key=print_expr))
        term = Monomial(frozenset(rest), monomial.exponent)
        groups.setdefault(key, []).append((term, coefficient))
    ordered = sorted(groups.items(), key=lambda item: [print_expr(c) for c in item[0]])
    return [(key, from_terms(terms)) for key, terms in ordered]


def _has_shift(e: Expr) -> bool:
    """Whether `e` reads the shifted value of an anchor, which is streamed without its rank."""
    return any(r.tensor.endswith("#u") for r in reads(e))


def _is_plain(x: Poly, *further: type) -> bool:
    """A streamed value without exponentials or indicators: what a mean can stand for."""
    kinds = (Read, Opaque, *further)
    for monomial, _ in x.terms:
        if monomial.exponent is not None:
            return False
        if any(not isinstance(a, kinds) or n.denominator != 1 for a, n in monomial.powers):
            return False
    return True


def _unit(p: Poly) -> tuple[Poly, Fraction]:
    """p / c with the positive rational c that makes its first coefficient 1 or -1."""
    terms = sorted(p.terms, key=lambda t: print_expr(to_expr(of_monomial(t[0]))))
    factor = abs(terms[0][1])
    return scale(p, 1 / factor), factor


def _multiple(p: Poly, unit: Poly) -> Fraction | None:
    """The largest part of p that is a positive multiple of unit, as that multiple."""
    own = dict(p.terms)
    factors = {own[m] / c for m, c in unit.terms if m in own}
    if len(factors) != 1 or any(m not in own for m, _ in unit.terms):
        return None
    (factor,) = factors
    return factor if factor > 0 else None


def _degrees(m: Monomial, used: list[Anchor]) -> tuple[tuple[str, int, Fraction], ...]:
    """For each anchor in a monomial: the power of its u, and the coefficient of u in the
    exponent.
    """
    found = []
    powers = dict(m.powers)
    for anchor in used:
        degree = powers.get(anchor.shift, Fraction(0))
        slope = Fraction(0)
        if m.exponent is not None:
            for t, c in m.exponent.terms:
                if t.powers == frozenset({(anchor.shift, Fraction(1))}) and t.exponent is None:
                    slope = c
        if degree or slope:
            found.append((anchor.name, int(degree), slope))
    return tuple(found)


def _closure(
    key: tuple[tuple[str, int, Fraction], ...],
) -> list[tuple[tuple[str, int, Fraction], ...]]:
    """All lower degrees: what the transport of u^j needs."""
    result: list[tuple[tuple[str, int, Fraction], ...]] = [()]
    for name, degree, slope in key:
        result = [(*r, (name, d, slope)) for r in result for d in range(degree + 1)]
    return [tuple(k for k in r if k[1] or k[2]) for r in result][:-1] if result else []


def _lowered(
    part: Poly,
    key: tuple[tuple[str, int, Fraction], ...],
    lower: tuple[tuple[str, int, Fraction], ...],
    used: list[Anchor],
) -> Poly:
    """chi with u^j replaced by u^i."""
    by_name = {a.name: a for a in used}
    low = {name: degree for name, degree, _ in lower}
    for name, degree, _ in key:
        drop = degree - low.get(name, 0)
        if drop:
            factor = atom(by_name[name].shift, -drop)
            part = multiply(part, factor)
    return part


__all__ = [
    "MAX",
    "MEAN",
    "REDUCERS",
    "Accumulator",
    "Anchor",
    "Barrier",
    "Bounded",
    "Fused",
    "Plan",
    "conjuncts",
    "plan",
    "power",
    "walk",
]
