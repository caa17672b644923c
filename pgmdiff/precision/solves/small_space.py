r"""Low rank plus δ I, solved in the space of all regions' directions.

With W = [|c_r g_r|^½ A_rᵀ U_r], S = diag(sign c_r) and τ = σ²/(σ² + δ)

    P = δ⁻¹ (I - W S Wᵀ),        (I + σ² P)⁻¹ = (1 - τ) [I + τ W (S - τ WᵀW)⁻¹ Wᵀ]
"""

from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import linalg
from torch import Tensor

from pgmdiff.precision.forms import LowRankPrecisions
from pgmdiff.precision.precision import Block, ComposedPrecision
from pgmdiff.precision.solves.base import Solve, Symmetric, indefinite
from pgmdiff.precision.solves.direct import UNPIVOTED, LatestFactors, by_level

__all__ = ["SmallSpace", "common_floor"]


class SmallSpace(Solve):
    """Low rank plus δ I, in the space of all regions' directions; on the CPU, in float64.

    A sparse LU factorisation there a σ: `[m, m]`, m the counted regions' ranks together.

    Args:
        precision: P of `LowRank` covariances with one floor δ.

    Raises:
        IndefiniteError: P is not positive definite.
    """

    def __init__(self, precision: ComposedPrecision) -> None:
        low = [(b, b.precisions) for b in precision.blocks]
        known = [(b, p) for b, p in low if isinstance(p, LowRankPrecisions)]
        parts = [_directions(b, p, precision.graph.n_elements) for b, p in known]
        self.floor = known[0][1].floor
        self.w = sparse.hstack([w for w, _ in parts], format="csc")
        self.signs = np.concatenate([signs for _, signs in parts])
        self.gram = (self.w.T @ self.w).tocsc()
        self.factors = LatestFactors(self._at, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.1)
        if not self._definite():
            raise indefinite(precision, None)

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        solved: Tensor = Symmetric.apply(b, sigma, self._solve)
        return solved

    def log_determinant(self, sigma: Tensor) -> Tensor:
        logs = [self._log_determinant(s) for s in sigma.tolist()]
        return torch.tensor(logs, dtype=torch.float64, device=sigma.device)

    def _log_determinant(self, sigma: float) -> float:
        """N log(1 + σ²/δ) + log |det(S - τ WᵀW)|."""
        inside = np.log(np.abs(self.factors(sigma).U.diagonal())).sum()
        return float(self.w.shape[0] * np.log1p(sigma**2 / self.floor) + inside)

    def _solve(self, b: Tensor, sigma: Tensor) -> Tensor:
        return by_level(b, sigma, self._solve_level)

    def _solve_level(self, b: Any, sigma: float) -> Any:
        tau = sigma**2 / (sigma**2 + self.floor)
        return (1 - tau) * (b + tau * (self.w @ self.factors(sigma).solve(self.w.T @ b)))

    def _at(self, sigma: float) -> Any:
        tau = sigma**2 / (sigma**2 + self.floor) if sigma < np.inf else 1.0
        return sparse.diags_array(self.signs) - tau * self.gram

    def _definite(self) -> bool:
        """Whether S - WᵀW has as many negative eigenvalues as S (Haynsworth's inertia)."""
        matrix = self._at(np.inf).tocsc()
        if matrix.shape[0] <= SMALL_SPACE:
            values = np.linalg.eigvalsh(matrix.toarray())
        else:
            values = linalg.splu(matrix, **UNPIVOTED).U.diagonal()
        return bool((values < 0).sum() == (self.signs < 0).sum() and (values != 0).all())


SMALL_SPACE = 2_000
"""Directions up to which definiteness is read off eigenvalues, not off pivots."""


def _directions(block: Block, low: LowRankPrecisions, n_elements: int) -> tuple[Any, Any]:
    """A block's columns |c_r g_r|^½ A_rᵀ U_r of W, sparse `[N, n k]`, and the signs of c_r."""
    (n, d), k = block.index.shape, low.vectors.shape[2]
    weights = (block.counts[:, None] * low.gains).expand(n, k)
    scaled = low.vectors * weights.abs().sqrt()[:, None]
    rows = block.index[:, :, None].expand(n, d, k)
    columns = torch.arange(n * k).reshape(n, 1, k).expand(n, d, k)
    values, i, j = (t.reshape(-1).numpy() for t in (scaled, rows, columns))
    signs = block.counts.sign()[:, None].expand(n, k)
    return sparse.csc_array((values, (i, j)), (n_elements, n * k)), signs.reshape(-1).numpy()


def common_floor(precision: ComposedPrecision) -> float | None:
    """δ, where all regions are low rank plus the same δ I."""
    floors = {getattr(block.precisions, "floor", None) for block in precision.blocks}
    return floors.pop() if len(floors) == 1 else None
