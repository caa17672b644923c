"""Factor graphs from networkx, and back."""

import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pgmdiff
from pgmdiff import GraphError, gaussian
from pgmdiff.diagnostics.consistency import check_consistency
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import (
    FactorGraph,
    chain,
    cluster_variation,
    fingerprint,
    is_alpha_acyclic,
    is_berge_acyclic,
    junction_tree,
    markov_random_field,
    product,
    to_json,
)
from pgmdiff.plotting import plot
from pgmdiff.testing import assert_lawful
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
    drawn.add_node("b", bipartite=0, shape=())
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


def test_a_forgotten_shape_is_no_scalar() -> None:
    drawn = nx.Graph([("f", "b"), ("f", "a")])
    nx.set_node_attributes(drawn, {"f": 1, "a": 0, "b": 0}, "bipartite")
    assert FactorGraph.from_networkx(drawn).shapes == ((), ())
    for graph in (drawn, FactorGraph.from_networkx(drawn).to_networkx()):
        graph.nodes["a"]["shape"] = (2,)
        with pytest.raises(GraphError, match=r"'b' has no shape, .*, which is \(\) of"):
            FactorGraph.from_networkx(graph)
        graph.nodes["b"]["shape"] = ()
        assert sorted(FactorGraph.from_networkx(graph).shapes) == [(), (2,)]


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


def _written(write: Callable[..., None], read: Callable[..., nx.Graph]) -> Any:
    """A round trip through the bytes of a file."""

    def trip(graph: nx.Graph) -> nx.Graph:
        file = io.BytesIO()
        write(graph, file)
        return read(io.BytesIO(file.getvalue()))

    return trip


def _by_json(plain: Callable[..., Any], graph: Callable[..., nx.Graph]) -> Any:
    return lambda g: graph(json.loads(json.dumps(plain(g))))


def _part(graph: nx.Graph) -> nx.Graph:
    """A view of the graph inside a larger one, of which it is less than half."""
    larger = nx.compose(graph, nx.path_graph(2 * len(graph) + 1))
    return larger.subgraph(set(graph))


OPERATIONS: dict[str, Callable[[nx.Graph], nx.Graph]] = {
    "copy": nx.Graph.copy,
    "constructor": nx.Graph,
    "relabel": lambda g: nx.relabel_nodes(g, {n: n for n in g}),
    "compose": lambda g: nx.compose(g, g),
    "union": lambda g: nx.union(g, nx.Graph()),
    "view": lambda g: g.subgraph(g),
    "part": _part,
    "part of a view": lambda g: _part(g.subgraph(list(g))),
    "edges": lambda g: nx.Graph(g).edge_subgraph(g.edges) if g.edges else g,
    "frozen": lambda g: nx.freeze(g.copy()),
    "undirected": lambda g: g.to_directed().to_undirected(),
    "multigraph": lambda g: nx.Graph(nx.MultiGraph(g)),
    "pickle": lambda g: pickle.loads(pickle.dumps(g)),
    "node-link": _by_json(
        lambda g: nx.node_link_data(g, edges="edges"),
        lambda data: nx.node_link_graph(data, edges="edges"),
    ),
    "adjacency": _by_json(nx.adjacency_data, nx.adjacency_graph),
    "GraphML": _written(nx.write_graphml, nx.read_graphml),
    "GML": _written(nx.write_gml, nx.read_gml),
}
SCALARS = factor_graphs(shapes=((),))


@st.composite
def drawn_by_hand(draw: st.DrawFn) -> nx.Graph:
    """Nodes and edges in any order, and no positions; of scalars, which every format holds."""
    graph = draw(SCALARS)
    drawn = nx.Graph()
    for node in draw(st.permutations([*graph.variables, *graph.factors])):
        drawn.add_node(node, bipartite=int(node in graph.scopes))
    edges = [(f, x) for f, scope in graph.scopes.items() for x in scope]
    turned = draw(st.lists(st.booleans(), min_size=len(edges), max_size=len(edges)))
    edges = [(x, f) if turn else (f, x) for (f, x), turn in zip(edges, turned, strict=True)]
    drawn.add_edges_from(draw(st.permutations(edges)))
    return drawn


@pytest.mark.parametrize("operation", OPERATIONS)
@settings(max_examples=12)
@given(drawn_by_hand())
def test_scopes_survive_what_keeps_the_order_of_nodes(operation: str, drawn: nx.Graph) -> None:
    graph, changed = FactorGraph.from_networkx(drawn), OPERATIONS[operation](drawn)
    isolated = [x for x in drawn if not drawn.degree[x]] if operation == "edges" else []
    again = FactorGraph.from_networkx(changed)
    assert again.scopes == graph.scopes
    if not isolated:
        assert again.variables == graph.variables
    assert FactorGraph.from_networkx(again.to_networkx()).scopes == graph.scopes


@settings(max_examples=40)
@given(SCALARS, st.randoms(use_true_random=False), st.sampled_from(sorted(OPERATIONS)))
def test_positions_survive_everything(graph: FactorGraph, random: Any, operation: str) -> None:
    drawn = graph.to_networkx()
    names = list(drawn)
    random.shuffle(names)
    mixed = nx.Graph()
    mixed.add_nodes_from((name, drawn.nodes[name]) for name in names)
    mixed.add_edges_from(sorted(drawn.edges(data=True), key=lambda edge: random.random()))
    assert FactorGraph.from_networkx(OPERATIONS[operation](mixed)).scopes == graph.scopes
    moved = {name: f"{name}'" for name in names[::2]}
    nx.relabel_nodes(mixed, moved, copy=False)
    again = FactorGraph.from_networkx(mixed.subgraph(list(mixed)).copy())
    new = {moved.get(f, f): tuple(moved.get(x, x) for x in s) for f, s in graph.scopes.items()}
    assert again.scopes == new


def test_shapes_and_models_survive_the_formats_that_hold_them() -> None:
    graph = FactorGraph.from_scopes(SCOPES, SHAPES, models={"f": "big"}, axis=None)
    for operation in ("pickle", "node-link", "adjacency", "GML"):
        again = FactorGraph.from_networkx(OPERATIONS[operation](graph.to_networkx()))
        assert same(again, graph), operation


VIEWS = """
import networkx as nx
import pgmdiff
from pgmdiff import gaussian
from pgmdiff.graphs import *
from pgmdiff.store import outline

G = chain(40, factor_model="pair").to_networkx()
for a, b, data in G.edges(data=True):
    del data["position"]
names = {f"x{i}" for i in range(5, 12)} | {f"f{i}" for i in range(5, 11)}
H = nx.grid_2d_graph(6, 6)
cells = {(i, j) for i in range(2) for j in range(4)}
for view in (G.subgraph(names), nx.edge_subgraph(G, set(G.subgraph(names).edges))):
    graph = FactorGraph.from_networkx(view)
    print(fingerprint(graph), list(graph.to_networkx().edges))
    print(fingerprint(cluster_variation(view)), fingerprint(product(view, view)))
for cliques in (False, True):
    graph = markov_random_field(H.subgraph(cells), cliques=cliques)
    print(fingerprint(graph), fingerprint(cluster_variation(graph)))
    print(fingerprint(junction_tree(graph, max_clique=9)))
print(fingerprint(named_tree({"a": None, "b": "a", "c": "a", "d": None, "e": "d"})))
sets = cluster_variation([{"x", "y", "z"}, {"w", "x"}], {"z": (), "x": (), "w": (), "y": ()})
print(fingerprint(sets))
clusters = cluster_variation([(f"x{i}", f"x{i + 1}", f"x{i + 2}") for i in range(8)])
print(outline(pgmdiff.compose(clusters, gaussian.node_scores(clusters, gaussian.ar1(10, 0.5)))))
"""


def test_views_have_one_order_in_every_process(capsys: pytest.CaptureFixture[str]) -> None:
    """A view of few nodes iterates in the order of a set, which depends on the hash seed.

    So does the text of a set, by which a run to be resumed names the scores of its nodes.
    """
    exec(VIEWS, {})
    here = capsys.readouterr().out
    assert len(here.splitlines()) == 11
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    elsewhere = subprocess.run(
        [sys.executable, "-c", VIEWS],
        env={**os.environ, "PYTHONHASHSEED": seed},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout == here


def test_a_collider_needs_its_moral_graph() -> None:
    """x → z ← y, z = x + y + noise: pairs lose that x and y depend on each other given z."""
    bayes = nx.DiGraph([("x", "z"), ("y", "z")])
    for call in (FactorGraph.from_networkx, markov_random_field, cluster_variation):
        with pytest.raises(GraphError, match=r"x → z ← y .*moral_graph\(graph\), cliques=True"):
            call(bayes)
    with pytest.raises(GraphError, match="keeps one of parallel edges"):
        FactorGraph.from_networkx(nx.MultiGraph())
    covariance = torch.tensor([[1.0, 1.0, 0.0], [1.0, 2.25, 1.0], [0.0, 1.0, 1.0]]).double()
    truth = Gaussian(torch.zeros(3).double(), covariance)  # of x, z, y
    u = torch.tensor([[1.0, 0.0, 1.0]]).double()

    def error(graph: FactorGraph) -> float:
        assert graph.variables == ("x", "z", "y")
        composed = pgmdiff.compose(graph, gaussian.node_scores(graph, truth))(u, 1e-6)
        return (composed - truth.score(u, 1e-6)).abs().max().item()

    assert error(markov_random_field(nx.moral_graph(bayes), cliques=True)) < 1e-9
    assert error(markov_random_field(nx.Graph(bayes))) > 0.5


def _pair() -> nx.Graph:
    return chain(2).to_networkx()


TRUTH = Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
DATA = TRUTH.sample(40, generator=0)
CALLS: dict[str, Callable[[Any], object]] = {
    "compose": lambda g: pgmdiff.compose(g, lambda x, sigma: -x)(torch.zeros(1, 2), 1.0),
    "plot": plot,
    "to_json": to_json,
    "fingerprint": fingerprint,
    "cluster_variation": cluster_variation,
    "junction_tree": junction_tree,
    "product": lambda g: product(chain(2), g),
    "nest": lambda g: FactorGraph.from_scopes({}, {"x": (2,)}).nest({"x": g}).regions,
    "is_berge_acyclic": is_berge_acyclic,
    "is_alpha_acyclic": is_alpha_acyclic,
    "fit_covariances": lambda g: pgmdiff.fit_covariances(g, DATA),
    "Posterior": lambda g: pgmdiff.compose(
        g,
        gaussian.node_scores(g, TRUTH),
        rule=pgmdiff.Posterior(gaussian.node_covariances(_pair(), TRUTH)),
    ),
    "node_scores": lambda g: gaussian.node_scores(g, TRUTH),
    "node_covariances": lambda g: gaussian.node_covariances(g, TRUTH),
    "composed_precision": lambda g: gaussian.composed_precision(g, TRUTH),
    "composed_log_density": lambda g: gaussian.composed_log_density(g, TRUTH, DATA),
    "bethe_entropy": lambda g: gaussian.bethe_entropy(g, TRUTH),
    "from_region_covariances": lambda g: gaussian.from_region_covariances(
        g, gaussian.node_covariances(chain(2), TRUTH)
    ),
    "advise": lambda g: pgmdiff.advise(g, TRUTH),
    "check_consistency": lambda g: check_consistency(g, lambda x, sigma: -x, DATA, generator=0),
    "assert_lawful": lambda g: assert_lawful(g, only=["counts_sum_to_one"]),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_graph_of_networkx_is_accepted_where_a_graph_is(call: str) -> None:
    given, expected = CALLS[call](_pair()), CALLS[call](chain(2))
    if isinstance(given, torch.Tensor):
        assert torch.equal(given, expected)
    assert type(given) is type(expected)
    for other, message in (
        (nx.path_graph(3), "bipartite=None.*markov_random_field"),
        (nx.DiGraph([(0, 1)]), "moral_graph"),
        (3, "expected .*got (a value of type )?int"),
        (None, "expected .*got (a value of type )?NoneType"),
    ):
        with pytest.raises(GraphError, match=message):
            CALLS[call](other)


ATTRIBUTES = [
    ("node", "bipartite", ["0", 2, [0], None, torch.tensor(0), float("nan")]),
    ("node", "shape", ["ab", 2, (2.5,), "()", {}, (0,), (-1,)]),
    ("node", "model", [[1], {"a": 1}, torch.zeros(2), float("nan")]),
    ("node", "condition", [3, "text", torch.zeros(2)]),
    ("node", "graph", [3, "text", nx.DiGraph(), nx.path_graph(2)]),
    ("edge", "position", ["0", None, float("nan"), [1], torch.tensor(0), 1, (0,)]),
    ("graph", "axis", ["0", 1.5, (0,), 3, torch.tensor(0)]),
    ("pos", "pos", ["ab", 3, (1,), (1, None), {"x": 1}, (float("nan"), 0), [[1, 2], [3, 4]]]),
]


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [(w, key, value) for w, key, values in ATTRIBUTES for value in values],
)
def test_attributes_of_the_wrong_kind_are_named(where: str, key: str, value: Any) -> None:
    drawn = _pair()
    if where == "pos":
        drawn.nodes["x1"]["pos"] = (0, 0)
    attributes = {"edge": drawn.edges["f0", "x0"], "graph": drawn.graph}
    attributes.get(where, drawn.nodes["x0"])[key] = value
    with pytest.raises(GraphError) as error:
        plot(FactorGraph.from_networkx(drawn))
    assert key in str(error.value) or (key == "graph" and "bipartite" in str(error.value))
    for good in (np.int64(0), 0.0, -7) if key == "position" else ():
        attributes["edge"][key] = good
        assert FactorGraph.from_networkx(drawn).scopes == {"f0": ("x0", "x1")}
