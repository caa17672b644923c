"""Windows of a tensor as boxes on the two axes that are drawn.

The last two axes longer than 1 are drawn, and a single one as a strip; axes that windows tile
precede those that every window spans. A window may go around the end of an axis.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import numpy as np

from pgmdiff.errors import GraphError
from pgmdiff.graphs.groups import WindowGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Bools, Ints, Shape
from pgmdiff.plotting.scenes import check_size, listed

__all__ = [
    "Box",
    "are_windows",
    "boxes_of",
    "drawn_axes",
    "interval_of",
    "intervals",
    "size_of",
    "split",
]

Intervals = list[tuple[int, int]]
"""Start and length on every axis; start + length may exceed the axis, whose end it then passes."""


@dataclass(frozen=True)
class Box:
    """A window on the two drawn axes, vertical and horizontal: its start, length and count."""

    start: tuple[int, int]
    length: tuple[int, int]
    count: Fraction
    outer: bool


def are_windows(graph: RegionGraph) -> bool:
    """Returns whether regions are boxes of a tensor, and not sets that happen to be intervals."""
    windows = all(isinstance(group, WindowGroup) for group in graph.groups)
    if not windows and sum(side > 1 for side in graph.event_shape) >= 2:
        windows = all(box is not None for box in intervals(graph))
    return windows and graph.n_regions > 0


def boxes_of(graph: RegionGraph) -> list[Box]:
    """Returns the distinct boxes on the drawn axes, windows first, without overlaps of count 0."""
    check_size(graph.n_regions, "windows", "Use layout='counts', or draw a smaller state.")
    drawn = drawn_axes(graph)
    boxes: dict[Box, None] = {}
    for (name, count, outer), found in zip(listed(graph), intervals(graph), strict=True):
        if found is None:
            raise GraphError(f"plot: region {name!r} is no box of the state. Use layout='hasse'.")
        (top, height), (left, width) = ((0, 1) if axis is None else found[axis] for axis in drawn)
        if count or outer:
            boxes[Box((top, left), (height, width), count, outer)] = None
    return sorted(boxes, key=lambda box: not box.outer)


def drawn_axes(graph: RegionGraph) -> tuple[int | None, int | None]:
    """Returns the last two axes longer than 1, vertical and horizontal.

    If these leave out an axis that windows tile, the last two tiled axes are returned.
    """
    long = [axis for axis, side in enumerate(graph.event_shape) if side > 1]
    if len(long) > 2:
        found = list(intervals(graph))
        tiled = {
            axis
            for lengths in found
            for axis, (_, length) in enumerate(lengths or ())
            if length < graph.event_shape[axis]
        }
        if None not in found and not tiled <= set(long[-2:]):
            long = sorted(tiled)
    return (long[-2] if len(long) > 1 else None), (long[-1] if long else None)


def size_of(graph: RegionGraph) -> tuple[int, int]:
    """Returns the height and the width of what is drawn, in elements."""
    down, right = (1 if axis is None else graph.event_shape[axis] for axis in drawn_axes(graph))
    return down, right


def intervals(graph: RegionGraph) -> Iterator[Intervals | None]:
    """Yields the intervals of each region, or None for a region that is no box."""
    for group in graph.groups:
        if isinstance(group, WindowGroup):  # whose indices are not needed
            sides = [(axis.length, axis.size) for axis in group.axes]
            pairs = zip(group.axes, group.places, strict=True)
            starts = [axis.starts[place].tolist() for axis, place in pairs]
            for corner in zip(*starts, strict=True):
                yield [
                    (start, length) if length < size else (0, size)
                    for start, (length, size) in zip(corner, sides, strict=True)
                ]
        else:
            for _, index in group.chunks():
                for region in index.numpy():
                    yield interval_of(region, graph.event_shape)


def interval_of(elements: Ints, shape: Shape) -> Intervals | None:
    """Returns the intervals of a set of elements, or None if they are no box."""
    places = [np.unique(place) for place in np.unravel_index(elements, shape)]
    if prod(map(len, places)) != elements.size:
        return None
    found = []
    for place, side in zip(places, shape, strict=True):
        gaps = np.flatnonzero(np.diff(place) > 1)
        if len(gaps) > 1 or (len(gaps) == 1 and (place[0] > 0 or place[-1] < side - 1)):
            return None
        found.append((int(place[gaps[0] + 1] if len(gaps) else place[0]), len(place)))
    return found


def split(mask: Bools) -> list[tuple[int, int, int, int]]:
    """Splits a mask [H, W] into boxes: top, left, height and width of each.

    Runs of a row that are the same in successive rows are one box.
    """
    edges = np.diff(np.pad(mask.astype(int), ((0, 1), (1, 1))), axis=1)  # the last row ends all
    begun: dict[tuple[int, int], int] = {}
    found = []
    for row, line in enumerate(edges):
        starts, ends = (np.flatnonzero(line == sign).tolist() for sign in (1, -1))
        runs = list(zip(starts, ends, strict=True))
        for left, right in [run for run in begun if run not in runs]:
            top = begun.pop((left, right))
            found.append((top, left, row - top, right - left))
        begun |= {run: row for run in runs if run not in begun}
    return found
