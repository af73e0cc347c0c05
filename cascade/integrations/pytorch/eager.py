"""A cascade in plain PyTorch: whole tensors, one statement after the other, by autograd.

The same meaning as `cascade.backends.reference`, absence included: a value carries its conditions
by the axes that they mention. Operands are replaced by 1 where they are absent, and where nothing
depends on the result, so that neither an operation nor its derivative makes a NaN that a mask would
have to remove.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cascade.integrations.pytorch.labelled import Labelled, combine, every, spread, union
from cascade.integrations.pytorch.spelling import MAPS, REAL
from cascade.integrations.pytorch.types import output_types, real_type
from cascade.ir.arguments import check_inputs, separated
from cascade.ir.cascade import Cascade, Einsum
from cascade.ir.expr import Const, Coordinate, Expr, Map, Read, Reduce, Select, Symbol, Where
from cascade.ir.extents import Number, bind
from cascade.ir.kinds import is_whole_exponent
from cascade.ir.ops import DECIDING, REDUCERS
from cascade.ir.order import Group, evaluation_order
from cascade.ir.walk import conjuncts, free_ranks

Conditions = dict[frozenset[str], Labelled]


@dataclass(frozen=True)
class Value:
    """A number at every point, and the conditions under which it is there."""

    data: Labelled
    conditions: Conditions


@dataclass(frozen=True)
class Axes:
    """What ranks mean here: an axis, with its extent, or one fixed coordinate.

    Something depends on the value where all of `needed` hold.
    """

    of: dict[str, str]
    extents: dict[str, int]
    fixed: dict[str, int] = field(default_factory=dict)
    needed: tuple[Labelled, ...] = ()

    def enter(self, rank: str, extent: int) -> Axes:
        axis = rank
        while axis in self.extents:
            axis += "'"
        fixed = {r: n for r, n in self.fixed.items() if r != rank}
        return Axes(self.of | {rank: axis}, self.extents | {axis: extent}, fixed, self.needed)

    def within(self, *there: Labelled) -> Axes:
        """Where, of what is needed, these hold."""
        return replace(self, needed=_distinct([*self.needed, *there]))

    def everywhere(self) -> Axes:
        """For what decides on presence: it is needed wherever it has a value."""
        return replace(self, needed=())

    def named(self, e: Expr) -> frozenset[str]:
        return frozenset(self.of[r] for r in free_ranks(e))


def evaluate(
    cascade: Cascade,
    inputs: Mapping[str, Tensor],
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    """The outputs of a cascade on tensors of one device, absent points 0, -1 or false.

    Settings may be tensors without dimensions: gradients reach them. Raises `InputError`.
    """
    return _Evaluation(cascade, inputs, settings or {}).outputs()


class _Evaluation:
    def __init__(self, cascade: Cascade, inputs: Mapping[str, Tensor], settings: Mapping[str, Any]):
        self.cascade = cascade
        check_inputs(cascade, inputs)
        tensors = {t.name: inputs[t.name] for t in cascade.inputs}
        numbers: dict[str, Number] = {
            n: v.item() if isinstance(v, Tensor) else v for n, v in settings.items()
        }
        shapes = {n: tuple(t.shape) for n, t in tensors.items()}
        self.bindings = bind(cascade, shapes, numbers)
        self.scalars = {n: v for n, v in settings.items() if isinstance(v, Tensor)}
        usual = torch.get_default_dtype()
        self.types = output_types(cascade, tensors, usual)
        declared = [torch.empty(0, dtype=self.types[name]) for name in cascade.output_types]
        self.dtype = real_type([*tensors.values(), *declared], usual)
        first = next(iter(tensors.values()), None)
        self.device = first.device if first is not None else torch.device("cpu")
        self.values: dict[str, Value] = {}  # over the ranks of each tensor, by slot position
        self.running: dict[str, list[Value | None]] = {}  # slots of a recurrence, as they come
        for t in cascade.inputs:
            a = tensors[t.name]
            if not a.is_floating_point() and a.dtype != torch.bool:
                a = a.to(torch.int64)
            elif a.is_floating_point():
                a = a.to(self.dtype)
            self.values[t.name] = Value(Labelled(a, _slots(len(t.ranks))), {})

    def outputs(self) -> dict[str, Tensor]:
        for group in evaluation_order(self.cascade):
            if group.rank is None:
                (e,) = group.einsums
                self.values[e.tensor] = self._stored(e, self.expr(e.body, self._axes(e)))
            else:
                self._recurrence(group, group.rank)
        found = {n: self._filled(n) for n in self.cascade.outputs}
        typed = self.cascade.output_types
        return {
            n: t.to(self.types[n]) if t.is_floating_point() or n in typed else t
            for n, t in found.items()
        }

    def _filled(self, name: str) -> Tensor:
        value = self.values[name]
        there = every(list(value.conditions.values()))
        if there is None:
            return value.data.tensor.clone()
        absent = -1 if _is_integer(value.data.tensor) else 0
        mask = spread(there, value.data.axes)
        data = value.data.tensor
        return torch.where(mask, data, torch.full((), absent, dtype=data.dtype, device=self.device))

    # -- statements
    def _axes(self, e: Einsum, fixed: Mapping[str, int] | None = None) -> Axes:
        extents = {r: self.bindings.extents[r] for r in e.scope}
        return Axes({r: r for r in extents}, extents, dict(fixed or {}))

    def _stored(self, e: Einsum, value: Value, without: int | None = None) -> Value:
        """A value over the ranks of a statement, named by position; without one slot of a step.

        A condition that mentions the rank of that step, or is one of a state, keeps its name.
        """
        ranks = [r for n, r in enumerate(e.ranks) if n != without]
        slots = [s for n, s in enumerate(_slots(len(e.ranks))) if n != without]
        shape = [self.bindings.extents[r] for r in ranks]
        data = spread(value.data, ranks).expand(shape)
        conditions: Conditions = {}
        for mentioned, truth in value.conditions.items():
            own = [r for r in ranks if r in mentioned]
            at = tuple(slots[ranks.index(r)] for r in own)
            sizes = [self.bindings.extents[r] for r in own]
            key = frozenset(at)
            if without is not None and (e.step is not None or e.ranks[without] in mentioned):
                key |= {_slots(len(e.ranks))[without]}
            found = Labelled(spread(truth, own).expand(sizes), at)
            if key in conditions:
                found = combine(torch.logical_and, [conditions[key], found])
            conditions[key] = found
        return Value(Labelled(data, tuple(slots)), conditions)

    def _recurrence(self, group: Group, rank: str) -> None:
        steps = self.bindings.extents[rank]
        slot = {e.tensor: e.ranks.index(rank) for e in (*group.inits, *group.einsums)}
        iterative = {e.tensor for e in (*group.inits, *group.einsums) if e.step is not None}
        for e in group.einsums:
            self.running[e.tensor] = [None] * (steps + (e.tensor in iterative))
        for e in group.inits:
            value = self.expr(e.body, self._axes(e))
            self.running.setdefault(e.tensor, [None])[0] = self._stored(e, value, slot[e.tensor])
        for n in range(steps):
            for e in group.einsums:
                value = self.expr(e.body, self._axes(e, {rank: n}))
                at = n + 1 if e.tensor in iterative else n
                self.running[e.tensor][at] = self._stored(e, value, slot[e.tensor])
        for name, at in slot.items():
            self.values[name] = self._stacked(name, at)
        for name in slot:
            self.running.pop(name, None)

    def _stacked(self, name: str, slot: int) -> Value:
        """The slots of a running tensor along an axis; those to come are 0 and absent."""
        slots = self.running[name]
        known = [v for v in slots if v is not None]
        every_slot = _slots(len(self.cascade.tensors[name].ranks))
        own = every_slot[slot]
        if not known:
            e = next(e for e in self.cascade.einsums if e.tensor == name and not e.init)
            shape = [self.bindings.extents[r] for r in e.ranks]
            shape[slot] = len(slots)
            empty = torch.zeros(shape, dtype=self.dtype, device=self.device)
            return Value(Labelled(empty, every_slot), {})
        dtype = known[0].data.tensor.dtype
        for v in known[1:]:
            dtype = torch.promote_types(dtype, v.data.tensor.dtype)
        zero = torch.zeros_like(known[0].data.tensor)
        parts = [(zero if v is None else v.data.tensor).to(dtype) for v in slots]
        data = Labelled(torch.stack(parts, slot), every_slot)
        keys = dict.fromkeys(k for v in known for k in v.conditions)
        conditions: Conditions = {}
        for key in keys:
            here = [v.conditions[key] for v in known if key in v.conditions]
            if own not in key:
                whole = every(here)
                assert whole is not None
                conditions[key] = whole
                continue
            axes = tuple(sorted(key, key=every_slot.index))
            sample = here[0]
            yes = torch.ones_like(sample.tensor)
            truths = [
                yes if v is None or key not in v.conditions else v.conditions[key].tensor
                for v in slots
            ]
            conditions[key] = Labelled(torch.stack(truths, axes.index(own)), axes)
        return Value(data, conditions)

    # -- expressions
    def expr(self, e: Expr, axes: Axes) -> Value:
        match e:
            case Const(value):
                return self._number(value)
            case Symbol(name):
                if name in self.scalars:
                    return Value(Labelled(self.scalars[name].reshape(()), ()), {})
                return self._number(self.bindings.values[name])
            case Coordinate(rank):
                if rank in axes.fixed:
                    return self._number(axes.fixed[rank])
                axis = axes.of[rank]
                counted = torch.arange(axes.extents[axis], device=self.device)
                return Value(Labelled(counted, (axis,)), {})
            case Read():
                return self._read(e, axes)
            case Map():
                return self._map(e, axes)
            case Where(body, condition):
                own = self._conditions(condition, axes)
                found = self.expr(body, axes.within(*own.values()))
                return Value(found.data, _join(found.conditions, own))
            case Reduce():
                return self._reduce(e, axes)
            case Select():
                return self._select(e, axes)

    def _number(self, value: Number) -> Value:
        dtype = (
            torch.bool
            if isinstance(value, bool)
            else torch.int64
            if isinstance(value, int)
            else self.dtype
        )
        return Value(Labelled(torch.tensor(value, dtype=dtype, device=self.device), ()), {})

    def _conditions(self, condition: Expr, axes: Axes) -> Conditions:
        conditions: Conditions = {}
        for part in conjuncts(condition):
            value = self.expr(part, axes.everywhere())
            truth = every([value.data, *value.conditions.values()])
            assert truth is not None
            conditions = _join(conditions, {axes.named(part): truth})
        return conditions

    def _operands(self, e: Map, axes: Axes) -> list[Value]:
        """The operands, each where the result depends on it."""
        if e.op not in DECIDING:
            inner = self._within(e.args, axes)
            return [self.expr(a, inner) for a in e.args]
        values = [self.expr(a, axes.everywhere()) for a in e.args[: DECIDING[e.op]]]
        if e.op == "select":
            choice = values[0].data
            other = combine(torch.logical_not, [choice])
            values += [
                self.expr(a, axes.within(c))
                for a, c in zip(e.args[1:], (choice, other), strict=True)
            ]
        elif e.op == "??":
            first = self.expr(e.args[0], axes)
            there = every(list(first.conditions.values()))
            inner = axes if there is None else axes.within(combine(torch.logical_not, [there]))
            values += [first, self.expr(e.args[1], inner)]
        return values

    def _within(self, args: Sequence[Expr], axes: Axes) -> Axes:
        """Axes for operands of which none is needed where another one is absent."""
        if len(args) == 1 or all(isinstance(a, LEAVES) for a in args):
            return axes
        conditions: Conditions = {}
        for a in args:
            conditions = _join(conditions, self._presence(a, axes))
        return axes.within(*conditions.values())

    def _presence(self, e: Expr, axes: Axes) -> Conditions:
        """Conditions of a value, as far as they are known without it."""
        match e:
            case Read():
                return self._read(e, axes).conditions
            case Map(op, args) if op not in DECIDING:
                conditions: Conditions = {}
                for a in args:
                    conditions = _join(conditions, self._presence(a, axes))
                return conditions
            case Where(body, condition):
                return _join(self._presence(body, axes), self._conditions(condition, axes))
            case Reduce(_, ranks, body):
                inner = axes
                for rank in ranks:
                    inner = inner.enter(rank, self.bindings.extents[rank])
                gone = tuple(inner.of[r] for r in ranks)
                return self._split(self._presence(body, inner), gone)[1]
        return {}

    def _map(self, e: Map, axes: Axes) -> Value:
        values = self._operands(e, axes)
        if e.op in DECIDING and any(v.conditions for v in values):
            return self._joined(e.op, values, [axes.named(a) for a in e.args])
        conditions: Conditions = {}
        for v in values:
            conditions = _join(conditions, v.conditions)
        fraction = e.op == "**" and not is_whole_exponent(e.args[1])
        data = self._real(e.op, [v.data for v in values], fraction)
        known = union([*data, *conditions.values()])
        used = [*conditions.values(), *(_any(c, known) for c in axes.needed)]
        there = every(_distinct(used))
        if there is not None:
            data = [_safe(d, there) if d.tensor.is_floating_point() else d for d in data]
        return Value(combine(MAPS[e.op], data), conditions)

    def _real(self, op: str, data: list[Labelled], needed: bool = False) -> list[Labelled]:
        """Integers as reals where the operation makes reals or has real operands."""
        floats = any(d.tensor.is_floating_point() for d in data)
        if op in REAL or floats or needed:
            return [
                Labelled(d.tensor.to(self.dtype), d.axes) if d.tensor.dtype != torch.bool else d
                for d in data
            ]
        return data

    def _joined(self, op: str, args: list[Value], named: list[frozenset[str]]) -> Value:
        """Operators whose result may be present where an operand is absent."""
        yes = Labelled(torch.tensor(True, device=self.device), ())
        known = [every([yes, *a.conditions.values()]) for a in args]
        there = [k if k is not None else yes for k in known]
        mentioned = frozenset(axis for a in args for key in a.conditions for axis in key)
        mentioned = mentioned.union(*named[: DECIDING[op]])
        data = [
            _safe(a.data, k) if a.conditions and a.data.tensor.is_floating_point() else a.data
            for a, k in zip(args, there, strict=True)
        ]
        if op == "??":
            result = combine(torch.where, [there[0], *self._real(op, data)])
            if not all(a.conditions for a in args):
                return Value(result, {})
            either = combine(torch.logical_or, there)
            return Value(result, {mentioned: either})
        if op == "select":
            choice, c = data[0], there[0]
            chosen = combine(torch.where, [choice, there[1], there[2]])
            present = combine(torch.logical_and, [c, chosen])
            result = combine(torch.where, [choice, *self._real(op, data[1:])])
            return Value(result, {mentioned: present})
        function = _or if op == "or" else _and
        present = combine(lambda *x: function(*x)[1], [*data, *there])
        result = combine(lambda *x: function(*x)[0], [*data, *there])
        return Value(result, {mentioned: present})

    # -- reads
    def _read(self, e: Read, axes: Axes) -> Value:
        running = self.running.get(e.tensor)
        if running is not None:
            found = self._running(e, axes, running)
            if found is not None:
                return found
        if running is None:
            stored = self.values[e.tensor]
        else:
            slot = self._slot_of(e.tensor)
            stored = self._stacked(e.tensor, slot)
        return self._indexed(stored, e.index, _slots(len(e.index)), axes)

    def _slot_of(self, name: str) -> int:
        for group in evaluation_order(self.cascade):
            for e in (*group.inits, *group.einsums):
                if e.tensor == name and group.rank is not None:
                    return e.ranks.index(group.rank)
        raise AssertionError(name)

    def _running(self, e: Read, axes: Axes, slots: list[Value | None]) -> Value | None:
        """A read of one slot; None where the slot differs from point to point."""
        slot = self._slot_of(e.tensor)
        at = self.expr(e.index[slot], axes.everywhere())
        if at.data.axes or at.conditions:
            return None
        n = int(at.data.tensor)
        inside = 0 <= n < len(slots) and slots[n] is not None
        value = slots[n] if inside else next((v for v in slots if v is not None), None)
        if value is None:
            return None
        index = tuple(i for k, i in enumerate(e.index) if k != slot)
        names = tuple(s for k, s in enumerate(_slots(len(e.index))) if k != slot)
        own, mentioned = _slots(len(e.index))[slot], axes.named(e.index[slot])
        found = self._indexed(value, index, names, axes, {own: mentioned})
        if inside:
            return found
        no = Labelled(torch.tensor(False, device=self.device), ())
        return Value(found.data, _join(found.conditions, {mentioned: no}))

    def _indexed(
        self,
        stored: Value,
        index: tuple[Expr, ...],
        names: tuple[str, ...],
        axes: Axes,
        fixed: Mapping[str, frozenset[str]] | None = None,
    ) -> Value:
        """A tensor at index expressions; `names` are those of its slots, and `fixed` has the axes
        that the index of a slot mentions that is taken already.
        """
        indices: dict[str, Labelled | str] = {}
        conditions: Conditions = {}
        for name, extent, i in zip(names, stored.data.tensor.shape, index, strict=True):
            if isinstance(i, Coordinate) and i.rank not in axes.fixed:
                axis = axes.of[i.rank]
                if axes.extents[axis] == extent and axis not in indices.values():
                    indices[name] = axis
                    continue
            value = self.expr(i, axes.everywhere())
            conditions = _join(conditions, value.conditions)
            at = value.data.tensor.to(torch.int64)
            inside = (at >= 0) & (at < extent)
            if not bool(inside.all()):
                inner = Labelled(inside, value.data.axes)
                conditions = _join(conditions, {axes.named(i): inner})
            elif not isinstance(i, Coordinate):
                conditions = _join(conditions, _mention(axes.named(i), self.device))
            indices[name] = Labelled(at.clamp(0, max(extent - 1, 0)), value.data.axes)
        for mentioned, truth in stored.conditions.items():
            own = _gather(truth, indices)
            of = {n: axes.named(i) for n, i in zip(names, index, strict=True)} | dict(fixed or {})
            where = frozenset(a for n in mentioned for a in of[n])
            conditions = _join(conditions, {where: own})
        return Value(_gather(stored.data, indices), conditions)

    # -- reductions
    def _reduce(self, e: Reduce, axes: Axes) -> Value:
        inner = axes
        for rank in e.ranks:
            inner = inner.enter(rank, self.bindings.extents[rank])
        gone = tuple(inner.of[r] for r in e.ranks)
        if e.op == "sum":
            fast = self._contraction(e.body, inner, gone)
            if fast is not None:
                return fast
        body = self.expr(e.body, inner)
        mask, passing = self._split(body.conditions, gone)
        kept = tuple(a for a in union([body.data, mask]) if a not in gone)
        order = (*kept, *gone)
        array = spread(body.data, order).expand([inner.extents[a] for a in order])
        present = spread(mask, order).expand(array.shape)
        result = self._fold(e.op, array.flatten(len(kept)), present.flatten(len(kept)))
        if REDUCERS[e.op].identity is None:
            number, mentioned = self._count(body.conditions, gone, inner)
            some = Labelled(number.tensor > 0, number.axes)
            passing = _join(passing, {mentioned: some})
        return Value(Labelled(result, kept), passing)

    def _contraction(self, body: Expr, axes: Axes, gone: tuple[str, ...]) -> Value | None:
        """A sum of a product without the whole product in memory."""
        conditions: Conditions = {}
        if isinstance(body, Where):
            conditions = self._conditions(body.condition, axes)
            body = body.body
        parts = _factors(body)
        if len(parts) < 2:
            return None
        inner = self._within(parts, axes.within(*conditions.values()))
        values = [self.expr(p, inner) for p in parts]
        for value in values:
            conditions = _join(conditions, value.conditions)
        filters = {k: v for k, v in conditions.items() if k & set(gone)}
        passing = {k: v for k, v in conditions.items() if not k & set(gone)}
        data = [v.data for v in values]
        if not any(d.tensor.is_floating_point() for d in data):
            return None
        data = [Labelled(d.tensor.to(self.dtype), d.axes) for d in data]
        for mask in filters.values():
            if not all(bool(torch.isfinite(d.tensor).all()) for d in data):
                return None
            host = next((n for n, d in enumerate(data) if set(mask.axes) <= set(d.axes)), None)
            if host is None:
                data.append(Labelled(mask.tensor.to(self.dtype), mask.axes))
            else:
                zero = Labelled(torch.zeros((), dtype=self.dtype, device=self.device), ())
                data[host] = combine(torch.where, [mask, data[host], zero])
        missing = [a for a in gone if not any(a in d.axes for d in data)]
        for axis in missing:
            ones = torch.ones(axes.extents[axis], dtype=self.dtype, device=self.device)
            data.append(Labelled(ones, (axis,)))
        every_axis = union(data)
        number = {a: n for n, a in enumerate(every_axis)}
        kept = tuple(a for a in every_axis if a not in gone)
        operands: list[Any] = []
        for d in data:
            operands += [d.tensor, [number[a] for a in d.axes]]
        return Value(Labelled(torch.einsum(*operands, [number[a] for a in kept]), kept), passing)

    def _fold(self, op: str, x: Tensor, present: Tensor) -> Tensor:
        """The reduction over the last dimension of the points that are present."""
        if op == "count":
            return (present & x if x.dtype == torch.bool else present).sum(-1)
        if op == "any":
            return (present & x).any(-1)
        if op == "all":
            return (~present | x).all(-1)
        if op == "mean":
            x = x.to(self.dtype)
            number = present.sum(-1).clamp(min=1)
            return torch.where(present, x, torch.zeros_like(x)).sum(-1) / number
        if op == "argmax":
            return _argmax(x.to(self.dtype) if not _is_integer(x) else x, present)
        if op in ("sum", "prod"):
            filled = torch.where(present, x, torch.full_like(x, int(op == "prod")))
            return filled.sum(-1) if op == "sum" else filled.prod(-1)
        if _is_integer(x):
            x = x.to(self.dtype) if not bool(present.any(-1).all()) else x
        bound = float("-inf") if op == "max" else float("inf")
        if x.shape[-1] == 0:
            return torch.full(x.shape[:-1], bound, dtype=self.dtype, device=self.device)
        if _is_integer(x):
            limits = torch.iinfo(x.dtype)
            least = limits.min if op == "max" else limits.max
            filled = torch.where(present, x, torch.full_like(x, least))
        else:
            filled = torch.where(present, x, torch.full_like(x, bound))
        return filled.amax(-1) if op == "max" else filled.amin(-1)

    def _select(self, e: Select, axes: Axes) -> Value:
        inner = axes.enter(e.rank, self.bindings.extents[e.rank])
        axis = inner.of[e.rank]
        body = self.expr(e.body, inner)
        mask, passing = self._split(body.conditions, (axis,))
        kept = tuple(a for a in union([body.data, mask]) if a != axis)
        order_axes = (*kept, axis)
        shape = [inner.extents[a] for a in order_axes]
        array = spread(body.data, order_axes).expand(shape)
        present = spread(mask, order_axes).expand(shape)
        order = _descending(array, present)
        if e.op == "order":
            outer = axes.of[e.rank]
            position = torch.argsort(order, dim=-1, stable=True)
            conditions = {
                frozenset(outer if a == axis else a for a in key): truth.rename(axis, outer)
                for key, truth in body.conditions.items()
            }
            return Value(Labelled(position, (*kept, outer)), conditions)
        target = axes.of[e.target]
        number = self.bindings.extents[e.target]
        short = number - order.shape[-1]
        order = order[..., :number] if short <= 0 else torch.nn.functional.pad(order, (0, short))
        if e.op == "top":
            empty = array.new_zeros(order.shape)
            picked = array.gather(-1, order) if array.shape[-1] else empty
        else:
            picked = order
        counted, mentioned = self._count(body.conditions, (axis,), inner)
        places = Labelled(torch.arange(number, device=self.device), (target,))
        enough = combine(torch.lt, [places, counted])
        passing = _join(passing, {mentioned | {target}: enough})
        found = Labelled(picked, (*kept, target))
        if e.target in axes.fixed:
            at = axes.fixed[e.target]
            passing = {k: v.take(target, at) for k, v in passing.items()}
            found = found.take(target, at)
        return Value(found, passing)

    def _split(self, conditions: Conditions, gone: tuple[str, ...]) -> tuple[Labelled, Conditions]:
        filters = every([v for k, v in conditions.items() if k & set(gone)])
        if filters is None:
            filters = Labelled(torch.tensor(True, device=self.device), ())
        return filters, {k: v for k, v in conditions.items() if not k & set(gone)}

    def _count(
        self, conditions: Conditions, gone: tuple[str, ...], axes: Axes
    ) -> tuple[Labelled, frozenset[str]]:
        mask, _ = self._split(conditions, gone)
        kept = tuple(a for a in mask.axes if a not in gone)
        order = (*kept, *gone)
        shape = [axes.extents[a] for a in order]
        number = spread(mask, order).expand(shape).flatten(len(kept)).sum(-1)
        mentioned = {a for key in conditions if key & set(gone) for a in key} - set(gone)
        return Labelled(number, kept), frozenset(mentioned)


LEAVES = (Const, Coordinate, Read, Symbol)


def _slots(number: int) -> tuple[str, ...]:
    return tuple(f"#{n}" for n in range(number))


def _is_integer(t: Tensor) -> bool:
    return not t.is_floating_point() and t.dtype != torch.bool


def _safe(value: Labelled, there: Labelled) -> Labelled:
    """1 where a value is absent."""
    one = Labelled(torch.ones((), dtype=value.tensor.dtype, device=value.tensor.device), ())
    return combine(torch.where, [there, value, one])


def _distinct(conditions: Sequence[Labelled]) -> tuple[Labelled, ...]:
    return tuple({(id(c.tensor), c.axes): c for c in conditions}.values())


def _any(truth: Labelled, axes: Sequence[str]) -> Labelled:
    """Whether it holds anywhere along the axes that are not among these."""
    gone = tuple(n for n, a in enumerate(truth.axes) if a not in axes)
    if not gone:
        return truth
    return Labelled(truth.tensor.any(gone), tuple(a for a in truth.axes if a in axes))


def _join(a: Conditions, b: Conditions) -> Conditions:
    result = dict(a)
    for key, truth in b.items():
        result[key] = combine(torch.logical_and, [result[key], truth]) if key in result else truth
    return result


def _mention(axes: frozenset[str], device: Any) -> Conditions:
    return {axes: Labelled(torch.tensor(True, device=device), ())}


def _gather(value: Labelled, indices: Mapping[str, Labelled | str]) -> Labelled:
    """A tensor over slots at an axis or an index for each of its slots."""
    names = [indices[slot] for slot in value.axes]
    if all(isinstance(n, str) for n in names):
        return Labelled(value.tensor, tuple(str(n) for n in names))
    axes = tuple(dict.fromkeys(a for n in names for a in ((n,) if isinstance(n, str) else n.axes)))
    sizes = dict(zip(value.axes, value.tensor.shape, strict=True))
    whole: list[Labelled] = []
    for slot, n in zip(value.axes, names, strict=True):
        if isinstance(n, str):
            n = Labelled(torch.arange(sizes[slot], device=value.tensor.device), (n,))
        whole.append(n)
    at = [spread(n, axes) for n in whole]
    if value.tensor.numel() == 0:
        along = zip(*(a.shape for a in at), strict=True)
        shape = [0 if 0 in sizes else max(sizes) for sizes in along]
        return Labelled(value.tensor.new_zeros(shape), axes)
    return Labelled(value.tensor[tuple(at)], axes)


def _factors(e: Expr) -> list[Expr]:
    if isinstance(e, Map) and e.op == "*":
        return [*_factors(e.args[0]), *_factors(e.args[1])]
    return [e]


def _or(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return (x & a) | (y & b), (x & a) | (y & b) | (a & b)


def _and(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return ~((~x & a) | (~y & b)), (~x & a) | (~y & b) | (a & b)


def _argmax(x: Tensor, present: Tensor) -> Tensor:
    if x.shape[-1] == 0:
        return x.new_zeros(x.shape[:-1], dtype=torch.int64)
    low = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
    filled = torch.where(present, x, torch.full_like(x, low))
    best = filled.amax(-1, keepdim=True)
    hit = present & ((x == best) | (x.isnan() & best.isnan()))
    return hit.to(torch.int8).argmax(-1)


def _descending(x: Tensor, present: Tensor) -> Tensor:
    """Indices from the largest present value down; ties to the lower index."""
    by_value = torch.argsort(x.detach(), dim=-1, descending=True, stable=True)
    absent = (~present).gather(-1, by_value).to(torch.int8)
    return by_value.gather(-1, torch.argsort(absent, dim=-1, stable=True))


def as_torch(cascade: Cascade) -> Callable[..., Any]:
    """A function of torch tensors, by keyword: the output, or a dictionary where there are several.

    Plain PyTorch operations, whole tensors in memory; autograd goes through them.
    """

    def function(*args: Any, **given: Any) -> Any:
        inputs, settings = separated(cascade, args, given)
        outputs = evaluate(cascade, inputs, settings)
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    function.__name__ = cascade.name
    function.__doc__ = str(cascade)
    return function
