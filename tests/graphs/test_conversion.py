"""Factor graphs from networkx, and back."""

import pickle

import networkx as nx
import pytest
import torch
from hypothesis import given, settings

from pgmdiff import GraphError
from pgmdiff.graphs import (
    FactorGraph,
)
from pgmdiff.testing.strategies import factor_graphs
from tests.graphs.test_factor_graph import SCOPES, SHAPES, same


def test_networkx_round_trip_loses_nothing() -> None:
    graph = FactorGraph.from_scopes(
        SCOPES,
        SHAPES,
        models={"f": "big", "b": "small"},
        conditions={"g": {"prompt": torch.ones(3)}},
    )
    drawn = graph.to_networkx()
    assert same(FactorGraph.from_networkx(drawn), graph)
    assert nx.is_bipartite(drawn)
    assert drawn.nodes["c"] == {"bipartite": 0, "shape": (2, 2)}
    assert FactorGraph.from_networkx(drawn).conditions["g"]["prompt"].tolist() == [1, 1, 1]


def test_what_networkx_knows_beyond_the_graph_is_kept() -> None:
    drawn = nx.Graph(title="mine")
    drawn.add_node("f", bipartite=1, pos=(0, 1))
    drawn.add_node("b", bipartite=0)
    drawn.add_node("a", bipartite=0, shape=(2,))
    drawn.add_edge("f", "b", colour="red")
    drawn.add_edge("a", "f")
    graph = FactorGraph.from_networkx(drawn)
    assert graph.scopes["f"] == ("b", "a")
    again = graph.to_networkx()
    assert again.graph["title"] == "mine"
    assert again.nodes["f"]["pos"] == (0, 1)
    assert again.edges["f", "b"] == {"colour": "red", "position": 0}
    assert drawn.edges["f", "b"] == {"colour": "red"}, "the input is not changed"


def test_scope_order_survives_relabelling() -> None:
    relabelled = nx.relabel_nodes(
        FactorGraph.from_scopes(SCOPES, SHAPES).to_networkx(), {"c": 7, "f": "F"}
    )
    assert FactorGraph.from_networkx(relabelled).scopes["F"] == (7, "a", "b")


@settings(max_examples=40)
@given(factor_graphs())
def test_round_trip_of_any_graph(graph: FactorGraph) -> None:
    assert same(FactorGraph.from_networkx(graph.to_networkx()), graph)
    assert same(pickle.loads(pickle.dumps(graph)), graph)


def test_bad_networkx_graphs_are_named() -> None:
    directed = nx.DiGraph()
    with pytest.raises(GraphError, match="undirected"):
        FactorGraph.from_networkx(directed)
    unlabelled = nx.Graph([("f", "a")])
    with pytest.raises(GraphError, match="node 'f' has bipartite=None"):
        FactorGraph.from_networkx(unlabelled)
    one_sided = nx.Graph()
    one_sided.add_nodes_from(["a", "b"], bipartite=0)
    one_sided.add_edge("a", "b")
    with pytest.raises(GraphError, match="joins two variables"):
        FactorGraph.from_networkx(one_sided)
    lonely = nx.Graph()
    lonely.add_node("f", bipartite=1)
    with pytest.raises(GraphError, match="empty scope"):
        FactorGraph.from_networkx(lonely)
    positions = FactorGraph.from_scopes({"f": ("a", "b")}).to_networkx()
    positions.edges["f", "a"]["position"] = 1
    with pytest.raises(GraphError, match=r"positions \[1, 1\]"):
        FactorGraph.from_networkx(positions)
