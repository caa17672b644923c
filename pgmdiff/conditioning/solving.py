"""The solve of matched moments, (H V Hᵀ + R) w = y - H D, and what carries w back to the state."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import jvp, vjp

from pgmdiff.conditioning.observations import Observation
from pgmdiff.errors import PgmdiffError
from pgmdiff.linalg import beside, inner, magnitudes, squared_norms
from pgmdiff.scores.walls import on_copies, received
from pgmdiff.text import brief

__all__ = ["carried_back", "conjugate_residuals"]

Product = Callable[[Tensor], Tensor]


OVERSHOT = 5.0
"""The ratio of H of an update to the misfit above which moments are refused.

On a chain of two modes, where samples are right, 0.2 % of the ratios exceed 2, and none 4.6; on
smooth data they are 7 to 265."""


def carried_back(
    observation: Observation,
    denoised: Tensor,
    misfit: Tensor,
    sigma: Tensor,
    products: tuple[Product, Product],
    limits: tuple[float | None, int, int],
) -> Tensor:
    """V Hᵀ w with (H V Hᵀ + R) w = misfit; 0 at σ = 0, and where V proves to be no covariance.

    Args:
        observation: H, which is linearised if it is a function, and R.
        denoised: where it is, `[batch, *event]`.
        misfit: `[batch, *observed]`.
        sigma: `[batch]`.
        products: those with V inside and outside of the solve.
        limits: the tolerance (None for the usual one), the most steps, and the directions kept.
    """
    (inside, outside), (tolerance, most_steps, kept) = products, limits
    known = observation.operator
    h = Linearised(observation.seen, denoised) if known is None else known
    gap = misfit.where(beside(sigma, misfit) > 0, 0)  # V = 0 at σ = 0
    usual = 1e-10 if sigma.dtype == torch.float64 else 1e-5
    units, largest = torch.ones_like(gap.real), observation.noise or 0.0

    def adjoint(v: Tensor) -> Tensor:
        seen = on_copies(h.A_adjoint, v / units)
        return received(seen, denoised, lambda: f"moment_matching: A_adjoint of {brief(h)}")

    # H / |H| and y / |H| in place of H and y: squares of |H| underflow or overflow.
    with torch.no_grad():
        if largest:  # units in which (H σ² Hᵀ + R)_ii are alike
            seen = magnitudes(adjoint(gap.sgn())) * sigma / largest
            units = observation.units(gap, beside(seen, gap))
        size = magnitudes(adjoint(gap.sgn())).clamp(min=largest)
    level = beside((largest / size) ** 2, gap)

    def product(v: Tensor) -> Tensor:
        seen = h.A(inside(back(v))) / beside(size, v)
        return (seen + level * observation.correlate(v / units)) / units

    def back(v: Tensor) -> Tensor:
        return adjoint(v) / beside(size, denoised)

    b = gap / beside(size, gap) / units
    weights, left = conjugate_residuals(
        product,
        b,
        tolerance=usual if tolerance is None else tolerance,
        most_steps=most_steps,
        kept=kept,
    )
    # wᵀ H V Hᵀ w > 0 for a covariance V. Jacobians of networks at large σ may be none, and samples
    # would explode: their misfit is left to the next level.
    noise = level * observation.correlate(weights / units) / units
    wrong = inner(weights, b - left - noise) <= 0
    weights = weights.where(~beside(wrong, weights), 0)
    update = outside(back(weights))
    if outside is not inside:
        _refuse_overshoot(on_copies(h.A, update), gap, sigma)
    return update


def _refuse_overshoot(seen: Tensor, gap: Tensor, sigma: Tensor) -> None:
    """An error if H of the update is far larger than the misfit, which then grows."""
    moved, before = (squared_norms(v.detach()).sqrt() for v in (seen, gap))
    ratios = (moved / before).nan_to_num(0.0)
    if (ratios > OVERSHOT).any():
        worst = int(ratios.argmax())
        raise PgmdiffError(
            f"Isotropic: at σ = {sigma[worst]:.3g} the update is {ratios[worst]:.3g} times as "
            "large as the misfit that it should remove, and samples would explode: the data is "
            "smooth, its covariance far from a multiple of I, or data_std is not its standard "
            "deviation. Leave out covariance=, or use Tweedie() or Composed(joint)."
        )


def conjugate_residuals(
    product: Product, b: Tensor, *, tolerance: float, most_steps: int, kept: int
) -> tuple[Tensor, Tensor]:
    """The x for which M x comes near to b, sample by sample, and what is left, r = b - M x.

    ‖r‖ is never above ‖b‖.

    Each step adds the direction p = r, made such that M p is orthogonal to those of the directions
    before it, and the share of p that makes the residual r smallest. A sample is done where
    |M p| / |p| is below the rounding of its largest value so far: there rounding, of which |p| has
    its share, is as large as what the step would gain. So it is where M is singular, as of
    observations that say the same twice, and b leaves its range by rounding. It is differentiable.

    Args:
        product: maps v to M v, both `[batch, ...]`; M need not be symmetric.
        b: `[batch, ...]`.
        tolerance: the relative residual at which a sample is done.
        most_steps: the largest number of steps.
        kept: the number of earlier directions that are kept: 1 suffices for a symmetric M.
    """
    x, r = torch.zeros_like(b), b
    directions: list[tuple[Tensor, Tensor]] = []
    goal = tolerance**2 * squared_norms(b)
    done, largest = torch.zeros_like(goal, dtype=torch.bool), torch.zeros_like(goal)
    for _ in range(most_steps):
        rr = squared_norms(r)
        active = ~(rr <= goal) & ~done  # NaN is not convergence
        if not active.any():
            break
        p = r / beside(rr.where(active, 1).sqrt(), r)
        q = product(p)
        for p_before, q_before in directions:
            share = beside(inner(q_before, q), q)
            p, q = p - share * p_before, q - share * q_before
        qq = squared_norms(q)
        ratio = (qq / squared_norms(p)).detach()
        largest = largest.maximum(ratio.nan_to_num(0.0))
        done = done | (ratio <= torch.finfo(ratio.dtype).eps ** 2 * largest)
        active = active & ~done
        length = beside(qq.where(qq > 0, 1).sqrt(), q)
        p, q = p / length, q / length
        step = beside(inner(q, r).where(active, 0), r)
        x, r = x + step * p, r - step * q
        directions = [*directions, (p, q)][-kept:]
    return x, r


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
