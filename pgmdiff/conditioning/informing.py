r"""Joints that know an observation: what `moment_matching` gives of one with covariances.

Elements that are observed by a mask or a crop with independent noise are given to the local
posteriors, where scores allow it (see `composition.observed`); everything else is left to the
solve, in the same call:

    D = D_0 + V Hᵀ (H V Hᵀ + R)⁻¹ (z - H D_0),     V = (σ⁻² I + K)⁻¹

z is y, but for elements that local posteriors know already what these say of them together.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pgmdiff.conditioning.masks import Crop, Mask
from pgmdiff.conditioning.observations import Observation
from pgmdiff.conditioning.operators import Operator
from pgmdiff.conditioning.solving import Product, carried_back
from pgmdiff.linalg import rows
from pgmdiff.scores.adapters import Score

__all__ = ["informed"]


@dataclass(frozen=True, eq=False)
class Update:
    """V Hᵀ (H V Hᵀ + R)⁻¹ (z - H D_0).

    Attributes:
        observation: y, H and R.
        tolerance, most_steps: of the solve, see `moment_matching`.
        part: the mask or crop by which elements are observed, if there is one.
        start: the first of its observed values in those of a stack.
    """

    observation: Observation
    tolerance: float | None
    most_steps: int
    part: Operator | None = None
    start: int = 0

    def __call__(
        self, denoised: Tensor, replaced: Tensor | None, sigma: Tensor, product: Product
    ) -> Tensor:
        """D - D_0, float64.

        Args:
            denoised: D_0, float64 `[batch, *event]`.
            replaced: z - y of the elements that local posteriors know, 0 elsewhere; None if none.
            sigma: `[batch]`, in the dtype of states.
            product: maps v to V v.
        """
        own = getattr(self.observation.operator, "widest", sigma.dtype)
        d = denoised.to(torch.promote_types(own, sigma.dtype))
        misfit, limits = self.observation.misfit(d), (self.tolerance, self.most_steps, 1)
        if replaced is not None and self.part is not None:
            size = prod(self.part.observed_shape)
            left = misfit.shape[1:].numel() - self.start - size
            seen = self.part.A(replaced.to(d)).reshape(len(d), size)
            misfit = misfit + F.pad(seen, (self.start, left)).reshape(misfit.shape)
        both = product, product
        return carried_back(self.observation, d, misfit, sigma, both, limits).double()


def informed(
    joint: Any, observation: Observation, tolerance: float | None, most_steps: int
) -> Score:
    """A joint whose rule knows an observation.

    Args:
        joint: the joint, under a rule with covariances.
        observation: y, H and R.
        tolerance, most_steps: see `moment_matching`.
    """
    h, y = observation.operator, observation.y
    update, parts = Update(observation, tolerance, most_steps), getattr(h, "operators", (h,))
    known: Score
    for part in parts if observation.covariance is None and not y.is_complex() else ():
        if isinstance(part, Mask | Crop):
            whole = getattr(joint, "joint", joint)  # of a slab
            if tuple(part.event_shape) == tuple(whole.event_shape):
                update = replace(update, part=part)
                known = joint.observing(update, *_in_place(observation, part, update.start))
                return known
            break
        update = replace(update, start=update.start + prod(getattr(part, "observed_shape", ())))
    known = joint.observing(update)
    return known


def _in_place(observation: Observation, part: Operator, start: int) -> tuple[Tensor, Tensor]:
    """Observed values and the variances of their noise, `[n or 1, N]`; infinite if not observed."""
    y, shape = observation.y.double(), part.observed_shape
    deviations = (observation.noise or 0.0) * observation.relative.to(y)
    y, deviations = torch.broadcast_tensors(y, deviations)
    lead = getattr(part, "mask", y).shape[: -len(shape) or None]

    def placed(values: Tensor) -> Tensor:
        own = rows(values)[:, start : start + prod(shape)]
        own = own.reshape(len(own), *shape).expand(max(len(own), *lead, 1), *shape)
        return rows(part.A_adjoint(own))

    seen = placed(torch.ones_like(y)) > 0
    return placed(y), placed(deviations).square().where(seen, torch.inf)
