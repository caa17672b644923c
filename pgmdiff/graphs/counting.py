r"""Region graphs from scopes: cluster variation and junction trees.

*Cluster variation* (Kikuchi): close the maximal scopes under intersection; from the largest region
down c_r = 1 - Σ_{s ⊋ r} c_s (Yedidia, Freeman, Weiss, "Constructing free-energy approximations and
generalized belief propagation algorithms", 2005). Equivalently, by inclusion-exclusion over the
maximal scopes, c_R = Σ_{S : ∩S = R} (-1)^{|S|-1}.

*Junction tree*: +1 a clique, -1 a separator for every edge of a maximum spanning forest of cliques.
Scopes without running intersection are triangulated first. Both agree on α-acyclic scopes.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import combinations

import networkx as nx
import numpy as np
from networkx.algorithms.approximation import treewidth_min_fill_in

from pgmdiff.errors import GraphError
from pgmdiff.graphs.exactness import CliqueForest, clique_forest
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.regions import IndexGroup, RegionGraph

__all__ = ["cluster_variation", "junction_tree"]

Region = frozenset[Hashable]
Scopes = FactorGraph | Mapping[Hashable, Sequence[Hashable]] | Iterable[Collection[Hashable]]

MAX_REGIONS = 100_000
"""Size at which closing scopes under intersection is given up."""


def cluster_variation(
    scopes: Scopes,
    shapes: Mapping[Hashable, Sequence[int]] | None = None,
    *,
    absorb: bool = True,
) -> RegionGraph:
    """The region graph of cluster variation: maximal scopes, and their intersections.

    Regions are named by the frozenset of their variables, which is also their model id unless the
    factor graph gives one; those of count 0 are left out. A region lists its variables in
    declaration order, whatever the order of the scopes; variables in no scope are regions of their
    own.

    Exact at σ = 0, for data Markov to the scopes, if they are α-acyclic; else the Kikuchi
    approximation, which on tiles is far better than Bethe's on single pixels.

    Args:
        scopes: a factor graph, a dict of scopes, or scopes alone.
        shapes: variable name to event shape, in declaration order; None: all are scalars, declared
            as they first appear.
        absorb: whether scopes inside others are dropped; if not, they are an error. Those with a
            model or a condition of their own are always an error: dropping them loses something.

    Raises:
        GraphError: a scope that is not to be absorbed, more than `MAX_REGIONS` intersections, and
            what `FactorGraph.from_scopes` raises.

    Example:
        >>> from pgmdiff.graphs import cluster_variation
        >>> regions = cluster_variation([("a", "b", "c"), ("b", "c", "d")])
        >>> sorted(("".join(sorted(r)), c) for r, c in regions.counting_numbers().items())
        [('abc', 1), ('bc', -1), ('bcd', 1)]
    """
    graph = _factor_graph(scopes, shapes)
    maximal = _maximal(graph, absorb)
    regions = _closed(list(maximal))
    counts: dict[Region, int] = {}
    holders: defaultdict[Hashable, list[Region]] = defaultdict(list)
    for region in sorted(regions, key=len, reverse=True):
        rarest = min((holders[v] for v in region), key=len)
        counts[region] = 1 - sum(counts[larger] for larger in rarest if region < larger)
        for variable in region:
            holders[variable].append(region)
    return _region_graph(graph, maximal, counts)


def junction_tree(
    scopes: Scopes,
    shapes: Mapping[Hashable, Sequence[int]] | None = None,
    *,
    absorb: bool = True,
    max_clique: int | None = None,
) -> RegionGraph:
    """The region graph of a junction tree: cliques +1, separators -1 an edge.

    Exact at σ = 0 for any data that is Markov to the scopes. Scopes that are not α-acyclic have to
    be triangulated (min-fill), which makes cliques larger than any scope: models of them are
    needed. Names, model ids and order are those of `cluster_variation`.

    Args:
        scopes, shapes, absorb: as for `cluster_variation`.
        max_clique: most variables of a clique that triangulation may make; None: do not
            triangulate, and say how large the cliques would be.

    Raises:
        GraphError: triangulation is needed and not allowed, with the size it would take; and what
            `cluster_variation` raises.

    Example:
        >>> from pgmdiff.graphs import junction_tree
        >>> loop = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")]
        >>> tree = junction_tree(loop, max_clique=3)
        >>> sorted(("".join(sorted(r)), c) for r, c in tree.counting_numbers().items())
        [('abd', 1), ('bcd', 1), ('bd', -1)]
    """
    graph = _factor_graph(scopes, shapes)
    maximal = _maximal(graph, absorb)
    forest = _forest(graph, maximal)
    if not forest.running_intersection:
        forest = _forest(graph, _triangulated(graph, maximal, max_clique))
    cliques = [frozenset(graph.variables[v] for v in clique) for clique in forest.cliques]
    counts = Counter(cliques)
    for a, b in forest.edges:
        counts[cliques[a] & cliques[b]] -= 1
    return _region_graph(graph, cliques, counts)


def _factor_graph(scopes: Scopes, shapes: Mapping[Hashable, Sequence[int]] | None) -> FactorGraph:
    if isinstance(scopes, FactorGraph):
        if scopes.nested:
            raise GraphError(
                f"cluster variation: node {next(iter(scopes.nested))!r} is nested, and scopes say "
                "nothing of inner graphs. Nest the result's pieces, or use flatten()."
            )
        return scopes
    if isinstance(scopes, Mapping):
        return FactorGraph.from_scopes(scopes, shapes)
    numbered: dict[Hashable, tuple[Hashable, ...]] = {
        ("scope", i): tuple(scope) for i, scope in enumerate(scopes)
    }
    return FactorGraph.from_scopes(numbered, shapes)


def _maximal(graph: FactorGraph, absorb: bool) -> list[Region]:
    """Distinct scopes inside no other, and isolated variables."""
    factors = {f: frozenset(scope) for f, scope in graph.scopes.items()}
    position = {f: place for place, f in enumerate(factors)}
    on = defaultdict(set)
    for factor, scope in factors.items():
        for variable in scope:
            on[variable].add(factor)
    kept: dict[Region, Hashable] = {}
    for factor, scope in factors.items():
        around = set.intersection(*(on[variable] for variable in scope))
        larger = (f for f in around if scope < factors[f])
        holder = min(larger, key=position.__getitem__, default=kept.get(scope))
        if holder is None:
            kept[scope] = factor
        elif not absorb or factor in graph.models or factor in graph.conditions:
            raise GraphError(
                f"cluster variation: the scope of factor {factor!r} lies inside that of {holder!r}"
                + (
                    ". Remove it, or pass absorb=True."
                    if not absorb
                    else ", and it has a model or a condition of its own, which would be lost. "
                    "Compose its FactorGraph, or remove it."
                )
            )
    isolated = (v for v, d in zip(graph.variables, graph.degrees, strict=True) if d == 0)
    return [*kept, *(frozenset([variable]) for variable in isolated)]


def _closed(maximal: list[Region]) -> set[Region]:
    """All intersections of regions, the empty one left out."""
    on: defaultdict[Hashable, list[Region]] = defaultdict(list)
    for region in maximal:
        for variable in region:
            on[variable].append(region)
    closed, new = set(maximal), set(maximal)
    while new:
        found = {r & m for r in new for v in r for m in on[v]}
        new = found - closed
        closed |= new
        if len(closed) > MAX_REGIONS:
            raise GraphError(
                f"cluster_variation: more than {MAX_REGIONS} intersections of {len(maximal)} "
                "scopes. Use tiles for windows of a tensor, or the Bethe counts of a FactorGraph."
            )
    return closed


def _forest(graph: FactorGraph, regions: list[Region]) -> CliqueForest:
    sets = [np.array(numbers, np.int64) for numbers in _numbered(graph, regions)]
    forest = clique_forest(sets, len(graph.variables))
    if forest is None:
        raise GraphError(
            f"junction_tree: {len(regions)} scopes have too many overlaps to join into a tree. "
            "Merge variables that always occur together."
        )
    return forest


def _numbered(graph: FactorGraph, regions: list[Region]) -> list[list[int]]:
    """Each region as sorted variable numbers: declaration order, the same in every process."""
    number = {name: v for v, name in enumerate(graph.variables)}
    return [sorted(number[name] for name in region) for region in regions]


def _triangulated(
    graph: FactorGraph, regions: list[Region], max_clique: int | None
) -> list[Region]:
    """Cliques of a chordal graph that contains every region, by the min-fill heuristic."""
    primal = nx.Graph()  # of numbers, whose order does not depend on hashes
    for numbers in _numbered(graph, regions):
        primal.add_nodes_from(numbers)
        primal.add_edges_from(combinations(numbers, 2))
    width, bags = treewidth_min_fill_in(primal)
    if max_clique is None or width + 1 > max_clique:
        raise GraphError(
            "junction_tree: the scopes are not α-acyclic, and triangulating them makes cliques of "
            f"up to {width + 1} variables (treewidth {width} by min-fill; the largest scope has "
            f"{max(map(len, regions))}). Pass max_clique={width + 1} if you have models of such "
            "cliques, or use cluster_variation."
        )
    return [frozenset(graph.variables[v] for v in bag) for bag in bags]


def _region_graph(
    graph: FactorGraph, outer: Collection[Region], counts: Mapping[Region, int]
) -> RegionGraph:
    """Regions of nonzero count, their variables in declaration order."""
    kept = [region for region, count in counts.items() if count and region]
    numbered = zip(_numbered(graph, kept), kept, strict=True)
    order = sorted(numbered, key=lambda pair: (-len(pair[1]), pair[0]))
    counted = {region: counts[region] for _, region in order}
    factor: dict[Region, Hashable] = {}
    for name, scope in graph.scopes.items():
        factor.setdefault(frozenset(scope), name)  # the first of duplicates is the one kept
    models = {r: graph.models.get(factor[r], graph.factor_model) for r in counted if r in factor}
    # A factor graph of the regions lays out their indices; single variables are its variables.
    layout = FactorGraph.from_scopes(
        {
            r: [graph.variables[v] for v in numbers]
            for numbers, r in order
            if len(r) > 1 or r in factor
        },
        dict(zip(graph.variables, graph.shapes, strict=True)),
        axis=graph.axis,
        models={region: model for region, model in models.items() if model is not None},
        variable_model=graph.variable_model,
    )
    single = {v for v in graph.variables if frozenset([v]) not in layout.scopes}
    groups = []
    for group in layout.regions.groups:
        found = {
            row: frozenset(layout.scopes.get(name, (name,)))
            for row, name in enumerate(group.names)
            if name in layout.scopes or name in single
        }
        rows = [row for row, region in found.items() if region in counted]
        regions = [found[row] for row in rows]
        groups.append(
            IndexGroup(
                group.select(np.array(rows, np.int64)).indices(0, len(rows)),
                np.array([counted[region] for region in regions], np.int64),
                regions,
                np.array([region in outer for region in regions], np.bool_),
                group.model,
            )
        )
    return RegionGraph(
        (graph.n_elements,),
        tuple(group for group in groups if len(group)),
        conditions={
            r: graph.conditions[f]
            for r, f in factor.items()
            if r in counted and f in graph.conditions
        },
    )
