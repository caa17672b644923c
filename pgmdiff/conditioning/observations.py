"""Observations: whether an operator could have made them, and how far a state is from them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from math import prod
from typing import Any

import torch
from torch import Tensor

from pgmdiff.conditioning.masks import InPlace, Mask
from pgmdiff.conditioning.operators import LinearOperator, Operator, asked
from pgmdiff.errors import PgmdiffError, ShapeError, shape_text
from pgmdiff.linalg import squared_norms
from pgmdiff.scores.adapters import NetworkScore, Score, beside, from_denoiser
from pgmdiff.scores.gradients import check_gradient
from pgmdiff.text import brief, by_field, counted

__all__ = ["Observation", "observing"]

MISSED = 0.01
"""The share of its variation that a noiseless observation may be missed by."""
IN_PLACE = " Values stand in their places in the whole state; those not seen may be anything."


@dataclass(frozen=True, eq=False)
class Observation:
    """An observation y, and the function that made it.

    Attributes:
        what: the caller, for errors.
        y: the observation, `[n or 1, *observed]`; of a function also `[*observed]`.
        function: the map x to H x, for batches.
        operator: H, where it is linear.
    """

    what: str
    y: Tensor
    function: Callable[[Tensor], Tensor]
    operator: LinearOperator | None = None

    __repr__ = by_field

    @classmethod
    def of(cls, what: str, y: Any, operator: Any, *, noiseless: bool) -> "Observation":
        """A checked observation `[*observed]` or `[batch, *observed]`; of a mask also one number.

        A noiseless one of an operator must lie in the range of H, and becomes H H⁺ y: rounding
        moves most out of the range, and no solve could meet that part of them.
        """
        h: Any = Mask(operator) if isinstance(operator, Tensor) else operator
        linear = h if isinstance(h, LinearOperator) else None
        if linear is None and not callable(h):
            raise PgmdiffError(
                f"{what}: expected an operator or a function, got {type(h).__name__}. See "
                "pgmdiff.conditioning for operators."
            )
        if not isinstance(y, Tensor):
            raise ShapeError(
                f"{what}: expected the observation as a tensor, got {type(y).__name__}. Convert "
                "it with torch.as_tensor."
            )
        if isinstance(h, Mask) and y.ndim == 0:
            y = y.expand(h.mask.shape)
        shape = getattr(linear, "observed_shape", None)
        if shape is not None:
            y = y[None] if tuple(y.shape) == tuple(shape) else y
            if tuple(y.shape[1:]) != tuple(shape):
                raise ShapeError(
                    f"{what}: expected an observation {list(shape)}, or a batch of them, got "
                    f"{tuple(y.shape)}.{IN_PLACE if isinstance(h, InPlace) else ''}"
                )
        if isinstance(h, InPlace):
            y = y.where(h.mask.to(y.device), 0)  # values that are not seen may be anything
        if not y.isfinite().all():
            raise ShapeError(f"{what}: an observed value is not finite. Mask what is missing.")
        y = y.clone()  # the caller may change theirs
        if linear is None:
            return cls(what, y, partial(asked, what, h))
        y = _in_range(what, y, linear) if noiseless and y.numel() else y
        return cls(what, y, partial(asked, what, linear.A), linear)

    def seen(self, x: Tensor) -> Tensor:
        """H x, with a gradient where one is required."""
        values = self.function(x)
        check_gradient(values, x, lambda: f"{self.what}: the operator {brief(self.function)}")
        return values

    def misfit(self, denoised: Tensor) -> Tensor:
        """The misfit y - H D of states D `[batch, *event]`, in their dtype."""
        event = getattr(self.operator, "event_shape", None)
        if event is not None and tuple(denoised.shape[1:]) != tuple(event):
            raise ShapeError(
                f"{self.what}: the operator observes states {shape_text('batch', event)}, got "
                f"{tuple(denoised.shape)}. Make it for this shape; flatten several batch axes."
            )
        seen = self.seen(denoised)
        if seen.real.dtype != denoised.dtype:
            raise ShapeError(
                f"{self.what}: the operator returns {seen.dtype} for states of {denoised.dtype}. "
                "Convert inside it."
            )
        y = self.y[None] if self.y.ndim == seen.ndim - 1 else self.y
        if y.shape[1:] != seen.shape[1:] or len(y) not in (1, len(seen)):
            raise ShapeError(
                f"{self.what}: expected one observation {list(seen.shape[1:])}, or one for each of "
                f"{len(seen)} samples, got {tuple(self.y.shape)}."
            )
        if y.is_complex() and not seen.is_complex():
            raise ShapeError(
                f"{self.what}: the observation is complex, but the operator returns real values. "
                "Give its real part."
            )
        return y.to(seen) - seen


def observing(
    denoiser: Callable[..., Tensor],
    observation: Observation,
    score: Score,
    *,
    noise: float | None = 0.0,
    remedy: str,
) -> NetworkScore:
    """The score of a conditioned denoiser, whose `finish` warns if samples miss the observation.

        ‖y - H u‖ > max(‖y - H ū‖, ‖H u - H ū‖) / 100 + 10 σ_y √n + rounding

    n is the number of observed values, and ū is constant: the mean of a sample over its elements,
    so that what is missed is measured by how much it varies, whatever its units and offset. With
    exact moments at most 6e-6 of the variation was missed, in float32 and by five solvers.

    Args:
        denoiser: `denoiser(score, x, sigma, **condition)`, D_y of a score.
        observation: y and H.
        score: the score that is conditioned; if it has a `finish` too, that is called first.
        noise: σ_y; None if it is not known, and nothing is checked.
        remedy: the end of the warning.
    """
    if noise is not None and not 0 <= noise < torch.inf:
        raise PgmdiffError(
            f"{observation.what}: expected finite noise of at least 0, got {noise}. Give its "
            "standard deviation."
        )

    def norms(v: Tensor) -> Tensor:
        return squared_norms(v.abs().cpu().double()).sqrt()  # float32 squares may underflow

    def finish(u: Tensor) -> None:
        inner = getattr(score, "finish", None)
        if inner is not None:
            inner(u)
        if noise is None or not u.numel():
            return
        constant = beside(u.reshape(len(u), -1).mean(dim=1), u).expand_as(u)
        missed, still = observation.misfit(u), observation.misfit(constant)
        residual, size = norms(missed), norms(observation.y.to(missed))
        varies = torch.maximum(norms(still), norms(still - missed))
        rounding = 100 * torch.finfo(u.dtype).eps * (size + varies)
        allowed = MISSED * varies + 10 * noise * prod(missed.shape[1:]) ** 0.5 + rounding
        far = residual > allowed
        if far.any():
            worst = int(residual.argmax())
            warnings.warn(
                f"{observation.what}: {int(far.sum())} of {counted(len(u), 'sample')} miss "
                f"the observation, ‖H u - y‖ is up to {residual[worst]:.3g} for ‖y‖ = "
                f"{size.expand_as(residual)[worst]:.3g}. {remedy}",
                stacklevel=5,
            )

    @wraps(denoiser)
    def conditioned(x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        found: Tensor = denoiser(score, x, sigma, **condition)
        return found

    def made(other: Score) -> NetworkScore:
        return observing(denoiser, observation, other, noise=noise, remedy=remedy)

    return replace(from_denoiser(conditioned), finish=finish, score=score, made=made)


def _in_range(what: str, y: Tensor, operator: LinearOperator) -> Tensor:
    """H H⁺ y, if that is y to 1e-3 of each sample's largest value."""
    if isinstance(operator, Operator):
        y = y.to(torch.promote_types(y.dtype, operator.widest))
    nearest = operator.A(asked(what, operator.A_dagger, y))
    gap, scale = (v.abs().reshape(len(v), -1).amax(dim=1) for v in (nearest - y, y))
    worst = int((gap - 1e-3 * scale).argmax())
    if gap[worst] > 1e-3 * scale[worst].clamp(min=1e-30):
        raise PgmdiffError(
            f"{what}: no state gives this observation: H H⁺ y differs from y by {gap[worst]:.3g} "
            f"(y up to {scale[worst]:.3g}). Give a noise level, or project it: "
            "operator.A(operator.A_dagger(y))."
        )
    return nearest.clone()
