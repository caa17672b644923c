r"""Conditioning by matched moments: u_0 given u_σ taken for N(D, V), the observation for Gaussian.

    y = H u_0 + σ_y ε
    D_y = D + V Hᵀ (H V Hᵀ + σ_y² I)⁻¹ (y - H D)

exact for Gaussian data at every σ, noisy and noiseless, where V is the posterior covariance. Which
V is the choice:

    `Isotropic`   V = r² I, r² = σ² σ_d² / (σ² + σ_d²), and the gain carried by the denoiser's own
                  Jacobian J = ∂D/∂u, as σ² Jᵀ in place of the outer V (Song, Vahdat, Mardani,
                  Kautz, "Pseudoinverse-guided diffusion models for inverse problems", 2023)
    `Tweedie`     V = σ² Jᵀ (Rozet, Andry, Lanusse, Louppe, "Learning diffusion priors from
                  observations by expectation maximization", 2024): exact moments, a
                  vector-Jacobian product a step of conjugate gradients
    `Composed`    V = σ² (I + σ² P)⁻¹ of posterior composition: no gradients at all
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from pgmdiff.conditioning.masks import masked
from pgmdiff.conditioning.observations import Observation
from pgmdiff.conditioning.operators import LinearOperator
from pgmdiff.conditioning.reconstructing import differentiable
from pgmdiff.errors import PgmdiffError
from pgmdiff.linalg import conjugate_gradients
from pgmdiff.scores.adapters import DenoiserScore, Score, beside, denoise, per_sample
from pgmdiff.text import brief, by_field, described

__all__ = ["Composed", "Isotropic", "PosteriorCovariance", "Tweedie", "moment_matching"]

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Moments:
    """What is known of u_0 given u_σ.

    Attributes:
        denoised: D.
        inner: v to V v, as it stands in H V Hᵀ.
        outer: v to V v, as it carries the observation back.
    """

    denoised: Tensor
    inner: Product
    outer: Product

    __repr__ = by_field


class PosteriorCovariance(ABC):
    """A choice of V."""

    @abstractmethod
    def moments(self, score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]) -> Moments:
        """D and V at x `[batch, *event]`, sigma `[batch]`."""


@dataclass(frozen=True)
class Isotropic(PosteriorCovariance):
    """V = r² I inside and σ² Jᵀ outside (ΠGDM); without the Jacobian V = r² I in both.

    Biased wherever the data's own covariance is not a multiple of I.

    Args:
        data_std: σ_d.
        jacobian: whether the gain is carried back by the Jacobian: one gradient through the score.
    """

    data_std: float = 1.0
    jacobian: bool = True

    def moments(self, score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]) -> Moments:
        s2 = beside(sigma, x) ** 2
        inner = s2 * self.data_std**2 / (s2 + self.data_std**2)
        if not self.jacobian:
            denoised = denoise(score, x, sigma, **condition)
            return Moments(denoised, lambda v: inner * v, lambda v: inner * v)
        denoised, pull = _with_pull(score, x, sigma, condition)
        return Moments(denoised, lambda v: inner * v, pull)


@dataclass(frozen=True)
class Tweedie(PosteriorCovariance):
    """V = σ² Jᵀ, the moments of the denoiser itself; memory of one graph of the score.

    For scores that are gradients: J is then symmetric. That of posterior composition is not, for
    data that is not Gaussian, and conjugate gradients may stall: use `Composed` there.
    """

    def moments(self, score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]) -> Moments:
        denoised, pull = _with_pull(score, x, sigma, condition)
        return Moments(denoised, pull, pull)


@dataclass(frozen=True)
class Composed(PosteriorCovariance):
    """V = σ² (I + σ² P)⁻¹ of a joint under posterior or evidence composition.

    Exact for Gaussian data Markov to a junction tree, with true covariances; no gradients.

    Args:
        joint: made with `Posterior` or `Evidence`; the score may be this joint, or another.

    Raises:
        PgmdiffError: the joint composes no covariances.
    """

    joint: Any

    def __repr__(self) -> str:
        return described(self, brief(self.joint, 180))

    def __post_init__(self) -> None:
        if getattr(self.joint, "solve", None) is None:
            raise PgmdiffError(
                "Composed: expected a joint under Posterior or Evidence, which has covariances, "
                f"got {self.joint!r}."
            )

    def moments(self, score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]) -> Moments:
        denoised = denoise(score, x, sigma, **condition)

        def product(v: Tensor) -> Tensor:
            solved: Tensor = self.joint.solve(v.reshape(len(v), prod(v.shape[1:])), sigma)
            return beside(sigma, x) ** 2 * solved.reshape(v.shape)

        return Moments(denoised, product, product)


def moment_matching(
    score: Score,
    observed: Tensor,
    operator: LinearOperator | Tensor | Callable[[Tensor], Tensor],
    covariance: PosteriorCovariance,
    *,
    noise: float = 0.0,
    tolerance: float | None = None,
    most_steps: int = 1_000,
) -> Score:
    """A score conditioned on y = H u_0 + σ_y ε by matched moments; see the module.

    Args:
        score: of states `[batch, *event]`.
        observed: y `[*observed]`, or one a sample.
        operator: H; or a boolean mask `[*event]`, as of `replacement`; or a differentiable function
            of batches, linearised at D (Gauss-Newton).
        covariance: which V: `Composed(joint)`, `Tweedie()` or `Isotropic(data_std)`.
        noise: σ_y; 0: noiseless.
        tolerance: relative residual of the conjugate gradients that solve with H V Hᵀ + σ_y² I;
            None: 1e-10 in float64, 1e-5 in float32.
        most_steps: of them, before they give up.

    Returns:
        A score, for σ > 0; with its denoiser, for σ ≥ 0, as `.denoise`.

    Raises:
        ShapeError: the observation is not finite or of another shape.
        PgmdiffError: no state gives this observation, and there is no noise; negative noise.
    """
    if not isinstance(covariance, PosteriorCovariance):
        raise PgmdiffError(
            "moment_matching: expected a covariance such as Composed(joint) or Tweedie(), got "
            f"{covariance!r}."
        )
    if not noise >= 0:
        raise PgmdiffError(f"moment_matching: expected noise of at least 0, got {noise}.")
    observed, operator = masked(observed, operator)
    observation = Observation.of("moment_matching", observed, operator, noiseless=noise == 0)
    linear = operator if isinstance(operator, LinearOperator) else None

    def conditioned(x: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        sigma = per_sample(sigma, x)
        known = covariance.moments(score, x, sigma, condition)
        h = linear or Linearised(observation.function, known.denoised)
        misfit = observation.misfit(known.denoised)
        gap = misfit.where(beside(sigma, misfit) > 0, 0)  # at σ = 0, V = 0: nothing to learn
        precision = 1e-10 if x.dtype == torch.float64 else 1e-5
        weights = conjugate_gradients(
            lambda v: h.A(known.inner(h.A_adjoint(v))) + noise**2 * v,
            gap,
            tolerance=precision if tolerance is None else tolerance,
            most_steps=most_steps,
            what="moment_matching",
        )
        return known.denoised + known.outer(h.A_adjoint(weights))

    return DenoiserScore(conditioned)


class Linearised:
    """The derivative of a function of batches at a point, as an operator."""

    def __init__(self, function: Callable[[Tensor], Tensor], at: Tensor) -> None:
        self.function, self.at = function, at

    def A(self, x: Tensor) -> Tensor:
        again = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():  # the gradient of a gradient
            leaf = _leaf(self.at)
            value = self.function(leaf)
            weight = torch.zeros_like(value, requires_grad=True)
            (back,) = torch.autograd.grad(value, leaf, weight, create_graph=True)
            (forward,) = torch.autograd.grad(back, weight, x, create_graph=again)
        return forward

    def A_adjoint(self, y: Tensor) -> Tensor:
        again = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            leaf = _leaf(self.at)
            (back,) = torch.autograd.grad(self.function(leaf), leaf, y, create_graph=again)
        return back


def _leaf(x: Tensor) -> Tensor:
    """What to differentiate by: x itself where others do, too."""
    return x if x.requires_grad else x.detach().clone().requires_grad_()


def _with_pull(
    score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]
) -> tuple[Tensor, Product]:
    """D, and v to σ² Jᵀ v; differentiable where x is."""
    outside = torch.is_grad_enabled() and x.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x if outside else x.detach().clone().requires_grad_()
        denoised = differentiable("moment_matching", score, leaf, sigma.clone(), condition)

    def pull(v: Tensor) -> Tensor:
        again = outside and torch.is_grad_enabled()
        (back,) = torch.autograd.grad(denoised, leaf, v, retain_graph=True, create_graph=again)
        return beside(sigma, x) ** 2 * back

    return denoised if outside else denoised.detach(), pull
