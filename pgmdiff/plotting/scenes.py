"""Scenes: the nodes of a graph with their sizes and positions, and the lines between them.

Lengths are in diameters of a plain node. A nested node is a box that holds the scene of its graph.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import networkx as nx
import numpy as np

from pgmdiff.errors import GraphError
from pgmdiff.graphs.containment import incidence
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Floats, Ints
from pgmdiff.plotting.layouts import LAYOUTS, edges_of, fitted, ring
from pgmdiff.plotting.style import short_name, text_size
from pgmdiff.text import count_text, counted

__all__ = [
    "MAX_NODES",
    "Node",
    "Scene",
    "check_size",
    "factor_scene",
    "hasse_scene",
    "listed",
]

MAX_NODES = 3_000
MAX_INNER = 60
"""Most nodes of an inner graph that is drawn in full."""
NAMED = 150
"""Most nodes whose names are written without being asked for."""
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
    x: float = 0.0
    y: float = 0.0
    width: float = 1.0
    height: float = 1.0
    inside: "Scene | None" = None
    note: str = ""


@dataclass(frozen=True)
class Scene:
    """Nodes of one level, and the lines between them; those of nested graphs are inside boxes.

    Dashed lines leave a periodic lattice, to ghosts: factors that are drawn once more.
    """

    nodes: Sequence[Node]
    edges: Sequence[Segment] = ()
    dashed: Sequence[Segment] = ()
    ghosts: Sequence[tuple[float, float]] = ()

    def all_nodes(self) -> Iterator[Node]:
        """Yields the nodes of this scene and of the scenes inside them."""
        for node in self.nodes:
            yield node
            if node.inside:
                yield from node.inside.all_nodes()

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top; a scene without nodes has no size."""
        boxes = [(node.x, node.y, node.width / 2, node.height / 2) for node in self.nodes]
        ghosts = [(x, y, 0.5, 0.5) for x, y in self.ghosts]
        bends = [(x, y, 0.0, 0.0) for edge in self.edges for x, y in edge]
        x, y, w, h = np.array([*boxes, *ghosts, *bends] or [(0.0, 0.0, 0.0, 0.0)]).T
        ends = (x - w).min(), (x + w).max(), (y - h).min(), (y + h).max()
        left, right, bottom, top = map(float, ends)
        return left, right, bottom, top

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        left, right, bottom, top = self.bounds
        return right - left, top - bottom

    def centred(self, x: float, y: float) -> "Scene":
        """Returns the scene moved so that its middle is at (x, y)."""
        left, right, bottom, top = self.bounds
        dx, dy = x - (left + right) / 2, y - (bottom + top) / 2
        return Scene(
            [replace(node, x=node.x + dx, y=node.y + dy) for node in self.nodes],
            [((a + dx, b + dy), (c + dx, d + dy)) for (a, b), (c, d) in self.edges],
            [((a + dx, b + dy), (c + dx, d + dy)) for (a, b), (c, d) in self.dashed],
            [(a + dx, b + dy) for a, b in self.ghosts],
        )


def listed(graph: RegionGraph) -> list[tuple[Hashable, Fraction, bool]]:
    """Returns name and counting number of each region, and whether it is outer."""
    return [
        (name, Fraction(int(count), graph.denominator), bool(outer))
        for group in graph.groups
        for name, count, outer in zip(group.names, group.counts, group.outer, strict=True)
    ]


def check_size(number: int, what: str, remedy: str) -> None:
    """Raises `GraphError` if there are more nodes than can be told apart."""
    if number > MAX_NODES:
        raise GraphError(
            f"plot: expected at most {MAX_NODES} {what}, got {number}: more cannot be told apart. "
            + remedy
        )


def factor_scene(graph: FactorGraph, layout: str, depth: int = 1) -> Scene:
    """Places circles for variables, squares for factors, and boxes for nested nodes.

    Graphs nested deeper than `depth` are boxes that state their numbers of nodes.
    """
    check_size(
        _n_nodes(graph),
        "nodes",
        "Draw a part: FactorGraph.from_scopes({f: graph.scopes[f] for f in graph.factors[:500]}).",
    )
    nodes = []
    counts, scopes = graph.counting_numbers(), graph.scopes
    for number, name in enumerate((*graph.variables, *graph.factors)):
        count, text, inner = Fraction(counts[name]), short_name(name), graph.nested.get(name)
        if inner is None:
            kind: Kind = "circle" if number < len(graph.variables) else "square"
            named_by_scope = isinstance(name, tuple) and scopes.get(name) == name
            nodes.append(Node("" if named_by_scope else text, count, kind))
            continue
        width = 0.3 * text_size(f"{text}  {count_text(count)}")[0] + 0.6
        if depth == 0 or _n_nodes(inner) > MAX_INNER:
            note = counted(_n_nodes(inner), "node")
            width = max(width, 0.28 * text_size(note)[0] + 0.5)
            nodes.append(Node(text, count, "box", width=width, height=1.5, note=note))
        else:
            if isinstance(inner, FactorGraph):
                scene = factor_scene(inner, "spatial", depth - 1)
            else:
                scene = hasse_scene(inner, loops=True)
            width, height = max(scene.size[0] + 1, width), scene.size[1] + 1.3
            nodes.append(Node(text, count, "box", width=width, height=height, inside=scene))
    placed = LAYOUTS[layout](graph)
    points, ghosts = placed.points, placed.ghosts
    if graph.nested:
        sizes = np.array([(node.width, node.height) for node in nodes])
        points, ghosts = fitted(points, sizes), {}
    at = [(float(x), float(y)) for x, y in points]
    for n, (x, y) in enumerate(at):
        inside = nodes[n].inside
        nodes[n] = replace(nodes[n], x=x, y=y, inside=inside and inside.centred(x, y - 0.1))
    return Scene(
        nodes,
        [(at[f], at[v]) for f, v in edges_of(graph) if (f, v) not in ghosts],
        [(place, at[v]) for (_, v), place in ghosts.items()],
        list(ghosts.values()),
    )


def _n_nodes(graph: Graph) -> int:
    if isinstance(graph, FactorGraph):
        return len(graph.variables) + len(graph.factors)
    return graph.n_regions


def hasse_scene(graph: RegionGraph, *, loops: bool = False) -> Scene:
    """Places outer regions on top and others below by size, with lines to what directly holds them.

    With `loops`, regions that form one loop are drawn as a loop.
    """
    check_size(graph.n_regions, "regions", "For windows of a tensor use layout='counts'.")
    regions: list[Ints] = []
    for group in graph.groups:
        regions += [*np.sort(group.flat().numpy(), axis=1)]
    named = [(short_name(name), count, outer) for name, count, outer in listed(graph)]
    widths = np.full(len(named), 1.2)
    if len(named) <= NAMED:
        widths = np.array([0.3 * text_size(name)[0] + 0.45 for name, *_ in named]).clip(1.2, 6.0)
    contained = nx.DiGraph()
    if regions:
        contains = incidence(regions, graph.n_elements)
        shared = (contains @ contains.T).tocoo()
        size = np.array([len(region) for region in regions])
        inside = (shared.data == size[shared.row]) & (size[shared.row] < size[shared.col])
        contained.add_edges_from(np.stack([shared.row, shared.col], axis=1)[inside].tolist())
    covers = list(nx.transitive_reduction(contained).edges)
    around = ring(len(named), covers) if loops else None
    if around is None:
        ranks = [
            0 if outer else 1 + graph.n_elements - len(region)
            for region, (*_, outer) in zip(regions, named, strict=True)
        ]
        rows = np.unique(ranks, return_inverse=True)[1]
        points, lines = _in_rows(rows, widths, covers)
    else:
        points, lines = around * widths.max() / 1.2, [list(pair) for pair in covers]
    at = [(float(x), float(y)) for x, y in points]
    nodes = [
        Node(name, count, "plate", *place, width)
        for (name, count, _), place, width in zip(named, at, widths.tolist(), strict=False)
    ]
    return Scene(nodes, [(at[a], at[b]) for line in lines for a, b in pairwise(line)])


def _in_rows(
    rows: Ints, widths: Floats, covers: Sequence[tuple[int, int]]
) -> tuple[Floats, list[list[int]]]:
    """Centres rows and orders them so that few lines cross; long rows are staggered.

    Positions are those of regions, then of bends. The line of each pair of `covers` is a list of
    their numbers: it bends where it passes a row, so as not to run under the plates of that row.
    """
    lines, levels = [], rows.tolist()
    for smaller, larger in covers:
        bends = range(levels[smaller] - 1, levels[larger], -1) if len(rows) <= NAMED else ()
        lines.append([smaller, *range(len(levels), len(levels) + len(bends)), larger])
        levels += bends
    widths = np.append(widths, np.full(len(levels) - len(rows), 0.2))
    rows = np.array(levels, np.int64)
    near: list[list[int]] = [[] for _ in rows]
    for line in lines:
        for a, b in pairwise(line):
            near[a].append(b)
            near[b].append(a)
    members = [np.flatnonzero(rows == row) for row in np.unique(rows)]
    depths = [min(5, -(-len(row) // 30)) for row in members]  # heights that a row is spread over
    extents = [float((widths[row] + 0.4).sum()) / d for row, d in zip(members, depths, strict=True)]
    widest = max(extents, default=0.0)
    points = np.zeros((len(rows), 2))
    for sweep in range(SWEEPS):
        for level in range(len(members)) if sweep % 2 == 0 else reversed(range(len(members))):
            row, depth = members[level], depths[level]
            if sweep:
                wanted = [points[near[m], 0].mean() if near[m] else np.inf for m in row]
                row = members[level] = row[np.argsort(wanted, kind="stable")]
            gap = 0.4 + 0.6 * depth * (widest - extents[level]) / len(row)
            steps = (widths[row] + gap) / depth
            points[row, 0] = np.cumsum(steps) - steps / 2 - steps.sum() / 2
    height = 0.0
    for row, depth in zip(members, depths, strict=True):
        points[row, 1] = height - 1.3 * (np.arange(len(row)) % depth)
        height -= 1.3 * (depth - 1) + min(max(2.2, 0.12 * widest), 12.0)
    return points, lines
