"""Expressions to statements: every map and every reduction becomes an operation on operands.

`Lower` goes through the steps of a cascade in order. Equal values are made once; what is known
before the run (positions, parameters, tables of a tile) is an operand without a statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from cascade.analysis.normalise import Step
from cascade.diagnostics import Span, fail
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Symbol, Where
from cascade.ir.printer import print_expr
from cascade.ir.walk import conjuncts, free_ranks, reads, transform, walk
from cascade.spatial.statements import FINAL, Operand, Statement

SPELLED = {  # how operations of the language are counted
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "exp2": "exp",
    "relu": "max",
}
TABLE = "~table"  # values known before the run
FREE = ("neg",)  # a sign is part of the operation that reads the value


class Lower:
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
        if e.op == "**" and e.args[1] in (Const(2), Const(2.0)):
            square = self.value(e.args[0])
            return None if square is None else self._apply(("mul",), (square, square))
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
