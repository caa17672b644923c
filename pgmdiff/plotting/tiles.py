"""Windows of a tensor over its image, and maps of what they add up to.

Which axes are drawn, and windows that wrap around one: see `drawing.windows`.
"""

from collections.abc import Sequence
from fractions import Fraction

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

from pgmdiff.errors import ShapeError
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Floats, Ints
from pgmdiff.plotting.boxes import (
    OUTLINES,
    TEXT,
    Box,
    boxes_of,
    drawn_axes,
    outlined,
    parts,
    size_of,
    written,
)
from pgmdiff.plotting.ink import INK, MIST, colour_of, count_text
from pgmdiff.plotting.style import (
    count_entries,
    figure_of,
    legend_below,
    sheet,
    text_size,
)

__all__ = ["draw_maps", "draw_tiles", "picture_of", "touching"]

PAGE = (12.0, 8.0)
STRIP = 1.1
"""Inches of height of a strip, at the least."""
PAPER = LinearSegmentedColormap.from_list("paper", ["#fbfbfb", "#c9ccd1"])
MANY = 60
"""Windows and overlaps beyond which only outlines are drawn over an image."""


# ---------------------------------------------------------------- tiles


def draw_tiles(
    graph: RegionGraph,
    image: Tensor | None,
    ax: Axes | None,
    labels: bool | None,
    title: str | None,
) -> Figure:
    """Outlines of windows, shaded overlaps, counts where they fit.

    Over an image, many boxes are drawn as outlines only: else they would hide it.
    """
    boxes, (height, width) = boxes_of(graph), size_of(graph)
    picture = _coverage(graph) if image is None else picture_of(image, (height, width))
    if image is not None and len(boxes) > MANY:
        boxes = [box for box in boxes if box.outer]
        labels = False if labels is None else labels
    entries = _entries(boxes)
    if ax is None:
        inches = _inches(height, width)
        _, ax = sheet(*inches, entries, title)
    else:
        legend_below(ax, entries)
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
    covered = _drawn(graph.coverage(), graph).max(axis=0)
    shades = PAPER(np.minimum(covered / max(int(covered.max()), 2), 1.0))[..., :3]
    return np.asarray(shades, np.float64)


def picture_of(image: Tensor, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """`[H, W]` or `[H, W, 3]` in [0, 1], of an image in [-1, 1] (others are shown clipped).

    Raises:
        ShapeError: the image is not of the drawn axes' size.
    """
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


def _shade(ax: Axes, overlaps: Sequence[Box], size: tuple[int, int]) -> None:
    patches, colours = [], []
    for box in overlaps:
        for (top, bottom, _, _), (left, right, _, _) in parts(box, size):
            patches.append(Rectangle((left, top), right - left, bottom - top))
            colours.append(to_rgba(colour_of(box.count), 0.42))
    ax.add_collection(PatchCollection(patches, facecolors=colours, edgecolors="none", zorder=2))


def _outline(ax: Axes, windows: Sequence[Box], size: tuple[int, int], scale: Floats) -> None:
    for some in outlined(windows, size, scale):
        ax.add_collection(
            LineCollection(
                some.lines,
                colors=some.colour,
                linewidths=some.thickness,
                zorder=3,
                clip_on=False,
            )
        )


# ---------------------------------------------------------------- text


def _write(ax: Axes, boxes: Sequence[Box], size: tuple[int, int], scale: Floats) -> None:
    for right, down, text, fits in written(boxes, size, scale, text_size):
        _count(ax, right, down, text, fits)


def touching(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two rectangles overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _count(ax: Axes, right: float, down: float, text: str, size: float) -> None:
    ax.text(
        right,
        down,
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
    one = graph.denominator
    pieces, overlaps = (_counted(graph, outer) for outer in (True, False))
    sums = pieces + overlaps
    panels = {
        "pieces": _farthest(pieces, graph, 0),
        "overlaps": _farthest(overlaps, graph, 0),
        _verdict(sums, one): _farthest(sums, graph, one),
    }
    if ax is not None:
        panels = dict([panels.popitem()])
    height, width = size_of(graph)
    counts = sorted({int(v) for panel in panels.values() for v in np.unique(panel)}, reverse=True)
    entries: list[Artist] = [
        Patch(fc=colour_of(value), ec=MIST, lw=0.5, label=count_text(value))
        for value in (Fraction(c, one) for c in _thinned(counts))
    ]
    picture = None if image is None else picture_of(image, (height, width))
    if ax is None:
        figure, axes = _panels(len(panels), height, width, entries, title)
    else:
        figure, axes = figure_of(ax), [ax]
        legend_below(ax, entries)
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
                down, right = corner + middle
                _count(ax, right, down, text, min(TEXT, fitting * side))


def _widest(area: npt.NDArray[np.bool_]) -> tuple[Floats, int]:
    """The middle of the largest square in an area, and its side."""
    padded = np.pad(area, 1)
    depth = ndimage.distance_transform_cdt(padded, metric="chessboard")
    deepest = np.argwhere(depth == depth.max())
    middle = deepest.mean(axis=0)
    if depth[tuple(middle.astype(int))] < depth.max():  # an area with a bend, or holes
        room = ndimage.distance_transform_edt(padded)[tuple(deepest.T)]
        away = np.abs(deepest - middle).sum(axis=1)
        middle = deepest[(room - 1e-3 * away).argmax()].astype(float)
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


def _drawn(values: Ints, graph: RegionGraph) -> Ints:
    """Values of elements as `[others, H, W]`."""
    axes = [axis for axis in drawn_axes(graph) if axis is not None]
    placed = values.reshape(graph.event_shape)
    moved = np.moveaxis(placed, axes, range(-len(axes), 0)) if axes else values
    return moved.reshape(-1, *size_of(graph))


def _farthest(sums: Ints, graph: RegionGraph, expected: int) -> Ints:
    """For each pixel, the sum that is farthest from what is expected."""
    drawn = _drawn(sums, graph)
    worst = np.abs(drawn - expected).argmax(axis=0)
    farthest: Ints = np.take_along_axis(drawn, worst[None], axis=0)[0]
    return farthest


def _coloured(panel: Ints, denominator: int) -> npt.NDArray[np.float64]:
    values, place = np.unique(panel, return_inverse=True)
    colours = np.array([to_rgba(colour_of(Fraction(int(v), denominator)))[:3] for v in values])
    return colours[place.reshape(panel.shape)]
