import copy
import pickle

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given

from pgmdiff import GraphError, ShapeError
from pgmdiff.graphs import FactorGraph, chain, cycle, grid, star, torus, tree
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


@given(factor_graphs())
def test_round_trip_of_any_graph(graph: FactorGraph) -> None:
    assert same(FactorGraph.from_networkx(graph.to_networkx()), graph)
    assert same(pickle.loads(pickle.dumps(graph)), graph)


@given(factor_graphs())
def test_pack_and_unpack_are_inverse(graph: FactorGraph) -> None:
    u = torch.arange(2.0 * 3 * graph.n_elements).reshape(2, 3, graph.n_elements)
    values = graph.unpack(u)
    assert all(v.shape == (2, 3, *graph.shapes[i]) for i, v in enumerate(values.values()))
    assert torch.equal(graph.pack(values), u)


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


@pytest.mark.parametrize(
    ("scopes", "shapes", "message"),
    [
        ({"f12": ("x9",)}, {"x1": ()}, "factor 'f12' lists variable 'x9', which has no shape. Add"),
        ({"f": ()}, None, "'f' has an empty scope"),
        ({"f": ("a", "b", "a")}, None, "'f' lists variable 'a' twice"),
        ({"f": "ab"}, None, "is the string 'ab'"),
        ({"a": ("a", "b")}, None, "'a' names both a variable and a factor"),
        ({"f": ("a",)}, {"a": 3}, "variable 'a' must be a tuple"),
        ({"f": ("a",)}, {"a": (0,)}, "every side must be at least 1"),
    ],
)
def test_bad_scopes_are_named(scopes: dict, shapes: dict | None, message: str) -> None:
    with pytest.raises(GraphError, match="FactorGraph") as error:
        FactorGraph.from_scopes(scopes, shapes)
    assert message in str(error.value)


def test_bad_models_and_conditions_are_named() -> None:
    with pytest.raises(GraphError, match="a model is given for 'z', which is no node"):
        FactorGraph.from_scopes({"f": ("a",)}, models={"z": 1})
    with pytest.raises(GraphError, match="a condition is given for 'z'"):
        FactorGraph.from_scopes({"f": ("a",)}, conditions={"z": {}})


def test_bad_arrays_are_named() -> None:
    with pytest.raises(GraphError, match="expected variables 0 to 2, got scopes with 0 to 3"):
        FactorGraph.from_arrays([[0, 3]], 3)
    with pytest.raises(GraphError, match="integer scopes"):
        FactorGraph.from_arrays(np.zeros((2, 2)))
    with pytest.raises(GraphError, match="integer scopes"):
        FactorGraph.from_arrays(np.zeros((2, 2, 2), int))
    with pytest.raises(GraphError, match="expected 2 names in factors="):
        FactorGraph.from_arrays([[0, 1], [1, 2]], factors=["f"])
    with pytest.raises(GraphError, match="variable 'x' is listed twice"):
        FactorGraph.from_arrays([[0, 1]], variables=["x", "x"])


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


def test_pack_names_what_is_wrong() -> None:
    graph = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (2,), "b": ()})
    with pytest.raises(ShapeError, match="'b' is missing"):
        graph.pack({"a": torch.zeros(2)})
    with pytest.raises(ShapeError, match="'c' is unknown"):
        graph.pack({"a": torch.zeros(2), "b": torch.zeros(()), "c": torch.zeros(())})
    with pytest.raises(ShapeError, match=r"variable 'a' has shape \(2,\)"):
        graph.pack({"a": torch.zeros(3), "b": torch.zeros(())})
    with pytest.raises(ShapeError, match="different batch shapes"):
        graph.pack({"a": torch.zeros(4, 2), "b": torch.zeros(())})
    with pytest.raises(ShapeError, match=r"expected \[\*batch, 3\]"):
        graph.unpack(torch.zeros(4))


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


def test_more_bad_input_is_named() -> None:
    with pytest.raises(GraphError, match="different lengths"):
        FactorGraph.from_arrays([[0, 1], [1, 2, 3]])
    with pytest.raises(GraphError, match="names must be hashable"):
        FactorGraph.from_scopes({"f": (["a"], "b")})  # type: ignore[list-item]
    for shape in ("ab", (2.5,), None):
        with pytest.raises(GraphError, match="must be a tuple of integers"):
            FactorGraph.from_scopes({"f": ("a",)}, {"a": shape})  # type: ignore[dict-item]
    with pytest.raises(GraphError, match=r"expected a networkx\.Graph, got dict"):
        FactorGraph.from_networkx({"a": ("b",)})
    with pytest.raises(GraphError, match="condition of 'f' is of type int"):
        FactorGraph.from_scopes({"f": ("a",)}, conditions={"f": 3})  # type: ignore[dict-item]


def test_masks_by_variable_name() -> None:
    graph = FactorGraph.from_scopes({"f": ("a", "b")}, {"b": (3,), "a": (), "c": (2, 1)})
    assert graph.mask({"a", "c"}).tolist() == [False] * 3 + [True] * 3
    assert graph.mask([]).sum() == 0
    part = graph.mask({"b": torch.tensor([True, False, True]), "a": True, "c": False})
    assert part.tolist() == [True, False, True, True, False, False]
    with pytest.raises(GraphError, match="'f' is a factor, not a variable"):
        graph.mask(["f"])
    with pytest.raises(GraphError, match="collection of names"):
        graph.mask("a")
    with pytest.raises(ShapeError, match=r"boolean tensor of \(3,\), for variable 'b'"):
        graph.mask({"b": torch.tensor([True])})
    with pytest.raises(ShapeError, match=r"got torch\.int64"):
        graph.mask({"a": torch.tensor(1)})


@given(factor_graphs() | nested_graphs())
def test_elements_are_those_of_the_region(graph: FactorGraph) -> None:
    u = torch.arange(graph.n_elements)
    parts = graph.unpack(u)
    for name in graph.variables:
        assert torch.equal(u[graph.elements(name)], parts[name])
    for name, scope in graph.scopes.items():
        together = torch.cat([parts[variable].reshape(-1) for variable in scope])
        assert torch.equal(u[graph.elements(name)].reshape(-1), together)


def test_observe_is_what_pack_and_mask_say() -> None:
    graph = FactorGraph.from_scopes(
        {"f": ("a", "b"), "g": ("b", "c")}, {"a": (2,), "b": (), "c": (3,)}
    )
    c = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    y, mask = graph.observe({"c": c, "b": 7})
    whole = graph.pack({"a": torch.zeros(2), "b": torch.tensor(7.0), "c": c})
    torch.testing.assert_close(y, whole)
    assert torch.equal(mask, graph.mask(["b", "c"]))
    assert torch.equal(graph.observe({"c": 2})[0][mask & graph.mask(["c"])], torch.full((3,), 2.0))
    with pytest.raises(GraphError, match="'z' is no variable"):
        graph.observe({"z": 1.0})
    with pytest.raises(ShapeError, match=r"'c' has shape \(3,\), got a value of \(2,\)"):
        graph.observe({"c": torch.zeros(2)})
    empty, nothing = graph.observe({})
    assert not empty.any()
    assert not nothing.any()


def test_observe_of_nested_variables_and_other_kinds_of_numbers() -> None:
    nested = chain(3, (2,)).nest({"x1": chain(2)})
    y, mask = nested.observe({"x1": 5.0})
    assert y.tolist() == [0, 0, 5, 5, 0, 0]
    assert mask.tolist() == [False, False, True, True, False, False]
    graph = chain(3)
    assert graph.observe({"x1": np.float64(2.5)})[0].tolist() == [0, 2.5, 0]
    wide = chain(2, (2,)).observe({"x0": np.array([0.1, 0.2])})[0]
    assert wide.dtype == torch.float64
    assert wide.tolist() == [0.1, 0.2, 0, 0]
    with pytest.raises(GraphError, match="expected a mapping from name to value, got list"):
        graph.observe(["x1"])
    for value in (1j, "much", None):
        with pytest.raises(ShapeError, match="Give real numbers of its shape"):
            graph.observe({"x1": value})
