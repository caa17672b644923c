"""Solves by factors: of the whole state, or sparse along a junction tree."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import linalg
from torch import Tensor

from pgmdiff.precision.precision import ComposedPrecision
from pgmdiff.precision.solves.base import KEPT_FACTORS, Solve, Symmetric, indefinite
from pgmdiff.text import described

__all__ = ["Eigen", "LatestFactors", "SparseFactors", "UNPIVOTED", "by_level", "positive_pivots"]


class Eigen(Solve):
    """One eigendecomposition P = Q diag(λ) Qᵀ for every σ, sample and device.

        (I + σ² P)⁻¹ b = Q diag(1 / (1 + σ² λ)) Qᵀ b

    Args:
        precision: P, made dense: `[N, N]` in float64.

    Raises:
        IndefiniteError: P is not positive definite.
    """

    def __init__(self, precision: ComposedPrecision) -> None:
        self.values, self.vectors = torch.linalg.eigh(precision.dense())
        if len(self.values) and self.values[0] <= 0:
            raise indefinite(precision, self.values[0].item())
        self._placed: dict[Any, tuple[Tensor, Tensor]] = {}

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        values, vectors = self._like(b)
        return (b @ vectors / (1 + sigma[:, None] ** 2 * values)) @ vectors.T

    def log_determinant(self, sigma: Tensor) -> Tensor:
        ratio = sigma.double()[:, None] ** 2 * self.values.to(sigma.device)
        return torch.log1p(ratio).sum(dim=1)

    def inverse(self) -> Tensor:
        found: Tensor = self.vectors / self.values @ self.vectors.T
        return found

    def _like(self, b: Tensor) -> tuple[Tensor, Tensor]:
        key = (b.device, b.dtype)
        if key not in self._placed:
            with torch.inference_mode(False):
                self._placed[key] = self.values.to(*key), self.vectors.to(*key)
        return self._placed[key]


class LatestFactors:
    """Sparse LU factors by σ, the latest few."""

    def __init__(self, matrix: Callable[[float], Any], **options: Any) -> None:
        self.matrix, self.options = matrix, options
        self._kept: OrderedDict[float, Any] = OrderedDict()

    def __repr__(self) -> str:
        return described(self, f"at most {KEPT_FACTORS}")

    def __call__(self, sigma: float) -> Any:
        if sigma not in self._kept:
            self._kept[sigma] = linalg.splu(self.matrix(sigma).tocsc(), **self.options)
            if len(self._kept) > KEPT_FACTORS:
                self._kept.popitem(last=False)
        return self._kept[sigma]


def by_level(b: Tensor, sigma: Tensor, solve: Callable[[Any, float], Any]) -> Tensor:
    """Solves in float64 on the CPU, a distinct σ at a time: `solve([N, rows], σ) -> [N, rows]`."""
    right = b.detach().cpu().double().numpy()
    out = np.empty_like(right)
    levels = sigma.detach().cpu().double().numpy()
    for level in np.unique(levels):
        rows = levels == level
        out[rows] = solve(np.ascontiguousarray(right[rows].T), float(level)).T
    return torch.from_numpy(out).to(b)


class SparseFactors(Solve):
    """A sparse LU factorisation a σ, kept for the latest few; on the CPU, in float64.

    Elimination in minimum-degree order: on a junction tree the work is linear in its cliques.

    Args:
        precision: P, made sparse.

    Raises:
        IndefiniteError: P is not positive definite.
    """

    def __init__(self, precision: ComposedPrecision) -> None:
        self.matrix = precision.sparse()
        self.factors = LatestFactors(self._at, **UNPIVOTED)
        if not positive_pivots(self.matrix):
            raise indefinite(precision, None)

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        solved: Tensor = Symmetric.apply(b, sigma, self._solve)
        return solved

    def log_determinant(self, sigma: Tensor) -> Tensor:
        logs = [np.log(self.factors(s).U.diagonal()).sum() for s in sigma.tolist()]
        return torch.tensor(logs, dtype=torch.float64, device=sigma.device)

    def _solve(self, b: Tensor, sigma: Tensor) -> Tensor:
        return by_level(b, sigma, lambda right, level: self.factors(level).solve(right))

    def _at(self, sigma: float) -> Any:
        return sparse.eye_array(self.matrix.shape[0], format="csc") + sigma**2 * self.matrix


UNPIVOTED: dict[str, Any] = {
    "permc_spec": "MMD_AT_PLUS_A",
    "diag_pivot_thresh": 0.0,
    "options": {"SymmetricMode": True},
}
"""Of a symmetric matrix: rows are not permuted, so that the pivots' signs are its inertia."""


def positive_pivots(matrix: Any) -> bool:
    """Whether a symmetric sparse matrix is positive definite."""
    try:
        return bool((linalg.splu(matrix, **UNPIVOTED).U.diagonal() > 0).all())
    except RuntimeError:  # exactly singular
        return False
