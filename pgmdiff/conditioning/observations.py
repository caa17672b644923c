"""Is this an observation that the operator could have made? And how far is a state from it?"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from pgmdiff.conditioning.masks import FourierMask, Mask
from pgmdiff.conditioning.operators import LinearOperator, Operator
from pgmdiff.errors import PgmdiffError, ShapeError, shape_text
from pgmdiff.linalg import Shape
from pgmdiff.text import by_field

__all__ = ["Observation", "checked_observation"]


@dataclass(frozen=True, eq=False)
class Observation:
    """What was observed, and what of.

    Attributes:
        what: who asks, for errors.
        y: `[n or 1, *observed]`; without the batch axis where H, a function, tells nothing of it.
        function: x to H x, for batches.
        event_shape: of the states, where H tells.
    """

    what: str
    y: Tensor
    function: Callable[[Tensor], Tensor]
    event_shape: Shape | None = None

    __repr__ = by_field

    @classmethod
    def of(cls, what: str, y: Any, operator: Any, *, noiseless: bool) -> "Observation":
        """By an operator, or by any function of batches; see `checked_observation`."""
        if isinstance(operator, LinearOperator):
            y = checked_observation(what, y, operator, noiseless=noiseless)
            return cls(what, y, operator.A, getattr(operator, "event_shape", None))
        if not callable(operator):
            raise PgmdiffError(
                f"{what}: expected an operator or a function, got {type(operator).__name__}."
            )
        return cls(what, _finite(what, y), operator)

    def misfit(self, denoised: Tensor) -> Tensor:
        """Y - H D of states D `[batch, *event]`, in their dtype.

        Raises:
            ShapeError: states of another shape than H observes; y is neither one observation nor
                one a sample, or complex where H D is real; H changes the dtype.
        """
        event = self.event_shape
        if event is not None and tuple(denoised.shape[1:]) != tuple(event):
            raise ShapeError(
                f"{self.what}: the operator observes states {shape_text('batch', event)}, got "
                f"{tuple(denoised.shape)}. Make it for this shape; flatten several batch axes."
            )
        seen = self.function(denoised)
        if seen.real.dtype != denoised.dtype:
            raise ShapeError(
                f"{self.what}: the operator makes {seen.dtype} of states of {denoised.dtype}. "
                "Convert inside it."
            )
        return self._for(seen) - seen

    def _for(self, seen: Tensor) -> Tensor:
        """y, like what the operator sees."""
        y = self.y[None] if self.y.ndim == seen.ndim - 1 else self.y
        if y.shape[1:] != seen.shape[1:] or len(y) not in (1, len(seen)):
            raise ShapeError(
                f"{self.what}: expected one observation {list(seen.shape[1:])}, or one for each of "
                f"{len(seen)} samples, got {tuple(self.y.shape)}."
            )
        if y.is_complex() and not seen.is_complex():
            raise ShapeError(
                f"{self.what}: the observation is complex, what the operator sees is real. Give "
                "its real part."
            )
        return y.to(seen)


def checked_observation(what: str, y: Any, operator: Any, *, noiseless: bool) -> Tensor:
    """An observation `[n or 1, *observed]`, or an error that says what is wrong with it.

    A noiseless one is returned as H H⁺ y: rounding has left the range of most, and no solve could
    meet that part of them.

    Args:
        what: who asks.
        y: `[*observed]`, or `[batch, *observed]`.
        operator: ours, or anything with its three maps.
        noiseless: y must lie in the operator's range, to 1e-3 of every sample's largest value.

    Raises:
        ShapeError: y is no tensor, of another shape, or not finite where it is seen.
        PgmdiffError: y is out of the operator's range.
    """
    if not isinstance(operator, LinearOperator):
        raise PgmdiffError(
            f"{what}: expected an operator with A, A_adjoint and A_dagger, got a "
            f"{type(operator).__name__}. See conditioning.operators; Linear(function, shape) makes "
            "one."
        )
    if not isinstance(y, Tensor):
        raise ShapeError(f"{what}: expected the observation as a tensor, got {type(y).__name__}.")
    shape = getattr(operator, "observed_shape", None)
    if shape is not None:
        if tuple(y.shape) == tuple(shape):
            y = y[None]
        if tuple(y.shape[1:]) != tuple(shape):
            raise ShapeError(
                f"{what}: expected an observation {list(shape)}, or a batch of them, got "
                f"{tuple(y.shape)}.{_hint(operator)}"
            )
    if isinstance(operator, Mask | FourierMask):
        y = y.where(operator.mask.to(y.device), 0)  # what is not seen may be anything
    y = _finite(what, y)
    return _in_range(what, y, operator) if noiseless and y.numel() else y


def _finite(what: str, y: Any) -> Tensor:
    if not isinstance(y, Tensor):
        raise ShapeError(f"{what}: expected the observation as a tensor, got {type(y).__name__}.")
    if not y.isfinite().all():
        raise ShapeError(f"{what}: an observed value is not finite. Mask what is missing.")
    return y


def _in_range(what: str, y: Tensor, operator: LinearOperator) -> Tensor:
    """H H⁺ y, if that is y."""
    if isinstance(operator, Operator):
        y = y.to(torch.promote_types(y.dtype, operator.widest))
    nearest = operator.A(operator.A_dagger(y))
    gap, scale = (_largest(nearest - y), _largest(y))
    worst = int((gap - 1e-3 * scale).argmax())
    if gap[worst] > 1e-3 * scale[worst].clamp(min=1e-30):
        raise PgmdiffError(
            f"{what}: no state gives this observation: H H⁺ y differs from y by {gap[worst]:.3g} "
            f"(y up to {scale[worst]:.3g}). Give a noise level, or project it: "
            "operator.A(operator.A_dagger(y))."
        )
    return nearest


def _largest(values: Tensor) -> Tensor:
    """Of every sample, `[batch]`."""
    largest: Tensor = values.abs().reshape(len(values), prod(values.shape[1:])).amax(dim=1)
    return largest


def _hint(operator: object) -> str:
    """What a mask's observation looks like, which is not what most expect."""
    if not isinstance(operator, Mask | FourierMask):
        return ""
    return " Values stand in their places in the whole state; those not seen may be anything."
