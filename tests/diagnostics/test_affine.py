"""`diagnostics.distribution_reached`: the law of a sampler where the score is affine."""

import pytest
import torch

from pgmdiff import compose
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import node_scores
from pgmdiff.graphs import chain
from pgmdiff.samplers import (
    SDE,
    DPMSolver2M,
    Heun,
    Langevin,
    PredictorCorrector,
    Solver,
    karras,
    sample,
)
from pgmdiff.testing import markov_gaussian

N = 4
Q = markov_gaussian(chain(N), 0)
JOINT = compose(chain(N), node_scores(chain(N), Q))
SIGMAS = karras(5, 0.1, 10.0)
pytestmark = pytest.mark.filterwarnings("ignore:PredictorCorrector")  # of DPM: less accurate
SOLVERS = {
    "deterministic": Heun(),
    "a noise a step": SDE(1.0),
    "two noises a step": PredictorCorrector(SDE(1.0), Langevin(0.2)),
    "noise and history": DPMSolver2M(eta=1.0),
    "both, corrected": PredictorCorrector(DPMSolver2M(eta=1.0), Langevin(0.2, 2)),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_it_is_the_law_of_the_samples(name: str) -> None:
    solver: Solver = SOLVERS[name]
    n_samples, start = 4_000, Q.noised(SIGMAS[0])
    law = distribution_reached(JOINT, SIGMAS, start, solver)
    x = start.sample(n_samples, torch.Generator().manual_seed(1))
    u = sample(JOINT, SIGMAS, x=x, solver=solver, generator=2) - law.mean
    variances = law.covariance.diagonal()
    assert (u.mean(dim=0).abs() / (variances / n_samples).sqrt()).max() < 4
    deviation = ((variances[:, None] * variances + law.covariance**2) / n_samples).sqrt()
    assert ((u.T @ u / n_samples - law.covariance) / deviation).abs().max() < 4.5


@pytest.mark.parametrize("name", SOLVERS)
def test_runs_may_be_broken_off(name: str) -> None:
    """The law after all steps is the law after the last ones, from that after the first ones."""
    solver, start = SOLVERS[name], Q.noised(SIGMAS[0])
    whole = distribution_reached(JOINT, SIGMAS, start, solver)
    halfway = distribution_reached(JOINT, SIGMAS[:4], start, solver)
    rest = distribution_reached(JOINT, SIGMAS[3:], halfway, solver)
    if "history" in name or "both" in name:  # which the second part begins without
        assert (rest.covariance - whole.covariance).abs().max() > 1e-6
    else:
        torch.testing.assert_close(rest.covariance, whole.covariance, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(rest.mean, whole.mean, rtol=1e-10, atol=1e-10)


def test_a_basis_begun_anew_changes_nothing() -> None:
    """Against all noises of the run side by side."""
    solver, draws = SDE(1.0), len(SIGMAS) - 2  # the step to 0 draws none
    start = Q.noised(SIGMAS[0])
    values, vectors = torch.linalg.eigh(start.covariance)
    rows = torch.cat([(vectors * values.sqrt()).T, torch.zeros(N * draws, N, dtype=torch.float64)])
    state = solver.init(torch.cat([start.mean[None], start.mean + rows]), SIGMAS[0])
    for k, sigma in enumerate(SIGMAS[1:]):
        basis = torch.zeros_like(state.x)
        basis[1 + N * (k + 1) : 1 + N * (k + 2)] = torch.eye(N, dtype=torch.float64)[: len(basis)]
        state = solver.step(JOINT, state, sigma, lambda number, like, basis=basis: basis)
        if k == draws - 1:
            break
    state = solver.step(JOINT, state, 0.0, lambda number, like: torch.zeros_like(like))
    columns = state.x[1:] - state.x[0]
    law = distribution_reached(JOINT, SIGMAS, start, solver)
    torch.testing.assert_close(law.covariance, columns.T @ columns, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(law.mean, state.x[0], rtol=1e-10, atol=1e-10)
