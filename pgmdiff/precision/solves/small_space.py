r"""Solves for covariances of low rank plus δ I, in the space of all regions' directions.

With W = [|c_r g_r|^½ A_rᵀ U_r], S = diag(sign c_r) and τ = σ²/(σ² + δ)

    P = δ⁻¹ (I - W S Wᵀ),        (I + σ² P)⁻¹ = (1 - τ) [I + τ W (S - τ WᵀW)⁻¹ Wᵀ]
"""

import numpy as np
import torch
from scipy import sparse

from pgmdiff.linalg import Floats
from pgmdiff.precision.forms import LowRankPrecisions
from pgmdiff.precision.precision import ComposedPrecision
from pgmdiff.precision.solves.base import indefinite
from pgmdiff.precision.solves.direct import UNPIVOTED, Factors, LevelByLevel

__all__ = ["SmallSpace", "common_floor"]

SMALL_SPACE = 2_000
"""Largest number of directions for which definiteness is read off eigenvalues, not off pivots."""


class SmallSpace(LevelByLevel):
    """Low rank plus δ I, with one sparse LU factorisation per σ in the space of the directions.

    The factors are `[m, m]`, with m the sum of the ranks of all counted regions.

    Args:
        precision: P of `LowRank` covariances with one floor δ.

    Raises:
        IndefiniteError: P is not positive definite.
    """

    def __init__(self, precision: ComposedPrecision) -> None:
        columns, signs = [], []
        for block in precision.blocks:
            low = block.precisions
            assert isinstance(low, LowRankPrecisions)
            self.floor, k = low.floor, low.vectors.shape[2]
            (n, d), weights = block.index.shape, block.counts[:, None] * low.gains
            values = (low.vectors * weights.abs().sqrt()[:, None]).expand(n, d, k)
            rows = block.index[:, :, None].expand(n, d, k)
            places = torch.arange(n * k).reshape(n, 1, k).expand(n, d, k)
            entries, i, j = (t.reshape(-1).numpy() for t in (values, rows, places))
            shape = (precision.graph.n_elements, n * k)
            columns.append(sparse.csc_array((entries, (i, j)), shape))
            signs.append(block.counts.sign().repeat_interleave(k).numpy())
        self.w = sparse.hstack(columns, format="csc")
        inertia, gram = np.concatenate(signs), (self.w.T @ self.w).tocsc()
        self.factors = Factors(
            sparse.diags_array(inertia), gram, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.1
        )
        # P ≻ 0 if and only if S - WᵀW has as many negative eigenvalues as S (Haynsworth).
        matrix = (sparse.diags_array(inertia) - gram).tocsc()
        if matrix.shape[0] <= SMALL_SPACE:
            spectrum = np.linalg.eigvalsh(matrix.toarray())
        else:
            spectrum = sparse.linalg.splu(matrix, **UNPIVOTED).U.diagonal()
        sound = np.isfinite(spectrum).all() and (spectrum != 0).all()
        if (spectrum < 0).sum() != (inertia < 0).sum() or not sound:
            raise indefinite(precision)

    def solve_at(self, b: Floats, sigma: float) -> Floats:
        tau = sigma**2 / (sigma**2 + self.floor)
        inside = self.factors(-tau).solve(self.w.T @ b)
        solved: Floats = (1 - tau) * (b + tau * (self.w @ inside))
        return solved

    def log_determinant_at(self, sigma: float) -> float:
        """N log(1 + σ²/δ) + log |det(S - τ WᵀW)|."""
        factors = self.factors(-(sigma**2) / (sigma**2 + self.floor))
        inside = np.log(np.abs(factors.U.diagonal())).sum()
        return float(self.w.shape[0] * np.log1p(sigma**2 / self.floor) + inside)


def common_floor(precision: ComposedPrecision) -> float | None:
    """δ if the covariances of all regions are of low rank plus the same δ I, or None."""
    floors = {getattr(block.precisions, "floor", None) for block in precision.blocks}
    return floors.pop() if len(floors) == 1 else None
