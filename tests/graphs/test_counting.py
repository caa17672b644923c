"""Cluster variation and junction trees: `oracles/counting.json`, worked numbers, laws."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networkx.algorithms.approximation import treewidth_min_fill_in

from pgmdiff import GraphError, compose
from pgmdiff.gaussian import bethe_entropy, composed_precision, node_scores
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    counting,
    cycle,
    grid,
    is_alpha_acyclic,
    is_berge_acyclic,
    junction_tree,
    markov_random_field,
    star,
    tiles,
    torus,
    tree,
)
from pgmdiff.testing import markov_gaussian, oracles
from pgmdiff.testing.strategies import factor_graphs, hypergraphs, trees
from tests.helpers import ar1, relative

GRAPHS = json.loads((Path(__file__).parents[1] / "oracles" / "counting.json").read_text())["graphs"]


EACH_ORACLE = pytest.mark.parametrize("oracle", GRAPHS, ids=lambda graph: graph["name"])


def graph_of(oracle: dict) -> FactorGraph:
    return FactorGraph.from_scopes({i: tuple(s) for i, s in enumerate(oracle["scopes"])})


@EACH_ORACLE
def test_bethe_counts(oracle: dict) -> None:
    graph = graph_of(oracle)
    merged: Counter = Counter()
    for name, count in graph.counting_numbers().items():
        merged[frozenset(graph.scopes.get(name, (name,)))] += count
    expected = {frozenset(region): count for region, count in oracle["bethe"]}
    assert {region: count for region, count in merged.items() if count} == expected


WORKED = [
    (chain(4), {1: 3, -1: 2, 0: 2}, 1),
    (cycle(4), {1: 4, -1: 4}, 0),
    (star(4), {1: 4, -3: 1, 0: 4}, 1),
    (tree(2, 2), {1: 6, -1: 1, -2: 2, 0: 4}, 1),
    (grid(2, 3), {1: 7, -1: 4, -2: 2}, -1),
    (torus(3, 3), {1: 18, -3: 9}, -9),
    (tiles((3, 3), 2, 1), {1: 5, -1: 4}, 1),
    (tiles((4, 4), 2, 1), {1: 13, -1: 12}, 1),
    (tiles((5, 6), 2, 1), {1: 32, -1: 31}, 1),
    (tiles((4, 4), 2, 1, True), {1: 32, -1: 32}, 0),
    (tiles((6,), 3, 2), {1: 4, -1: 3}, 1),
]


@pytest.mark.parametrize(("graph", "counts", "total"), WORKED, ids=repr)
def test_worked_numbers(graph: FactorGraph, counts: dict, total: int) -> None:
    numbers = graph.counting_numbers().values()
    assert Counter(numbers) == counts
    assert sum(numbers) == total
    assert graph.validate().valid


def counts_of(graph: RegionGraph) -> dict:
    return graph.counting_numbers()


@EACH_ORACLE
def test_cluster_variation_oracle(oracle: dict) -> None:
    expected = {frozenset(region): count for region, count in oracle["cluster_variation"]}
    assert counts_of(cluster_variation(oracle["scopes"])) == expected


@settings(max_examples=100)
@given(hypergraphs())
def test_cluster_variation_is_inclusion_exclusion(scopes: list) -> None:
    expected = oracles.inclusion_exclusion(map(frozenset, scopes))
    assert counts_of(cluster_variation(scopes)) == expected


@settings(max_examples=100)
@given(hypergraphs(), st.integers(0, 3))
def test_intersections_through_hubs_are_all_intersections(scopes: list, hub: int) -> None:
    expected = oracles.inclusion_exclusion(map(frozenset, scopes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "HUB", hub)
        assert counts_of(cluster_variation(scopes)) == expected


@settings(max_examples=100)
@given(hypergraphs(), st.randoms(use_true_random=False))
def test_cluster_variation_is_valid_and_depends_on_maximal_scopes_only(scopes: list, rng) -> None:
    graph = cluster_variation(scopes)
    assert graph.validate().valid
    for name, count in graph.counting_numbers().items():
        holders = [c for r, c in graph.counting_numbers().items() if name <= r]
        assert sum(holders) == 1, (name, count)
    shuffled = [rng.sample(scope, len(scope)) for scope in scopes]
    shuffled += [scope[:1] for scope in scopes] + scopes[:2]
    rng.shuffle(shuffled)
    assert counts_of(cluster_variation(shuffled)) == counts_of(graph)


@settings(max_examples=100)
@given(hypergraphs())
def test_acyclic_scopes_are_junction_trees(scopes: list) -> None:
    bethe = FactorGraph.from_scopes({i: tuple(s) for i, s in enumerate(scopes)})
    graph = cluster_variation(bethe)
    alpha = is_alpha_acyclic(bethe.regions)
    assert bool(graph.validate().junction_tree) == alpha
    assert not is_berge_acyclic(bethe) or alpha
    if alpha:
        tree = junction_tree(bethe)
        assert counts_of(tree) == counts_of(graph)
        paths = nx.Graph()
        for scope in scopes:
            nx.add_path(paths, scope)
        assert sum(counts_of(graph).values()) == nx.number_connected_components(paths)
    else:
        with pytest.raises(GraphError, match=r"Pass max_clique=\d+ if you have models"):
            junction_tree(bethe)
        tree = junction_tree(bethe, max_clique=7)
    assert tree.validate().junction_tree


@settings(max_examples=50)
@given(trees())
def test_forests_of_distinct_factors_are_bethe(graph: FactorGraph) -> None:
    merged: Counter = Counter()
    for name, count in graph.counting_numbers().items():
        merged[frozenset(graph.scopes.get(name, (name,)))] += count
    assert {r: c for r, c in merged.items() if c} == counts_of(cluster_variation(graph))


@settings(max_examples=60)
@given(factor_graphs(), st.integers(0, 2**31))
def test_junction_trees_are_exact_at_sigma_0(graph: FactorGraph, seed: int) -> None:
    """Whatever the scopes; the cluster variation is, if they are α-acyclic."""
    q = markov_gaussian(graph, seed)
    precision = torch.linalg.inv(q.covariance)
    tree = junction_tree(graph, max_clique=len(graph.variables))
    assert relative(composed_precision(tree, q), precision) < 1e-9
    assert bethe_entropy(tree, q) == pytest.approx(q.entropy(), rel=1e-9, abs=1e-9)
    kikuchi = cluster_variation(graph)
    if kikuchi.validate().junction_tree:
        assert relative(composed_precision(kikuchi, q), precision) < 1e-9


def test_two_shared_variables_are_where_bethe_is_wrong() -> None:
    graph = FactorGraph.from_scopes({"f": ("a", "b", "c"), "g": ("b", "c", "d")})
    q = markov_gaussian(graph, 0)
    precision = torch.linalg.inv(q.covariance)
    assert relative(composed_precision(graph, q), precision) > 0.05
    assert relative(composed_precision(cluster_variation(graph), q), precision) < 1e-12


@settings(max_examples=50)
@given(hypergraphs(), hypergraphs())
def test_disjoint_union_concatenates(left: list, right: list) -> None:
    other = [[name.upper() for name in scope] for scope in right]
    union = counts_of(cluster_variation(left + other))
    assert union == counts_of(cluster_variation(left)) | counts_of(cluster_variation(other))


def test_scopes_keep_their_order_and_what_they_share_that_of_declaration() -> None:
    shapes = {"d": (2,), "c": (), "b": (2, 2), "a": ()}
    graph = cluster_variation({"f": ("a", "b", "c"), "g": ("c", "d", "b"), "h": ("b", "d")}, shapes)
    abc, bc = frozenset("abc"), frozenset("bc")
    # d: 0-1, c: 2, b: 3-6, a: 7
    assert graph.elements(abc).tolist() == [7, 3, 4, 5, 6, 2]
    assert graph.elements(bc).tolist() == [2, 3, 4, 5, 6]
    single = cluster_variation([("a", "b"), ("b", "c")], {"a": (), "b": (2, 2), "c": ()})
    assert single.elements(frozenset("b")).tolist() == [[1, 2], [3, 4]]
    assert [bool(o) for g in single.groups for o in g.outer] == [True, True, False]


def test_region_graphs_compose() -> None:
    scopes = {"f": ("a", "b", "c"), "g": ("b", "c", "d")}
    graph = cluster_variation(FactorGraph.from_scopes(scopes, factor_model="triple"))
    q = ar1(4, 0.5)
    scores = node_scores(graph, q)
    u = torch.ones(2, 4, dtype=torch.float64)
    expected = -u @ composed_precision(graph, q, 0.5)
    torch.testing.assert_close(compose(graph, scores)(u, 0.5), expected)
    assert {g.model for g in graph.groups} == {"triple", None}
    mine = FactorGraph.from_scopes({"f": ("a", "b"), "g": ("b",)}, models={"f": "mine"})
    assert [g.model for g in cluster_variation(mine).groups] == ["mine"]


def test_what_would_be_lost_is_not_absorbed() -> None:
    scopes = {"f": ("a", "b"), "g": ("b",), "h": ("b", "a")}
    assert len(counts_of(cluster_variation(scopes))) == 1
    with pytest.raises(GraphError, match=r"factor 'g' lies inside that of 'f'\. Remove it"):
        cluster_variation(scopes, absorb=False)
    for lost in ({"models": {"g": "m"}}, {"conditions": {"h": {"y": torch.ones(1)}}}):
        graph = FactorGraph.from_scopes(scopes, **lost)
        with pytest.raises(GraphError, match="would be lost"):
            cluster_variation(graph)
        with pytest.raises(GraphError, match="would be lost"):
            junction_tree(graph)


def test_triangulation_says_what_it_costs_first() -> None:
    n = 6
    lattice = [((i, j), (i + 1, j)) for i in range(n - 1) for j in range(n)]
    lattice += [((i, j), (i, j + 1)) for i in range(n) for j in range(n - 1)]
    with pytest.raises(GraphError, match=r"cliques of up to \d+ variables \(treewidth \d+"):
        junction_tree(lattice)
    with pytest.raises(GraphError, match="max_clique="):
        junction_tree(lattice, max_clique=3)
    assert junction_tree(lattice, max_clique=12).validate().junction_tree


def test_the_empty_hypergraph() -> None:
    for make in (cluster_variation, junction_tree):
        assert counts_of(make([])) == {}
        assert counts_of(make([], {"x": ()})) == {frozenset("x"): 1}


def test_a_long_chain_is_counted_quickly() -> None:
    scopes = [(i, i + 1, i + 2) for i in range(2000)]
    counts = Counter(counts_of(cluster_variation(scopes)).values())
    assert counts == {1: 2000, -1: 1999}
    assert Counter(counts_of(junction_tree(scopes)).values()) == counts


def test_large_stars_and_many_scopes_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = star(12_000)
    for make in (cluster_variation, junction_tree):
        assert Counter(counts_of(make(hub)).values()) == {1: 12_000, -11_999: 1}
    report = hub.regions.validate()
    assert is_alpha_acyclic(hub)
    assert report.alpha_acyclic
    assert report.junction_tree
    monkeypatch.setattr(counting, "MAX_REGIONS", 100)
    assert Counter(counts_of(cluster_variation(chain(200))).values()) == {1: 199, -1: 198}
    with pytest.raises(GraphError, match=r"more than \d+ intersections of 12 scopes"):
        cluster_variation([[j for j in range(12) if j != i] for i in range(12)])


def test_min_fill_adds_as_few_edges_as_networkx(monkeypatch: pytest.MonkeyPatch) -> None:
    for n, seed in ((12, 0), (20, 1), (30, 2)):
        sparse = nx.gnm_random_graph(n, 2 * n, seed=seed)
        width = treewidth_min_fill_in(sparse)[0]
        tree = junction_tree(markov_random_field(sparse), max_clique=width + 2)
        assert tree.validate().junction_tree
    monkeypatch.setattr(counting, "MAX_CLIQUE", 3)
    with pytest.raises(GraphError, match=r"makes cliques of at least \d+ variables"):
        junction_tree(markov_random_field(sparse))


def test_cycles_of_cliques_are_triangulated() -> None:
    ring = markov_random_field(nx.cycle_graph(5))
    assert ring.counting_numbers().keys() == {*range(5), *((i, i + 1) for i in range(4)), (0, 4)}
    tree = junction_tree(ring, max_clique=3)
    assert tree.validate().junction_tree
    assert np.array_equal(cycle(5).degrees, ring.degrees)


@pytest.mark.parametrize("make", [cluster_variation, junction_tree])
def test_what_arrays_share_is_laid_out_as_in_the_first_that_is_declared(make: Any) -> None:
    """Also where a piece of another shape comes before them, with which regions are grouped."""
    pieces = {"a": np.arange(3), "b": np.array([6, 5, 4, 3, 2]), "c": np.array([5, 6, 7])}
    for names in ("abc", "bca", "bac"):
        graph = make({name: pieces[name] for name in names}, event_shape=(8,))
        assert graph.elements(frozenset("bc")).tolist() == [6, 5]
    graph = make({name: pieces[name] for name in "acb"}, event_shape=(8,))
    assert graph.elements(frozenset("bc")).tolist() == [5, 6]
