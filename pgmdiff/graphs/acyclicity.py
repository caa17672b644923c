r"""Acyclicity of graphs: Berge-acyclic, α-acyclic, and junction trees. `report` says what follows.

- *Berge-acyclic*: the bipartite graph of distinct factors is a forest.
- *α-acyclic*: the outer regions can be joined into a forest with running intersection: what two of
  them share is in all regions between them.
- *Junction tree*: α-acyclic, and the counts are +1 per clique, -1 per separator of that forest.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush

import networkx as nx
import numpy as np
from scipy import sparse

from pgmdiff.errors import GraphError
from pgmdiff.graphs.atoms import atoms, connected, first_elements, scope_edges
from pgmdiff.graphs.containment import incidence
from pgmdiff.graphs.factor_graph import FactorGraph, GraphLike, graph_of
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.scopes import by_arity
from pgmdiff.linalg import Ints

__all__ = [
    "acyclicity",
    "clique_forest",
    "diameter",
    "forest_of",
    "is_alpha_acyclic",
    "is_berge_acyclic",
    "is_junction_tree",
]

LARGE = 16
"""Mean number of elements of a region above which its atoms are searched in their place."""

NODE_LIMIT = 2_000
"""Number of regions and distinct elements beyond which no diameter is computed."""


def is_berge_acyclic(graph: "FactorGraph | nx.Graph") -> bool:
    """Whether the bipartite graph is a forest, scopes on the same variables taken as one.

    Args:
        graph: of variables and factors.

    Raises:
        GraphError: it is no such graph.
    """
    found = graph_of(graph, "is_berge_acyclic")
    if isinstance(found, RegionGraph):
        raise GraphError(
            "is_berge_acyclic: expected a FactorGraph, got a RegionGraph, which has no factors. "
            "Use is_alpha_acyclic."
        )
    return forest_of(found)[0]


def forest_of(graph: FactorGraph) -> tuple[bool, bool]:
    """Whether distinct scopes form a forest, and whether all scopes are distinct.

    Factors with scopes of k_f variables form a forest iff Σ_f (k_f - 1) = variables - components,
    where components are those of the graph that joins each scope's first variable to its others.
    """
    n, n_factors = len(graph.variables), 0
    edges = [np.zeros((2, 0), np.int64)]
    for _, matrix in by_arity(graph):
        scopes = np.sort(matrix, axis=1)
        arity = scopes.shape[1]
        if n**arity < 2**63:  # distinct rows are found much faster as single numbers
            scopes = scopes[np.unique(scopes @ n ** np.arange(arity), return_index=True)[1]]
        else:
            scopes = np.unique(scopes, axis=0)
        n_factors += len(scopes)
        edges.append(scope_edges(scopes))
    joined = np.concatenate(edges, axis=1)
    n_components = int(connected(joined, n).max(initial=-1)) + 1 if n else 0
    return joined.shape[1] == n - n_components, n_factors == len(graph.factors)


def is_alpha_acyclic(graph: GraphLike) -> bool:
    """Whether the outer regions have running intersection.

    Args:
        graph: of any kind; of a factor graph the regions are used.

    Raises:
        GraphError: it is no graph.
    """
    return acyclicity(graph_of(graph, "is_alpha_acyclic").regions)[0]


def is_junction_tree(graph: RegionGraph) -> bool:
    """Whether regions and counts are those of a junction tree."""
    return acyclicity(graph)[1]


def acyclicity(graph: RegionGraph) -> tuple[bool, bool]:
    """Whether a graph is α-acyclic, and a junction tree."""
    distinct = {e.tobytes(): e for group in graph.groups for e in _sorted(group)[group.outer]}
    outer = list(distinct.values())
    sets = outer
    if sum(map(len, outer)) > LARGE * len(outer):
        labels = atoms(outer, graph.n_elements)
        sets = [np.unique(labels[each]) for each in outer]
    forest = clique_forest([each.tolist() for each in sets])
    if forest is None:
        return False, False
    cliques, edges = forest
    missing = Counter[bytes]()  # from the graph, of the junction tree's counts
    for k in cliques:
        missing[outer[k].tobytes()] += graph.denominator
    for a, b in edges:
        separator = np.intersect1d(outer[a], outer[b], assume_unique=True)
        missing[separator.tobytes()] -= graph.denominator
    for group in graph.groups:
        for elements, count in zip(_sorted(group), group.counts.tolist(), strict=True):
            if count:
                missing[elements.tobytes()] -= count
    return True, not any(missing.values())


def _sorted(group: RegionGroup) -> Ints:
    """int64 `[n, d]`: the sorted elements of every region of a group."""
    return np.sort(group.flat().numpy(), axis=1)


def clique_forest(
    sets: Sequence[Collection[int]],
) -> tuple[list[int], list[tuple[int, int]]] | None:
    """The maximal ones of distinct sets, joined into a forest; None without running intersection.

    Maximum cardinality search visits next the set with the most members in those visited, the
    largest of these first. Of an α-acyclic hypergraph these old members lie in one visited set, the
    last that brought one of them. Sets that bring no member are not maximal.

    Source: Tarjan and Yannakakis, "Simple linear-time algorithms to test chordality of graphs, test
    acyclicity of hypergraphs, and selectively reduce acyclic hypergraphs", 1984.

    Returns:
        The numbers of the maximal sets, and edges between them.
    """
    members = list(map(frozenset, sets))
    holders: defaultdict[int, list[int]] = defaultdict(list)
    for k, each in enumerate(members):
        for member in each:
            holders[member].append(k)
    n_old = [0] * len(members)
    brought: dict[int, int] = {}  # old member to the time at which it was new
    visited: list[int] = []
    edges: list[tuple[int, int]] = []
    heap = [(0, -len(each), k) for k, each in enumerate(members)]
    heapify(heap)
    while heap:
        negative, _, k = heappop(heap)
        if -negative < n_old[k]:
            continue  # it comes again, with more old members
        old = [member for member in members[k] if member in brought]
        if old:
            around = visited[max(brought[member] for member in old)]
            if not members[around].issuperset(old):
                return None
            if len(old) == len(members[k]):
                continue
            edges.append((around, k))
        new = members[k].difference(old)
        brought |= dict.fromkeys(new, len(visited))
        visited.append(k)
        for holder in (holder for member in new for holder in holders[member]):
            n_old[holder] += 1
            heappush(heap, (-n_old[holder], -len(members[holder]), holder))
    return sorted(visited), edges


def diameter(graph: RegionGraph) -> int | None:
    """The largest number of pieces on a shortest path between two connected elements.

    None if the graph is too large to determine it.
    """
    if sum(int(group.outer.sum()) for group in graph.groups) > NODE_LIMIT:
        return None
    outer = [region for group in graph.groups for region in _sorted(group)[group.outer]]
    if not outer:
        return 0
    labels = atoms(outer, graph.n_elements)
    n_atoms = len(first_elements(labels))
    if len(outer) + n_atoms > NODE_LIMIT:
        return None
    holds = incidence([np.unique(labels[region]) for region in outer], n_atoms)
    bipartite = sparse.block_array([[None, holds], [holds.T, None]]).tocsr()
    steps = sparse.csgraph.shortest_path(bipartite, unweighted=True, directed=False)
    between = steps[len(outer) :, len(outer) :]
    return int(between[np.isfinite(between)].max()) // 2 or 1
