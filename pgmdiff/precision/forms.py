r"""The forms that covariances of regions take, and their inverses.

    dense                   Σ_r
    low rank + diagonal     Σ_r = U_r diag(s_r) U_rᵀ + δ I,  U_rᵀ U_r = I,  δ common to all regions
                            Σ_r⁻¹ = δ⁻¹ (I - U_r diag(g_r) U_rᵀ),     g = s / (s + δ)
    separable               Σ_r = C ⊗ S_r,  C common to all regions     Σ_r⁻¹ = C⁻¹ ⊗ S_r⁻¹

One object holds the matrices of all n regions of a group, or the one matrix that they share.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pgmdiff.errors import GraphError
from pgmdiff.linalg import correlations
from pgmdiff.text import by_field

__all__ = [
    "DenseCovariances",
    "DensePrecisions",
    "LowRankCovariances",
    "LowRankPrecisions",
    "RegionCovariances",
    "RegionPrecisions",
    "SeparableCovariances",
    "SeparablePrecisions",
    "by_region",
    "concatenated",
]

NEGLIGIBLE = 1e-13
"""Eigenvalues of correlations below this share of the largest count as 0."""

INDEFINITE = 1e-6
"""Share below whose negative an eigenvalue is none of rounding."""

Names = Callable[[int], Hashable]
"""Maps the row of a region in its group to the region's name."""


class RegionPrecisions(ABC):
    """The inverse covariances Σ_r⁻¹ of n regions of d elements, or the one that all share."""

    __repr__ = by_field

    @abstractmethod
    def times(self, v: Tensor) -> Tensor:
        """Σ_r⁻¹ v_r for v `[B, n, d]`."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrices, `[n or 1, d, d]`."""

    @cached_property
    def modes(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues `[n or 1, d]` and eigenvectors `[n or 1, d, d]` of Σ_r⁻¹, float64."""
        with torch.inference_mode(False):  # what is kept must serve autograd later
            dense = self.dense()
            values, vectors = torch.linalg.eigh(dense.double().cpu().clone())
        return values.clamp(min=0).to(dense.device), vectors.to(dense.device)

    def modes_of(self, rows: slice) -> tuple[Tensor, Tensor]:
        """The modes of some of the regions."""
        values, vectors = self.modes
        return (values, vectors) if self.shared else (values[rows], vectors[rows])

    def floored(self, v: Tensor, floor: Tensor, rows: slice) -> Tensor:
        """(Σ_r + f_r I)⁻¹ v_r of some of the regions, for v `[B, n, d]` and f `[B, n or 1]`."""
        values, vectors = self.modes_of(rows)
        along = by_region(v, vectors) * (values / (1 + floor[:, :, None] * values))
        return by_region(along, vectors.mT)

    @abstractmethod
    def log_determinants(self, sigma: Tensor) -> Tensor:
        """The log-determinants of I + σ² Σ_r⁻¹ for sigma `[B]`: float64 `[B, n or 1]`."""

    @abstractmethod
    def map(self, function: Callable[[Tensor], Tensor]) -> "RegionPrecisions":
        """A copy with a function applied to every tensor that has one row per region (or 1 row)."""

    @property
    @abstractmethod
    def shared(self) -> bool:
        """Whether all regions share one matrix."""

    def diagonal(self) -> Tensor:
        """The diagonals, `[n or 1, d]`."""
        return self.dense().diagonal(dim1=1, dim2=2)

    def to(self, device: torch.device, dtype: torch.dtype) -> "RegionPrecisions":
        """A copy on a device, in a dtype."""
        return self.map(lambda t: t.to(device, dtype))

    def rows(self, start: int, stop: int) -> "RegionPrecisions":
        """The inverses of the regions from `start` up to `stop`."""
        return self if self.shared else self.map(lambda t: t[start:stop])


@dataclass(frozen=True, eq=False, repr=False)
class DensePrecisions(RegionPrecisions):
    """Σ_r⁻¹ as matrices.

    Args:
        inverse: `[n or 1, d, d]`.
    """

    inverse: Tensor

    def times(self, v: Tensor) -> Tensor:
        return by_region(v, self.inverse)

    def dense(self) -> Tensor:
        return self.inverse

    def log_determinants(self, sigma: Tensor) -> Tensor:
        values, _ = self.modes
        return torch.log1p(_column(sigma, values) ** 2 * values).sum(dim=2)

    def map(self, function: Callable[[Tensor], Tensor]) -> "DensePrecisions":
        return DensePrecisions(function(self.inverse))

    @property
    def shared(self) -> bool:
        return len(self.inverse) == 1


@dataclass(frozen=True, eq=False, repr=False)
class LowRankPrecisions(RegionPrecisions):
    """Σ_r⁻¹ = δ⁻¹ (I - U_r diag(g_r) U_rᵀ).

    Args:
        vectors: U_r, with orthonormal columns, `[n or 1, d, k]`.
        gains: g_r in [0, 1), `[n or 1, k]`.
        floor: δ.
    """

    vectors: Tensor
    gains: Tensor
    floor: float

    def times(self, v: Tensor) -> Tensor:
        inside = by_region(by_region(v, self.vectors) * self.gains, self.vectors.mT)
        return (v - inside) / self.floor

    def floored(self, v: Tensor, floor: Tensor, rows: slice) -> Tensor:
        some = slice(None) if self.shared else rows
        vectors, gains = self.vectors[some], self.gains[some]
        own, total = self.floor * gains / (1 - gains), self.floor + floor[:, :, None]
        along = by_region(v, vectors) * (own / (own + total))
        return (v - by_region(along, vectors.mT)) / total

    def dense(self) -> Tensor:
        eye = torch.eye(self.vectors.shape[1]).to(self.vectors)
        return (eye - (self.vectors * self.gains[:, None]) @ self.vectors.mT) / self.floor

    def log_determinants(self, sigma: Tensor) -> Tensor:
        d, k = self.vectors.shape[1:]
        ratio = _column(sigma, self.gains) ** 2 / self.floor
        outside = (d - k) * torch.log1p(ratio)[:, :, 0]
        return outside + torch.log1p(ratio * (1 - self.gains)).sum(dim=2)

    def map(self, function: Callable[[Tensor], Tensor]) -> "LowRankPrecisions":
        return LowRankPrecisions(function(self.vectors), function(self.gains), self.floor)

    @property
    def shared(self) -> bool:
        return len(self.vectors) == 1


@dataclass(frozen=True, eq=False, repr=False)
class SeparablePrecisions(RegionPrecisions):
    """C⁻¹ ⊗ S_r⁻¹ on regions of [channels, places].

    Args:
        channels: C⁻¹, `[1, c, c]`.
        places: S_r⁻¹ of n regions.
    """

    channels: Tensor
    places: RegionPrecisions

    def times(self, v: Tensor) -> Tensor:
        return _separable(self.channels[0], self.places.times, v)

    def floored(self, v: Tensor, floor: Tensor, rows: slice) -> Tensor:
        values, vectors = torch.linalg.eigh(self.channels[0])

        def places(v: Tensor) -> Tensor:
            each = floor[:, None] * values[:, None]
            found = self.places.floored(v, each.flatten(0, 1), rows)
            scaled: Tensor = found * values.repeat(len(floor))[:, None, None]
            return scaled

        return _separable(vectors, lambda v: v, _separable(vectors.T, places, v))

    def dense(self) -> Tensor:
        return torch.stack([torch.kron(self.channels[0], s) for s in self.places.dense()])

    def log_determinants(self, sigma: Tensor) -> Tensor:
        values = torch.linalg.eigvalsh(self.channels[0].double())
        each = [self.places.log_determinants(sigma * value.sqrt().to(sigma)) for value in values]
        return torch.stack(each).sum(dim=0)

    def map(self, function: Callable[[Tensor], Tensor]) -> "SeparablePrecisions":
        return SeparablePrecisions(self.channels, self.places.map(function))

    def to(self, device: torch.device, dtype: torch.dtype) -> "SeparablePrecisions":
        return SeparablePrecisions(self.channels.to(device, dtype), self.places.to(device, dtype))

    @property
    def shared(self) -> bool:
        return self.places.shared


def concatenated(parts: Sequence[tuple[RegionPrecisions, int]]) -> RegionPrecisions:
    """One object for the regions of several, given with the number of regions of each."""
    low = [(p, n) for p, n in parts if isinstance(p, LowRankPrecisions)]
    if len(low) == len(parts) and len({(p.floor, p.gains.shape[1]) for p, _ in low}) == 1:
        vectors = torch.cat([p.vectors.expand(n, -1, -1) for p, n in low])
        gains = torch.cat([p.gains.expand(n, -1) for p, n in low])
        return LowRankPrecisions(vectors, gains, low[0][0].floor)
    inverse = torch.cat([p.dense().expand(n, -1, -1) for p, n in parts])
    return DensePrecisions(inverse)


def by_region(v: Tensor, matrices: Tensor) -> Tensor:
    """v_r M_r of n regions: `[B, n, k]` for v `[B, n, d]` and M `[n or 1, d, k]`."""
    if len(matrices) == 1:
        return v @ matrices[0]
    return (v.transpose(0, 1) @ matrices).transpose(0, 1)


def _separable(channels: Tensor, places: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    """(C ⊗ S_r) v_r for v `[B, n, c * places]`."""
    batch, n, c = len(v), v.shape[1], len(channels)
    apart = (channels @ v.reshape(batch, n, c, -1)).transpose(1, 2)
    inside = places(apart.reshape(batch * c, n, -1))
    return inside.reshape(batch, c, n, -1).transpose(1, 2).reshape(v.shape)


class RegionCovariances(ABC):
    """The covariances Σ_r of n regions of d elements, or the one that all share, in float64."""

    __repr__ = by_field

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrices, `[n or 1, d, d]`."""

    def times(self, v: Tensor) -> Tensor:
        """Σ_r v_r for v `[B, n, d]`."""
        return DensePrecisions(self.dense()).times(v)

    @abstractmethod
    def variances(self) -> Tensor:
        """The diagonals, `[n or 1, d]`."""

    @abstractmethod
    def inverse(self, names: Names) -> RegionPrecisions:
        """Σ_r⁻¹.

        Raises:
            GraphError: a covariance is singular, indefinite or not finite; its region is named.
        """


@dataclass(frozen=True, eq=False, repr=False)
class DenseCovariances(RegionCovariances):
    """Σ_r as matrices.

    Attributes:
        matrices: `[n, d, d]`, or `[1, d, d]` for all; float64.
    """

    matrices: Tensor

    def dense(self) -> Tensor:
        return self.matrices

    def variances(self) -> Tensor:
        return self.matrices.diagonal(dim1=1, dim2=2)

    def inverse(self, names: Names) -> DensePrecisions:
        infinite = ~self.matrices.isfinite().flatten(1).all(dim=1)
        if infinite.any():
            raise GraphError(
                f"Covariances: the covariance of {names(int(infinite.nonzero()[0]))!r} holds NaN "
                "or infinity. Remove states that are not finite before estimating it."
            )
        scaled, units = correlations(self.matrices)
        values, vectors = torch.linalg.eigh(scaled)
        floor = NEGLIGIBLE * values.abs().amax(dim=1, keepdim=True)
        if not (values > floor).all():
            row = int((values <= floor).any(dim=1).nonzero()[0])
            own = torch.linalg.eigvalsh(self.matrices[row])
            remedy = "Estimate it from more samples, or add to its diagonal (ridge=)."
            if values[row, 0] < -INDEFINITE * values[row, -1]:
                remedy = (
                    "No samples have such a covariance: if windows share it, parts of theirs that "
                    "should be alike are not, as of clips that begin alike. Cut clips at random "
                    "places, or fit form='stationary'; if that was done, give more states, or "
                    f"ridge={-2 * float(values.min()):.1g}."
                )
            raise GraphError(
                f"Covariances: the covariance of {names(row)!r} is singular or indefinite, its "
                f"eigenvalues go from {own.min():.3g} to {own.max():.3g}. {remedy}"
            )
        vectors = units[:, :, None] * vectors
        return DensePrecisions((vectors / values[:, None]) @ vectors.mT)


@dataclass(frozen=True, eq=False, repr=False)
class LowRankCovariances(RegionCovariances):
    """U_r diag(s_r) U_rᵀ + δ I.

    Args:
        factors: F_r with Σ_r = F_r F_rᵀ + δ I, `[n or 1, d, k]`; any rotation of U_r diag(s_r)^½.
        floor: δ, positive, the same for all regions of a graph.
    """

    factors: Tensor
    floor: float

    def times(self, v: Tensor) -> Tensor:
        inside = by_region(by_region(v, self.factors), self.factors.mT)
        return inside + self.floor * v

    def dense(self) -> Tensor:
        eye = torch.eye(self.factors.shape[1]).to(self.factors)
        return self.factors @ self.factors.mT + self.floor * eye

    def variances(self) -> Tensor:
        return (self.factors**2).sum(dim=2) + self.floor

    def inverse(self, names: Names) -> LowRankPrecisions:
        finite = self.factors.square().isfinite().flatten(1).all(dim=1)
        if not (finite.all() and 0 < self.floor < torch.inf):
            row = 0 if finite.all() else int((~finite).nonzero()[0])
            raise GraphError(
                f"Covariances: expected the low-rank covariance of {names(row)!r} with finite "
                f"factors and a positive δ, got δ = {self.floor:.3g}. Estimate it from more "
                "samples."
            )
        vectors, scales, _ = torch.linalg.svd(self.factors, full_matrices=False)
        return LowRankPrecisions(vectors, scales**2 / (scales**2 + self.floor), self.floor)


@dataclass(frozen=True, eq=False, repr=False)
class SeparableCovariances(RegionCovariances):
    """C ⊗ S_r on regions of [channels, places].

    Args:
        channels: C, `[c, c]`, the same for all regions of a graph.
        places: S_r.
    """

    channels: Tensor
    places: RegionCovariances

    def times(self, v: Tensor) -> Tensor:
        return _separable(self.channels, self.places.times, v)

    def dense(self) -> Tensor:
        return torch.stack([torch.kron(self.channels, places) for places in self.places.dense()])

    def variances(self) -> Tensor:
        own = self.channels.diagonal()
        return torch.stack([torch.kron(own, v) for v in self.places.variances()])

    def inverse(self, names: Names) -> SeparablePrecisions:
        whole = DenseCovariances(self.channels[None]).inverse(lambda _: "the channels")
        return SeparablePrecisions(whole.inverse, self.places.inverse(names))


def _column(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.double().to(like.device)[:, None, None]
