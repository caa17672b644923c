"""Acyclicity against `oracles/counting.json`."""

import tracemalloc
from itertools import combinations

from pgmdiff.graphs import (
    FactorGraph,
    chain,
    is_alpha_acyclic,
    is_berge_acyclic,
)
from tests.graphs.test_counting import EACH_ORACLE, graph_of


@EACH_ORACLE
def test_validity_and_acyclicity(oracle: dict) -> None:
    graph = graph_of(oracle)
    report = graph.validate()
    assert report.valid == oracle["bethe_valid"]
    assert is_berge_acyclic(graph) == report.berge_acyclic == oracle["berge_acyclic"]
    assert is_alpha_acyclic(graph.regions) == report.alpha_acyclic == oracle["alpha_acyclic"]


@EACH_ORACLE
def test_a_junction_tree_is_where_bethe_is_cluster_variation_and_acyclic(oracle: dict) -> None:
    agrees = sorted(map(str, oracle["bethe"])) == sorted(map(str, oracle["cluster_variation"]))
    expected = agrees and oracle["alpha_acyclic"]
    assert graph_of(oracle).validate().junction_tree == expected
    # Found by the general test too, without the shortcut for forests:
    assert graph_of(oracle).regions.validate().junction_tree == expected


def test_dense_graphs_take_memory_in_proportion_to_their_scopes() -> None:
    """The overlaps of all pairs of the scopes of 300 variables would take 2.3 GB."""
    scopes = [*combinations(map(str, range(300)), 2), ("0",), ("0", "1", "2")]
    graph = FactorGraph.from_scopes({("f", k): scope for k, scope in enumerate(scopes)})
    tracemalloc.start()
    assert graph.validate().alpha_acyclic is False
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()


def test_a_million_variables() -> None:
    graph = chain(1_000_000)
    assert graph.validate().junction_tree
    assert graph.n_elements == 1_000_000
