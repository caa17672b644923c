r"""Regions of a state and their counting numbers: the one object everything else consumes.

The state `u` has an event shape; its scalar entries, numbered in row-major order, are the
*elements*. A *region* r is an integer array of elements, shaped as the region's model sees them,
with an exact *counting number* c_r. A graph is valid when every element is counted once:

    Σ_{r ∋ i} c_r = 1   for every element i.

Regions that share a shape and a model are held as one *group* of arrays. `IndexGroup` stores the
indices; `WindowGroup` stores where the windows of a tensor begin, and computes indices in chunks.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pgmdiff.errors import GraphError, nearest
from pgmdiff.reprs import brief, counted, described

if TYPE_CHECKING:
    from pgmdiff.graphs.exactness import Report

__all__ = [
    "AxisWindows",
    "Condition",
    "IndexGroup",
    "RegionGraph",
    "RegionGroup",
    "WindowGroup",
    "condition_key",
]

Shape = tuple[int, ...]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Condition = Mapping[str, Any]
"""Keyword arguments of a score: names to pytrees of tensors, without a batch axis."""

LARGEST_COUNT = 1 << 62
"""What the counting numbers of a graph must stay below in all, so that int64 sums are exact."""

CHUNK = 1 << 22
"""How many indices are materialised at once where a whole group is walked."""


class RegionGroup(ABC):
    """Regions of one shape and one model: also the batch that the model is called with.

    Attributes:
        shape: what the model sees.
        counts: int64 `[n]`, the counting numbers (numerators over the graph's denominator).
        outer: bool `[n]`, true for the pieces themselves (factors, windows, isolated variables),
            false for what was derived to count elements once (variables, overlaps).
        model: id of the model of all regions, or None: each region's model id is its own name.
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

    @property
    def step(self) -> int:
        """How many regions to materialise at once."""
        return max(1, CHUNK // max(1, prod(self.shape)))

    def __repr__(self) -> str:
        return described(
            self,
            f"{counted(len(self), 'region')} of shape {self.shape}",
            f"counts {_range(self.counts)}" if len(self) else "",
            "" if self.model is None else f"model={brief(self.model)}",
        )

    @abstractmethod
    def name(self, row: int) -> Hashable:
        """Name of one region."""

    @abstractmethod
    def indices(self, start: int, stop: int) -> Tensor:
        """Elements of regions start..stop: int64 `[stop - start, *shape]`."""

    @abstractmethod
    def select(self, rows: Ints) -> "RegionGroup":
        """The group of some of the regions, in the order given."""

    def resolved(self) -> "RegionGroup":
        """The fastest form to gather with, within `CHUNK` indices: windows become indices."""
        return self

    @abstractmethod
    def to(self, device: torch.device) -> "RegionGroup":
        """The same group with its tensors on a device."""

    def scatter_sum(self, values: Ints, n_elements: int) -> Ints:
        """Σ_{r ∋ i} values_r for every element i: exact, int64 `[n_elements]`."""
        total = np.zeros(n_elements, np.int64)
        for start in range(0, len(self), self.step):
            stop = min(start + self.step, len(self))
            index = self.indices(start, stop).reshape(stop - start, -1).numpy()
            np.add.at(total, index, values[start:stop, None])
        return total


def _freeze(*arrays: npt.NDArray[Any]) -> None:
    """Makes arrays read-only; those of a group copied under torch.compile are already."""
    if not torch.compiler.is_compiling():
        for array in arrays:
            array.setflags(write=False)


@dataclass(frozen=True, eq=False, repr=False)
class IndexGroup(RegionGroup):
    """Regions given by their indices.

    Args:
        index: int64 `[n, *shape]`, elements of the flattened event.
        counts: int64 `[n]`.
        region_names: one a region.
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
        """One group of all regions of groups of one shape, under the first's model id."""
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
        size: of the axis.
        length: of every window.
        starts: where they begin; a window that runs past the end wraps around.
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

    @cached_property
    def coverage(self) -> Ints:
        """Number of windows over every place of the axis, int64 `[size]`."""
        places = (self.starts[:, None] + np.arange(self.length)) % self.size
        return np.bincount(places.ravel(), minlength=self.size)


@dataclass(frozen=True, eq=False, repr=False)
class WindowGroup(RegionGroup):
    """Axis-aligned windows of a tensor: the product of per-axis windows.

    Counting numbers multiply along the axes. Nothing of the size of the indices is stored. Made by
    `product`.

    Attributes:
        axes: the windows of every axis.
        tables: per axis, what its windows add to an element's number: int64 `[windows, length]`.
        rows: which products of windows are in the group, int64 `[n]`.
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
        tables = tuple(
            torch.from_numpy((axis.starts[:, None] + np.arange(axis.length)) % axis.size * stride)
            for axis, stride in zip(axes, strides, strict=True)
        )
        n = prod(len(axis.starts) for axis in axes)
        return cls(
            axes=tuple(axes),
            tables=tables,
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
        """Whether these are all combinations, not a selection."""
        return torch.equal(
            self.rows.cpu(), torch.arange(prod(len(axis.starts) for axis in self.axes))
        )

    @property
    def uniform(self) -> bool:
        """Whether these are all combinations, and all have one counting number."""
        return len(self) > 0 and self.whole and bool((self.counts == self.counts[0]).all())

    def _places(self, rows: Tensor) -> list[Tensor]:
        """Which window of each axis a row combines."""
        places = []
        for axis in reversed(self.axes):
            places.append(rows % len(axis.starts))
            rows = rows // len(axis.starts)
        return places[::-1]

    def name(self, row: int) -> str:
        places = np.unravel_index(int(self.rows[row]), [len(axis.starts) for axis in self.axes])
        starts = [int(a.starts[p]) for a, p in zip(self.axes, places, strict=True)]
        spans = (f"{s}:{s + a.length}" for s, a in zip(starts, self.axes, strict=True))
        return f"[{', '.join(spans)}]"

    def indices(self, start: int, stop: int) -> Tensor:
        rows = self.rows[start:stop]
        index = torch.zeros((), dtype=torch.int64, device=rows.device)
        for table, place in zip(self.tables, self._places(rows), strict=True):
            index = index[..., None] + table[place].reshape(
                len(rows), *[1] * (max(index.ndim, 1) - 1), -1
            )
        return index

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


@dataclass(frozen=True, eq=False)
class RegionGraph:
    """Regions of one state with exact counting numbers.

    Args:
        event_shape: of the state.
        groups: of regions.
        denominator: common denominator of all counting numbers.
        conditions: per region name; what its model gets as keyword arguments.
        junction_tree: whether the regions and counts are those of a junction tree, where the
            constructor knows; None: `validate` finds out.

    Raises:
        GraphError: a condition names no region; counts too large to be summed exactly. A name
            that is used twice is found when names are first looked up.
    """

    event_shape: Shape
    groups: tuple[RegionGroup, ...]
    denominator: int = 1
    conditions: Mapping[Any, Condition] = field(default_factory=dict)
    junction_tree: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.denominator, int | np.integer) or self.denominator < 1:
            raise GraphError(
                f"RegionGraph: expected a positive denominator, an integer, got "
                f"{self.denominator!r}. Put the sign into the counts."
            )
        total = sum(float(np.abs(g.counts.astype(np.float64)).sum()) for g in self.groups)
        if total >= LARGEST_COUNT or self.denominator >= LARGEST_COUNT:
            raise GraphError(
                f"RegionGraph: counting numbers of {total:.3g} in all are too large to be summed "
                "exactly. Cancel common factors of the counts and the denominator."
            )
        if self.conditions:
            self._check_conditions()

    def _check_conditions(self) -> None:
        for name, condition in self.conditions.items():
            if name not in self._rows:
                models = {group.model for group in self.groups}
                what = "a model id, not a region" if name in models - {None} else "no region"
                raise GraphError(
                    f"RegionGraph: a condition is given for {name!r}, which is {what}."
                    f"{nearest(name, self._rows)} Use the name of a region (`.names`), or of a "
                    "variable or factor of a factor graph (`.variables`, `.factors`)."
                )
            if not isinstance(condition, Mapping):
                raise GraphError(
                    f"RegionGraph: the condition of {name!r} is a {type(condition).__name__}, "
                    "expected a mapping of keyword arguments. Write {'keyword': value}."
                )

    @classmethod
    def from_regions(
        cls,
        regions: Mapping[Any, npt.ArrayLike],
        counts: Mapping[Any, int] | None = None,
        *,
        event_shape: Sequence[int],
        models: Mapping[Any, Hashable] | None = None,
        conditions: Mapping[Any, Condition] | None = None,
        denominator: int = 1,
    ) -> "RegionGraph":
        """A graph of regions listed one by one; those inside no other are the outer ones.

        Args:
            regions: region name to an integer array of flattened elements, in the model's shape.
            counts: region name to counting number; None: 1 each, and all are outer: pieces, valid
                where no two overlap. For the counts of overlapping ones see `cluster_variation`.
            event_shape: of the state.
            models: region name to model id, for regions whose model id is not their name.
            conditions: region name to condition.
            denominator: by which all counts are divided.

        Raises:
            GraphError: a region is empty, leaves the state, repeats an element or has no count.
        """
        given = dict.fromkeys(regions, 1) if counts is None else counts
        for name, count in given.items():
            if not isinstance(count, int | np.integer):
                raise GraphError(
                    f"RegionGraph: the count of {name!r} is {count!r}, expected an integer. "
                    "For fractions give numerators, and denominator=."
                )
        _check_sizes(given)
        n_elements = prod(event_shape)
        arrays = {name: _checked(name, r, n_elements) for name, r in regions.items()}
        for name in arrays.keys() ^ given.keys():
            raise GraphError(
                f"RegionGraph: {name!r} must have both elements and a count. "
                "Add it to regions= and counts=, or to neither."
            )
        inner = _inside_others(arrays) if counts is not None else set()
        return cls.grouped(
            arrays,
            {name: (count, name not in inner) for name, count in given.items()},
            event_shape,
            models=models or {},
            conditions=conditions or {},
            denominator=denominator,
        )

    @classmethod
    def grouped(
        cls,
        arrays: Mapping[Any, Ints],
        counts: Mapping[Any, tuple[int, bool]],
        event_shape: Sequence[int],
        *,
        models: Mapping[Any, Hashable],
        conditions: Mapping[Any, Condition],
        denominator: int = 1,
    ) -> "RegionGraph":
        """`from_regions` of arrays known to be right, with (count, outer) of each."""
        _check_sizes({name: count for name, (count, _) in counts.items()})
        groups: dict[tuple[Any, Shape], list[Hashable]] = {}
        for name, array in arrays.items():
            groups.setdefault((models.get(name), array.shape), []).append(name)
        return cls(
            tuple(event_shape),
            tuple(
                IndexGroup(
                    torch.from_numpy(np.stack([arrays[name] for name in names])),
                    np.array([counts[name][0] for name in names], np.int64),
                    tuple(names),
                    np.array([counts[name][1] for name in names], np.bool_),
                    model,
                )
                for (model, _), names in groups.items()
            ),
            denominator,
            dict(conditions),
        )

    @property
    def regions(self) -> "RegionGraph":
        """Itself: what of any graph, a factor graph too, is composed."""
        return self

    @property
    def n_elements(self) -> int:
        """Number of scalar entries of the state."""
        return prod(self.event_shape)

    @property
    def n_regions(self) -> int:
        """Number of regions, those with count 0 included."""
        return sum(map(len, self.groups))

    @property
    def names(self) -> list[Hashable]:
        """Names of all regions."""
        return [name for group in self.groups for name in group.names]

    @cached_property
    def _rows(self) -> dict[Hashable, tuple[RegionGroup, int]]:
        rows = {name: (g, row) for g in self.groups for row, name in enumerate(g.names)}
        if len(rows) != self.n_regions:
            raise GraphError("RegionGraph: two regions share a name. Name each region once.")
        return rows

    def elements(self, name: Hashable) -> Tensor:
        """Elements of one region, in its model's shape.

        Raises:
            GraphError: no region has this name.
        """
        if name not in self._rows:
            raise GraphError(f"RegionGraph: no region is named {name!r}. See `.names`.")
        group, row = self._rows[name]
        return group.indices(row, row + 1)[0]

    def counting_numbers(self) -> dict[Hashable, int]:
        """Numerator of every region's counting number, by name, zeros included."""
        return {
            name: int(c) for g in self.groups for name, c in zip(g.names, g.counts, strict=True)
        }

    def element_sums(self) -> Ints:
        """Σ_{r ∋ i} c_r for every element i, as numerators over the denominator."""
        zero = np.zeros(self.n_elements, np.int64)
        return sum((g.scatter_sum(g.counts, self.n_elements) for g in self.groups), zero)

    def unbalanced(self) -> tuple[Ints, Ints]:
        """Elements whose counts do not sum to 1, and their sums as numerators."""
        windows = [g for g in self.groups if isinstance(g, WindowGroup) and g.uniform]
        only_windows = windows and len(windows) == len(self.groups)
        if only_windows and (_window_sums(windows) == self.denominator).all():
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        sums = self.element_sums()
        elements = np.flatnonzero(sums != self.denominator)
        return elements, sums[elements]

    def coverage(self) -> Ints:
        """Number of outer regions that contain each element."""
        zero = np.zeros(self.n_elements, np.int64)
        outer = ((g, g.outer.astype(np.int64)) for g in self.groups)
        return sum((g.scatter_sum(o, self.n_elements) for g, o in outer), zero)

    def validate(self) -> "Report":
        """Checks the counting numbers and says what composing on this graph promises."""
        from pgmdiff.graphs.exactness import report

        return report(self)

    def __repr__(self) -> str:
        evaluated = sum(int((g.counts != 0).sum()) for g in self.groups)
        zeros = "" if evaluated == self.n_regions else f" ({evaluated} with a nonzero count)"
        return (
            f"RegionGraph(event_shape={brief(self.event_shape, 40)}, "
            f"{counted(self.n_regions, 'region')}{zeros} in {counted(len(self.groups), 'group')})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the graph drawn as SVG, or counted in a table if it is large."""
        from pgmdiff.drawing.html import graph_html

        return graph_html(self)


def _range(counts: Ints) -> str:
    """The least and the largest of some counts."""
    low, high = int(counts.min()), int(counts.max())
    return f"{low:+d}" if low == high else f"{low:+d} to {high:+d}"


def _window_sums(groups: Sequence[WindowGroup]) -> Ints:
    """Sums of counts over elements, one for every kind: windows cover whole axes alike.

    Places of an axis that every group covers equally often are one kind, so that the sums of a
    million windows are those of a few combinations of kinds.
    """
    kinds = [_kinds([group.axes[a] for group in groups]) for a in range(len(groups[0].axes))]
    total = np.zeros([axis.shape[1] for axis in kinds], np.int64)
    for g, group in enumerate(groups):
        total += reduce(np.multiply.outer, (axis[g] for axis in kinds), group.counts[0])
    return total


def _kinds(axes: Sequence[AxisWindows]) -> Ints:
    """The distinct columns of the axes' coverages: int64 `[axes, kinds]`."""
    code = np.zeros(axes[0].size, np.int64)
    for axis in dict.fromkeys(axes):
        code = code * (len(axis.starts) + 1) + axis.coverage
        code = np.unique(code, return_inverse=True)[1]
    first = np.unique(code, return_index=True)[1]
    return np.stack([axis.coverage[first] for axis in axes])


def _inside_others(arrays: Mapping[Any, Ints]) -> set[Hashable]:
    """Names of the regions that are proper parts of others."""
    sets = {name: frozenset(array.ravel().tolist()) for name, array in arrays.items()}
    on: defaultdict[int, list[frozenset[int]]] = defaultdict(list)
    for distinct in set(sets.values()):
        for element in distinct:
            on[element].append(distinct)
    return {n for n, s in sets.items() if any(s < t for t in min((on[e] for e in s), key=len))}


def _check_sizes(counts: Mapping[Any, int]) -> None:
    for name, count in counts.items():
        if abs(count) >= LARGEST_COUNT:
            raise GraphError(
                f"RegionGraph: the count of {name!r} is {count}, too large to be summed exactly. "
                "Cancel common factors of the counts and the denominator."
            )


def condition_key(condition: Condition) -> Hashable:
    """A key that is equal for equal conditions, tensors compared bit for bit."""
    leaves, spec = tree_flatten(dict(sorted(condition.items())))
    return str(spec), tuple(map(_leaf_key, leaves))


def _leaf_key(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        array = leaf.detach().cpu().contiguous().view(-1)
        return str(leaf.dtype), tuple(leaf.shape), array.view(torch.uint8).numpy().tobytes()
    return (type(leaf), leaf) if isinstance(leaf, Hashable) else id(leaf)


def _checked(name: Hashable, elements: npt.ArrayLike, n_elements: int) -> Ints:
    """A region's elements as int64, or a `GraphError` that says what is wrong with them."""
    array = np.asarray(elements)
    if array.size == 0:
        raise GraphError(f"RegionGraph: region {name!r} is empty. Remove it.")
    if array.dtype.kind not in "iu":
        raise GraphError(
            f"RegionGraph: region {name!r} must hold integers, got {array.dtype}. "
            "List flattened element numbers."
        )
    if array.min() < 0 or array.max() >= n_elements:
        raise GraphError(
            f"RegionGraph: region {name!r} has elements from {array.min()} to {array.max()}, but "
            f"the state has elements 0 to {n_elements - 1}. Correct them, or event_shape=."
        )
    if len(np.unique(array)) != array.size:
        raise GraphError(
            f"RegionGraph: region {name!r} lists an element twice. List each element once."
        )
    return array.astype(np.int64)
