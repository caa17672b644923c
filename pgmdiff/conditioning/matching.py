r"""Conditioning by matched moments: u_0 given u_σ is treated as N(D, V), observed with noise.

    y = H u_0 + σ_y ε
    D_y = D + V Hᵀ (H V Hᵀ + σ_y² I)⁻¹ (y - H D)

This is exact for Gaussian data at every σ, with noise or without, if V is the posterior covariance.
There are three choices of V:

    `Isotropic`   V = r² I, r² = σ² σ_d² / (σ² + σ_d²), and the outer V is replaced by σ² Jᵀ with
                  the denoiser's own Jacobian J = ∂D/∂u (Song, Vahdat, Mardani, Kautz,
                  "Pseudoinverse-guided diffusion models for inverse problems", 2023)
    `Tweedie`     V = σ² Jᵀ (Rozet, Andry, Lanusse, Louppe, "Learning diffusion priors from
                  observations by expectation maximization", 2024): the exact moments, with one
                  vector-Jacobian product per step of conjugate gradients
    `Composed`    V = σ² (I + σ² P)⁻¹ of posterior composition, without gradients
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.functional import jvp, vjp

from pgmdiff.conditioning.observations import Observation, observing
from pgmdiff.conditioning.operators import LinearOperator
from pgmdiff.conditioning.reconstructing import differentiable
from pgmdiff.errors import PgmdiffError
from pgmdiff.linalg import conjugate_gradients, magnitudes
from pgmdiff.scores.adapters import NetworkScore, Score, beside, denoise, per_sample
from pgmdiff.scores.walls import on_copies
from pgmdiff.text import brief, described

__all__ = ["Composed", "Isotropic", "PosteriorCovariance", "Tweedie", "moment_matching"]

Product = Callable[[Tensor], Tensor]

PATIENCE = 50
"""Conjugate gradients that do not come nearer in as many steps, each a gradient, are given up."""
REMEDY = (
    "use Composed(joint), with covariances of the data (fit_covariances), or give the observation "
    "a noise level, noise=."
)


class Moments(NamedTuple):
    """The mean of u_0 given u_σ, and its covariance as two products.

    Attributes:
        denoised: D.
        inner: the map v to V v, for V inside H V Hᵀ.
        outer: the map v to V v, for V that carries the observation back.
    """

    denoised: Tensor
    inner: Product
    outer: Product


class PosteriorCovariance(ABC):
    """A choice of V."""

    @abstractmethod
    def moments(self, score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]) -> Moments:
        """D and V at x `[batch, *event]`, sigma `[batch]`."""


@dataclass(frozen=True)
class Isotropic(PosteriorCovariance):
    """V = r² I inside and σ² Jᵀ outside (ΠGDM); without the Jacobian V = r² I in both places.

    It is biased unless the covariance of the data is a multiple of I.

    Args:
        data_std: σ_d, the standard deviation of the data.
        jacobian: whether the Jacobian carries the observation back, which costs one gradient
            through the score.
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
    """V = σ² Jᵀ, the moments of the denoiser itself; it holds one autograd graph of the score.

    It is meant for scores that are gradients, whose J is symmetric. The score of posterior
    composition is not a gradient unless the data is Gaussian, and conjugate gradients may stall:
    use `Composed` there.
    """

    def moments(self, score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]) -> Moments:
        denoised, pull = _with_pull(score, x, sigma, condition)
        return Moments(denoised, pull, pull)


@dataclass(frozen=True)
class Composed(PosteriorCovariance):
    """V = σ² (I + σ² P)⁻¹ of a joint under posterior or evidence composition.

    It is exact for Gaussian data Markov to a junction tree, if the covariances are the true ones.
    It needs no gradients.

    Args:
        joint: a joint made with `Posterior` or `Evidence`; the score may be this joint, or another.

    Raises:
        PgmdiffError: the joint has no covariances.
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
) -> NetworkScore:
    """A score, for σ > 0, conditioned on y = H u_0 + σ_y ε by matched moments; see the module.

    Its denoiser, for σ ≥ 0, is `.denoise`.

    Args:
        score, observed, operator: as for `reconstruction`; a function is linearised at D
            (Gauss-Newton).
        covariance: the choice of V: `Composed(joint)`, `Tweedie()` or `Isotropic(data_std)`.
        noise: σ_y, the standard deviation of the noise; 0 for a noiseless observation.
        tolerance: the relative residual of the conjugate gradients that solve with H V Hᵀ + σ_y² I;
            None for 1e-10 in float64 and 1e-5 in float32.
        most_steps: the number of their steps after which they fail; without progress they fail
            after some tens.

    Raises:
        ShapeError: the observation is not finite or has another shape.
        PgmdiffError: the noise is negative or not finite, or there is none and no state gives this
            observation; when the score is called, the conjugate gradients do not converge.
        ScoreError: when called, the score or the operator lacks a gradient that is needed.
    """
    if not isinstance(covariance, PosteriorCovariance):
        raise PgmdiffError(
            "moment_matching: expected a covariance such as Composed(joint) or Tweedie(), got "
            f"{covariance!r}."
        )
    if not 0 <= noise < torch.inf:
        raise PgmdiffError(
            f"moment_matching: expected finite noise of at least 0, got {noise}. Give its standard "
            "deviation."
        )
    observation = Observation.of("moment_matching", observed, operator, noiseless=noise == 0)

    def conditioned(x: Tensor, sigma: Tensor | float, **condition: Any) -> Tensor:
        sigma = per_sample(sigma, x)
        known = covariance.moments(score, x, sigma, condition)
        h: LinearOperator | Linearised | None = observation.operator
        if h is None:
            h = Linearised(observation.seen, known.denoised)
        misfit = observation.misfit(known.denoised)
        gap = misfit.where(beside(sigma, misfit) > 0, 0)  # V = 0 at σ = 0
        usual = 1e-10 if x.dtype == torch.float64 else 1e-5
        # H / |H| and y / |H| in place of H and y: squares of |H| underflow or overflow.
        with torch.no_grad():
            size = magnitudes(on_copies(h.A_adjoint, gap.sgn()))
        level = beside((noise / size) ** 2, gap)

        def back(v: Tensor) -> Tensor:
            back_there: Tensor = on_copies(h.A_adjoint, v)
            return back_there / beside(size, x)

        weights = conjugate_gradients(
            lambda v: h.A(known.inner(back(v))) / beside(size, v) + level * v,
            gap / beside(size, gap),
            tolerance=usual if tolerance is None else tolerance,
            most_steps=most_steps,
            what="moment_matching",
            patience=PATIENCE,
            remedy=f"The score's Jacobian (Tweedie) may be too inexact for smooth data: {REMEDY}",
        )
        return known.denoised + known.outer(back(weights))

    remedy = f"The covariance does not fit the data: {REMEDY}"
    return observing(conditioned, observation, score, noise=noise, remedy=remedy)


class Linearised:
    """The derivative of a function of batches at a point, as an operator."""

    def __init__(self, function: Callable[[Tensor], Tensor], at: Tensor) -> None:
        self.function, self.at = function, at

    def A(self, x: Tensor) -> Tensor:
        return self._times(jvp, x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._times(vjp, y)

    def _times(self, product: Callable[..., Any], v: Tensor) -> Tensor:
        again = torch.is_grad_enabled()
        with torch.inference_mode(False):
            value: Tensor = product(self.function, self.at.clone(), v, create_graph=again)[1]
        return value


def _with_pull(
    score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]
) -> tuple[Tensor, Product]:
    """D, and the map v to σ² Jᵀ v; both are differentiable if x is."""
    outside = torch.is_grad_enabled() and x.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        leaf, denoised = differentiable(score, x, sigma, condition)

    def pull(v: Tensor) -> Tensor:
        again = outside and torch.is_grad_enabled()
        (back,) = torch.autograd.grad(denoised, leaf, v, retain_graph=True, create_graph=again)
        return beside(sigma, x) ** 2 * back

    return denoised if outside else denoised.detach(), pull
