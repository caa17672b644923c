"""Factor graphs from networkx, and back.

Nodes carry networkx's attribute `bipartite` and, where they apply, `shape`, `model`, `condition`
and `graph`; edges carry `position`, a variable's place in its factor's scope. Without positions the
order of nodes decides: copies, relabelling and files keep it, while they mix the order of edges.
"""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING

import networkx as nx

from pgmdiff.errors import GraphError
from pgmdiff.graphs.names import check_names
from pgmdiff.graphs.regions import RegionGraph

if TYPE_CHECKING:
    from pgmdiff.graphs.factor_graph import FactorGraph

__all__ = ["check_undirected", "from_networkx", "ordered_nodes", "to_networkx"]

VARIABLE, FACTOR = 0, 1
"""Values of networkx's node attribute `bipartite`."""


def from_networkx(
    kind: "type[FactorGraph]", graph: "nx.Graph", axis: int | None = None
) -> "FactorGraph":
    """See `FactorGraph.from_networkx`."""
    check_undirected("FactorGraph", graph)
    nodes = ordered_nodes(graph)
    check_names("FactorGraph", nodes)
    number = {node: n for n, node in enumerate(nodes)}
    sides = {node: graph.nodes[node].get("bipartite") for node in nodes}
    for node, side in sides.items():
        if not isinstance(side, Real) or side not in (VARIABLE, FACTOR):
            raise GraphError(
                f"FactorGraph: node {node!r} has bipartite={side!r}, expected 0 (a variable) "
                f"or 1 (a factor). Set graph.nodes[{node!r}]['bipartite']; markov_random_field "
                "accepts a graph of variables alone."
            )
    for a, b in graph.edges:
        if sides[a] == sides[b]:
            both = "variables" if sides[a] == VARIABLE else "factors"
            raise GraphError(
                f"FactorGraph: edge ({a!r}, {b!r}) joins two {both}, expected a variable and "
                "a factor. Put a factor node between two variables."
            )
    models, conditions, inner = (
        {n: graph.nodes[n][key] for n in nodes if graph.nodes[n].get(key) is not None}
        for key in ("model", "condition", "graph")
    )
    variables = [node for node in nodes if sides[node] == VARIABLE]
    bare = [x for x in variables if "shape" not in graph.nodes[x]]
    if 0 < len(bare) < len(variables):
        raise GraphError(
            f"FactorGraph: variable {bare[0]!r} has no shape, while others have one. Set "
            f"graph.nodes[{bare[0]!r}]['shape'], which is () of a scalar."
        )
    built = kind.from_scopes(
        {f: _ordered_scope(graph, f, number) for f in nodes if sides[f] == FACTOR},
        {x: graph.nodes[x].get("shape", ()) for x in variables},
        axis=graph.graph.get("axis") if axis is None else axis,
        models=models,
        conditions=conditions,
    )
    nested = {n: from_networkx(kind, g) if isinstance(g, nx.Graph) else g for n, g in inner.items()}
    drawn = nx.Graph()
    drawn.graph.update(graph.graph)
    drawn.add_nodes_from((node, graph.nodes[node]) for node in nodes)
    for f, scope in built.scopes.items():
        drawn.add_edges_from((f, x, graph.adj[f][x]) for x in scope)
    return replace(built, nested=nested, _drawn=drawn)


def check_undirected(who: str, graph: object) -> None:
    """Raises `GraphError` unless a graph is networkx's, without directions and parallel edges."""
    got = type(graph).__name__
    if not isinstance(graph, nx.Graph):
        remedy = "Use networkx.Graph, or FactorGraph.from_scopes."
    elif graph.is_directed():
        remedy = (
            "Without directions x → z ← y loses that x and y depend on each other given z: give "
            "markov_random_field(networkx.moral_graph(graph), cliques=True). If every arrow joins "
            "a factor and a variable, nothing is lost by networkx.Graph(graph)."
        )
    elif graph.is_multigraph():
        remedy = "networkx.Graph(graph) keeps one of parallel edges."
    else:
        return
    raise GraphError(f"{who}: expected an undirected networkx.Graph, got {got}. {remedy}")


def ordered_nodes(graph: "nx.Graph") -> list[Hashable]:
    """The nodes in the graph's own order; a view of few nodes iterates as the set of them does."""
    whole = graph
    while hasattr(whole, "_graph"):
        whole = whole._graph
    return [node for node in whole if node in graph]


def _ordered_scope(
    graph: "nx.Graph", factor: Hashable, number: Mapping[Hashable, int]
) -> tuple[Hashable, ...]:
    """By the edges' positions or, where they have none, in the order of nodes."""
    scope = sorted(graph.adj[factor], key=number.__getitem__)
    positions = {name: graph.adj[factor][name].get("position") for name in scope}
    given = [p for p in positions.values() if p is not None]
    if not given:
        return tuple(scope)
    numbers = {p for p in given if isinstance(p, Real) and p == p}
    if len(numbers) < len(positions):
        raise GraphError(
            f"FactorGraph: the edges of factor {factor!r} have positions "
            f"{list(positions.values())}, expected a different number on each, or none. "
            "Set the edge attribute 'position'."
        )
    return tuple(sorted(scope, key=positions.__getitem__))


def to_networkx(graph: "FactorGraph") -> "nx.Graph":
    """See `FactorGraph.to_networkx`."""
    drawn = nx.Graph() if graph._drawn is None else graph._drawn.copy()
    if graph.axis is not None:
        drawn.graph["axis"] = graph.axis
    for name, shape in zip(graph.variables, graph.shapes, strict=True):
        shaped = {"shape": shape} if any(graph.shapes) else {}  # most file formats hold none
        drawn.add_node(name, bipartite=VARIABLE, **shaped)
    drawn.add_nodes_from(graph.factors, bipartite=FACTOR)
    for name, data in drawn.nodes(data=True):
        kind = graph.variable_model if data["bipartite"] == VARIABLE else graph.factor_model
        model, inner = graph.models.get(name, kind), graph.nested.get(name)
        if model is not None:
            data["model"] = model
        if name in graph.conditions:
            data["condition"] = graph.conditions[name]
        if inner is not None:
            data["graph"] = inner if isinstance(inner, RegionGraph) else to_networkx(inner)
    for factor, scope in graph.scopes.items():
        drawn.add_edges_from((factor, name, {"position": k}) for k, name in enumerate(scope))
    return drawn
