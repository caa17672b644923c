r"""Regions of a state and their counting numbers: the object that everything else computes with.

The state `u` has an event shape; its scalar entries, numbered in row-major order, are the
*elements*. A *region* r is an integer array of elements, shaped as the region's model sees them,
with an exact *counting number* c_r. A graph is valid when every element is counted once:

    Σ_{r ∋ i} c_r = 1   for every element i.

Regions that share a shape and a model are stored as one *group* of arrays: see `groups`.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pgmdiff.errors import GraphError, nearest
from pgmdiff.graphs.containment import regions_around
from pgmdiff.graphs.groups import CHUNK, AxisWindows, IndexGroup, RegionGroup, WindowGroup
from pgmdiff.graphs.names import check_known, check_mapping, check_names
from pgmdiff.graphs.variables import Variables
from pgmdiff.linalg import Ints, Shape
from pgmdiff.text import brief, counted

if TYPE_CHECKING:
    from pgmdiff.graphs.report import Report

__all__ = ["Condition", "RegionGraph", "condition_key"]

Condition = Mapping[str, Any]
"""Keyword arguments of a score: names to pytrees of tensors, without a batch axis."""

LARGEST_COUNT = 1 << 62
"""Bound on the sum of all counting numbers' magnitudes, so that int64 sums are exact."""


@dataclass(frozen=True, eq=False)
class RegionGraph:
    """Regions of one state with exact counting numbers.

    Args:
        event_shape: shape of the state.
        groups: groups of regions.
        denominator: common denominator of all counting numbers.
        conditions: region name to the keyword arguments that its model gets.
        junction_tree: whether the regions and counts are those of a junction tree, where the
            constructor knows; if None, `validate` determines it.
        variables: the named variables that the state is made of, if it comes from a factor graph;
            they are what `pack` and `unpack` need.

    Raises:
        GraphError: a condition names no region, or counts are too large to be summed exactly. A
            name that is used twice is found when names are first looked up.
    """

    event_shape: Shape
    groups: tuple[RegionGroup, ...]
    denominator: int = 1
    conditions: Mapping[Any, Condition] = field(default_factory=dict)
    junction_tree: bool | None = None
    variables: Variables | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(side, int | np.integer) and side >= 0 for side in self.event_shape):
            raise GraphError(
                f"RegionGraph: expected event_shape as integers of at least 0, got "
                f"{self.event_shape}. Give integers, as in (3, 16, 16)."
            )
        if not isinstance(self.denominator, int | np.integer) or self.denominator < 1:
            raise GraphError(
                f"RegionGraph: expected a positive integer as denominator, got "
                f"{self.denominator!r}. Put the sign into the counts."
            )
        total = sum(float(np.abs(g.counts.astype(np.float64)).sum()) for g in self.groups)
        _check_total(max(total, self.denominator))
        if self.variables is not None and self.variables.n_elements != self.n_elements:
            raise GraphError(
                f"RegionGraph: variables have {self.variables.n_elements} elements, but the state "
                f"has {self.n_elements}. Give the variables of this state, or none."
            )
        check_mapping("RegionGraph", "conditions", self.conditions, "Give them per region's name.")
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
                    f"RegionGraph: the condition of {name!r} is of type "
                    f"{type(condition).__name__}, expected a mapping of keyword arguments. "
                    "Write {'keyword': value}."
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
        """A graph of regions listed one by one; the outer ones are those inside no other.

        Args:
            regions: region name to an integer array of flattened elements, in the model's shape.
            counts: region name to counting number. If None, each region counts 1 and is outer,
                which is valid where no two overlap; `cluster_variation` counts overlapping pieces.
            event_shape: shape of the state.
            models: region name to model id, for regions whose model id is not their name.
            conditions: region name to condition.
            denominator: divisor of all counts.

        Raises:
            GraphError: a region is empty, leaves the state, repeats an element or has no count.
        """
        check_mapping("RegionGraph", "regions", regions, 'Name them: {"a": [0, 1]}.')
        check_names("RegionGraph", regions)
        what = "RegionGraph: a model is given for"
        check_known(what, models or (), regions, "region", "Use the name of a region.")
        given = dict.fromkeys(regions, 1) if counts is None else counts
        for name, count in given.items():
            if not isinstance(count, int | np.integer):
                raise GraphError(
                    f"RegionGraph: the count of {name!r} is {count!r}, expected an integer. "
                    "For fractions give numerators, and denominator=."
                )
        n_elements = prod(event_shape)
        arrays = {name: _checked(name, r, n_elements) for name, r in regions.items()}
        for name in arrays.keys() ^ given.keys():
            raise GraphError(
                f"RegionGraph: {name!r} must have both elements and a count. Add it to regions= "
                f"and counts=, or to neither.{nearest(name, given if name in arrays else arrays)}"
            )
        outer = set(arrays)
        if counts is not None:
            sets = {name: frozenset(array.ravel().tolist()) for name, array in arrays.items()}
            distinct = list(dict.fromkeys(sets.values()))
            around = dict(zip(distinct, regions_around(distinct, distinct), strict=True))
            outer = {name for name, region in sets.items() if len(around[region]) == 1}
        return cls.grouped(
            arrays,
            {name: (count, name in outer) for name, count in given.items()},
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
        variables: Variables | None = None,
    ) -> "RegionGraph":
        """`from_regions` for arrays known to be right, with (count, outer) for each."""
        _check_total(sum(abs(count) for count, _ in counts.values()))
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
            variables=variables,
        )

    @property
    def regions(self) -> "RegionGraph":
        """The graph itself, as a factor graph's `regions` are the regions that are composed."""
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

    @property
    def pieces(self) -> list[Hashable]:
        """Names of the pieces, the outer regions: factors, windows, isolated variables.

        Regions derived to count elements once (variables that factors share, overlaps and corners
        of tiles) are not pieces. A list of a million windows takes about a second.
        """
        outer = (group.select(np.flatnonzero(group.outer)) for group in self.groups)
        return [name for group in outer for name in group.names]

    @cached_property
    def _rows(self) -> dict[Hashable, tuple[RegionGroup, int]]:
        rows = {name: (g, row) for g in self.groups for row, name in enumerate(g.names)}
        if len(rows) != self.n_regions:
            raise GraphError("RegionGraph: two regions share a name. Give each its own name.")
        return rows

    def elements(self, name: Hashable) -> Tensor:
        """Elements of one region, in its model's shape.

        Raises:
            GraphError: no region has this name.
        """
        if name not in self._rows:
            raise GraphError(
                f"RegionGraph: no region is named {name!r}.{nearest(name, self._rows)} "
                "See `.names`."
            )
        group, row = self._rows[name]
        return group.indices(row, row + 1)[0]

    def pack(self, values: Mapping[Any, Tensor]) -> Tensor:
        """The state from one tensor per variable; see `FactorGraph.pack`.

        Raises:
            GraphError: the state is not made of named variables.
        """
        return self._named("pack").pack(values)

    def unpack(self, u: Tensor) -> dict[Hashable, Tensor]:
        """One view per variable of a state; see `FactorGraph.unpack`.

        Raises:
            GraphError: the state is not made of named variables.
        """
        return self._named("unpack").unpack(u)

    def _named(self, method: str) -> Variables:
        if self.variables is None:
            raise GraphError(
                f"RegionGraph.{method}: the state of shape {self.event_shape} has no named "
                "variables, since this graph was not made from a FactorGraph. Use `elements(name)`."
            )
        return self.variables

    def counting_numbers(self) -> dict[Hashable, int]:
        """Numerator of every region's counting number, by name, zeros included."""
        return {
            name: int(c) for g in self.groups for name, c in zip(g.names, g.counts, strict=True)
        }

    def sums(self, values: Iterable[Ints]) -> Ints:
        """Σ_{r ∋ i} v_r for every element i, of values `[n]` for the regions of each group."""
        total = np.zeros(self.n_elements, np.int64)
        for group, each in zip(self.groups, values, strict=True):
            if each.any():
                total += group.scatter_sum(each, self.n_elements)
        return total

    def element_sums(self) -> Ints:
        """Σ_{r ∋ i} c_r for every element i, as numerators over the denominator."""
        return self.sums(group.counts for group in self.groups)

    @property
    def tiled(self) -> bool:
        """Whether windows count every element once, as is told without a list of elements."""
        windows = [g for g in self.groups if isinstance(g, WindowGroup) and g.uniform]
        if not windows or len(windows) < len(self.groups):
            return False
        sums = _window_sums(windows)
        return sums is not None and bool((sums == self.denominator).all())

    def unbalanced(self) -> tuple[Ints, Ints]:
        """Elements whose counts do not sum to 1, and their sums as numerators."""
        if self.tiled:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        sums = self.element_sums()
        elements = np.flatnonzero(sums != self.denominator)
        return elements, sums[elements]

    def coverage(self) -> Ints:
        """Number of outer regions that contain each element."""
        return self.sums(group.outer.astype(np.int64) for group in self.groups)

    def validate(self) -> "Report":
        """Checks the counting numbers and reports what composing on this graph promises."""
        from pgmdiff.graphs.report import report

        return report(self)

    def __repr__(self) -> str:
        evaluated = sum(int((g.counts != 0).sum()) for g in self.groups)
        zeros = "" if evaluated == self.n_regions else f" ({evaluated} with a nonzero count)"
        return (
            f"RegionGraph(event_shape={brief(self.event_shape, 40)}, "
            f"{counted(self.n_regions, 'region')}{zeros} in {counted(len(self.groups), 'group')})"
        )


def _window_sums(groups: Sequence[WindowGroup]) -> Ints | None:
    """Sums of counts over elements, one per kind of element; None if there are too many kinds.

    Places of an axis that every group covers equally often are of one kind, so that the sums of a
    million windows are those of a few combinations of kinds.
    """
    kinds = [_kinds([group.axes[a] for group in groups]) for a in range(len(groups[0].axes))]
    shape = [axis.shape[1] for axis in kinds]
    if prod(shape) > CHUNK:
        return None
    total = np.zeros(shape, np.int64)
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


def _check_total(total: float) -> None:
    if total >= LARGEST_COUNT:
        raise GraphError(
            f"RegionGraph: counting numbers of {total:.3g} in total are too large to be summed "
            "exactly. Cancel common factors of the counts and the denominator."
        )


def condition_key(condition: Condition) -> Hashable:
    """A key that is equal for equal conditions, tensors compared bit for bit."""

    def key(leaf: Any) -> Hashable:
        if isinstance(leaf, Tensor):
            array = leaf.detach().cpu().contiguous().view(-1)
            return str(leaf.dtype), tuple(leaf.shape), array.view(torch.uint8).numpy().tobytes()
        return (type(leaf), leaf) if isinstance(leaf, Hashable) else id(leaf)

    leaves, spec = tree_flatten(dict(sorted(condition.items())))
    return str(spec), tuple(map(key, leaves))


def _checked(name: Hashable, elements: npt.ArrayLike, n_elements: int) -> Ints:
    """A region's elements as int64, or a `GraphError` that says what is wrong with them."""
    array = np.asarray(elements)
    if array.size == 0:
        problem = "is empty. Remove it."
    elif array.dtype.kind not in "iu":
        problem = f"must hold integers, got {array.dtype}. List flattened element numbers."
    elif array.min() < 0 or array.max() >= n_elements:
        problem = (
            f"has elements from {array.min()} to {array.max()}, but the state has elements 0 to "
            f"{n_elements - 1}. Correct them, or event_shape=."
        )
    elif len(np.unique(array)) != array.size:
        problem = "lists an element twice. List each element once."
    else:
        return array.astype(np.int64)
    raise GraphError(f"RegionGraph: region {name!r} {problem}")
