r"""Solves with I + σ² P, chosen by structure and size.

    `Eigen`               a small state: one eigendecomposition serves every σ
    `Channelwise`         Σ_r = C ⊗ S_r: one solve of the places a channel of C's eigenbasis
    `Circulant`           periodic windows that share their covariances: P repeats with the stride,
                          and Fourier transforms over the shifts leave one small block a frequency
    `SmallSpace`          low rank plus δ I, in the space of all regions' directions
    `SparseFactors`       a junction tree: block elimination along it, linear in a chain's length
    `ConjugateGradients`  all else: only products, started from the marginal rule's score

Factors are made once a (graph, σ) and serve the whole batch.
"""

from collections import OrderedDict

import torch
from torch import Tensor

from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.precision.covariances import Separable, without_channels
from pgmdiff.precision.precision import ComposedPrecision, LevelledPrecision, Precision
from pgmdiff.precision.solves.base import KEPT_FACTORS, SMALL, SPARSE_ENTRIES, Solve
from pgmdiff.precision.solves.circulant import Circulant, shifts
from pgmdiff.precision.solves.direct import Eigen, SparseFactors
from pgmdiff.precision.solves.iterative import ConjugateGradients
from pgmdiff.precision.solves.small_space import SmallSpace, common_floor

__all__ = ["Channelwise", "PerLevel", "solver_of"]


def solver_of(precision: Precision) -> Solve:
    """The solve that suits a graph and its covariances.

    In this order: `PerLevel` if they depend on σ; `Channelwise` if they are channels times places;
    `Eigen` for small states; `SmallSpace` for low rank plus a common floor; `Circulant` for
    periodic windows; `SparseFactors` on junction trees; `ConjugateGradients` elsewhere. All but the
    last are exact up to rounding.

    Args:
        precision: P, which knows its graph and covariances.

    Raises:
        IndefiniteError: P is not positive definite.
    """
    if isinstance(precision, LevelledPrecision):
        return PerLevel(precision)
    assert isinstance(precision, ComposedPrecision)
    if isinstance(precision.covariances, Separable):
        return Channelwise(precision)
    if precision.graph.n_elements <= SMALL:
        return Eigen(precision)
    if common_floor(precision) is not None:
        return SmallSpace(precision)
    periods = shifts(precision)
    if periods is not None:
        return Circulant(precision, periods)
    if _is_tree(precision.graph) and precision.n_entries <= SPARSE_ENTRIES:
        return SparseFactors(precision)
    return ConjugateGradients(precision)


def _is_tree(graph: RegionGraph) -> bool:
    known = graph.junction_tree
    return bool(graph.validate().junction_tree if known is None else known)


class Channelwise(Solve):
    """Σ_r = C ⊗ S_r, so P = C⁻¹ ⊗ P_S: in the eigenbasis of C, channel by channel.

    With C = V diag(μ) Vᵀ a rotated channel solves with I + (σ²/μ) P_S, all in one batch.

    Args:
        precision: P of `Separable` covariances.

    Raises:
        IndefiniteError: P is not positive definite.
    """

    def __init__(self, precision: ComposedPrecision) -> None:
        given = precision.covariances
        assert isinstance(given, Separable)
        inner = without_channels(precision.graph)
        self.n_places = inner.n_elements
        places = ComposedPrecision(inner, given.places, precision.shrinkage, precision.jitter)
        self.values, self.vectors = torch.linalg.eigh(given.channels)
        self.places = solver_of(places)
        self.uses_start = self.places.uses_start

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        levels = sigma[:, None] / self.values.sqrt().to(b)
        guess = None if start is None else self._rotated(start, self.vectors.T)
        solved = self.places(self._rotated(b, self.vectors.T), levels.reshape(-1), guess)
        return self._rotated(solved, self.vectors).reshape(b.shape)

    def _rotated(self, v: Tensor, rotation: Tensor) -> Tensor:
        turned: Tensor = rotation.to(v) @ v.reshape(-1, len(rotation), self.n_places)
        return turned.reshape(-1, self.n_places)

    def log_determinant(self, sigma: Tensor) -> Tensor:
        levels = sigma.double()[:, None] / self.values.sqrt().to(sigma.device)
        each = self.places.log_determinant(levels.reshape(-1))
        return each.reshape(levels.shape).sum(dim=1)

    @property
    def residual(self) -> float:
        return self.places.residual


class PerLevel(Solve):
    """P depends on σ: a solve for each of the latest few σ.

    Derivatives with respect to σ leave out that of P(σ).

    Args:
        precision: P(σ), whose every level is tested.

    Raises:
        IndefiniteError: P is not positive definite.
    """

    def __init__(self, precision: LevelledPrecision) -> None:
        self.precision = precision
        self.parts = tuple(solver_of(part) for part in precision.parts)  # tests each of them
        self._kept: OrderedDict[float, Solve] = OrderedDict()
        self._residual = 0.0

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        out, self._residual = torch.zeros_like(b), 0.0
        for level in sigma.detach().unique().tolist():
            rows = (sigma == level).nonzero()[:, 0]
            solve = self._at(level)
            guess = None if start is None else start[rows]
            out = out.index_copy(0, rows, solve(b[rows], sigma[rows], guess))
            self._residual = max(self._residual, solve.residual)
        return out

    def log_determinant(self, sigma: Tensor) -> Tensor:
        each = [self._at(s).log_determinant(sigma.new_tensor([s])) for s in sigma.tolist()]
        return torch.cat(each) if each else sigma.double()

    def _at(self, sigma: float) -> Solve:
        if sigma not in self._kept:
            with torch.inference_mode(False):
                self._kept[sigma] = solver_of(self.precision.at(sigma))
            if len(self._kept) > KEPT_FACTORS:
                self._kept.popitem(last=False)
        return self._kept[sigma]

    @property
    def residual(self) -> float:
        return self._residual
