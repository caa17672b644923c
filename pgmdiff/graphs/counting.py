r"""Region graphs from scopes: cluster variation and junction trees.

*Cluster variation* (Kikuchi) closes the maximal scopes under intersection and counts, from the
largest region down, c_r = 1 - Σ_{s ⊋ r} c_s (Yedidia, Freeman, Weiss, "Constructing free-energy
approximations and generalized belief propagation algorithms", 2005). Equivalently, by
inclusion-exclusion over the maximal scopes, c_R = Σ_{S : ∩S = R} (-1)^{|S|-1}.

A *junction tree* counts +1 per clique and -1 per separator, one for every edge of a forest of
cliques with running intersection. Scopes that have none are triangulated first. Both agree on
α-acyclic scopes.

Pieces given as index arrays are counted as scopes of their `atoms`.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import combinations
from typing import Any

import networkx as nx

from pgmdiff.errors import GraphError
from pgmdiff.graphs.acyclicity import clique_forest
from pgmdiff.graphs.containment import regions_around
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
"""Number of regions, besides ten per scope, at which closing under intersection is given up."""
MAX_CLIQUE = 300
"""Size of a clique at which triangulation is given up, unless a larger one is allowed."""
HUB = 64
"""Number of regions on a variable above which it is a hub."""


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

    *Of scopes*: a region is named by the frozenset of its variables, which is also its model id
    unless the factor graph gives one (`models={name: name for name in scopes}`, for example). A
    scope keeps its order, as its model expects; intersections, and scopes that are sets, list their
    variables in declaration order. Variables in no scope are regions of their own.

    *Of index arrays*: pieces keep their names, arrays and model ids. An intersection is named by
    the frozenset of the pieces around it (with a number, where there are several). That is also
    its model id, unless those pieces share a model: then its shape is. It is laid out as in the
    first piece around it, of the dict or of the graph's `pieces`, where it fills a sub-array of
    that piece, and flattened otherwise.

    Regions of count 0 are left out. Exact at σ = 0, for data Markov to the pieces, if these are
    α-acyclic; otherwise the Kikuchi approximation, on tiles far better than Bethe's on pixels.

    Args:
        scopes: a factor graph (of networkx, too), a dict of scopes, or scopes alone; or pieces: the
            outer regions of a region graph or, with `event_shape`, a dict of integer arrays of
            elements.
        shapes: variable name to event shape, in declaration order; if None, all are scalars,
            declared where they first appear.
        event_shape: shape of the state that index arrays are pieces of.
        models: for index arrays, name to model id, for pieces whose model id is not their name.
        absorb: whether scopes inside others are dropped, rather than an error. Those with a model
            or a condition of their own always are an error, unless they repeat a scope together
            with its model and condition: dropping them would lose something.
        disconnected: whether an intersection in unconnected parts (the two arcs of a ring of two
            windows) is "one" region, whose model must know how the parts depend on each other, or
            "several", which takes the parts for independent given the rest: a loop where "one" is
            exact, but with models of connected parts only. Elements are connected when they are
            neighbours in a piece's array, variables when they are in a scope's order.

    Raises:
        GraphError: a scope is not to be absorbed, there are too many intersections (see
            `MAX_REGIONS`), or elements in no piece; and whatever `FactorGraph.from_scopes` raises.

    Example:
        >>> from pgmdiff.graphs import cluster_variation
        >>> regions = cluster_variation([("a", "b", "c"), ("b", "c", "d")])
        >>> sorted(("".join(sorted(r)), c) for r, c in regions.counting_numbers().items())
        [('abc', 1), ('bc', -1), ('bcd', 1)]
    """
    who = "cluster_variation"
    pieces = pieces_of(scopes, shapes, event_shape, disconnected, models, who)
    outer = maximal(pieces.graph, absorb, who)
    regions = sorted(_closed(outer, pieces.touching), key=len, reverse=True)
    counts: dict[Region, int] = {}
    for region, around in zip(regions, regions_around(regions, regions), strict=True):
        larger = (regions[number] for number in around if regions[number] != region)
        counts[region] = 1 - sum(counts[each] for each in larger)
    return pieces.region_graph(set(outer), counts)


def junction_tree(
    scopes: Scopes,
    shapes: Mapping[Any, Sequence[int]] | None = None,
    *,
    event_shape: Sequence[int] | None = None,
    models: Mapping[Any, Hashable] | None = None,
    absorb: bool = True,
    max_clique: int | None = None,
) -> RegionGraph:
    """The region graph of a junction tree: cliques +1, separators -1 per edge.

    Exact at σ = 0 for any data that is Markov to the scopes. Scopes that are not α-acyclic have to
    be triangulated (min-fill), and models of the cliques that this makes, larger than any scope,
    are needed. Names, model ids and order are those of `cluster_variation`; a clique or separator
    of index arrays that is in no piece is flat, and named ("clique", k).

    Args:
        scopes, shapes, event_shape, models, absorb: as for `cluster_variation`.
        max_clique: largest number of variables (for index arrays: of atoms, the blocks that no
            piece splits) of a clique that triangulation may make; nothing is triangulated if None.

    Raises:
        GraphError: triangulation is needed and not allowed, with the size of clique that it needs;
            and whatever `cluster_variation` raises.

    Example:
        >>> from pgmdiff.graphs import junction_tree
        >>> loop = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")]
        >>> tree = junction_tree(loop, max_clique=3)
        >>> sorted(("".join(sorted(r)), c) for r, c in tree.counting_numbers().items())
        [('abd', 1), ('bcd', 1), ('bd', -1)]
    """
    who = "junction_tree"
    pieces = pieces_of(scopes, shapes, event_shape, "one", models, who)
    graph = pieces.graph
    outer = maximal(graph, absorb, who)
    listed = numbered(graph, outer)
    forest = clique_forest(listed)
    triangulated = forest is None
    if forest is None:
        listed = _triangulated(listed, max_clique)
        forest = clique_forest(listed)
        assert forest is not None, "cliques of a chordal graph"
    numbers, edges = forest
    cliques = {k: frozenset(graph.variables[v] for v in listed[k]) for k in numbers}
    counts = Counter(cliques.values())
    for factor, scope in graph.scopes.items() if triangulated else ():
        if frozenset(scope) not in counts and has_its_own(graph, factor):
            raise GraphError(
                f"junction_tree: triangulation puts factor {factor!r} inside a larger clique, "
                "and it has a model or a condition of its own, which would be lost. Remove it, "
                "and give the clique's model by the clique's name."
            )
    for a, b in edges:
        counts[cliques[a] & cliques[b]] -= 1
    return replace(pieces.region_graph(set(cliques.values()), counts), junction_tree=True)


def _closed(outer: list[Region], touching: "nx.Graph | None") -> set[Region]:
    """All nonempty intersections of regions or, where parts touch others, their connected parts.

    What a region shares with others through hubs, variables of many regions, is read off the sets
    of hubs that occur, and how often they do: pairs of regions on a hub are too many.
    """
    on: defaultdict[Hashable, list[Region]] = defaultdict(list)
    for region in outer:
        for variable in region:
            on[variable].append(region)
    hubs = frozenset(variable for variable, regions in on.items() if len(regions) > HUB)
    kinds = {hub: Counter(region & hubs for region in on[hub]) for hub in hubs}
    most = MAX_REGIONS + 10 * len(outer)
    closed, new = set(outer), set(outer)
    while new:
        found: set[Region] = set()
        for r in new:
            near = {m for variable in r - hubs for m in on[variable]}
            known = Counter(m & hubs for m in near)
            far = {k for hub in r & hubs for k, n in kinds[hub].items() if n > known[k]}
            found |= set(map(r.__and__, near | far)) - {r}
        if touching is not None:
            parts = (nx.connected_components(touching.subgraph(region)) for region in found)
            found = {frozenset(part) for each in parts for part in each}
        new = found - closed
        closed |= new
        if len(closed) > most:
            raise GraphError(
                f"cluster_variation: more than {most} intersections of {len(outer)} "
                "scopes. Use tiles for windows of a tensor, or the Bethe counts of a FactorGraph."
            )
    return closed


def _triangulated(scopes: list[list[int]], max_clique: int | None) -> list[list[int]]:
    """Cliques of a chordal graph that contains every scope, by the min-fill heuristic.

    The variable goes next whose neighbours miss the fewest edges, and these are added.
    """
    around: defaultdict[int, set[int]] = defaultdict(set)
    for scope in scopes:
        for v in scope:
            around[v].update(scope)
    for v, near in around.items():
        near.discard(v)
    missing = {
        v: (len(near) * (len(near) - 1) - sum(len(near & around[w]) for w in near)) // 2
        for v, near in around.items()
    }
    heap = [(missing[v], len(near), v) for v, near in around.items()]
    heapify(heap)
    cliques: list[list[int]] = []
    largest, most = 0, max(MAX_CLIQUE, max_clique or 0)
    while heap and largest <= most:
        fill, degree, v = heappop(heap)
        if v not in around or (fill, degree) != (missing[v], len(around[v])):
            continue
        near = around.pop(v)
        cliques.append([v, *near])
        largest = max(largest, 1 + len(near))
        changed = set(near)
        for w in near:
            around[w].discard(v)
            missing[w] -= len(around[w]) - len(around[w] & near)
        for a, b in combinations(near, 2) if fill else ():
            if b not in around[a]:
                both = around[a] & around[b]
                missing[a] += len(around[a]) - len(both)
                missing[b] += len(around[b]) - len(both)
                for c in both:
                    missing[c] -= 1
                around[a].add(b)
                around[b].add(a)
                changed |= both
        for w in changed:
            heappush(heap, (missing[w], len(around[w]), w))
    if max_clique is None or largest > max_clique:
        up_to = "up to" if largest <= most else "at least"
        raise GraphError(
            "junction_tree: the scopes are not α-acyclic, and triangulating them makes cliques of "
            f"{up_to} {largest} variables (treewidth {largest - 1} by min-fill; the largest scope "
            f"has {max(map(len, scopes))}). Pass max_clique={largest} if you have models of such "
            "cliques, or use cluster_variation."
        )
    return cliques
