"""Groups of regions: the regions of one shape and one model, stored as arrays.

`IndexGroup` stores the indices. `WindowGroup` stores where the windows of a tensor begin, and
computes their indices in chunks.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pgmdiff.graphs.spaced import Spaced, SpacedWindows
from pgmdiff.linalg import Bools, Ints, Shape
from pgmdiff.text import brief, counted, described

__all__ = ["AxisWindows", "IndexGroup", "RegionGroup", "WindowGroup"]


CHUNK = 1 << 22
"""Number of indices that are held at once where a whole group is traversed."""


class RegionGroup(ABC):
    """Regions of one shape and one model, which is also the batch the model is called with.

    Attributes:
        shape: shape in which the model sees a region.
        counts: int64 `[n]`, the counting numbers (numerators over the graph's denominator).
        outer: bool `[n]`, true for the pieces themselves (factors, windows, isolated variables),
            false for regions that were derived to count elements once (variables, overlaps).
        model: model id of all regions; if None, the model id of each region is its own name.
    """

    shape: Shape
    counts: Ints
    outer: Bools
    model: Hashable | None

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def names(self) -> list[Hashable]:
        """Names of the regions, in order."""
        return [self.name(row) for row in range(len(self))]

    def __repr__(self) -> str:
        counts = ""
        if len(self):
            low, high = int(self.counts.min()), int(self.counts.max())
            counts = f"counts {low:+d}" + (f" to {high:+d}" if high > low else "")
        return described(
            self,
            f"{counted(len(self), 'region')} of shape {self.shape}",
            counts,
            "" if self.model is None else f"model={brief(self.model)}",
        )

    @abstractmethod
    def name(self, row: int) -> Hashable:
        """Name of one region."""

    @abstractmethod
    def indices(self, start: int, stop: int) -> Tensor:
        """Elements of regions start to stop: int64 `[stop - start, *shape]`."""

    @abstractmethod
    def select(self, rows: Ints) -> "RegionGroup":
        """The group of some of the regions, in the order given."""

    def spaced(self, n_elements: int) -> SpacedWindows | None:
        """The form that is fastest to gather with, if the regions have it: see `SpacedWindows`.

        It depends on the number of elements of the state.
        """
        return None

    def resolved(self) -> "RegionGroup":
        """The form that is fastest to gather with: windows become at most `CHUNK` indices."""
        return self

    @abstractmethod
    def to(self, device: torch.device) -> "RegionGroup":
        """The same group with its tensors on a device."""

    def flat(self) -> Tensor:
        """Elements of all regions, one region per row: int64 `[n, elements of a region]`."""
        return self.indices(0, len(self)).reshape(len(self), prod(self.shape))

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yields a few regions at a time: their rows, and their elements as in `flat`."""
        step = max(1, CHUNK // max(1, prod(self.shape)))
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            index = self.indices(rows.start, rows.stop)
            yield rows, index.reshape(len(index), prod(self.shape))

    def firsts(self) -> Tensor:
        """The first element of every region, int64 `[n]`."""
        return torch.cat([index[:, 0] for _, index in self.chunks()])

    def scatter_sum(self, values: Ints, n_elements: int) -> Ints:
        """Σ_{r ∋ i} values_r for every element i: exact, int64 `[n_elements]`."""
        total = np.zeros(n_elements, np.int64)
        for rows, index in self.chunks():
            np.add.at(total, index.numpy(), values[rows, None])
        return total


def _freeze(*arrays: npt.NDArray[Any]) -> None:
    """Makes arrays read-only; those of a group copied under torch.compile already are."""
    if not torch.compiler.is_compiling():
        for array in arrays:
            array.setflags(write=False)


@dataclass(frozen=True, eq=False, repr=False)
class IndexGroup(RegionGroup):
    """Regions given by their indices.

    Args:
        index: int64 `[n, *shape]`, elements of the flattened event.
        counts: int64 `[n]`.
        region_names: one per region.
        outer: bool `[n]`.
        model: see `RegionGroup`.
    """

    index: Tensor
    counts: Ints
    region_names: Sequence[Hashable]
    outer: Bools
    model: Hashable | None = None

    def __post_init__(self) -> None:
        _freeze(self.counts, self.outer)

    @classmethod
    def concatenate(cls, groups: Sequence["IndexGroup"]) -> "IndexGroup":
        """One group of all regions of groups of one shape, with the model id of the first."""
        if len(groups) == 1:
            return groups[0]
        return cls(
            torch.cat([g.index for g in groups]),
            np.concatenate([g.counts for g in groups]),
            [name for g in groups for name in g.region_names],
            np.concatenate([g.outer for g in groups]),
            groups[0].model,
        )

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.index.shape[1:])

    def name(self, row: int) -> Hashable:
        return self.region_names[row]

    def indices(self, start: int, stop: int) -> Tensor:
        return self.index[start:stop]

    def spaced(self, n_elements: int) -> SpacedWindows | None:
        return SpacedWindows.of(self.index, n_elements)

    def select(self, rows: Ints) -> "IndexGroup":
        return replace(
            self,
            index=self.index[torch.from_numpy(rows)],
            counts=self.counts[rows],
            region_names=[self.region_names[row] for row in rows],
            outer=self.outer[rows],
        )

    def to(self, device: torch.device) -> "IndexGroup":
        return replace(self, index=self.index.to(device))


@dataclass(frozen=True, eq=False)
class AxisWindows:
    """Windows of one length along one axis.

    Args:
        size: number of places along the axis.
        length: of every window.
        starts: first place of each window; a window that runs past the end wraps around.
        count: counting number of every window.
        outer: whether these are windows, rather than overlaps of windows.
    """

    size: int
    length: int
    starts: Ints
    count: int
    outer: bool

    def __repr__(self) -> str:
        shown = f"size={self.size}, length={self.length}, {counted(len(self.starts), 'start')}"
        return described(self, shown, f"count={self.count}", f"outer={self.outer}")

    @property
    def places(self) -> Ints:
        """Places that each window covers, int64 `[windows, length]`."""
        return (self.starts[:, None] + np.arange(self.length)) % self.size

    @cached_property
    def coverage(self) -> Ints:
        """Number of windows over every place of the axis, int64 `[size]`."""
        return np.bincount(self.places.ravel(), minlength=self.size)


@dataclass(frozen=True, eq=False, repr=False)
class WindowGroup(RegionGroup):
    """Axis-aligned windows of a tensor: the product of per-axis windows, made by `product`.

    Counting numbers multiply along the axes. Nothing as large as the indices is stored.

    Attributes:
        axes: the windows of every axis.
        tables: per axis, what its windows add to an element's number: int64 `[windows, length]`.
        rows: int64 `[n]`, the products of windows that are in the group.
        counts, outer, model: see `RegionGroup`.
    """

    axes: tuple[AxisWindows, ...]
    tables: tuple[Tensor, ...]
    rows: Tensor
    counts: Ints
    outer: Bools
    model: Hashable | None

    def __post_init__(self) -> None:
        _freeze(self.counts, self.outer)

    @classmethod
    def product(cls, axes: Sequence[AxisWindows]) -> "WindowGroup":
        """All combinations of one window per axis; their model id is their shape."""
        strides = np.cumprod([1, *[axis.size for axis in axes[:0:-1]]])[::-1]
        n = prod(len(axis.starts) for axis in axes)
        return cls(
            axes=tuple(axes),
            tables=tuple(
                torch.from_numpy(axis.places * stride)
                for axis, stride in zip(axes, strides, strict=True)
            ),
            rows=torch.arange(n),
            counts=np.full(n, prod(axis.count for axis in axes), np.int64),
            outer=np.full(n, all(axis.outer for axis in axes)),
            model=tuple(axis.length for axis in axes),
        )

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return tuple(axis.length for axis in self.axes)

    @property
    def whole(self) -> bool:
        """Whether the group holds all combinations, rather than a selection."""
        return torch.equal(
            self.rows.cpu(), torch.arange(prod(len(axis.starts) for axis in self.axes))
        )

    @property
    def uniform(self) -> bool:
        """Whether the group holds all combinations, and all have one counting number."""
        return len(self) > 0 and self.whole and bool((self.counts == self.counts[0]).all())

    @property
    def places(self) -> tuple[Ints, ...]:
        """Per axis, which of its windows each region combines: int64 `[n]`."""
        counts = [len(axis.starts) for axis in self.axes]
        return np.unravel_index(self.rows.cpu().numpy(), counts)

    @property
    def names(self) -> list[Hashable]:
        """Names of the regions, in order: the slices that they take."""
        spans = [
            [f"{start}:{start + axis.length}" for start in axis.starts[place].tolist()]
            for axis, place in zip(self.axes, self.places, strict=True)
        ]
        return [f"[{', '.join(slices)}]" for slices in zip(*spans, strict=True)]

    def name(self, row: int) -> Hashable:
        return self.select(np.array([row])).names[0]

    def indices(self, start: int, stop: int) -> Tensor:
        rows = self.rows[start:stop]
        places: list[Tensor] = []  # which window of each axis a row combines
        left = rows
        for axis in reversed(self.axes):
            places.insert(0, left % len(axis.starts))
            left = left // len(axis.starts)
        index = torch.zeros_like(rows)
        for table, place in zip(self.tables, places, strict=True):
            between = [1] * (index.ndim - 1)
            index = index[..., None] + table[place].reshape(len(rows), *between, table.shape[1])
        return index

    def firsts(self) -> Tensor:
        short = replace(self, tables=tuple(table[:, :1] for table in self.tables))
        return short.indices(0, len(self)).reshape(-1)

    def spaced(self, n_elements: int) -> SpacedWindows | None:
        found = (Spaced.of(axis.size, axis.length, axis.starts) for axis in self.axes)
        axes = tuple(axis for axis in found if axis is not None)
        return SpacedWindows(axes) if self.whole and len(axes) == len(self.axes) else None

    def select(self, rows: Ints) -> "WindowGroup":
        return replace(
            self,
            rows=self.rows[torch.from_numpy(rows)],
            counts=self.counts[rows],
            outer=self.outer[rows],
        )

    def resolved(self) -> RegionGroup:
        if len(self) * prod(self.shape) > CHUNK:
            return self
        index = self.indices(0, len(self))
        return IndexGroup(index, self.counts, self.names, self.outer, self.model)

    def to(self, device: torch.device) -> "WindowGroup":
        tables = tuple(table.to(device) for table in self.tables)
        return replace(self, tables=tables, rows=self.rows.to(device))

    def scatter_sum(self, values: Ints, n_elements: int) -> Ints:
        if not len(self) or not self.whole or (values != values[0]).any():
            return super().scatter_sum(values, n_elements)
        coverages = (axis.coverage for axis in self.axes)
        return reduce(np.multiply.outer, coverages, values[:1].astype(np.int64)).ravel()
