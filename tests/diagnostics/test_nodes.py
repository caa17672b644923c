"""Covariances without data: from samples that models draw by themselves."""

import pytest
import torch
from torch import Tensor

from pgmdiff import Consistent, ShapeError, compose, fit_covariances, graphs
from pgmdiff.diagnostics import node_samples
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.linalg import beside
from pgmdiff.precision import ComposedPrecision
from pgmdiff.samplers import UniPC, karras
from tests.precision.examples import markov

SIGMAS = karras(40, 1e-3, 40.0)


def models(graph: graphs.FactorGraph, q: Gaussian) -> dict[str, Gaussian]:
    """The marginals of all regions."""
    regions = graph.regions
    return {name: q.marginal(regions.elements(name)) for name in regions.names}


@pytest.mark.parametrize("name", ["chain", "cycle"])
def test_errors_fall_as_one_over_the_root_of_the_number_and_no_data_is_needed(name: str) -> None:
    graph = getattr(graphs, name)(4)
    q = markov(graph, 0.8, seed=1)
    scores, exact, errors = models(graph, q), node_covariances(graph, q), []
    for n in (100, 10_000):
        options = {"generator": 2, "progress": False, "dtype": torch.float64}
        samples = node_samples(graph, scores, n, SIGMAS, solver=UniPC(), **options)
        fitted = fit_covariances(graph, samples)
        gaps = [
            fitted.form(group).dense() - torch.stack([exact[name] for name in group.names])
            for group in graph.regions.groups
            if group.outer.all()
        ]
        errors.append(float(torch.cat([gap.flatten() for gap in gaps]).square().mean().sqrt()))
        torch.testing.assert_close(fitted.mean, q.mean, rtol=0, atol=8 * n**-0.5)
    assert 4 < errors[0] / errors[1] < 25
    assert torch.linalg.eigvalsh(ComposedPrecision(graph.regions, fitted).dense()).isfinite().all()
    u = q.noised(1.0).sample(5, generator=3)
    found = compose(graph, scores, rule=Consistent(fitted)).remembering()(u, 1.0)
    assert (found - q(u, 1.0)).norm() < 0.05 * q(u, 1.0).norm()


def test_nodes_start_around_their_own_part_of_the_mean() -> None:
    """As far as the noise at the start does not hide it, each would be pulled to 0."""
    graph = graphs.chain(3)
    q = Gaussian(torch.tensor([100.0, 200.0, 300.0]), torch.eye(3))
    options = {"generator": 0, "progress": False, "mean": q.mean}
    samples = node_samples(graph, models(graph, q), 400, karras(20, 0.01, 10.0), **options)
    means = torch.cat([samples["f0"].mean(dim=0), samples["f1"].mean(dim=0)[1:]])
    torch.testing.assert_close(means, q.mean, rtol=0, atol=0.2)


def test_records_of_pairs_may_be_arrays_of_any_kind() -> None:
    """Also where rows differ in number, as they do in tables with gaps."""
    graph = graphs.chain(3)
    rows = {"f0": torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double()}
    rows["f1"] = rows["f0"][:11] ** 2
    expected = fit_covariances(graph, rows)
    for kind in (Tensor.numpy, Tensor.tolist):
        fitted = fit_covariances(graph, {name: kind(each) for name, each in rows.items()})
        assert torch.equal(fitted.mean, expected.mean)
        for group in graph.regions.groups:
            assert torch.equal(fitted.form(group).dense(), expected.form(group).dense())


def test_each_model_shape_and_condition_is_drawn_once() -> None:
    """Three pieces of one model, two of them under the same condition, cost two runs."""
    graph, rows = graphs.tiles((16,), 6, 1), list[int]()

    def score(x: Tensor, sigma: Tensor, level: Tensor) -> Tensor:
        rows.append(len(x))
        return (beside(level, x) - x) / (1 + beside(sigma, x) ** 2)

    outer = [g.name(i) for g in graph.groups for i in range(len(g)) if g.outer[i]]
    levels = dict(zip(outer, (0.0, 5.0, 0.0), strict=True))
    conditions = {name: {"level": torch.tensor(level)} for name, level in levels.items()}
    samples = node_samples(
        graph, score, 300, SIGMAS, conditions=conditions, generator=4, progress=False
    )
    assert sum(rows) == 2 * 300 * len(SIGMAS[1:])
    assert samples[outer[0]] is samples[outer[2]]
    for name, level in levels.items():
        assert samples[name].shape == (300, 6)
        assert abs(samples[name].mean() - level) < 0.2
    fitted = fit_covariances(graph, samples)
    assert fitted.mean.shape == (16,)
    del samples[outer[1]]
    with pytest.raises(ShapeError, match="all outer regions"):
        fit_covariances(graph, samples)


def test_scores_that_are_bound_to_a_graph_are_those_of_its_nodes() -> None:
    """Also where regions of one model differ, and scopes are not in order."""
    graph = graphs.FactorGraph.from_scopes(
        {"f": ("b", "a"), "g": ("c", "d")}, dict.fromkeys("abcd", ()), factor_model="pair"
    )
    q = Gaussian(torch.zeros(4), torch.diag(torch.tensor([1.0, 9.0, 0.25, 16.0])))
    options = {"generator": 0, "progress": False}
    samples = node_samples(graph, node_scores(graph, q), 4000, karras(20, 0.01, 80.0), **options)
    deviations = torch.cat([samples["f"].std(dim=0), samples["g"].std(dim=0)])
    torch.testing.assert_close(deviations, torch.tensor([3, 1, 0.5, 4.0]), rtol=0.05, atol=0)
