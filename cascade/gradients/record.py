"""The steps by which a gradient was simplified, for a reader: what, why, and with what effect."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class GradientStep:
    """One law applied to one statement; `because` has its side conditions and their proof."""

    law: str
    statement: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    because: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        return {n: getattr(self, n) for n in self.__dataclass_fields__}

    def text(self, number: int) -> str:
        lines = [f"Step {number}: {self.law} `{self.statement}`"]
        lines += [f"  {line}" for line in self.before]
        lines += [f"  -> {line}" for line in self.after]
        lines += [f"     {line}" for line in self.because]
        return "\n".join(lines)


@dataclass
class Record:
    """Steps in the order in which they were taken."""

    steps: list[GradientStep] = field(default_factory=list)

    def add(
        self,
        law: str,
        statement: str,
        before: tuple[str, ...],
        after: tuple[str, ...],
        because: tuple[str, ...] = (),
    ) -> None:
        self.steps.append(GradientStep(law, statement, before, after, because))
