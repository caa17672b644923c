r"""Curvature: the extreme eigenvalues of J = -∂s/∂u, which limit the steps of a corrector.

Langevin moves of size h on N(m, J⁻¹) are stable for h < 2/λ_max(J). Arnoldi's recurrence (Lanczos'
where J is symmetric) finds λ_max from a few products: w = J v_j is made orthogonal to v_1 ... v_j,
the remainder is v_{j+1}, and the eigenvalues of H = Vᵀ J V approach those of J, the extreme ones
first. Products are central differences of the score,

    J v ≈ [s(u - δ v) - s(u + δ v)] / 2δ,

since forward differentiation requires a rule for every kernel of a network, and would not see
through scores that detach their input. The largest move of an element is

    max(σ/100, σ (3 ε |x|_max / σ)^⅓),      ε the relative rounding of x,

less than the σ on which q_σ varies. Its second term balances two relative errors of J v: that of
differences, (move/σ)²/6 where a score is not linear, and the rounding of x and s, ε |x|_max / move.
It matters in float32 below σ = |x|_max / 3, and never reaches 0.32 σ.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import PgmdiffError, ScoreError
from pgmdiff.linalg import beside, inner, rows, squared_norms
from pgmdiff.noise import CURVATURE, Generator, Noise
from pgmdiff.samplers.base import Solver
from pgmdiff.samplers.one_step import Euler
from pgmdiff.samplers.run import Step, sample
from pgmdiff.scores.adapters import Score, per_sample
from pgmdiff.scores.walls import called
from pgmdiff.text import array, described, span

__all__ = ["Curvature", "Extremes", "curvature_extremes"]

REACH = 0.01
"""Largest move of an element by a difference, in units of σ, where rounding needs no more."""


class Extremes(NamedTuple):
    """Estimates of the smallest and the largest eigenvalue of -∂s/∂u, each `[batch]`.

    Attributes:
        smallest: λ_min, in units of one over the data's squared.
        largest: λ_max, in the same units; Langevin moves are stable below 2/λ_max.
    """

    smallest: Tensor
    largest: Tensor

    def __repr__(self) -> str:
        return described(self, *(f"{name}={array(getattr(self, name))}" for name in self._fields))


@torch.no_grad()
def curvature_extremes(
    score: Score, x: Tensor, sigma: float, *, products: int = 5, generator: Generator = None
) -> Extremes:
    """λ_min and λ_max of minus the score's Jacobian, at every state x of noise level sigma.

    A product costs two evaluations. The eigenvalues of a symmetric Jacobian are approached from the
    inside: with 5 products the estimate is at least 75 %, typically 96 %, of λ_max, with 10 at
    least 95 % (20 starts each on 18 chains, rings, grids and tori of 4 to 100 Gaussian variables,
    at 5 levels; the largest of 20 starts with 5 products is at least 98.5 %). With as many products
    as elements the result is exact on a Gaussian. In float32 both are found to half a percent of
    λ_max down to σ of a ten thousandth of x, and to a percent or two below, so that the sign of a
    smaller λ_min tells nothing. Scores that divide by σ², as those of denoisers do, have these
    shares of 1/σ² as their errors, even where λ_max is less.

    For Gaussians a negative λ_min of a composed score means that it belongs to no density. This
    never happens on a junction tree, whose Π_r q_σ(u_r)^{c_r} is a density with the marginals
    q_σ(u_r) at every σ; it does happen on loops of strong correlations. For other data it means
    that the log-density is not concave at x. A Jacobian that is not symmetric, such as that of
    overlap averaging, belongs to no density at all; the eigenvalues of averaging are nevertheless
    real, and found as accurately.

    Args:
        score: `score(x, sigma)` with x `[batch, *event]`, sigma `[batch]`.
        x: the states, `[batch, *event]`.
        sigma: their noise level, in the data's units, above 0.
        products: number of products of the Jacobian with a vector; at most one per element is made.
        generator: the source of the recurrence's first vector, as for `sample`.

    Raises:
        PgmdiffError: sigma or products is not positive, or σ is lost in the rounding of x.
        ScoreError: the score is not finite.

    Source: Arnoldi, "The principle of minimized iterations in the solution of the matrix eigenvalue
    problem", 1951.

    Example:
        >>> import torch
        >>> from pgmdiff.gaussian import Gaussian
        >>> q = Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> found = curvature_extremes(q.score, torch.zeros(1, 2), 0.1, generator=0)
        >>> [round(1 / value.item(), 2) for value in found]
        [1.51, 0.51]
    """
    if not (sigma > 0 and products >= 1):
        raise PgmdiffError(
            "curvature_extremes: expected sigma above 0 and products of at least 1, got "
            f"{sigma} and {products}."
        )
    rounding = torch.finfo(x.dtype).eps * rows(x).abs().amax(dim=1)
    if not REACH * sigma > rounding.max():
        raise PgmdiffError(
            f"curvature_extremes: differences of σ/100 = {REACH * sigma:.2g} are lost in the "
            f"rounding of states up to {x.abs().max():.3g} in {x.dtype}. Use float64, or a larger "
            "σ."
        )
    reach = sigma * (3 * rounding / sigma).pow(1 / 3).clamp(min=REACH)
    noise, level = Noise.of(generator, len(x)), per_sample(sigma, x)
    size = min(products, prod(x.shape[1:]))
    basis = [_orthonormal(noise(CURVATURE, x), [])]
    projected = x.new_zeros(len(x), size, size, dtype=torch.float64)
    for column in range(size):
        direction = basis[column]
        delta = beside(reach / rows(direction).abs().amax(dim=1), x)
        move = delta * direction
        w = (called(score, x - move, level) - called(score, x + move, level)) / (2 * delta)
        for row, v in enumerate(basis):
            projected[:, row, column] = inner(v, w)
            w = w - beside(inner(v, w), w) * v
        if column + 1 < size:
            fresh = noise(CURVATURE + column + 1, x)  # once the recurrence has found everything
            found = beside(squared_norms(w) > 0, w)
            basis.append(_orthonormal(torch.where(found, w, fresh), basis))
            projected[:, column + 1, column] = inner(basis[-1], w)
    if not projected.isfinite().all():
        raise ScoreError(
            f"curvature_extremes: the score is not finite near x at σ = {sigma:g}, or its "
            "differences overflow. Call it alone there."
        )
    values = torch.linalg.eigvals(projected.cpu()).real.to(x)
    return Extremes(values.amin(dim=1), values.amax(dim=1))


@dataclass(frozen=True)
class Curvature:
    """λ_max of minus a score's Jacobian, measured as a function of σ: `curvature=` of correctors.

    There is one number per level for all samples and batches, so that a sample does not depend on
    its batch, and Metropolis' test stays exact. Between measured levels σ² λ_max is linear in
    log σ. It is an estimate from below, at the states that the pilot run visited: use less than the
    whole of the limit 2/λ_max, and some tens of pilot states where the data has modes.

    Attributes:
        sigmas: the levels, decreasing.
        smallest, largest: the extremes over all pilot states; see `curvature_extremes`. Where
            `smallest` is negative there may be no density to correct towards.

    Raises:
        PgmdiffError: it is called with a level outside those measured.

    Example:
        >>> import torch
        >>> from pgmdiff.gaussian import Gaussian
        >>> from pgmdiff.samplers import SDE, Curvature, Langevin, PredictorCorrector, karras
        >>> q, sigmas = Gaussian(torch.zeros(3), torch.eye(3)), karras(10, 0.01, 10.0)
        >>> curvature = Curvature.measure(q.score, sigmas, shape=(4, 3), generator=0)
        >>> round(curvature(10.0), 5), round(curvature(0.01), 3)
        (0.0099, 1.0)
        >>> solver = PredictorCorrector(SDE(), Langevin(0.3, 2, curvature))
    """

    sigmas: tuple[float, ...]
    smallest: tuple[float, ...]
    largest: tuple[float, ...]

    def __repr__(self) -> str:
        return described(
            self,
            span(self.sigmas, "level"),
            f"smallest={min(self.smallest, default=float('nan')):.3g}",
            f"largest={max(self.largest, default=float('nan')):.3g}",
        )

    @classmethod
    def measure(
        cls,
        score: Score,
        sigmas: Sequence[float],
        *,
        shape: Sequence[int],
        mean: Tensor | float = 0.0,
        solver: Solver | None = None,
        products: int = 5,
        generator: Generator = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
    ) -> "Curvature":
        """Measures at every positive level of a schedule, along a pilot run of a few samples.

        Args:
            score, sigmas, mean, generator, dtype, device, progress: as for `sample`.
            shape: `[pilot states, *event]`.
            solver: the solver of the pilot run; `Euler()` if None.
            products: number of products per state and level; see `curvature_extremes`.
        """
        levels = sorted({float(sigma) for sigma in sigmas if sigma > 0}, reverse=True)
        keys, found = Noise.of(generator, shape[0]).keys, list[Extremes]()

        def look(step: Step) -> None:
            at = (score, step["x"], step["sigma"])
            found.append(curvature_extremes(*at, products=products, generator=keys))

        sample(
            score,
            [*levels, 0.0],
            shape=shape,
            mean=mean,
            solver=Euler() if solver is None else solver,
            generator=keys,
            callback=look,
            dtype=dtype,
            device=device,
            progress=progress,
        )
        return cls(
            tuple(levels),
            tuple(ends.smallest.min().item() for ends in found),
            tuple(ends.largest.max().item() for ends in found),
        )

    def __call__(self, sigma: float) -> float:
        """The largest |λ| at a noise level."""
        if not self.sigmas[-1] <= sigma <= self.sigmas[0]:
            raise PgmdiffError(
                f"Curvature: measured from σ = {self.sigmas[0]:g} to {self.sigmas[-1]:g}, not at "
                f"{sigma:g}. Measure along the schedule that is used."
            )
        ends = zip(self.sigmas, self.smallest, self.largest, strict=True)
        scaled = [level**2 * max(largest, -smallest) for level, smallest, largest in ends]
        rising = np.log(self.sigmas[::-1])
        return float(np.interp(math.log(sigma), rising, scaled[::-1])) / sigma**2


def _orthonormal(w: Tensor, basis: list[Tensor]) -> Tensor:
    """The part of w orthogonal to a basis, of norm 1; done twice since little may remain of w."""
    for _ in range(2):
        w = w / beside(squared_norms(w).sqrt(), w)
        for v in basis:
            w = w - beside(inner(v, w), w) * v
    return w / beside(squared_norms(w).sqrt(), w)
