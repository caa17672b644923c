"""Factor graphs: order, shapes, models, immutability."""

import copy

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from pgmdiff import GraphError
from pgmdiff.graphs import (
    FactorGraph,
    chain,
)
from pgmdiff.testing.strategies import factor_graphs, nested_graphs


def same(a: FactorGraph, b: FactorGraph) -> bool:
    keys = ("variables", "factors", "shapes", "scopes", "axis")
    models = [{n: g.models.get(n, g.factor_model) for n in g.factors} for g in (a, b)]
    return all(getattr(a, k) == getattr(b, k) for k in keys) and models[0] == models[1]


# An asymmetric graph: permuted scopes or declarations show.
SCOPES = {"f": ("c", "a", "b"), "g": ("b", "d"), "h": ("d",)}


SHAPES = {"d": (2,), "b": (3,), "a": (), "c": (2, 2), "alone": (1,)}


def test_declaration_and_scope_order_are_kept() -> None:
    graph = FactorGraph.from_scopes(SCOPES, SHAPES)
    assert graph.variables == ("d", "b", "a", "c", "alone")
    assert graph.scopes["f"] == ("c", "a", "b")
    # d: 0-1, b: 2-4, a: 5, c: 6-9, alone: 10
    assert graph.regions.elements("f").tolist() == [6, 7, 8, 9, 5, 2, 3, 4]
    assert graph.regions.elements("c").tolist() == [[6, 7], [8, 9]]
    assert graph.counting_numbers() == {
        "f": 1, "g": 1, "h": 1, "d": -1, "b": -1, "a": 0, "c": 0, "alone": 1,
    }  # fmt: skip


def test_axis_concatenates_event_shapes() -> None:
    shapes = {"a": (2, 3), "b": (2, 1)}
    graph = FactorGraph.from_scopes({"f": ("b", "a")}, shapes, axis=-1)
    assert graph.regions.elements("f").tolist() == [[6, 0, 1, 2], [7, 3, 4, 5]]
    first = FactorGraph.from_scopes({"f": ("a", "a2")}, {"a": (1, 3), "a2": (2, 3)}, axis=0)
    assert first.regions.elements("f").shape == (3, 3)
    with pytest.raises(GraphError, match=r"factor 'f'.*cannot be concatenated along axis 0"):
        FactorGraph.from_scopes({"f": ("b", "a")}, shapes, axis=0)
    with pytest.raises(GraphError, match="along axis -1"):
        chain(3, axis=-1)


def test_mixed_node_types_and_isolated_variables() -> None:
    graph = FactorGraph.from_scopes({1: ("x", (0, 1)), "g": (2.5, "x")}, None)
    assert graph.variables == ("x", (0, 1), 2.5)
    alone = FactorGraph.from_scopes({}, {"x": (2,), "y": ()})
    assert alone.counting_numbers() == {"x": 1, "y": 1}
    report = alone.validate()
    assert report.valid
    assert report.junction_tree


def test_the_empty_graph() -> None:
    for empty in (
        FactorGraph.from_scopes({}),
        FactorGraph.from_networkx(nx.Graph()),
        FactorGraph.from_arrays([]),
        chain(0),
    ):
        assert empty.n_elements == 0
        assert empty.counting_numbers() == {}
        assert empty.validate().valid
        assert empty.to_networkx().number_of_nodes() == 0


def test_duplicate_and_subset_scopes_are_allowed_and_reported() -> None:
    twice = FactorGraph.from_scopes({"f": ("a", "b"), "g": ("b", "a"), "h": ("b", "c")})
    assert twice.counting_numbers()["a"] == -1
    report = twice.validate()
    assert report.valid
    assert report.berge_acyclic
    assert not report.junction_tree
    assert "duplicate or nested" in report.promise
    observations = FactorGraph.from_scopes({f"y{i}": ("theta",) for i in range(5)})
    assert observations.counting_numbers()["theta"] == -4


def test_from_arrays_matches_from_scopes() -> None:
    pairs, triples = np.array([[0, 1], [3, 1]]), np.array([[4, 0, 2]])
    graph = FactorGraph.from_arrays([pairs, triples], 6, shape=(2,))
    expected = FactorGraph.from_scopes(
        {"f0": ("x0", "x1"), "f1": ("x3", "x1"), "f2": ("x4", "x0", "x2")},
        {f"x{i}": (2,) for i in range(6)},
    )
    assert same(graph, expected)
    assert FactorGraph.from_arrays([[0, 1], [1, 2]]).scopes["f1"] == ("x1", "x2")


def test_models_separate_groups() -> None:
    graph = chain(5, (2,), factor_model="pair", variable_model="one")
    assert [g.model for g in graph.regions.groups] == ["pair", "one"]
    special = FactorGraph.from_scopes(
        {"f": ("a", "b"), "g": ("b", "c")}, models={"g": "other"}, factor_model="pair"
    )
    models = {name: g.model for g in special.regions.groups for name in g.names}
    assert models == {"f": "pair", "g": "other", "a": None, "b": None, "c": None}


def test_graphs_are_immutable() -> None:
    graph = chain(3)
    with pytest.raises(AttributeError):
        graph.axis = 0  # type: ignore[misc]
    with pytest.raises(TypeError):
        graph.models["f0"] = "m"  # type: ignore[index]
    with pytest.raises(TypeError):
        graph.scopes["f0"] = ()  # type: ignore[index]
    with pytest.raises(ValueError, match="read-only"):
        graph._scope[0] = 2
    assert same(copy.deepcopy(graph), graph)


@settings(max_examples=40)
@given(factor_graphs() | nested_graphs())
def test_elements_are_those_of_the_region(graph: FactorGraph) -> None:
    u = torch.arange(graph.n_elements)
    parts = graph.unpack(u)
    for name in graph.variables:
        assert torch.equal(u[graph.elements(name)], parts[name])
    for name, scope in graph.scopes.items():
        together = torch.cat([parts[variable].reshape(-1) for variable in scope])
        assert torch.equal(u[graph.elements(name)].reshape(-1), together)
