"""What is drawn of a graph: nodes of some size, and lines between them. No pixels yet.

Lengths are in diameters of a plain node. A nested node is a box with the scene of its graph inside.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import sparse

from pgmdiff.errors import GraphError
from pgmdiff.graphs.containment import incidence
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Ints
from pgmdiff.plotting.ink import count_text, short_name, text_width
from pgmdiff.plotting.layouts import LAYOUTS, Points, edges_of, ring, separated

__all__ = ["MAX_NODES", "Node", "Scene", "factor_scene", "hasse_scene", "n_nodes", "named_counts"]

MAX_NODES = 3_000
MAX_INNER = 60
"""Nodes of an inner graph that is drawn in full."""

NAMED = 150
"""Nodes above which names are left out unless asked for."""
SWEEPS = 9

Graph = FactorGraph | RegionGraph
Kind = Literal["circle", "square", "plate", "box"]
Segment = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Node:
    """A node at (x, y): a circle, a square, a plate as wide as its name, or a box with a scene."""

    name: str
    count: Fraction
    kind: Kind
    x: float
    y: float
    width: float = 1.0
    height: float = 1.0
    inside: "Scene | None" = None
    note: str = ""


@dataclass(frozen=True)
class Scene:
    """Nodes and edges; dashed: edges around a periodic lattice, to factors drawn again."""

    nodes: Sequence[Node]
    edges: Sequence[Segment] = ()
    dashed: Sequence[Segment] = ()
    ghosts: Sequence[tuple[float, float]] = field(default=())

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top; a scene without nodes has no size."""
        if not self.nodes:
            return 0.0, 0.0, 0.0, 0.0
        boxes = np.array([(n.x, n.y, n.width / 2, n.height / 2) for n in self.nodes])
        ghosts = [(x, y, 0.5, 0.5) for x, y in self.ghosts]
        bends = [(x, y, 0.0, 0.0) for edge in self.edges for x, y in edge]
        x, y, w, h = np.array([*boxes, *ghosts, *bends]).T
        return (
            float((x - w).min()),
            float((x + w).max()),
            float((y - h).min()),
            float((y + h).max()),
        )

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        left, right, bottom, top = self.bounds
        return right - left, top - bottom

    def centred(self, x: float, y: float) -> "Scene":
        """The scene moved so that its middle is at (x, y)."""
        left, right, bottom, top = self.bounds
        dx, dy = x - (left + right) / 2, y - (bottom + top) / 2
        return Scene(
            [replace(node, x=node.x + dx, y=node.y + dy) for node in self.nodes],
            [((a + dx, b + dy), (c + dx, d + dy)) for (a, b), (c, d) in self.edges],
            [((a + dx, b + dy), (c + dx, d + dy)) for (a, b), (c, d) in self.dashed],
            [(a + dx, b + dy) for a, b in self.ghosts],
        )


def n_nodes(graph: Graph) -> int:
    """Variables and factors, or regions, of the outermost level."""
    if isinstance(graph, FactorGraph):
        return len(graph.variables) + len(graph.factors)
    return graph.n_regions


def named_counts(graph: Graph) -> list[tuple[Hashable, Fraction]]:
    """Counting numbers as fractions, by name; of a factor graph, variables first."""
    if isinstance(graph, FactorGraph):
        counts = graph.counting_numbers()
        return [(name, Fraction(counts[name])) for name in (*graph.variables, *graph.factors)]
    numerators = [int(c) for g in graph.groups for c in g.counts]
    return [
        (n, Fraction(c, graph.denominator)) for n, c in zip(graph.names, numerators, strict=True)
    ]


def check_size(number: int, what: str, remedy: str) -> None:
    """Raises `GraphError` where nodes could not be told apart."""
    if number > MAX_NODES:
        raise GraphError(
            f"plot: expected at most {MAX_NODES} {what}, got {number}: more cannot be told apart. "
            + remedy
        )


# ---------------------------------------------------------------- factor graphs


def factor_scene(graph: FactorGraph, layout: str, depth: int = 1) -> Scene:
    """Circles for variables, squares for factors, boxes for nested nodes down to a depth."""
    check_size(
        n_nodes(graph),
        "nodes",
        "Draw a part: FactorGraph.from_scopes({f: graph.scopes[f] for f in graph.factors[:500]}).",
    )
    kinds: list[Kind] = ["circle" for _ in graph.variables]
    kinds += ["square" for _ in graph.factors]
    scope_of: Mapping[Hashable, Hashable] = graph.scopes
    nodes = [
        _nested_node(name, count, graph.nested[name], depth)
        if name in graph.nested
        else Node("" if scope_of.get(name, ()) == name else short_name(name), count, kind, 0.0, 0.0)
        for (name, count), kind in zip(named_counts(graph), kinds, strict=True)
    ]
    placed = LAYOUTS[layout](graph)
    points = placed.points
    if graph.nested:
        points = separated(points, np.array([(node.width, node.height) for node in nodes]))
    nodes = [_moved(node, x, y) for node, (x, y) in zip(nodes, points.tolist(), strict=True)]
    return _with_edges(graph, nodes, points, {} if graph.nested else placed.ghosts)


def _with_edges(
    graph: FactorGraph,
    nodes: list[Node],
    points: Points,
    ghosts: dict[tuple[int, int], tuple[float, float]],
) -> Scene:
    at = [(float(x), float(y)) for x, y in points]
    edges = [(at[f], at[v]) for f, v in edges_of(graph) if (f, v) not in ghosts]
    dashed = [(place, at[v]) for (_, v), place in ghosts.items()]
    return Scene(nodes, edges, dashed, list(ghosts.values()))


def _nested_node(name: Hashable, count: Fraction, inner: Graph, depth: int) -> Node:
    """A box around the scene of its graph, or around the number of its nodes."""
    size = n_nodes(inner)
    caption = _width(f"{short_name(name)}  {count_text(count)}", 0.3) + 0.6
    if depth == 0 or size > MAX_INNER:
        note = f"{size} nodes" if size != 1 else "1 node"
        width = max(caption, _width(note, 0.28) + 0.5)
        return Node(short_name(name), count, "box", 0.0, 0.0, width, 1.5, None, note)
    if isinstance(inner, FactorGraph):
        scene = factor_scene(inner, "spatial", depth - 1)
    else:
        scene = hasse_scene(inner, loops=True)
    width, height = scene.size
    return Node(
        short_name(name), count, "box", 0.0, 0.0, max(width + 1.0, caption), height + 1.3, scene
    )


def _moved(node: Node, x: float, y: float) -> Node:
    inside = node.inside and node.inside.centred(x, y - 0.1)
    return replace(node, x=x, y=y, inside=inside)


def _width(text: str, size: float) -> float:
    return text_width(text) * size


# ---------------------------------------------------------------- region graphs


def hasse_scene(graph: RegionGraph, *, loops: bool = False) -> Scene:
    """Outer regions on top, smaller ones below by size, lines where one lies just inside another.

    With `loops`, regions that form one loop are drawn as a loop.
    """
    check_size(graph.n_regions, "regions", "For windows of a tensor use layout='counts'.")
    named = named_counts(graph)
    regions, outer = _regions(graph)
    inside = _covers(regions, graph.n_elements)
    names = [short_name(name) for name, _ in named]
    widths = np.array([_plate(name) if len(names) <= NAMED else 1.2 for name in names])
    around = ring(len(names), inside) if loops else None
    if around is None:
        rows = _rows(np.array([len(region) for region in regions]), outer)
        points, lines = _in_rows(rows, widths, inside)
    else:
        points, lines = around * widths.max() / 1.2, [list(pair) for pair in inside]
    nodes = [
        Node(text, count, "plate", x, y, float(width))
        for text, (_, count), (x, y), width in zip(
            names, named, points.tolist(), widths, strict=False
        )
    ]
    at = [(float(x), float(y)) for x, y in points]
    return Scene(nodes, [(at[a], at[b]) for line in lines for a, b in pairwise(line)])


def _plate(name: str) -> float:
    """Width of the plate that a name is written on."""
    return min(max(1.2, _width(name, 0.3) + 0.45), 6.0)


def _regions(graph: RegionGraph) -> tuple[list[Ints], list[bool]]:
    regions, outer = [], []
    for group in graph.groups:
        index = group.indices(0, len(group)).reshape(len(group), -1).numpy()
        regions += [np.sort(row) for row in index]
        outer += group.outer.tolist()
    return regions, outer


def _covers(regions: list[Ints], n_elements: int) -> list[tuple[int, int]]:
    """(smaller, larger) pairs of nested regions with none between: the transitive reduction."""
    if not regions:
        return []
    contains = incidence(regions, n_elements)
    shared = (contains @ contains.T).tocoo()
    size = np.array([len(region) for region in regions])
    within = (shared.data == size[shared.row]) & (size[shared.row] < size[shared.col])
    pairs = np.ones(int(within.sum())), (shared.row[within], shared.col[within])
    order = sparse.csr_array(pairs, shape=shared.shape)
    between = (order @ order).astype(bool).astype(float)
    direct = (order - order.multiply(between)).tocoo()
    direct.eliminate_zeros()
    return list(zip(direct.row.tolist(), direct.col.tolist(), strict=True))


def _rows(sizes: Ints, outer: list[bool]) -> Ints:
    """Row of each region: 0 if it is outer, then by size."""
    below = sorted({int(s) for s, o in zip(sizes, outer, strict=True) if not o}, reverse=True)
    rank = {size: row for row, size in enumerate(below, start=1)}
    return np.array([0 if o else rank[int(s)] for s, o in zip(sizes, outer, strict=True)], np.int64)


def _in_rows(
    rows: Ints, widths: Points, inside: Sequence[tuple[int, int]]
) -> tuple[Points, list[list[int]]]:
    """Rows centred and ordered so that few lines cross; long rows are staggered.

    Returns positions, with those of bends after the regions', and a line of positions' numbers for
    every pair of `inside`: it bends where it passes a row, so as not to run under its plates.
    """
    rows, widths, lines = _with_bends(rows, widths, inside)
    near: list[list[int]] = [[] for _ in rows]
    for line in lines:
        for a, b in pairwise(line):
            near[a].append(b)
            near[b].append(a)
    members = [np.flatnonzero(rows == row) for row in np.unique(rows)]
    points = np.zeros((len(rows), 2))
    widest = max((_extent(widths[row]) for row in members), default=0.0)
    for sweep in range(SWEEPS):
        for row in members if sweep % 2 == 0 else members[::-1]:
            wanted = [float(points[near[m], 0].mean()) if near[m] else np.inf for m in row]
            ordered = row[np.argsort(wanted, kind="stable")] if sweep else row
            points[ordered, 0] = _across(widths[ordered], widest)
    level = 0.0
    for row in members:
        depth = _stagger(len(row))
        ordered = row[np.argsort(points[row, 0], kind="stable")]
        points[ordered, 1] = level - 1.3 * (np.arange(len(row)) % depth)
        level -= 1.3 * (depth - 1) + min(max(2.2, 0.12 * widest), 12.0)
    return points, lines


def _with_bends(
    rows: Ints, widths: Points, inside: Sequence[tuple[int, int]]
) -> tuple[Ints, Points, list[list[int]]]:
    """Rows and widths with those of bends added, and the lines through them."""
    bends: list[int] = []
    lines = []
    for smaller, larger in inside:
        between = range(rows[smaller] - 1, rows[larger], -1) if len(rows) <= NAMED else ()
        first = len(rows) + len(bends)
        bends += between
        lines.append([smaller, *range(first, first + len(between)), larger])
    narrow = np.full(len(bends), 0.2)
    return np.append(rows, bends).astype(np.int64), np.append(widths, narrow), lines


def _stagger(n: int) -> int:
    """Over how many heights a row of n plates is spread."""
    return min(5, -(-n // 30))


def _extent(widths: Points) -> float:
    return float(widths.sum() + 0.4 * len(widths)) / _stagger(len(widths))


def _across(widths: Points, widest: float) -> Points:
    """Places side by side, spread towards the width of the widest row."""
    depth = _stagger(len(widths))
    gap = 0.4 + 0.6 * depth * (widest - _extent(widths)) / len(widths)
    steps = (widths + gap) / depth
    return np.asarray(np.cumsum(steps) - steps / 2 - steps.sum() / 2, np.float64)
