r"""Where the covariances of regions come from: providers of one interface.

    given                        `Dense`
    one streamed estimate        `Pooled` (dense), `LowRank`          made by `fit_covariances`
    shift-invariant              `Stationary`: Σ_r[i, j] = γ(i - j)   (Toeplitz on windows)
    channels ⊗ places            `Separable`
    averaged denoising errors    `DenoisingErrors`: V_r(σ) = E (u_0 - D_r)(u_0 - D_r)ᵀ

Every one reads sub-regions off what it holds for their parents, so that they agree.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from pgmdiff.errors import GraphError, ShapeError
from pgmdiff.graphs.groups import IndexGroup, RegionGroup, WindowGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.precision.forms import (
    DenseCovariances,
    LowRankCovariances,
    RegionCovariances,
    SeparableCovariances,
)
from pgmdiff.text import brief, counted, described, span

__all__ = [
    "Covariances",
    "DenoisingErrors",
    "Dense",
    "LowRank",
    "Place",
    "Pooled",
    "Separable",
    "Stationary",
    "without_channels",
]


class Covariances(ABC):
    """Where the covariances of regions come from."""

    @abstractmethod
    def of(self, group: RegionGroup) -> Tensor | RegionCovariances:
        """Clean covariances of a group's regions: float64 `[n, d, d]`, flattened as models see it.

        `[1, d, d]` where all regions of the group share one; or one of the `forms`.
        """

    def form(self, group: RegionGroup) -> RegionCovariances:
        """The same, as a form."""
        given = self.of(group)
        return DenseCovariances(given) if isinstance(given, Tensor) else given


@dataclass(frozen=True)
class Dense(Covariances):
    """Given one by one.

    Args:
        matrices: region name, or model id, to `[d, d]`; names come first.
    """

    matrices: Mapping[Any, Tensor] = field(repr=False)

    def __repr__(self) -> str:
        return described(self, counted(len(self.matrices), "matrix", "matrices"))

    def of(self, group: RegionGroup) -> Tensor:
        d = prod(group.shape)
        if group.model is not None and not any(name in self.matrices for name in group.names):
            return self._checked(group.model, group.name(0), d)[None]
        found = (name if name in self.matrices else group.model for name in group.names)
        named = zip(group.names, found, strict=True)
        return torch.stack([self._checked(key, name, d) for name, key in named])

    def _checked(self, key: Hashable, name: Hashable, d: int) -> Tensor:
        if key not in self.matrices:
            raise GraphError(
                f"Posterior: region {name!r} has no covariance. Give one by its name or model id; "
                "that of a sub-region can be read off a region around it, or fit_covariances."
            )
        matrix = torch.as_tensor(self.matrices[key]).detach()
        if tuple(matrix.shape) != (d, d):
            raise ShapeError(
                f"Posterior: expected the covariance of {name!r} as [{d}, {d}], got "
                f"{tuple(matrix.shape)}. Flatten the region in the order its model sees."
            )
        return (matrix + matrix.T).double().cpu() / 2


@dataclass(frozen=True, eq=False)
class Place:
    """Where a region lies in what was estimated.

    Attributes:
        kind: key of the estimate.
        places: its elements there, `[d]`.
    """

    kind: Hashable
    places: Tensor

    def __repr__(self) -> str:
        return described(self, brief(self.kind), counted(self.places.numel(), "place"))


@dataclass(frozen=True)
class Pooled(Covariances):
    """Dense covariances estimated together; see `fit_covariances`.

    Attributes:
        outer: kind of outer region (its name, or its model where all of a model share one) to its
            `[d, d]` covariance, float64.
        parents: region name to its place in an outer one.
    """

    outer: Mapping[Hashable, Tensor] = field(repr=False)
    parents: Mapping[Hashable, Place] = field(repr=False)

    def __repr__(self) -> str:
        return described(self, _kinds(self.outer), counted(len(self.parents), "region"))

    def of(self, group: RegionGroup) -> Tensor:
        found = [_parent(self.parents, name) for name in group.names]
        if _alike(found):
            found = found[:1]
        return torch.stack([self.outer[p.kind][p.places][:, p.places] for p in found])


@dataclass(frozen=True)
class LowRank(Covariances):
    """F_r F_rᵀ + δ I estimated together, for regions of thousands of elements.

    Attributes:
        outer: kind of outer region to its factor F `[d, k]`, float64.
        floor: δ.
        parents: region name to its place in an outer one.
    """

    outer: Mapping[Hashable, Tensor] = field(repr=False)
    floor: float
    parents: Mapping[Hashable, Place] = field(repr=False)

    def __repr__(self) -> str:
        rank = max((factor.shape[1] for factor in self.outer.values()), default=0)
        return described(
            self,
            _kinds(self.outer),
            f"rank {rank}",
            f"floor={self.floor:.3g}",
            counted(len(self.parents), "region"),
        )

    def of(self, group: RegionGroup) -> LowRankCovariances:
        found = [_parent(self.parents, name) for name in group.names]
        if _alike(found):
            found = found[:1]
        factors = [self.outer[p.kind][p.places] for p in found]
        return LowRankCovariances(torch.stack(factors), self.floor)


@dataclass(frozen=True)
class Stationary(Covariances):
    """Σ_r[(a, i), (b, j)] = γ_ab(j - i): the same wherever a window lies. Toeplitz on windows.

    Attributes:
        autocovariance: γ, `[A, A, *lags]`, float64; a, b number the places of the axes that are
            not stationary, a lag axis holds the lags -(w-1) ... w-1 of the longest window w.
        axes: of the event, which are stationary.
        ridge: added to the variances.
    """

    autocovariance: Tensor = field(repr=False)
    axes: tuple[int, ...]
    ridge: float = 0.0

    def __repr__(self) -> str:
        lags = " × ".join(str((n - 1) // 2) for n in self.autocovariance.shape[2:])
        return described(self, f"lags up to {lags}", f"axes={self.axes}", f"ridge={self.ridge:.3g}")

    def of(self, group: RegionGroup) -> Tensor:
        _check_windows(group, self.axes)
        lags: Any = []
        for number, axis in enumerate(self.axes):
            place = torch.arange(group.shape[axis])
            centre = (self.autocovariance.shape[2 + number] - 1) // 2
            if len(place) > centre + 1:
                raise ShapeError(
                    f"Stationary: region {group.name(0)!r} is {len(place)} long on axis {axis}, "
                    f"the autocovariance is known for lags up to {centre}. Fit it on this graph."
                )
            lags.append(place - place[:, None] + centre)
        rest = [axis for axis in range(len(group.shape)) if axis not in self.axes]
        return self._matrix(group, lags, rest)[None]

    def _matrix(self, group: RegionGroup, lags: list[Tensor], rest: list[int]) -> Tensor:
        """`[d, d]` in the region's own order of axes."""
        n = len(lags)
        a = self.autocovariance.shape[0]
        index: list[Tensor] = [
            torch.arange(a).reshape(a, *[1] * (2 * n + 1)),
            torch.arange(a).reshape(1, *[1] * n, a, *[1] * n),
        ]
        for number, lag in enumerate(lags):
            shape = [1] * (2 * n + 2)
            shape[1 + number], shape[2 + n + number] = lag.shape
            index.append(lag.reshape(shape))
        values = self.autocovariance[tuple(index)]  # [A, *w, A, *w]
        sides = [group.shape[axis] for axis in (*rest, *self.axes)]
        order = [(*rest, *self.axes).index(axis) for axis in range(len(sides))]
        values = values.reshape(*sides, *sides)
        values = values.permute(*order, *(len(sides) + o for o in order))
        d = prod(sides)
        return values.reshape(d, d) + self.ridge * torch.eye(d, dtype=values.dtype)


@dataclass(frozen=True)
class Separable(Covariances):
    """C ⊗ S_r: channels, the first axis of the event and of every region, and places.

    Attributes:
        channels: C `[c, c]`, float64.
        places: provider of S_r, for the graph without its channels.
    """

    channels: Tensor = field(repr=False)
    places: Covariances

    def __repr__(self) -> str:
        channels = counted(len(self.channels), "channel")
        return described(self, channels, f"places={brief(self.places)}")

    def of(self, group: RegionGroup) -> SeparableCovariances:
        inner = _without_channels(group, len(self.channels))
        return SeparableCovariances(self.channels, self.places.form(inner))


@dataclass(frozen=True)
class DenoisingErrors(Covariances):
    """V_r(σ), the covariance of a denoiser's error averaged over data, at several σ.

    What is used is (V_r(σ)⁻¹ - σ⁻² I)⁻¹: the covariance that Gaussian data would need for this
    error. For Gaussian data and their own denoisers that is Σ_r; for others it falls short of Σ_r
    at low σ, as the posterior of a multimodal variable narrows onto one mode. Inverses are
    linear in log σ between levels and constant beyond.

    Attributes:
        levels: noise levels, positive, ascending.
        at: one provider a level.

    Raises:
        GraphError: levels that do not ascend from above 0, or another number of providers.
    """

    levels: tuple[float, ...]
    at: tuple[Covariances, ...] = field(repr=False)

    def __repr__(self) -> str:
        kind = type(self.at[0]).__name__ if self.at else ""
        return described(self, span(self.levels, "level"), kind and f"at={kind}")

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in pairwise((0.0, *self.levels)))
        if not ascending or not self.levels or len(self.at) != len(self.levels):
            raise GraphError(
                f"DenoisingErrors: expected ascending positive levels, each with a provider, got "
                f"{self.levels} and {len(self.at)} providers. Sort them together."
            )

    def of(self, group: RegionGroup) -> Tensor | RegionCovariances:
        raise GraphError("DenoisingErrors: depends on σ; see `at`.")


def _kinds(outer: Mapping[Hashable, Tensor]) -> str:
    """How many kinds of outer regions there are, and of how many elements."""
    sizes = sorted({len(matrix) for matrix in outer.values()})
    several = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else "".join(map(str, sizes))
    return counted(len(outer), "kind") + (f" of {several} elements" if sizes else "")


def without_channels(graph: RegionGraph) -> RegionGraph:
    """The graph of places, where every region holds all channels, the first axis of the event.

    Raises:
        GraphError: a region does not.
    """
    channels = graph.event_shape[0]
    groups = tuple(_without_channels(group, channels) for group in graph.groups)
    return replace(graph, event_shape=graph.event_shape[1:], groups=groups, conditions={})


def _without_channels(group: RegionGroup, channels: int) -> RegionGroup:
    spans = len(group.shape) > 1 and group.shape[0] == channels
    if isinstance(group, WindowGroup) and spans:
        inner = WindowGroup.product(group.axes[1:])
        return replace(
            inner,
            rows=group.rows,
            counts=group.counts,
            outer=group.outer,
            model=group.model,
        )
    index = group.indices(0, len(group)) if spans else None
    if index is None or not _same_in_all_channels(index):
        raise GraphError(
            f"Separable: region {group.name(0)!r} of shape {group.shape} must hold the same places "
            f"of all {channels} channels, the first axis. Put channels first, or fit another form."
        )
    return IndexGroup(index[:, 0], group.counts, group.names, group.outer, group.model)


def _same_in_all_channels(index: Tensor) -> bool:
    """Whether channels, in order, differ by the one step that leads from channel to channel."""
    steps = (index[:, 1:] - index[:, :-1]).reshape(-1)
    return len(steps) == 0 or bool((steps == steps[0]).all() and index[:, 0].max() < steps[0])


def _parent(parents: Mapping[Hashable, Place], name: Hashable) -> Place:
    if name not in parents:
        raise GraphError(
            f"Posterior: region {name!r} is not among those that the covariances were fitted for. "
            "Fit them on this graph."
        )
    return parents[name]


def _alike(places: list[Place]) -> bool:
    """Whether all regions are the same part of the same estimate."""
    first = places[0]
    return all(p.kind == first.kind and torch.equal(p.places, first.places) for p in places[1:])


def _check_windows(group: RegionGroup, axes: tuple[int, ...]) -> None:
    whole = [axis for axis in range(len(group.shape)) if axis not in axes]
    if not isinstance(group, WindowGroup) or any(
        group.axes[axis].length < group.axes[axis].size for axis in whole
    ):
        raise GraphError(
            f"Stationary: region {group.name(0)!r} must be a window of a tensor (graphs.tiles) and "
            f"span the axes which are not stationary; stationary are {axes}. Name all tiled axes."
        )
