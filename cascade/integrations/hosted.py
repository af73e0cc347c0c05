"""A spec inside a model that has masks, grouped heads and positions of its own.

Absence does the masking: where the model's mask forbids a key, the read of the key is absent, and
whatever the spec makes of its scores leaves it out. So a spec needs no input for a mask, and a
mask is never added to a score. Grouped heads are an index on the keys and values; a query of a
cache stands at the end of the keys, so its position is `p + first`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cascade.diagnostics import fail
from cascade.ir.cascade import Cascade, Einsum, Rank, Tensor, in_file_order
from cascade.ir.expr import Coordinate, Expr, Map, Read, Symbol, Where
from cascade.ir.verify import verify
from cascade.ir.walk import children, free_ranks, reads, rebuild, transform

MASK, FIRST = "host_mask", "host_first"


@dataclass(frozen=True)
class Host:
    """What a model asks of an attention: the ranks of its mask, grouped heads, a causal mask."""

    mask: str | None = None  # "shared" by the heads, or one for each of the "heads"
    grouped: bool = False
    causal: bool = False


@dataclass(frozen=True)
class Roles:
    """The inputs of a spec that are queries, keys and values, and their ranks."""

    query: Tensor
    key: Tensor
    value: Tensor

    @property
    def batch(self) -> str:
        return self.query.ranks[0]

    @property
    def heads(self) -> str:
        return self.query.ranks[1]

    @property
    def position(self) -> str:
        return self.query.ranks[2]

    @property
    def keys(self) -> str:
        return self.key.ranks[2]


def roles(spec: Cascade, query: str = "Q", key: str = "K", value: str = "V") -> Roles:
    """The three inputs by their names. Raises `CascadeError` where the spec has none such."""
    found = []
    tensors = {t.name: t for t in spec.inputs}
    for name, what in ((query, "queries"), (key, "keys"), (value, "values")):
        t = tensors.get(name)
        if t is None or len(t.ranks) != 4:
            raise fail(
                "host",
                f"`{spec.name}` has no input `{name}` of four ranks for the {what}",
                hints=("a model gives queries, keys and values as [batch, head, position, width]",),
            )
        found.append(t)
    return Roles(*found)


def hosted(spec: Cascade, own: Roles, host: Host) -> Cascade:
    """The spec with the model's mask, grouped heads and causal mask in it."""
    host = replace(host, grouped=host.grouped and own.key.ranks[1] == own.heads)
    ranks, inputs = list(spec.ranks), list(spec.inputs)
    group = _fresh("g", spec)
    if host.grouped:
        ranks.append(Rank(group, Symbol(group.upper())))
        for t in (own.key, own.value):
            inputs[inputs.index(t)] = replace(t, ranks=(t.ranks[0], group, *t.ranks[2:]))
    if host.mask is not None:
        heads = (own.heads,) if host.mask == "heads" else ()
        inputs.append(Tensor(MASK, (own.batch, *heads, own.position, own.keys), "bool"))
    shifted = _uses_position(spec, own)
    if shifted or host.causal:
        inputs.append(Tensor(FIRST, (), "int"))
    einsums = []
    for e in spec.einsums:
        body = _shifted(e.body, own.position) if shifted else e.body
        body = _rewritten(body, e, own, host, group)
        einsums.append(replace(e, body=body))
    made = replace(
        spec,
        ranks=in_file_order(ranks, tuple(inputs), spec.partitions),
        inputs=tuple(inputs),
        einsums=tuple(einsums),
        warnings=(),
    )
    read = {r.tensor for e in made.einsums for r in reads(e.body)}
    for name in (MASK, FIRST):
        if name in {t.name for t in inputs} and name not in read:
            raise fail(
                "host",
                f"no statement of `{spec.name}` reads `{own.key.name}` at a query and a key, "
                "so the model's mask has no place",
            )
    wrong = [d for d in verify(made) if d.severity == "error"]
    assert not wrong, (wrong[0], str(made))
    return made


def _fresh(stem: str, spec: Cascade) -> str:
    taken = {r.name for r in spec.ranks} | set(spec.tensors) | {p.name for p in spec.params}
    taken |= {r.name.upper() for r in spec.ranks}
    name, n = stem, 2
    while name in taken or name.upper() in taken:
        name, n = f"{stem}{n}", n + 1
    return name


def _rewritten(body: Expr, e: Einsum, own: Roles, host: Host, group: str) -> Expr:
    """Reads of keys and values as the host has them."""

    def rule(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.tensor not in (own.key.name, own.value.name):
            return None
        read: Expr = node
        heads, keys = node.index[1], node.index[2]
        if host.grouped:
            size = Map("//", (Symbol(own.heads.upper()), Symbol(group.upper())))
            index = (node.index[0], Map("//", (heads, size)), *node.index[2:])
            read = replace(node, index=index)
        if node.tensor == own.key.name and own.position in e.ranks:
            read = _masked(read, keys, own, host)
        return read

    return transform(body, rule)


def _masked(read: Expr, keys: Expr, own: Roles, host: Host) -> Expr:
    conditions: list[Expr] = []
    if host.causal:
        place = Map("+", (Coordinate(own.position), Read(FIRST, ())))
        conditions.append(Map("<=", (keys, place)))
    if host.mask is not None:
        heads = (Coordinate(own.heads),) if host.mask == "heads" else ()
        at = (Coordinate(own.batch), *heads, Coordinate(own.position), keys)
        conditions.append(Read(MASK, at))
    for c in conditions:
        read = (
            Where(read, c)
            if not isinstance(read, Where)
            else replace(read, condition=Map("and", (read.condition, c)))
        )
    return read


def _uses_position(spec: Cascade, own: Roles) -> bool:
    """Whether the position of a query is used as a number."""
    return any(_shifted(e.body, own.position) != e.body for e in spec.einsums)


def _shifted(e: Expr, rank: str) -> Expr:
    """`p` as `p + first`, but not where it only says which query is meant."""
    if e == Coordinate(rank):
        return Map("+", (e, Read(FIRST, ())))
    if isinstance(e, Read):
        index = tuple(i if i == Coordinate(rank) else _shifted(i, rank) for i in e.index)
        return replace(e, index=index)
    if rank not in free_ranks(e):
        return e
    return rebuild(e, tuple(_shifted(c, rank) for c in children(e)))
