"""Is this an observation that the operator could have made?"""

from typing import Any

from torch import Tensor

from pgmdiff.conditioning.operators import FourierMask, LinearOperator, Mask
from pgmdiff.errors import PgmdiffError, ShapeError

__all__ = ["checked_observation"]


def checked_observation(what: str, y: Any, operator: Any, *, noiseless: bool) -> Tensor:
    """An observation `[n or 1, *observed]`, or an error that says what is wrong with it.

    Args:
        what: who asks.
        y: `[*observed]`, or `[batch, *observed]`.
        operator: ours, or anything with its three maps.
        noiseless: y must lie in the operator's range.

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
                f"{what}: expected an observation [*{tuple(shape)}], or a batch of them, got "
                f"{tuple(y.shape)}."
            )
    if isinstance(operator, Mask | FourierMask):
        y = y.where(operator.mask.to(y.device), 0)  # what is not seen may be anything
    if not y.isfinite().all():
        raise ShapeError(f"{what}: an observed value is not finite. Mask what is missing.")
    if noiseless:
        _check_range(what, y, operator)
    seen: Tensor = y
    return seen


def _check_range(what: str, y: Tensor, operator: LinearOperator) -> None:
    gap = (y - operator.A(operator.A_dagger(y))).abs().max().item()
    scale = y.abs().max().item()
    if gap > 1e-3 * max(scale, 1e-30):
        raise PgmdiffError(
            f"{what}: no state gives this observation: H H⁺ y differs from y by {gap:.3g} (y up to "
            f"{scale:.3g}). Give a noise level, or project it: operator.A(operator.A_dagger(y))."
        )
