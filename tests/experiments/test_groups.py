"""Groups: the nested graph, exact local posteriors, the quadrature, and the smoke run."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import groups
from experiments.groups import GROUPS, Case
from pgmdiff.gaussian import Gaussian, GaussianMixture


def test_the_graph_counts_observations_and_priors() -> None:
    flat = Case.simulated(3, 0).graph.flatten()
    counts = [Fraction(count) for count in flat.counting_numbers().values()]
    assert sorted(counts) == sorted([1] * 3 * GROUPS + [-2] * GROUPS + [1 - GROUPS] + [0] * GROUPS)


def test_the_posterior_of_an_observation_is_bayes_rule() -> None:
    y, x = torch.tensor([2.5]).double(), torch.randn(6, 2).double()
    q = GaussianMixture(
        torch.full((2,), 0.5).double(), [Gaussian(m, groups.COVARIANCE) for m in groups.MEANS]
    )
    means, weights = groups.mixture(y)
    given = GaussianMixture(weights[0].exp(), [Gaussian(m, groups.LEFT) for m in means[0]])
    likelihood = -0.5 * ((y - x[:, 1]) / groups.NOISE) ** 2
    gap = given.log_density(x) - q.log_density(x) - likelihood
    assert torch.allclose(gap, gap[:1].expand(6), atol=1e-10)
    sigma = torch.full((6,), 1.3, dtype=torch.float64)
    found = groups.one_observation(x, sigma, y.expand(6))
    assert torch.allclose(found, given(x, 1.3), atol=1e-10)


def test_quadrature_agrees_with_importance_sampling() -> None:
    """Of 400,000 draws of the prior, weighed by the likelihood of all observations."""
    case, stream = Case.simulated(2, 1), torch.Generator().manual_seed(0)
    phi = groups.TAU * torch.randn(400_000, 1, generator=stream).double()
    kinds = groups.MODES[torch.randint(2, (len(phi), GROUPS), generator=stream)]
    theta = phi + kinds + groups.WITHIN * torch.randn(kinds.shape, generator=stream)
    logs = -0.5 * ((case.y - theta[..., None]) / groups.NOISE).square().sum(dim=(1, 2))
    weights, x = torch.softmax(logs, dim=0), torch.cat([phi, theta], dim=1)
    first = weights @ x
    second = (weights @ (x - first) ** 2).sqrt()
    mean, deviation = case.moments()
    assert torch.allclose(first, mean, atol=0.03)
    assert torch.allclose(second, deviation, atol=0.03)
    draws = case.exact(20_000, 0)
    assert torch.allclose(draws.mean(dim=0), mean, atol=0.03)
    assert torch.allclose(draws.std(dim=0), deviation, atol=0.03)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return groups.run(smoke=True)


def test_tables_and_pictures(result: dict[str, Any], tmp_path: Path) -> None:
    exact, learned = groups.tables(result)
    assert exact.head[:5] == ("observations", "rule", "mean", "population", "spread")
    assert len(exact.rows) == len(learned.rows) == 4
    groups.draw(result, tmp_path)
    assert (tmp_path / "experiment_groups.png").stat().st_size > 10_000
