"""Factor graphs from networkx, and back.

Nodes carry networkx's attribute `bipartite` and, where they apply, `shape`, `model`, `condition`
and `graph`; edges carry `position`, a variable's place in its factor's scope.
"""

from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING

import networkx as nx

from pgmdiff.errors import GraphError
from pgmdiff.graphs.regions import RegionGraph

if TYPE_CHECKING:
    from pgmdiff.graphs.factor_graph import FactorGraph

__all__ = ["from_networkx", "to_networkx"]

VARIABLE, FACTOR = 0, 1
"""Values of networkx's node attribute `bipartite`."""


def from_networkx(
    kind: "type[FactorGraph]", graph: "nx.Graph", axis: int | None = None
) -> "FactorGraph":
    """See `FactorGraph.from_networkx`."""
    if not isinstance(graph, nx.Graph) or graph.is_directed() or graph.is_multigraph():
        raise GraphError(
            "FactorGraph: expected an undirected networkx.Graph, got "
            f"{type(graph).__name__}. Convert it with networkx.Graph(graph), or use from_scopes."
        )
    sides = {node: data.get("bipartite") for node, data in graph.nodes(data=True)}
    for node, side in sides.items():
        if side not in (VARIABLE, FACTOR):
            raise GraphError(
                f"FactorGraph: node {node!r} has bipartite={side!r}, expected 0 (a variable) "
                f"or 1 (a factor). Set graph.nodes[{node!r}]['bipartite']."
            )
    for a, b in graph.edges:
        if sides[a] == sides[b]:
            both = "variables" if sides[a] == VARIABLE else "factors"
            raise GraphError(
                f"FactorGraph: edge ({a!r}, {b!r}) joins two {both}, expected a variable and "
                "a factor. Put a factor node between two variables."
            )
    models, conditions, inner = (
        {n: data[key] for n, data in graph.nodes(data=True) if data.get(key) is not None}
        for key in ("model", "condition", "graph")
    )
    built = kind.from_scopes(
        {f: _ordered_scope(graph, f) for f in graph if sides[f] == FACTOR},
        {x: graph.nodes[x].get("shape", ()) for x in graph if sides[x] == VARIABLE},
        axis=graph.graph.get("axis") if axis is None else axis,
        models=models,
        conditions=conditions,
    )
    nested = {n: from_networkx(kind, g) if isinstance(g, nx.Graph) else g for n, g in inner.items()}
    return replace(built, nested=nested, _drawn=graph.copy())


def _ordered_scope(graph: "nx.Graph", factor: Hashable) -> tuple[Hashable, ...]:
    """By the edges' positions or, where they have none, in the order in which edges were added."""
    positions = {name: data.get("position") for name, data in graph.adj[factor].items()}
    given = [p for p in positions.values() if p is not None]
    if not given:
        return tuple(positions)
    if len(given) < len(positions) or len(set(given)) < len(given):
        raise GraphError(
            f"FactorGraph: the edges of factor {factor!r} have positions "
            f"{list(positions.values())}, expected a different one on each, or none. "
            "Set the edge attribute 'position'."
        )
    return tuple(sorted(positions, key=positions.__getitem__))


def to_networkx(graph: "FactorGraph") -> "nx.Graph":
    """See `FactorGraph.to_networkx`."""
    drawn = nx.Graph() if graph._drawn is None else graph._drawn.copy()
    if graph.axis is not None:
        drawn.graph["axis"] = graph.axis
    for name, shape in zip(graph.variables, graph.shapes, strict=True):
        drawn.add_node(name, bipartite=VARIABLE, shape=shape)
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
