r"""Acyclicity of graphs: Berge-acyclic, α-acyclic, and junction trees. `report` says what follows.

- *Berge-acyclic*: the bipartite graph of distinct factors is a forest.
- *α-acyclic*: the outer regions can be joined into a tree with running intersection; equivalently,
  a maximum spanning forest of the regions, weighted by the sizes of their intersections, has the
  weight Σ|C| - |∪C| (Bernstein and Goodman, "Power of natural semijoins", 1981).
- *Junction tree*: α-acyclic, and the counts are +1 per clique, -1 per separator of that forest.
"""

from collections import Counter
from dataclasses import dataclass
from math import comb

import networkx as nx
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from pgmdiff.errors import GraphError
from pgmdiff.graphs.atoms import atoms, connected, first_elements, scope_edges
from pgmdiff.graphs.containment import incidence
from pgmdiff.graphs.factor_graph import FactorGraph, GraphLike, graph_of
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.scopes import by_arity
from pgmdiff.linalg import Ints
from pgmdiff.text import counted, described

__all__ = [
    "CliqueForest",
    "acyclicity",
    "clique_forest",
    "diameter",
    "forest_of",
    "is_alpha_acyclic",
    "is_berge_acyclic",
    "is_junction_tree",
]

FEW_SETS, FEW_ELEMENTS = 64, 1024
"""Numbers of sets and of elements up to which plain integers are faster than sparse matrices."""

NODE_LIMIT = 2_000
"""Number of regions and distinct elements beyond which no diameter is computed."""

PAIR_LIMIT = 50_000_000
"""Number of pairs of overlapping regions beyond which α-acyclicity is left undetermined."""


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


def is_alpha_acyclic(graph: GraphLike) -> bool | None:
    """Whether the outer regions have running intersection; None if there are too many overlaps.

    Args:
        graph: of any kind; of a factor graph the regions are used.

    Raises:
        GraphError: it is no graph.
    """
    return acyclicity(graph_of(graph, "is_alpha_acyclic").regions)[0]


def is_junction_tree(graph: RegionGraph) -> bool | None:
    """Whether regions and counts are those of a junction tree; None if too large to determine."""
    return acyclicity(graph)[1]


def acyclicity(graph: RegionGraph) -> tuple[bool | None, bool | None]:
    """Whether a graph is α-acyclic, and a junction tree; None if too large to determine."""
    outer = {e.tobytes(): e for group in graph.groups for e in _sorted(group)[group.outer]}
    larger, maximal = Counter[int](), 0  # a set of t elements contains (t choose s) sets of s
    for size, n in sorted(Counter(map(len, outer.values())).items(), reverse=True):
        if n > larger.total():
            maximal += max(0, n - sum(m * comb(t, size) for t, m in larger.items()))
        larger[size] = n
    if maximal > graph.n_elements:  # an acyclic graph has at most one clique per element
        return False, False
    forest = clique_forest(list(outer.values()), graph.n_elements)
    if forest is None:
        return None, None
    if not forest.running_intersection:
        return False, False
    missing = Counter[bytes]()  # from the graph, of the junction tree's counts
    for clique in forest.cliques:
        missing[clique.tobytes()] += graph.denominator
    for a, b in forest.edges:
        separator = np.intersect1d(forest.cliques[a], forest.cliques[b], assume_unique=True)
        missing[separator.tobytes()] -= graph.denominator
    for group in graph.groups:
        for elements, count in zip(_sorted(group), group.counts.tolist(), strict=True):
            if count:
                missing[elements.tobytes()] -= count
    return True, not any(missing.values())


@dataclass(frozen=True)
class CliqueForest:
    """Maximal outer regions as sorted element arrays, joined by a maximum spanning forest."""

    cliques: list[Ints]
    edges: list[tuple[int, int]]
    running_intersection: bool

    def __repr__(self) -> str:
        return described(
            self,
            counted(len(self.cliques), "clique"),
            counted(len(self.edges), "edge"),
            f"running_intersection={self.running_intersection}",
        )


def _sorted(group: RegionGroup) -> Ints:
    """int64 `[n, d]`: the sorted elements of every region of a group."""
    return np.sort(group.flat().numpy(), axis=1)


def clique_forest(sets: list[Ints], n_elements: int) -> CliqueForest | None:
    """The maximal ones of distinct sorted sets, joined; None beyond `PAIR_LIMIT` overlaps."""
    if len(sets) <= FEW_SETS and n_elements <= FEW_ELEMENTS:
        return _small_forest(sets)
    contains = incidence(sets, n_elements)
    if (contains.sum(axis=0) ** 2).sum() > PAIR_LIMIT:
        return None
    overlap = (contains @ contains.T).tocoo()
    sizes = np.array([len(r) for r in sets])
    contained = (overlap.data == sizes[overlap.row]) & (overlap.row != overlap.col)
    maximal = np.ones(len(sets), bool)
    maximal[overlap.row[contained]] = False
    weights = overlap.tocsr()[maximal][:, maximal]
    weights.setdiag(0)
    weights.eliminate_zeros()
    tree = csgraph.minimum_spanning_tree(-weights).tocoo()
    edges = list(zip(tree.row.tolist(), tree.col.tolist(), strict=True))
    cliques = [r for r, keep in zip(sets, maximal, strict=True) if keep]
    return _joined(cliques, edges, int(-tree.data.sum()))


def _small_forest(sets: list[Ints]) -> CliqueForest:
    """The same for few sets, by Prim's algorithm on bit masks: no sparse matrices to set up."""
    masks = [sum(1 << element for element in elements.tolist()) for elements in sets]
    kept = [
        k for k, m in enumerate(masks) if not any(m != other and m & other == m for other in masks)
    ]
    edges, weight = [], 0
    nearest = dict.fromkeys(range(len(kept)), (-1, 0))
    while nearest:
        k = max(nearest, key=lambda each: nearest[each][1])
        neighbour, shared = nearest.pop(k)
        if shared:
            edges.append((neighbour, k))
            weight += shared
        for other, (_, best) in nearest.items():
            overlap = (masks[kept[k]] & masks[kept[other]]).bit_count()
            if overlap > best:
                nearest[other] = (k, overlap)
    return _joined([sets[k] for k in kept], edges, weight)


def _joined(cliques: list[Ints], edges: list[tuple[int, int]], weight: int) -> CliqueForest:
    """Running intersection holds iff the separators have the weight Σ|C| - |∪C|."""
    everything = np.concatenate([np.zeros(0, np.int64), *cliques])
    return CliqueForest(cliques, edges, weight == len(everything) - len(np.unique(everything)))


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
    steps = csgraph.shortest_path(bipartite, unweighted=True, directed=False)
    between = steps[len(outer) :, len(outer) :]
    return int(between[np.isfinite(between)].max()) // 2 or 1
