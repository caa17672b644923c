"""Positions of the nodes of a factor graph. Lengths are in diameters of a node.

Nodes are numbered: variables in the order of their declaration, then factors.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from math import ceil, pi, sqrt
from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from pgmdiff.errors import GraphError
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.linalg import Floats
from pgmdiff.text import brief

__all__ = [
    "LAYOUTS",
    "LEAST",
    "PAGE",
    "Layout",
    "bipartite",
    "edges_of",
    "fitted",
    "ring",
    "spatial",
]

LEAST = 1.45
"""Least distance between nodes."""
STEP = 1.75
"""Distance between neighbours on a line or a circle."""
ROW = 25
"""Longest chain that is drawn as one line; longer ones are folded."""
FOLDED = 70
"""Longest loop that is drawn as a circle; longer ones are folded."""
LAYERED_LEAVES = 40
"""Most leaves of a tree that is drawn in layers; larger trees are drawn around their centre."""
PAGE = (13.0, 9.5)
"""Largest size of a picture, in inches."""
STRETCHED = 300
"""Largest graph that is laid out by path lengths (Kamada, Kawai 1989), in about two seconds."""
SLOW = 500
"""Largest graph whose springs are relaxed fully: 3,000 nodes take some ten seconds as it is."""


@dataclass(frozen=True)
class Layout:
    """Positions of nodes, `[nodes, 2]`, and where edges leave a periodic lattice and come back.

    Ghosts lead from (factor, variable) numbers to the place beside the variable where the factor is
    drawn once more.
    """

    points: Floats
    ghosts: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)


def edges_of(graph: FactorGraph) -> list[tuple[int, int]]:
    """Returns the edges as (factor, variable) numbers."""
    numbered = enumerate(_scopes(graph), len(graph.variables))
    return [(f, v) for f, scope in numbered for v in scope]


def bipartite(graph: FactorGraph) -> Layout:
    """Places variables in a row, and factors in a row above, near the middle of their scopes."""
    n, m = len(graph.variables), len(graph.factors)
    middles = [np.mean(scope) for scope in _scopes(graph)]
    place = np.argsort(np.argsort(middles, kind="stable"), kind="stable") if m else np.zeros(0)
    points = np.zeros((n + m, 2))
    points[:n, 0] = 1.4 * (np.arange(n) - (n - 1) / 2)
    points[n:, 0] = 1.4 * (place - (m - 1) / 2)
    points[n:, 1] = max(2.6, 0.45 * max(n, m))
    return Layout(points)


def spatial(graph: FactorGraph) -> Layout:
    """Places nodes by networkx's `pos`, by their coordinates, or by the shape of the graph.

    A factor without a `pos` is placed amid its variables.
    """
    names = graph.variables
    if graph._drawn is not None:
        data = graph._drawn.nodes
        known = {n: data[n]["pos"] for n in data if data[n].get("pos") is not None}
        known = {n: _position(n, pos) for n, pos in known.items()}
        if known and all(name in known for name in names):
            for factor, scope in graph.scopes.items():
                known.setdefault(factor, np.mean([known[name] for name in scope], axis=0))
            return Layout(_roomy(np.array([known[name] for name in (*names, *graph.factors)])))
    sizes = {len(name) if isinstance(name, tuple) else 0 for name in names}
    coordinates = [c for name in names if isinstance(name, tuple) for c in name]
    integers = all(isinstance(c, int | np.integer) and abs(int(c)) < 2**31 for c in coordinates)
    if integers and len(sizes) == 1 and min(sizes) >= 2:
        return _lattice(graph)
    return Layout(_by_shape(graph))


def _position(name: Hashable, pos: Any) -> Floats:
    """The attribute `pos` of a networkx node, its first two coordinates."""
    try:
        place: Floats = np.asarray(pos, float)
        if place.ndim == 1 and len(place) >= 2 and np.isfinite(place).all():
            return place[:2]
    except (TypeError, ValueError):
        pass
    raise GraphError(
        f"plot: node {name!r} has pos={brief(pos)}, expected two numbers (x, y). Set "
        f"graph.nodes[{name!r}]['pos'], or remove it from all nodes."
    )


def _lattice(graph: FactorGraph) -> Layout:
    """Places variables by their integer coordinates, and factors amid their variables.

    The last coordinate leads right, the one before it down, the one before that into depth. A
    factor that joins two ends of an axis is drawn beyond the last variable and before the first.
    """
    coordinates = np.array(graph.variables, dtype=np.int64)
    coordinates -= coordinates.min(axis=0)
    sizes = coordinates.max(axis=0) + 1
    directions = [(1.0, 0.0), (0.0, -1.0), (0.37, 0.29)]
    for size in sizes[::-1][3:]:
        directions.append((1.5 * max(sizes) * len(directions), 0.3 * size))
    axes = (3.3 if len(sizes) < 3 else 6.2) * np.array(directions[: len(sizes)][::-1])
    points, ghosts = list(coordinates @ axes), {}
    for f, scope in enumerate(_scopes(graph), len(points)):
        points.append(np.mean([points[v] for v in scope], axis=0))
        extent = np.ptp(coordinates[scope], axis=0)
        (along,) = np.nonzero(extent)
        if len(scope) == 2 and len(along) == 1 and 2 < sizes[along[0]] == extent[along[0]] + 1:
            first, last = sorted(scope, key=lambda v: coordinates[v, along[0]])
            points[f] = points[last] + axes[along[0]] / 2
            x, y = points[first] - axes[along[0]] / 2
            ghosts[f, first] = float(x), float(y)
    return Layout(_separated(np.array(points), np.arange(len(points)) < len(coordinates)), ghosts)


def _by_shape(graph: FactorGraph) -> Floats:
    """Places the components of a graph by their shapes, and packs them in columns."""
    whole = nx.Graph()
    whole.add_nodes_from(range(len(graph.variables) + len(graph.factors)))
    whole.add_edges_from(sorted(edges_of(graph)))
    points, sizes = np.zeros((len(whole), 2)), []
    parts = sorted(sorted(part) for part in nx.connected_components(whole))
    for nodes in parts:
        part = nx.Graph()  # networkx visits nodes in the order in which they are added
        part.add_nodes_from(nodes)
        part.add_edges_from((node, other) for node in nodes for other in whole[node])
        if max(degree for _, degree in part.degree) <= 2:
            placed = _string(part)
        elif part.number_of_edges() == len(part) - 1:
            placed = _tree(part)
        elif len(part) <= STRETCHED:
            placed = _roomy(np.array(list(nx.kamada_kawai_layout(part).values())))
        else:
            turns = 50 if len(part) <= SLOW else 15
            placed = nx.spring_layout(part, seed=0, iterations=turns)
            placed = _roomy(np.array(list(placed.values())))
        points[nodes] = placed - [placed[:, 0].min(), placed[:, 1].max()]
        sizes.append(np.ptp(placed, axis=0) + STEP)
    area = sum(width * height for width, height in sizes)
    limit = max([sqrt(area / 1.5), *(height for _, height in sizes)])
    left = down = column = 0.0
    for nodes, (width, height) in zip(parts, sizes, strict=True):
        if down + height > limit + 1e-9:
            left, down, column = left + column, 0.0, 0.0
        points[nodes] += [left, -down]
        down, column = down + height, max(column, width)
    return points


def _string(part: "nx.Graph") -> Floats:
    """Draws a chain from left to right or a loop clockwise from the top; long ones are folded."""
    ends = [node for node, degree in part.degree if degree < 2]
    order = list(nx.dfs_preorder_nodes(part, min(ends or part)))
    place, n = np.arange(len(order)), len(order)
    if ends:
        length = n if n <= ROW else ceil(sqrt(1.7 * n))
        row, column = np.divmod(place, length)
        column = np.where(row % 2, length - 1 - column, column)
        points = STEP * np.stack([column, -1.15 * row], axis=1)
    elif n <= FOLDED:
        angle = 2 * pi * place / n
        points = STEP / (2 * np.sin(pi / n)) * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    else:  # rows to and fro, and back along the left side
        rows = 2 * max(1, round(sqrt(n / 1.8) / 2))
        far = ceil(n / rows) - 1
        turns = [(x, r) for r in range(rows) for x in ((1, far) if r % 2 == 0 else (far, 1))]
        line = np.array([(0, 0), *turns, (0, rows - 1), (0, 0)]) * [STEP, -1.3 * STEP]
        along = np.append(0, np.cumsum(np.hypot(*np.diff(line, axis=0).T)))
        at = place * along[-1] / n
        points = np.stack([np.interp(at, along, line[:, axis]) for axis in (0, 1)], axis=1)
    return points[np.argsort(order)]


def _tree(part: "nx.Graph") -> Floats:
    """Draws a tree in layers below its centre; a star or a large tree in circles around it.

    Leaves are numbered from one side to the other, and parents stand amid their children.
    """
    root = min(nx.center(part, usebounds=True))
    depth = nx.single_source_shortest_path_length(part, root)
    across: dict[int, float] = {}
    n_leaves = 0
    for node in nx.dfs_postorder_nodes(part, root):
        children = [across[child] for child in part[node] if child in across]
        across[node] = (min(children) + max(children)) / 2 if children else float(n_leaves)
        n_leaves += not children
    x, level = (np.array([of[node] for node in sorted(part)]) for of in (across, depth))
    star = all(degree <= 2 for node, degree in part.degree if node != root)
    if n_leaves <= LAYERED_LEAVES and not star:
        return np.stack([1.3 * x, -1.65 * level], axis=1)
    radii = [0.0]
    for number in np.bincount(level)[1:]:
        radii.append(max(radii[-1] + STEP, 1.4 * number / (2 * pi)))
    radius, angle = np.array(radii)[level], 2 * pi * x / n_leaves
    return _separated(np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1))


def ring(n: int, edges: Sequence[tuple[int, int]]) -> Floats | None:
    """Returns positions on a circle if the nodes form one loop, and None otherwise."""
    graph = nx.Graph(sorted(map(sorted, edges)))
    loop = 0 < n == len(graph) == len(edges) and nx.is_connected(graph)
    return _string(graph) if loop and all(degree == 2 for _, degree in graph.degree) else None


def _roomy(points: Floats) -> Floats:
    """Scales positions so that most neighbours are well apart, and separates the others."""
    if len(points) < 2:
        return points - points
    nearest = KDTree(points).query(points, k=2)[0][:, 1]
    typical = float(np.quantile(nearest, 0.3)) or float(np.ptp(points, axis=0).max()) / 10 or 1.0
    return _separated(points * (1.8 / typical))


def _separated(points: Floats, fixed: npt.NDArray[np.bool_] | None = None) -> Floats:
    """Pushes close nodes apart, until a gap is between them; those that are fixed stay in place."""
    points = points.copy()
    fixed = np.zeros(len(points), bool) if fixed is None else fixed
    for _ in range(60):
        pairs = KDTree(points).query_pairs(0.999 * LEAST, output_type="ndarray")
        a, b = pairs[~fixed[pairs].all(axis=1)].T
        if not len(a):
            break
        apart = points[a] - points[b]
        distance = np.hypot(*apart.T)[:, None]
        turn = 2.4 * (a + b)  # coincident nodes leave in directions of their own
        unit = np.stack([np.cos(turn), np.sin(turn)], axis=1)
        away = np.where(distance > 1e-6, apart / np.maximum(distance, 1e-6), unit)
        move = (LEAST - distance) * away * np.where(fixed[a] | fixed[b], 1.0, 0.5)[:, None]
        np.add.at(points, a, move * ~fixed[a, None])
        np.add.at(points, b, -move * ~fixed[b, None])
    return points


def fitted(points: Floats, sizes: Floats, gap: float = 0.7) -> Floats:
    """Scales positions until boxes of the given sizes `[nodes, 2]` do not touch."""
    if len(points) < 2:
        return points
    a, b = np.triu_indices(len(points), 1)
    apart = np.abs(points[a] - points[b])
    needed = (sizes[a] + sizes[b]) / 2 + gap
    scale = np.where(apart > 1e-9, needed / np.maximum(apart, 1e-9), np.inf)
    return points * max(1.0, float(scale.min(axis=1).max()))


def _scopes(graph: FactorGraph) -> list[list[int]]:
    """Returns the variables' numbers, factor by factor."""
    number = {name: v for v, name in enumerate(graph.variables)}
    return [[number[name] for name in scope] for scope in graph.scopes.values()]


LAYOUTS: dict[str, Callable[[FactorGraph], Layout]] = {"bipartite": bipartite, "spatial": spatial}
