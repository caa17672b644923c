r"""Array types, conjugate gradients with derivatives, and fixed points.

Conjugate gradients solve M x = b for a batch, every sample by itself. Under autograd the solution
is differentiated through the equation that it satisfies, dx = M⁻¹ (db - dM x), at the price of one
more solve in the backward pass, and not through the iterations that found it. Likewise for the
fixed points x = x + r(x, θ) that Anderson's extrapolation finds, dx = -(∂r/∂x)⁻¹ (∂r/∂θ) dθ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pgmdiff.errors import PgmdiffError, ShapeError
from pgmdiff.text import array, brief, by_field

__all__ = [
    "Bools",
    "Floats",
    "FixedPoint",
    "Ints",
    "Residual",
    "Solution",
    "Shape",
    "anderson",
    "beside",
    "conjugate_gradients",
    "correlations",
    "implicit",
    "implicit_fixed_point",
    "inner",
    "is_finite",
    "iterate_conjugate_gradients",
    "keep",
    "kind",
    "magnitudes",
    "null_like",
    "ordinary",
    "rows",
    "squared_norms",
    "tensor_of",
    "widened",
    "widest",
]

WITHOUT_FLOAT64 = ("mps", "npu")
"""Types of devices that have no float64."""

Shape = tuple[int, ...]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
T = TypeVar("T")


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
        raise PgmdiffError(
            f"{what}: conjugate gradients left a relative residual of {found.residual:.2g} after "
            f"{found.steps} steps, expected {tolerance:.2g}: {found.reason}"
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
        reason: why they stopped, as a sentence; empty if every sample has reached the tolerance.
    """

    x: Tensor
    residual: float
    steps: int
    reason: str

    __repr__ = by_field

    @property
    def converged(self) -> bool:
        """Whether every sample has reached the tolerance."""
        return not self.reason


LIMIT = "More steps (most_steps=), a larger tolerance= or float64 may help."
NOT_FINITE = "The right-hand side or a product with the matrix is NaN, overflows or underflows."
DIVERGED = "They diverged: the matrix is not symmetric and positive semi-definite."
INDEFINITE = (
    "A direction v has vᵀ M v ≤ 0: the matrix M is not symmetric and positive semi-definite, or "
    "its products underflow."
)


def iterate_conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    tolerance: float,
    most_steps: int,
    precondition: Callable[[Tensor], Tensor] = lambda r: r,
    start: Tensor | None = None,
    indefinite: Callable[[], Exception] | None = None,
) -> Solution:
    """Iterates conjugate gradients on M x = b until every sample has reached the tolerance.

    They stop without it where a number is not finite, where vᵀ M v ≤ 0 for a direction v, and where
    the residual has grown so large, ‖b‖/ε, that no digit of x is left. Each sample is scaled by a
    power of two, so that squares of b neither underflow nor overflow; those of M b may.

    Args:
        product: maps v to M v, both `[batch, ...]`.
        b: `[batch, ...]`.
        tolerance: the relative residual that every sample must reach.
        most_steps: the largest number of iterations.
        precondition: maps r to an approximation of M⁻¹ r, linear, symmetric and positive definite.
        start: a first guess like b, used for the samples where it is nearer than 0.
        indefinite: makes the exception to raise where vᵀ M v ≤ 0 for a direction v.
    """
    sizes = magnitudes(b)
    size = beside(sizes, b)
    b = b / size
    x, r = torch.zeros_like(b), b
    norms = squared_norms(b)
    if start is not None:
        left = b - product(start / size)
        nearer = beside(squared_norms(left) < norms, b)
        x, r = torch.where(nearer, start / size, 0), torch.where(nearer, left, b)
    z = precondition(r)
    p, rr, rz = z, squared_norms(r), inner(r, z)
    limits = torch.finfo(rr.dtype)
    fine = norms.isfinite() & ((norms == 0) | (sizes >= limits.tiny))
    norms = norms.where(fine, torch.nan)  # the residual of an unsound b is never small
    goal, far = tolerance**2 * norms, norms / limits.eps**2
    flat, steps = torch.zeros_like(rr, dtype=torch.bool), 0
    while True:
        active = ~(rr <= goal)  # NaN is not convergence
        failed = active & (flat | ~(rr <= far))
        going, broken = torch.stack([active, failed]).any(dim=1).tolist()
        if broken or not going or steps == most_steps:
            break
        product_p = product(p)
        curvature = inner(p, product_p)
        flat = active & ~(curvature > limits.tiny)
        step = torch.where(active & ~flat, rz / curvature, 0)
        x, r = x + beside(step, p) * p, r - beside(step, p) * product_p
        z = precondition(r)
        rr, rz, before = squared_norms(r), inner(r, z), rz
        p = z + beside(torch.where(active, rz / before, 0), p) * p
        steps += 1
    reason = "" if not going else DIVERGED if (rr > norms).any() else LIMIT
    if broken and (failed & ~(rr.isfinite() & norms.isfinite())).any():
        reason = NOT_FINITE
    elif broken and (failed & flat).any():
        if indefinite is not None:
            raise indefinite()
        reason = INDEFINITE
    residual = (rr / norms.clamp(min=limits.tiny)).max().sqrt().item() if len(b) else 0.0
    return Solution(x * size, residual, steps, reason)


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


@dataclass(frozen=True, eq=False)
class Residual:
    """How far x is from a fixed point.

    Attributes:
        moves: r(x), `[batch, n]`.
        units: sizes of the entries of r, `[batch, n]`, so that none counts more by its unit.
        errors: what must fall below the tolerance, `[batch]`.
    """

    moves: Tensor
    units: Tensor
    errors: Tensor

    __repr__ = by_field


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """The outcome of Anderson's extrapolation.

    Attributes:
        x: the point, `[batch, n]`.
        errors: those of every sample, `[batch]`.
        steps: number of residuals that were computed.
        converged: whether every sample has reached the tolerance.
    """

    x: Tensor
    errors: Tensor
    steps: int
    converged: bool

    __repr__ = by_field


def anderson(
    residual: Callable[[Tensor | None], Residual],
    *,
    tolerance: float,
    most_steps: int,
    kept: int = 5,
    patience: int = 15,
    mixing: float = 0.5,
) -> FixedPoint:
    """Iterates from x = 0 until r(x) = 0 to a tolerance, for a batch, every sample by itself.

        x ← x + β r - Σ_j γ_j (Δx_j + β Δr_j),      γ = argmin |(r - Σ_j γ_j Δr_j) · units|

    Args:
        residual: r; it receives None in place of the first x, 0.
        tolerance: of the errors. A sample that has reached it stays as it is, and so does one
            whose residual is not finite.
        most_steps: the largest number of residuals.
        kept: number of earlier steps that are used.
        patience: after twice as many steps only 2 earlier ones are used for so many, and then none
            for so many, which gets samples going again that extrapolation keeps going around.
        mixing: β.

    Source: Anderson, "Iterative procedures for nonlinear integral equations", 1965.
    """
    now = residual(None)
    x, steps = torch.zeros_like(now.moves), 1
    moved: list[Tensor] = []
    changed: list[Tensor] = []
    while True:
        sound = now.moves.isfinite().all(dim=1)
        active = sound & ~(now.errors <= tolerance)
        if not active.any() or steps == most_steps:
            return FixedPoint(x, now.errors, steps, bool((now.errors <= tolerance).all()))
        step = mixing * now.moves
        if changed:
            slopes, reach = torch.stack(changed, dim=1), torch.stack(moved, dim=1)
            inside = (slopes * now.units[:, None]).where(active[:, None, None], 0)
            gram = inside @ inside.mT
            size = gram.diagonal(dim1=1, dim2=2).amax(dim=1).clamp(min=1e-300)
            gram = gram / size[:, None, None] + 1e-12 * torch.eye(len(changed)).to(gram)
            right = (inside @ (now.units * now.moves)[:, :, None]) / size[:, None, None]
            weights = torch.linalg.solve(gram, right)
            step = step - ((reach + mixing * slopes) * weights).sum(dim=1)
        step = step.where(active[:, None], 0)
        x, before = x + step, now
        now, steps = residual(x), steps + 1
        first = max(0, len(moved) + 1 - (kept, kept, 2, 0)[steps // patience % 4])
        moved, changed = [*moved, step][first:], [*changed, now.moves - before.moves][first:]


def implicit_fixed_point(
    moves: Callable[[Tensor], Tensor], x: Tensor, *, tolerance: float, what: str
) -> Tensor:
    """A fixed point x, r(x, θ) = 0, with its derivative in θ, by iterations in the backward pass.

    Args:
        moves: maps x to r(x, θ), both `[batch, n]`.
        x: the fixed point.
        tolerance: of the derivative, relative to the gradient that is pulled back.
        what: the caller, which errors name.

    Raises:
        PgmdiffError: in the backward pass, if its iteration does not converge, or a derivative of
            the derivative is required.
    """
    left = moves(x.detach())
    if not left.requires_grad:
        return x
    found = x.detach() + (left - left.detach())  # x itself, with the derivative of `left`

    def pull(gradient: Tensor) -> Tensor:
        """The solution w = gradient + (1 + ∂r/∂x)ᵀ w."""
        if torch.is_grad_enabled():
            raise PgmdiffError(
                f"{what}: a fixed point has first derivatives only. Call backward without "
                "create_graph."
            )
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            moved = leaf + moves(leaf)
        size = gradient.norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)

        def residual(w: Tensor | None) -> Residual:
            back = gradient
            if w is not None:
                (pulled,) = torch.autograd.grad(moved, leaf, w, retain_graph=True)
                back = gradient + pulled - w
            return Residual(back, torch.ones_like(back), back.norm(dim=1) / size)

        solved = anderson(residual, tolerance=tolerance, most_steps=200, kept=30, patience=200)
        if not solved.converged:
            raise PgmdiffError(
                f"{what}: the derivative of a fixed point left a relative residual of "
                f"{solved.errors.max():.2g} after {solved.steps} steps, expected {tolerance:.2g}. "
                "float64 may help."
            )
        return solved.x

    found.register_hook(pull)
    return found


def magnitudes(a: Tensor) -> Tensor:
    """The power of two next below the largest entry of every sample, `[batch]`; ½ if all are 0."""
    flat = a.detach().abs().reshape(len(a), prod(a.shape[1:]))
    largest = flat.amax(dim=1) if flat.numel() else flat.sum(dim=1)
    return torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 1)


def is_finite(a: Tensor) -> bool:
    """Whether no entry is NaN or infinite; a finite sum, which is found faster, proves it."""
    return bool(a.sum().isfinite()) or bool(a.isfinite().all())


def widest(device: torch.device) -> torch.dtype:
    """The widest real dtype of a device: float64, or float32 where there is none."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def ordinary(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that autograd may save if it was made in inference mode."""
    with torch.inference_mode(False):
        return tensor.clone() if tensor.is_inference() else tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; the CPU does not wait until it is there."""
    pinned = device.type == "cuda" and tensor.device.type == "cpu"
    return tensor.pin_memory().to(device, non_blocking=True) if pinned else tensor.to(device)


def keep(kept: dict[Any, Any], key: object, value: T, most: int) -> T:
    """The value, made the last of the latest few that are kept; other threads may do so, too."""
    kept.pop(key, None)
    kept[key] = value
    for old in list(kept)[:-most]:
        kept.pop(old, None)
    return value


def tensor_of(who: str, what: str, value: Any) -> Tensor:
    """A tensor, or one of numbers, lists or a NumPy array; `ShapeError` for anything else."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError):
        raise ShapeError(
            f"{who}: expected {what} as a tensor, an array or a list of numbers, got "
            f"{brief(value)}."
        ) from None


def kind(dtype: torch.dtype) -> int:
    """0 for truth values, 1 for integers, 2 for floating-point and 3 for complex numbers."""
    if dtype.is_complex:
        return 3
    return 2 if dtype.is_floating_point else int(dtype is not torch.bool)


def null_like(who: str, what: str, null: Any, value: Tensor) -> Tensor:
    """The null of a condition, a number or a tensor, in the condition's dtype, on its device.

    Raises:
        ShapeError: its dtype cannot hold the null, as integers no 0.5 and unsigned ones no -1.
    """
    dtype, number = value.dtype, isinstance(null, int | float)
    if not number:
        null = tensor_of(who, what, null)
        fits = kind(null.dtype) <= kind(dtype)
    elif kind(dtype) > 1:
        fits = True
    else:
        least, most = (
            (0, 1) if dtype is torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        )
        fits = float(null).is_integer() and least <= null <= most
    if not fits:
        raise ShapeError(
            f"{who}: expected {what} as what {dtype}, the condition's dtype, can hold, got "
            f"{null if number else array(null)}. Give both as integers, or both as floating-point "
            "numbers."
        )
    # a number need not be copied to the device
    return value.new_full((), null) if number else null.to(value)


def correlations(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Correlations, whose small eigenvalues no unit decides, and 1 / deviations, `[..., d]`."""
    variances = covariances.diagonal(dim1=-2, dim2=-1)
    units = torch.where(variances > 0, variances, 1).rsqrt()
    return units[..., :, None] * covariances * units[..., None, :], units


def widened(n: int) -> float:
    """How much wider three standard errors of n samples are, about as of Student's t.

    Of four samples they are seven.
    """
    return 1 + 4 / (n - 1)


def rows(x: Tensor) -> Tensor:
    """The samples of `[batch, ...]` as rows `[batch, N]`, also of a batch of 0."""
    return x.reshape(len(x), prod(x.shape[1:]))


def squared_norms(a: Tensor) -> Tensor:
    """The squared norm ‖a‖² of every sample, `[batch]`."""
    return inner(a, a)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The real part of the inner product of every sample, `[batch]`."""
    product: Tensor = (a.conj() * b).real.reshape(len(a), prod(a.shape[1:])).sum(dim=1)
    return product


def beside(values: Tensor, like: Tensor) -> Tensor:
    """Values `[batch]`, such as σ, as `[batch, 1, ...]`, so that they multiply `like`.

    Values that have the shape of `like` stay as they are.
    """
    return values if values.shape == like.shape else values.reshape(-1, *[1] * (like.ndim - 1))
