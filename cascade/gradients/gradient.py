"""The gradient of a cascade, as a cascade.

    flatten -> stabilisers -> weights as one exponential -> reverse mode -> what to save

The result is an ordinary cascade: it is printed, analysed, derived, scheduled and run like any
other. Reverse mode is Griewank and Walther, "Evaluating Derivatives" (2008), chapter 3, on Einsums:
a rank that a statement sums is one that its cotangent is repeated along, and the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cascade.analysis.passes import count_passes
from cascade.diagnostics import CascadeError, did_you_mean, fail
from cascade.gradients.flatten import flatten
from cascade.gradients.names import Names
from cascade.gradients.normaliser import normalised
from cascade.gradients.products import Products
from cascade.gradients.record import GradientStep, Record
from cascade.gradients.reverse import Reverse
from cascade.gradients.saved import assembled, choose, closure
from cascade.gradients.stabiliser import stabilisers
from cascade.ir.cascade import Cascade, Einsum, OutputType, Param, Rank, Tensor
from cascade.ir.kinds import check_settings_kinds, declared_kind, required_kinds, tensor_kinds
from cascade.ir.verify import verify
from cascade.ir.walk import reads, symbols
from cascade.transforms.present import present


@dataclass(frozen=True)
class Gradients:
    """`forward` is the cascade with `saved` as further outputs, `backward` the gradients.

    `backward` reads inputs of the original under their names, the saved tensors under theirs, and
    the cotangents; its outputs are the gradients. `cotangents` maps an output to its input there,
    `gradients` an input to its output there. `steps` tells what was simplified and why.
    `passes` are those of `backward` by rank, `passes_undeferred` those if no factor had been taken
    out of a sum.
    """

    forward: Cascade
    backward: Cascade
    cotangents: Mapping[str, str]
    gradients: Mapping[str, str]
    saved: tuple[str, ...]
    steps: tuple[GradientStep, ...] = ()
    passes: Mapping[str, int] = field(default_factory=dict)
    passes_undeferred: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        return {
            "name": self.backward.name,
            "steps": [s.to_dict() for s in self.steps],
            "passes": dict(self.passes),
            "passes_undeferred": dict(self.passes_undeferred),
            "saved": list(self.saved),
            "cotangents": dict(self.cotangents),
            "gradients": dict(self.gradients),
            "forward": str(self.forward),
            "backward": str(self.backward),
        }

    def __str__(self) -> str:
        parts = [f"{self.backward.name}: {self._passes()}"]
        parts += [s.text(n) for n, s in enumerate(self.steps, 1)]
        if self.saved:
            parts.append(f"Saved by the forward cascade: {', '.join(self.saved)}")
        return "\n\n".join([*parts, f"The gradients:\n\n{self.backward}"]).rstrip()

    def _passes(self) -> str:
        """Passes by rank, those without deferral first where they differ."""
        found = []
        for rank, after in self.passes.items():
            before = self.passes_undeferred.get(rank, after)
            found.append(f"{rank}: {after}" if before == after else f"{rank}: {before} -> {after}")
        return f"passes {', '.join(found)}"


def gradients(cascade: Cascade, wrt: Sequence[str] | None = None, save: bool = True) -> Gradients:
    """Gradients by the inputs `wrt` (all real ones by default; params by name).

    With `save` the backward cascade reads row statistics and outputs that the forward one leaves;
    without, it makes everything again from the inputs. Points of an output that are absent take no
    cotangent. Raises `CascadeError` for a name that is no real input, or a statement without rule.
    """
    wanted = _wanted(cascade, wrt)
    found = _gradients(cascade, wanted, save, defer=True)
    plain = _gradients(cascade, wanted, save, defer=False)
    return replace(
        found,
        passes=count_passes(found.backward).of_rank(),
        passes_undeferred=count_passes(plain.backward).of_rank(),
    )


def _gradients(cascade: Cascade, wanted: tuple[str, ...], save: bool, defer: bool) -> Gradients:
    record = Record()
    names = Names(cascade)
    flat = flatten(cascade, names)
    still = stabilisers(flat, record)
    products = Products()
    weighted = normalised(flat, names, products, record)
    for e in weighted.einsums:
        if not e.init and e.step is None:
            products.learn(e)
    active = _active(weighted, wanted, still)
    kinds = tensor_kinds(cascade)
    arrive = {
        o: names.tensor(f"d{o}") for o in cascade.outputs if kinds.get(o) not in ("int", "bool")
    }
    reverse = Reverse(weighted, names, present, active, arrive, products, record, defer)
    reverse.run(wanted)
    forward_statements = [*weighted.einsums, *reverse.forward]
    saved = _saved(cascade, weighted, reverse) if save else ()
    outputs = tuple(reverse.results[n] for n in wanted)
    forward = _forward(cascade, names.ranks, flat, forward_statements, saved)
    backward = _backward(
        cascade,
        names.ranks,
        forward_statements,
        reverse.statements,
        arrive,
        {d: reverse.solve.left(o) for o, d in arrive.items()},
        saved,
        forward.output_types,
        outputs,
    )
    return Gradients(
        forward,
        backward,
        {o: d for o, d in arrive.items() if d in {t.name for t in backward.inputs}},
        dict(reverse.results),
        saved,
        tuple(record.steps),
    )


def _wanted(cascade: Cascade, wrt: Sequence[str] | None) -> tuple[str, ...]:
    needed = required_kinds(cascade)
    real = [
        t.name
        for t in cascade.inputs
        if declared_kind(t.dtype) in ("any", "real") and needed.get(t.name) not in ("int", "bool")
    ]
    if wrt is None:
        return tuple(real)
    params = {p.name: p for p in cascade.params}
    for name in wrt:
        if name in params:
            _check_param(cascade, params[name])
        if name in real or name in params:
            continue
        if name in {t.name for t in cascade.inputs}:
            raise fail(
                "no-derivative",
                f"`{name}` holds integers or truth values, and has no gradient",
                hints=("gradients are taken by real inputs and params",),
            )
        raise fail(
            "gradient",
            f"`{cascade.name}` has no input or param `{name}`",
            hints=did_you_mean(name, [*real, *params]) or (f"it has {', '.join(real)}",),
        )
    return tuple(dict.fromkeys(wrt))


def _check_param(cascade: Cascade, param: Param) -> None:
    """Raise `CascadeError` for a param that a real number could not replace."""
    findings = check_settings_kinds(cascade, {param.name: "real"})
    if findings:
        place = next((d.span for d in findings if d.span), param.span)
        raise fail(
            "no-derivative",
            f"`{param.name}` is no real input: it stands where an integer or truth value is needed",
            place,
            hints=("gradients are taken by real inputs and params",),
        )
    for other in cascade.params:
        if other.value is not None and param.name in symbols(other.value):
            raise fail(
                "no-derivative",
                f"`{other.name}` is defined by `{param.name}`, and may be set to something else",
                other.span,
                hints=(
                    f"take the gradient by `{other.name}`, or write its definition in its place",
                ),
            )


def _active(cascade: Cascade, wanted: Iterable[str], still: frozenset[str]) -> frozenset[str]:
    """Real tensors on a way from a wanted input to an output, round the stabilisers."""
    kinds = tensor_kinds(cascade)
    down = set(wanted)
    readers: dict[str, set[str]] = {}
    for e in cascade.einsums:
        for name in {r.tensor for r in reads(e.body)} | symbols(e.body):
            readers.setdefault(name, set()).add(e.tensor)
    todo = list(down)
    while todo:
        for reader in readers.get(todo.pop(), ()):
            if reader in down or reader in still or kinds.get(reader) in ("int", "bool"):
                continue
            down.add(reader)
            todo.append(reader)
    up: set[str] = set()
    todo = [o for o in cascade.outputs if o in down]
    while todo:
        name = todo.pop()
        if name in up:
            continue
        up.add(name)
        for e in cascade.definitions.get(name, ()):
            todo += [n for n in {r.tensor for r in reads(e.body)} | symbols(e.body) if n in down]
    return frozenset(up)


def _saved(cascade: Cascade, flat: Cascade, reverse: Reverse) -> tuple[str, ...]:
    ranks = tuple(reverse.names.ranks.values())
    whole = replace(flat, ranks=ranks, einsums=(*flat.einsums, *reverse.forward))
    own = {e.tensor for e in reverse.statements}
    needed = [r.tensor for e in reverse.statements for r in reads(e.body) if r.tensor not in own]
    return choose(whole, needed, present(whole))


def _backward(
    cascade: Cascade,
    ranks: dict[str, Rank],
    forward: list[Einsum],
    statements: list[Einsum],
    arrive: Mapping[str, str],
    arriving: Mapping[str, tuple[str, ...]],
    saved: tuple[str, ...],
    types: Mapping[str, str],
    outputs: tuple[str, ...],
) -> Cascade:
    """`types` are the declared types of the outputs of the forward cascade, as which they arrive
    here, and their cotangents with them.
    """
    whole = replace(cascade, einsums=tuple(forward))
    given = {t.name for t in cascade.inputs} | set(saved)
    einsums = closure([*forward, *statements], outputs, given)
    inputs = [
        *cascade.inputs,
        *(Tensor(n, whole.tensors[n].ranks, types.get(n)) for n in saved),
        *(Tensor(d, arriving[d], types.get(o)) for o, d in arrive.items()),
    ]
    result = assembled(cascade, f"{cascade.name}_gradient", ranks, inputs, einsums, outputs)
    return _checked(result)


def _forward(
    cascade: Cascade,
    ranks: dict[str, Rank],
    flat: Cascade,
    statements: list[Einsum],
    saved: tuple[str, ...],
) -> Cascade:
    """The original with the statements that the saved tensors need, and these as outputs.

    Real ones are float32 whatever the inputs are: weights are made of them again by an exponential,
    to which an error of a logarithm is a relative one.
    """
    more = tuple(n for n in saved if n not in cascade.outputs)
    if not more:
        return cascade
    own = {e.tensor for e in cascade.einsums}
    as_written = {e.tensor for e in flat.einsums}
    every = [*flat.einsums, *(e for e in statements if e.tensor not in as_written)]
    extra = closure(every, more, {t.name for t in cascade.inputs} | own)
    einsums = [*cascade.einsums, *extra]
    outputs = (*cascade.outputs, *more)
    made = assembled(cascade, cascade.name, ranks, cascade.inputs, einsums, outputs)
    kinds = {**tensor_kinds(made), **required_kinds(made)}
    types = (OutputType(n, "f32") for n in more if kinds.get(n) not in ("int", "bool"))
    return _checked(replace(made, types=(*made.types, *types)))


def _checked(cascade: Cascade) -> Cascade:
    """The cascade, if it keeps every rule of the language: anything else is a fault here."""
    try:
        wrong = [d for d in verify(cascade) if d.severity == "error"]
    except CascadeError as error:
        wrong = list(error.diagnostics)
    if wrong and wrong[0].code in ("recurrence", "cycle", "reads-ahead"):
        raise fail(
            "no-derivative",
            f"`{cascade.name}` would be no recurrence: {wrong[0].message}",
            hints=(
                "a step reads its state at its own coordinates, at this step or an earlier one",
            ),
        )
    if wrong:
        raise AssertionError(f"{wrong[0]}\n{cascade}")
    return cascade
