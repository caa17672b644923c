r"""The choice of a solve with I + σ² P, by structure and size: the first that applies.

    `Channelwise`         Σ_r = C ⊗ S_r: one solve of the places per channel of C's eigenbasis
    `Eigen`               a small state: one eigendecomposition serves every σ
    `SmallSpace`          low rank plus δ I, in the space of all regions' directions
    `Circulant`           periodic windows that share their covariances: P repeats with the stride,
                          and Fourier transforms over the shifts leave one small block per frequency
    `BlockTree`           regions in a row, such as windows along one axis, or on a tree: block
                          Cholesky factors
    `SparseFactors`       any other junction tree, with separators within separators: sparse LU
    `ConjugateGradients`  all else: products, started from the marginal rule's score, and
                          preconditioned by regions; where they do not converge, sparse LU, if P
                          fits into memory

`BlockTree` needs no copies to the CPU. On a CPU it makes the factors of a new σ two to four times
as fast as `SparseFactors` for cliques of 16 elements and more, from 10,000 elements on, and those
of stars tens of times. Only for nodes of one or two elements, and states of a thousand, sparse LU
with kept factors solves several times as fast: milliseconds, which the models' calls exceed.

Factors are made once per graph and σ, serve the whole batch, and are kept for as many of the latest
σ as fit into 256 MiB, at most 64.
"""

from copy import copy

import torch
from torch import Tensor

from pgmdiff.precision.covariances import Separable, without_channels
from pgmdiff.precision.precision import Assembled, ComposedPrecision, on_junction_tree
from pgmdiff.precision.solves.base import SMALL, Solve
from pgmdiff.precision.solves.blocks import BlockTree, nodes_of
from pgmdiff.precision.solves.circulant import Circulant, shifts
from pgmdiff.precision.solves.direct import Eigen, SparseFactors
from pgmdiff.precision.solves.iterative import ConjugateGradients
from pgmdiff.precision.solves.small_space import SmallSpace, common_floor

__all__ = ["Channelwise", "solver_of"]


def solver_of(precision: ComposedPrecision) -> Solve:
    """The solve that suits a graph and its covariances; see the module for the order.

    All but `ConjugateGradients`, the last, are exact up to rounding.

    Args:
        precision: P, which knows its graph and covariances.

    Raises:
        IndefiniteError: P is not positive definite.
    """
    graph = precision.graph
    if isinstance(precision.covariances, Separable) and not isinstance(precision, Assembled):
        return Channelwise(precision)
    if graph.n_elements <= SMALL:
        return Eigen(precision)
    if common_floor(precision) is not None:
        return SmallSpace(precision)
    periods = shifts(precision)
    if periods is not None:
        return Circulant(precision, periods)
    nodes = nodes_of(precision)
    if nodes is not None:
        return BlockTree(precision, nodes)
    if on_junction_tree(graph):
        return SparseFactors(precision)
    return ConjugateGradients(precision)


class Channelwise(Solve):
    """Σ_r = C ⊗ S_r, so P = C⁻¹ ⊗ P_S: solved in the eigenbasis of C, channel by channel.

    With C = V diag(μ) Vᵀ a rotated channel solves with I + (σ²/μ) P_S, and all are one batch.

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
        places = ComposedPrecision(inner, given.places)
        self.values, self.vectors = torch.linalg.eigh(given.channels)
        self.places = solver_of(places)
        self.uses_start = self.places.uses_start

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        levels = sigma[:, None] / self.values.sqrt().to(b)
        guess = None if start is None else self._rotated(start, self.vectors.T)
        solved = self.places(self._rotated(b, self.vectors.T), levels.reshape(-1), guess)
        return self._rotated(solved, self.vectors).reshape(b.shape)

    def for_many(self) -> Solve:
        found = copy(self)
        found.places = self.places.for_many()
        return found

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
