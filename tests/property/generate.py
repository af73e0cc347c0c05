"""Random well-typed cascades, as text, with inputs for them.

Values that decide something (comparisons, `floor`, `argmax`, a divisor) are *exact*: sums and
products of quarters, so that two evaluators cannot disagree by a rounding. The rest may be any
real number.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

RANKS = ("h", "p", "m", "e")
EXTENTS = (0, 1, 1, 2, 2, 3, 3, 4, 4)
Scope = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A tensor that may be read. `fixed` gives the only index allowed at a slot."""

    name: str
    ranks: Scope
    kind: str
    exact: bool = True
    fixed: dict[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    text: str
    inputs: dict[str, Any]


class Generator:
    """Writes one cascade. `chance` makes every choice."""

    def __init__(self, chance: random.Random):
        self.chance = chance
        self.extent = {r: chance.choice(EXTENTS) for r in RANKS[: chance.randint(2, 4)]}
        self.ranks: Scope = tuple(self.extent)
        self.inputs = [
            Entry(name, self.some(self.ranks, 1, 2), kind)
            for name, kind in zip("ACNGT", ("real", "real", "int", "int", "bool"), strict=True)
        ]
        self.pool = list(self.inputs)
        self.lines: list[str] = []
        self.written: list[str] = []
        self.declared: set[str] = set()
        self.whole: dict[str, Scope] = {}  # a partitioned rank -> its parts
        self.state: list[Entry] = []

    # -- choices
    def some(self, of: Scope, low: int, high: int) -> Scope:
        count = min(len(of), self.chance.randint(low, high))
        return tuple(self.chance.sample(of, count))

    def odds(self, percent: int) -> bool:
        return self.chance.randrange(100) < percent

    # -- expressions: text of an atom, and whether its value is exact
    def read(self, entry: Entry, scope: Scope, depth: int) -> str:
        indices = [self.index(entry, n, scope, depth) for n in range(len(entry.ranks))]
        return f"{entry.name}[{','.join(indices)}]" if indices else entry.name

    def index(self, entry: Entry, slot: int, scope: Scope, depth: int) -> str:
        if slot in entry.fixed:
            return self.chance.choice(entry.fixed[slot])
        rank = entry.ranks[slot]
        here = self.names(scope)
        if rank in here and self.odds(75):
            return rank
        extent = rank.upper()
        base = self.chance.choice(here) if here else "0"
        forms = (
            f"{base}+1",
            f"{base}-1",
            f"{extent}-1-{base}",
            f"({base}+1) % {extent}",
            f"{base}//2",
            f"clamp({base}-1, 0, {extent}-1)",
            str(self.chance.randint(0, 2)),
            base,
        )
        if depth > 0 and self.odds(25):
            return self.integer(scope, depth - 1)
        return self.chance.choice(forms)

    def names(self, scope: Scope) -> Scope:
        """Ranks that may stand as numbers: those in scope, and wholes whose parts are."""
        return scope + tuple(w for w, parts in self.whole.items() if set(parts) <= set(scope))

    def leaf(self, kind: str, scope: Scope, exact: bool, depth: int = 1) -> tuple[str, bool] | None:
        entries = [e for e in self.pool + self.state if e.kind == kind and (e.exact or not exact)]
        if not entries:
            return None
        entry = self.chance.choice(entries)
        return self.read(entry, scope, depth), entry.exact

    def real(self, scope: Scope, depth: int, exact: bool = False) -> tuple[str, bool]:
        if depth <= 0 or self.odds(20):
            found = self.leaf("real", scope, exact) if self.odds(80) else None
            if found is not None:
                return found
            names = self.names(scope)
            if names and self.odds(50):
                return self.chance.choice(names), True
            return self.chance.choice(("0.5", "2", "(-1.25)", "0", "1.5", "inf", "(-inf)")), True
        forms = [self._sum, self._sum, self._small, self._where, self._choice, self._default]
        forms += [self._reduced, self._reduced, self._reduced, self._top]
        if not exact:
            forms += [self._quotient, self._function, self._library, self._function]
        return self.chance.choice(forms)(scope, depth - 1, exact)

    def _sum(self, scope: Scope, depth: int, exact: bool) -> tuple[str, bool]:
        a, first = self.real(scope, depth, exact)
        b, second = self.real(scope, 0 if exact else depth, exact)
        return f"({a} {self.chance.choice('+-*')} {b})", first and second

    def _small(self, scope: Scope, depth: int, exact: bool) -> tuple[str, bool]:
        a, first = self.real(scope, depth, exact)
        b, second = self.real(scope, depth, exact)
        form = self.chance.choice(
            ("min({0}, {1})", "max({0}, {1})", "relu({0})", "abs({0})", "(0.5 - {0})", "sign({0})")
        )
        return form.format(a, b), first and (second or "{1}" not in form)

    def _where(self, scope: Scope, depth: int, exact: bool) -> tuple[str, bool]:
        a, known = self.real(scope, depth, exact)
        return f"({a} where {self.condition(scope, depth)})", known

    def _choice(self, scope: Scope, depth: int, exact: bool) -> tuple[str, bool]:
        a, first = self.real(scope, depth, exact)
        b, second = self.real(scope, depth, exact)
        return f"select({self.boolean(scope, depth)}, {a}, {b})", first and second

    def _default(self, scope: Scope, depth: int, exact: bool) -> tuple[str, bool]:
        a, first = self.real(scope, depth, exact)
        b, second = self.real(scope, depth - 1, exact)
        return f"(({a}) ?? ({b}))", first and second

    def binders(self, scope: Scope) -> Scope:
        free = tuple(r for r in self.ranks if r not in self.whole)
        return self.some(free or self.ranks, 1, 1 if self.odds(75) else 2)

    def _reduced(self, scope: Scope, depth: int, exact: bool) -> tuple[str, bool]:
        ranks = self.binders(scope)
        inner = tuple(dict.fromkeys(scope + ranks))
        body, known = self.real(inner, depth, exact)
        if self.odds(60):
            body = f"{body} where {self.condition(inner, depth)}"
        ops = ["sum", "max", "min"] + ([] if exact else ["mean", "prod"])
        op = self.chance.choice(ops)
        if op == "prod":
            body = f"clamp({body.split(' where ')[0]}, -2, 2)" if " where " not in body else body
        return f"{op}[{','.join(ranks)}]({body})", known and op not in ("mean", "prod")

    def _top(self, scope: Scope, depth: int, exact: bool) -> tuple[str, bool]:
        targets = [r for r in scope if r in self.ranks]
        ranks = [r for r in self.ranks if r not in self.whole]
        if not targets or len(ranks) < 2:
            return self.real(scope, depth, exact)
        target = self.chance.choice(targets)
        rank = self.chance.choice([r for r in ranks if r != target] or [ranks[0]])
        if rank == target:
            return self.real(scope, depth, exact)
        body, known = self.row(scope, rank, target, depth, exact)
        return f"top[{rank} -> {target}]({body})", known

    def row(
        self, scope: Scope, rank: str, target: str, depth: int, exact: bool
    ) -> tuple[str, bool]:
        inner = tuple(dict.fromkeys((*(r for r in scope if r != target), rank)))
        body, known = self.real(inner, depth, exact)
        if self.odds(50):
            body = f"{body} where {self.condition(inner, depth)}"
        return body, known

    def _quotient(self, scope: Scope, depth: int, exact: bool) -> tuple[str, bool]:
        a, _ = self.real(scope, depth)
        b, known = self.real(scope, depth, exact=self.odds(70))
        return (f"({a} / {b})" if known else f"({a} / (1 + abs({b})))"), False

    def _function(self, scope: Scope, depth: int, exact: bool) -> tuple[str, bool]:
        a, known = self.real(scope, depth, exact=self.odds(50))
        forms = [f"{f}(min({a}, 3))" for f in ("exp", "exp2")]
        forms += [f"{f}({a})" for f in ("tanh", "sigmoid", "softplus", "erf", "silu", "gelu")]
        forms += [f"{f}(clamp({a}, -9, 9))" for f in ("sin", "cos")]
        if known:
            forms += [f"{f}({a})" for f in ("log", "sqrt", "rsqrt", "log2")]
            forms += [f"({a} ** {n})" for n in ("2", "(-1)", "3")] + [f"(abs({a}) ** 0.5)"]
        return self.chance.choice(forms), False

    def _library(self, scope: Scope, depth: int, exact: bool) -> tuple[str, bool]:
        self.declared.add("import std")
        ranks = [r for r in scope if r in self.ranks and r not in self.whole]
        if not ranks:
            return self._function(scope, depth, exact)
        rank = self.chance.choice(ranks)
        body, _ = self.real(scope, depth, exact=True)
        form = self.chance.choice(("softmax[{}]({})", "logsumexp[{}]({})", "variance[{}]({})"))
        return form.format(rank, f"clamp({body}, -3, 3)"), False

    def integer(self, scope: Scope, depth: int) -> str:
        names = self.names(scope)
        if depth <= 0 or self.odds(25):
            found = self.leaf("int", scope, True, min(depth, 1)) if self.odds(60) else None
            if found is not None:
                return found[0]
            return self.chance.choice(names) if names and self.odds(70) else self.small()
        a, b = self.integer(scope, depth - 1), self.integer(scope, depth - 1)
        ranks = self.binders(scope)
        inner = tuple(dict.fromkeys(scope + ranks))
        forms = [f"({a} {op} {b})" for op in ("+", "-", "*", "//", "%")]
        forms += [
            f"(-{a})",
            f"clamp({a}, 0, 2)",
            f"min({a}, {b})",
            f"max({a}, {b})",
            f"(({a}) ?? ({b}))",
        ]
        forms += [f"({a} where {self.condition(scope, depth - 1)})"]
        forms += [f"select({self.boolean(scope, depth - 1)}, {a}, {b})"]
        rows = f"{self.integer(inner, depth - 1)} where {self.condition(inner, depth - 1)}"
        forms += [f"sum[{','.join(ranks)}]({rows})", f"count[{','.join(ranks)}]({rows})"]
        exact, _ = self.real(inner, depth - 1, exact=True)
        forms += [f"argmax[{ranks[0]}]({exact})" if len(ranks) == 1 else a]
        forms += [f"count[{','.join(ranks)}]({self.boolean(inner, depth - 1)})"]
        value, _ = self.real(scope, depth - 1, exact=True)
        forms += [f"floor(clamp({value}, -5, 5))", f"ceil(clamp({value}, -5, 5))"]
        targets = [r for r in scope if r in self.ranks and r not in self.whole]
        if targets:
            target = self.chance.choice(targets)
            row, _ = self.row(scope, target, "", depth - 1, True)
            forms.append(f"order[{target}]({row})")
            rank = self.chance.choice(self.ranks)
            if rank != target and rank not in self.whole:
                row, _ = self.row(scope, rank, target, depth - 1, True)
                forms.append(f"argtop[{rank} -> {target}]({row})")
        return self.chance.choice(forms)

    def small(self) -> str:
        return self.chance.choice(("0", "1", "2", "3", "(-1)"))

    def boolean(self, scope: Scope, depth: int) -> str:
        names = self.names(scope)
        if depth <= 0 or self.odds(40):
            found = self.leaf("bool", scope, True) if self.odds(30) else None
            if found is not None:
                return found[0]
            left = self.chance.choice(names) if names else self.small()
            right = self.chance.choice(names) if names and self.odds(70) else self.small()
            return f"({left} {self.chance.choice(('<', '<=', '!=', '>=', '=='))} {right})"
        a, b = self.boolean(scope, depth - 1), self.boolean(scope, depth - 1)
        x, _ = self.real(scope, depth - 1, exact=True)
        n, k = self.integer(scope, depth - 1), self.integer(scope, depth - 1)
        ranks = self.binders(scope)
        inner = tuple(dict.fromkeys(scope + ranks))
        row = f"{self.boolean(inner, depth - 1)} where {self.condition(inner, depth - 1)}"
        forms = (
            f"({a} and {b})",
            f"({a} or {b})",
            f"(not {a})",
            f"({x} > {self.chance.choice(('0', '0.5', '(-inf)'))})",
            f"({n} <= {k})",
            f"({n} < {k} <= {self.small()})",
            f"any[{','.join(ranks)}]({row})",
            f"all[{','.join(ranks)}]({row})",
            f"({a} where {b})",
            f"(({a}) ?? ({b}))",
            f"select({a}, {b}, true)",
        )
        return self.chance.choice(forms)

    def condition(self, scope: Scope, depth: int) -> str:
        parts = [self.boolean(scope, min(depth, 1)) for _ in range(2 if self.odds(30) else 1)]
        return " and ".join(parts)

    # -- statements
    def left(self, ranks: Scope) -> tuple[str, Scope]:
        name = f"Z{len(self.written)}"
        self.written.append(name)
        return f"{name}[{','.join(ranks)}]" if ranks else name, ranks

    def value(self, kind: str, scope: Scope, depth: int) -> tuple[str, bool]:
        if kind == "real":
            return self.real(scope, depth)
        return (self.integer if kind == "int" else self.boolean)(scope, depth), True

    def finish(self, text: str, entry: Entry, scope: Scope) -> None:
        if self.odds(35):
            text += f" where {self.condition(scope, 2)}"
        self.lines.append(text)
        self.pool.append(entry)

    def plain(self) -> None:
        kind = self.chance.choice(("real", "real", "real", "int", "bool"))
        left, ranks = self.left(self.some(self.ranks, 0, 3))
        body, exact = self.value(kind, ranks, 3)
        self.finish(f"{left} = {body}", Entry(self.written[-1], ranks, kind, exact), ranks)

    def product(self) -> None:
        """A product of plain reads, its other ranks summed."""
        entries = [e for e in self.pool if e.kind == "real" and set(e.ranks) <= set(self.ranks)]
        chosen = [self.chance.choice(entries) for _ in range(self.chance.randint(2, 3))]
        present = tuple(dict.fromkeys(r for e in chosen for r in e.ranks))
        left, ranks = self.left(self.some(present, 0, max(0, len(present) - 1)))
        text = " * ".join(f"{e.name}[{','.join(e.ranks)}]" if e.ranks else e.name for e in chosen)
        if self.odds(50):
            text += f" where {self.condition(tuple(dict.fromkeys(ranks + present)), 2)}"
        self.lines.append(f"{left} = {text}")
        exact = all(e.exact for e in chosen) and all(e in self.inputs for e in chosen)
        self.pool.append(Entry(self.written[-1], ranks, "real", exact))

    def recurrence(self) -> None:
        """One or two coupled tensors along a rank i, sometimes with a tensor of the step itself."""
        steps = self.chance.randint(0, 4)
        rank = f"i{len(self.written)}"
        self.declared.add(f"rank {rank} < {steps}")
        kind = self.chance.choice(("real", "real", "int"))
        others = self.some(self.ranks, 0, 2)
        slot = self.chance.randint(0, len(others))
        ranks = (*others[:slot], rank, *others[slot:])
        names = [f"S{len(self.written)}{c}" for c in "ab"[: self.chance.randint(1, 2)]]
        now = [Entry(n, ranks, kind, False, {slot: (rank, rank, f"{rank}-1")}) for n in names]
        if self.odds(30):
            step = self.left((*others, rank))[0]
            self.state = now
            value = self.value(kind, (*others, rank), 2)[0]
            self.lines.append(f"{step} = {self.bounded(kind, value)}")
            now.append(
                Entry(self.written[-1], (*others, rank), kind, False, {len(others): (rank,)})
            )
        for n, name in enumerate(names):
            self.state = []
            start = self.value(kind, others, 1)[0]
            zero = ",".join((*others[:slot], "0", *others[slot:]))
            self.lines.append(f"init {name}[{zero}] = {start}")
            self.state = now + now
            body = self.bounded(kind, self.value(kind, (*others, rank), 3)[0])
            here = ",".join((*others[:slot], rank, *others[slot:]))
            if self.odds(40):
                body = f"(({body} where {self.condition((*others, rank), 2)}) ?? {name}[{here}])"
            left = ",".join((*others[:slot], f"{rank}+1", *others[slot:]))
            self.lines.append(f"{name}[{left}] = {body}")
            if n == 0 and len(names) == 2:  # the second may read what the first has just made
                fresh: dict[int, Scope] = {slot: (rank, f"{rank}+1")}
                now = [replace(e, fixed=fresh) if e.name == name else e for e in now]
        self.state = []
        self.written += names
        last = rank.upper()
        for name in names:
            entry = Entry(name, ranks, kind, False, {slot: (last, "0", "1", f"{last}-1")})
            self.pool.append(entry)

    def bounded(self, kind: str, text: str) -> str:
        return f"clamp({text}, -4, 4)"

    def substitution(self) -> None:
        """A statement that reads itself at earlier coordinates."""
        if len(self.ranks) < 2:
            return self.plain()
        t, u = self.some(self.ranks, 2, 2)
        others = self.some(tuple(r for r in self.ranks if r not in (t, u)), 0, 1)
        left, ranks = self.left((t, *others))
        first, _ = self.real(ranks, 2)
        weight, _ = self.real((*ranks, u), 1)
        own = f"{self.written[-1]}[{','.join((u, *others))}]"
        filters = f"{u} < {t}" + (f" and {self.boolean((*ranks, u), 1)}" if self.odds(50) else "")
        op = self.chance.choice(("sum", "sum", "max", "mean"))
        body = f"{op}[{u}](clamp({weight}, -2, 2) * {own} where {filters})"
        self.lines.append(f"{left} = clamp({first}, -4, 4) {self.chance.choice('+-')} ({body})")
        self.pool.append(Entry(self.written[-1], ranks, "real", False))

    def tiled(self) -> None:
        """A statement over the parts of a partition, whose tail is ragged."""
        whole = self.chance.choice(self.ranks)
        outer, inner = f"{whole}1", f"{whole}0"
        if not any(f"rank {whole} =" in d for d in self.declared):
            self.declared.add(f"rank {whole} = {outer}*{inner.upper()} + {inner}")
            self.declared.add(f"param {inner.upper()} = {self.chance.randint(1, 3)}")
        self.whole = {whole: (outer, inner)}
        others = self.some(tuple(r for r in self.ranks if r != whole), 0, 1)
        form = self.chance.randint(0, 2)
        kind = self.chance.choice(("real", "real", "int", "bool"))
        if form == 0:
            left, ranks = self.left((outer, inner, *others))
            body, exact = self.value(kind, ranks, 2)
        else:
            left, ranks = self.left((outer, *others) if form == 1 else others)
            gone = (inner,) if form == 1 else (outer, inner)
            body, exact = self.real(tuple(dict.fromkeys((*ranks, *gone))), 2)
            op = self.chance.choice(("sum", "max", "mean", "count"))
            kind, exact = "int" if op == "count" else "real", exact and op != "mean"
            body = f"{op}[{','.join(gone)}]({body})"
        self.lines.append(f"{left} = {body}")
        self.whole = {}
        self.pool.append(Entry(self.written[-1], ranks, kind, exact))

    def case(self) -> Case:
        makers = [self.plain] * 5 + [self.product] * 2
        makers += [self.recurrence, self.substitution, self.tiled]
        for _ in range(self.chance.randint(1, 4)):
            self.chance.choice(makers)()
        statements = "\n".join(self.lines)
        used = [e for e in self.inputs if re.search(rf"\b{e.name}\[", statements)]
        held = {r for e in used for r in e.ranks}
        header = sorted(d for d in self.declared if d.startswith(("import", "param")))
        kinds = [f": {e.kind}" if self.odds(60) else "" for e in used]
        header += [
            f"input {e.name}[{','.join(e.ranks)}]{kind}"
            for e, kind in zip(used, kinds, strict=True)
        ]
        header += [f"rank {r} < {n}" for r, n in self.extent.items() if r not in held]
        header += sorted(d for d in self.declared if d.startswith("rank"))
        outputs = ", ".join(self.written)
        text = "\n".join([*header, statements, f"output {outputs}"]) + "\n"
        return Case(text, {e.name: self.array(e) for e in used})

    def array(self, entry: Entry) -> Any:
        shape = tuple(self.extent[r] for r in entry.ranks)
        number = int(np.prod(shape))
        if entry.kind == "bool":
            return np.array([self.odds(50) for _ in range(number)], bool).reshape(shape)
        if entry.kind == "int":
            values = [self.chance.randint(-2, 4) for _ in range(number)]
            return np.array(values, np.int64).reshape(shape)
        quarters = [self.chance.randint(-8, 8) / 4 for _ in range(number)]
        return np.array(quarters, np.float64).reshape(shape)


def generate(chance: random.Random) -> Case:
    return Generator(chance).case()
