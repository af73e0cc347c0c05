"""Ranks without a coordinate: sums that must be written, conditions that come too late."""

from __future__ import annotations

from dataclasses import replace

from cascade.diagnostics import CascadeError, fail
from cascade.frontends.dsl import syntax as s
from cascade.frontends.dsl.format import spell
from cascade.frontends.dsl.names import index_text
from cascade.frontends.dsl.names import walk as walk_syntax
from cascade.ir.cascade import extent_symbol
from cascade.ir.expr import Coordinate, Expr, Map, Reduce, Select
from cascade.ir.implicit import offending_factor
from cascade.ir.ops import MAPS
from cascade.ir.printer import print_expr
from cascade.ir.walk import free_ranks, walk

SCALES = ("sqrt", "rsqrt", "**", "log", "log2")  # functions of a size, seldom of a coordinate

LONGEST = 50  # characters of the user's text that a hint repeats


def stray_condition(part: Expr, stray: set[str], value: s.Expr) -> CascadeError:
    """A conjunct that names a rank without a coordinate at the end of the statement."""
    rank = sorted(stray)[0]
    places = [n.span for n in walk(part) if isinstance(n, Coordinate) and n.rank == rank]
    hint = f"write it in the statement that reads `{rank}`, or put `{rank}` on the left"
    for call in walk_syntax(value):
        if isinstance(call, s.Call) and len(call.args) == 1:
            bound = [index_text(b) for b in call.binders]
            if rank not in bound:
                continue
            inside = f"{_short(call.args[0])} where {print_expr(part)}"
            hint = f"put it inside the reduction: `{call.name}[{','.join(bound)}]({inside})`"
    return fail(
        "condition-rank",
        f"the condition names `{rank}`, which has no coordinate here",
        next((p for p in places if p), part.span),
        hints=(hint,),
    )


def check_implicit(body: Expr, summed: tuple[str, ...], value: s.Expr, assign: s.Assign) -> None:
    """The Einsum convention: only a product of plain reads is summed without saying so."""
    offender = offending_factor(body, summed)
    if offender is None:
        return
    rank = next(r for r in summed if r in free_ranks(offender))
    left = ",".join([*map(index_text, assign.indices or ()), rank])
    meant = print_expr(_summed_terms(body, rank)) if offender is body else ""
    if not meant or len(meant) > LONGEST:
        meant = f"sum[{rank}]({_short(value)})"
    hints = [f"write `{meant}`, or put `{rank}` on the left: `{assign.name}[{left}]`"]
    if (extent := _meant_extent(offender, rank)) is not None:
        hints = [f"the extent of rank `{rank}` is `{rank.upper()}`: `{extent}`", *hints]
    match value, offender:
        case s.Call(name, (), (), (argument,)), Map() if offender is body:
            hints.append(f"or sum inside: `{name}(sum[{rank}]({_short(argument)}))`")
        case s.Call(name, binders, (), (argument,)), Reduce(_, ranks, inner) if offender is body:
            if not set(ranks) & set(free_ranks(inner)):
                unused = ",".join(map(index_text, binders))
                message = (
                    f"`{name}[{unused}](…)` reduces over `{unused}`, which its operand has not"
                )
                hints = [f"did you mean `{name}[{rank}]({_short(argument)})`?"]
                raise fail("implicit-sum", message, offender.span, f"has rank {rank}", hints)
    raise fail(
        "implicit-sum",
        f"`{rank}` is on the right and not on the left, and only a product of reads is summed "
        "without saying so",
        offender.span or body.span,
        _described(offender, rank),
        hints,
    )


def _summed_terms(e: Expr, rank: str) -> Expr:
    """A sum of terms with each summed that has the rank: one that has not is added once."""
    match e:
        case Map("+" | "-" | "neg", args) if not all(rank in free_ranks(a) for a in args):
            return replace(e, args=tuple(_summed_terms(a, rank) for a in args))
    return Reduce("sum", (rank,), e) if rank in free_ranks(e) else e


def _meant_extent(e: Expr, rank: str) -> str | None:
    """A term that scales by a coordinate, as in `sqrt(e)`: with the extent, which was meant."""
    for node in walk(e):
        if isinstance(node, Map) and node.op in SCALES and Coordinate(rank) in node.args:
            args = (extent_symbol(rank) if a == Coordinate(rank) else a for a in node.args)
            return print_expr(replace(node, args=tuple(args)))
    return None


def _described(offender: Expr, rank: str) -> str:
    """What stands in the way of an implicit sum."""
    match offender:
        case Coordinate():
            return f"`{rank}` as a number"
        case Map("+" | "-"):
            return f"a sum of terms with rank {rank}"
        case Map(op) if not MAPS[op].symbol:
            return f"rank {rank} inside `{op}`"
        case Reduce(op) | Select(op):
            return f"rank {rank} inside `{op}`"
        case _:
            return f"has rank {rank}"


def _short(e: s.Expr) -> str:
    text = spell(e).text
    return text if len(text) <= LONGEST else "…"
