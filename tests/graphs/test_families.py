"""Families of graphs: shapes, counts, and what they refuse."""

import networkx as nx
import pytest
import torch

from pgmdiff import GraphError, compose
from pgmdiff.graphs import (
    chain,
    cluster_variation,
    cycle,
    grid,
    hidden_markov,
    markov_random_field,
    named_tree,
    repeated_observations,
    star,
    torus,
    tree,
)


def test_families_reject_what_they_cannot_be() -> None:
    for make in (
        lambda: cycle(2), lambda: chain(-1), lambda: star(-1), lambda: torus(2, 4), grid,
        lambda: tree(0, 2),
    ):  # fmt: skip
        with pytest.raises(GraphError, match="expected"):
            make()


def test_family_shapes() -> None:
    assert grid(2, 2).scopes == {
        ((0, 0), (1, 0)): ((0, 0), (1, 0)),
        ((0, 1), (1, 1)): ((0, 1), (1, 1)),
        ((0, 0), (0, 1)): ((0, 0), (0, 1)),
        ((1, 0), (1, 1)): ((1, 0), (1, 1)),
    }
    for graph, oracle in (
        (grid(3, 4), nx.grid_2d_graph(3, 4)),
        (torus(3, 4), nx.grid_2d_graph(3, 4, periodic=True)),
    ):
        assert {frozenset(s) for s in graph.scopes.values()} == set(map(frozenset, oracle.edges))
    edges = {frozenset(s) for s in tree(3, 2).scopes.values()}
    names = nx.relabel_nodes(nx.balanced_tree(3, 2), lambda i: f"x{i}")
    assert edges == set(map(frozenset, names.edges))
    assert cycle(3).scopes["f2"] == ("x2", "x0")


def test_named_trees() -> None:
    parents = {"arm": "torso", "leg": "torso", "hand": "arm"}
    body = named_tree(parents, {"torso": (3,), "arm": (2,), "leg": (2,), "hand": (4,)}, axis=-1)
    assert body.scopes["torso", "arm"] == ("torso", "arm")
    assert body.regions.elements(("arm", "hand")).tolist() == [3, 4, 7, 8, 9, 10]
    assert body.validate().berge_acyclic
    assert named_tree({}).n_elements == 0
    for wrong in ({"a": "a"}, {"a": "b", "b": "c", "c": "a"}):
        with pytest.raises(GraphError, match="is its own ancestor"):
            named_tree(wrong)
    with pytest.raises(GraphError, match="the parent of 'hip' is '', expected a part"):
        named_tree({"hip": "", "knee": "hip"})  # an empty cell of a table
    assert named_tree({"hip": "", "": None}).n_elements == 2


def test_markov_random_fields() -> None:
    graph = nx.Graph([("c", "a"), ("a", "b"), ("b", "c"), ("c", "d")])
    graph.add_node("alone", shape=(2,))
    pairs = markov_random_field(graph)
    assert list(pairs.scopes) == [("c", "a"), ("c", "b"), ("c", "d"), ("a", "b")]
    assert pairs.shapes[-1] == (2,)
    cliques = markov_random_field(graph, {"d": (3,)}, cliques=True)
    assert set(cliques.scopes) == {("c", "a", "b"), ("c", "d")}
    assert cliques.counting_numbers() == {
        ("c", "a", "b"): 1, ("c", "d"): 1, "c": -1, "a": 0, "b": 0, "d": 0, "alone": 1
    }  # fmt: skip
    assert cliques.validate().junction_tree
    mixed = markov_random_field(nx.Graph([(1, "x"), ("x", (2, 3))]))
    assert mixed.validate().junction_tree
    big = markov_random_field(nx.grid_2d_graph(6, 6), cliques=True)
    assert cluster_variation(big).validate().valid


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (nx.DiGraph([(0, 1)]), "undirected networkx.Graph, got DiGraph"),
        (nx.MultiGraph([(0, 1)]), "got MultiGraph"),
        (nx.Graph([(0, 0)]), "0 has an edge to itself"),
        ({"a": "b"}, "got dict"),
    ],
)
def test_bad_fields_are_named(graph: object, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        markov_random_field(graph)


def test_hidden_markov_chains() -> None:
    graph = hidden_markov(3, state=(2,), observation=(1,))
    counts = graph.counting_numbers()
    assert [counts[f"x{i}"] for i in range(3)] == [-1, -2, -1]
    assert [counts[f"y{i}"] for i in range(3)] == [0] * 3
    assert graph.validate().junction_tree
    assert graph.mask({"y0", "y2"}).sum() == 2
    called = []

    def score(kind):
        return lambda x, sigma: called.append((kind, x.shape[1:])) or -x

    models = {kind: score(kind) for kind in ("transition", "emission", "state")}
    compose(graph, models)(torch.zeros(1, 9), 1.0)
    assert sorted((k, tuple(s)) for k, s in called) == [
        ("emission", (3,)), ("state", (2,)), ("transition", (4,))
    ]  # fmt: skip
    assert hidden_markov(1).counting_numbers() == {"e0": 1, "x0": 0, "y0": 0}
    with pytest.raises(GraphError, match="at least 1, got 0"):
        hidden_markov(0)


def test_observations_multiply_posteriors() -> None:
    """q(θ) = N(0, 1), y_i = θ + noise of variance 0.5: the composed score at σ = 0 is exact."""
    ys = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    graph = repeated_observations(3, conditions=[{"y": y} for y in ys])
    assert graph.counting_numbers() == {"y0": 1, "y1": 1, "y2": 1, "theta": -2}

    def posterior(x, sigma, y):
        return -3 * (x - (y / 1.5)[:, None])  # N(y / 1.5, 1 / 3)

    with pytest.warns(UserWarning, match="compose: regions 'y0' and 'y1' hold the same elements"):
        joint = compose(graph, {"posterior": posterior, "prior": lambda x, sigma: -x})
    theta = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    precision, mean = 1 + 3 / 0.5, (ys.sum() / 0.5) / (1 + 3 / 0.5)
    torch.testing.assert_close(joint(theta, 0.0), -precision * (theta - mean))
    with pytest.raises(GraphError, match="expected 3 conditions, one per observation, got 2"):
        repeated_observations(3, conditions=[{}, {}])
    assert repeated_observations(2, (2, 2), name="w").regions.elements("w").shape == (2, 2)
