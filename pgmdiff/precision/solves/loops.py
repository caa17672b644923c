r"""Solves with the completion K on graphs with loops, and the fade towards the composed precision.

    s_K = (I + σ² K)⁻¹ (b - (K - P) v),      s_P' = (I + σ² P')⁻¹ (b - (P' - P) v)

P' = K + λ (P - K), with λ = 1 where I + σ² P is well definite, and else the largest λ < 1 for which
I + σ² P' is at least a tenth of I + σ² K.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from pgmdiff.errors import ScoreError
from pgmdiff.linalg import Floats, keep
from pgmdiff.precision.precision import Assembled, ComposedPrecision
from pgmdiff.precision.solves.base import IndefiniteError, Placed, Solve, levels_kept
from pgmdiff.precision.solves.choice import solver_of
from pgmdiff.precision.solves.direct import Eigen
from pgmdiff.precision.solves.iterative import ConjugateGradients, Products
from pgmdiff.text import by_field, described

__all__ = ["Fading", "LargeLoops", "Loops"]

NEGLIGIBLE = 1e-12
"""Share of s_P' that is left out of the blend."""
ONE_UNIT = 1e4
"""Ratio of the diagonal entries of K above which solves are refined."""
DEFINITE = 0.1
"""Least share of I + σ² K that I + σ² P' keeps in every direction."""
ROUGH = 0.05
"""Relative accuracy of the eigenvalue that tells λ of a large graph, half of `DEFINITE`."""


@dataclass(frozen=True, eq=False)
class Level(Placed):
    """What one noise level requires.

    Attributes:
        inverse: (I + σ² P')⁻¹, `[N, N]`, or a solve with P'.
        kept: λ.
    """

    inverse: Tensor | Solve
    kept: float

    __repr__ = by_field

    def __call__(self, b: Tensor, sigma: Tensor) -> Tensor:
        """(I + σ² P')⁻¹ b for b `[B, N]` and sigma `[B]`, which is this level."""
        if isinstance(self.inverse, Tensor):
            product: Tensor = b @ self.placed(b, self.inverse.to, "inverse")
            return product
        return self.inverse(b, sigma)


class Fading(Solve):
    """Solves with K, and the fade towards P'."""

    @abstractmethod
    def pulled(self, v: Tensor) -> Tensor:
        """(K - P) v for v `[B, N]`, float64."""

    @abstractmethod
    def _computed(self, sigma: float) -> Level:
        """What a noise level requires."""

    @property
    @abstractmethod
    def log_volume(self) -> float:
        """The log-determinant of K."""

    def level(self, sigma: float) -> Level:
        """What a noise level requires, kept for the latest few."""
        found: Level | None = self._kept.get(sigma)
        if found is None:
            with torch.inference_mode(False), torch.no_grad():
                found = self._computed(sigma)
        size = found.inverse.nbytes if isinstance(found.inverse, Tensor) else 0
        return keep(self._kept, sigma, found, levels_kept(size // 2))  # they take long to make

    def faded(self, b: Tensor, v: Tensor, fade: Tensor, sigma: Tensor) -> Tensor:
        """The blend w s_K + (1 - w) s_P', `[B, N]`.

        Args:
            b, v: `[B, N]`.
            fade: w, `[B]`.
            sigma: `[B]`.

        Raises:
            ScoreError: a gradient with respect to σ is required where w < 1.
        """
        pulled = self.pulled(v)
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
            blend = w * score[rows] + (1 - w) * known(right, sigma[rows])
            score = score.index_copy(0, rows, blend)
        return score


class Loops(Fading, Eigen):
    """K by one eigendecomposition for every σ, and P' by another, or by an inverse per σ if λ < 1.

    Args:
        completion: K, positive definite, float64 `[N, N]`.
        composed: P.

    Raises:
        IndefiniteError: K is not positive definite.
    """

    remade = (*Fading.remade, "_far")

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

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        # Eigenvectors mix elements of different units; one step of refinement restores each.
        found = Eigen.__call__(self, b, sigma)
        if self.one_unit:
            return found
        completion = self.placed(b, self.completion.to, "completion")
        left = b - found - sigma[:, None] ** 2 * (found @ completion)
        return found + Eigen.__call__(self, left, sigma)

    def pulled(self, v: Tensor) -> Tensor:
        product: Tensor = v @ self.placed(v, self.gap.to, "gap")
        return product

    @property
    def log_volume(self) -> float:
        return float(self.values.log().sum())

    def _computed(self, sigma: float) -> Level:
        if self._far is not None:
            return self._far
        # root rootᵀ = (I + σ² K)⁻¹
        top = sigma**2 * self._largest(self.vectors / (1 + sigma**2 * self.values).sqrt())
        kept = 1.0 if top <= 1 - DEFINITE else (1 - DEFINITE) / top
        matrix = torch.eye(len(self.gap)).to(self.gap)
        matrix = matrix + sigma**2 * (self.completion - kept * self.gap)
        return Level(torch.cholesky_inverse(torch.linalg.cholesky(matrix)), kept)

    @cached_property
    def _far(self) -> Level | None:
        """What every level requires where λ = 1 at σ = ∞, and so at all: one solve with P.

        It is None also where the eigenvectors of P would mix elements of different units.
        """
        if self.one_unit and self._largest(self.vectors / self.values.sqrt()) <= 1 - DEFINITE:
            return Level(Eigen(self.completion - self.gap), 1.0)
        return None

    def _largest(self, root: Tensor) -> float:
        """The largest eigenvalue of rootᵀ (K - P) root."""
        relative = root.T @ self.gap @ root
        if len(relative) <= 200:
            return float(torch.linalg.eigvalsh(relative)[-1])
        options = {"which": "LA", "v0": np.ones(len(relative)), "tol": 1e-3}
        return float(sparse.linalg.eigsh(relative.numpy(), 1, **options)[0][0])


class LargeLoops(Fading):
    """K of a large graph by the solve that suits it, and one P' for every σ, a tenth of K at least.

    Args:
        solve: solves with K.
        completion: K.
        composed: P.
    """

    def __init__(
        self, solve: Solve, completion: ComposedPrecision, composed: ComposedPrecision
    ) -> None:
        self.solve, self.completion, self.composed = solve, completion, composed
        self.gap = Products(self._between(-1.0))

    def __repr__(self) -> str:
        return described(self, repr(self.solve))

    def _between(self, kept: float) -> Assembled:
        """(1 - λ) K + λ P; K - P for λ = -1."""
        shares = (1.0, -1.0) if kept == -1 else (1 - kept, kept)
        sums = zip(shares, (self.completion, self.composed), strict=True)
        parts = [replace(b, counts=share * b.counts) for share, p in sums for b in p.blocks]
        return Assembled(self.composed.graph, self.composed.covariances, parts=tuple(parts))

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        return self.solve(b, sigma)

    def for_many(self) -> Solve:
        return self.solve.for_many()

    def log_determinant(self, sigma: Tensor) -> Tensor:
        return self.solve.log_determinant(sigma)

    @property
    def log_volume(self) -> float:
        level, variances = self.composed.far, self.composed.variances  # diagonal of K⁻¹
        whole = self.solve.log_determinant(level[None]) - 2 * len(variances) * level.log()
        return float(whole - variances.sum() / level**2)

    @property
    def residual(self) -> float:
        return self.solve.residual

    def pulled(self, v: Tensor) -> Tensor:
        return self.gap(v)

    def _computed(self, sigma: float) -> Level:
        return self._near

    @cached_property
    def _near(self) -> Level:
        """P' for all levels, with the largest eigenvalue of K⁻¹ (K - P) to a few per cent."""
        n, level, solve = len(self.composed.variances), self.composed.far[None], self.solve
        if isinstance(solve, ConjugateGradients):
            solve = ConjugateGradients(self.completion, tolerance=ROUGH**4)

        def operator(product: Callable[[Tensor], Tensor]) -> Any:
            def matvec(v: Floats) -> Floats:
                found: Floats = product(torch.from_numpy(v.reshape(1, -1))).numpy().ravel()
                return found

            return sparse.linalg.LinearOperator((n, n), matvec, dtype=np.float64)

        top = sparse.linalg.eigsh(
            operator(self.gap),
            1,
            operator(Products(self.completion)),
            Minv=operator(lambda v: level**2 * solve(v, level)),
            which="LA",
            v0=np.random.default_rng(0).standard_normal(n),
            tol=ROUGH,
            return_eigenvectors=False,
        )[0]
        kept = min(1.0, (1 - DEFINITE) / max(float(top), 0.1))
        return Level(solver_of(self._between(kept)), kept)
