r"""Solves with the completion K on graphs with loops, and the fade towards the composed precision.

    s_K = (I + σ² K)⁻¹ (b - (K - P) v),      s_P' = (I + σ² P')⁻¹ (b - (P' - P) v)

P' = K + λ (P - K), with λ = 1 where I + σ² P is well definite, and else the largest λ < 1 for which
I + σ² P' is at least a tenth of I + σ² K.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from pgmdiff.errors import ScoreError
from pgmdiff.linalg import keep
from pgmdiff.precision.solves.base import IndefiniteError
from pgmdiff.precision.solves.direct import Eigen
from pgmdiff.text import by_field

__all__ = ["Loops"]

NEGLIGIBLE = 1e-12
"""Share of s_P' that is left out of the blend."""
KEPT_LEVELS = 32
"""Number of noise levels whose inverses are kept."""
ONE_UNIT = 1e4
"""Ratio of the diagonal entries of K above which solves are refined."""
DEFINITE = 0.1
"""Least share of I + σ² K that I + σ² P' keeps in every direction."""


@dataclass(frozen=True, eq=False)
class Level:
    """What one noise level requires.

    Attributes:
        inverse: (I + σ² P')⁻¹, `[N, N]`.
        kept: λ.
    """

    inverse: Tensor
    kept: float

    __repr__ = by_field


class Loops(Eigen):
    """K by one eigendecomposition for every σ, and P' by an inverse per σ.

    Args:
        completion: K, positive definite, float64 `[N, N]`.
        composed: P.

    Raises:
        IndefiniteError: K is not positive definite.
    """

    def __init__(self, completion: Tensor, composed: Tensor) -> None:
        self.values, self.vectors = torch.linalg.eigh(completion)
        if len(self.values) and not self.values[0] > 0:
            raise IndefiniteError(
                "Covariances: the completion is not positive definite, its smallest eigenvalue is "
                f"{self.values[0]:.3g}. Regions that are conditioned on observations require "
                "covariances smaller than those of the prior."
            )
        self.gap = completion - composed
        self.completion = completion
        diagonal = completion.diagonal()
        self.one_unit = not len(diagonal) or bool(diagonal.max() < ONE_UNIT * diagonal.min())
        self._levels: dict[float, Level] = {}

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        # Eigenvectors mix elements of different units; one step of refinement restores each.
        found = super().__call__(b, sigma)
        if self.one_unit:
            return found
        completion = self.placed(b, self.completion.to, "completion")
        left = b - found - sigma[:, None] ** 2 * (found @ completion)
        return found + super().__call__(left, sigma)

    def level(self, sigma: float) -> Level:
        """What a noise level requires, kept for the latest few."""
        found = self._levels.get(sigma) or self._computed(sigma)
        return keep(self._levels, sigma, found, KEPT_LEVELS)

    def _computed(self, sigma: float) -> Level:
        n, gap = len(self.gap), sigma**2 * self.gap
        root = self.vectors / (1 + sigma**2 * self.values).sqrt()  # root rootᵀ = (I + σ² K)⁻¹
        relative = root.T @ gap @ root
        if n > 200:
            options = {"which": "LA", "v0": np.ones(n), "tol": 1e-3}
            top = float(sparse.linalg.eigsh(relative.numpy(), 1, **options)[0][0])
        else:
            top = float(torch.linalg.eigvalsh(relative)[-1])
        kept = 1.0 if top <= 1 - DEFINITE else (1 - DEFINITE) / top
        matrix = torch.eye(n).to(gap) + sigma**2 * self.completion - kept * gap
        return Level(torch.linalg.inv(matrix), kept)

    def faded(self, b: Tensor, v: Tensor, fade: Tensor, sigma: Tensor) -> Tensor:
        """The blend w s_K + (1 - w) s_P', `[B, N]`.

        Args:
            b, v: `[B, N]`.
            fade: w, `[B]`.
            sigma: `[B]`.

        Raises:
            ScoreError: a gradient with respect to σ is required where w < 1.
        """
        pulled = v @ self.placed(b, self.gap.to, "gap")
        score, faded = self(b - pulled, sigma), 1 - fade > NEGLIGIBLE
        if torch.is_grad_enabled() and sigma.requires_grad and faded.any():
            raise ScoreError(
                "Joint: on graphs with loops, where data is not Gaussian, the score has no "
                "gradient with respect to σ. Detach sigma."
            )
        for level in sigma[faded].unique().tolist():
            rows = (faded & (sigma == level)).nonzero()[:, 0]
            known, w = self.level(level), fade[rows, None]
            right = b[rows] - (1 - known.kept) * pulled[rows]
            blend = w * score[rows] + (1 - w) * (right @ known.inverse.to(b))
            score = score.index_copy(0, rows, blend)
        return score
