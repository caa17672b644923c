"""The interface of solves with I + σ² P, and what they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from pgmdiff.errors import GraphError
from pgmdiff.linalg import implicit
from pgmdiff.precision.precision import Assembled, ComposedPrecision
from pgmdiff.text import described

__all__ = [
    "IndefiniteError",
    "SMALL",
    "SPARSE_ENTRIES",
    "Solve",
    "indefinite",
    "levels_kept",
    "symmetric",
]

T = TypeVar("T")

SMALL = 768
"""Largest state solved by one eigendecomposition for all σ, and largest block of a circulant."""
SPARSE_ENTRIES = 20_000_000
"""Largest number of entries, of region precisions or a circulant's blocks, that are held."""
KEPT_LEVELS, KEPT_BYTES = 64, 2**28
"""Most noise levels whose factors are kept, and about how much memory they may hold."""


def levels_kept(n_bytes: int) -> int:
    """For how many noise levels factors are kept that take so much memory: a whole schedule's."""
    return max(1, min(KEPT_LEVELS, KEPT_BYTES // max(1, n_bytes)))


class IndefiniteError(GraphError):
    """The composed precision is not positive definite."""


class Placed:
    """What keeps tensors on the devices and in the dtypes that it was called with.

    It may keep more for the latest noise levels, in `_kept`. A pickle holds nothing of `remade`.
    """

    remade: tuple[str, ...] = ("_placed", "_kept")

    @cached_property
    def _placed(self) -> dict[Any, Any]:
        return {}

    @cached_property
    def _kept(self) -> dict[Any, Any]:
        return {}

    def placed(
        self, b: Tensor, place: Callable[[torch.device, torch.dtype], T], name: str = ""
    ) -> T:
        """What `place` makes for the device and dtype of b; it is made once for each, by name."""
        key = (b.device, b.dtype, name)
        if key not in self._placed:
            with torch.inference_mode(False):  # what is kept must serve autograd later
                self._placed[key] = place(b.device, b.dtype)
        kept: T = self._placed[key]
        return kept

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self.remade}


class Solve(Placed, ABC):
    """Solves with I + σ² P."""

    uses_start = False
    """Whether a good first guess makes it faster."""
    spread = False
    """Whether the state is divided among ranks."""

    @abstractmethod
    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        """(I + σ² P)⁻¹ b for b `[B, N]` and sigma `[B]`; differentiable in both.

        Iterative solves begin at `start`, a first guess `[B, N]`, which others ignore.
        """

    @abstractmethod
    def log_determinant(self, sigma: Tensor) -> Tensor:
        """The log-determinant of I + σ² P, float64 `[B]`; not all kinds are differentiable in σ."""

    def for_many(self) -> "Solve":
        """The solve for calls that solve many times with one σ."""
        return self

    def inverse(self) -> Tensor | None:
        """P⁻¹, the covariance of the composed distribution, float64 `[N, N]`, or None."""
        return None

    def largest(self, values: Tensor) -> Tensor:
        """The largest values, `[B]`, over all ranks among which the state is divided."""
        return values

    @property
    def residual(self) -> float:
        """The largest relative residual of the latest call. It is 0 for direct solves."""
        return 0.0

    @property
    def fingerprint(self) -> str:
        """Its name for `store.fingerprint`: all else follows from P, or is kept between calls."""
        return type(self).__name__

    def __repr__(self) -> str:
        return described(self)


def indefinite(precision: ComposedPrecision, smallest: float | None = None) -> IndefiniteError:
    """The error for an indefinite P, with its smallest eigenvalue (if known) and the remedy."""
    if isinstance(precision, Assembled):
        return IndefiniteError(
            "Covariances: the completion, which is computed from neighbourhoods beyond 2,000 "
            "elements, is not positive definite: correlations reach too far along loops. Give "
            "regions that overlap more, or the covariances a larger ridge."
        )
    shown = "" if smallest is None else f", its smallest eigenvalue is {smallest:.3g}"
    return IndefiniteError(
        f"Covariances: the composed precision P is not positive definite{shown}. Read all "
        "covariances off one estimate (fit_covariances), and give it a larger ridge. Posteriors of "
        "observations must together be narrower than their prior: give covariances, no precisions. "
        "(On loops beyond 2,000 elements P replaces the completion where regions are large or "
        "correlations reach far.)"
    )


def symmetric(solve: Callable[[Tensor, Tensor], Tensor], b: Tensor, sigma: Tensor) -> Tensor:
    """Solves M x = b, M = I + σ² P, by any means; the derivatives in b and σ are known.

        ∂x/∂b = M⁻¹,     ∂x/∂σ = -2σ M⁻¹ P x = -(2/σ) M⁻¹ (b - x)

    `solve` maps b `[B, N]` and σ `[B]` to x.
    """

    def pull(gradient: Tensor, b: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor | None]:
        pulled = symmetric(solve, gradient, sigma)
        if not sigma.requires_grad:
            return pulled, None
        slope = torch.where(sigma > 0, -2 / sigma.clamp(min=1e-30), 0)
        return pulled, slope * (pulled * (b - symmetric(solve, b, sigma))).sum(dim=1)

    return implicit(solve, pull, b, sigma)
