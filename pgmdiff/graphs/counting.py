r"""Region graphs from scopes: cluster variation and junction trees.

*Cluster variation* (Kikuchi): close the maximal scopes under intersection; from the largest region
down c_r = 1 - Σ_{s ⊋ r} c_s (Yedidia, Freeman, Weiss, "Constructing free-energy approximations and
generalized belief propagation algorithms", 2005). Equivalently, by inclusion-exclusion over the
maximal scopes, c_R = Σ_{S : ∩S = R} (-1)^{|S|-1}.

*Junction tree*: +1 a clique, -1 a separator for every edge of a maximum spanning forest of cliques.
Scopes without running intersection are triangulated first. Both agree on α-acyclic scopes.

Pieces given as index arrays are counted as scopes of their `atoms`.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import networkx as nx
import numpy as np
from networkx.algorithms.approximation import treewidth_min_fill_in

from pgmdiff.errors import GraphError
from pgmdiff.graphs.acyclicity import CliqueForest, clique_forest
from pgmdiff.graphs.atoms import Neighbours, components
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.pieces import (
    Disconnected,
    Region,
    Scopes,
    has_its_own,
    maximal,
    numbered,
    pieces_of,
)
from pgmdiff.graphs.regions import RegionGraph

__all__ = ["cluster_variation", "junction_tree"]

MAX_REGIONS = 100_000
"""Size at which closing scopes under intersection is given up."""


def cluster_variation(
    scopes: Scopes,
    shapes: Mapping[Any, Sequence[int]] | None = None,
    *,
    event_shape: Sequence[int] | None = None,
    models: Mapping[Any, Hashable] | None = None,
    absorb: bool = True,
    disconnected: Disconnected = "one",
) -> RegionGraph:
    """The region graph of cluster variation: maximal pieces, and their intersections.

    *Of scopes*: regions are named by the frozenset of their variables, which is also their model
    id unless the factor graph gives one, and list their variables in declaration order, whatever
    the order of the scopes (a scope whose model is given keeps its own); variables in no scope are
    regions of their own.

    *Of index arrays*: pieces keep their names, arrays and model ids. An intersection is named by
    the frozenset of the pieces around it (with a number, where there are several), which is its
    model id too, unless those pieces share a model: then it is the shape. It is laid out as the
    first piece around it has it: the sub-array of that piece, where it is one (rows and columns
    that the intersection fills), else flattened.

    Regions of count 0 are left out. Exact at σ = 0, for data Markov to the pieces, if they are
    α-acyclic; else the Kikuchi approximation, which on tiles is far better than Bethe's on single
    pixels.

    Args:
        scopes: a factor graph, a dict of scopes, or scopes alone; or pieces: the outer regions of
            a region graph, or, with `event_shape`, a dict of integer arrays of elements.
        shapes: variable name to event shape, in declaration order; None: all are scalars, declared
            as they first appear.
        event_shape: of the state that index arrays are pieces of.
        models: of index arrays, name to model id, for pieces whose model id is not their name.
        absorb: whether scopes inside others are dropped; if not, they are an error. Those with a
            model or a condition of their own are an error in any case, unless they repeat a scope
            together with its model and condition: dropping them would lose something.
        disconnected: whether an intersection in several unconnected parts (the two arcs of a ring
            of two windows) is "one" region, whose model must know how the parts depend on one
            another, or "several", which takes the parts for independent given the rest: a loop
            where "one" is exact, but with models of connected parts only. Elements are connected
            when they are beside each other in a piece's array, variables when in a scope's order.

    Raises:
        GraphError: a scope that is not to be absorbed, more than `MAX_REGIONS` intersections,
            elements in no piece, and what `FactorGraph.from_scopes` raises.

    Example:
        >>> from pgmdiff.graphs import cluster_variation
        >>> regions = cluster_variation([("a", "b", "c"), ("b", "c", "d")])
        >>> sorted(("".join(sorted(r)), c) for r, c in regions.counting_numbers().items())
        [('abc', 1), ('bc', -1), ('bcd', 1)]
    """
    pieces = pieces_of(scopes, shapes, event_shape, disconnected, models)
    outer = maximal(pieces.graph, absorb)
    regions = _closed(outer, pieces.touching)
    counts: dict[Region, int] = {}
    holders: defaultdict[Hashable, list[Region]] = defaultdict(list)
    for region in sorted(regions, key=len, reverse=True):
        rarest = min((holders[v] for v in region), key=len)
        counts[region] = 1 - sum(counts[larger] for larger in rarest if region < larger)
        for variable in region:
            holders[variable].append(region)
    return pieces.region_graph(outer, counts)


def junction_tree(
    scopes: Scopes,
    shapes: Mapping[Any, Sequence[int]] | None = None,
    *,
    event_shape: Sequence[int] | None = None,
    models: Mapping[Any, Hashable] | None = None,
    absorb: bool = True,
    max_clique: int | None = None,
) -> RegionGraph:
    """The region graph of a junction tree: cliques +1, separators -1 an edge.

    Exact at σ = 0 for any data that is Markov to the scopes. Scopes that are not α-acyclic have to
    be triangulated (min-fill), which makes cliques larger than any scope: models of them are
    needed. Names, model ids and order are those of `cluster_variation`; a clique or separator of
    index arrays that is in no piece is flat, and named ("clique", k).

    Args:
        scopes, shapes, event_shape, models, absorb: as for `cluster_variation`.
        max_clique: most variables (of index arrays: atoms, the blocks that no piece splits) of a
            clique that triangulation may make; None: do not triangulate, and say how large the
            cliques would be.

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
    pieces = pieces_of(scopes, shapes, event_shape, "one", models)
    graph = pieces.graph
    outer = maximal(graph, absorb)
    forest = _forest(graph, outer)
    if not forest.running_intersection:
        cliques_of = _triangulated(graph, outer, max_clique)
        _check_nothing_is_lost(graph, cliques_of)
        forest = _forest(graph, cliques_of)
    cliques = [frozenset(graph.variables[v] for v in clique) for clique in forest.cliques]
    counts = Counter(cliques)
    for a, b in forest.edges:
        counts[cliques[a] & cliques[b]] -= 1
    return replace(pieces.region_graph(cliques, counts), junction_tree=True)


def _check_nothing_is_lost(graph: FactorGraph, cliques: list[Region]) -> None:
    """Raises `GraphError` for a factor with a model of its own that triangulation swallows."""
    kept = set(cliques)
    for factor, scope in graph.scopes.items():
        if frozenset(scope) not in kept and has_its_own(graph, factor):
            raise GraphError(
                f"junction_tree: triangulation puts factor {factor!r} inside a larger clique, and "
                "it has a model or a condition of its own, which would be lost. Remove it, and "
                "give the clique's model by the clique's name."
            )


def _closed(outer: list[Region], touching: Neighbours | None) -> set[Region]:
    """All intersections of regions, or their connected parts; the empty one left out."""
    on: defaultdict[Hashable, list[Region]] = defaultdict(list)
    for region in outer:
        for variable in region:
            on[variable].append(region)
    closed, new = set(outer), set(outer)
    while new:
        found = {r & m for r in new for v in r for m in on[v] if not r <= m}
        if touching is not None:
            found = {part for region in found for part in components(region, touching)}
        new = found - closed
        closed |= new
        if len(closed) > MAX_REGIONS:
            raise GraphError(
                f"cluster_variation: more than {MAX_REGIONS} intersections of {len(outer)} "
                "scopes. Use tiles for windows of a tensor, or the Bethe counts of a FactorGraph."
            )
    return closed


def _forest(graph: FactorGraph, regions: list[Region]) -> CliqueForest:
    sets = [np.array(numbers, np.int64) for numbers in numbered(graph, regions)]
    forest = clique_forest(sets, len(graph.variables))
    if forest is None:
        raise GraphError(
            f"junction_tree: {len(regions)} scopes have too many overlaps to join into a tree. "
            "Merge variables that always occur together."
        )
    return forest


def _triangulated(
    graph: FactorGraph, regions: list[Region], max_clique: int | None
) -> list[Region]:
    """Cliques of a chordal graph that contains every region, by the min-fill heuristic."""
    primal = nx.Graph()  # of numbers, whose order does not depend on hashes
    for numbers in numbered(graph, regions):
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
