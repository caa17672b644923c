r"""Conditioning by matched moments: u_0 given u_σ is treated as N(D, V), observed with noise.

    y = H u_0 + σ_y ε
    D_y = D + V Hᵀ (H V Hᵀ + σ_y² I)⁻¹ (y - H D)

This is exact for Gaussian data at every σ, with noise or without, if V is the posterior covariance.
Noise of covariance R has R in place of σ_y² I. There are three choices of V:

    `Composed`    V = σ² (I + σ² K)⁻¹ of a joint with covariances, without gradients (`informing`)
    `Tweedie`     V = σ² Jᵀ with the denoiser's own Jacobian J = ∂D/∂u (Rozet, Andry, Lanusse,
                  Louppe, "Learning diffusion priors from observations by expectation maximization",
                  2024): the exact moments, with one vector-Jacobian product per step of the solve
    `Isotropic`   V = r² I, r² = σ² σ_d² / (σ² + σ_d²), inside, and σ² Jᵀ outside (ΠGDM: Song,
                  Vahdat, Mardani, Kautz, "Pseudoinverse-guided diffusion models for inverse
                  problems", 2023)

The solve minimises the residual ‖(y - H D) - (H V Hᵀ + σ_y²) w‖ over more and more directions
(generalised conjugate residuals: Eisenstat, Elman, Schultz, "Variational iterative methods for
nonsymmetric systems of linear equations", 1983). The residual never grows, for any V, so the
solve may stop early: what is left of the misfit is left to the next level. Conjugate gradients
would diverge where V is not symmetric, as J is not for networks nor for composed scores. A sample
whose w has wᵀ H V Hᵀ w <= 0, for which V is no covariance, is left to the next level as a whole.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pgmdiff.conditioning.informing import informed
from pgmdiff.conditioning.observations import Noise, Observation, observing
from pgmdiff.conditioning.operators import LinearOperator
from pgmdiff.conditioning.reconstructing import differentiable
from pgmdiff.conditioning.solving import Product, carried_back
from pgmdiff.errors import PgmdiffError, check_scale
from pgmdiff.linalg import beside
from pgmdiff.scores.adapters import Around, NetworkScore, Score, denoise, per_sample
from pgmdiff.scores.gradients import gradient_required
from pgmdiff.scores.pyramids import Turned
from pgmdiff.text import brief, described

__all__ = [
    "Composed",
    "Isotropic",
    "PosteriorCovariance",
    "Tweedie",
    "choose_covariance",
    "moment_matching",
]

REMEDY = (
    "The covariance does not fit the data, or the score is poor at large σ: leave out covariance=, "
    "compose under Consistent, give the solve more steps, most_steps=, or the observation more "
    "noise, noise=."
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
    """A choice of V.

    Attributes:
        most_steps: the number of steps of the solve, unless `moment_matching` is given one.
        symmetric: whether V is symmetric, so that the solve has to keep only one direction.
    """

    most_steps: ClassVar[int] = 100
    symmetric: ClassVar[bool] = True

    @abstractmethod
    def moments(self, score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]) -> Moments:
        """D and V at x `[batch, *event]`, sigma `[batch]`."""


@dataclass(frozen=True)
class Isotropic(PosteriorCovariance):
    """V = r² I inside and σ² Jᵀ outside (ΠGDM); without the Jacobian V = r² I in both places.

    It is biased unless the covariance of the data is a multiple of I. On smooth data it carries the
    observation back too strongly, and samples would explode: an update of more than five times the
    misfit is refused.

    Args:
        data_std: σ_d, the standard deviation of the data.
        jacobian: whether the Jacobian carries the observation back, which costs one gradient
            through the score.

    Raises:
        PgmdiffError: data_std is not positive and finite.
    """

    data_std: float = 1.0
    jacobian: bool = True

    def __post_init__(self) -> None:
        check_scale("Isotropic", "data_std", self.data_std)

    def moments(self, score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]) -> Moments:
        s2 = beside(sigma, x) ** 2
        product = (s2 * self.data_std**2 / (s2 + self.data_std**2)).mul
        if not self.jacobian:
            return Moments(denoise(score, x, sigma, **condition), product, product)
        denoised, pull = _with_pull(score, x, sigma, condition)
        return Moments(denoised, product, pull)


@dataclass(frozen=True)
class Tweedie(PosteriorCovariance):
    """V = σ² Jᵀ, the moments of the denoiser itself; it holds one autograd graph of the score.

    It needs neither covariances nor the scale of the data. A step of the solve costs one
    vector-Jacobian product. Ten steps keep smooth and noisy observations within a fraction of the
    posterior's standard deviation (`python -m benchmarks conditioning`); with as many steps as
    there are observed values it is exact for Gaussians. If the score is no gradient, as under
    posterior composition of data that is not Gaussian, J is not symmetric: this is a bias, but the
    solve remains stable.
    """

    most_steps = 10
    symmetric = False

    def moments(self, score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]) -> Moments:
        denoised, pull = _with_pull(score, x, sigma, condition)
        return Moments(denoised, pull, pull)


@dataclass(frozen=True)
class Composed(PosteriorCovariance):
    """V = σ² (I + σ² K)⁻¹ of a joint under `Consistent` or `Posterior`.

    It is exact for Gaussian data Markov to the graph, if the covariances are the true ones (on
    loops beyond 2,000 elements: nearly). It needs no gradients.

    Args:
        joint: a joint under `Consistent` or `Posterior`; the score may be this joint, or another.

    Raises:
        PgmdiffError: the joint has no covariances.
    """

    joint: Any

    def __repr__(self) -> str:
        whole = getattr(self.joint, "joint", self.joint)  # of a slab, alike on all ranks
        return described(self, brief(whole, 180))

    def __post_init__(self) -> None:
        if getattr(self.joint, "solve", None) is None:
            raise PgmdiffError(
                "Composed: expected a joint under Consistent or Posterior, which has covariances, "
                f"got {self.joint!r}."
            )

    def moments(self, score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]) -> Moments:
        denoised = denoise(score, x, sigma, **condition)

        def product(v: Tensor) -> Tensor:
            solved: Tensor = self.joint.solve(v.reshape(len(v), prod(v.shape[1:])), sigma)
            return beside(sigma, x) ** 2 * solved.reshape(v.shape)

        return Moments(denoised, product, product)


def choose_covariance(score: Score) -> PosteriorCovariance:
    """The choice of V that measures best: exact covariances where there are some, else Jacobians.

    `Composed(score)` for a joint under `Consistent` or `Posterior`, whose V is exact for
    Gaussians and needs no gradient; `Tweedie()` for every other score: it is stable on smooth data
    too (`python -m benchmarks conditioning`), where `Isotropic` explodes.

    Args:
        score: the score of states `[batch, *event]`.
    """
    return Tweedie() if getattr(score, "solve", None) is None else Composed(score)


def moment_matching(
    score: Score,
    observed: Tensor,
    operator: LinearOperator | Tensor | Callable[[Tensor], Tensor],
    covariance: PosteriorCovariance | None = None,
    *,
    noise: Noise = 0.0,
    tolerance: float | None = None,
    most_steps: int | None = None,
) -> NetworkScore:
    """A score, for σ > 0, conditioned on y = H u_0 + σ_y ε by matched moments; see the module.

    Its denoiser, for σ ≥ 0, is `.denoise`; its repr tells which covariance is used.

    A joint under `Consistent` or `Posterior` knows the observation itself, and messages carry it.
    Elements that a mask or crop observes with independent noise enter local posteriors, exactly for
    any data, if the scores are `per_element`, or all elements of regions that overlap are observed
    with one σ_y. The rest is left to the solve, exact for Gaussian data Markov to the graph, at
    every σ; for other data, linearised functions and composition remain approximations.

    On a `distributed.Slab` H is a mask or a crop of the whole state, with independent noise, alike
    for all samples; its rule is `Consistent` or `Posterior`, or the covariance
    `Isotropic(data_std, jacobian=False)`, with one σ_y.

    Args:
        score, observed, operator: as for `reconstruction`; a function is linearised at D
            (Gauss-Newton).
        covariance: the choice of V: `Composed(joint)`, `Tweedie()` or `Isotropic(data_std)`; None
            for that of `choose_covariance`.
        noise: σ_y, the standard deviation of the noise; 0 for a noiseless observation. It may be
            one number, one for each observed value `[*observed]` (axes of 1 stand for all of
            theirs), or of a `Stacked` operator a list of one for each of its operators. Correlated
            noise is given by its covariance matrix R, `[*observed, *observed]`, in place of
            deviations. Of complex values, real and imaginary part each have this noise, independent
            of the other.
        tolerance: the relative residual at which the solve with H V Hᵀ + σ_y² I stops; None for
            1e-10 in float64 and 1e-5 in float32.
        most_steps: the number of its steps after which it stops; None for 10 with `Tweedie`, where
            a step costs a gradient, and 100 with others.

    Raises:
        ShapeError: the observation is not finite, or it or the noise has another shape.
        PgmdiffError: the noise is negative or not finite, or there is none and no state gives this
            observation; the state is divided, and the method requires all of it; when the score is
            called, the data is too smooth for `Isotropic`.
        ScoreError: when called, the score or the operator lacks a gradient that is needed.
    """
    why = ""
    if covariance is None:
        covariance = choose_covariance(score)
        has = "has" if isinstance(covariance, Composed) else "has no"
        why = f", chosen since the score {has} covariances"
    if not isinstance(covariance, PosteriorCovariance):
        raise PgmdiffError(
            "moment_matching: expected a covariance such as Composed(joint) or Tweedie(), got "
            f"{covariance!r}."
        )
    if isinstance(covariance, Composed) and _turned(score, covariance.joint):
        raise PgmdiffError(
            "moment_matching: expected Composed(joint) of a joint of the states that are observed, "
            "got the joint of their coefficients, whose covariance is another. Leave out "
            "covariance=, or give a joint of pixels."
        )
    steps = covariance.most_steps if most_steps is None else most_steps
    observation = Observation.of("moment_matching", observed, operator, noise)
    own = isinstance(covariance, Composed) and covariance.joint is score
    simple = isinstance(covariance, Isotropic) and not covariance.jacobian
    part = observation.on(score, own or (simple and not observation.relative.ndim))
    name = f"moment_matching({brief(covariance)}{why})"
    if own:
        known = informed(score, observation, tolerance, steps)
        return observing(partial(_known, part), part, known, remedy=REMEDY, name=name)
    matched = partial(_matched, part, covariance, (tolerance, steps))
    return observing(matched, part, score, remedy=REMEDY, name=name)


def _turned(score: Any, joint: object) -> bool:
    """Whether a score is that of a joint in another basis."""
    turned = False
    while score is not joint and isinstance(score, Around):
        turned, score = turned or isinstance(score, Turned), score.score
    return turned and score is joint


def _known(
    observation: Observation, score: Score, x: Tensor, sigma: Tensor, **condition: Any
) -> Tensor:
    """The denoiser of a joint that knows the observation."""
    observation.check(x)
    return denoise(score, x, sigma, **condition)


def _matched(
    observation: Observation,
    covariance: PosteriorCovariance,
    limits: tuple[float | None, int],
    score: Score,
    x: Tensor,
    sigma: Tensor,
    **condition: Any,
) -> Tensor:
    """The denoiser of matched moments; the limits of the solve are its tolerance and steps."""
    sigma = per_sample(sigma, x)
    known = covariance.moments(score, x, sigma, condition)
    misfit = observation.misfit(known.denoised)
    limited = (*limits, 1 if covariance.symmetric else limits[1])
    products = known.inner, known.outer
    return known.denoised + carried_back(
        observation, known.denoised, misfit, sigma, products, limited
    )


def _with_pull(
    score: Score, x: Tensor, sigma: Tensor, condition: dict[str, Any]
) -> tuple[Tensor, Product]:
    """D, and the map v to σ² Jᵀ v; both are differentiable where a gradient is required."""
    outside = gradient_required(x, sigma, condition)
    with torch.inference_mode(False), torch.enable_grad():
        leaf, denoised = differentiable(score, x, sigma, condition)

    def pull(v: Tensor) -> Tensor:
        again = torch.is_grad_enabled() and (outside or v.requires_grad)
        (back,) = torch.autograd.grad(denoised, leaf, v, retain_graph=True, create_graph=again)
        return beside(sigma, x) ** 2 * back

    return denoised if outside else denoised.detach(), pull
