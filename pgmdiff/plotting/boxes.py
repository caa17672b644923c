"""Windows of a tensor: which boxes there are, where their outlines run and their counts stand.

The last two axes longer than 1 are drawn, a single one as a strip; but those that the windows tile
come first. Windows that wrap around an axis are drawn in parts, open on the side where they go on.
Lengths are in elements; a scale gives points per element, down and right.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import numpy as np

from pgmdiff.errors import GraphError
from pgmdiff.graphs.groups import WindowGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Floats, Ints, Shape
from pgmdiff.plotting.ink import count_text
from pgmdiff.plotting.scenes import check_size, named_counts

__all__ = [
    "OUTLINES",
    "TEXT",
    "Box",
    "Outlines",
    "are_windows",
    "boxes_of",
    "drawn_axes",
    "outlined",
    "parts",
    "size_of",
    "written",
]

LANE = 14.0
"""Points below which the windows of a strip are staggered."""
OUTLINES = ("#08406e", "#2f7fbd", "#0b7a75")
"""Colours of neighbouring outlines, each of them a step further inside."""
TEXT = 8.0

Span = tuple[float, float, bool, bool]
"""From, to, and whether it goes on beyond each of them."""
Line = list[tuple[float, float]]
"""Two ends, each right and down."""


@dataclass(frozen=True)
class Box:
    """A window on the two drawn axes: where it begins, how long it is, what it counts."""

    start: tuple[int, int]
    length: tuple[int, int]
    count: Fraction
    outer: bool


# ---------------------------------------------------------------- which boxes


def are_windows(graph: RegionGraph) -> bool:
    """Whether the regions are boxes of a tensor, rather than sets that happen to be intervals."""
    windows = all(isinstance(group, WindowGroup) for group in graph.groups)
    if windows or sum(side > 1 for side in graph.event_shape) < 2:
        return windows and graph.n_regions > 0
    return graph.n_regions > 0 and all(box is not None for box in _intervals(graph))


def boxes_of(graph: RegionGraph) -> list[Box]:
    """Distinct boxes on the drawn axes, windows first; those of count 0 left out.

    Raises:
        GraphError: too many regions to tell apart, or one that is no box.
    """
    check_size(graph.n_regions, "windows", "Use layout='counts', or draw a smaller state.")
    drawn = drawn_axes(graph)
    boxes = {}
    outer = [bool(flag) for group in graph.groups for flag in group.outer]
    for (name, count), own, intervals in zip(
        named_counts(graph), outer, _intervals(graph), strict=True
    ):
        if intervals is None:
            raise GraphError(f"plot: region {name!r} is no box of the state. Use layout='hasse'.")
        pairs = [(0, 1) if axis is None else intervals[axis] for axis in drawn]
        start, length = (pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1])
        if count or own:
            boxes[start, length, own, count] = Box(start, length, count, own)
    return sorted(boxes.values(), key=lambda box: not box.outer)


def drawn_axes(graph: RegionGraph) -> tuple[int | None, int | None]:
    """The last two axes longer than 1, vertical and horizontal.

    Where these leave out an axis that is tiled, the last two tiled ones.
    """
    long = [axis for axis, side in enumerate(graph.event_shape) if side > 1]
    if len(long) > 2:
        tiled = _tiled_axes(graph)
        long = long if tiled <= set(long[-2:]) else sorted(tiled)
    return (long[-2] if len(long) > 1 else None), (long[-1] if long else None)


def _tiled_axes(graph: RegionGraph) -> set[int]:
    """Axes that some window does not span; none if a region is no box."""
    found: set[int] = set()
    for intervals in _intervals(graph):
        if intervals is None:
            return set()
        sides = enumerate(zip(intervals, graph.event_shape, strict=True))
        found.update(axis for axis, ((_, length), side) in sides if length < side)
    return found


def size_of(graph: RegionGraph) -> tuple[int, int]:
    """Height and width of what is drawn."""
    shape = graph.event_shape
    down, right = (1 if axis is None else shape[axis] for axis in drawn_axes(graph))
    return down, right


def _intervals(graph: RegionGraph) -> Iterator[list[tuple[int, int]] | None]:
    """(start, length) on every axis, region by region; None for a region that is no box."""
    for group in graph.groups:
        if isinstance(group, WindowGroup):
            yield from _window_intervals(group)
            continue
        for row in range(0, len(group), group.step):
            for region in group.indices(row, min(row + group.step, len(group))).numpy():
                yield _box(region.ravel(), graph.event_shape)


def _window_intervals(group: WindowGroup) -> Iterator[list[tuple[int, int]]]:
    """The same of windows, without their indices."""
    places = np.unravel_index(group.rows.numpy(), [len(axis.starts) for axis in group.axes])
    starts = [axis.starts[place].tolist() for axis, place in zip(group.axes, places, strict=True)]
    for corner in zip(*starts, strict=True):
        yield [
            (start, axis.length) if axis.length < axis.size else (0, axis.size)
            for start, axis in zip(corner, group.axes, strict=True)
        ]


def _box(elements: Ints, shape: Shape) -> list[tuple[int, int]] | None:
    places = [np.unique(place) for place in np.unravel_index(elements, shape)]
    if prod(map(len, places)) != elements.size:
        return None
    spans = [_cyclic(place, side) for place, side in zip(places, shape, strict=True)]
    return [span for span in spans if span] if all(spans) else None


def _cyclic(places: Ints, side: int) -> tuple[int, int] | None:
    """The interval, perhaps around the end, that sorted places make up."""
    (gaps,) = np.nonzero(np.diff(places) > 1)
    if len(gaps) == 0:
        return int(places[0]), len(places)
    if len(gaps) == 1 and places[0] == 0 and places[-1] == side - 1:
        return int(places[gaps[0] + 1]), len(places)
    return None


# ---------------------------------------------------------------- outlines


def _spans(start: int, length: int, side: int) -> list[Span]:
    """A window of one axis as one part, or two if it goes around the end."""
    if start + length <= side:
        return [(start, start + length, False, False)]
    return [(start, side, False, True), (0, start + length - side, True, False)]


def parts(box: Box, size: tuple[int, int]) -> Iterator[tuple[Span, Span]]:
    """The rectangles of a box, down and right: more than one where it goes around the end."""
    for down in _spans(box.start[0], box.length[0], size[0]):
        for right in _spans(box.start[1], box.length[1], size[1]):
            yield down, right


@dataclass(frozen=True)
class Outlines:
    """Sides of windows in one colour, of one thickness in points."""

    colour: str
    thickness: float
    lines: list[Line]


def outlined(windows: Sequence[Box], size: tuple[int, int], scale: Floats) -> Iterator[Outlines]:
    """Outlines a little inside their windows, so that those of neighbours do not coincide."""
    if not windows:
        return
    smallest = min(min(box.length * scale) for box in windows)
    thick = min(1.6, max(0.5, 0.02 * smallest))
    step = np.minimum(1.7 * thick, 0.05 * smallest) / scale
    ranks = _ranks(windows)
    lanes = _lanes(windows, size, scale)
    for colour, tint in enumerate(OUTLINES):
        lines: list[Line] = []
        for box, rank in zip(windows, ranks, strict=True):
            if rank % len(OUTLINES) == colour:
                inset = step * (0.6 + colour)
                for down, right in parts(box, size):
                    lines += _sides(_lane(rank, lanes, down), right, inset, size)
        yield Outlines(tint, thick, lines)


def _ranks(windows: Sequence[Box]) -> list[int]:
    """Numbers that differ by one between neighbours on either axis."""
    places = [
        {s: rank for rank, s in enumerate(sorted({box.start[axis] for box in windows}))}
        for axis in (0, 1)
    ]
    return [places[0][box.start[0]] + places[1][box.start[1]] for box in windows]


def _lanes(windows: Sequence[Box], size: tuple[int, int], scale: Floats) -> int:
    """Over how many lanes the narrow windows of a strip are staggered."""
    narrow = min(box.length[1] for box in windows) * scale[1]
    strip = all(box.length[0] == size[0] for box in windows)
    return min(8, int(LANE / narrow) + 1) if strip and narrow < LANE else 1


def _lane(rank: int, lanes: int, down: Span) -> Span:
    top, bottom, goes_up, goes_down = down
    height = (bottom - top) / lanes
    first = top + height * (rank % lanes)
    return first, first + height, goes_up, goes_down


def _sides(down: Span, right: Span, inset: Floats, size: tuple[int, int]) -> list[Line]:
    """Sides of a rectangle; those it goes on beyond are open, and their neighbours stick out."""
    top, bottom = _ends(down, float(inset[0]), 0.02 * size[0])
    left, end = _ends(right, float(inset[1]), 0.02 * size[1])
    sides = [
        ([(left, top), (end, top)], down[2]),
        ([(left, bottom), (end, bottom)], down[3]),
        ([(left, top), (left, bottom)], right[2]),
        ([(end, top), (end, bottom)], right[3]),
    ]
    return [line for line, is_open in sides if not is_open]


def _ends(span: Span, inset: float, beyond: float) -> tuple[float, float]:
    low, high, goes_low, goes_high = span
    return low + (-beyond if goes_low else inset), high - (-beyond if goes_high else inset)


# ---------------------------------------------------------------- counts


def written(
    boxes: Sequence[Box],
    size: tuple[int, int],
    scale: Floats,
    measure: Callable[[str], tuple[float, float]],
) -> Iterator[tuple[float, float, str, float]]:
    """Each count amid what fewest windows share of its box, where there is room.

    Args:
        boxes: windows and overlaps.
        size: height and width of what is drawn.
        scale: points per element.
        measure: a text to its width and height, in units of the font size.

    Returns:
        Right, down, text and font size in points.
    """
    covered = [_axis_coverage(boxes, axis, size[axis]) for axis in (0, 1)]
    starts = np.array([box.start for box in boxes])
    lengths = np.array([box.length for box in boxes])
    for box in boxes:
        spans = np.array([_clearest(box, axis, covered[axis]) for axis in (0, 1)])
        middle, room = spans.mean(axis=1), np.diff(spans, axis=1)[:, 0]
        text = count_text(box.count)
        width, height = measure(text)
        fits = min((0.62 * room * scale / [height, width]).min(), TEXT)
        smaller = lengths.prod(axis=1) < np.prod(box.length)
        within = ((middle - starts) % size <= lengths).all(axis=1)
        if fits >= 0.7 * TEXT and not (within & smaller).any():
            down, right = (middle % size).tolist()
            yield right, down, text, float(fits)


def _axis_coverage(boxes: Sequence[Box], axis: int, side: int) -> Ints:
    """How many distinct windows of one axis contain each place."""
    spans = {(box.start[axis], box.length[axis]) for box in boxes if box.outer}
    covered = np.zeros(side, np.int64)
    for start, length in spans:
        covered[(start + np.arange(length)) % side] += 1
    return covered


def _clearest(box: Box, axis: int, covered: Ints) -> tuple[float, float]:
    """The longest run of a box's places that fewest windows contain."""
    start, length = box.start[axis], box.length[axis]
    inside = covered[(start + np.arange(length)) % len(covered)]
    least = int(inside.min())
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (inside == least).astype(int), [0]])))
    runs = edges.reshape(-1, 2)
    low, high = runs[np.argmax(runs[:, 1] - runs[:, 0])]
    if start + low < len(covered) < start + high:  # one side of the end, the longer
        before = len(covered) - start
        low, high = (low, before) if before - low >= high - before else (before, high)
    return float(start + low), float(start + high)
