"""Where the nodes of a factor graph go. Lengths are in diameters of a node.

Nodes are numbered: variables in declaration order, then factors.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, pi, sqrt

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from pgmdiff.graphs.factor_graph import FactorGraph

__all__ = ["Layout", "Points", "bipartite", "edges_of", "ring", "separated", "spatial"]

Points = npt.NDArray[np.float64]

LEAST = 1.45
"""Distance that nodes are pushed apart to."""
STEP = 1.75
"""Distance of neighbours where they are laid out one by one."""
ROW = 25
"""Nodes of a chain on one line; longer ones are folded."""
FOLDED = 70
"""Nodes of a loop drawn as a circle; longer ones are folded."""
LAYERED_LEAVES = 40
"""Leaves of a tree drawn in layers; larger ones are drawn around their middle."""
PAGE = (13.0, 9.5)
"""Inches that a picture may take."""
STRETCHED = 80
"""Nodes laid out by path lengths (Kamada, Kawai); larger graphs by springs."""
SLOW = 500
"""Nodes above which springs are relaxed for fewer turns: 3,000 take some ten seconds."""


@dataclass(frozen=True)
class Layout:
    """Positions `[nodes, 2]`; and where edges leave a periodic lattice on one side and come back.

    Attributes:
        points: one a node.
        ghosts: (factor, variable) numbers to where the factor is drawn again, next to the variable.
    """

    points: Points
    ghosts: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)


def edges_of(graph: FactorGraph) -> list[tuple[int, int]]:
    """(factor, variable) numbers."""
    numbered = enumerate(_scopes(graph), len(graph.variables))
    return [(f, v) for f, scope in numbered for v in scope]


def bipartite(graph: FactorGraph) -> Layout:
    """Variables in a row in declaration order, factors in a row above, near their scopes."""
    scopes = _scopes(graph)
    n, m = len(graph.variables), len(graph.factors)
    middles = np.array([np.mean(scope) for scope in scopes])
    place = np.argsort(np.argsort(middles, kind="stable"), kind="stable")
    width = max(n, m)
    height = max(2.6, 0.45 * width)
    below = np.stack([_spaced(n), np.zeros(n)], axis=1)
    above = np.stack([_spaced(m)[place] if m else np.zeros(0), np.full(m, height)], axis=1)
    return Layout(np.concatenate([below, above]))


def _spaced(n: int) -> Points:
    return 1.4 * (np.arange(n, dtype=np.float64) - (n - 1) / 2)


def spatial(graph: FactorGraph) -> Layout:
    """Where nodes lie: by networkx's `pos`, by coordinates, or by the shape of the graph."""
    given = _given(graph)
    if given is not None:
        return Layout(_roomy(given))
    if _is_lattice(graph):
        return _lattice(graph)
    return Layout(_by_shape(graph))


# ---------------------------------------------------------------- positions that are known


def _given(graph: FactorGraph) -> Points | None:
    """Positions that networkx's nodes carry; a factor without one is amid its variables."""
    if graph._drawn is None:
        return None
    data = graph._drawn.nodes
    known = {node: data[node]["pos"] for node in data if data[node].get("pos") is not None}
    if any(name not in known for name in graph.variables) or not known:
        return None
    points = {name: np.asarray(pos, float)[:2] for name, pos in known.items()}
    for factor, scope in graph.scopes.items():
        points.setdefault(factor, np.mean([points[name] for name in scope], axis=0))
    return np.array([points[name] for name in (*graph.variables, *graph.factors)])


def _is_lattice(graph: FactorGraph) -> bool:
    """Whether variables are named by two or more integer coordinates."""
    names = graph.variables
    sizes = {len(name) if isinstance(name, tuple) else 0 for name in names}
    whole = all(isinstance(c, int) for name in names if isinstance(name, tuple) for c in name)
    return whole and len(sizes) == 1 and sizes.pop() >= 2


def _lattice(graph: FactorGraph) -> Layout:
    coordinates = np.array(graph.variables, dtype=np.int64)
    coordinates -= coordinates.min(axis=0)
    sizes = coordinates.max(axis=0) + 1
    axes = _axes(sizes)
    points, ghosts = list(coordinates @ axes), {}
    for f, scope in enumerate(_scopes(graph), len(points)):
        axis = _wrapping(coordinates[scope], sizes)
        if axis is None:
            points.append(points_of(points, scope).mean(axis=0))
            continue
        first, last = sorted(scope, key=coordinates[:, axis].__getitem__)
        points.append(points[last] + axes[axis] / 2)
        x, y = points[first] - axes[axis] / 2
        ghosts[f, first] = float(x), float(y)
    return Layout(_separated(np.array(points), np.arange(len(points)) < len(coordinates)), ghosts)


def points_of(points: list[Points], scope: Sequence[int]) -> Points:
    """Positions of some nodes, one a row."""
    return np.array([points[v] for v in scope])


def _axes(sizes: npt.NDArray[np.int64]) -> Points:
    """Where each coordinate leads: the last right, the one before down, one more into depth."""
    directions = [(1.0, 0.0), (0.0, -1.0), (0.37, 0.29)]
    spacing = 3.3 if len(sizes) < 3 else 6.2
    for size in sizes[::-1][3:]:
        directions.append((1.5 * max(sizes) * len(directions), 0.3 * size))
    return spacing * np.array(directions[: len(sizes)][::-1])


def _wrapping(ends: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> int | None:
    """The axis on which a pair joins the two ends of a lattice."""
    if len(ends) != 2:
        return None
    apart = np.abs(ends[0] - ends[1])
    (axes,) = np.nonzero(apart)
    wraps = len(axes) == 1 and sizes[axes[0]] > 2 and apart[axes[0]] == sizes[axes[0]] - 1
    return int(axes[0]) if wraps else None


# ---------------------------------------------------------------- positions by shape


def _by_shape(graph: FactorGraph) -> Points:
    """Lines, circles, trees, and springs; components side by side."""
    whole = nx.Graph()
    whole.add_nodes_from(range(len(graph.variables) + len(graph.factors)))
    whole.add_edges_from(edges_of(graph))
    parts = [sorted(part) for part in nx.connected_components(whole)]
    return _side_by_side([(part, _component(whole.subgraph(part))) for part in sorted(parts)])


def _component(part: "nx.Graph") -> Points:
    """Positions of the nodes of a connected graph, in the order of their numbers."""
    n, m = part.number_of_nodes(), part.number_of_edges()
    degrees = [degree for _, degree in part.degree]
    if m == n - 1 and max(degrees) <= 2:
        return _sorted(_line(part))
    if m == n - 1:
        return _sorted(_tree(part))
    if m == n and max(degrees) == 2:
        return _sorted(_circle(part))
    order = nx.Graph()  # networkx lays out nodes in their order
    order.add_nodes_from(sorted(part))
    order.add_edges_from(part.edges)
    if n <= STRETCHED:
        return _roomy(_array(nx.kamada_kawai_layout(order)))
    turns = 50 if n <= SLOW else 15
    return _roomy(_evened(_array(nx.spring_layout(order, seed=0, iterations=turns))))


def _evened(points: Points) -> Points:
    """Positions with a crowded middle widened, and the outskirts drawn in."""
    away = points - np.median(points, axis=0)
    radius = np.hypot(*away.T)
    rank = np.argsort(np.argsort(radius)) + 1
    even = np.sqrt(rank / len(points)) * radius.max()
    scale = (0.25 * radius + 0.75 * even) / np.maximum(radius, 1e-9)
    return np.asarray(away * scale[:, None], np.float64)


def _array(points: dict[int, Points]) -> Points:
    return np.array([points[node] for node in sorted(points)])


def _sorted(points: dict[int, tuple[float, float]]) -> Points:
    return np.array([points[node] for node in sorted(points)], float)


def _line(part: "nx.Graph") -> dict[int, tuple[float, float]]:
    """A chain from left to right, folded like a snake if it is long."""
    ends = sorted(node for node, degree in part.degree if degree < 2)
    nodes = list(nx.dfs_preorder_nodes(part, ends[0]))
    length = len(nodes) if len(nodes) <= ROW else ceil(sqrt(1.7 * len(nodes)))
    points = {}
    for place, node in enumerate(nodes):
        row, column = divmod(place, length)
        column = column if row % 2 == 0 else length - 1 - column
        points[node] = STEP * column, -1.15 * STEP * row
    return points


def _circle(part: "nx.Graph") -> dict[int, tuple[float, float]]:
    """A loop clockwise from the top, from its first node towards the nearer number."""
    start = min(part)
    nodes = [start, min(part[start])]
    while len(nodes) < len(part):
        (following,) = set(part[nodes[-1]]) - {nodes[-2]}
        nodes.append(following)
    if len(nodes) > FOLDED:
        return dict(zip(nodes, _meander(len(nodes)), strict=True))
    radius = STEP / (2 * np.sin(pi / len(nodes)))
    angles = 2 * pi * np.arange(len(nodes)) / len(nodes)
    return {
        node: (radius * np.sin(a), radius * np.cos(a))
        for node, a in zip(nodes, angles, strict=True)
    }


def ring(n: int, edges: Sequence[tuple[int, int]]) -> Points | None:
    """Positions on a circle of nodes that form one loop; None if they do not."""
    graph = nx.Graph(edges)
    loop = len(graph) == n == len(edges) and nx.is_connected(graph)
    if not loop or any(degree != 2 for _, degree in graph.degree):
        return None
    return _sorted(_circle(graph))


def _meander(n: int) -> list[tuple[float, float]]:
    """Places along a closed line that fills a page: rows to and fro, and back on the left."""
    rows = 2 * max(1, round(sqrt(n / 1.8) / 2))
    columns = ceil(n / rows)
    corners = [(0, 0)]
    for row in range(rows):
        near, far = (0 if row in (0, rows - 1) else 1), columns - 1
        corners += [(near, row), (far, row)] if row % 2 == 0 else [(far, row), (near, row)]
    line = np.array([*corners, (0, 0)], float) * [STEP, -1.3 * STEP]
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = np.arange(n) * along[-1] / n
    return [
        (float(np.interp(a, along, line[:, 0])), float(np.interp(a, along, line[:, 1]))) for a in at
    ]


def _tree(part: "nx.Graph") -> dict[int, tuple[float, float]]:
    """A tree in layers under its middle; a star, or a large tree, around it."""
    root = _middle(part)
    below: dict[int, list[int]] = {root: []}
    depth = {root: 0}
    for parent, child in nx.bfs_edges(part, root, sort_neighbors=sorted):
        below[parent].append(child)
        below[child], depth[child] = [], depth[parent] + 1
    across, n_leaves = _across(below, root)
    star = sum(len(children) > 1 for children in below.values()) == 1
    if n_leaves <= LAYERED_LEAVES and not star:
        return {v: (1.3 * x, -1.65 * depth[v]) for v, x in across.items()}
    per_level = np.bincount(list(depth.values()))
    radii = [0.0]
    for number in per_level[1:]:
        radii.append(max(radii[-1] + STEP, number * 1.4 / (2 * pi)))
    angle = {v: 2 * pi * x / n_leaves for v, x in across.items()}
    around = {
        v: (radii[depth[v]] * np.sin(a), radii[depth[v]] * np.cos(a)) for v, a in angle.items()
    }
    points = _separated(_sorted(around), np.zeros(len(around), bool))
    return dict(zip(sorted(around), map(tuple, points.tolist()), strict=True))


def _middle(part: "nx.Graph") -> int:
    """The middle of a longest path of a tree."""
    lengths = nx.single_source_shortest_path_length(part, min(part))
    end = max(lengths, key=lengths.__getitem__)
    paths = nx.single_source_shortest_path(part, end)
    longest: list[int] = max(paths.values(), key=len)
    return longest[len(longest) // 2]


def _across(below: dict[int, list[int]], root: int) -> tuple[dict[int, float], int]:
    """Leaves numbered from one side to the other, parents amid their children."""
    across: dict[int, float] = {}
    n_leaves = 0
    order, stack = [], [root]
    while stack:
        order.append(stack.pop())
        stack.extend(reversed(below[order[-1]]))
    for node in order:
        if not below[node]:
            across[node] = float(n_leaves)
            n_leaves += 1
    for node in reversed(order):
        if below[node]:
            across[node] = (across[below[node][0]] + across[below[node][-1]]) / 2
    return across, n_leaves


def _side_by_side(parts: list[tuple[list[int], Points]]) -> Points:
    """Components from left to right, in rows as long as lets them be drawn largest."""
    sizes = [np.ptp(points, axis=0) + STEP for _, points in parts]
    corners = max(_packings(sizes), key=lambda corners: _scale(corners, sizes))
    whole = np.zeros((sum(len(part) for part, _ in parts), 2))
    for (part, points), corner in zip(parts, corners, strict=True):
        whole[part] = points - [points[:, 0].min(), points[:, 1].max()] + corner
    return whole


def _packings(sizes: list[Points]) -> Iterator[list[tuple[float, float]]]:
    """Corners of boxes in rows of several lengths; and, after the first, in rows beside it."""
    widths = [float(size[0]) for size in sizes]
    for limit in np.linspace(sum(widths), max(widths, default=0.0), 16) + 1e-9:
        yield _corners(sizes, limit)
    if len(sizes) > 1:
        for limit in np.linspace(max(widths[1:]), sum(widths[1:]), 16) + 1e-9:
            rest = _corners(sizes[1:], limit)
            yield [(0.0, 0.0), *((x + widths[0], y) for x, y in rest)]


def _corners(sizes: list[Points], limit: float) -> list[tuple[float, float]]:
    """Upper left corners of boxes in rows no longer than a limit."""
    corners = []
    x = top = row = 0.0
    for width, height in sizes:
        if x + width > limit:
            x, top, row = 0.0, top - row, 0.0
        corners.append((x, top))
        x, row = x + width, max(row, height)
    return corners


def _scale(corners: list[tuple[float, float]], sizes: list[Points]) -> float:
    """How large the boxes can be drawn on a page."""
    ends = [(x + w, h - y) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
    width, height = np.reshape(ends, (-1, 2)).max(axis=0, initial=STEP)
    return float(min(0.5, PAGE[0] / width, PAGE[1] / height))


# ---------------------------------------------------------------- distances


def _roomy(points: Points) -> Points:
    """Positions scaled so that most neighbours are well apart, and then separated."""
    if len(points) < 2:
        return points - points
    nearest = KDTree(points).query(points, k=2)[0][:, 1]
    typical = float(np.quantile(nearest, 0.3)) or float(np.ptp(points, axis=0).max()) / 10 or 1.0
    return _separated(points * (1.8 / typical), np.zeros(len(points), bool))


def _separated(points: Points, fixed: npt.NDArray[np.bool_]) -> Points:
    """Positions pushed apart until none are closer than a node and a gap."""
    points = points.copy()
    for _ in range(60):
        pairs = KDTree(points).query_pairs(0.999 * LEAST, output_type="ndarray")
        pairs = pairs[~(fixed[pairs[:, 0]] & fixed[pairs[:, 1]])]
        if not len(pairs):
            break
        _push(points, fixed, pairs[:, 0], pairs[:, 1])
    return points


def _push(
    points: Points,
    fixed: npt.NDArray[np.bool_],
    a: npt.NDArray[np.int64],
    b: npt.NDArray[np.int64],
) -> None:
    """Moves both nodes of each pair away from each other, or the one that is free."""
    apart = points[a] - points[b]
    distance = np.hypot(*apart.T)[:, None]
    turn = 2.4 * (a + b).astype(np.float64)  # coincident nodes leave in directions of their own
    away = np.where(distance > 1e-6, apart / np.maximum(distance, 1e-6), _unit(turn))
    move = (LEAST - distance) * away
    share = np.where(fixed[a] | fixed[b], 1.0, 0.5)[:, None]
    np.add.at(points, a[~fixed[a]], (share * move)[~fixed[a]])
    np.add.at(points, b[~fixed[b]], -(share * move)[~fixed[b]])


def _unit(angles: npt.NDArray[np.float64]) -> Points:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def separated(points: Points, sizes: Points, gap: float = 0.7) -> Points:
    """Positions scaled until boxes of given sizes `[nodes, 2]` do not touch."""
    if len(points) < 2:
        return points
    a, b = np.triu_indices(len(points), 1)
    apart = np.abs(points[a] - points[b])
    needed = (sizes[a] + sizes[b]) / 2 + gap
    with np.errstate(divide="ignore"):
        scale = np.where(apart > 1e-9, needed / np.maximum(apart, 1e-9), np.inf)
    return points * max(1.0, float(scale.min(axis=1).max()))


def _scopes(graph: FactorGraph) -> list[list[int]]:
    number = {name: v for v, name in enumerate(graph.variables)}
    return [[number[name] for name in scope] for scope in graph.scopes.values()]


LAYOUTS: dict[str, Callable[[FactorGraph], Layout]] = {"bipartite": bipartite, "spatial": spatial}
