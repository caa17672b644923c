r"""Is a graph acyclic, and in which sense? See `exactness` for what follows from it.

- *Berge-acyclic*: the bipartite graph of distinct factors is a forest.
- *α-acyclic*: the outer regions can be joined into a tree with running intersection; equivalently
  a maximum spanning forest of the regions, weighted by the sizes of their intersections, weighs
  Σ|C| - |∪C| (Bernstein and Goodman, "Power of natural semijoins", 1981).
- *Junction tree*: α-acyclic, and the counts are +1 a clique, -1 a separator of that forest.
"""

from collections import Counter
from dataclasses import dataclass
from math import prod

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from pgmdiff.graphs.atoms import atoms, first_elements
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Ints
from pgmdiff.text import counted, described

__all__ = [
    "CliqueForest",
    "acyclicity",
    "clique_forest",
    "diameter",
    "forest_of",
    "incidence",
    "is_alpha_acyclic",
    "is_berge_acyclic",
    "is_junction_tree",
]

FEW_SETS, FEW_ELEMENTS = 64, 1024
"""Sets and elements up to which plain integers beat sparse matrices."""

NODE_LIMIT = 2_000
"""Regions and distinct elements beyond which no diameter is computed."""

PAIR_LIMIT = 50_000_000
"""Pairs of overlapping regions beyond which α-acyclicity is left undetermined."""


def is_berge_acyclic(graph: FactorGraph) -> bool:
    """Whether the bipartite graph is a forest, scopes on the same variables taken as one.

    Args:
        graph: of variables and factors.
    """
    return forest_of(graph)[0]


def forest_of(graph: FactorGraph) -> tuple[bool, bool]:
    """Whether distinct scopes form a forest, and whether all scopes are distinct.

    Factors with scopes of k_f variables form one iff Σ_f (k_f - 1) = variables - components, the
    components of the graph that joins each scope's first variable to its others.
    """
    n, n_factors = len(graph.variables), 0
    edges = [np.zeros((2, 0), np.int64)]
    for _, matrix in graph._by_arity():
        distinct = _distinct(np.sort(matrix, axis=1), n)
        n_factors += len(distinct)
        first, others = distinct[:, :1], distinct[:, 1:]
        edges.append(np.stack([np.broadcast_to(first, others.shape).ravel(), others.ravel()]))
    all_distinct = n_factors == len(graph.factors)
    if n == 0:
        return True, all_distinct
    rows, columns = np.concatenate(edges, axis=1)
    adjacency = sparse.coo_array((np.ones(len(rows)), (rows, columns)), (n, n))
    components, _ = csgraph.connected_components(adjacency, directed=False)
    return bool(len(rows) == n - components), all_distinct


def _distinct(rows: Ints, n: int) -> Ints:
    """Distinct rows of numbers below n, found as single numbers where these fit."""
    if n ** rows.shape[1] >= 2**63:
        return np.unique(rows, axis=0)
    powers = n ** np.arange(rows.shape[1])
    return rows[np.unique(rows @ powers, return_index=True)[1]]


def is_alpha_acyclic(graph: RegionGraph) -> bool | None:
    """Whether the outer regions have running intersection; None if there are too many overlaps.

    Args:
        graph: of regions; a factor graph's are `graph.regions`.
    """
    return acyclicity(graph)[0]


def is_junction_tree(graph: RegionGraph) -> bool | None:
    """Whether regions and counts are those of a junction tree; None if too large to tell."""
    return acyclicity(graph)[1]


def acyclicity(graph: RegionGraph) -> tuple[bool | None, bool | None]:
    """Whether a graph is α-acyclic, and whether a junction tree; None if too large to tell."""
    forest = _clique_forest(graph)
    if forest is None:
        return None, None
    if not forest.running_intersection:
        return False, False
    expected = Counter[bytes]()
    for clique in forest.cliques:
        expected[clique.tobytes()] += graph.denominator
    for a, b in forest.edges:
        separator = np.intersect1d(forest.cliques[a], forest.cliques[b], assume_unique=True)
        expected[separator.tobytes()] -= graph.denominator
    for elements, count in _counted_sets(graph):
        expected[elements.tobytes()] -= count
    return True, not any(expected.values())


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


def _sorted_elements(group: RegionGroup) -> Ints:
    """int64 `[n, d]`: the sorted elements of every region of a group."""
    index = group.indices(0, len(group)).reshape(len(group), prod(group.shape))
    return np.sort(index.numpy(), axis=1)


def _counted_sets(graph: RegionGraph) -> list[tuple[Ints, int]]:
    """Sorted elements and count of every region whose count is not 0."""
    sets: list[tuple[Ints, int]] = []
    for group in graph.groups:
        counted = zip(_sorted_elements(group), group.counts, strict=True)
        sets += [(elements, int(count)) for elements, count in counted if count]
    return sets


def _clique_forest(graph: RegionGraph) -> CliqueForest | None:
    outer: dict[bytes, Ints] = {}
    for group in graph.groups:
        outer.update((e.tobytes(), e) for e in _sorted_elements(group)[group.outer])
    return clique_forest(list(outer.values()), graph.n_elements)


def clique_forest(sets: list[Ints], n_elements: int) -> CliqueForest | None:
    """The maximal ones of distinct sorted sets, joined; None beyond `PAIR_LIMIT` overlaps."""
    if len(sets) <= FEW_SETS and n_elements <= FEW_ELEMENTS:
        return _small_forest(sets)
    overlap = _overlaps(sets, n_elements)
    if overlap is None:
        return None
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
    """The same of few sets, by Prim's algorithm on bit masks: no sparse matrices to set up."""
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
    """Running intersection holds iff the separators weigh Σ|C| - |∪C|."""
    everything = np.concatenate([np.zeros(0, np.int64), *cliques])
    return CliqueForest(cliques, edges, weight == len(everything) - len(np.unique(everything)))


def diameter(graph: RegionGraph) -> int | None:
    """Most pieces on the shortest way between two connected elements; None: too large to tell."""
    n_outer = sum(int(g.outer.sum()) for g in graph.groups)
    if n_outer > NODE_LIMIT or n_outer == 0:
        return None if n_outer else 0
    outer = [r for g in graph.groups for r in _sorted_elements(g)[g.outer]]
    labels = atoms(outer, graph.n_elements)
    n_atoms = len(first_elements(labels))
    if n_outer + n_atoms > NODE_LIMIT:
        return None
    holds = incidence([np.unique(labels[region]) for region in outer], n_atoms)
    bipartite = sparse.block_array([[None, holds], [holds.T, None]]).tocsr()
    steps = csgraph.shortest_path(bipartite, unweighted=True, directed=False)[n_outer:, n_outer:]
    return int(steps[np.isfinite(steps)].max()) // 2 or 1


def incidence(regions: list[Ints], n_elements: int) -> "sparse.csr_array":
    """Sparse `[regions, n_elements]`, 1 where a region contains an element."""
    bounds = np.concatenate([[0], np.cumsum([len(region) for region in regions])])
    columns = np.concatenate(regions)
    return sparse.csr_array((np.ones(len(columns)), columns, bounds), (len(regions), n_elements))


def _overlaps(regions: list[Ints], n_elements: int) -> "sparse.coo_array | None":
    """|A ∩ B| of all overlapping pairs of regions; None beyond `PAIR_LIMIT`."""
    contains = incidence(regions, n_elements)
    if (contains.sum(axis=0) ** 2).sum() > PAIR_LIMIT:
        return None
    return (contains @ contains.T).tocoo()
