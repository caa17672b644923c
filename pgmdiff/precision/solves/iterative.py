"""Conjugate gradients: what is left where no structure helps."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pgmdiff.errors import GraphError, ScoreError
from pgmdiff.precision.precision import ComposedPrecision
from pgmdiff.precision.solves.base import SMALL, Solve, Symmetric, indefinite
from pgmdiff.precision.solves.direct import positive_pivots

__all__ = ["ConjugateGradients"]


TESTED = 5_000
"""Elements up to which P is factorised only to see whether it is definite."""
ACCEPTED = 1e-8
"""Relative residual that conjugate gradients may end with."""


class ConjugateGradients(Solve):
    """Matrix-free, preconditioned by the diagonal, on the state's device, in float64.

    Args:
        precision: P, only ever multiplied with.
        most_steps: after which a solve that has not converged is an error.

    Attributes:
        tested: whether P was factorised to see that it is definite; beyond `TESTED` elements it is
            found out on the way.
        steps: of the latest call.
    """

    uses_start = True

    def __init__(self, precision: ComposedPrecision, *, most_steps: int = 500) -> None:
        self.precision = precision
        self.most_steps = most_steps
        self.steps = 0
        self._residual = 0.0
        self._placed: dict[Any, Any] = {}
        self.tested = precision.graph.n_elements <= TESTED
        if self.tested and not positive_pivots(precision.sparse()):
            raise indefinite(precision, None)

    @property
    def residual(self) -> float:
        return self._residual

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        guess = None if start is None else start.detach()
        solved: Tensor = Symmetric.apply(b, sigma, partial(self._solve, start=guess))
        return solved

    def log_determinant(self, sigma: Tensor) -> Tensor:
        raise GraphError(
            f"Evidence: log det(I + σ² P) of {self.precision.graph.n_elements} elements is not "
            f"computed beyond {SMALL} elements, except on junction trees, for low rank and on "
            "periodic windows. The score needs none."
        )

    def product(self, v: Tensor) -> Tensor:
        """P v for v `[B, N]`."""
        total, no_sigma = torch.zeros_like(v), v.new_zeros(len(v))
        for index, counts, precisions in self._like(v):
            weighted = precisions.times(v[:, index], no_sigma) * counts[:, None]
            total.index_add_(1, index.reshape(-1), weighted.flatten(1))
        return total

    def _like(self, v: Tensor) -> Any:
        key = (v.device, v.dtype)
        if key not in self._placed:
            with torch.inference_mode(False):
                self._placed[key] = [
                    (
                        block.index.to(v.device),
                        block.counts.to(*key),
                        block.precisions.to(*key),
                    )
                    for block in self.precision.blocks
                ]
        return self._placed[key]

    def _diagonal(self, v: Tensor) -> Tensor:
        total = v.new_zeros(v.shape[1])
        for index, counts, precisions in self._like(v):
            diagonal = precisions.diagonal().expand(index.shape)
            total.index_add_(0, index.reshape(-1), (counts[:, None] * diagonal).reshape(-1))
        return total

    def _solve(self, right: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        b, s2 = right.double(), sigma.double()[:, None] ** 2
        scale = 1 / (1 + s2 * self._diagonal(b)).clamp(min=1e-12)
        norm = b.norm(dim=1).clamp(min=torch.finfo(b.dtype).tiny)
        x, r = self._first(b, s2, start, norm)
        z = scale * r
        p, rz = z, (r * z).sum(dim=1, keepdim=True)
        tolerance = 20 * torch.finfo(b.dtype).eps
        for number in range(self.most_steps):
            self.steps = number
            self._residual = float((r.norm(dim=1) / norm).max()) if len(b) else 0.0
            if self._residual <= tolerance:
                return x.to(right)
            product = p + s2 * self.product(p)
            curvature = (p * product).sum(dim=1, keepdim=True)
            active = r.norm(dim=1, keepdim=True) > tolerance * norm[:, None]
            if (active & (curvature <= 0)).any():
                raise indefinite(self.precision, None)
            step = torch.where(active, rz / torch.where(active, curvature, 1.0), 0)
            x, r = x + step * p, r - step * product
            z = scale * r
            rz, before = (r * z).sum(dim=1, keepdim=True), rz
            p = z + torch.where(active, rz / torch.where(active, before, 1.0), 0) * p
        if self._residual > ACCEPTED:
            raise ScoreError(
                f"Posterior: conjugate gradients left a relative residual of {self._residual:.2g} "
                f"after {self.most_steps} steps. Better conditioned covariances (shrinkage=), or "
                "float64, help."
            )
        return x.to(right)

    def _first(
        self, b: Tensor, s2: Tensor, start: Tensor | None, norm: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A first guess and its residual: `start` where that is nearer than 0."""
        if start is None or start.shape != b.shape:
            return torch.zeros_like(b), b.clone()
        x = start.to(b)
        r = b - x - s2 * self.product(x)
        nearer = (r.norm(dim=1) < norm)[:, None]
        return torch.where(nearer, x, 0), torch.where(nearer, r, b)
