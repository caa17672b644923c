"""Scores from the denoisers of the real azula, and joints sampled by its samplers."""

import pytest
import torch
from torch import Tensor, nn

from pgmdiff import ScoreError, compose, gaussian
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import chain
from pgmdiff.integrations.azula import from_azula, to_azula
from pgmdiff.samplers import SDE, Euler, sample
from pgmdiff.scores.adapters import denoise
from tests.helpers import ar1

reason = "azula is not installed: pip install --no-deps azula"
azula_denoise = pytest.importorskip("azula.denoise", reason=reason)
azula_covariance = pytest.importorskip("azula.linalg.covariance", reason=reason)
azula_noise = pytest.importorskip("azula.noise", reason=reason)
azula_sample = pytest.importorskip("azula.sample", reason=reason)

TARGET = Gaussian(
    torch.tensor([1.0, -0.5], dtype=torch.float64),
    torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64),
)
U = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGMA = torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0], dtype=torch.float64)
X = U * SIGMA[:, None]
SCHEDULES = [
    azula_noise.VESchedule(1e-3, 1e3),
    azula_noise.VPSchedule(),
    azula_noise.CosineSchedule(),
    azula_noise.RectifiedSchedule(),
    azula_noise.DecaySchedule(),
]
named = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


class Backbone(nn.Module):
    """The exact network under each preconditioning of azula."""

    def __init__(self, karras: bool) -> None:
        super().__init__()
        self.karras = karras
        self.own = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor, c_time: Tensor) -> Tensor:
        sigma = c_time.exp().reshape(-1, 1).expand(len(x), 1)
        u = x * (1 + sigma**2).sqrt()
        denoised = TARGET.denoise(u, sigma[:, 0])
        return (
            (denoised - u / (1 + sigma**2)) * (1 + sigma**2).sqrt() / sigma
            if self.karras
            else (denoised)
        )


@named
def test_analytic_denoisers_give_the_score(schedule: object) -> None:
    values, vectors = torch.linalg.eigh(TARGET.covariance)
    covariance = azula_covariance.FullCovariance(vectors, values)
    score = from_azula(azula_denoise.GaussianDenoiser(TARGET.mean, covariance, schedule))
    for sigma in SIGMA:
        torch.testing.assert_close(
            score(X, sigma.expand(5)), TARGET.score(X, sigma), rtol=1e-6, atol=1e-6
        )
    with pytest.raises(ScoreError, match="one time for a batch"):
        score(X, SIGMA)


def test_a_batch_of_0_is_denoised() -> None:
    score = from_azula(azula_denoise.SimpleDenoiser(Backbone(False), SCHEDULES[0]))
    assert score(X[:0], SIGMA[:0]).shape == (0, 2)


@named
def test_networks_give_the_score(schedule: object) -> None:
    for denoiser in (
        azula_denoise.SimpleDenoiser(Backbone(False), schedule),
        azula_denoise.KarrasDenoiser(Backbone(True), schedule),
    ):
        found = from_azula(denoiser)(X, SIGMA)
        wanted = TARGET.score(X, SIGMA)
        assert ((found - wanted) * SIGMA[:, None]).abs().max() < 1e-6


@named
def test_a_joint_goes_out_and_comes_back(schedule: object) -> None:
    q = ar1(4, 0.8)
    joint = compose(chain(4), gaussian.node_scores(chain(4), q))
    u = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = u * SIGMA[:, None]
    denoiser = to_azula(joint, schedule)
    assert isinstance(denoiser, azula_denoise.Denoiser)
    there_and_back = denoise(from_azula(denoiser), x, SIGMA)
    assert (there_and_back - joint.denoise(x, SIGMA)).abs().max() < 1e-6
    t = torch.tensor(0.3, dtype=torch.float64)
    alpha, sigma = schedule(t)
    mean = denoiser(alpha * u, t).mean
    torch.testing.assert_close(mean, joint.denoise(u, sigma / alpha))
    torch.testing.assert_close(denoiser(alpha * u, t.expand(5)).mean, mean)


@named
def test_azulas_ddim_and_ddpm_sample_as_our_solvers(schedule: object) -> None:
    times = torch.linspace(1, 0, 21, dtype=torch.float64)
    alpha, sigma_t = schedule(times)
    sigmas = (sigma_t / alpha).tolist()
    x = sigmas[0] * U
    options = {"steps": 20, "dtype": torch.float64, "silent": True}
    ddim = azula_sample.DDIMSampler(to_azula(TARGET.score, schedule), eta=0.0, **options)
    theirs = ddim(alpha[0] * x) / alpha[-1]
    assert (theirs - sample(TARGET.score, sigmas, x=x, solver=Euler())).abs().max() < 1e-6

    n, start = 4000, Gaussian(torch.zeros(2).double(), sigmas[0] ** 2 * torch.eye(2).double())
    reached = distribution_reached(TARGET.score, sigmas, start, SDE(1.0))
    torch.manual_seed(0)  # azula draws from the global generator
    ddpm = azula_sample.DDPMSampler(to_azula(TARGET.score, schedule), **options)
    noise = torch.randn(n, 2, dtype=torch.float64)
    out = ddpm(alpha[0] * sigmas[0] * noise) / alpha[-1]
    assert (out.mean(dim=0) - reached.mean).abs().max() < 4 * (reached.covariance.max() / n) ** 0.5
    spread = 4 * reached.covariance.max() * (2 / n) ** 0.5
    assert (torch.cov(out.T) - reached.covariance).abs().max() < spread


def test_beyond_the_schedule_the_nearest_time_is_used() -> None:
    seen = []

    class Watched(azula_denoise.Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = azula_noise.VPSchedule(alpha_min=0.1, sigma_min=0.01)

        def forward(self, x_t: Tensor, t: Tensor) -> object:
            seen.append((x_t.std().item(), t.item()))
            return azula_denoise.DiracPosterior(mean=x_t)

    score, noise = from_azula(Watched()), torch.randn(2000, 3, dtype=torch.float64)
    score(500.0 * noise, torch.full((2000,), 500.0).double())
    score(1.0 + 1e-4 * noise, torch.full((2000,), 1e-4).double())
    assert seen[0] == pytest.approx((1.0, 1.0), rel=0.05), "noise of the expected level"
    assert seen[1][1] == pytest.approx(0.0, abs=1e-9)


def test_conditions_reach_the_nodes() -> None:
    def score(x: Tensor, sigma: Tensor, shift: Tensor) -> Tensor:
        return (shift[:, None] - x) / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)

    single = {"x1": lambda x, sigma, shift: (shift - x) / (1 + sigma**2)}
    joint = compose(chain(3), {"f0": score, "f1": score, **single})
    denoiser = to_azula(joint, azula_noise.VESchedule())
    shift, u = torch.tensor([1.0, 2.0]), torch.zeros(2, 3)
    mean = denoiser(u, torch.tensor(0.5), shift=shift).mean
    _, sigma = azula_noise.VESchedule()(torch.tensor(0.5))
    expected = sigma**2 / (1 + sigma**2) * shift[:, None].expand(2, 3)
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)
