r"""sbi: posterior scores of single observations in, composed over many observations.

An estimator of sbi (NPSE, FMPE) gives ∇ log p_t(θ_t | y) of θ_t = m_t θ + s_t ε. With u = θ_t / m_t
and σ = s_t / m_t that is m_t times smaller than our variance-exploding score:

    s(u, σ | y) = m_t ∇ log p_t(m_t u | y).

N observations that are independent given θ are a star, q(θ | y_1 … y_N) ∝ q(θ)^{1-N} Π q(θ | y_i):
`graphs.repeated_observations`. The marginal rule on it is Geffner, Papamakarios, Mnih,
"Compositional score modeling for simulation-based inference", 2023; posterior composition is
the closure of Linhart, Cardoso, Gramfort, Le Corff, Rodrigues, "Diffusion posterior sampling for
simulation-based inference in tall data settings", 2024, exact at every σ for Gaussian posteriors
and prior.

sbi itself is never imported.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pgmdiff.composition.composing import compose
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.posterior import Posterior
from pgmdiff.errors import ScoreError, ShapeError
from pgmdiff.graphs.families import repeated_observations
from pgmdiff.integrations.shared import as_seen, check_device, network_dtype, time_at
from pgmdiff.scores.adapters import Score, beside

__all__ = ["from_sbi", "tall_data"]

INTERFACE = ("score", "mean_t_fn", "std_fn", "t_min", "t_max")
"""What is asked of an estimator."""


def from_sbi(estimator: Any) -> Score:
    """The score of an sbi estimator, `score(theta, sigma, condition)`, of one observation a row.

    Args:
        estimator: with `score(input, condition, t)`, `mean_t_fn(t)`, `std_fn(t)`, `t_min` and
            `t_max`: what `NPSE(...).train()` or `FMPE(...).train()` returns.

    Raises:
        ScoreError: the estimator lacks one of these, or standardises its parameters axis by axis,
            in which units noise is not isotropic; when called, it is on another device.
    """
    missing = [name for name in INTERFACE if not hasattr(estimator, name)]
    if missing:
        raise ScoreError(
            f"from_sbi: a {type(estimator).__name__} has no {', '.join(missing)}. Give the "
            "estimator that NPSE(...).train() returns, not a posterior."
        )
    if getattr(estimator, "compose_enabled", False):
        raise ScoreError(
            "from_sbi: the estimator standardises its parameters (compose_standardization=True). "
            "Train without it, on parameters that you standardise yourself."
        )

    def ratio(times: Tensor) -> Tensor:
        levels: Tensor = estimator.std_fn(times) / estimator.mean_t_fn(times)
        return levels.reshape(times.shape)

    def score(theta: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        check_device(estimator, theta)
        dtype = network_dtype(estimator, theta.dtype)
        t = time_at(ratio, sigma, float(estimator.t_min), float(estimator.t_max))
        mean = estimator.mean_t_fn(t).reshape(t.shape).to(theta)
        std = estimator.std_fn(t).reshape(t.shape).to(theta)
        m = beside(as_seen(mean, std, sigma), theta)
        scores = _by_time(estimator, (m * theta).to(dtype), condition.to(dtype), t.to(dtype))
        return m * scores.to(theta.dtype)

    return score


def _by_time(estimator: Any, theta: Tensor, condition: Tensor, t: Tensor) -> Tensor:
    """Calls an estimator with one time each: not all of sbi's take one a row."""
    places = [(t == time).nonzero()[:, 0] for time in t.unique()]
    scores = [estimator.score(theta[rows], condition[rows], t[rows[:1]]) for rows in places]
    ordered: Tensor = torch.cat(scores)[torch.cat(places).argsort()]
    return ordered


def tall_data(
    posterior: Score,
    prior: Score,
    observations: Tensor,
    *,
    shape: Sequence[int],
    covariances: Sequence[Tensor] | None = None,
    prior_covariance: Tensor | None = None,
) -> Joint:
    """The score of q(θ | y_1 … y_N), composed from posteriors of one observation each.

    Without covariances the marginal rule, exact only as σ → 0; with them posterior composition,
    exact at every σ where posteriors and prior are Gaussian.

    Args:
        posterior: `posterior(theta, sigma, condition)`, such as `from_sbi(estimator)`.
        prior: `prior(theta, sigma)`, such as `gaussian.Gaussian(mean, covariance).score`.
        observations: `[N, *observed]`.
        shape: of θ.
        covariances: of each single-observation posterior, N of `[d, d]`: of samples drawn from it,
            or averaged over observations.
        prior_covariance: `[d, d]`.

    Raises:
        ShapeError: not one covariance an observation.
        ScoreError: covariances of posteriors without the prior's, or the reverse.
    """
    n = len(observations)
    graph = repeated_observations(n, tuple(shape), [{"condition": y} for y in observations])
    scores = {"posterior": posterior, "prior": prior}
    if covariances is None and prior_covariance is None:
        return compose(graph, scores)
    if covariances is None or prior_covariance is None:
        raise ScoreError(
            "tall_data: give both covariances= and prior_covariance=, or neither (marginal rule)."
        )
    if len(covariances) != n:
        raise ShapeError(
            f"tall_data: expected {n} covariances, one an observation, got {len(covariances)}."
        )
    of_each = {f"y{i}": covariance for i, covariance in enumerate(covariances)}
    return compose(graph, scores, rule=Posterior({**of_each, "prior": prior_covariance}))
