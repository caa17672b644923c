r"""Conditioning by reconstruction: the score descends the error of the denoised value.

    s_y(u, σ) = s(u, σ) - λ(σ, ‖r‖) ∇_u ‖r‖²,        r = y - H(D(u, σ)),  one norm per sample

(Zhang et al., "DiffCollage", 2023, Algorithm 5, with the sign that descends: the one printed there
increases the error. Chung et al., "Diffusion posterior sampling for general noisy inverse
problems", 2023.) With λ = 1 / (2 H V Hᵀ), V the true posterior covariance of u_0 given u and H one
row, it is exact for Gaussians; with other weights it is biased, whatever the schedule. H may be any
differentiable function.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pgmdiff.conditioning.observations import Noise, Observation, observing
from pgmdiff.conditioning.operators import LinearOperator
from pgmdiff.errors import PgmdiffError, check_scale
from pgmdiff.linalg import beside, ordinary, squared_norms
from pgmdiff.scores.adapters import NetworkScore, Score, denoise, per_sample
from pgmdiff.scores.gradients import gradient_required
from pgmdiff.scores.walls import on_copies, received
from pgmdiff.text import brief

__all__ = ["Weight", "dps", "matched", "reconstruction"]

Weight = Callable[[Tensor, Tensor], Tensor]
"""λ as a function of σ `[batch]` and ‖r‖ `[batch]`."""


def dps(scale: float = 1.0, *, data_std: float) -> Weight:
    """λ = ζ σ_d / (σ² ‖r‖): the denoised value descends the norm of the error, D - 2 ζ σ_d ∇‖r‖.

    Args:
        scale: ζ, to be tuned between about 0.1 and 2. It weighs a term of the score, not a step of
            the sampler, so that it is not comparable with the ζ of the paper.
        data_std: σ_d, the standard deviation of the data, which sets the unit of a step.

    Raises:
        PgmdiffError: the standard deviation is not positive.
    """
    check_scale("dps", "data_std", data_std)
    return partial(_dps_weight, scale, data_std)


# Weights and denoisers are functions of the module, so that scores can be pickled.
def _dps_weight(scale: float, data_std: float, sigma: Tensor, norm: Tensor) -> Tensor:
    # Where there is no error there is no slope, whatever its weight.
    return scale * data_std / (sigma**2 * norm.where(norm > 0, data_std))


def matched(variance: Callable[[Tensor], Tensor], noise: float = 0.0) -> Weight:
    """λ = 1 / (2 (H V Hᵀ + σ_y²)), exact for Gaussian data and one observed number.

    Args:
        variance: the map from σ `[batch]` to H V Hᵀ, the variance of H u_0 given u_σ.
        noise: σ_y, the standard deviation of the noise.
    """
    return partial(_matched_weight, variance, noise)


def _matched_weight(
    variance: Callable[[Tensor], Tensor], noise: float, sigma: Tensor, norm: Tensor
) -> Tensor:
    weight: Tensor = 0.5 / (variance(sigma) + noise**2)
    return weight


def reconstruction(
    score: Score,
    observed: Tensor,
    operator: LinearOperator | Tensor | Callable[[Tensor], Tensor],
    weight: Weight,
    *,
    noise: Noise | None = None,
) -> NetworkScore:
    """A score that descends ‖y - H D(u, σ)‖², at the cost of a gradient through the score.

    It needs the memory of autograd through the score; `compose(checkpoint=True)` bounds this by one
    model call at a time, for twice the evaluations.

    Args:
        score: the score of states `[batch, *event]`, differentiable.
        observed: y, `[*observed]` or one per sample; of a `Stacked` operator also a list of those
            of its operators. For an operator without `observed_shape`, of another library, it is
            one vector, or has a batch axis.
        operator: H; a boolean mask `[*event]` as for `replacement`; or a differentiable function
            of batches.
        weight: λ: `dps(scale, data_std=...)`, or another function of σ and ‖r‖.
        noise: the noise, as for `moment_matching`. Only if it is given, `sample` warns where the
            result misses the observation by far more.

    Raises:
        ShapeError: the observation is not finite or has another shape.
        PgmdiffError: the noise is negative or not finite, the weight no function, or the state is
            divided, by a `distributed.Slab`.
        ScoreError: the score, or the operator, has no gradient; the weight is not `[batch]`.
    """
    if not callable(weight):
        raise PgmdiffError(
            f"reconstruction: expected weight, a function of σ and ‖r‖, got {brief(weight)}. Give "
            "dps(scale, data_std=...)."
        )
    observation = Observation.of("reconstruction", observed, operator, noise, project=False)
    observation = observation.on(score, elementwise=False)
    remedy = "Change the weight, such as dps(scale), or use moment_matching."
    return observing(partial(_descended, observation, weight), observation, score, remedy=remedy)


def _descended(
    observation: Observation,
    weight: Weight,
    score: Score,
    x: Tensor,
    sigma: Tensor,
    **condition: Any,
) -> Tensor:
    sigma = per_sample(sigma, x)
    differentiate = gradient_required(x, sigma, condition, observation.y)
    with torch.inference_mode(False), torch.enable_grad():
        leaf, denoised = differentiable(score, x, sigma, condition)
        squares = squared_norms(observation.misfit(denoised))
        (slope,) = torch.autograd.grad(squares.sum(), leaf, create_graph=differentiate)
    value = on_copies(weight, sigma, squares.sqrt())
    weights = received(value, sigma, lambda: f"The weight {brief(weight)}", cast=True)
    descent = beside(weights, x) * slope
    total = denoised - beside(sigma, x) ** 2 * descent
    return total if differentiate else total.detach()


def differentiable(
    score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """x, or a copy of it that requires a gradient, and D there as autograd sees it."""
    sigma, condition = tree_map_only(Tensor, ordinary, (sigma, condition))
    leaf = x if x.requires_grad else x.detach().clone().requires_grad_()
    return leaf, denoise(score, leaf, sigma, **condition)
