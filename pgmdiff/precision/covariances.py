r"""Providers of the clean covariances Σ_r of regions, all with one interface.

    given                    `Dense`
    one streamed estimate    `Pooled` (dense), `LowRank`          made by `fit_covariances`
    shift-invariant          `Stationary`: Σ_r[i, j] = γ(i - j)   (Toeplitz on windows)
    channels ⊗ places        `Separable`

An estimate is held for the outer regions only. The covariance of a sub-region is read off that of
a region around it, so that the two agree.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgmdiff.errors import GraphError, ShapeError
from pgmdiff.graphs.groups import IndexGroup, RegionGroup, WindowGroup
from pgmdiff.graphs.names import check_known
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.precision.forms import (
    DenseCovariances,
    LowRankCovariances,
    RegionCovariances,
    SeparableCovariances,
)
from pgmdiff.text import brief, counted, described

__all__ = [
    "provider_of",
    "Covariances",
    "Dense",
    "LowRank",
    "Place",
    "Pooled",
    "Separable",
    "Stationary",
    "without_channels",
]


class Covariances(ABC):
    """A provider of the clean covariances of regions. A new one implements `of`.

    Attributes:
        mean: the mean of the data, `[*event]`, which belongs to the covariances; None if unknown.
    """

    mean: Tensor | None = None

    @abstractmethod
    def of(self, group: RegionGroup) -> Tensor | RegionCovariances:
        """The covariances of a group's regions, flattened in the order that their model sees.

        They are float64 `[n, d, d]`, or `[1, d, d]` if all regions of the group share one; or one
        of the forms of `precision.forms`.
        """

    def form(self, group: RegionGroup) -> RegionCovariances:
        """The covariances of a group's regions, as a form."""
        given = self.of(group.to(torch.device("cpu")))  # where providers have their own tensors
        return DenseCovariances(given) if isinstance(given, Tensor) else given


@dataclass(frozen=True)
class Dense(Covariances):
    """Covariances that are given one by one.

    Args:
        matrices: maps a region's name, or its model id, to its covariance `[d, d]`. Names take
            precedence.
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
                f"Covariances: region {name!r} has no covariance. Give one by its name or model "
                "id; that of a sub-region can be read off a region around it, or fit_covariances."
            )
        given = self.matrices[key]
        real = isinstance(given, Tensor | np.ndarray | list | tuple)
        matrix = torch.as_tensor(given).detach() if real else torch.zeros(0)
        if tuple(matrix.shape) != (d, d) or matrix.is_complex():
            raise ShapeError(
                f"Covariances: expected the covariance of {name!r} as [{d}, {d}], got "
                f"{tuple(matrix.shape) if real else brief(given)}, {matrix.dtype}. Flatten the "
                "region in the order its model sees, and give real numbers."
            )
        if float((matrix - matrix.T).abs().max()) > 1e-5 * float(matrix.abs().max()):
            raise ShapeError(
                f"Covariances: the covariance of {name!r} is not symmetric. Give "
                "E[(u - m)(u - m)ᵀ]."
            )
        return (matrix + matrix.T).double().cpu() / 2


def provider_of(given: Any, who: str, graph: RegionGraph) -> Covariances:
    """The provider of covariances that were given for a graph, by region name or as one.

    Args:
        given: the covariances.
        who: the caller, which the error names.
        graph: the graph, whose regions and model ids are the names.

    Raises:
        GraphError: it is neither, or a name is no region and no model id.
    """
    if isinstance(given, Covariances):
        return given
    if not isinstance(given, Mapping):
        raise GraphError(
            f"{who}: expected covariances by region name, or a provider, got a "
            f"{type(given).__name__}. See fit_covariances."
        )
    known = {*graph.names, *(group.model for group in graph.groups)}
    remedy = "Use a name from `.names`."
    check_known(f"{who}: a covariance is given for", given, known, "region or model id", remedy)
    return Dense(given)


@dataclass(frozen=True, eq=False)
class Place:
    """The place of a region within an outer region whose covariance was estimated.

    Attributes:
        kind: the key of the estimate.
        places: the region's elements, numbered within the outer region, `[d]`.
    """

    kind: Hashable
    places: Tensor

    def __repr__(self) -> str:
        return described(self, brief(self.kind), counted(self.places.numel(), "place"))


@dataclass(frozen=True)
class Pooled(Covariances):
    """Dense covariances estimated together; see `fit_covariances`.

    Attributes:
        outer: maps a kind of outer region to its covariance `[d, d]`, float64. The kind is the
            region's name, or its model and shape where all regions of a model share an estimate.
        parents: maps a region's name to its place in an outer region.
    """

    outer: Mapping[Hashable, Tensor] = field(repr=False)
    parents: Mapping[Hashable, Place] = field(repr=False)

    def __repr__(self) -> str:
        return described(self, _kinds(self.outer), counted(len(self.parents), "region"))

    def of(self, group: RegionGroup) -> Tensor:
        places = _places(self.parents, group)
        return torch.stack([self.outer[p.kind][p.places][:, p.places] for p in places])


@dataclass(frozen=True)
class LowRank(Covariances):
    """Covariances F_r F_rᵀ + δ I estimated together, for regions of thousands of elements.

    Attributes:
        outer: maps a kind of outer region (see `Pooled`) to its factor F `[d, k]`, float64.
        floor: δ.
        parents: maps a region's name to its place in an outer region.
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
        factors = [self.outer[p.kind][p.places] for p in _places(self.parents, group)]
        return LowRankCovariances(torch.stack(factors), self.floor)


@dataclass(frozen=True)
class Stationary(Covariances):
    """Covariances Σ_r[(a, i), (b, j)] = γ_ab(j - i), the same wherever a window lies.

    Attributes:
        autocovariance: γ, `[A, A, *lags]`, float64. a and b number the places along the axes that
            are not stationary; a lag axis holds the lags -(w-1) ... w-1 of the longest window w.
        axes: the stationary axes of the event.
    """

    autocovariance: Tensor = field(repr=False)
    axes: tuple[int, ...]

    def __repr__(self) -> str:
        lags = " × ".join(str((n - 1) // 2) for n in self.autocovariance.shape[2:])
        return described(self, f"lags up to {lags}", f"axes={self.axes}")

    def of(self, group: RegionGroup) -> Tensor:
        rest = [axis for axis in range(len(group.shape)) if axis not in self.axes]
        if not isinstance(group, WindowGroup) or any(
            group.axes[axis].length < group.axes[axis].size for axis in rest
        ):
            raise GraphError(
                f"Stationary: region {group.name(0)!r} must be a window of a tensor (graphs.tiles) "
                "and span the axes that are not stationary. The stationary axes are "
                f"{self.axes}: name all axes that are tiled."
            )
        coordinates, lags = torch.from_numpy(np.indices(group.shape)).flatten(1), []
        for axis, n_lags in zip(self.axes, self.autocovariance.shape[2:], strict=True):
            place, longest = coordinates[axis], (n_lags - 1) // 2
            if group.shape[axis] > longest + 1:
                raise ShapeError(
                    f"Stationary: region {group.name(0)!r} is {group.shape[axis]} long on axis "
                    f"{axis}, the autocovariance is known for lags up to {longest}. Fit it on this "
                    "graph."
                )
            lags.append(place - place[:, None] + longest)
        sides = [n if axis in rest else 1 for axis, n in enumerate(group.shape)]
        row = torch.arange(prod(sides)).reshape(sides).expand(group.shape).reshape(-1)
        places = (row[:, None], row, *lags)
        return self.autocovariance[places][None]


@dataclass(frozen=True)
class Separable(Covariances):
    """Covariances C ⊗ S_r of channels, the first axis of the event and of every region, and places.

    Attributes:
        channels: C, `[c, c]`, float64.
        places: the provider of S_r, for the graph without its channels.
    """

    channels: Tensor = field(repr=False)
    places: Covariances

    def __repr__(self) -> str:
        channels = counted(len(self.channels), "channel")
        return described(self, channels, f"places={brief(self.places)}")

    def of(self, group: RegionGroup) -> SeparableCovariances:
        inner = _without_channels(group, len(self.channels))
        return SeparableCovariances(self.channels, self.places.form(inner))


def _kinds(outer: Mapping[Hashable, Tensor]) -> str:
    """The number of kinds of outer regions, and of their elements, for a repr."""
    sizes = sorted({len(matrix) for matrix in outer.values()})
    several = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else "".join(map(str, sizes))
    return counted(len(outer), "kind") + (f" of {several} elements" if sizes else "")


def without_channels(graph: RegionGraph) -> RegionGraph:
    """The graph of places of a graph whose regions all hold all channels, the event's first axis.

    Raises:
        GraphError: a region does not hold the same places of all channels.
    """
    channels = graph.event_shape[0]
    groups = tuple(_without_channels(group, channels) for group in graph.groups)
    return replace(graph, event_shape=graph.event_shape[1:], groups=groups, conditions={})


def _without_channels(group: RegionGroup, channels: int) -> RegionGroup:
    if len(group.shape) > 1 and group.shape[0] == channels:
        counts, outer = group.counts, group.outer
        if isinstance(group, WindowGroup):
            inner = WindowGroup.product(group.axes[1:])
            return replace(inner, rows=group.rows, counts=counts, outer=outer, model=group.model)
        index = group.indices(0, len(group))
        # Channels in order: one and the same step leads from each to the next, past the first.
        steps = (index[:, 1:] - index[:, :-1]).reshape(-1)
        if not len(steps) or ((steps == steps[0]).all() and index[:, 0].max() < steps[0]):
            return IndexGroup(index[:, 0], counts, group.names, outer, group.model)
    raise GraphError(
        f"Separable: region {group.name(0)!r} of shape {group.shape} must hold the same places "
        f"of all {channels} channels, the first axis. Put channels first, or fit another form."
    )


def _places(parents: Mapping[Hashable, Place], group: RegionGroup) -> list[Place]:
    """The places of a group's regions; only one of them if they are all the same."""
    for name in group.names:
        if name not in parents:
            raise GraphError(
                f"Covariances: region {name!r} is not among those that the covariances were fitted "
                "for. Fit them on this graph."
            )
    first, *others = (parents[name] for name in group.names)
    if all(p.kind == first.kind and torch.equal(p.places, first.places) for p in others):
        return [first]
    return [first, *others]
