r"""Windows of a tensor, and products of region graphs.

Windows along one axis: windows count +1 and overlaps of neighbouring windows -1, so an element in
m consecutive windows is counted m - (m - 1) times. Counts of several axes multiply; this is the
cluster variation of the tiles (edge overlaps -1, corner overlaps +1), without set operations.

The *product rule* holds for any two graphs: regions r × s of the state's two halves, counted
c_r c_s, count every element (Σ_{r ∋ i} c_r)(Σ_{s ∋ j} c_s) = 1 times.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import product as combinations
from typing import Any, Literal

import numpy as np

from pgmdiff.errors import GraphError
from pgmdiff.graphs.counting import cluster_variation
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.groups import AxisWindows, IndexGroup, RegionGroup, WindowGroup
from pgmdiff.graphs.regions import Condition, RegionGraph
from pgmdiff.linalg import Ints

__all__ = ["product", "tiles", "time_by_parts"]

Remainder = Literal["error", "shift"]


def tiles(
    shape: Sequence[int],
    window: int | Sequence[int],
    overlap: int | Sequence[int] = 0,
    periodic: bool | Sequence[bool] = False,
    *,
    remainder: Remainder = "error",
) -> RegionGraph:
    """Overlapping windows of one tensor, with the counts of cluster variation.

    Windows count +1, overlaps of neighbours along one axis -1, corners where such overlaps cross
    +1, and so on by the product rule. A region is named by the slices it takes (`'[0:1, 8:24]'`;
    past the end it wraps), and its model id is its shape.

    One tiled axis gives a junction tree unless it is periodic; two overlapping axes make loops.
    Where two windows of a periodic axis overlap at both ends, these are two regions:
    `cluster_variation(..., disconnected="several")`.

    Args:
        shape: event shape of the state, channels included.
        window: length of a window on each axis; a window as long as the axis spans it.
        overlap: of neighbouring windows, on each axis; ignored where a window spans the axis.
        periodic: whether each axis closes on itself. A window that spans its axis is not joined to
            itself, periodic or not: there is no overlap that a model could see.
        remainder: what to do where the stride (window - overlap) does not divide an axis:
            `"error"`, or `"shift"`: on an open axis the last window is shifted inwards, on a
            periodic one the last overlap grows; counts stay valid.

    Raises:
        GraphError: a window is longer than its axis; an overlap is not shorter than its window;
            the stride does not fit, with the nearest sizes that do.

    Example:
        >>> from pgmdiff.graphs import tiles
        >>> ring = tiles((16, 64), window=(16, 16), overlap=(0, 8), periodic=(False, True))
        >>> ring
        RegionGraph(event_shape=(16, 64), 16 regions in 2 groups)
    """
    if not isinstance(shape, Sequence):
        raise GraphError(f"tiles: expected a shape such as (16, 64), got {shape!r}.")
    n = len(shape)
    if n == 0 or remainder not in ("error", "shift"):
        raise GraphError(
            f"tiles: expected a shape with at least one axis and remainder 'error' or 'shift', "
            f"got shape={tuple(shape)} and remainder={remainder!r}."
        )
    settings = zip(
        shape,
        _per_axis("window", window, n),
        _per_axis("overlap", overlap, n),
        _per_axis("periodic", periodic, n),
        strict=True,
    )
    axes = [
        _axis(number, size, w, o, bool(p), remainder)
        for number, (size, w, o, p) in enumerate(settings)
    ]
    return RegionGraph(
        tuple(shape),
        tuple(WindowGroup.product(parts) for parts in combinations(*axes)),
        junction_tree=_tiles_are_acyclic(axes),
    )


def _per_axis(what: str, value: int | Sequence[int], n: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * n
    if len(values) != n or not all(isinstance(v, int | np.integer) for v in values):
        raise GraphError(
            f"tiles: expected one integer {what} or one for each of the {n} axes, got {value!r}."
        )
    return values


def _axis(
    number: int, size: int, window: int, overlap: int, periodic: bool, remainder: Remainder
) -> list[AxisWindows]:
    """The windows of one axis, and their overlaps by length."""
    if not 1 <= window <= size:
        raise GraphError(
            f"tiles: on axis {number} the window is {window} long, expected 1 to {size}, the size "
            "of the axis. Give a window for each axis; the axis' size spans it."
        )
    if window == size:
        return [AxisWindows(size, window, np.zeros(1, np.int64), 1, True)]
    if not 0 <= overlap < window:
        raise GraphError(
            f"tiles: on axis {number} the overlap is {overlap}, expected 0 to {window - 1}: "
            "less than the window. Shorten it."
        )
    stride = window - overlap
    starts = _starts(number, size, window, stride, periodic, remainder)
    after = np.append(starts[1:], starts[0] + size) if periodic else starts[1:]
    before = starts[: len(after)]
    lengths = before + window - after
    parts = [AxisWindows(size, window, starts, 1, True)]
    for length in np.unique(lengths[lengths > 0])[::-1]:
        begins = after[lengths == length] % size
        parts.append(AxisWindows(size, int(length), begins, -1, False))
    return parts


def _starts(
    number: int, size: int, window: int, stride: int, periodic: bool, remainder: Remainder
) -> Ints:
    free = size if periodic else size - window
    left = free % stride
    if left and remainder == "error":
        fits = [size - left, size - left + stride]
        nearest = " or ".join(str(s) for s in fits if s >= window + periodic)
        raise GraphError(
            f"tiles: on axis {number} windows of {window} with stride {stride} do not fit a "
            f"{'periodic ' if periodic else ''}size of {size}. Use a size of {nearest}, "
            f"{_fitting_overlaps(free, window, stride)}or remainder='shift'."
        )
    starts = np.arange(0, free if periodic else free + 1, stride)
    return np.append(starts, free) if left and not periodic else starts


def _fitting_overlaps(free: int, window: int, stride: int) -> str:
    """The nearest overlap below and above that fits, for a message."""
    strides = [s for s in range(1, window + 1) if free % s == 0]
    shorter = [window - s for s in strides if s > stride][:1]
    longer = [window - s for s in strides if s < stride][-1:]
    overlaps = " or ".join(map(str, shorter + longer))
    return f"an overlap of {overlaps}, " if overlaps else ""


def _tiles_are_acyclic(axes: list[list[AxisWindows]]) -> bool:
    """Windows overlap along one axis at the most, and that axis is not closed into a loop."""
    overlapping = [parts for parts in axes if len(parts) > 1]
    n_overlaps = [sum(len(part.starts) for part in parts[1:]) for parts in overlapping]
    loops = [n >= len(parts[0].starts) for n, parts in zip(n_overlaps, overlapping, strict=True)]
    return len(overlapping) <= 1 and not any(loops)


def product(left: FactorGraph | RegionGraph, right: FactorGraph | RegionGraph) -> RegionGraph:
    """The product of two graphs: a state `[*left, *right]`, regions r × s counted c_r c_s.

    A region is named by the pair of names and sees its left shape followed by its right shape;
    its model id is the pair of model ids; its condition joins theirs, the right one's first.

    Exact at σ = 0 where one factor is a junction tree and the other has a single region; two that
    both overlap make loops, as tiles do.

    Args:
        left, right: factor graphs count as their regions.

    Example:
        >>> from pgmdiff.graphs import chain, product, tiles
        >>> product(tiles((8,), 4, 2), chain(3)).counting_numbers()["[2:6]", "f0"]
        1
    """
    a, b = left.regions, right.regions
    groups = [
        _product_group(model, x, y, b.n_elements)
        for one in a.groups
        for other in b.groups
        for model, x, y in _by_models(one, other)
    ]
    return RegionGraph(
        a.event_shape + b.event_shape,
        tuple(groups),
        a.denominator * b.denominator,
        dict(_product_conditions(a, b)),
    )


def _by_models(
    left: RegionGroup, right: RegionGroup
) -> Iterator[tuple[Hashable, RegionGroup, RegionGroup]]:
    """Parts of two groups, and the model id of their product; None: each has its own."""
    if left.model is None and right.model is None:
        yield None, left, right
        return
    for x, y in combinations(_shared(left), _shared(right)):
        yield (_model(x), _model(y)), x, y


def _shared(group: RegionGroup) -> list[RegionGroup]:
    """Parts of a group whose regions share a model id."""
    if group.model is not None:
        return [group]
    return [group.select(np.array([row])) for row in range(len(group))]


def _model(group: RegionGroup) -> Hashable:
    return group.name(0) if group.model is None else group.model


def _product_group(
    model: Hashable | None, left: RegionGroup, right: RegionGroup, n_right: int
) -> IndexGroup:
    rows = left.indices(0, len(left)).reshape(len(left), 1, -1, 1)
    columns = right.indices(0, len(right)).reshape(1, len(right), 1, -1)
    index = rows * n_right + columns
    return IndexGroup(
        index.reshape(len(left) * len(right), *left.shape, *right.shape),
        np.multiply.outer(left.counts, right.counts).ravel(),
        list(combinations(left.names, right.names)),
        np.logical_and.outer(left.outer, right.outer).ravel(),
        model,
    )


def _product_conditions(
    left: RegionGraph, right: RegionGraph
) -> Iterator[tuple[Hashable, Condition]]:
    if not left.conditions and not right.conditions:
        return
    for a, b in combinations(left.names, right.names):
        if a in left.conditions or b in right.conditions:
            yield (a, b), {**left.conditions.get(a, {}), **right.conditions.get(b, {})}


def time_by_parts(
    length: int,
    window: int,
    overlap: int,
    parts: Mapping[Any, Sequence[int]],
    *,
    channels: int | None = None,
    periodic: bool = False,
    remainder: Remainder = "error",
) -> RegionGraph:
    """Windows of time crossed with groups of channels: long motions from models of body parts.

    State `[length, channels]`. Channels are counted by cluster variation of the parts, time by
    `tiles`, their product by the product rule. A region sees `[window, channels of the part]` in
    the order given. Its name is a pair of the window's name and the part's, its model id
    ((window,), part): one model a part and length. Channels that parts share are a part named by
    the frozenset of the parts around them.

    Exact at σ = 0 with one part, or one window, and parts that form a junction tree; else loops.

    Args:
        length, window, overlap, periodic, remainder: of time, as of `tiles`.
        parts: name to its channels.
        channels: how many there are; None: one more than the largest that is listed.

    Raises:
        GraphError: a channel is in no part; and what `tiles` and `cluster_variation` raise.

    Example:
        >>> from pgmdiff.graphs import time_by_parts
        >>> motion = time_by_parts(24, 16, 8, {"legs": [0, 1, 2], "torso": [2, 3, 4]})
        >>> motion.counting_numbers()["[8:16]", frozenset({"legs", "torso"})]
        1
    """
    listed = [channel for part in parts.values() for channel in part]
    width = 1 + max(listed, default=0) if channels is None else channels
    try:
        windows = tiles((length,), window, overlap, periodic, remainder=remainder)
        channel_regions = cluster_variation(parts, event_shape=(width,))
    except GraphError as error:
        raise GraphError(f"time_by_parts: {str(error).removeprefix('tiles: ')}") from None
    return product(windows, channel_regions)
