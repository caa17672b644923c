r"""How sharply a score bends: the extreme eigenvalues of J = -∂s/∂u, which limit a corrector.

Langevin moves of size h on N(m, J⁻¹) are stable for h < 2/λ_max(J). Arnoldi's recurrence (Lanczos'
where J is symmetric) finds λ_max from a few products: w = J v_j is made orthogonal to v_1 ... v_j,
what is left is v_{j+1}, and the eigenvalues of H = Vᵀ J V approach those of J, the extreme ones
first. Products are central differences of the score,

    J v ≈ [s(u - δ v) - s(u + δ v)] / 2δ,

since forward differentiation needs a rule for every kernel of a network, and would not see through
scores that detach their input (as the evidence rule's does). δ moves no element by more than σ/100:
far less than the σ on which q_σ varies, far more than the rounding of float32.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import PgmdiffError
from pgmdiff.noise import Generator, Noise
from pgmdiff.samplers.base import Solver
from pgmdiff.samplers.one_step import Euler
from pgmdiff.samplers.run import Step, sample
from pgmdiff.scores.adapters import Score, beside, per_sample
from pgmdiff.text import array, described, span

__all__ = ["Curvature", "Extremes", "curvature_extremes"]

REACH = 0.01
"""Most that a difference moves an element, in units of σ."""

PRODUCTS = 5 << 61
"""Where in the noise the recurrence begins."""


class Extremes(NamedTuple):
    """Estimates of the least and the largest eigenvalue of -∂s/∂u, each `[batch]`.

    Attributes:
        smallest: λ_min, in units of one over the data's squared.
        largest: λ_max, likewise; Langevin moves are stable below 2/λ_max.
    """

    smallest: Tensor
    largest: Tensor

    def __repr__(self) -> str:
        shown = f"smallest={array(self.smallest)}", f"largest={array(self.largest)}"
        return described(self, *shown)


@torch.no_grad()
def curvature_extremes(
    score: Score, x: Tensor, sigma: float, *, products: int = 5, generator: Generator = 0
) -> Extremes:
    """λ_min and λ_max of minus the score's Jacobian, at every state x of noise level sigma.

    Two evaluations a product. A symmetric Jacobian's are approached from the inside: by 5 products
    λ_max is about three quarters of itself at worst and 0.96 as a rule, by 10 0.95 at worst (20
    starts each on 18 chains, rings, grids and tori of 4 to 100 Gaussian variables, at 5 levels; the
    largest of 20 starts is 0.985 at worst by 5). As many products as elements are exact on a
    Gaussian. In float32, to half a percent.

    A negative λ_min of a composed score of Gaussians says that it belongs to no density. That never
    happens on a junction tree, whose Π_r q_σ(u_r)^{c_r} is a density with the marginals q_σ(u_r) at
    every σ; it does on loops of strong correlations. Of other data it says that the log-density is
    not concave at x. A Jacobian that is not symmetric, overlap averaging's for one, belongs to no
    density at all; averaging's eigenvalues are real all the same, and found as well.

    Args:
        score: of x.
        x: `[batch, *event]`.
        sigma: in the data's units, above 0.
        products: of the Jacobian with a vector; as many as there are elements at most.
        generator: where the recurrence begins; as of `sample`.

    Raises:
        PgmdiffError: sigma or products not positive.

    Source: Arnoldi, "The principle of minimized iterations in the solution of the matrix eigenvalue
    problem", 1951.

    Example:
        >>> import torch
        >>> from pgmdiff.gaussian import Gaussian
        >>> q = Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> found = curvature_extremes(q.score, torch.zeros(1, 2), 0.1)
        >>> [round(1 / value.item(), 2) for value in found]
        [1.51, 0.51]
    """
    if not (sigma > 0 and products >= 1):
        raise PgmdiffError(
            "curvature_extremes: expected sigma above 0 and products of at least 1, got "
            f"{sigma} and {products}."
        )
    noise, size = Noise.of(generator, len(x)), min(products, prod(x.shape[1:]))
    basis = [_orthonormal(noise(PRODUCTS, x), [])]
    projected = x.new_zeros(len(x), size, size, dtype=torch.float64)
    for column in range(size):
        w = _product(score, x, sigma, basis[column])
        for row, v in enumerate(basis):
            projected[:, row, column] = _dot(v, w)
            w = w - beside(_dot(v, w), w) * v
        if column + 1 < size:
            fresh = noise(PRODUCTS + column + 1, x)  # where the recurrence has found everything
            found = beside(_dot(w, w) > 0, w)
            basis.append(_orthonormal(torch.where(found, w, fresh), basis))
            projected[:, column + 1, column] = _dot(basis[-1], w)
    values = torch.linalg.eigvals(projected.cpu()).real.to(x)
    return Extremes(values.amin(dim=1), values.amax(dim=1))


@dataclass(frozen=True)
class Curvature:
    """λ_max of minus a score's Jacobian as a function of σ, measured: `curvature=` of correctors.

    One number a level, for all samples and batches: so what becomes of a sample does not depend on
    its batch, and Metropolis' test stays exact. Between measured levels σ² λ_max is linear in
    log σ. An estimate from below, at the states that the pilot run saw: use less than the whole of
    the limit 2/λ_max, and some tens of pilot states where the data has modes.

    Attributes:
        sigmas: the levels, decreasing.
        smallest, largest: the extremes over all pilot states; see `curvature_extremes`. With
            anything negative in `smallest` there may be no density to correct towards.
        evaluations: of the score, for every pilot state, those of the pilot run included.

    Raises:
        PgmdiffError: when called with a level outside those measured.

    Example:
        >>> import torch
        >>> from pgmdiff.gaussian import Gaussian
        >>> from pgmdiff.samplers import SDE, Curvature, Langevin, PredictorCorrector, karras
        >>> q, sigmas = Gaussian(torch.zeros(3), torch.eye(3)), karras(10, 0.01, 10.0)
        >>> curvature = Curvature.measure(q.score, sigmas, shape=(4, 3))
        >>> round(curvature(10.0), 5), round(curvature(0.01), 3)
        (0.0099, 1.0)
        >>> solver = PredictorCorrector(SDE(), Langevin(0.3, 2, curvature))
    """

    sigmas: tuple[float, ...]
    smallest: tuple[float, ...]
    largest: tuple[float, ...]
    evaluations: int

    def __repr__(self) -> str:
        return described(
            self,
            span(self.sigmas, "level"),
            f"smallest={min(self.smallest, default=float('nan')):.3g}",
            f"largest={max(self.largest, default=float('nan')):.3g}",
            f"evaluations={self.evaluations}",
        )

    @classmethod
    def measure(
        cls,
        score: Score,
        sigmas: Sequence[float],
        *,
        shape: Sequence[int],
        solver: Solver | None = None,
        products: int = 5,
        generator: Generator = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> "Curvature":
        """Looks at every positive level of a schedule, along a pilot run of a few samples.

        Args:
            score: as of `sample`.
            sigmas: the schedule.
            shape: `[pilot states, *event]`.
            solver: of the pilot run; None: `Euler()`.
            products: see `curvature_extremes`.
            generator, dtype, device: as of `sample`.
        """
        solver = Euler() if solver is None else solver
        levels = sorted({float(sigma) for sigma in sigmas if sigma > 0}, reverse=True)
        keys, found = Noise.of(generator, shape[0]).keys, list[Extremes]()

        def look(step: Step) -> None:
            at = (score, step["x"], step["sigma"])
            found.append(curvature_extremes(*at, products=products, generator=keys))

        sample(
            score,
            [*levels, 0.0],
            shape=shape,
            solver=solver,
            generator=keys,
            callback=look,
            dtype=dtype,
            device=device,
        )
        return cls(
            tuple(levels),
            tuple(ends.smallest.min().item() for ends in found),
            tuple(ends.largest.max().item() for ends in found),
            (len(levels) - 1) * solver.evaluations
            + 1
            + len(levels) * 2 * min(products, prod(shape[1:])),
        )

    def __call__(self, sigma: float) -> float:
        """The largest |λ| at a level."""
        if not self.sigmas[-1] <= sigma <= self.sigmas[0]:
            raise PgmdiffError(
                f"Curvature: measured from σ = {self.sigmas[0]:g} to {self.sigmas[-1]:g}, not at "
                f"{sigma:g}. Measure along the schedule that is used."
            )
        ends = zip(self.sigmas, self.smallest, self.largest, strict=True)
        scaled = [level**2 * max(largest, -smallest) for level, smallest, largest in ends]
        rising = np.log(self.sigmas[::-1])
        return float(np.interp(math.log(sigma), rising, scaled[::-1])) / sigma**2


def _product(score: Score, x: Tensor, sigma: float, v: Tensor) -> Tensor:
    """J v by a central difference."""
    delta = beside(REACH * sigma / v.reshape(len(v), -1).abs().amax(dim=1), x)
    level = per_sample(sigma, x)
    difference: Tensor = score(x - delta * v, level) - score(x + delta * v, level)
    return difference / (2 * delta)


def _orthonormal(w: Tensor, basis: list[Tensor]) -> Tensor:
    """The part of w beside a basis, of norm 1; taken again where little is left of w."""
    for _ in range(2):
        w = w / beside(_dot(w, w).sqrt(), w)
        for v in basis:
            w = w - beside(_dot(v, w), w) * v
    return w / beside(_dot(w, w).sqrt(), w)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).reshape(len(a), -1).sum(dim=1)
