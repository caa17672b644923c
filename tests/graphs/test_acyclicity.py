"""Acyclicity against `oracles/counting.json`."""

from itertools import combinations

import numpy as np
import pytest

from pgmdiff.graphs import (
    FactorGraph,
    acyclicity,
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


def test_dense_graphs_are_refuted_without_their_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlaps of all pairs of 300 variables would take 2.3 GB."""
    scopes = dict(enumerate([*combinations(map(str, range(300)), 2), ("0",), ("0", "1", "2")]))
    graph = FactorGraph.from_scopes({("f", k): scope for k, scope in scopes.items()})
    monkeypatch.setattr(acyclicity, "clique_forest", None)
    assert graph.validate().alpha_acyclic is False


def test_many_sets_are_refuted_only_where_they_form_loops() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        n, m = random.integers(2, 5), random.integers(1, 9)
        drawn = (random.permutation(n)[: random.integers(1, n + 1)] for _ in range(m))
        sets = [tuple(map(str, sorted(each.tolist()))) for each in drawn]
        graph = FactorGraph.from_scopes({("f", k): scope for k, scope in enumerate(sets)})
        unique = [np.array(list(map(int, each))) for each in dict.fromkeys(sets)]
        forest = acyclicity.clique_forest(unique, 5)
        assert is_alpha_acyclic(graph) == forest.running_intersection


def test_a_million_variables() -> None:
    graph = chain(1_000_000)
    assert graph.validate().junction_tree
    assert graph.n_elements == 1_000_000
