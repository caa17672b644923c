r"""Windows of a tensor, and products of region graphs.

Along one axis windows count +1 and overlaps of neighbouring windows -1, so that an element in m
consecutive windows is counted m - (m - 1) times. Counts of several axes multiply. This is the
cluster variation of the tiles (edge overlaps -1, corner overlaps +1), without set operations.

The *product rule* holds for any two graphs: regions r × s of the state's two halves, counted
c_r c_s, count every element (Σ_{r ∋ i} c_r)(Σ_{s ∋ j} c_s) = 1 times.
"""

from collections.abc import Hashable, Mapping, Sequence
from itertools import product as combinations
from typing import Any, Literal

import numpy as np

from pgmdiff.errors import GraphError
from pgmdiff.graphs.counting import cluster_variation
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.graphs.groups import AxisWindows, IndexGroup, RegionGroup, WindowGroup
from pgmdiff.graphs.regions import RegionGraph

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
    +1, and so on by the product rule. A region is named by the slices that it takes
    (`'[0:1, 8:24]'`; past the end it wraps), and its model id is its shape.

    One tiled axis gives a junction tree unless it is periodic; two overlapping axes form loops.
    Where two windows of a periodic axis overlap at both ends, these overlaps are two regions, as in
    `cluster_variation(..., disconnected="several")`.

    Args:
        shape: event shape of the state, channels included.
        window: length of a window on each axis; a window as long as the axis spans it.
        overlap: of neighbouring windows, on each axis; ignored where a window spans the axis.
        periodic: whether each axis closes on itself; a window that spans its axis is not joined to
            itself, because there would be no overlap for a model to see.
        remainder: where the stride (window - overlap) does not divide an axis, `"error"` refuses;
            `"shift"` moves the last window of an open axis inwards and lets the last overlap of a
            periodic one grow, with valid counts.

    Raises:
        GraphError: a window is longer than its axis, an overlap not shorter than its window, or
            the stride does not fit; the error gives the nearest sizes that do.

    Example:
        >>> from pgmdiff.graphs import tiles
        >>> ring = tiles((16, 64), window=(16, 16), overlap=(0, 8), periodic=(False, True))
        >>> ring
        RegionGraph(event_shape=(16, 64), 16 regions in 2 groups)
    """
    if not isinstance(shape, Sequence):
        raise GraphError(
            f"tiles: expected a shape such as (16, 64), got {shape!r}. Write ({shape!r},) for one "
            "axis."
        )
    n = len(shape)
    if n == 0 or remainder not in ("error", "shift"):
        raise GraphError(
            f"tiles: expected a shape with at least one axis and remainder 'error' or 'shift', "
            f"got shape={tuple(shape)} and remainder={remainder!r}. Correct them."
        )
    per_axis = []
    for name, value in (("window", window), ("overlap", overlap), ("periodic", periodic)):
        values = tuple(value) if isinstance(value, Sequence) else (value,) * n
        if len(values) != n or not all(isinstance(v, int | np.integer) for v in values):
            raise GraphError(
                f"tiles: expected one integer {name} or one for each of the {n} axes, got "
                f"{value!r}. Give a tuple of {n} integers."
            )
        per_axis.append(values)
    axes = [
        _axis(number, size, w, o, bool(p), remainder)
        for number, (size, w, o, p) in enumerate(zip(shape, *per_axis, strict=True))
    ]
    # A junction tree overlaps along one axis at the most, which is not closed into a loop.
    overlapping = [parts for parts in axes if len(parts) > 1]
    loops = [
        sum(len(part.starts) for part in overlaps) >= len(windows.starts)
        for windows, *overlaps in overlapping
    ]
    return RegionGraph(
        tuple(shape),
        tuple(WindowGroup.product(parts) for parts in combinations(*axes)),
        junction_tree=len(overlapping) <= 1 and not any(loops),
    )


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
    stride, free = window - overlap, size if periodic else size - window
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
    if left and not periodic:
        starts = np.append(starts, free)
    after = np.append(starts[1:], starts[0] + size) if periodic else starts[1:]
    lengths = starts[: len(after)] + window - after
    parts = [AxisWindows(size, window, starts, 1, True)]
    for length in np.unique(lengths[lengths > 0])[::-1]:
        begins = after[lengths == length] % size
        parts.append(AxisWindows(size, int(length), begins, -1, False))
    return parts


def _fitting_overlaps(free: int, window: int, stride: int) -> str:
    """The nearest overlaps below and above that fit, for a message."""
    strides = [s for s in range(1, window + 1) if free % s == 0]
    shorter = [window - s for s in strides if s > stride][:1]
    longer = [window - s for s in strides if s < stride][-1:]
    overlaps = " or ".join(map(str, shorter + longer))
    return f"an overlap of {overlaps}, " if overlaps else ""


def product(left: GraphLike, right: GraphLike) -> RegionGraph:
    """The product of two graphs: a state `[*left, *right]`, regions r × s counted c_r c_s.

    A region is named by the pair of names and sees its left shape followed by its right shape. Its
    model id is the pair of model ids; its condition merges theirs, and where they share a keyword
    the right one's value is used.

    Exact at σ = 0 where one factor is a junction tree and the other has a single region; two that
    both overlap form loops, as tiles do.

    Args:
        left, right: graphs of any kind; of factor graphs the regions are used.

    Raises:
        GraphError: one is no graph.

    Example:
        >>> from pgmdiff.graphs import chain, product, tiles
        >>> product(tiles((8,), 4, 2), chain(3)).counting_numbers()["[2:6]", "f0"]
        1
    """
    a, b = (graph_of(graph, "product").regions for graph in (left, right))
    groups: list[IndexGroup] = []
    for one, other in combinations(a.groups, b.groups):
        if one.model is None and other.model is None:  # each region has a model of its own
            groups.append(_product_group(None, one, other, b.n_elements))
            continue
        for (m, x), (n, y) in combinations(_by_model(one), _by_model(other)):
            groups.append(_product_group((m, n), x, y, b.n_elements))
    conditions = {}
    if a.conditions or b.conditions:
        for names in combinations(a.names, b.names):
            own = a.conditions.get(names[0]), b.conditions.get(names[1])
            if own != (None, None):
                conditions[names] = {**(own[0] or {}), **(own[1] or {})}
    return RegionGraph(
        a.event_shape + b.event_shape, tuple(groups), a.denominator * b.denominator, conditions
    )


def _by_model(group: RegionGroup) -> list[tuple[Hashable, RegionGroup]]:
    """Parts of a group whose regions share a model, with its id."""
    if group.model is not None:
        return [(group.model, group)]
    return [(name, group.select(np.array([row]))) for row, name in enumerate(group.names)]


def _product_group(
    model: Hashable | None, left: RegionGroup, right: RegionGroup, n_right: int
) -> IndexGroup:
    index = left.flat()[:, None, :, None] * n_right + right.flat()[None, :, None, :]
    return IndexGroup(
        index.reshape(len(left) * len(right), *left.shape, *right.shape),
        np.multiply.outer(left.counts, right.counts).ravel(),
        list(combinations(left.names, right.names)),
        np.logical_and.outer(left.outer, right.outer).ravel(),
        model,
    )


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

    The state is `[length, channels]`. Channels are counted by cluster variation of the parts, time
    by `tiles`, and their product by the product rule. A region sees `[window, channels of the
    part]` in the order given. Its name is the pair of the window's name and the part's; its model
    id is ((window,), part), one model per part and length. Channels that parts share are a part
    named by the frozenset of the parts around them.

    Exact at σ = 0 with one part, or with one window and parts that form a junction tree; otherwise
    regions form loops.

    Args:
        length, window, overlap, periodic, remainder: of time, as for `tiles`.
        parts: name to the channels of a part.
        channels: number of channels; if None, one more than the largest that is listed.

    Raises:
        GraphError: a channel is in no part; and whatever `tiles` and `cluster_variation` raise.

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
