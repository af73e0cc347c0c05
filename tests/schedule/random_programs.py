"""Random kernels: every kind of value, in and around loops, with tiles that live and die anywhere.

They mean nothing; what they compute is compared between executors. Their loops are not free of
order, so both must make the same visits: all tiles whole, in order.
"""

import random

from cascade.schedule.program import (
    Axis,
    Buffer,
    Carry,
    Contract,
    Fold,
    Kernel,
    Let,
    Load,
    Mask,
    Program,
    Seq,
    Store,
    tile,
)
from tests.schedule.programs import at, buffer, c, f, grid, s, stream, tiled, whole

SIZE = 8
AXES = ("p", "m", "e")
OUTSIDE = {"X": ("p",), "Y": ("p", "e"), "S": ()}
INSIDE = {**OUTSIDE, "Z": ("m", "e"), "W": ("p", "m")}


def random_program(seed):
    """One kernel with one to three loops, which stores every other value that it has at its end."""
    made = _Maker(random.Random(seed))
    known: dict[str, tuple[str, ...]] = {}
    nodes = [made.load(known, OUTSIDE) for _ in range(3)]
    nodes += made.values(known, False, made.random.randint(0, 5))
    for _ in range(made.random.randint(1, 3)):
        nodes.append(made.loop(known))
        nodes += made.values(known, False, made.random.randint(0, 5))
    outputs = []
    nothing = f("*", f("+", at("p"), at("e")), 0.0)  # gives every value both axes
    for name in list(known)[::2]:
        nodes.append(Store(f"O_{name}", (at("p"), at("e")), f("+", name, nothing)))
        outputs.append(buffer(f"O_{name}", "pe", "out", "real"))
    axes = (Axis("p", c(SIZE)), Axis("m", c(SIZE)), Axis("e", s("E")))
    places = (tiled("p", SIZE), whole("e"))
    kernel = Kernel("K", grid("", "p", SIZE), axes, places, tuple(nodes))
    inputs = [Buffer(n, r, tuple(s(x.upper()) for x in r), "any", "in") for n, r in INSIDE.items()]
    return Program(f"random_{seed}", (*inputs, *outputs), (kernel,), ())


class _Maker:
    def __init__(self, source):
        self.random, self.count = source, 0

    def fresh(self):
        self.count += 1
        return f"t{self.count}"

    def load(self, known, tensors):
        name, (tensor, axes) = self.fresh(), self.random.choice(list(tensors.items()))
        known[name] = axes
        return Load(name, tensor, tuple(at(r) for r in axes))

    def values(self, known, in_loop, count):
        kinds = [self._let] * 7 + [self._mask] * 3 + [self._fold] * 3 + [self._contract] * 4
        nodes = [
            self.load(known, INSIDE if in_loop else OUTSIDE)
            if self.random.random() < 0.15
            else self.random.choice(kinds)(known, in_loop)
            for _ in range(count)
        ]
        return [n for n in nodes if n is not None]

    def _some(self, known):
        return self.random.choice(list(known))

    def _union(self, known, *names):
        return tuple(x for x in AXES if any(x in known[n] for n in names))

    def _part(self, axes):
        return tuple(self.random.sample(axes, self.random.randint(1, len(axes))))

    def _let(self, known, in_loop):
        name, a, b = self.fresh(), self._some(known), self._some(known)
        e = self.random.choice([
            f("+", a, f("*", b, 0.5)),
            f("-", a, b),
            f("max", a, b),
            f("*", f("tanh", a), b),
            f("select", f("<", a, b), a, f("+", b, 1.0)),
            f("min", f("neg", a), f("*", b, b)),
            tile(a),
        ])  # fmt: skip
        known[name] = self._union(known, a) if e == tile(a) else self._union(known, a, b)
        return Let(name, e)

    def _mask(self, known, in_loop):
        name, a = self.fresh(), self._some(known)
        tests = [(f("<", at("p"), 7), "p")]
        if in_loop:
            tests += [(f("<=", at("m"), at("p")), "pm"), (f("<", at("m"), 11), "m")]
        chosen = self._part(tests)
        mentioned = {*known[a], *(x for _, axes in chosen for x in axes)}
        known[name] = tuple(x for x in AXES if x in mentioned)
        return Mask(name, tile(a), tuple(t for t, _ in chosen), c(self.random.choice([0.0, -1.5])))

    def _fold(self, known, in_loop):
        name, a = self.fresh(), self._some(known)
        if not known[a]:
            return None
        gone = self._part(known[a])
        known[name] = tuple(x for x in known[a] if x not in gone)
        return Fold(name, self.random.choice(["sum", "max", "min"]), f("tanh", a), gone)

    def _contract(self, known, in_loop):
        name = self.fresh()
        factors = [self._some(known) for _ in range(self.random.choice([2, 3]))]
        axes = self._union(known, *factors)
        if not axes:
            return None
        gone = self._part(axes)
        known[name] = tuple(x for x in axes if x not in gone)
        return Contract(name, tuple(f("tanh", x) for x in factors), gone)

    def loop(self, known):
        carried = {
            self.fresh(): self.random.choice([("p",), ("p", "e"), (), ("e",)])
            for _ in range(self.random.randint(1, 3))
        }
        inner = {**known, **carried}
        in_order = self.random.random() < 0.4
        nodes = self.values(inner, not in_order, self.random.randint(3, 12))
        carries = []
        for name, axes in carried.items():
            new = [n for n in inner if n not in known and set(inner[n]) <= set(axes)]
            following = self.random.choice(new)
            if self.random.random() < 0.6:
                step = self.fresh()
                nodes.append(Let(step, f("+", f("*", name, 0.5), f("tanh", following))))
                following = step
            start = c(self.random.choice([0.0, -1.0]))
            carries.append(Carry(name, start, axes, following))
        known |= carried
        scalar = self.fresh()
        if in_order:
            return Seq(scalar, c(3), (), tuple(carries), tuple(nodes))
        return stream("m", nodes, SIZE, carries=tuple(carries), scalar=scalar)
