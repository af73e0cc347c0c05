"""Random cascades of dependent reductions over a streamed rank `m`, with inputs for them."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

INPUTS = {
    "c": "c[p,m]",
    "d": "d[p,m]",
    "w": "w[m]",
    "q": "q[p]",
    "low": "low[p]: int",
    "high": "high[p]: int",
    "kind": "kind[m]: int",
}
MASKS = ("", "", "", "low[p] <= m and m < high[p]", "m <= p", "kind[m] == 1", "p > 0")


@dataclass(frozen=True)
class Case:
    text: str
    inputs: dict[str, Any]
    tile: int
    reductions: int


class Generator:
    def __init__(self, chance: random.Random):
        self.chance = chance
        self.results: list[str] = []  # reads without m
        self.positive: list[str] = []  # those that are positive where a row is not empty
        self.streamed = ["c[p,m]", "c[p,m]", "d[p,m]", "w[m]"]

    def pick(self, weighted: dict[str, int]) -> str:
        return self.chance.choices(list(weighted), list(weighted.values()))[0]

    def leaf(self, fresh: bool = False) -> str:
        kinds = {"streamed": 6, "row": 1, "number": 1}
        if self.results and not fresh:
            kinds["result"] = 5
        match self.pick(kinds):
            case "streamed":
                return self.chance.choice(self.streamed)
            case "row":
                return self.chance.choice(("q[p]", "alpha"))
            case "number":
                return self.chance.choice(("0.5", "2", "1"))
            case _:
                return self.chance.choice(self.results)

    def above_zero(self, depth: int) -> str:
        forms = {"1 + ({a})**2": 2, "exp({a})": 2, "0.5 + abs({a})": 1}
        if self.positive and self.chance.random() < 0.5:
            return self.chance.choice(self.positive)
        return "(" + self.pick(forms).format(a=self.real(min(depth, 1))) + ")"

    def real(self, depth: int) -> str:
        if depth <= 0 or self.chance.random() < 0.15:
            return self.leaf()
        form = self.pick(
            {
                "({a} * {b})": 7,
                "({a} + {b})": 3,
                "({a} - {b})": 5,
                "exp({e})": 6,
                "({a} / {p})": 4,
                "({a})**2": 2,
                "({a} * exp({e}))": 4,
                "log({p})": 1,
                "sqrt({p})": 1,
                "rsqrt({p})": 1,
                "sigmoid({a})": 1,
                "tanh({a})": 1,
                "abs({a})": 1,
                "select(kind[m] == 1, {a}, {b})": 1,
                "select(m < 2, {a}, {b})": 1,
            }
        )
        return form.format(
            a=self.real(depth - 1),
            b=self.real(depth - 1),
            e=self.exponent(depth - 1),
            p=self.above_zero(depth - 1),
        )

    def exponent(self, depth: int) -> str:
        if self.results and self.chance.random() < 0.6:
            return f"{self.real(depth - 1)} - {self.chance.choice(self.results)}"
        return self.real(min(depth, 1))

    def text(self, reductions: int) -> str:
        lines = []
        mask = self.chance.choice(MASKS)
        if mask and self.chance.random() < 0.5:
            lines.append(f"X[p,m] = c[p,m] where {mask}")
            self.streamed[:2] = ["X[p,m]", "X[p,m]"]
        for n in range(reductions):
            if self.chance.random() < 0.3:
                lines.append(f"T{n}[p,m] = {self.real(2)} + 0 * c[p,m]")
                self.streamed.append(f"T{n}[p,m]")
            body = self.real(3 if self.chance.random() < 0.5 else 2)
            if not re.search(r"\bm\b", body):
                body = f"{self.chance.choice(self.streamed)} * {body}"
            op = self.pick({"sum": 6, "max": 3, "min": 1})
            where = f" where {mask}" if mask and self.chance.random() < 0.7 else ""
            lines.append(f"R{n}[p] = {op}[m]({body}{where})")
            self.results.append(f"R{n}[p]")
            if op == "sum" and body.startswith("exp("):
                self.positive.append(f"R{n}[p]")
            if self.chance.random() < 0.15:
                lines.append(f"U{n}[p] = {self.chance.choice(self.results)} * q[p]")
                self.results.append(f"U{n}[p]")
        outputs = ", ".join(r.removesuffix("[p]") for r in self.results)
        body = "\n".join(lines)
        used = [i for n, i in INPUTS.items() if re.search(rf"\b{n}\b", body)]
        param = "param alpha = 0.75\n" if "alpha" in body else ""
        rows = "" if re.search(r"\b(c|d|q|low|high)\[p", body) else "rank p < 2\n"
        columns = "" if re.search(r"\b(c\[p,m|d\[p,m|w\[m|kind\[m)", body) else "rank m < 3\n"
        return (
            f"cascade random\ninput {', '.join(used)}\n{param}{rows}{columns}{body}\n"
            f"output {outputs}\n"
        )


def generate(chance: random.Random) -> Case:
    reductions = chance.randint(1, 4)
    text = Generator(chance).text(reductions)
    rows, columns = chance.randint(1, 3), chance.choice((0, 1, 2, 3, 4, 5))
    values = np.random.default_rng(chance.randrange(2**32))
    whole: dict[str, Any] = {
        "c": values.standard_normal((rows, columns)),
        "d": values.standard_normal((rows, columns)),
        "w": values.standard_normal(columns),
        "q": values.standard_normal(rows),
        "low": values.integers(0, columns + 1, rows),
        "high": values.integers(-1, columns + 2, rows),
        "kind": values.integers(0, 3, columns),
    }
    header = text.split("\n")[1]
    inputs = {n: a for n, a in whole.items() if re.search(rf"\b{n}\[", header)}
    return Case(text, inputs, chance.randint(1, 3), reductions)
