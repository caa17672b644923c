r"""The composed precision of a graph, and whether it is positive definite.

    P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r          (Σ_r the clean data covariance of region r)

On a junction tree P ≻ 0 if all covariances are read off one positive definite estimate. On loops
it can be indefinite. Then, in this order, and only when asked for:

    jitter     Σ_r + ε m I, m the mean variance
    shrinkage  (1 - λ) Σ_r + λ A_r M A_rᵀ, M the common diagonal of mean variances; λ = 1 is the
               marginal rule; λ* is the least such that P ≻ 0 for all of [λ*, 1]
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from pgmdiff.errors import GraphError
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.precision.covariances import Covariances, DenoisingErrors
from pgmdiff.precision.forms import (
    Change,
    Interpolated,
    Inverted,
    RegionCovariances,
    RegionPrecisions,
)
from pgmdiff.text import brief, counted, described, span

__all__ = ["Block", "ComposedPrecision", "LevelledPrecision", "Precision"]


@dataclass(frozen=True, eq=False)
class Block:
    """A group's regions of nonzero count.

    Attributes:
        group: the regions.
        index: int64 `[n, d]`.
        counts: float64 `[n]`.
        precisions: Σ_r⁻¹ of them.
    """

    group: RegionGroup
    index: Tensor
    counts: Tensor
    precisions: RegionPrecisions

    def __repr__(self) -> str:
        n, d = self.index.shape
        return described(self, f"{counted(n, 'region')} of {counted(d, 'element')}")


class Precision(ABC):
    """What posterior composition needs to know of a graph's covariances."""

    graph: RegionGraph
    shrinkage: float
    jitter: float

    @abstractmethod
    def inverse(self, group: RegionGroup) -> RegionPrecisions:
        """Σ_r⁻¹ of a group's regions, after jitter and shrinkage."""

    @abstractmethod
    def log_determinants(self, sigma: Tensor) -> Tensor:
        """Σ_r c_r log det(I + σ² Σ_r⁻¹) for sigma `[B]`: float64 `[B]`."""

    @abstractmethod
    def shrunk(self, shrinkage: float, jitter: float = 0.0) -> "Precision":
        """The same with λ and jitter."""


@dataclass(frozen=True, eq=False)
class ComposedPrecision(Precision):
    """P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r of a graph, in float64.

    Args:
        graph: valid.
        covariances: of its regions.
        shrinkage: λ in [0, 1].
        jitter: ε, at least 0.
        level: σ at which the covariances were measured; None: they do not depend on it.

    Raises:
        GraphError: a region has no covariance, or a singular one; λ or ε out of range.
        ShapeError: a covariance of another shape.
    """

    graph: RegionGraph
    covariances: Covariances
    shrinkage: float = 0.0
    jitter: float = 0.0
    level: float | None = None
    _inverses: dict[object, RegionPrecisions] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return described(
            self,
            repr(self.graph),
            brief(self.covariances, 60),
            f"shrinkage={self.shrinkage:.3g}",
            f"jitter={self.jitter:.3g}",
        )

    def __post_init__(self) -> None:
        if not 0 <= self.shrinkage <= 1:
            raise GraphError(f"Posterior: expected a shrinkage from 0 to 1, got {self.shrinkage}.")
        if not 0 <= self.jitter < float("inf"):
            raise GraphError(f"Posterior: expected a jitter of at least 0, got {self.jitter}.")
        _ = self.blocks  # its errors belong to construction

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The counted regions, group by group."""
        return tuple(self._blocks())

    def _blocks(self) -> Iterator[Block]:
        for group, index in self._counted():
            counts = torch.from_numpy(group.counts / self.graph.denominator)
            yield Block(group, index, counts, self.inverse(group))

    def _counted(self) -> Iterator[tuple[RegionGroup, Tensor]]:
        """The regions of nonzero count of every group, and their elements `[n, d]`."""
        for group in self.graph.groups:
            rows = np.flatnonzero(group.counts)
            if len(rows):
                some = group.select(rows)
                yield some, some.indices(0, len(some)).reshape(len(some), -1)

    def inverse(self, group: RegionGroup) -> RegionPrecisions:
        """Kept: the plan asks again for what P was made of."""
        key = (group.model, group.shape, *group.names)
        if key not in self._inverses:
            self._inverses[key] = self._changed(group).inverse(group.name)
        return self._inverses[key]

    def _changed(self, group: RegionGroup) -> RegionCovariances:
        form = self.covariances.form(group)
        if self.shrinkage == 0 == self.jitter:
            return form
        index = group.indices(0, len(group)).reshape(len(group), -1)
        change = Change(self.shrinkage, self.jitter, float(self.variances.mean()))
        return form.shrunk(change, self.variances[index])

    @cached_property
    def variances(self) -> Tensor:
        """Every element's variance, averaged over the counted regions that hold it."""
        total = torch.zeros(2, self.graph.n_elements, dtype=torch.float64)
        for group, index in self._counted():
            variances = self.covariances.form(group).variances().expand(index.shape)
            total[0].index_add_(0, index.reshape(-1), variances.reshape(-1))
            total[1].index_add_(0, index.reshape(-1), torch.ones_like(variances).reshape(-1))
        return total[0] / total[1]

    def shrunk(self, shrinkage: float, jitter: float = 0.0) -> "ComposedPrecision":
        return replace(self, shrinkage=shrinkage, jitter=jitter, _inverses={})

    @property
    def n_entries(self) -> int:
        """Entries of all region precisions together, were they dense."""
        return sum(block.index.shape[0] * block.index.shape[1] ** 2 for block in self.blocks)

    def sparse(self) -> "sparse.csc_array":
        """P, assembled: float64 `[N, N]`."""
        n = self.graph.n_elements
        total = sparse.csc_array((n, n))
        for block in self.blocks:
            values = (block.counts[:, None, None] * block.precisions.dense()).numpy()
            rows = block.index[:, :, None].expand(values.shape).numpy().ravel()
            columns = block.index[:, None].expand(values.shape).numpy().ravel()
            total = total + sparse.coo_array((values.ravel(), (rows, columns)), (n, n)).tocsc()
        return total

    def dense(self) -> Tensor:
        """P, assembled: float64 `[N, N]`."""
        total = torch.zeros((self.graph.n_elements,) * 2, dtype=torch.float64)
        for block in self.blocks:
            values = block.counts[:, None, None] * block.precisions.dense()
            rows, columns = block.index[:, :, None], block.index[:, None]
            total.index_put_((rows, columns), values, accumulate=True)
        return total

    def log_determinants(self, sigma: Tensor) -> Tensor:
        total = torch.zeros_like(sigma, dtype=torch.float64)
        for block in self.blocks:
            logs = block.precisions.log_determinants(sigma.cpu()).expand(-1, len(block.counts))
            total = total + (logs @ block.counts).to(total.device)
        return total


@dataclass(frozen=True, eq=False)
class LevelledPrecision(Precision):
    """P(σ) of covariances that depend on σ: linear in log σ between levels, constant beyond.

    Definite at every σ if it is at all levels.

    Args:
        levels: ascending.
        parts: P at each of them.
    """

    levels: tuple[float, ...]
    parts: tuple[ComposedPrecision, ...]

    def __repr__(self) -> str:
        return described(
            self,
            repr(self.graph),
            span(self.levels, "level"),
            f"shrinkage={self.shrinkage:.3g}",
            f"jitter={self.jitter:.3g}",
        )

    @classmethod
    def of(
        cls, graph: RegionGraph, errors: DenoisingErrors, shrinkage: float, jitter: float
    ) -> "LevelledPrecision":
        """P(σ) of averaged denoising errors."""
        each = zip(errors.levels, errors.at, strict=True)
        parts = (ComposedPrecision(graph, at, shrinkage, jitter, sigma) for sigma, at in each)
        return cls(errors.levels, tuple(parts))

    @property
    def graph(self) -> RegionGraph:  # type: ignore[override]
        return self.parts[0].graph

    @property
    def shrinkage(self) -> float:  # type: ignore[override]
        return self.parts[0].shrinkage

    @property
    def jitter(self) -> float:  # type: ignore[override]
        return self.parts[0].jitter

    def inverse(self, group: RegionGroup) -> Interpolated:
        return Interpolated(self.levels, tuple(part.inverse(group) for part in self.parts))

    def at(self, sigma: float) -> ComposedPrecision:
        """P(σ) at one noise level."""
        return ComposedPrecision(self.graph, _At(self, sigma), level=sigma)

    def log_determinants(self, sigma: Tensor) -> Tensor:
        each = (self.at(s).log_determinants(sigma.new_tensor([s])) for s in sigma.tolist())
        return torch.cat(tuple(each)) if len(sigma) else sigma.double()

    def shrunk(self, shrinkage: float, jitter: float = 0.0) -> "LevelledPrecision":
        parts = (part.shrunk(shrinkage, jitter) for part in self.parts)
        return LevelledPrecision(self.levels, tuple(parts))


@dataclass(frozen=True)
class _At(Covariances):
    """The covariances of a `LevelledPrecision` at one σ."""

    precision: LevelledPrecision
    sigma: float

    def of(self, group: RegionGroup) -> Inverted:
        return Inverted(self.precision.inverse(group).at(self.sigma))
