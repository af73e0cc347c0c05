"""The graph of a cascade: who reads whom, in which pass, and which reads wait for a full pass.

`graph` makes it, `to_dict` and `to_dot` spell it, `draw` writes it as .svg, .png or .dot. Nodes are
coloured by the pass in which they visit the rank that is passed over most often. The drawing has
layers from top to bottom; an edge that crosses a layer has a lane of its own there, so that no edge
runs through a box.
"""

from __future__ import annotations

import textwrap
from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from cascade.analysis.normalise import Step
from cascade.analysis.passes import Mode, Passes, Visit
from cascade.diagnostics import input_error
from cascade.ir.cascade import Cascade
from cascade.ir.expr import Coordinate, Expr, Read, Reduce, Select
from cascade.ir.ops import REDUCERS
from cascade.ir.printer import print_einsum, print_expr
from cascade.ir.walk import reads, transform, walk

FORMATS = (".svg", ".png", ".dot")
WIDTH, LINES = 38, 3  # of the text of a statement

# Colour-blind safe (after Okabe and Ito): the border of each pass, and its tint for the box.
PASSES = (
    ("#0072B2", "#DCECF6"),
    ("#D98200", "#FCEBC8"),
    ("#00875F", "#D2EFE4"),
    ("#B8568F", "#F6E1EC"),
    ("#3E9BD1", "#E6F5FD"),
    ("#857500", "#F4EFC0"),
)
PLAIN, UNVISITED, INPUT = "#555555", "#FFFFFF", "#E9E9E9"
EDGES = {  # kind -> colour, width, dashes, name of the dashes in DOT, meaning
    "read": (PLAIN, 1.0, "solid", "solid", "reads"),
    "barrier": ("#D00000", 2.2, (0, (4, 1.5)), "dashed", "waits for a full pass over {rank}"),
    "previous": ("#6A3D9A", 1.5, (0, (1, 1.2)), "dotted", "reads the previous step"),
}

COSTLY = ("barrier", "read", "previous")


# -- what is drawn
@dataclass(frozen=True, slots=True)
class Node:
    """An input, a statement, or a reduction nested in a statement. `number` is its pass."""

    name: str
    kind: str  # input | statement | reduction
    left: str
    right: tuple[str, ...] = ()  # what defines it: one text for each statement
    number: int | None = None
    output: bool = False
    recurs: str | None = None  # the rank along which it steps

    def heading(self) -> str:
        """What stands beside the left side."""
        told = [f"↻ {self.recurs}" if self.recurs else "", "input" if self.kind == "input" else ""]
        told += [f"pass {self.number}" if self.number else "", "output" if self.output else ""]
        return ", ".join(t for t in told if t)

    def lines(self) -> list[str]:
        """What defines it, trimmed to a few short lines."""
        return [line for text in self.right for line in _trimmed(text)]

    def colours(self) -> tuple[str, str]:
        """Border and inside."""
        if self.number is None:
            return PLAIN, INPUT if self.kind == "input" else UNVISITED
        return PASSES[(self.number - 1) % len(PASSES)]


@dataclass(frozen=True, slots=True)
class Edge:
    """`target` reads `source`; `kind` is a key of `EDGES`."""

    source: str
    target: str
    kind: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes stand in an order in which only `previous` edges point backwards."""

    title: str
    rank: str  # whose passes are shown; empty where nothing is visited
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def graph(cascade: Cascade, passes: Passes) -> Graph:
    """The graph of a cascade."""
    rank = _shown_rank(cascade, passes)
    visits: dict[str, list[Visit]] = {}
    for count in passes.counts:
        for visit in count.visits if count.key.rank == rank and not count.inside else ():
            visits.setdefault(visit.step.target, []).append(visit)
    kinds = _kinds(passes, visits)
    names, inlined = _names(passes, kinds)
    steps: dict[str, list[Step]] = {}
    for step in passes.steps:  # an `init` joins its recurrence, at the place of the update
        if step.target not in inlined:
            steps[step.target] = [*steps.pop(step.target, []), step]
    nodes = [Node(t.name, "input", _left(t.name, t.ranks)) for t in cascade.inputs]
    for target, own in steps.items():
        levels = [v.level for n in names for v in visits.get(n, ()) if names[n] == names[target]]
        node = _node(own, names, inlined)
        output = target in cascade.outputs
        nodes.append(replace(node, number=max(levels, default=-1) + 1 or None, output=output))
    title = cascade.name
    title += f", {rank}: {_passes(passes.of_rank()[rank])}" if rank else ""
    steps_of = {r for c in passes.counts if c.key.rank == rank for r in c.per_step}
    title += f" per step of {', '.join(sorted(steps_of))}" if steps_of else ""
    for count in passes.counts:
        if count.inside and count.passes > 1 and f" {count.inside}:" not in title:
            title += f"; {count.inside}: {_passes(count.passes)} inside a tile"
    return Graph(title, rank, tuple(nodes), tuple(_edges(kinds, names, inlined)))


def _shown_rank(cascade: Cascade, passes: Passes) -> str:
    """The rank with the most passes; of several, the one that is reduced or stepped most."""
    parts = {part: p.rank for p in cascade.partitions for part in p.parts}
    reduced: dict[str, int] = {}
    for step in passes.steps:
        for rank in {parts.get(r, r) for r in (*step.bound, step.recurs) if r}:
            reduced[rank] = reduced.get(rank, 0) + (2 if rank == step.recurs else 1)
    slots = {r for t in cascade.inputs for r in t.ranks}
    best, name = (0, False, 0, 0), ""
    for count in passes.counts:
        rank = count.key.rank
        score = (count.passes, rank in slots, reduced.get(rank, 0), len(count.visits))
        if not count.inside and score > best:
            best, name = score, rank
    return name


def _passes(number: int) -> str:
    return f"{number} pass{'es' * (number != 1)}"


def _left(name: str, ranks: tuple[str, ...]) -> str:
    return print_expr(Read(name, tuple(Coordinate(r) for r in ranks)))


def _node(steps: list[Step], names: dict[str, str], inlined: dict[str, Step]) -> Node:
    last = steps[-1]
    bodies = [_body(step, names, inlined) for step in steps]
    if not last.named:
        left = _left(names[last.target], last.ranks)
        right = f"= {print_expr(bodies[-1])}"
        return Node(names[last.target], "reduction", left, (right,), recurs=last.recurs)
    pairs = zip(steps, bodies, strict=True)
    texts = [print_einsum(replace(step.einsum, body=body)) for step, body in pairs]
    left, _, main = texts[-1].partition(" = ")
    rights = (f"= {main}", *(f"init {text}" for text in texts[:-1]))
    return Node(last.target, "statement", left, rights, recurs=last.recurs)


def _body(step: Step, names: dict[str, str], inlined: dict[str, Step]) -> Expr:
    """The right side of a step. Reductions nested in it are read by name, or inlined again."""

    def restore(e: Expr) -> Expr | None:
        if not isinstance(e, Read) or e.tensor not in names:
            return None
        if e.tensor in inlined:
            return _body(inlined[e.tensor], names, inlined)
        return replace(e, tensor=names[e.tensor])

    body = transform(step.body, restore)
    if step.op is None:
        return body
    if step.op in REDUCERS:
        return Reduce(step.op, step.bound, body)
    written = [n for n in walk(step.einsum.body) if isinstance(n, Select) and n.op == step.op]
    own = next(n for n in written if n.target in step.ranks and step.bound in ((), (n.rank,)))
    return replace(own, body=body)


Kinds = dict[tuple[str, str], str]  # (source, target) -> kind of the edge


def _kinds(passes: Passes, visits: dict[str, list[Visit]]) -> Kinds:
    """How each step reads what it reads; of several ways, the one that costs most."""
    place = {step.target: n for n, step in enumerate(passes.steps)}
    iterative = {s.target: s.iterative for s in passes.steps if s.iterative is not None}
    recurs = {s.target: s.recurs for s in passes.steps}
    kinds: Kinds = {}
    for step in passes.steps:
        for read in reads(step.body):
            kind = "read"
            if place.get(read.tensor, -1) >= place[step.target]:
                kind = "previous"
            elif (
                step.recurs and step.recurs == recurs.get(read.tensor) and read.tensor in iterative
            ):
                earlier = read.index[iterative[read.tensor]] == Coordinate(step.recurs)
                kind = "previous" if earlier else "read"
            if kind == "read" and _waits(read.tensor, visits.get(step.target, []), passes):
                kind = "barrier"
            pair = (read.tensor, step.target)
            kinds[pair] = min(kind, kinds.get(pair, kind), key=COSTLY.index)
    return kinds


def _waits(tensor: str, visits: list[Visit], passes: Passes) -> bool:
    """Whether a visit cannot begin before a traversal of its input has made the tensor."""
    for visit in visits:
        facts = passes.dependences.get(tensor, {}).get(visit.key, ())
        before = passes.levels.get((visit.key, tensor))
        if any(d.mode is Mode.POINT for d in facts) and visit.level == before:
            continue  # both in one traversal
        if visit.after is not None and visit.through == tensor:
            return True
        if any(d.mode is Mode.POINT for d in facts):
            continue
        for d in facts:
            along = d.ranks[:1] == visit.ranks[:1]
            if d.mode is Mode.ALL or (d.mode in (Mode.PREFIX, Mode.SUFFIX) and not along):
                return True
    return False


def _names(passes: Passes, kinds: Kinds) -> tuple[dict[str, str], dict[str, Step]]:
    """The node of every step, and the nested reductions that are shown inside their only reader."""
    readers: dict[str, list[tuple[str, str]]] = {}
    for (source, target), kind in kinds.items():
        readers.setdefault(source, []).append((target, kind))
    names: dict[str, str] = {}
    inlined: dict[str, Step] = {}
    parts: dict[str, int] = {}
    for step in passes.steps:
        if step.named:
            names[step.target] = step.target
        elif [kind for _, kind in readers.get(step.target, ())] == ["read"]:
            inlined[step.target] = step
        else:
            parts[step.einsum.tensor] = parts.get(step.einsum.tensor, 0) + 1
            names[step.target] = f"{step.einsum.tensor}.{parts[step.einsum.tensor]}"
    for target in reversed(inlined):  # readers come later
        names[target] = names[readers[target][0][0]]
    return names, inlined


def _edges(kinds: Kinds, names: dict[str, str], inlined: dict[str, Step]) -> Iterator[Edge]:
    found: Kinds = {}
    for (source, target), kind in kinds.items():
        if source not in inlined:
            pair = (names.get(source, source), names[target])
            found[pair] = min(kind, found.get(pair, kind), key=COSTLY.index)
    for (source, target), kind in found.items():
        yield Edge(source, target, kind)


def _trimmed(text: str) -> list[str]:
    lines = textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], lines[LINES - 1][: WIDTH - 2] + " …"]
    return lines


# -- as text
def to_dict(cascade: Cascade, passes: Passes) -> dict[str, Any]:
    """The graph for programs."""
    g = graph(cascade, passes)
    return {
        "name": cascade.name,
        "rank": g.rank,
        "passes": passes.of_rank(),
        "nodes": [
            {
                "name": n.name,
                "kind": n.kind,
                "text": " ".join((n.left, *n.right)),
                "pass": n.number,
                "output": n.output,
                "recurs": n.recurs,
            }
            for n in g.nodes
        ],
        "edges": [{"from": e.source, "to": e.target, "kind": e.kind} for e in g.edges],
    }


def to_dot(cascade: Cascade, passes: Passes) -> str:
    """The graph in the language of Graphviz."""
    g = graph(cascade, passes)
    lines = [f"digraph {_quoted(cascade.name)} {{", f"  label={_quoted(g.title)}; labelloc=t;"]
    lines.append('  node [shape=box, style=filled, fontname="monospace"];')
    for n in g.nodes:
        border, inside = n.colours()
        label = _quoted("".join(f"{x}\n" for x in (n.left, *n.lines(), n.heading()) if x))
        style = f'color="{border}", fillcolor="{inside}", penwidth={3 if n.output else 1}'
        lines.append(f"  {_quoted(n.name)} [label={label}, {style}];")
    for e in g.edges:
        colour, width, _, dashes, _ = EDGES[e.kind]
        style = f'color="{colour}", style={dashes}, penwidth={width}'
        style += ", constraint=false" if e.kind == "previous" else ""
        lines.append(f"  {_quoted(e.source)} -> {_quoted(e.target)} [{style}];")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\l")
    return f'"{escaped}"'


# -- layers: where everything stands. Lengths are inches; y grows downwards.
SIZE, TITLE = 8, 11  # points
CHARACTER, LINE, PAD = 0.0669, 0.155, 0.09  # of DejaVu Sans Mono at that size
APART, ROW, LOOP, MARGIN, KEY = 0.3, 0.6, 0.35, 0.3, 0.4


@dataclass(slots=True)
class Box:
    """A node in its layer, or (without a node) the lane of an edge through a layer."""

    name: str
    layer: int
    node: Node | None = None
    loops: bool = False
    x: float = 0.0  # of the centre
    top: float = 0.0

    @property
    def width(self) -> float:
        if self.node is None:
            return 0.0
        texts = [f"{self.node.left}   {self.node.heading()}", *self.node.lines()]
        return max(map(len, texts)) * CHARACTER + 2 * PAD

    @property
    def height(self) -> float:
        return (1 + len(self.node.lines())) * LINE + 2 * PAD if self.node else 0.0

    def apart(self, right: Box) -> float:
        """The least distance of the centres of two neighbours."""
        loop = LOOP if self.loops else 0.0
        return self.width / 2 + loop + APART * (0.5 if self.node is None else 1) + right.width / 2


@dataclass(slots=True)
class Layout:
    """Boxes by name, layers from top to bottom, and the boxes that each edge runs through."""

    boxes: dict[str, Box]
    layers: list[list[Box]]
    routes: dict[Edge, tuple[str, ...]]
    rows: list[tuple[float, float]]  # top and bottom of each layer
    width: float = 0.0
    height: float = 0.0


def layout(g: Graph) -> Layout:
    """Layers by longest path, few crossings, and edges as straight as the boxes allow."""
    level = _levels(g)
    loops = {e.source for e in g.edges if e.source == e.target}
    boxes = {n.name: Box(n.name, level[n.name], n, n.name in loops) for n in g.nodes}
    routes: dict[Edge, tuple[str, ...]] = {}
    for e in g.edges:
        step = 1 if level[e.target] > level[e.source] else -1
        lanes = [
            Box(f"{e.source} {e.kind} {step} {n}", n)  # shared by the edges of a source
            for n in range(level[e.source] + step, level[e.target], step)
        ]
        for lane in lanes if e.source != e.target else ():
            boxes.setdefault(lane.name, lane)
        if e.source != e.target:
            routes[e] = (e.source, *(lane.name for lane in lanes), e.target)
    layers: list[list[Box]] = [[] for _ in range(max(level.values(), default=0) + 1)]
    for box in boxes.values():
        layers[box.layer].append(box)
    result = Layout(boxes, layers, routes, [])
    links = _links(result)
    _order(layers, links)
    _place(layers, links)
    y = MARGIN + 2.5 * LINE
    for layer in layers:
        height = max(b.height for b in layer)
        for b in layer:
            b.top = y + (height - b.height) / 2
        result.rows.append((y, y + height))
        y += height + ROW
    result.height = y - ROW + MARGIN
    result.width = max(b.x + b.width / 2 + LOOP for b in boxes.values()) + MARGIN
    return result


def _levels(g: Graph) -> dict[str, int]:
    """The layer of each node: below all it reads; what reads nothing stands above its reader."""
    import networkx as nx

    place = {n.name: i for i, n in enumerate(g.nodes)}
    down = nx.DiGraph()
    down.add_nodes_from(place)
    for e in g.edges:  # the way down, also for an edge that points up
        if e.source != e.target:
            down.add_edge(*sorted((e.source, e.target), key=place.__getitem__))
    level = {n: i for i, names in enumerate(nx.topological_generations(down)) for n in names}
    for n in g.nodes:
        if not down.in_degree(n.name):
            level[n.name] = min((level[s] for s in down.successors(n.name)), default=1) - 1
    return level


Links = dict[tuple[str, int], list[Box]]  # (name, -1 or +1) -> joined boxes above or below


def _links(made: Layout) -> Links:
    links: Links = {(name, side): [] for name in made.boxes for side in (-1, 1)}
    for route in made.routes.values():
        for pair in pairwise(route):
            a, b = sorted((made.boxes[name] for name in pair), key=lambda box: box.layer)
            if b not in links[a.name, 1]:
                links[a.name, 1].append(b)
                links[b.name, -1].append(a)
    return links


def _order(layers: list[list[Box]], links: Links) -> None:
    """Sort each layer by the mean place of its neighbours, and keep the best order seen."""
    place = _places(layers)
    best, fewest = [list(layer) for layer in layers], _crossings(layers, links, place)
    for sweep in range(24):
        side = 1 if sweep % 2 else -1
        for layer in layers[::-side]:
            wanted = {
                box.name: _mean([place[b.name] for b in links[box.name, side]], place[box.name])
                for box in layer
            }
            layer.sort(key=lambda box, wanted=wanted: wanted[box.name])  # type: ignore[misc]
            place |= _places([layer])
        crossings = _crossings(layers, links, place)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    for layer, order in zip(layers, best, strict=True):
        layer[:] = order


def _places(layers: list[list[Box]]) -> dict[str, float]:
    """The place in its layer of every box, counted from the middle."""
    return {b.name: n - (len(layer) - 1) / 2 for layer in layers for n, b in enumerate(layer)}


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _crossings(layers: list[list[Box]], links: Links, place: dict[str, float]) -> int:
    """Pairs of links between two layers whose ends stand in opposite orders."""
    total = 0
    for layer in layers:
        seen: list[float] = []
        for box in layer:
            ends = sorted(place[b.name] for b in links[box.name, 1])
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _place(layers: list[list[Box]], links: Links) -> None:
    """Move every box towards its neighbours, as far as those beside it leave room."""
    for layer in layers:
        _settle(layer, [0.0] * len(layer), [1.0] * len(layer))
    for sweep in range(40):
        for layer in layers[:: -1 if sweep % 2 else 1]:
            wanted, weights = [], []
            for box in layer:
                near = [b for side in (-1, 1) for b in links[box.name, side]]
                pulls = [4.0 if box.node is None and b.node is None else 1.0 for b in near]
                total = sum(pulls)
                drawn = sum(w * b.x for w, b in zip(pulls, near, strict=True))
                wanted.append(drawn / total if total else box.x)
                weights.append(total or 0.1)
            _settle(layer, wanted, weights)
    left = min(b.x - b.width / 2 for layer in layers for b in layer)
    for layer in layers:
        for box in layer:
            box.x += MARGIN - left


def _settle(layer: list[Box], wanted: list[float], weights: list[float]) -> None:
    """The places nearest to those wanted (least squares) that keep the boxes apart."""
    offset = 0.0
    blocks: list[tuple[float, float, int]] = []  # shift wanted, weight, boxes
    offsets: list[float] = []
    for n, box in enumerate(layer):
        offset += layer[n - 1].apart(box) if n else 0.0
        offsets.append(offset)
        shift, weight, size = wanted[n] - offset, weights[n], 1
        while blocks and blocks[-1][0] > shift:  # they would overlap: move as one
            other, heavy, many = blocks.pop()
            shift = (shift * weight + other * heavy) / (weight + heavy)
            weight, size = weight + heavy, size + many
        blocks.append((shift, weight, size))
    shifts = [shift for shift, _, size in blocks for _ in range(size)]
    for box, shift, start in zip(layer, shifts, offsets, strict=True):
        box.x = start + shift


# -- pictures
def draw(cascade: Cascade, passes: Passes, path: str | Path) -> None:
    """Write the graph to a file, in the format of its suffix. Raises `InputError`."""
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        formats = ", ".join(FORMATS[:-1]) + f" or {FORMATS[-1]}"
        raise input_error("file-format", f"{path}: a drawing is written to {formats}")
    if not target.parent.is_dir():
        raise input_error("file-write", f"there is no folder {target.parent}")
    try:
        if suffix == ".dot":
            target.write_text(to_dot(cascade, passes), encoding="utf-8")
        else:
            _paint(graph(cascade, passes), target, suffix[1:])
    except OSError as e:
        raise input_error("file-write", f"{path} cannot be written: {e.strerror or e}") from None


def _paint(g: Graph, target: Path, form: str) -> None:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise input_error(
            "missing-package",
            f"drawing .{form} needs the package matplotlib",
            "install it: `pip install matplotlib`",
            "or write .dot, the language of Graphviz, which needs no package",
        ) from None
    made = layout(g)
    settings: dict[Any, Any] = {
        "svg.hashsalt": "cascade",  # the same names in every run
        "svg.fonttype": "none",  # text stays text
        "font.family": ["DejaVu Sans Mono", "monospace"],
    }
    with matplotlib.rc_context(settings):
        keys = _legend(g, made)
        figure = Figure(figsize=(made.width, made.height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, made.width), ylim=(made.height, 0))
        axes.set_axis_off()
        axes.text(MARGIN, MARGIN, g.title, size=TITLE, weight="bold", va="center")
        ports = _ports(made)
        for e in g.edges:
            loop = e.source == e.target
            _edge(axes, e.kind, _loop(made.boxes[e.source]) if loop else _curve(e, made, ports))
        for box in made.boxes.values():
            if box.node is not None:
                _box(axes, box, box.node)
        for key in keys:
            _key(axes, *key)
        dpi = min(150.0, 30_000 / max(made.width, made.height))
        unsaid = ("Date", "Creator") if form == "svg" else ("Software",)
        figure.savefig(target, format=form, dpi=dpi, metadata=dict.fromkeys(unsaid))


def _box(axes: Any, box: Box, node: Node) -> None:
    left, right = box.x - box.width / 2, box.x + box.width / 2
    _frame(axes, (left, box.top, box.width, box.height), node)
    y = box.top + PAD + LINE / 2
    axes.text(left + PAD, y, node.left, size=SIZE, weight="bold", va="center")
    colour = node.colours()[0]
    axes.text(right - PAD, y, node.heading(), size=SIZE, color=colour, va="center", ha="right")
    for n, line in enumerate(node.lines(), 1):
        text = line.lstrip()  # SVG drops leading spaces
        indent = (len(line) - len(text)) * CHARACTER
        axes.text(left + PAD + indent, y + n * LINE, text, size=SIZE, va="center")


def _frame(axes: Any, place: tuple[float, float, float, float], node: Node) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y, width, height = place
    border, inside = node.colours()
    style = (
        f"round,pad=0,rounding_size={min(0.12, 0.5 * height) if node.kind == 'reduction' else 0.02}"
    )
    thick = 2.8 if node.output else 1.0
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle=style, ec=border, fc=inside, lw=thick, zorder=3
        )
    )


Point = tuple[float, float]
Ports = dict[tuple[str, str, str], float]  # (box, neighbour, way) -> where the edge meets the box


def _ports(made: Layout) -> Ports:
    met: dict[tuple[str, bool], set[tuple[str, str]]] = {}  # the edges at a side of a box
    for e, route in made.routes.items():
        for a, b in (*pairwise(route), *pairwise(reversed(route))):
            below = made.boxes[b].layer > made.boxes[a].layer
            met.setdefault((a, below), set()).add((b, _way(e, made)))
    ports: Ports = {}
    for (name, _), edges in met.items():
        box = made.boxes[name]
        gap = min(0.3, 0.8 * box.width / max(1, len(edges) - 1))
        for n, (other, way) in enumerate(sorted(edges, key=lambda p: (made.boxes[p[0]].x, p))):
            ports[name, other, way] = box.x + (n - (len(edges) - 1) / 2) * gap
    return ports


def _way(e: Edge, made: Layout) -> str:
    """Kind and direction: two boxes that read each other are joined twice."""
    down = made.boxes[e.source].layer < made.boxes[e.target].layer
    return f"{e.kind} {'down' if down else 'up'}"


def _curve(e: Edge, made: Layout, ports: Ports) -> list[Point]:
    """Points of Bézier curves: straight through the layers, bent between them."""
    route = [made.boxes[name] for name in made.routes[e]]
    down, way = route[0].layer < route[1].layer, _way(e, made)
    first = route[0]
    points: list[Point] = []
    for a, b in pairwise(route):
        x, x_next = ports[a.name, b.name, way], ports[b.name, a.name, way]
        leave, enter = made.rows[a.layer][down], made.rows[b.layer][not down]
        points = points or [(x, first.top + first.height * down)]
        points += [points[-1], (x, leave), (x, leave)]
        middle = (leave + enter) / 2
        points += [(x, middle), (x_next, middle), (x_next, enter)]
    last = route[-1]
    end = (points[-1][0], last.top + last.height * (not down))
    return [*points, points[-1], end, end]


def _loop(box: Box) -> list[Point]:
    x, y = box.x + box.width / 2, box.top + box.height / 2
    reach, half = x + 1.1 * LOOP, min(0.12, box.height / 3)
    return [(x, y - half), (reach, y - 2 * half), (reach, y + 2 * half), (x, y + half)]


def _edge(axes: Any, kind: str, points: list[Point]) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path as Curve

    colour, width, dashes, _, _ = EDGES[kind]
    order = 2 if kind == "barrier" else 1
    curve = Curve(points, [Curve.MOVETO] + [Curve.CURVE4] * (len(points) - 1))
    axes.add_patch(PathPatch(curve, fc="none", ec=colour, lw=width, ls=dashes, zorder=order))
    (x, y), (x0, y0) = points[-1], next(p for p in reversed(points) if p != points[-1])
    length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
    dx, dy = 0.1 * (x - x0) / length, 0.1 * (y - y0) / length
    head = [(x, y), (x - dx + dy / 2, y - dy - dx / 2), (x - dx - dy / 2, y - dy + dx / 2)]
    axes.add_patch(Polygon(head, fc=colour, ec=colour, lw=0.5, zorder=order))


def _legend(g: Graph, made: Layout) -> list[tuple[float, float, str, Node | str]]:
    """What the colours and lines mean, each with its place; makes room for them below the graph."""
    samples: dict[str, Node | str] = {}
    if any(n.kind == "input" for n in g.nodes):
        samples["input"] = Node("", "input", "")
    for number in sorted({n.number for n in g.nodes if n.number}):
        samples[f"pass {number} over {g.rank}"] = Node("", "statement", "", number=number)
    if g.rank and any(n.number is None and n.kind != "input" for n in g.nodes):
        samples[f"no visit of {g.rank}"] = Node("", "statement", "")
    if any(n.kind == "reduction" for n in g.nodes):
        samples["part of a statement"] = Node("", "reduction", "")
    kinds = {e.kind for e in g.edges}
    samples |= {style[-1].format(rank=g.rank): k for k, style in EDGES.items() if k in kinds}
    widest = max((KEY + len(text) * CHARACTER for text in samples), default=0.0)
    made.width = max(made.width, widest + 2 * MARGIN, len(g.title) * 0.094 + 2 * MARGIN)
    keys: list[tuple[float, float, str, Node | str]] = []
    x, y = MARGIN, made.height + LINE
    for text, sample in samples.items():
        length = KEY + len(text) * CHARACTER
        if x > MARGIN and x + length > made.width - MARGIN:
            x, y = MARGIN, y + 1.5 * LINE
        keys.append((x, y, text, sample))
        x += length + APART
    made.height = y + MARGIN
    return keys


def _key(axes: Any, x: float, y: float, text: str, sample: Node | str) -> None:
    if isinstance(sample, Node):
        _frame(axes, (x, y - 0.07, 0.3, 0.14), sample)
    else:
        _edge(axes, sample, [(x, y), (x, y), (x + 0.3, y), (x + 0.3, y)])
    axes.text(x + KEY, y, text, size=SIZE, va="center")
