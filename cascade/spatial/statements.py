"""A cascade as statements of one operation each: what an array of units runs for one tile.

Cost on a spatial array is counted on operations, one at a time (FuseMax, section 4): a running sum
`R = R*c + x` is a multiplication and an addition. What costs nothing is dropped here: factors that
are one number for the whole run, starts of recurrences, conditions and guards (`x where c`,
`x ?? 0`, `select(c, x, 0)`), and statements that only rename. A product is formed from the factors
with the fewest ranks first.

Ranks have roles. The *streamed* rank is the one that is traversed in steps: split into `outer`
(steps, M1) and `inner` (inside a tile, M0). *Query* ranks belong to results and to no input that
carries the streamed rank. A reduction over the whole streamed rank becomes one inside the tile and
an accumulation from step to step. A statement that needs a result over all steps and goes over the
steps itself begins another *phase*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cascade.analysis.normalise import Step, normalise
from cascade.diagnostics import Span, fail
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol, Where
from cascade.ir.printer import print_expr
from cascade.ir.walk import conjuncts, free_ranks, reads, transform, walk

FINAL = "final"  # a read of the last step

SPELLED = {  # how operations of the language are counted
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "exp2": "exp",
    "relu": "max",
    "clamp": "max",
    "softplus": "softplus",
}
TABLE = "~table"  # values known before the run
FREE = ("neg",)  # a sign is part of the operation that reads the value


@dataclass(frozen=True)
class Operand:
    """A tensor as read or written, with its ranks. `offset` is the step, relative to the current
    one, of a carried tensor; FINAL for its value after the last.
    """

    tensor: str
    ranks: tuple[str, ...]
    offset: int | str = 0


@dataclass(frozen=True)
class Statement:
    """`write = operations(reads)` at every point of `ranks`. Operations run one after another in
    the same unit. `reduced` are the ranks that the last operation sums (or takes the maximum) over.
    """

    name: str
    operations: tuple[str, ...]
    ranks: tuple[str, ...]
    reads: tuple[Operand, ...]
    write: Operand
    reduced: tuple[str, ...] = ()
    phase: int = 0
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        over = f" over {','.join(self.reduced)}" if self.reduced else ""
        args = ", ".join(f"{o.tensor}[{','.join(o.ranks)}]" for o in self.reads)
        left = f"{self.write.tensor}[{','.join(self.write.ranks)}]"
        return f"{left} = {'-'.join(self.operations)}{over}({args})"


@dataclass(frozen=True)
class Statements:
    """All statements of a cascade in order, and the roles of its ranks and tensors."""

    name: str
    items: tuple[Statement, ...]
    inputs: Mapping[str, tuple[str, ...]]
    outputs: tuple[str, ...]
    streamed: str
    outer: str
    inner: str
    query: tuple[str, ...]
    carried: tuple[str, ...]
    conditions: tuple[Expr, ...]
    split: bool

    def is_tile(self, s: Statement) -> bool:
        """Runs in every step (or in every tile), not once after the last."""
        return self.outer in s.ranks or self.inner in s.ranks

    def has_query(self, ranks: Iterable[str]) -> bool:
        return bool(set(self.query) & set(ranks))

    @property
    def phases(self) -> int:
        return 1 + max((s.phase for s in self.items), default=0)

    def operand(self, tensor: str) -> Operand | None:
        return next((s.write for s in self.items if s.write.tensor == tensor), None)


def statements(cascade: Cascade, split: bool = True) -> Statements:
    """The statements of a cascade, the streamed rank split into steps or (for an array that takes
    whole rows) not. Raises `CascadeError` for what an array cannot be given.
    """
    steps = normalise(cascade)
    streamed, parts = _streamed(cascade, steps)
    if parts is None:
        parts = (f"{streamed}1", f"{streamed}0") if split else ("", streamed)
    lower = _Lower(cascade, streamed, parts, split)
    for step in steps:
        lower.step(step)
    items = _phased(_live(lower.items, cascade.outputs, lower.alias), parts[0], parts[1])
    inputs = {t.name: lower.split_ranks(t.ranks) for t in cascade.inputs}
    used = {o.tensor for s in items for o in s.reads}
    return Statements(
        cascade.name,
        items,
        {n: r for n, r in inputs.items() if n in used},
        tuple(lower.alias[o].tensor if o in lower.alias else o for o in cascade.outputs),
        streamed,
        parts[0],
        parts[1],
        _query(cascade, lower, items),
        tuple(dict.fromkeys(s.write.tensor for s in items if s.write.offset == 1)),
        tuple(lower.conditions),
        split,
    )


def _streamed(cascade: Cascade, steps: tuple[Step, ...]) -> tuple[str, tuple[str, str] | None]:
    """The rank that is traversed in steps, and its parts where the cascade names them: a rank whose
    steps carry state; else the last that is reduced.
    """
    iterative = {s.recurs for s in steps if s.recurs}
    for p in cascade.partitions:
        if len(p.parts) == 2 and (p.parts[0] in iterative or not iterative):
            return p.rank, (p.parts[0], p.parts[1])
    if iterative:
        rank = sorted(iterative)[0]
        return rank, (rank, "")
    carried = {r for t in cascade.inputs for r in t.ranks}
    for step in reversed(steps):
        for rank in reversed(step.bound):
            if rank in carried and any(reads(step.body)):
                return rank, None
    raise fail(
        "array-stream",
        f"{cascade.name or 'the cascade'} reduces no rank of an input: nothing streams past the "
        "array",
        hints=("an array runs cascades that sum over a rank of an input",),
    )


def _query(cascade: Cascade, lower: _Lower, items: tuple[Statement, ...]) -> tuple[str, ...]:
    """Ranks of results that no read of a streamed input mentions."""
    results = {r for name in cascade.outputs for r in cascade.tensors[name].ranks}
    stream = {lower.parts[0], lower.parts[1], lower.streamed} - {""}
    inputs = {t.name for t in cascade.inputs}
    mentioned: set[str] = set()
    for s in items:
        for o in s.reads:
            if o.tensor in inputs and set(o.ranks) & stream:
                mentioned |= set(o.ranks)
    ordered = dict.fromkeys(r for s in items for r in s.ranks)
    return tuple(r for r in ordered if r in results - mentioned - stream)


class _Lower:
    """Expressions to statements. `alias` maps a tensor that only renames to what it renames."""

    def __init__(self, cascade: Cascade, streamed: str, parts: tuple[str, str], split: bool):
        self.cascade = cascade
        self.streamed = streamed
        self.parts = parts
        self.split = split
        results = {r for name in cascade.outputs for r in cascade.tensors[name].ranks}
        self.rows = results - {r for t in cascade.inputs if streamed in t.ranks for r in t.ranks}
        self.items: list[Statement] = []
        self.alias: dict[str, Operand] = {}
        self.known: dict[tuple[object, ...], Operand] = {}
        self.conditions: list[Expr] = []
        self.target = ""
        self.counter = 0
        self.span: Span | None = None

    def split_ranks(self, ranks: Iterable[str]) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for r in ranks:
            for part in self.parts if r == self.streamed else (r,):
                if part:
                    found[part] = None
        return tuple(found)

    # -- statements
    def step(self, step: Step) -> None:
        if step.einsum.init or step.target in self.alias or step.op in ("any", "all"):
            return  # a start is free, and so is a condition
        self.target, self.counter, self.span = step.target, 0, step.einsum.span
        ranks = self.split_ranks(step.ranks)
        offset = 1 if step.iterative is not None else 0
        write = Operand(step.target, ranks, offset)
        self._note(step.body)
        if step.op is None:
            found = self.value(step.body)
            if found is None:
                return  # a constant, or conditions alone
            last = self.items[-1] if self.items else None
            made = last is not None and last.write == found and found.tensor.startswith("~")
            if last is not None and made:
                self._rename(write)
            elif offset:
                self._emit(("add",), ranks, (found,), write)
            else:
                self.alias[step.target] = found
            return
        self._reduction(step, write)

    def _note(self, body: Expr) -> None:
        for node in walk(body):
            if isinstance(node, Where):
                self.conditions += conjuncts(node.condition)

    def _reduction(self, step: Step, write: Operand) -> None:
        body, op = self._strip(step.body), step.op or ""
        key = (op, frozenset(step.bound), self._bare(step.body))
        if op not in ("sum", "max", "min"):
            if any(True for r in reads(body) if not self._is_free(r)):
                raise fail(
                    "array-operation",
                    f"`{op}` in {step.einsum.tensor} is no operation of an array",
                    step.einsum.span,
                    hints=("arrays run sums, maxima, minima and pointwise operations",),
                )
            return
        if key in self.known and set(self.known[key].ranks) == set(write.ranks):
            self.alias[write.tensor] = self.known[key]
            return
        bound = self.split_ranks(step.bound)
        outside: list[tuple[Expr, bool]] = []
        factors = self._factors(body) if op == "sum" else [(body, False)]
        if op == "sum":
            inside = [(f, d) for f, d in factors if set(self._ranks(f)) & set(bound)]
            outside = [(f, d) for f, d in factors if (f, d) not in inside]
            factors = inside
        local = write if not outside else self._fresh(write.ranks)
        operands = self._product(factors, leave=2 if op == "sum" else 1)
        if not operands:
            return
        operation = {"sum": "add", "max": "max", "min": "min"}[op]
        first = "mac" if len(operands) == 2 else operation
        ranks = self._join(local.ranks, bound, *(o.ranks for o in operands))
        steps, tile = self.parts
        if self.split and steps in bound and tile and (tile in bound or tile in ranks):
            partial = self._fresh(self._join(local.ranks, (steps,)))
            self._emit((first,), ranks, operands, partial, tuple(r for r in bound if r != steps))
            state = Operand(local.tensor, self._join(local.ranks, (steps,)), 1)
            self._emit(
                (operation,), state.ranks, (partial, replace(state, offset=0)), state, (steps,)
            )
            local = replace(state, ranks=local.ranks, offset=FINAL)
        elif self.split and steps in bound:
            state = Operand(local.tensor, ranks, 1)
            again = (*operands, replace(state, offset=0))
            self._emit((first,), ranks, again, state, (steps,))
            local = replace(state, ranks=local.ranks, offset=FINAL)
        else:
            self._emit((first,), ranks, operands, local, bound)
        if outside:
            terms = [(local, False)]
            rest = [(f, d) for f, d in outside if not self._is_free(f)]
            if rest:
                self._combine([*rest], terms, write)
            else:
                self.alias[write.tensor] = local
        elif local.offset == FINAL:
            self.alias[write.tensor] = local
        self.known[key] = self.alias.get(write.tensor, write)

    def _combine(
        self, rest: list[tuple[Expr, bool]], terms: list[tuple[Operand, bool]], write: Operand
    ) -> None:
        for factor, divides in rest:
            found = self.value(factor)
            if found is not None:
                terms.append((found, divides))
        result = self._chain(terms)
        if self.items[-1].write == result and result.tensor.startswith("~"):
            self._rename(write)
        else:
            self.alias[write.tensor] = result

    def _rename(self, write: Operand) -> None:
        """The last statement makes a tensor of the cascade."""
        old = self.items[-1].write
        self.items[-1] = replace(self.items[-1], name=write.tensor, write=write)
        same = write.offset == 0
        known = {k: write if v == old else v for k, v in self.known.items() if same or v != old}
        self.known = known

    # -- values
    def value(self, e: Expr) -> Operand | None:
        """The operand that holds a value; None for a constant."""
        e = self._strip(e)
        if self._is_free(e):
            return None
        if self._is_known(e):
            return Operand(f"{TABLE} {print_expr(e)}", self._ranks(e))
        if isinstance(e, Read):
            return self._read(e)
        if not isinstance(e, Map):
            raise fail(
                "array-operation",
                f"{self.target} has a part that no array runs",
                e.span,
                hints=("arrays run sums, maxima, minima and pointwise operations",),
            )
        key = (self._bare(e),)
        if key not in self.known:
            found = self._map(e)
            if found is None:
                return None
            self.known[key] = found
        return self.known[key]

    def _map(self, e: Map) -> Operand | None:
        if e.op in FREE:
            return self.value(e.args[0])
        if e.op == "sigmoid":
            power = self._unary("exp", self.value(e.args[0]))
            return self._unary("reciprocal", self._unary("add", power))
        if e.op in ("*", "/"):
            found = self._product(self._factors(e), leave=1)
            return found[0] if found else None
        if e.op in ("+", "-", "max", "min"):
            operands = [o for o in map(self.value, e.args) if o is not None]
            if len(operands) == 1 and e.op in ("+", "-") and self._is_sum(operands[0]):
                return operands[0]  # the accumulator starts from the constant
            return self._apply((SPELLED.get(e.op, e.op),), tuple(operands))
        if e.op in ("exp", "exp2"):
            return self._exponential(e.args[0])
        operands = [o for o in map(self.value, e.args) if o is not None]
        return self._apply((SPELLED.get(e.op, e.op),), tuple(operands)) if operands else None

    def _exponential(self, argument: Expr) -> Operand | None:
        """The exponential of a difference is one statement of two operations."""
        inner = self.value(argument)
        last = self.items[-1] if self.items else None
        if last and inner == last.write and last.operations == ("sub",):
            self.items[-1] = replace(last, operations=("sub", "exp"))
            self.known = {k: v for k, v in self.known.items() if v != inner}
            return inner
        return self._unary("exp", inner)

    def _unary(self, op: str, operand: Operand | None) -> Operand | None:
        return None if operand is None else self._apply((op,), (operand,))

    def _is_sum(self, o: Operand) -> bool:
        """A contraction whose accumulator can start from any value."""
        made = next((s for s in self.items if s.write.tensor == o.tensor), None)
        return made is not None and made.operations == ("mac",)

    def _factors(self, e: Expr, divides: bool = False) -> list[tuple[Expr, bool]]:
        """A product as factors with whether each divides; constants left out."""
        e = self._strip(e)
        if isinstance(e, Map) and e.op in ("*", "/"):
            second = divides != (e.op == "/")
            left = self._factors(e.args[0], divides)
            constant = self._is_free(e.args[0]) and second
            found = left + self._factors(e.args[1], second)
            return [(Const(1), False), *found] if constant and not left else found
        if isinstance(e, Map) and e.op == "neg":
            return self._factors(e.args[0], divides)
        return [] if self._is_free(e) else [(e, divides)]

    def _product(self, factors: list[tuple[Expr, bool]], leave: int) -> tuple[Operand, ...]:
        """Multiply until `leave` operands are left, those with the fewest ranks first."""
        terms: list[tuple[Operand, bool]] = []
        for factor, divides in factors:
            found = self.value(factor)
            if found is not None:
                terms.append((found, divides))
        if not terms:
            return ()
        terms.sort(key=lambda t: len(t[0].ranks))
        whole = [t for t in terms if not t[1]]
        if leave == 2 and len(terms) == 2 and len(whole) == 2:
            return terms[0][0], terms[1][0]
        if leave == 2 and len(terms) > 2:
            last = max(whole, key=lambda t: len(t[0].ranks)) if whole else None
            if last is not None:
                rest = [t for t in terms if t is not last]
                return self._chain(rest), last[0]
        return (self._chain(terms),)

    def _chain(self, terms: list[tuple[Operand, bool]]) -> Operand:
        """Multiply and divide one after another, the factors with the fewest ranks first."""
        terms = sorted(terms, key=lambda t: len(t[0].ranks))
        whole = [o for o, divides in terms if not divides]
        below = [o for o, divides in terms if divides]
        if not whole:
            first = self._apply(("reciprocal",), (below.pop(0),))
            whole = [first]
        result = whole.pop(0)
        rest = [(o, "mul") for o in whole] + [(o, "div") for o in below]
        for operand, op in sorted(rest, key=lambda t: len(t[0].ranks)):
            result = self._apply((op,), (result, operand))
        return result

    def _apply(self, operations: tuple[str, ...], operands: tuple[Operand, ...]) -> Operand:
        ranks = self._join(*(o.ranks for o in operands))
        known = all(o.tensor.startswith(TABLE) for o in operands)
        if known and not self.rows & set(ranks):
            return Operand(f"{TABLE} {'-'.join(operations)}", ranks)  # the same for all queries
        result = self._fresh(ranks)
        self._emit(operations, ranks, operands, result)
        return result

    # -- small things
    def _emit(
        self,
        operations: tuple[str, ...],
        ranks: tuple[str, ...],
        operands: tuple[Operand, ...],
        write: Operand,
        reduced: tuple[str, ...] = (),
    ) -> None:
        name = write.tensor
        if any(s.name == name for s in self.items):
            name = f"{name}'"
        self.items.append(
            Statement(name, operations, ranks, operands, write, reduced, 0, self.span)
        )

    def _fresh(self, ranks: tuple[str, ...]) -> Operand:
        self.counter += 1
        return Operand(f"~{self.target}:{self.counter}", ranks)

    def _join(self, *groups: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(r for group in groups for r in group))

    def _ranks(self, e: Expr) -> tuple[str, ...]:
        return self.split_ranks(free_ranks(e))

    def _is_free(self, e: Expr) -> bool:
        """One number for the whole run."""
        return self._is_known(e) and not free_ranks(e)

    def _is_known(self, e: Expr) -> bool:
        """Known before the run: constants, params, coordinates, and tensors made of them alone."""
        made = {s.write.tensor for s in self.items}
        for node in walk(e):
            if isinstance(node, Read):
                name = node.tensor
                known = self.cascade.tensors.get(name)
                if name in made or name in self.alias or known is None:
                    return False
                if known.iterative is not None or known in self.cascade.inputs:
                    return False
        return True

    def _bare(self, e: Expr) -> Expr:
        """Without guards in any part: what two equal values have in common."""
        return transform(e, lambda part: part if isinstance(part, Where) else self._guarded(part))

    def _strip(self, e: Expr) -> Expr:
        """Without conditions and guards."""
        while True:
            inner = e.body if isinstance(e, Where) else self._guarded(e)
            if inner is e:
                return e
            e = inner

    def _guarded(self, e: Expr) -> Expr:
        """The value behind one guard, or the value itself."""
        if isinstance(e, Map) and e.op == "??":
            return e.args[0]
        if isinstance(e, Map) and e.op == "select":
            if self._is_free(e.args[2]):
                return e.args[1]
            if self._is_free(e.args[1]):
                return e.args[2]
        return e

    def _read(self, e: Read) -> Operand:
        ranks: list[str] = []
        offset: int | str = 0
        tensor = self.cascade.tensors.get(e.tensor)
        for slot, index in enumerate(e.index):
            if tensor is not None and slot == tensor.iterative:
                offset = self._offset(index)
            ranks += self.split_ranks(free_ranks(index))
        if e.tensor in self.alias:
            origin = self.alias[e.tensor]
            return replace(origin, ranks=self._through(origin, tuple(dict.fromkeys(ranks))))
        return Operand(e.tensor, tuple(dict.fromkeys(ranks)), offset)

    def _through(self, origin: Operand, ranks: tuple[str, ...]) -> tuple[str, ...]:
        return origin.ranks if set(origin.ranks) == set(ranks) else ranks

    def _offset(self, index: Expr) -> int | str:
        if isinstance(index, Coordinate):
            return 0
        if isinstance(index, Map) and index.op == "+" and isinstance(index.args[1], Const):
            return int(index.args[1].value)
        if isinstance(index, Symbol):
            return FINAL
        return 0


def _live(
    items: list[Statement], outputs: tuple[str, ...], alias: Mapping[str, Operand]
) -> tuple[Statement, ...]:
    """Only what an output needs."""
    wanted = {alias[o].tensor if o in alias else o for o in outputs}
    while True:
        more = {o.tensor for s in items if s.write.tensor in wanted for o in s.reads} - wanted
        if not more:
            break
        wanted |= more
    kept = [s for s in items if s.write.tensor in wanted]
    return tuple(
        replace(s, name=s.name.removeprefix("~"), write=s.write, reads=s.reads) for s in kept
    )


def _phased(items: tuple[Statement, ...], outer: str, inner: str) -> tuple[Statement, ...]:
    """A statement over the steps that reads a result over all of them waits for another phase."""
    phase: dict[str, int] = {}
    whole = {s.write.tensor: _is_whole(s, outer, inner) for s in items}
    found = []
    for s in items:
        steps = bool({outer, inner} & set(s.ranks))
        level = 0
        for o in s.reads:
            if o.tensor in phase:
                complete = o.offset == FINAL or (whole[o.tensor] and o.offset == 0)
                mine = o.tensor == s.write.tensor
                barrier = steps and complete and not mine
                level = max(level, phase[o.tensor] + (1 if barrier else 0))
        phase[s.write.tensor] = max(level, phase.get(s.write.tensor, 0))
        found.append(replace(s, phase=level))
    return tuple(found)


def _is_whole(s: Statement, outer: str, inner: str) -> bool:
    """Made from all steps, and not a running value."""
    over = {outer, inner} & set(s.ranks)
    return bool(over) and not ({outer, inner} & set(s.write.ranks))
