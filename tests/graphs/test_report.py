"""What a report says beyond validity: size, diameter, definiteness, words."""

import pytest
import torch

from pgmdiff.gaussian import Gaussian, composed_precision
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    Report,
    chain,
    cluster_variation,
    cubemap,
    cycle,
    grid,
    nested_cubemap,
    star,
    tiles,
    torus,
    tree,
)
from pgmdiff.graphs.proxy import proxy

CORNERS = [(x, y, z) for x in "FB" for y in "LR" for z in "UD"]


def common(n: int, rho: float) -> Gaussian:
    covariance = torch.full((n, n), rho, dtype=torch.float64).fill_diagonal_(1.0)
    return Gaussian(torch.zeros(n, dtype=torch.float64), covariance)


def test_the_nested_cubemap_turns_improper_at_a_third() -> None:
    report = nested_cubemap(4).validate()
    assert report.proxy.improper_above == pytest.approx(1 / 3, abs=1e-3)
    assert "WARNING" in str(report)
    assert "more than 0.333" in report.warning
    assert cluster_variation(CORNERS).validate().warning is None


@pytest.mark.parametrize("graph", [cycle(5), grid(3, 3), torus(3, 4), star(4)])
def test_the_proxy_says_where_the_composed_precision_is_definite(graph: FactorGraph) -> None:
    limit = proxy(graph.regions).improper_above
    for rho in (0.1, 0.3, 0.5, 0.7, 0.9, *(() if limit is None else (limit - 1e-3, limit + 1e-3))):
        dense = composed_precision(graph, common(graph.n_elements, rho))
        definite = bool(torch.linalg.eigvalsh(dense)[0] > 0)
        assert definite == (limit is None or rho < limit)


def test_too_large_a_proxy_is_not_tested() -> None:
    assert proxy(tiles((4000,), 4, 2, True)) is None
    assert "Gaussian proxy: not tested" in str(tiles((4000,), 4, 2, True).validate())


@pytest.mark.parametrize(
    ("graph", "diameter"),
    [
        (chain(6), 5),
        (chain(1), 1),
        (cycle(6), 3),
        (cycle(7), 3),
        (star(5), 2),
        (tree(2, 3), 6),
        (grid(3, 4), 5),
        (torus(4, 4), 4),
        (tiles((20,), 4, 2), 9),
        (tiles((8, 8), 4, 2), 3),
        (cubemap(4), 3),
        (FactorGraph.from_scopes({"f": ("a", "b"), "g": ("b", "a")}), 1),
        (FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (), "b": (), "c": ()}), 1),
        (FactorGraph.from_scopes({}), 0),
    ],
)
def test_diameters(graph: FactorGraph | RegionGraph, diameter: int) -> None:
    assert graph.validate().diameter == diameter


def test_costs() -> None:
    report = tiles((3, 16, 64), (3, 16, 16), (0, 0, 8)).validate()
    assert report.n_evaluations == 7 + 6
    assert report.n_evaluated_elements == 3 * 16 * (7 * 16 + 6 * 8)
    assert report.largest_region == 3 * 16 * 16
    leaves = star(3).validate()
    assert leaves.n_evaluations == 4
    assert chain(10_000).validate().diameter is None


def unfolded(report: Report) -> str:
    """What is printed, without its line breaks."""
    assert all(len(line) <= 80 for line in str(report).splitlines())
    return " ".join(str(report).split())


def test_report_reads_as_text() -> None:
    text = str(tiles((8,), 4, 2).validate())
    assert "5 regions over 8 elements" in text
    assert "junction tree: yes" in text
    assert "σ > 0" in text


def test_a_report_does_not_claim_loops_it_did_not_look_for() -> None:
    """Two windows of a ring: acyclic as sets, but their overlap is counted in two parts."""
    report = tiles((16,), 12, 4, True).validate()
    assert report.alpha_acyclic
    assert not report.junction_tree
    assert "overlap counted in parts" in report.promise


def test_the_words_are_those_that_hold() -> None:
    exact = unfolded(chain(4).validate())
    assert "exact at σ = 0 for any data that is Markov" in exact
    assert "exact at every σ for Gaussian data with true covariances, if it is Markov" in exact
    assert "every Gaussian's own covariances is positive definite" in exact
    loopy = unfolded(cycle(4).validate())
    assert "approximation at every σ" in loopy
    assert "exact at every σ for Gaussian data that is Markov" in loopy
    assert "equally correlated blocks is positive definite" in loopy
    assert "WARNING" not in loopy
    torn = RegionGraph.from_regions({"a": [0], "b": [0, 1]}, {"a": 1, "b": 1}, event_shape=(2,))
    assert torn.validate().proxy is None
    assert "Invalid" in str(torn.validate())
