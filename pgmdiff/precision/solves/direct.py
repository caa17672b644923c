"""Solves by factors: an eigendecomposition of P, or sparse factors along a junction tree."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from pgmdiff.linalg import Floats, keep
from pgmdiff.precision.precision import ComposedPrecision
from pgmdiff.precision.solves.base import Placed, Solve, indefinite, levels_kept, symmetric
from pgmdiff.text import counted, described

__all__ = [
    "Eigen",
    "Factors",
    "LevelByLevel",
    "SparseFactors",
    "UNPIVOTED",
    "positive_pivots",
]


class Eigen(Solve):
    """One eigendecomposition P = Q diag(λ) Qᵀ for every σ, sample and device.

        (I + σ² P)⁻¹ b = Q diag(1 / (1 + σ² λ)) Qᵀ b

    Args:
        precision: P, which is made dense, `[N, N]` in float64; or a dense one, positive definite.

    Raises:
        IndefiniteError: P is not positive definite.
    """

    def __init__(self, precision: ComposedPrecision | Tensor) -> None:
        dense = precision if isinstance(precision, Tensor) else precision.dense()
        self.values, self.vectors = torch.linalg.eigh(dense)
        if not isinstance(precision, Tensor) and len(dense) and not self.values[0] > 0:
            raise indefinite(precision, self.values[0].item())

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        values, vectors = self.placed(b, lambda *on: (self.values.to(*on), self.vectors.to(*on)))
        solved: Tensor = (b @ vectors / (1 + sigma[:, None] ** 2 * values)) @ vectors.T
        return solved

    def log_determinant(self, sigma: Tensor) -> Tensor:
        ratio = sigma.double()[:, None] ** 2 * self.values.to(sigma.device)
        return torch.log1p(ratio).sum(dim=1)

    def inverse(self) -> Tensor:
        found: Tensor = self.vectors / self.values @ self.vectors.T
        return found


class Factors(Placed):
    """Maps w to sparse LU factors of A + w B, kept for the latest few w; options are of `splu`."""

    def __init__(self, a: Any, b: Any, **options: Any) -> None:
        self.a, self.b, self.options = a, b, options

    def __call__(self, w: float) -> Any:
        found = self._kept.get(w)
        if found is None:
            found = sparse.linalg.splu((self.a + w * self.b).tocsc(), **self.options)
        return keep(self._kept, w, found, levels_kept(12 * found.nnz))

    def __repr__(self) -> str:
        return described(self, counted(self.a.shape[0], "row"))


class LevelByLevel(Solve):
    """Solves for one distinct σ after the other, in float64 on the CPU."""

    @abstractmethod
    def solve_at(self, b: Floats, sigma: float) -> Floats:
        """(I + σ² P)⁻¹ b for b `[N, rows]`."""

    @abstractmethod
    def log_determinant_at(self, sigma: float) -> float:
        """The log-determinant of I + σ² P."""

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        def solve(b: Tensor, sigma: Tensor) -> Tensor:
            right = b.detach().cpu().double().numpy()
            out = np.empty_like(right)
            levels = sigma.detach().cpu().double().numpy()
            for level in np.unique(levels):
                rows = levels == level
                out[rows] = self.solve_at(np.ascontiguousarray(right[rows].T), float(level)).T
            return torch.from_numpy(out).to(b)

        return symmetric(solve, b, sigma)

    def log_determinant(self, sigma: Tensor) -> Tensor:
        logs = [self.log_determinant_at(s) for s in sigma.tolist()]
        return torch.tensor(logs, dtype=torch.float64, device=sigma.device)


class SparseFactors(LevelByLevel):
    """One sparse LU factorisation per σ, kept for the latest few.

    Elimination is in minimum-degree order: on a junction tree the work is linear in its cliques.

    Args:
        precision: P, which is made sparse.

    Raises:
        IndefiniteError: P is not positive definite.
    """

    def __init__(self, precision: ComposedPrecision) -> None:
        matrix = precision.sparse()
        eye = sparse.eye_array(matrix.shape[0], format="csc")
        self.factors = Factors(eye, matrix, **UNPIVOTED)
        if not positive_pivots(matrix):
            raise indefinite(precision)

    def solve_at(self, b: Floats, sigma: float) -> Floats:
        solved: Floats = self.factors(sigma**2).solve(b)
        return solved

    def log_determinant_at(self, sigma: float) -> float:
        return float(np.log(self.factors(sigma**2).U.diagonal()).sum())


UNPIVOTED: dict[str, Any] = {
    "permc_spec": "MMD_AT_PLUS_A",
    "diag_pivot_thresh": 0.0,
    "options": {"SymmetricMode": True},
}
"""Options for a symmetric matrix: rows are not permuted, so the pivots' signs are its inertia."""


def positive_pivots(matrix: Any) -> bool:
    """Whether a symmetric sparse matrix is positive definite."""
    try:
        return bool((sparse.linalg.splu(matrix, **UNPIVOTED).U.diagonal() > 0).all())
    except RuntimeError:  # exactly singular
        return False
