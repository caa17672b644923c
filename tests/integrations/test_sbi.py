"""Scores from estimators of the form of sbi's, and N observations of one parameter composed.

`test_sbis_own_estimators` runs where sbi is installed.
"""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from pgmdiff import Consistent, GraphError, Marginal, ScoreError, ShapeError
from pgmdiff.diagnostics import distribution_reached
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import repeated_observations
from pgmdiff.integrations.sbi import from_sbi, tall_data
from pgmdiff.samplers import Heun, UniPC, karras, sample
from pgmdiff.scores import denoise

PRIOR = Gaussian(
    torch.tensor([0.5, -1.0], dtype=torch.float64),
    torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64),
)
MAP = torch.tensor([[1.0, 0.3], [-0.4, 1.5]], dtype=torch.float64)
NOISE = torch.tensor([[0.5, 0.1], [0.1, 0.8]], dtype=torch.float64)
"""y = MAP θ + noise."""
Y = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGMA = torch.tensor([0.02, 0.1, 1.0, 5.0, 30.0], dtype=torch.float64)


def posterior_covariance(n: int = 1) -> Tensor:
    return (PRIOR.covariance.inverse() + n * MAP.T @ NOISE.inverse() @ MAP).inverse()


def posterior_mean(y: Tensor) -> Tensor:
    """The posterior mean, given observations `[..., N, 2]`."""
    pull = (y @ (NOISE.inverse() @ MAP)).sum(dim=-2) + PRIOR.covariance.inverse() @ PRIOR.mean
    return pull @ posterior_covariance(y.shape[-2])


def exact(theta: Tensor, mean_t: Tensor, std_t: Tensor, y: Tensor) -> Tensor:
    """The score of θ_t = m θ + s ε, given one observation per row."""
    covariance = mean_t[..., None] ** 2 * posterior_covariance() + (
        std_t[..., None] ** 2 * torch.eye(2, dtype=theta.dtype)
    )
    gap = mean_t * posterior_mean(y[:, None]) - theta
    return torch.linalg.solve(covariance, gap[..., None])[..., 0]


class Estimator:
    """It has the form of sbi's estimators: times in [t_min, t_max], m and s with axes for θ."""

    t_min, t_max = 1e-3, 1.0

    def mean_t_fn(self, times: Tensor) -> Tensor:
        return torch.exp(-0.25 * times**2 * 9.99 - 0.5 * times * 0.01)[..., None]

    def std_fn(self, times: Tensor) -> Tensor:
        return (1 - self.mean_t_fn(times) ** 2).sqrt()

    def score(self, input: Tensor, condition: Tensor, t: Tensor) -> Tensor:  # noqa: A002
        return exact(input, self.mean_t_fn(t), self.std_fn(t), condition)


def single(theta: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
    return exact(theta, torch.ones_like(sigma)[:, None], sigma[:, None], condition)


def test_estimators_give_the_score() -> None:
    theta = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double()
    sigma = SIGMA.clamp(max=10.0)  # m = 0.082 at its last time: σ up to 12
    found = from_sbi(Estimator())(theta * sigma[:, None], sigma, Y)
    torch.testing.assert_close(
        found, single(theta * sigma[:, None], sigma, Y), rtol=1e-6, atol=1e-6
    )


def test_above_the_largest_level_the_denoiser_is_that_of_the_largest() -> None:
    last = torch.ones(1, dtype=torch.float64)
    largest = (Estimator().std_fn(last) / Estimator().mean_t_fn(last)).item()
    sigma = torch.tensor([13.0, 20.0, 80.0, 400.0, 1e4], dtype=torch.float64)
    theta = posterior_mean(Y[:, None]) + sigma[:, None] * torch.randn(
        5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    near = theta * largest / sigma[:, None]
    expected = near + largest**2 * single(near, torch.full_like(sigma, largest), Y)
    found = denoise(from_sbi(Estimator()), theta, sigma, condition=Y)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert from_sbi(Estimator())(theta[:0], sigma[:0], Y[:0]).shape == (0, 2)


def test_posterior_composition_of_observations_is_the_posterior_of_all() -> None:
    """Posterior composition is exact at every σ, unlike the sum of noised posteriors."""
    truth = Gaussian(posterior_mean(Y), posterior_covariance(5))
    theta = truth.mean + torch.randn(5, 2, generator=torch.Generator().manual_seed(2)).double()
    own = {"covariances": [posterior_covariance()] * 5, "prior_covariance": PRIOR.covariance}
    with pytest.warns(UserWarning, match="compose: regions 'y0' and 'y1' hold the same elements"):
        marginal = tall_data(single, PRIOR.score, Y, shape=(2,), rule=Marginal())
    posterior = tall_data(single, PRIOR.score, Y, shape=(2,), **own)
    consistent = tall_data(single, PRIOR.score, Y, shape=(2,), rule=Consistent, **own)
    torch.testing.assert_close(
        consistent(theta, 1.0), truth.score(theta, 1.0), rtol=1e-8, atol=1e-8
    )
    for sigma in SIGMA:
        torch.testing.assert_close(
            posterior(theta, sigma), truth.score(theta, sigma), rtol=1e-8, atol=1e-8
        )
    gap = (marginal(theta, 1.0) - truth.score(theta, 1.0)).abs().max()
    assert gap > 0.5 * truth.score(theta, 1.0).abs().max()
    near = 2e-6
    torch.testing.assert_close(
        marginal(theta, near), truth.score(theta, near), rtol=1e-6, atol=1e-6
    )
    sigmas = karras(60, 1e-3, 80.0)
    reached = distribution_reached(posterior, sigmas, truth.noised(80.0), Heun())
    torch.testing.assert_close(reached.mean, truth.mean, rtol=0, atol=2e-3)
    torch.testing.assert_close(reached.covariance, truth.covariance, rtol=2e-2, atol=0)


MODES = torch.tensor([-2.0, 2.0], dtype=torch.float64)
WEIGHTS = torch.tensor([0.1, 0.9], dtype=torch.float64)


def of_modes(sum_y: Tensor, n: int) -> tuple[Tensor, Tensor, float]:
    """θ ~ Σ w N(±2, 0.16) given Σ y_j, y_j = θ + N(0, 1): shares and means of modes, variance."""
    variance = 1 / (1 / 0.16 + n)
    means = variance * (MODES / 0.16 + sum_y[..., None])
    logs = WEIGHTS.log() + 0.5 * (means**2 / variance - MODES**2 / 0.16)
    return logs.softmax(dim=-1), means, variance


def score_of_modes(theta: Tensor, sigma: Tensor, sum_y: Tensor, n: int) -> Tensor:
    shares, means, variance = of_modes(sum_y, n)
    noisy = variance + sigma[:, None] ** 2
    away = means - theta
    chances = (shares.log() - 0.5 * away**2 / noisy).softmax(dim=1)
    return (chances * away / noisy).sum(dim=1, keepdim=True)


def variance_of_modes(sum_y: Tensor, n: int) -> Tensor:
    shares, means, variance = of_modes(sum_y, n)
    return variance + (shares * means**2).sum(-1) - (shares * means).sum(-1) ** 2


def posterior_of_modes(theta: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
    return score_of_modes(theta, sigma, condition, 1)


def prior_of_modes(theta: Tensor, sigma: Tensor) -> Tensor:
    return score_of_modes(theta, sigma, torch.zeros_like(sigma), 0)


def test_other_posteriors_are_composed_better_by_consistent() -> None:
    """Thirty observations of the rarer mode: posterior composition is off by its own width."""
    y = torch.randn(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 2
    own: dict[str, Any] = {
        "covariances": variance_of_modes(y, 1).reshape(-1, 1, 1),
        "prior_covariance": variance_of_modes(torch.zeros(1).double(), 0)[:, None],
    }
    shares, means, _ = of_modes(y.sum(), 30)
    width = variance_of_modes(y.sum(), 30).sqrt()
    start = 20 * torch.special.ndtri((torch.arange(60).double() + 0.5) / 60)[:, None]
    away, ratio = {}, {}
    for rule in (None, Consistent):
        joint = tall_data(posterior_of_modes, prior_of_modes, y, shape=(1,), rule=rule, **own)
        drawn = sample(joint, karras(60, 0.002, 20.0), x=start, solver=UniPC())
        away[rule] = float((drawn.mean() - shares @ means).abs() / width)
        ratio[rule] = float(drawn.std() / width)
    assert away[Consistent] < 0.1
    assert abs(ratio[Consistent] - 1) < 0.05
    assert away[None] > 0.9
    assert ratio[None] > 1.3


def test_the_mean_of_covariances_is_never_wider_than_the_prior() -> None:
    """One posterior may be, where its observation contradicts the likelier mode."""
    stream = torch.Generator().manual_seed(2)
    prior = variance_of_modes(torch.zeros(1).double(), 0)[:, None]
    y = torch.tensor([-0.5, -0.4, -0.6], dtype=torch.float64)  # both modes are possible
    theta = MODES[torch.multinomial(WEIGHTS, 2000, True, generator=stream)]
    simulated = theta + 1.16**0.5 * torch.randn(2000, generator=stream, dtype=torch.float64)
    mean = variance_of_modes(simulated, 1).mean().reshape(1, 1)
    given: dict[str, Any] = {"shape": (1,), "prior_covariance": prior}
    with pytest.raises(GraphError, match="not positive definite"):
        tall_data(posterior_of_modes, prior_of_modes, y,
                  covariances=variance_of_modes(y, 1).reshape(-1, 1, 1), **given)  # fmt: skip
    joint = tall_data(posterior_of_modes, prior_of_modes, y, covariances=[mean] * 3, **given)
    assert joint(torch.zeros(2, 1).double(), 1.0).isfinite().all()


def test_the_report_promises_only_what_holds_for_a_star_of_observations() -> None:
    """Its regions hold the same elements under different conditions: E[(u - m) s] is not -1."""
    own = {"covariances": [posterior_covariance()] * 5, "prior_covariance": PRIOR.covariance}
    joint = tall_data(single, PRIOR.score, Y, shape=(2,), **own)
    with pytest.warns(UserWarning, match="compose: regions 'y0' and 'y1' hold the same elements"):
        marginal = tall_data(single, PRIOR.score, Y, shape=(2,), rule=Marginal())
    truth = Gaussian(posterior_mean(Y), posterior_covariance(5)).noised(1.0)
    u = truth.sample(20_000, generator=0)
    law = ((u - truth.mean) * marginal(u, 1.0)).mean(dim=0)
    assert (law + 1).abs().max() > 0.5
    text = str(joint.validate())
    assert "y0' and 'y1' hold the same elements under different conditions" in " ".join(
        text.split()
    )
    assert "= -1 does not hold" in " ".join(text.split())
    assert "of every Gaussian" not in text
    alike = repeated_observations(3, (2,), [{"condition": Y[0]}] * 3)
    assert alike.validate().conflict is None


def test_single_observations_need_no_composition() -> None:
    theta = torch.randn(3, 2, generator=torch.Generator().manual_seed(3)).double()
    sigma = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    joint = tall_data(single, PRIOR.score, Y[:1], shape=(2,))
    torch.testing.assert_close(joint(theta, sigma), single(theta, sigma, Y[:1].expand(3, 2)))


def test_what_does_not_fit_is_named() -> None:
    class Standardised(Estimator):
        compose_enabled = True

    covariance = posterior_covariance()
    for call, error, message in [
        (lambda: from_sbi(object()), ScoreError, "has no score, mean_t_fn"),
        (lambda: from_sbi(Standardised()), ScoreError, "standardises its parameters"),
        (
            lambda: tall_data(single, PRIOR.score, Y, shape=(2,), covariances=[covariance] * 5),
            ScoreError,
            "prior_covariance=None and rule=None. Give the covariance",
        ),
        (lambda: tall_data(single, PRIOR.score, Y, shape=(2,)), ScoreError, "Give the covariance"),
        (
            lambda: tall_data(
                single,
                PRIOR.score,
                Y,
                shape=(2,),
                prior_covariance=PRIOR.covariance,
                rule=Marginal(),
            ),
            ScoreError,
            "covariances=None, prior_covariance=... and rule=Marginal",
        ),
        (  # posteriors as wide as the prior: the product of five has no finite variance
            lambda: tall_data(
                single,
                PRIOR.score,
                Y,
                shape=(2,),
                covariances=[1.5 * PRIOR.covariance] * 5,
                prior_covariance=PRIOR.covariance,
            ),
            GraphError,
            "not positive definite",
        ),
        (
            lambda: tall_data(
                single,
                PRIOR.score,
                Y,
                shape=(2,),
                covariances=[covariance],
                prior_covariance=PRIOR.covariance,
            ),
            ShapeError,
            "expected 5 covariances",
        ),
    ]:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize(
    "name", ["VPScoreEstimator", "VEScoreEstimator", "SubVPScoreEstimator", "FlowMatchingEstimator"]
)
def test_sbis_own_estimators(name: str) -> None:
    part = "flowmatching" if name == "FlowMatchingEstimator" else "score"
    module = f"sbi.neural_nets.estimators.{part}_estimator"
    own = getattr(pytest.importorskip(module, reason="sbi is not installed"), name)

    class Exact(own):
        """A perfect network in sbi's own process."""

        def forward(self, input: Tensor, condition: Tensor, time: Tensor) -> Tensor:  # noqa: A002
            mean, std = self.mean_t_fn(time), self.std_fn(time)
            score = exact(input, mean, std, condition)
            if name != "FlowMatchingEstimator":
                return score
            t = time[:, None]
            epsilon = -(t + self.noise_scale) * score  # E[ε | θ_t], θ_t = (1 - t) θ + (t + s) ε
            clean = (input - (t + self.noise_scale) * epsilon) / (1 - t)
            return epsilon - clean

    class Nothing(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return inputs[0]

    estimator = Exact(Nothing(), torch.Size([2]), torch.Size([2]), torch.nn.Identity())
    sigma = torch.tensor([0.05, 0.2, 1.0, 3.0, 8.0], dtype=torch.float64)
    theta = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double() * sigma[:, None]
    found = from_sbi(estimator)(theta, sigma, Y)
    torch.testing.assert_close(found, single(theta, sigma, Y), rtol=1e-6, atol=1e-6)
    above = torch.tensor([20.0, 80.0, 400.0, 1e3, 1e4], dtype=torch.float64)
    found = denoise(from_sbi(estimator), theta, above, condition=Y)
    torch.testing.assert_close(found, posterior_mean(Y[:, None]), rtol=0, atol=0.1)


@pytest.mark.parametrize(("factor", "told"), [
    (0.5, "times the variance that the covariances of Posterior say. Models may"),
    (1.0, ""),
    (2.0, "times the variance that the covariances of Posterior say: they are too certain"),
])  # fmt: skip
def test_posteriors_with_wrong_covariances_are_told(factor: float, told: str) -> None:
    """Of 20 observations of one number; without a factor samples have the deviation 1 / 9."""

    def posterior(theta: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return (0.8 * condition - theta) / (0.2 + sigma[:, None] ** 2)  # y = θ + N(0, 1/4)

    y = 0.6 + 0.5 * torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    prior = Gaussian(torch.zeros(1), torch.eye(1))
    given = {"covariances": torch.full((1, 1), 0.2 * factor), "prior_covariance": torch.eye(1)}
    joint = tall_data(posterior, prior.score, y.numpy(), shape=(1,), **given)
    with pytest.warns(UserWarning, match=told) if told else nullcontext():
        u = sample(joint, karras(18, 0.01, 10.0), shape=(500, 1), generator=0)
    assert (abs(9 * u.std().item() - 1) < 0.05) == (not told)


def test_observations_may_be_arrays_and_lists() -> None:
    own = {"covariances": [posterior_covariance()] * 5, "prior_covariance": PRIOR.covariance}
    expected = tall_data(single, PRIOR.score, Y, shape=(2,), **own)(torch.zeros(1, 2).double(), 1.0)

    def in_float32(theta: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        assert condition.dtype == torch.float32
        return single(theta, sigma, condition.to(theta))

    for given in (Y.numpy(), Y.tolist()):
        joint = tall_data(in_float32, PRIOR.score, given, shape=(2,), **own)
        found = joint(torch.zeros(1, 2).double(), 1.0)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(
        ShapeError, match=r"expected observations \[N, \*observed\], got one number"
    ):
        tall_data(single, PRIOR.score, torch.ones(()), shape=(2,), **own)
