"""Families of section B: named trees, Markov random fields, hidden chains, products."""

import networkx as nx
import numpy as np
import pytest
import torch

from pgmdiff import GraphError, compose
from pgmdiff.gaussian import Gaussian, composed_precision
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    cycle,
    hidden_markov,
    junction_tree,
    markov_random_field,
    named_tree,
    product,
    repeated_observations,
    tiles,
    time_by_parts,
)
from tests.helpers import ar1, relative


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

    joint = compose(graph, {"posterior": posterior, "prior": lambda x, sigma: -x})
    theta = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    precision, mean = 1 + 3 / 0.5, (ys.sum() / 0.5) / (1 + 3 / 0.5)
    torch.testing.assert_close(joint(theta, 0.0), -precision * (theta - mean))
    with pytest.raises(GraphError, match="expected 3 conditions, one per observation, got 2"):
        repeated_observations(3, conditions=[{}, {}])
    assert repeated_observations(2, (2, 2), name="w").regions.elements("w").shape == (2, 2)


def kronecker(a: Gaussian, b: Gaussian) -> Gaussian:
    mean = torch.zeros(len(a.covariance), len(b.covariance), dtype=torch.float64)
    return Gaussian(mean, torch.kron(a.covariance, b.covariance))


def test_the_product_rule() -> None:
    left, right = tiles((10,), 4, 2), chain(3)
    graph = product(left, right)
    assert graph.event_shape == (10, 3)
    assert graph.validate().valid
    for (a, b), count in graph.counting_numbers().items():
        assert count == left.counting_numbers()[a] * right.counting_numbers()[b]
        outer = left.elements(a)[:, None] * 3 + right.regions.elements(b).reshape(-1)
        assert torch.equal(graph.elements((a, b)).reshape(outer.shape), outer)
    # For a separable Gaussian, precisions multiply: exact where both parts are.
    q = kronecker(ar1(10, 0.7), ar1(3, 0.4))
    assert relative(composed_precision(graph, q), torch.linalg.inv(q.covariance)) < 1e-12
    again = product(tiles((8,), 4, 2), tiles((6,), 4, 2))
    same = tiles((8, 6), 4, 2)
    assert sorted(again.counting_numbers().values()) == sorted(same.counting_numbers().values())
    assert (again.element_sums() == same.element_sums()).all()
    # Model ids are pairs: of the groups', or the regions' own names.
    assert {g.model for g in graph.groups} == {
        ((n,), b) for n in (4, 2) for b in right.regions.names
    }
    assert {g.model for g in product(chain(2), chain(2)).groups} == {None}


def test_products_keep_conditions_and_fractions() -> None:
    left = FactorGraph.from_scopes({"f": ("a",)}, conditions={"f": {"y": torch.ones(1)}})
    right = RegionGraph.from_regions(
        {"s": [0], "t": [0]}, {"s": 1, "t": 1}, event_shape=(1,), denominator=2
    )
    graph = product(left, right)
    assert graph.denominator == 2
    assert graph.validate().valid
    assert graph.conditions["f", "s"]["y"] == 1
    assert ("a", "s") not in graph.conditions


def test_time_by_parts() -> None:
    parts = {"legs": [0, 1, 2], "torso": [2, 3, 4], "arms": [4, 5]}
    motion = time_by_parts(24, 16, 8, parts)
    assert motion.event_shape == (24, 6)
    assert motion.validate().valid
    shared = frozenset({"legs", "torso"})
    counts = motion.counting_numbers()
    assert counts["[0:16]", "legs"] == 1
    assert counts["[8:16]", "legs"] == -1
    assert counts["[0:16]", shared] == -1
    assert counts["[8:16]", shared] == 1
    assert motion.elements(("[8:24]", "torso"))[0].tolist() == [8 * 6 + c for c in (2, 3, 4)]
    assert {g.model for g in motion.groups} >= {((16,), "legs"), ((8,), shared)}
    ring = time_by_parts(24, 16, 8, parts, periodic=True, channels=6)
    assert ring.validate().valid
    with pytest.raises(GraphError, match="1 elements are in no piece, the first is 6"):
        time_by_parts(24, 16, 8, parts, channels=7)
    q = kronecker(ar1(24, 0.9), ar1(6, 0.5))
    wide = time_by_parts(24, 16, 15, parts)
    assert relative(composed_precision(wide, q), torch.linalg.inv(q.covariance)) < 1e-9


def test_cycles_of_cliques_are_triangulated() -> None:
    ring = markov_random_field(nx.cycle_graph(5))
    assert ring.counting_numbers().keys() == {*range(5), *((i, i + 1) for i in range(4)), (0, 4)}
    tree = junction_tree(ring, max_clique=3)
    assert tree.validate().junction_tree
    assert np.array_equal(cycle(5).degrees, ring.degrees)
