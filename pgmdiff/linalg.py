r"""Types of arrays, and conjugate gradients on batches: every sample by itself.

Under autograd the solution of M x = b is differentiated as what it is, not as how it was found:
dx = M⁻¹ (db - dM x), one more solve in the backward pass.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pgmdiff.errors import PgmdiffError

__all__ = ["Bools", "Floats", "Ints", "Shape", "conjugate_gradients", "squared_norms"]

Shape = tuple[int, ...]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    tolerance: float,
    most_steps: int,
    what: str,
) -> Tensor:
    """Solves M x = b, M symmetric positive semi-definite, b in its range, sample by sample.

    Differentiable once, in b and in whatever M depends on.

    Args:
        product: v to M v, both `[batch, ...]`.
        b: `[batch, ...]`.
        tolerance: relative residual of every sample.
        most_steps: at most.
        what: who asks, for the error.

    Raises:
        PgmdiffError: the tolerance is not met.
    """
    solve = partial(_solve, product, tolerance=tolerance, most_steps=most_steps, what=what)
    with torch.no_grad():
        x = solve(b)
    if not torch.is_grad_enabled():
        return x
    left = b - product(x)
    if not left.requires_grad:
        return x
    implicit: Tensor = _Implicit.apply(left, solve)
    return x + implicit


class _Implicit(torch.autograd.Function):
    """M⁻¹ of a residual: 0 but for rounding. What it is for is its derivative, M⁻¹."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return torch.zeros_like(residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.solve(gradient), None


def _solve(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    tolerance: float,
    most_steps: int,
    what: str,
) -> Tensor:
    x, r = torch.zeros_like(b), b
    p, rr = r, squared_norms(r)
    tiny = torch.finfo(rr.dtype).tiny
    goal = (tolerance**2 * rr).clamp(min=tiny)
    for _ in range(most_steps):
        active = rr > goal
        if not active.any():
            return x
        product_p = product(p)
        curvature = _inner(p, product_p)
        step = torch.where(active & (curvature > 0), rr / curvature.clamp(min=tiny), 0)
        x, r = x + _beside(step, p) * p, r - _beside(step, p) * product_p
        rr, before = squared_norms(r), rr
        p = r + _beside(torch.where(active, rr / before.clamp(min=tiny), 0), p) * p
    left = (rr / squared_norms(b).clamp(min=tiny)).max().sqrt().item()
    if left <= tolerance:
        return x
    raise PgmdiffError(
        f"{what}: conjugate gradients left a relative residual of {left:.2g} after {most_steps} "
        f"steps, expected {tolerance:.2g}. {_remedy(left)}"
    )


def _remedy(residual: float) -> str:
    """A residual above that of x = 0 is none that more steps would mend."""
    if residual <= 1:
        return "Raise tolerance= or most_steps=, or use float64."
    return (
        "They diverged: the matrix is not symmetric and positive semi-definite. Under Tweedie the "
        "score's Jacobian is not symmetric, or not accurate, here: use Isotropic(data_std), or "
        "Composed(joint) under posterior composition."
    )


def _inner(a: Tensor, b: Tensor) -> Tensor:
    inner: Tensor = (a.conj() * b).real.reshape(len(a), prod(a.shape[1:])).sum(dim=1)
    return inner


def squared_norms(a: Tensor) -> Tensor:
    """‖a‖² of every sample, `[batch]`."""
    return _inner(a, a)


def _beside(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.real.dtype)
