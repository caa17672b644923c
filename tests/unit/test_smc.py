"""Feynman-Kac weights: their laws on Gaussians, and where they collapse."""

import pytest
import torch
from torch import Tensor

from pgmdiff import Average, PgmdiffError, ScoreError, compose
from pgmdiff.gaussian import Gaussian, composed_precision, node_scores
from pgmdiff.graphs import chain, cycle
from pgmdiff.samplers import effective_sample_size, karras, sample_weighted
from pgmdiff.samplers.smc import systematic
from tests.helpers import ar1


def weighted_covariance(x: Tensor, log_weights: Tensor) -> Tensor:
    return (x * log_weights.exp()[:, None]).T @ x


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_the_mean_rate_is_zero_under_the_target(sigma: float) -> None:
    """On a junction tree: in closed form, E[Σ s_i²] = tr J = Σ_r c_r tr(J_r Σ^J_r J_r)."""
    q, graph = ar1(6, 0.9), chain(6)
    joint = compose(graph, node_scores(graph, q))
    target = torch.linalg.inv(composed_precision(graph, q, sigma))
    n = 200_000
    u = Gaussian(torch.zeros(6).double(), (target + target.T) / 2).sample(
        n, torch.Generator().manual_seed(0)
    )
    score, rate = joint.potential(u, sigma)
    torch.testing.assert_close(score, joint(u, sigma))
    assert rate.mean().abs() < 4 * rate.std() / n**0.5
    assert rate.std() > 1e-5
    # The rate is quadratic, u.T G u / 2: its mean is tr(G target) / 2, exactly 0.
    eye = torch.eye(6, dtype=torch.float64)
    precision = composed_precision(graph, q, sigma)
    squares = torch.zeros(6, 6, dtype=torch.float64)
    for name, count in graph.counting_numbers().items():
        if count:
            index = graph.regions.elements(name).reshape(-1)
            block = q.covariance[index][:, index] + sigma**2 * eye[: len(index), : len(index)]
            inverse = torch.linalg.inv(block)
            squares[index[:, None], index] += count * inverse @ inverse
    assert ((precision @ precision - squares) @ target).trace().abs() < 1e-9 * precision.trace()


def test_weighted_particles_follow_the_path_unweighted_ones_do_not() -> None:
    q, graph, n = ar1(3, 0.9), chain(3), 6000
    joint = compose(graph, node_scores(graph, q))
    sigmas = karras(160, 0.05, 30.0)[:-1]
    kept = sample_weighted(joint.potential, sigmas, shape=(n, 3), threshold=0.0, generator=1)
    assert kept.n_resampled == 0
    share = kept.effective[-1] / n
    assert 0.05 < share < 1
    target = torch.linalg.inv(composed_precision(graph, q, sigmas[-1]))
    plain = kept.x.T @ kept.x / n
    found = weighted_covariance(kept.x, kept.log_weights)
    tolerance = 4 * (2 / (share * n)) ** 0.5
    assert (found - target).abs().max() < tolerance
    assert (plain - target).abs().max() > 4 * (2 / n) ** 0.5  # .17 against .07
    resampled = sample_weighted(joint.potential, sigmas, shape=(n, 3), threshold=0.8, generator=1)
    assert resampled.n_resampled >= 1
    found = weighted_covariance(resampled.x, resampled.log_weights)
    assert (found - target).abs().max() < 2 * tolerance


def test_weights_collapse_with_size() -> None:
    shares = []
    for n in (3, 6, 12):
        q, graph = ar1(n, 0.9), chain(n)
        joint = compose(graph, node_scores(graph, q))
        sigmas = karras(60, 0.05, 30.0)[:-1]
        out = sample_weighted(joint.potential, sigmas, shape=(1000, n), threshold=0.0)
        shares.append(out.effective[-1] / 1000)
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < 0.15


def test_negative_counts_and_loops_have_rates_too() -> None:
    graph, q = cycle(4), ar1(4, 0.5)
    score, rate = compose(graph, node_scores(graph, q)).potential(torch.zeros(2, 4).double(), 1.0)
    assert score.shape == (2, 4)
    assert rate.tolist() == [0.0, 0.0]
    with pytest.raises(ScoreError, match="expected the rule Marginal"):
        compose(graph, node_scores(graph, q), rule=Average()).potential(torch.zeros(1, 4), 1.0)


def test_systematic_resampling_counts() -> None:
    weights = torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=torch.float64)
    for uniform in (0.0001, 0.3, 0.9):
        counts = systematic(weights.log(), uniform).bincount(minlength=4)
        assert counts.tolist() == [2, 1, 1, 0]
    assert effective_sample_size(torch.zeros(7)) == pytest.approx(7)
    assert effective_sample_size(torch.tensor([0.0, -1e9])) == pytest.approx(1)


@pytest.mark.parametrize("sigmas", [[1.0], [1.0, 2.0], [1.0, 0.5, 0.0]])
def test_bad_schedules_are_named(sigmas: list) -> None:
    with pytest.raises(PgmdiffError, match="decrease strictly to a value above 0"):
        sample_weighted(lambda u, s: (u, u[:, 0]), sigmas, shape=(2, 3))
