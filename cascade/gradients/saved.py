"""What the backward cascade reads: inputs, saved tensors, and the rest made again.

A tensor is saved if it is an output anyway, or the result of a reduction (to make it again would
take another pass) that is no larger than some input or output: row statistics, norms, moments. What
has two ranks that no input and no output has together (a logit, a weight, the state of every step)
is made again from what was saved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from cascade.gradients.build import at
from cascade.ir.cascade import Cascade, Einsum, Param, Partition, Rank, Requirement, Tensor
from cascade.ir.expr import Expr, Reduce, Select
from cascade.ir.order import evaluation_order
from cascade.ir.tails import with_tails
from cascade.ir.walk import bound_ranks, free_ranks, reads, symbols, walk
from cascade.transforms.presence import Presence


def choose(cascade: Cascade, needed: Iterable[str], presence: Presence) -> tuple[str, ...]:
    """The tensors to save for statements that read `needed`, in the order of the file.

    Absent points do not survive in an array, so a tensor that may have some is made again.
    """
    sizes = [set(t.ranks) for t in cascade.inputs]
    sizes += [set(cascade.tensors[o].ranks) for o in cascade.outputs]
    inputs = {t.name for t in cascade.inputs}
    recurring = {
        e.tensor for g in evaluation_order(cascade) if g.rank is not None for e in g.einsums
    }
    found: set[str] = set()
    seen: set[str] = set()
    todo = [n for n in needed if n not in inputs]
    while todo:
        name = todo.pop()
        if name in seen or name in inputs or name not in cascade.definitions:
            continue
        seen.add(name)
        own = cascade.definitions[name]
        whole = name not in recurring and not presence.of(at(name, own[0].ranks))
        small = name in cascade.outputs or (_fits(own[0], sizes) and _reduced(own, cascade))
        if whole and small:
            found.add(name)
            continue
        todo += [r.tensor for e in own for r in reads(e.body)]
    order = list(cascade.definitions)
    return tuple(sorted(found, key=order.index))


def _fits(e: Einsum, sizes: list[set[str]]) -> bool:
    return any(set(e.ranks) <= s for s in sizes)


def _reduced(own: tuple[Einsum, ...], cascade: Cascade) -> bool:
    """Whether a tensor is a reduction, or made pointwise of reductions alone."""
    if any(isinstance(n, Reduce | Select) for e in own for n in walk(e.body)):
        return True
    if any(e.step is not None for e in own):
        return False
    made = [cascade.definitions.get(r.tensor) for e in own for r in reads(e.body)]
    return bool(made) and all(m is not None and _reduced(m, cascade) for m in made)


def closure(einsums: Iterable[Einsum], wanted: Iterable[str], given: Iterable[str]) -> list[Einsum]:
    """The statements that `wanted` need, when the tensors of `given` arrive as inputs."""
    every = list(einsums)
    by_name: dict[str, list[Einsum]] = {}
    for e in every:
        by_name.setdefault(e.tensor, []).append(e)
    kept: set[str] = set()
    todo = list(wanted)
    while todo:
        name = todo.pop()
        if name in kept or name in given or name not in by_name:
            continue
        kept.add(name)
        todo += [r.tensor for e in by_name[name] for r in reads(e.body)]
    return [e for e in every if e.tensor in kept]


def assembled(
    source: Cascade,
    name: str,
    ranks: dict[str, Rank],
    inputs: Iterable[Tensor],
    einsums: list[Einsum],
    outputs: tuple[str, ...],
) -> Cascade:
    """A cascade of statements with the inputs, ranks, params and partitions that they need."""
    read = {r.tensor for e in einsums for r in reads(e.body)}
    kept = tuple(t for t in inputs if t.name in read)
    used = {r for t in kept for r in t.ranks}
    for e in einsums:
        used.update(e.ranks)
        used.update(*(bound_ranks(n) for n in walk(e.body)))
        used.update(n.target for n in walk(e.body) if isinstance(n, Select))
        used.update(free_ranks(e.body))
    named = {n for e in einsums for n in symbols(e.body)}
    partitions: dict[str, Partition] = {}
    while True:
        wanted = {r.upper() for r in used} | named
        more_ranks = {n for n, r in ranks.items() if r.name.upper() in wanted}
        for p in source.partitions:
            if {p.rank, *p.parts} & used:
                partitions[p.rank + ",".join(p.parts)] = p
        for p in partitions.values():
            more_ranks |= {p.rank, *p.parts}
        expressions: list[Expr] = [ranks[n].extent for n in more_ranks if n in ranks]
        expressions += [p.expression for p in partitions.values()]
        expressions += [p.value for p in source.params if p.name in named and p.value is not None]
        more = named | {s for x in expressions for s in symbols(x)}
        if more == named and more_ranks <= used:
            break
        named, used = more, used | more_ranks
    params: tuple[Param, ...] = tuple(
        p for p in source.params if p.name in named or p.name.lower() in used
    )
    requirements: tuple[Requirement, ...] = tuple(
        r
        for r in source.requirements
        if symbols(r.condition) <= {*named, *(x.upper() for x in used)}
    )
    made = replace(
        source,
        name=name,
        ranks=tuple(r for n, r in ranks.items() if n in used),
        inputs=kept,
        einsums=tuple(einsums),
        outputs=outputs,
        params=params,
        partitions=tuple(p for p in source.partitions if p in partitions.values()),
        requirements=requirements,
        types=tuple(t for t in source.types if t.tensor in outputs),
        warnings=(),
    )
    return with_tails(made)
