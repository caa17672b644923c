r"""Array types, and conjugate gradients with derivatives.

Conjugate gradients solve M x = b for a batch, every sample by itself. Under autograd the solution
is differentiated through the equation that it satisfies, dx = M⁻¹ (db - dM x), at the price of one
more solve in the backward pass, and not through the iterations that found it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pgmdiff.errors import PgmdiffError
from pgmdiff.text import by_field

__all__ = [
    "Bools",
    "Floats",
    "Ints",
    "Solution",
    "Shape",
    "conjugate_gradients",
    "implicit",
    "iterate_conjugate_gradients",
    "ordinary",
    "squared_norms",
]

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
    """Solves M x = b to a tolerance, for a symmetric positive semi-definite M with b in its range.

    The solution is differentiable once, in b and in whatever M depends on. `what` names the caller
    in the error; see `iterate_conjugate_gradients` for the other arguments.

    Raises:
        PgmdiffError: the tolerance is not met.
    """

    def solve(b: Tensor) -> Tensor:
        found = iterate_conjugate_gradients(product, b, tolerance=tolerance, most_steps=most_steps)
        if found.converged:
            return found.x
        # The residual of x = 0 is 1: more steps do not mend one that is larger.
        remedy = (
            "Raise tolerance= or most_steps=, or use float64."
            if found.residual <= 1
            else "They diverged: the matrix is not symmetric and positive semi-definite. Under "
            "Tweedie the score's Jacobian is not symmetric, or not accurate, here: use "
            "Isotropic(data_std), or Composed(joint) under posterior composition."
        )
        raise PgmdiffError(
            f"{what}: conjugate gradients left a relative residual of {found.residual:.2g} after "
            f"{most_steps} steps, expected {tolerance:.2g}. {remedy}"
        )

    with torch.no_grad():
        x = solve(b)
    if not torch.is_grad_enabled():
        return x
    residual = b - product(x)
    if not residual.requires_grad:
        return x
    inverse = once_differentiable(lambda _, gradient: solve(gradient))
    # M⁻¹ times the residual is 0 but for rounding: it is added for its derivative.
    return x + implicit(torch.zeros_like, lambda gradient, _: (inverse(None, gradient),), residual)


@dataclass(frozen=True, eq=False)
class Solution:
    """The outcome of conjugate gradients.

    Attributes:
        x: the solution, `[batch, ...]`.
        residual: the largest relative residual ‖b - M x‖ / ‖b‖ of a sample.
    """

    x: Tensor
    residual: float
    steps: int
    converged: bool

    __repr__ = by_field


def iterate_conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    tolerance: float,
    most_steps: int,
    scale: Tensor | None = None,
    start: Tensor | None = None,
    indefinite: Callable[[], Exception] | None = None,
) -> Solution:
    """Iterates conjugate gradients on M x = b until every sample has reached the tolerance.

    Args:
        product: maps v to M v, both `[batch, ...]`.
        b: `[batch, ...]`.
        tolerance: the relative residual that every sample must reach.
        most_steps: the largest number of iterations.
        scale: a positive diagonal preconditioner, an approximation of M⁻¹ that broadcasts to b.
        start: a first guess like b, used for the samples where it is nearer than 0.
        indefinite: makes the exception to raise where vᵀ M v ≤ 0 for a direction v. If None, the
            iteration does not move along such directions.
    """
    x, r = torch.zeros_like(b), b
    norms = squared_norms(b)
    if start is not None:
        left = b - product(start)
        nearer = (squared_norms(left) < norms).reshape(-1, *[1] * (b.ndim - 1))
        x, r = torch.where(nearer, start, 0), torch.where(nearer, left, b)
    z = r if scale is None else scale * r
    p, rr, rz = z, squared_norms(r), _inner(r, z)
    tiny = torch.finfo(rr.dtype).tiny
    goal = (tolerance**2 * norms).clamp(min=tiny)
    steps = 0
    while steps < most_steps and (active := rr > goal).any():
        product_p = product(p)
        curvature = _inner(p, product_p)
        if indefinite is not None and (active & (curvature <= 0)).any():
            raise indefinite()
        step = torch.where(active & (curvature > 0), rz / curvature.clamp(min=tiny), 0)
        x, r = x + _beside(step, p) * p, r - _beside(step, p) * product_p
        z = r if scale is None else scale * r
        rr, rz, before = squared_norms(r), _inner(r, z), rz
        p = z + _beside(torch.where(active, rz / before.clamp(min=tiny), 0), p) * p
        steps += 1
    residual = (rr / norms.clamp(min=tiny)).max().sqrt().item() if len(b) else 0.0
    return Solution(x, residual, steps, not (rr > goal).any())


def implicit(
    value: Callable[..., Tensor], pull: Callable[..., tuple[Tensor | None, ...]], *inputs: Tensor
) -> Tensor:
    """`value(*inputs)`, which is not differentiated itself: its derivative is known.

    `pull` maps the value's gradient and the inputs to the inputs' gradients (None for an input
    without one). Higher derivatives are those of `pull`.
    """
    found: Tensor = _Implicit.apply(value, pull, *inputs)
    return found


class _Implicit(torch.autograd.Function):
    """See `implicit`."""

    @staticmethod
    def forward(ctx: Any, value: Callable[..., Tensor], pull: Any, *inputs: Tensor) -> Tensor:
        ctx.pull = pull
        ctx.save_for_backward(*inputs)
        return value(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.pull(gradient, *ctx.saved_tensors)


def ordinary(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that autograd may save if it was made in inference mode."""
    with torch.inference_mode(False):
        return tensor.clone() if tensor.is_inference() else tensor


def squared_norms(a: Tensor) -> Tensor:
    """The squared norm ‖a‖² of every sample, `[batch]`."""
    return _inner(a, a)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    inner: Tensor = (a.conj() * b).real.reshape(len(a), prod(a.shape[1:])).sum(dim=1)
    return inner


def _beside(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.real.dtype)
