"""Correctors against what is known of them: the bias of Langevin, the exactness of Metropolis."""

import pytest
import torch
from torch import Tensor

from pgmdiff import Evidence, PgmdiffError, compose
from pgmdiff.gaussian import Gaussian, kl_divergence, node_covariances, node_scores
from pgmdiff.graphs import chain
from pgmdiff.samplers import (
    SDE,
    Euler,
    Heun,
    Langevin,
    Metropolis,
    Noise,
    PredictorCorrector,
    karras,
    sample,
)
from tests.helpers import ar1

N = 40_000


@pytest.mark.parametrize("step", [0.1, 0.5, 1.2])
def test_langevin_has_its_known_bias_on_a_gaussian(step: float) -> None:
    """Variance v / (1 - h / (2 v)) of N(0, v), v = 1 + σ²; not v."""
    sigma, v = 1.5, 1 + 1.5**2
    x = torch.zeros(1, N, dtype=torch.float64)
    score = lambda x, s: -x / (1 + s[:, None] ** 2)  # noqa: E731
    out, acceptance = Langevin(step, n_moves=120).correct(score, x, sigma, Noise.of(3, 1))
    expected = v / (1 - step * sigma**2 / (2 * v))
    spread = expected * (2 / N) ** 0.5
    assert out.var().item() == pytest.approx(expected, abs=4 * spread)
    assert abs(out.var().item() - v) > 4 * spread
    assert acceptance.tolist() == [1.0]


def test_langevin_on_a_correlated_gaussian() -> None:
    """Per eigenvalue λ of the precision: 1 / (λ (1 - h λ / 2))."""
    sigma, step = 0.8, 0.4
    q = ar1(2, 0.9)
    precision = torch.linalg.inv(q.noised(sigma).covariance)
    values, vectors = torch.linalg.eigh(precision)
    score = lambda x, s: -x @ precision  # noqa: E731
    x = torch.zeros(1, N, 2, dtype=torch.float64)
    out, _ = Langevin(step, n_moves=120).correct(score, x, sigma, Noise.of(5, 1))
    variances = (out[0] @ vectors).var(dim=0)
    expected = 1 / (values * (1 - step * sigma**2 * values / 2))
    assert ((variances - expected).abs() < 4 * expected * (2 / N) ** 0.5).all()


def test_langevin_explodes_beyond_its_limit() -> None:
    score = lambda x, s: -x / s[:, None] ** 2  # noqa: E731
    x = torch.ones(1, 10, dtype=torch.float64)
    stable, _ = Langevin(1.9, 100).correct(score, x, 1.0, Noise.of(0, 1))
    assert stable.abs().max() < 100
    unstable, _ = Langevin(2.2, 100).correct(score, x, 1.0, Noise.of(0, 1))
    assert unstable.abs().max() > 1e5


def test_metropolis_removes_the_bias() -> None:
    sigma, step, n = 1.0, 1.0, 3000
    q = Gaussian(torch.zeros(2).double(), torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double())
    corrector = Metropolis(q.log_density, step, n_moves=60)
    x = torch.zeros(n, 2, dtype=torch.float64)
    out, acceptance = corrector.correct(q.score, x, sigma, Noise.of(1, n))
    truth = q.noised(sigma).covariance
    found = out.T @ out / n
    assert ((found - truth).abs() < 4 * truth[0, 0] * (2 / n) ** 0.5).all()
    assert 0.2 < acceptance.mean() < 0.99
    assert acceptance.std() > 0  # samples decide for themselves
    biased, _ = Langevin(step, n_moves=60).correct(q.score, x, sigma, Noise.of(1, n))
    assert (biased.T @ biased / n)[0, 0] > truth[0, 0] + 4 * truth[0, 0] * (2 / n) ** 0.5


def test_predictor_corrector_is_a_solver() -> None:
    q = ar1(3, 0.8)
    rates: list[tuple[float, Tensor]] = []
    solver = PredictorCorrector(
        Euler(), Metropolis(q.log_density, 0.5), report=lambda s, a: rates.append((s, a))
    )
    assert solver.evaluations == 2
    sigmas = karras(12, 0.05, 20.0)
    out = sample(q.score, sigmas, shape=(1500, 3), solver=solver, generator=0, dtype=torch.float64)
    assert [s for s, _ in rates] == sigmas[1:-1]
    assert all(0.3 < a.mean() <= 1 for _, a in rates)
    plain = sample(
        q.score, sigmas, shape=(1500, 3), solver=Euler(), generator=0, dtype=torch.float64
    )

    def loss(x: Tensor) -> float:
        return kl_divergence(Gaussian(torch.zeros(3).double(), x.T @ x / len(x)), q)

    assert loss(out) < loss(plain)


def test_corrected_runs_resume_bit_for_bit() -> None:
    q = ar1(3, 0.8)
    solver = PredictorCorrector(SDE(1.0), Langevin(0.2, 2))
    sigmas, steps = karras(8, 0.05, 20.0), []
    whole = sample(q.score, sigmas, shape=(4, 3), solver=solver, generator=7, dtype=torch.float64,
                   callback=steps.append)  # fmt: skip
    again = sample(
        q.score, sigmas, x=steps[3]["x"], solver=solver, generator=7, start=steps[3]["i"]
    )
    assert torch.equal(again, whole)


def test_metropolis_on_the_evidence() -> None:
    graph, q = chain(6), ar1(6, 0.9)
    joint = compose(graph, node_scores(graph, q), rule=Evidence(node_covariances(graph, q)))
    corrector = Metropolis(joint.log_density, 0.4, n_moves=3)
    x = q.noised(0.5).sample(200, torch.Generator().manual_seed(0))
    out, acceptance = corrector.correct(joint, x, 0.5, Noise.of(0, 200))
    assert 0.5 < acceptance.mean() <= 1
    assert out.shape == x.shape


@pytest.mark.parametrize("arguments", [(0.0, 1), (-1.0, 1), (0.1, 0)])
def test_bad_correctors_are_named(arguments: tuple) -> None:
    with pytest.raises(PgmdiffError, match="Langevin: expected a positive step"):
        Langevin(*arguments)
    with pytest.raises(PgmdiffError, match="expected a positive step"):
        Metropolis(lambda x, s: x, *arguments)
    assert isinstance(PredictorCorrector(Heun(), Langevin()).predictor, Heun)
