r"""Which acyclicity a graph has, and what composing on it therefore promises.

- *Berge-acyclic*: the bipartite graph of distinct factors is a forest.
- *α-acyclic*: the outer regions can be joined into a tree with running intersection; equivalently
  a maximum spanning forest of the regions, weighted by the sizes of their intersections, weighs
  Σ|C| - |∪C| (Bernstein and Goodman, "Power of natural semijoins", 1981).
- *Junction tree*: α-acyclic, and the counts are +1 a clique, -1 a separator of that forest. Then
  q = Π_r q_r^{c_r} for every q that is Markov to the tree, so the composed score is exact at σ = 0.

For σ > 0 composing noised marginals is an approximation even on a junction tree, since the noised
variables of a Markov chain are not Markov.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from pgmdiff.errors import GraphError
from pgmdiff.graphs.atoms import atoms, first_elements
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.proxy import Proxy, proxy
from pgmdiff.graphs.regions import Ints, RegionGraph, RegionGroup

__all__ = [
    "Report",
    "incidence",
    "is_alpha_acyclic",
    "is_berge_acyclic",
    "is_junction_tree",
    "report",
]

NODE_LIMIT = 2_000
"""Regions and distinct elements beyond which no diameter is computed."""

PAIR_LIMIT = 50_000_000
"""Pairs of overlapping regions beyond which α-acyclicity is left undetermined."""


@dataclass(frozen=True)
class Report:
    """What `validate` found.

    Attributes:
        n_elements, n_regions: sizes of the graph.
        n_zero_counts: regions with counting number 0, which are never evaluated.
        uncovered: elements in no region.
        unbalanced: elements whose counting numbers do not sum to 1.
        sums: their sums, times `denominator`.
        denominator: of all counting numbers.
        berge_acyclic: None where the graph has no factors and variables to ask it of.
        alpha_acyclic: None where it was not found out: too large, or tiles that are no tree.
        junction_tree: whether the marginal rule is exact at σ = 0 for data Markov to the graph.
        graph: the region graph, of which more is found out when asked for.
    """

    n_elements: int
    n_regions: int
    n_zero_counts: int
    uncovered: Ints
    unbalanced: Ints
    sums: Ints
    denominator: int
    berge_acyclic: bool | None
    alpha_acyclic: bool | None
    junction_tree: bool | None
    graph: RegionGraph = field(repr=False)

    @property
    def valid(self) -> bool:
        """Whether every element is counted exactly once."""
        return len(self.unbalanced) == 0

    @property
    def promise(self) -> str:
        """What composing on this graph gives, for which data."""
        if not self.valid:
            return "Invalid: cannot be composed."
        laws = "Counts are valid: per element E[(u_i - m_i) s_i] = -1 at every σ, for any data."
        if self.junction_tree:
            return (
                "Marginal rule: exact at σ = 0 for any data that is Markov with respect to this "
                "junction tree. At σ > 0 it is an approximation, even for Gaussian data: noised "
                "variables of a Markov tree are not Markov. Posterior rule: exact at every σ for "
                "Gaussian data with true covariances, if it is Markov with respect to the tree; "
                f"for other data its Gaussian closure is an approximation. {laws}"
            )
        if self.junction_tree is None:
            return f"Too large to tell whether it is a junction tree. {laws}"
        why = {
            None: "regions form loops, or an overlap of two regions is counted in parts",
            True: "counts differ from the junction tree's (an overlap counted in parts, such as "
            "several variables, duplicate or nested scopes: use cluster variation)",
            False: "regions form loops",
        }[self.alpha_acyclic]
        return (
            f"Marginal rule: an approximation at every σ, σ = 0 included: {why}. Posterior rule: "
            "reaches N(m, P⁻¹), P = Σ_r c_r Σ_r⁻¹, for Gaussian data, where P is positive "
            f"definite; that is not the data's distribution either. {laws}"
        )

    @property
    def n_evaluations(self) -> int:
        """Regions evaluated by every step of a solver that calls the joint score once."""
        return sum(int((g.counts != 0).sum()) for g in self.graph.groups)

    @property
    def n_evaluated_elements(self) -> int:
        """Elements that these evaluations see, each as often as it is seen."""
        return sum(int((g.counts != 0).sum()) * prod(g.shape) for g in self.graph.groups)

    @property
    def largest_region(self) -> int:
        """Elements of the largest region that is evaluated: the largest clique."""
        sizes = (prod(g.shape) for g in self.graph.groups if (g.counts != 0).any())
        return max(sizes, default=0)

    @cached_property
    def diameter(self) -> int | None:
        """Most pieces that the shortest way between two connected elements leads through.

        A step of the marginal rule carries information through one. None: too large to tell.
        """
        return _diameter(self.graph)

    @cached_property
    def proxy(self) -> Proxy | None:
        """Definiteness of the composed precision, for a common correlation; see `graphs.proxy`.

        None: invalid counts, or too large to test. A junction tree's is always definite.
        """
        return proxy(self.graph) if self.valid else None

    @property
    def warning(self) -> str | None:
        """What to beware of, if the proxy turns improper."""
        if self.junction_tree or self.proxy is None or self.proxy.improper_from is None:
            return None
        return (
            "the composed precision turns indefinite, and the composition improper, for data whose "
            f"blocks all correlate by more than {self.proxy.proper_up_to:.3f}: samples of it can "
            "grow without bound. Larger pieces help; advisor.advise tells for your covariance"
        )

    def raise_if_invalid(self) -> None:
        """Raises `GraphError` naming the first elements that are not counted once."""
        if not self.valid:
            raise GraphError(_imbalance(self.unbalanced, self.sums, self.denominator))

    def __str__(self) -> str:
        known = {True: "yes", False: "no", None: "not determined"}
        lines = [
            f"{self.n_regions} regions over {self.n_elements} elements; "
            f"{self.n_zero_counts} with count 0 are never evaluated",
            "every element is counted once"
            if self.valid
            else _imbalance(self.unbalanced, self.sums, self.denominator),
            f"Berge-acyclic: {known[self.berge_acyclic]}; "
            f"α-acyclic: {known[self.alpha_acyclic]}; "
            f"junction tree: {known[self.junction_tree]}",
            f"a step evaluates {self.n_evaluations} regions with {self.n_evaluated_elements} "
            f"elements in all; the largest has {self.largest_region}",
            f"diameter: {'not determined' if self.diameter is None else self.diameter} "
            f"(pieces between the elements farthest apart)",
            f"Gaussian proxy: {self._definiteness}",
            self.promise,
        ]
        return "\n".join(lines + ([f"WARNING: {self.warning}."] if self.warning else []))

    @property
    def _definiteness(self) -> str:
        if self.junction_tree:
            return "the composed precision of every Gaussian is positive definite"
        if self.proxy is None:
            return "not tested (invalid, or too large)"
        blocks = f"{self.proxy.n_atoms} blocks of a common correlation ρ"
        if self.proxy.improper_from is None:
            return f"proper for {blocks} up to {self.proxy.proper_up_to:g} (certified)"
        return f"proper for {blocks} up to {self.proxy.proper_up_to:.4f} only (certified)"


def report(
    graph: RegionGraph, *, berge_acyclic: bool | None = None, junction_tree: bool | None = None
) -> Report:
    """Checks a region graph, given what is known of it already; see `Report`."""
    sums = graph.element_sums()
    unbalanced = np.flatnonzero(sums != graph.denominator)
    covered = sum(
        (g.scatter_sum(np.ones(len(g), np.int64), graph.n_elements) for g in graph.groups),
        np.zeros(graph.n_elements, np.int64),
    )
    known = graph.junction_tree if junction_tree is None else junction_tree
    alpha_acyclic = True if berge_acyclic or known else None
    if known is None or (known is False and graph.n_regions <= NODE_LIMIT):
        alpha_acyclic = is_alpha_acyclic(graph)
        known = is_junction_tree(graph) if alpha_acyclic else alpha_acyclic
    return Report(
        n_elements=graph.n_elements,
        n_regions=graph.n_regions,
        n_zero_counts=sum(int((g.counts == 0).sum()) for g in graph.groups),
        uncovered=np.flatnonzero(covered == 0),
        unbalanced=unbalanced,
        sums=sums[unbalanced],
        denominator=graph.denominator,
        berge_acyclic=berge_acyclic,
        alpha_acyclic=alpha_acyclic,
        junction_tree=known,
        graph=graph,
    )


def report_factor_graph(graph: FactorGraph) -> Report:
    """Checks a factor graph; a forest of distinct factors is a junction tree.

    Of a nested graph the leaves are checked: they are what is evaluated.
    """
    if graph.nested:
        return report(graph.regions)
    berge_acyclic, distinct = _forest_of(graph)
    tree = True if berge_acyclic and distinct else None
    return report(graph.regions, berge_acyclic=berge_acyclic, junction_tree=tree)


def check_counts(graph: RegionGraph) -> None:
    """Raises `GraphError` unless every element is counted once."""
    sums = graph.element_sums()
    unbalanced = np.flatnonzero(sums != graph.denominator)
    if len(unbalanced):
        raise GraphError(_imbalance(unbalanced, sums[unbalanced], graph.denominator))


def is_berge_acyclic(graph: FactorGraph) -> bool:
    """Whether the bipartite graph is a forest, scopes on the same variables taken as one."""
    return _forest_of(graph)[0]


def _forest_of(graph: FactorGraph) -> tuple[bool, bool]:
    """Whether distinct scopes form a forest, and whether all scopes are distinct."""
    n_nodes, edges = len(graph.variables), [np.zeros((2, 0), np.int64)]
    for _, matrix in graph._by_arity():
        distinct = np.unique(np.sort(matrix, axis=1), axis=0)
        factors = n_nodes + np.arange(len(distinct))
        edges.append(np.stack([np.repeat(factors, distinct.shape[1]), distinct.ravel()]))
        n_nodes += len(distinct)
    rows, columns = np.concatenate(edges, axis=1)
    all_distinct = n_nodes == len(graph.variables) + len(graph.factors)
    if n_nodes == 0:
        return True, all_distinct
    adjacency = sparse.coo_array((np.ones(len(rows)), (rows, columns)), (n_nodes, n_nodes))
    components, _ = csgraph.connected_components(adjacency, directed=False)
    return bool(len(rows) == n_nodes - components), all_distinct


def is_alpha_acyclic(graph: RegionGraph) -> bool | None:
    """Whether the outer regions have running intersection; None if there are too many overlaps."""
    forest = _clique_forest(graph)
    return None if forest is None else forest.running_intersection


def is_junction_tree(graph: RegionGraph) -> bool | None:
    """Whether regions and counts are those of a junction tree; None if too large to tell."""
    forest = _clique_forest(graph)
    if forest is None or not forest.running_intersection:
        return None if forest is None else False
    expected = Counter[bytes]()
    for clique in forest.cliques:
        expected[clique.tobytes()] += graph.denominator
    for a, b in forest.edges:
        separator = np.intersect1d(forest.cliques[a], forest.cliques[b], assume_unique=True)
        expected[separator.tobytes()] -= graph.denominator
    for elements, count in _counted_sets(graph):
        expected[elements.tobytes()] -= count
    return not any(expected.values())


@dataclass(frozen=True)
class CliqueForest:
    """Maximal outer regions as sorted element arrays, joined by a maximum spanning forest."""

    cliques: list[Ints]
    edges: list[tuple[int, int]]
    running_intersection: bool


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
    if not sets:
        return CliqueForest([], [], True)
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
    cliques = [r for r, keep in zip(sets, maximal, strict=True) if keep]
    covered = len(np.unique(np.concatenate(cliques)))
    return CliqueForest(
        cliques,
        list(zip(tree.row.tolist(), tree.col.tolist(), strict=True)),
        bool(-tree.data.sum() == sizes[maximal].sum() - covered),
    )


def _diameter(graph: RegionGraph) -> int | None:
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


def _imbalance(elements: Ints, sums: Ints, denominator: int) -> str:
    shown = ", ".join(
        f"element {e}: {s}" + (f"/{denominator}" if denominator > 1 else "")
        for e, s in zip(elements[:3].tolist(), sums[:3].tolist(), strict=True)
    )
    more = f" and {len(elements) - 3} more" if len(elements) > 3 else ""
    return (
        f"RegionGraph: counting numbers must sum to 1 on every element, got {shown}{more}. "
        "Add the missing regions (the overlaps of overlaps, often) or correct the counts."
    )
