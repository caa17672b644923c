"""Acyclicity against `oracles/counting.json`."""

from pgmdiff.graphs import (
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


def test_a_million_variables() -> None:
    graph = chain(1_000_000)
    assert graph.validate().junction_tree
    assert graph.n_elements == 1_000_000
