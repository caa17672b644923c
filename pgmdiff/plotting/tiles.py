"""Windows of a tensor over its image, and maps of what they add up to.

The last two axes longer than 1 are drawn, a single one as a strip. Windows that wrap around an axis
are drawn in parts, open on the side where they go on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from scipy import ndimage
from torch import Tensor

from pgmdiff.errors import GraphError, ShapeError
from pgmdiff.graphs.regions import Ints, RegionGraph, Shape, WindowGroup
from pgmdiff.plotting.scenes import check_size, named_counts
from pgmdiff.plotting.style import (
    INK,
    MIST,
    add_legend,
    colour_of,
    columns,
    count_entries,
    count_text,
    figure_of,
    sheet,
    text_size,
)

__all__ = ["Box", "are_windows", "boxes_of", "draw_maps", "draw_tiles", "picture_of", "touching"]

PAGE = (12.0, 8.0)
STRIP = 1.1
"""Inches of height of a strip, at the least."""
LANE = 14.0
"""Points below which the windows of a strip are staggered."""
OUTLINES = ("#08406e", "#2f7fbd", "#0b7a75")
"""Colours of neighbouring outlines, each of them a step further inside."""
PAPER = LinearSegmentedColormap.from_list("paper", ["#fbfbfb", "#c9ccd1"])
TEXT = 8.0

Floats = npt.NDArray[np.float64]
Span = tuple[float, float, bool, bool]
"""From, to, and whether it goes on beyond each of them."""


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
    drawn = drawn_axes(graph.event_shape)
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


def drawn_axes(shape: Shape) -> tuple[int | None, int | None]:
    """The last two axes longer than 1: vertical, horizontal."""
    long = [axis for axis, side in enumerate(shape) if side > 1]
    return (long[-2] if len(long) > 1 else None), (long[-1] if long else None)


def size_of(shape: Shape) -> tuple[int, int]:
    """Height and width of what is drawn."""
    down, right = (1 if axis is None else shape[axis] for axis in drawn_axes(shape))
    return down, right


def _intervals(graph: RegionGraph) -> Iterator[list[tuple[int, int]] | None]:
    """(start, length) on every axis, region by region; None for a region that is no box."""
    for group in graph.groups:
        for row in range(0, len(group), group.step):
            for region in group.indices(row, min(row + group.step, len(group))).numpy():
                yield _box(region.ravel(), graph.event_shape)


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


# ---------------------------------------------------------------- tiles


def draw_tiles(
    graph: RegionGraph,
    image: Tensor | None,
    ax: Axes | None,
    labels: bool | None,
    title: str | None,
) -> Figure:
    """Outlines of windows, shaded overlaps, counts where they fit."""
    boxes, (height, width) = boxes_of(graph), size_of(graph.event_shape)
    picture = _coverage(graph) if image is None else picture_of(image, graph.event_shape)
    entries = _entries(boxes)
    if ax is None:
        inches = _inches(height, width)
        _, ax = sheet(*inches, entries, title)
    else:
        add_legend(
            ax,
            entries,
            columns(ax.get_position().width * figure_of(ax).get_figwidth(), entries),
            -0.02,
        )
        ax.set_title(title or "")
    _show(ax, picture, height, width)
    scale = _scale(ax, height, width)
    _shade(ax, [box for box in boxes if not box.outer], (height, width))
    windows = [box for box in boxes if box.outer]
    _outline(ax, windows, (height, width), scale)
    if labels is not False:
        _write(ax, boxes, (height, width), scale)
    return figure_of(ax)


def _inches(height: int, width: int) -> tuple[float, float]:
    unit = min(PAGE[0] / width, PAGE[1] / height)
    return max(unit * width, 1.0), max(unit * height, STRIP)


def _show(ax: Axes, picture: npt.NDArray[np.float64], height: int, width: int) -> None:
    """An image in pixel units, with room for windows that go on beyond its sides."""
    ax.imshow(
        picture,
        cmap="gray" if picture.ndim == 2 else None,
        vmin=0,
        vmax=1,
        extent=(0, width, height, 0),
        aspect="auto",
        interpolation="nearest",
    )
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlim(-0.02 * width, 1.02 * width)
    ax.set_ylim(height * (1.02 if height > 1 else 1.06), -height * (0.02 if height > 1 else 0.06))


def _scale(ax: Axes, height: int, width: int) -> Floats:
    """Points per pixel: down, right."""
    box, inches = ax.get_position(), figure_of(ax).get_size_inches()
    tall, wide = np.abs(np.diff(ax.get_ylim()))[0], np.abs(np.diff(ax.get_xlim()))[0]
    return 72 * np.array([box.height * inches[1] / tall, box.width * inches[0] / wide])


def _coverage(graph: RegionGraph) -> npt.NDArray[np.float64]:
    """How many windows contain each pixel, as shades of grey."""
    covered = _drawn(graph.coverage(), graph.event_shape).max(axis=0)
    shades = PAPER(np.minimum(covered / max(int(covered.max()), 2), 1.0))[..., :3]
    return np.asarray(shades, np.float64)


def picture_of(image: Tensor, shape: Shape) -> npt.NDArray[np.float64]:
    """`[H, W]` or `[H, W, 3]` in [0, 1], of an image in [-1, 1] (others are shown clipped).

    Raises:
        ShapeError: the image is not of the drawn axes' size.
    """
    size = size_of(shape)
    pixels = image.detach().cpu().double()
    pixels = pixels / 255 if not image.dtype.is_floating_point else (pixels.clamp(-1, 1) + 1) / 2
    pixels = pixels.reshape(1, -1) if pixels.ndim == 1 else pixels
    if pixels.ndim not in (2, 3) or tuple(pixels.shape[-2:]) != size:
        raise ShapeError(
            f"plot: expected an image of [{size[0]}, {size[1]}] or [C, {size[0]}, {size[1]}], the "
            f"drawn axes of the state, got {list(image.shape)}. Crop or rearrange it."
        )
    return channels_last(pixels.numpy())


def channels_last(pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`[..., C, H, W]` as matplotlib wants it: grey, or `[..., H, W, 3]`."""
    if pixels.ndim == 2:
        return pixels
    return np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else pixels.mean(axis=0)


def _entries(boxes: Sequence[Box]) -> list[Artist]:
    entries: list[Artist] = []
    for outer, what in ((True, "window"), (False, "overlap")):
        counts = [box.count for box in boxes if box.outer is outer]
        for entry in count_entries(counts):
            entry.set_label(f"{what} {entry.get_label()}")
            if outer:
                entry.set(fc="white", ec=OUTLINES[0], lw=1.4)
            else:
                entry.set(fc=to_rgba(entry.get_facecolor(), 0.6), ec="none")
            entries.append(entry)
    return entries


# ---------------------------------------------------------------- ink


def _spans(start: int, length: int, side: int) -> list[Span]:
    """A window of one axis as one part, or two if it goes around the end."""
    if start + length <= side:
        return [(start, start + length, False, False)]
    return [(start, side, False, True), (0, start + length - side, True, False)]


def _parts(box: Box, size: tuple[int, int]) -> Iterator[tuple[Span, Span]]:
    for down in _spans(box.start[0], box.length[0], size[0]):
        for right in _spans(box.start[1], box.length[1], size[1]):
            yield down, right


def _shade(ax: Axes, overlaps: Sequence[Box], size: tuple[int, int]) -> None:
    patches, colours = [], []
    for box in overlaps:
        for (top, bottom, _, _), (left, right, _, _) in _parts(box, size):
            patches.append(Rectangle((left, top), right - left, bottom - top))
            colours.append(to_rgba(colour_of(box.count), 0.42))
    ax.add_collection(PatchCollection(patches, facecolors=colours, edgecolors="none", zorder=2))


def _outline(ax: Axes, windows: Sequence[Box], size: tuple[int, int], scale: Floats) -> None:
    """Outlines a little inside their windows, so that those of neighbours do not coincide."""
    if not windows:
        return
    smallest = min(min(box.length * scale) for box in windows)
    thick = min(1.6, max(0.5, 0.02 * smallest))
    step = np.minimum(1.7 * thick, 0.05 * smallest) / scale
    ranks = _ranks(windows)
    lanes = _lanes(windows, size, scale)
    for colour, tint in enumerate(OUTLINES):
        lines = []
        for box, rank in zip(windows, ranks, strict=True):
            if rank % len(OUTLINES) == colour:
                inset = step * (0.6 + colour)
                for down, right in _parts(box, size):
                    lines += _sides(_lane(rank, lanes, down), right, inset, size)
        ax.add_collection(
            LineCollection(lines, colors=tint, linewidths=thick, zorder=3, clip_on=False)
        )


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


def _sides(
    down: Span, right: Span, inset: Floats, size: tuple[int, int]
) -> list[list[tuple[float, float]]]:
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


# ---------------------------------------------------------------- text


def _write(ax: Axes, boxes: Sequence[Box], size: tuple[int, int], scale: Floats) -> None:
    """Each count amid what fewest windows share of its box, where there is room."""
    covered = [_axis_coverage(boxes, axis, size[axis]) for axis in (0, 1)]
    starts = np.array([box.start for box in boxes])
    lengths = np.array([box.length for box in boxes])
    for box in boxes:
        spans = np.array([_clearest(box, axis, covered[axis]) for axis in (0, 1)])
        middle, room = spans.mean(axis=1), np.diff(spans, axis=1)[:, 0]
        text = count_text(box.count)
        width, height = text_size(text)
        fits = min((0.62 * room * scale / [height, width]).min(), TEXT)
        smaller = lengths.prod(axis=1) < np.prod(box.length)
        within = ((middle - starts) % size <= lengths).all(axis=1)
        if fits >= 0.7 * TEXT and not (within & smaller).any():
            _count(ax, middle % size, text, fits)


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


def touching(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two rectangles overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _count(ax: Axes, middle: Floats, text: str, size: float) -> None:
    ax.text(
        middle[1],
        middle[0],
        text,
        size=size,
        ha="center",
        va="center",
        color=INK,
        zorder=4,
        bbox={"boxstyle": "round,pad=0.1", "fc": (1, 1, 1, 0.75), "ec": "none"},
    )


# ---------------------------------------------------------------- maps


def draw_maps(
    graph: RegionGraph,
    image: Tensor | None,
    ax: Axes | None,
    labels: bool | None,
    title: str | None,
) -> Figure:
    """How often elements are counted: by pieces, by overlaps, and in sum, which must be 1.

    Axes that are not drawn are reduced to the count farthest from 0, or to the sum farthest from 1.
    An image is drawn in the shades of the counts.
    """
    shape, one = graph.event_shape, graph.denominator
    pieces, overlaps = (_counted(graph, outer) for outer in (True, False))
    sums = pieces + overlaps
    panels = {
        "pieces": _farthest(pieces, shape, 0),
        "overlaps": _farthest(overlaps, shape, 0),
        _verdict(sums, one): _farthest(sums, shape, one),
    }
    if ax is not None:
        panels = dict([panels.popitem()])
    height, width = size_of(shape)
    counts = sorted({int(v) for panel in panels.values() for v in np.unique(panel)}, reverse=True)
    entries: list[Artist] = [
        Patch(fc=colour_of(value), ec=MIST, lw=0.5, label=count_text(value))
        for value in (Fraction(c, one) for c in _thinned(counts))
    ]
    picture = None if image is None else picture_of(image, shape)
    if ax is None:
        figure, axes = _panels(len(panels), height, width, entries, title)
    else:
        figure, axes = figure_of(ax), [ax]
        add_legend(ax, entries, len(entries), -0.02)
    for place, (name, panel) in zip(axes, panels.items(), strict=True):
        coloured = _coloured(panel, one)
        _show(place, coloured if picture is None else _tinted(picture, coloured), height, width)
        if labels is not False:
            _write_counts(place, panel, one)
        place.set_title(name if ax is None or not title else title, fontsize=10)
    return figure


def _tinted(picture: Floats, coloured: Floats) -> Floats:
    """The colours, darker where the picture is dark and a little lighter where it is light."""
    grey = picture if picture.ndim == 2 else picture.mean(axis=2)
    low, high = np.quantile(grey, [0.01, 0.99])
    light = ((grey - low) / max(high - low, 1e-6)).clip(0, 1)[..., None]
    tinted: Floats = coloured * (0.55 + 0.45 * light) + 0.2 * light**2 * (1 - coloured)
    return tinted


def _write_counts(ax: Axes, panel: Ints, one: int) -> None:
    """Every area's count in the middle of where it is widest, if there is room."""
    scale = _scale(ax, *panel.shape)
    for value in np.unique(panel):
        text = count_text(Fraction(int(value), one))
        fitting = 0.7 * min(scale / text_size(text)[::-1])  # font size in a square of one pixel
        areas, _ = ndimage.label(panel == value)
        for number, box in enumerate(ndimage.find_objects(areas), start=1):
            area = areas[box] == number
            if fitting * min(area.shape) < 0.7 * TEXT:
                continue
            middle, side = _widest(area)
            if fitting * side >= 0.7 * TEXT:
                corner = np.array([part.start for part in box])
                _count(ax, corner + middle, text, min(TEXT, fitting * side))


def _widest(area: npt.NDArray[np.bool_]) -> tuple[Floats, int]:
    """The middle of the largest square in an area, and its side."""
    depth = ndimage.distance_transform_cdt(np.pad(area, 1), metric="chessboard")
    deepest = np.argwhere(depth == depth.max())
    middle = deepest.mean(axis=0)
    if depth[tuple(middle.astype(int))] < depth.max():  # an area with a bend
        middle = deepest[np.abs(deepest - middle).sum(axis=1).argmin()].astype(float)
    return middle - 0.5, 2 * int(depth.max()) - 1


def _verdict(sums: Ints, one: int) -> str:
    wrong = int((sums != one).sum())
    return f"sum: {wrong} of {sums.size} elements are not counted once" if wrong else "sum: 1"


def _thinned(counts: list[int]) -> list[int]:
    return counts if len(counts) <= 12 else counts[:6] + counts[-6:]


def _panels(
    number: int, height: int, width: int, entries: Sequence[Artist], title: str | None
) -> tuple[Figure, list[Axes]]:
    """Axes side by side, or under one another where they are wide."""
    down = width > 2.5 * height
    rows, across = (number, 1) if down else (1, number)
    unit = min(PAGE[0] / across / width, PAGE[1] / rows / height)
    wide, tall = max(unit * width, 1.0), max(unit * height, 0.8) + 0.3
    figure, whole = sheet(wide * across, tall * rows, entries, title)
    box = whole.get_position()
    whole.remove()
    axes = []
    for panel in range(number):
        row, column = (panel, 0) if down else (0, panel)
        left = box.x0 + box.width * (column + 0.03) / across
        bottom = box.y1 - box.height * (row + 1) / rows
        axes.append(
            figure.add_axes(
                (left, bottom, 0.94 * box.width / across, box.height / rows * (1 - 0.3 / tall))
            )
        )
    return figure, axes


def _counted(graph: RegionGraph, outer: bool) -> Ints:
    """Σ of the counts of outer regions, or of all others, that contain each element."""
    total = np.zeros(graph.n_elements, np.int64)
    for group in graph.groups:
        counts = np.where(group.outer == outer, group.counts, 0)
        if counts.any():
            total += group.scatter_sum(counts, graph.n_elements)
    return total


def _drawn(values: Ints, shape: Shape) -> Ints:
    """Values of elements as `[others, H, W]`."""
    axes = [axis for axis in drawn_axes(shape) if axis is not None]
    moved = np.moveaxis(values.reshape(shape), axes, range(-len(axes), 0)) if axes else values
    return moved.reshape(-1, *size_of(shape))


def _farthest(sums: Ints, shape: Shape, expected: int) -> Ints:
    """For each pixel, the sum that is farthest from what is expected."""
    drawn = _drawn(sums, shape)
    worst = np.abs(drawn - expected).argmax(axis=0)
    farthest: Ints = np.take_along_axis(drawn, worst[None], axis=0)[0]
    return farthest


def _coloured(panel: Ints, denominator: int) -> npt.NDArray[np.float64]:
    values, place = np.unique(panel, return_inverse=True)
    colours = np.array([to_rgba(colour_of(Fraction(int(v), denominator)))[:3] for v in values])
    return colours[place.reshape(panel.shape)]
