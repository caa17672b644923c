"""What every solve with I + σ² P is, and how its gradients are found."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from pgmdiff.errors import GraphError
from pgmdiff.precision.precision import Precision
from pgmdiff.text import described

__all__ = [
    "IndefiniteError",
    "KEPT_FACTORS",
    "SMALL",
    "SPARSE_ENTRIES",
    "Solve",
    "Symmetric",
    "indefinite",
]


SMALL = 768
"""Elements up to which one eigendecomposition serves every σ; also of a circulant's block."""
SPARSE_ENTRIES = 20_000_000
"""Entries of region precisions, or of a circulant's blocks, up to which P is held."""
KEPT_FACTORS = 8
"""Noise levels whose factors are kept."""


class IndefiniteError(GraphError):
    """The composed precision is not positive definite."""


class Solve(ABC):
    """Solves with I + σ² P."""

    uses_start = False
    """Whether a good first guess makes it faster."""

    @abstractmethod
    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        """(I + σ² P)⁻¹ b for b `[B, N]`, sigma `[B]`; differentiable in b.

        Args:
            b: right-hand sides.
            sigma: noise levels.
            start: a first guess, `[B, N]`, for iterative solves.
        """

    @abstractmethod
    def log_determinant(self, sigma: Tensor) -> Tensor:
        """The log-determinant of I + σ² P, float64 `[B]`; not differentiable in σ."""

    def inverse(self) -> Tensor | None:
        """The covariance P⁻¹ of what is composed, float64 `[N, N]`; None: not to be had."""
        return None

    @property
    def residual(self) -> float:
        """Largest relative residual of the latest call; direct solves leave rounding only: 0."""
        return 0.0

    def __repr__(self) -> str:
        return described(self)


def indefinite(precision: Precision, smallest: float | None) -> IndefiniteError:
    """The error that says what to do."""
    shown = "" if smallest is None else f", its smallest eigenvalue is {smallest:.3g}"
    changed = f" at shrinkage {precision.shrinkage:g}" if precision.shrinkage else ""
    level = getattr(precision, "level", None)
    if level is not None:
        return IndefiniteError(
            f"Posterior: the composed precision P of the denoising errors measured at σ = "
            f"{level:.3g} is not positive definite{changed}{shown}: the networks of pieces and "
            "overlaps disagree there, or the errors were measured on too few states. See which "
            "with check_consistency at this σ and train those networks further; until then use "
            'Posterior(errors, shrinkage="least"), which reports the least shrinkage that mends '
            "it. shrinkage=1 is the marginal rule."
        )
    return IndefiniteError(
        f"Posterior: the composed precision P is not positive definite{changed}{shown}. Read all "
        "covariances off one estimate (fit_covariances); on a graph with loops also shrink them: "
        'Posterior(covariances, shrinkage="least") tries jitter, then the least shrinkage λ*, and '
        "reports it. shrinkage=1 is the marginal rule."
    )


class Symmetric(torch.autograd.Function):
    """x = M⁻¹ b with M = I + σ² P: ∂x/∂b = M⁻¹, and ∂x/∂σ = -M⁻¹ 2σ P x = -(2/σ) M⁻¹ (b - x)."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, sigma: Tensor, solve: Any) -> Tensor:
        ctx.save_for_backward(b, sigma)
        ctx.solve = solve
        solved: Tensor = solve(b, sigma)
        return solved

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        b, sigma = ctx.saved_tensors
        pulled = Symmetric.apply(gradient, sigma, ctx.solve)
        if not ctx.needs_input_grad[1]:
            return pulled, None, None
        x = Symmetric.apply(b, sigma, ctx.solve)
        slope = torch.where(sigma > 0, -2 / sigma.clamp(min=1e-30), 0)
        return pulled, slope * (pulled * (b - x)).sum(dim=1), None
