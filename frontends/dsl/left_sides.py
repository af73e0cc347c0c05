"""Left sides: plain ranks, and `i+1` (in an `init`, 0) at the slot of an iterative rank."""

from __future__ import annotations

from cascade.diagnostics import CascadeError, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.names import Names, index_text, is_extent_name


class LeftSides:
    """Reads the left side of each statement; an `init` is understood by its recurrence."""

    def __init__(self, names: Names, assignments: list[tuple[s.Assign, bool]]):
        self.names = names
        updates = [a for a, init in reversed(assignments) if not init]
        updates.sort(key=lambda a: any(isinstance(i, s.Binary) for i in a.indices or ()))
        self.updates = {a.name: a for a in updates}  # the recurrence, where there is one

    def read(self, assign: s.Assign, init: bool) -> tuple[tuple[str, ...], int | None]:
        """The ranks of a left side, and which slot is iterative. Raises `CascadeError`."""
        ranks: list[str] = []
        step: int | None = None
        for slot, index in enumerate(assign.indices or ()):
            match index:
                case s.Name(text) if text in self.names.ranks:
                    rank = text
                case s.Number("0") if init and step is None:
                    rank, step = self._iterative_rank(assign, slot), slot
                case s.Binary("+", s.Name(text), s.Number("1")) if self._may_step(text, init, step):
                    rank, step = text, slot
                case s.Number("0") if init and self._is_step(assign.name, slot):
                    raise CascadeError()  # the recurrence steps twice, and that is reported
                case _:
                    raise self._bad_left(index, assign, init)
            if rank in ranks:
                raise fail(
                    "repeated-rank",
                    f"rank `{rank}` stands twice on the left",
                    index.span,
                    hints=("a diagonal is written with a condition: `Z[m,n] = x where m == n`",),
                )
            ranks.append(rank)
        if init and step is None:
            raise fail(
                "init",
                f"`init` gives slot 0 of an iterative rank, and `{assign.name}` has none here",
                assign.left,
                hints=(f"write `init {self._start(assign)} = …`",),
            )
        return tuple(ranks), step

    def _slots(self, name: str) -> tuple[s.Expr | s.Rebind, ...]:
        """The left side of the update of a tensor."""
        return (self.updates[name].indices or ()) if name in self.updates else ()

    def _start(self, assign: s.Assign) -> str:
        """The left side of an `init`, with slot 0 where the recurrence writes `i+1`."""
        indices = self._slots(assign.name) or assign.indices or ()
        steps = [n for n, i in enumerate(indices) if not isinstance(i, s.Name)] or [0]
        left = ["0" if n == steps[0] else index_text(i) for n, i in enumerate(indices)]
        return f"{assign.name}[{','.join(left) or '0'}]"

    def _iterative_rank(self, assign: s.Assign, slot: int) -> str:
        indices = self._slots(assign.name)
        match indices[slot] if slot < len(indices) else None:
            case s.Binary("+", s.Name(text), s.Number("1")):
                return text
            case None | s.Name():
                step = [
                    "i+1" if n == slot else index_text(i)
                    for n, i in enumerate(assign.indices or ())
                ]
                raise fail(
                    "init",
                    f"`{assign.name}` has an `init` but no recurrence",
                    assign.left,
                    hints=(f"write `{assign.name}[{','.join(step)}] = …`, or drop `init`",),
                )
        raise CascadeError()  # the recurrence is wrong by itself, and reported there

    def _may_step(self, rank: str, init: bool, step: int | None) -> bool:
        return not init and step is None and rank in self.names.ranks

    def _is_step(self, name: str, slot: int) -> bool:
        """Whether the update of a tensor writes a slot at `i+1`."""
        indices = self._slots(name)
        return slot < len(indices) and isinstance(indices[slot], s.Binary)

    def _bad_left(self, index: s.Expr | s.Rebind, assign: s.Assign, init: bool) -> CascadeError:
        name = assign.name
        hint = "the left side has plain ranks, or `i+1` for an iterative rank"
        match index:
            case s.Name(text) | s.Binary("+", s.Name(text), _) if is_extent_name(text):
                hint = f"`{text}` is an extent; the rank is `{text.lower()}`"
            case _ if init:
                hint = f"`init` writes slot 0: `init {self._start(assign)} = …`"
            case s.Number("0") if any(
                self._is_step(name, n) for n in range(len(assign.indices or ()))
            ):
                hint = f"the first slot of an iterative rank is `init {self._start(assign)} = …`"
            case s.Number(text):
                hint = f"a single point is a condition: `{name}[m] = x where m == {text}`"
            case s.Binary("+", s.Name(text), s.Number("1")):
                hint = f"only one slot of a tensor is iterative: write `{text}` here"
            case s.Binary("+", s.Number("1"), s.Name(text)):
                hint = f"write `{text}+1`"
            case s.Binary("+", s.Name(text), s.Number()):
                hint = f"an iterative rank goes by single steps: `{name}[{text}+1]`"
            case s.Binary("-", s.Name(text), s.Number()):
                back = f"{text.upper()}-1-{text}"
                hint = f"write `{name}[{text}+1]`; the reverse direction reads at `{back}`"
            case s.Binary() | s.Call() | s.Index():
                hint = "write plain ranks on the left, and read at an expression on the right"
        message = f"`{name}` cannot be written at this index"
        return fail("left-side", message, index.span, hints=(hint,))
