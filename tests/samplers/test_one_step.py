"""One-step solvers: their special cases, and EDM's churn."""

import math

import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.samplers import EDM, SDE, DPMSolver2S, Euler, Heun, Noise, State, karras, sample
from tests.samplers.cases import SCALES, TARGET, elementwise, normal


def test_sde_without_noise_is_euler() -> None:
    x = 10.0 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigmas = karras(12, 0.01, 10.0)
    torch.testing.assert_close(
        sample(TARGET.score, sigmas, x=x, solver=SDE(0.0)),
        sample(TARGET.score, sigmas, x=x, solver=Euler()),
    )
    with pytest.raises(PgmdiffError, match="eta >= 0"):
        SDE(-1.0)


def test_churn_is_noise_and_then_heun() -> None:
    solver, noise = EDM(10, s_churn=2.0, s_tmin=1.0, s_tmax=5.0, s_noise=1.1), Noise.of(4, 3)
    for sigma, gamma in ((6.0, 0.0), (3.0, 0.2), (0.5, 0.0)):
        state = solver.init(sigma * normal(3, 2), sigma, 7)
        raised = (1 + gamma) * sigma
        x = state.x + 1.1 * math.sqrt(raised**2 - sigma**2) * noise(7, state.x)
        expected = Heun().step(elementwise, State(x, 7, raised), 0.3, noise)
        torch.testing.assert_close(
            vars(solver.step(elementwise, state, 0.3, noise)), vars(expected)
        )
    capped = EDM(1, s_tmin=0.0, s_tmax=100.0, s_noise=1.0)
    after = capped.step(lambda x, sigma: 0 * x, capped.init(torch.zeros(3, 2), 3.0), 1.0, noise)
    torch.testing.assert_close(after.x, 3.0 * noise(0, torch.zeros(3, 2)))  # √2 σ at most
    assert after.sigma == 1.0


def test_inflated_churn_is_a_bias() -> None:
    """S_noise = 1.003 is meant for networks: with the exact score the law is too wide for good."""
    sigmas = karras(160, 0.03, 80.0)[:-1]
    law = distribution_reached(SCALES.score, sigmas, SCALES.noised(sigmas[0]), EDM(160))
    off = law.covariance.diagonal() / SCALES.noised(sigmas[-1]).covariance.diagonal() - 1
    assert (off > 0.01).all()


def test_noise_of_the_two_halves_is_drawn_apart() -> None:
    numbers = []

    def noise(number: int, like: Tensor) -> Tensor:
        numbers.append(number)
        return torch.zeros_like(like)

    state = DPMSolver2S(1.0).init(normal(1, 2), 5.0, 3)
    DPMSolver2S(1.0).step(elementwise, state, 1.0, noise)
    assert len(set(numbers)) == 2
    assert numbers[0] == 3


@pytest.mark.parametrize("bad", [{"n_steps": 0}, {"n_steps": 5, "s_churn": -1.0}])
def test_bad_churn_is_named(bad: dict) -> None:
    with pytest.raises(PgmdiffError, match="EDM: expected n_steps >= 1"):
        EDM(**bad)
    with pytest.raises(PgmdiffError, match="DPMSolver2S: expected eta >= 0"):
        DPMSolver2S(-1.0)
