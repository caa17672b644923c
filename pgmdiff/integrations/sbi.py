r"""Scores from the estimators of sbi for one observation, composed over many observations.

An estimator (NPSE, FMPE) returns ∇ log p_t(θ_t | y) of θ_t = m_t θ + s_t ε. With u = θ_t / m_t and
σ = s_t / m_t the variance-exploding score is

    s(u, σ | y) = m_t ∇ log p_t(m_t u | y),

and above the estimator's largest level, σ_T, the denoiser is D(r u, σ_T) with r = σ_T / σ.

N observations that are independent given θ form a star, `graphs.repeated_observations`:
q(θ | y_1 … y_N) ∝ q(θ)^{1-N} Π q(θ | y_i). On it the marginal rule is the method of Geffner,
Papamakarios, Mnih, "Compositional score modeling for simulation-based inference", 2023, and
posterior composition is that of Linhart, Cardoso, Gramfort, Le Corff, Rodrigues, "Diffusion
posterior sampling for simulation-based inference in tall data settings", 2024, which is exact at
every σ for Gaussian posteriors and prior. `Consistent` serves others, too; see `tall_data`.

This module never imports sbi.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pgmdiff.composition.composing import compose
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.posterior import Posterior
from pgmdiff.composition.rules import Marginal, Rule
from pgmdiff.errors import ScoreError, ShapeError
from pgmdiff.graphs.families import repeated_observations
from pgmdiff.integrations.shared import as_seen, check_device, network_dtype, time_at
from pgmdiff.linalg import beside, tensor_of
from pgmdiff.scores.adapters import Score
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.scores.walls import received
from pgmdiff.text import brief

__all__ = ["from_sbi", "tall_data"]

INTERFACE = ("score", "mean_t_fn", "std_fn", "t_min", "t_max")
"""The attributes that an estimator needs."""


def from_sbi(estimator: Any) -> Score:
    """The score of an sbi estimator, `score(theta, sigma, condition)`, one observation per row.

    Args:
        estimator: what `NPSE(...).train()` or `FMPE(...).train()` returns, with
            `score(input, condition, t)`, `mean_t_fn(t)`, `std_fn(t)`, `t_min` and `t_max`.

    Raises:
        ScoreError: the estimator lacks one of these, or standardises its parameters axis by axis,
            in units in which noise is not isotropic; when called, it is on another device.
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
    return partial(_scored, estimator)


def _scored(estimator: Any, theta: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
    def ratio(times: Tensor) -> Tensor:
        levels: Tensor = estimator.std_fn(times) / estimator.mean_t_fn(times)
        return levels.reshape(times.shape)

    check_device(estimator, theta)
    if not len(theta):
        return theta.clone()
    dtype = network_dtype(estimator, theta.dtype)
    extra = getattr(estimator, "noise_scale", None)  # of FMPE, whose m_t is cut off at t = 0.99
    last = estimator.t_max if extra is None else min(estimator.t_max, 0.99)
    t = time_at(ratio, sigma, float(estimator.t_min), float(last))
    mean = estimator.mean_t_fn(t).reshape(t.shape).to(theta)
    std = estimator.std_fn(t).reshape(t.shape).to(theta)
    seen = as_seen(mean, std, sigma)
    m, r, level = (beside(each, theta) for each in (seen, seen / mean, sigma))
    theta_t, condition, t = (m * theta).to(dtype), condition.to(dtype), t.to(dtype)
    # One call per time: not all estimators accept one time per row.
    places = [(t == time).nonzero()[:, 0] for time in t.unique()]
    scores = [
        received(
            estimator.score(theta_t[rows], condition[rows], t[rows[:1]]),
            theta[rows],
            lambda: f"The estimator {brief(estimator)}",
            cast=True,
        )
        for rows in places
    ]
    score = torch.cat(scores)[torch.cat(places).argsort()]
    check_gradient(score, theta, lambda: f"The estimator {brief(estimator)}")
    if extra is not None:  # its velocity is that of noise (t + noise_scale) ε, its score's of t ε
        score = score / (1 + extra)
    return r * m * score + (r - 1) * theta / level**2


def tall_data(
    posterior: Score,
    prior: Score,
    observations: Any,
    *,
    shape: Sequence[int],
    covariances: Sequence[Tensor] | Tensor | None = None,
    prior_covariance: Tensor | None = None,
    rule: Rule | Callable[[Mapping[Any, Tensor]], Rule] | None = None,
) -> Joint:
    """The score of q(θ | y_1 … y_N), composed of posteriors of one observation each.

    With covariances this is posterior composition, which is exact at every σ if the posteriors and
    the prior are Gaussian. `rule=Consistent` composes others better, from the same covariances:
    with exact scores its samples were those of the exact score for up to 1,000 observations, where
    posterior composition was wrong by more than its width. A network's errors count N times under
    every rule; with up to ten observations it was better with networks, too, and from about thirty
    on it may lose samples to them (`python -m benchmarks stars`).

    `rule=Marginal()`, the marginal rule, requires no covariances and is exact only as
    σ → 0: for the prior N(0, 2.25) and 20 observations of unit noise its samples had a standard
    deviation of 0.0001 where 0.22 is right; for 100 they diverged.

    Args:
        posterior: the score `posterior(theta, sigma, condition)`, such as `from_sbi(estimator)`.
        prior: the score `prior(theta, sigma)`, such as `gaussian.Gaussian(mean, covariance)`.
        observations: the observations, `[N, *observed]`, a tensor, an array or a list; the float64
            of the latter becomes torch's default dtype.
        shape: the shape of θ.
        covariances: the covariances of the N posteriors of one observation, each `[d, d]`, of
            samples drawn from them, or one for all. Each its own is safer: under the mean over
            simulated observations posteriors that are narrower count as too wide, and samples
            become far too narrow. What is wider than the prior in some directions is left out.
            A single observation needs none.
        prior_covariance: the covariance of the prior, `[d, d]`.
        rule: the class of a rule that is made of covariances, `Posterior` if None, or a rule to be
            used without.

    Raises:
        ShapeError: there is not one covariance per observation.
        ScoreError: neither the covariances of the posteriors and of the prior nor a rule are given,
            or both are.
        GraphError: the precisions of the posteriors, less N - 1 times the prior's, are not positive
            definite: posteriors are wider than the prior.
    """
    if not isinstance(observations, Tensor):
        observations = tensor_of("tall_data", "observations", observations)
        if observations.is_floating_point():  # of float64
            observations = observations.to(torch.get_default_dtype())
    if not observations.ndim:
        raise ShapeError(
            "tall_data: expected observations [N, *observed], got one number. A single observation "
            "is observations[None]."
        )
    if isinstance(covariances, Tensor) and covariances.ndim == 2:
        covariances = [covariances] * len(observations)
    n = len(observations)
    graph = repeated_observations(n, tuple(shape), [{"condition": y} for y in observations])
    scores = {"posterior": posterior, "prior": prior}
    given = [each is not None for each in (covariances, prior_covariance)]
    own = rule if isinstance(rule, Rule) else None
    if n == 1 and not any(given):  # the posterior itself
        return compose(graph, scores, rule=own or Marginal())
    if any(given) if own is not None else not all(given):
        raise ScoreError(
            "tall_data: expected covariances= and prior_covariance=, or a rule without, got "
            f"covariances={'None' if covariances is None else '...'}, prior_covariance="
            f"{'None' if prior_covariance is None else '...'} and rule={rule!r}. Give the "
            "covariance of samples of each posterior and of the prior. rule=pgmdiff.Marginal() "
            "requires none, but its samples are wrong by far for more than a few observations."
        )
    if covariances is None or prior_covariance is None:
        return compose(graph, scores, rule=own)
    if len(covariances) != n:
        raise ShapeError(
            f"tall_data: expected {n} covariances, one per observation, got {len(covariances)}."
        )
    of_each = {f"y{i}": covariance for i, covariance in enumerate(covariances)}
    made = Posterior if rule is None else rule
    assert not isinstance(made, Rule), "a rule without covariances has returned"
    return compose(graph, scores, rule=made({**of_each, "theta": prior_covariance}))
