"""IR to `.cascade` text: `parse(print(c)) == c`."""

from __future__ import annotations

from collections.abc import Container

from cascade.ir import text
from cascade.ir.cascade import Cascade, Einsum, Rank, Requirement, Tensor, extent_symbol
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.implicit import implicit_sum
from cascade.ir.ops import ATOM, COMPARE, MAPS, NEGATE
from cascade.ir.text import Text
from cascade.ir.walk import conjunction, free_ranks, unfiltered, walk


def print_expr(e: Expr) -> str:
    return spell(e).text


def spell(e: Expr) -> Text:
    match e:
        case Const():
            return number(e.value)
        case Coordinate(rank):
            return Text(rank)
        case Symbol(name):
            return Text(name)
        case Read(tensor, index):
            return (
                text.index(
                    tensor, [text.tight(text.paren(spell(i), text.WHERE + 1)) for i in index]
                )
                if index
                else Text(tensor)
            )
        case Map(op, args):
            return _spell_map(op, [spell(a) for a in args])
        case Reduce(op, ranks, body):
            return text.call(op, ",".join(ranks), [spell(body)])
        case Select(op, rank, target, body):
            binders = rank if rank == target else f"{rank} -> {target}"
            return text.call(op, binders, [spell(body)])
        case Where(body, condition):
            return text.filtered(spell(body), spell(condition))


def _spell_map(op: str, args: list[Text]) -> Text:
    symbol = MAPS[op].symbol
    if not symbol:
        return text.call(op, "", args)
    return text.prefix(op, args[0]) if len(args) == 1 else text.infix(op, args[0], args[1])


def number(value: int | float | bool) -> Text:
    if isinstance(value, bool):
        return Text("true" if value else "false")
    if value < 0:
        return Text(f"-{number(-value).text}", NEGATE)
    if value == float("inf"):
        return Text("inf", ATOM)
    return Text(repr(value), ATOM)


def print_einsum(e: Einsum, known: Container[str] | None = None) -> str:
    """A statement; `known` are the ranks that its file names beside its sums, all by default."""
    left = e.tensor
    if e.ranks:
        left = text.index(e.tensor, [text.tight(print_expr(i)) for i in e.index]).text
    return f"{left} = {print_body(e.body, e.scope, known)}"


def print_body(body: Expr, scope: tuple[str, ...], known: Container[str] | None = None) -> str:
    """The right side, with a sum left implicit where the language reads it back as the same."""
    guards: tuple[Expr, ...] = ()
    if isinstance(body, Where) and not isinstance(body.body, Where):
        body, guards = unfiltered(body)
    if isinstance(body, Reduce) and body.op == "sum":
        inner, filters = unfiltered(body.body)
        named = all(set(body.ranks) & set(free_ranks(c)) for c in filters)
        named = named and (known is None or all(r in known for r in body.ranks))
        if named and implicit_sum(inner, scope) == body.ranks:
            body, guards = inner, filters + guards
    return print_expr(Where(body, conjunction(guards)) if guards else body)


def _tensor(t: Tensor) -> str:
    return _typed(f"{t.name}[{','.join(t.ranks)}]" if t.ranks else t.name, t.dtype)


def _typed(name: str, dtype: str | None) -> str:
    return f"{name}: {dtype}" if dtype else name


def _requirement(r: Requirement) -> str:
    tail = f', "{r.message}"' if r.message else ""
    return f"require {print_expr(r.condition)}{tail}"


def _declared(c: Cascade) -> list[Rank]:
    """The ranks whose extents a reader would not find by himself.

    Cascades that programs build may have such ranks without `declared`: two inputs that share an
    extent, or a rank that nothing carries.
    """
    carried = {r for t in c.inputs for r in t.ranks}
    for e in c.einsums:  # a selection bounds its target
        selections = (node for node in walk(e.body) if isinstance(node, Select))
        carried |= {n.target for n in selections if n.target != n.rank}
    parts = {r for p in c.partitions for r in (p.rank, *p.parts)}

    def is_found(rank: Rank) -> bool:
        """By a carrier or a partition; an extent of other ranks' follows from what is read."""
        own = rank.extent == extent_symbol(rank.name)
        return own if rank.name in carried else rank.name in parts or not own

    return [r for r in c.ranks if r.declared or not is_found(r)]


def _named(c: Cascade, declared: list[Rank]) -> set[str]:
    """The ranks that the text names where no sum binds them."""
    carried = {r for t in c.inputs for r in t.ranks} | {r for e in c.einsums for r in e.ranks}
    parts = {r for p in c.partitions for r in (p.rank, *p.parts)}
    return carried | parts | {r.name for r in declared}


def print_cascade(c: Cascade) -> str:
    """Canonical text: header, declarations, statements in file order, outputs."""
    blocks = [[f"cascade {c.name}"]]
    blocks.append([f"input {_tensor(t)}" for t in c.inputs])
    declarations = [
        f"param {p.name} = {print_expr(p.value)}" if p.value is not None else f"param {p.name}"
        for p in c.params
    ]
    declared = _declared(c)
    declarations += [
        f"rank {r.name} < {text.paren(spell(r.extent), COMPARE + 1)}" for r in declared
    ]
    declarations += [
        f"rank {p.rank} = {text.tight_product(print_expr(p.expression))}" for p in c.partitions
    ]
    declarations += [_requirement(r) for r in c.requirements]
    blocks.append(declarations)
    known = _named(c, declared)
    blocks.append([("init " if e.init else "") + print_einsum(e, known) for e in c.einsums])
    outputs = [_typed(name, c.output_types.get(name)) for name in c.outputs]
    blocks.append([f"output {', '.join(outputs)}"] if outputs else [])
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"
