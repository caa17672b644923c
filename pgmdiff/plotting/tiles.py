"""Windows of a tensor drawn over its image, and maps of their counting numbers.

Lengths are in elements; scales are in points per element, vertical and horizontal.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import product

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from scipy import ndimage
from torch import Tensor

from pgmdiff.errors import ShapeError
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Floats, Ints
from pgmdiff.plotting.boxes import Box, boxes_of, drawn_axes, size_of
from pgmdiff.plotting.scenes import listed
from pgmdiff.plotting.style import (
    INK,
    MIST,
    axes_for,
    colour_of,
    count_entries,
    figure_of,
    picture,
    points_per_unit,
    sheet,
    text_size,
    write,
)
from pgmdiff.text import count_text

__all__ = ["TEXT", "draw_maps", "draw_tiles", "picture_of"]

PAGE = (12.0, 8.0)
"""Largest size of a picture, in inches."""
STRIP = 1.1
"""Least height of a strip, in inches."""
LANE = 14.0
"""Narrowest windows of a strip that are not staggered, in points."""
PAPER = LinearSegmentedColormap.from_list("paper", ["#fbfbfb", "#c9ccd1"])
OUTLINES = ("#08406e", "#2f7fbd", "#0b7a75")
"""Colours of neighbouring outlines, each of which is drawn a step further inside its window."""
TEXT = 8.0
"""Largest size of texts, in points."""
GROUND = {"boxstyle": "round,pad=0.1", "fc": (1, 1, 1, 0.75), "ec": "none"}
"""Ground of the counts that are written over an image."""
MANY = 60
"""Most windows and overlaps whose overlaps are shaded over an image."""


def draw_tiles(
    graph: RegionGraph,
    image: Tensor | None,
    ax: Axes | None,
    labels: bool | None,
    title: str | None,
) -> Figure:
    """Draws outlines of windows, shaded overlaps, and counts where they fit.

    Only outlines are drawn over an image if there are many boxes, which would hide it. The legend
    counts regions, of which several may have one box.
    """
    boxes, (height, width) = boxes_of(graph), size_of(graph)
    if image is None:  # how many windows contain each pixel, in shades of grey
        covered = _drawn(graph.coverage(), graph).max(axis=0)
        shown = PAPER(np.minimum(covered / max(int(covered.max()), 2), 1.0))[..., :3]
    else:
        shown = picture_of(image, (height, width))
        if len(boxes) > MANY:
            boxes = [box for box in boxes if box.outer]
            labels = False if labels is None else labels
    windows = [box for box in boxes if box.outer]
    overlaps = [box for box in boxes if not box.outer]
    entries: list[Artist] = []
    for entry in count_entries(count for _, count, outer in listed(graph) if outer):
        entry.set(label=f"window {entry.get_label()}", fc="white", ec=OUTLINES[0], lw=1.4)
        entries.append(entry)
    for entry in count_entries(count for _, count, outer in listed(graph) if not outer):
        shade = to_rgba(entry.get_facecolor(), 0.6)
        entry.set(label=f"overlap {entry.get_label()}", fc=shade, ec="none")
        entries.append(entry)
    unit = min(PAGE[0] / width, PAGE[1] / height)
    ax = axes_for(ax, (max(unit * width, 1.0), max(unit * height, STRIP)), entries, title)
    _show(ax, shown, height, width)
    patches, shades = [], []
    for box in overlaps:
        for corner in _corners(box, (height, width)):
            top, left = np.maximum(corner, 0)
            bottom, right = np.minimum(np.add(corner, box.length), (height, width))
            patches.append(Rectangle((left, top), right - left, bottom - top))
            shades.append(to_rgba(colour_of(box.count), 0.42))
    ax.add_collection(PatchCollection(patches, facecolors=shades, edgecolors="none", zorder=2))
    if windows:
        _outline(ax, windows, (height, width))
    if labels is not False:
        _write(ax, boxes, (height, width))
    return figure_of(ax)


def _show(ax: Axes, shown: Floats, height: int, width: int) -> None:
    """Shows an image in pixel units, with room for windows that go on beyond its sides."""
    style = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest", "aspect": "auto"}
    ax.imshow(shown, extent=(0, width, height, 0), **style)  # type: ignore[arg-type]
    ax.spines[:].set_visible(False)
    ax.set_xticks([])
    ax.set_yticks([])
    beyond = (0.02 if height > 1 else 0.06) * height
    ax.set_xlim(-0.02 * width, 1.02 * width)
    ax.set_ylim(height + beyond, -beyond)


def picture_of(image: Tensor, size: tuple[int, int]) -> Floats:
    """Returns an image of the drawn height and width as matplotlib shows it."""
    shown = image.reshape(1, -1) if image.ndim == 1 else image
    if shown.ndim not in (2, 3) or tuple(shown.shape[-2:]) != size:
        raise ShapeError(
            f"plot: expected an image of [{size[0]}, {size[1]}] or [C, {size[0]}, {size[1]}], the "
            f"drawn axes of the state, got {list(image.shape)}. Crop or rearrange it."
        )
    return picture(shown)


def _corners(box: Box, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns the upper left corners (top, left) where a box is drawn.

    A box that goes around the end of an axis is drawn at the end and once more before the start.
    """
    starts = (
        (start, start - side) if start + length > side else (start,)
        for start, length, side in zip(box.start, box.length, size, strict=True)
    )
    return [(top, left) for top, left in product(*starts)]


def _outline(ax: Axes, windows: Sequence[Box], size: tuple[int, int]) -> None:
    """Draws outlines a little inside their windows, so that those of neighbours do not coincide.

    The axes end a little beyond the image, so that windows that go around stick out of it. Narrow
    windows of a strip are staggered.
    """
    scale = points_per_unit(ax)
    smallest = float(min(min(box.length * scale) for box in windows))
    thick = min(1.6, max(0.5, 0.02 * smallest))
    step = np.minimum(1.7 * thick, 0.05 * smallest) / scale
    narrow = min(box.length[1] for box in windows) * scale[1]
    strip = all(box.length[0] == size[0] for box in windows)
    lanes = min(8, int(LANE / narrow) + 1) if strip and narrow < LANE else 1
    places = [
        {start: n for n, start in enumerate(sorted({box.start[axis] for box in windows}))}
        for axis in (0, 1)
    ]
    patches, colours = [], []
    for box in windows:
        rank = places[0][box.start[0]] + places[1][box.start[1]]  # neighbours differ by one
        colour = rank % len(OUTLINES)
        inset = step * (0.6 + colour)
        height = box.length[0] / lanes
        for top, left in _corners(box, size):
            corner = left + inset[1], top + height * (rank % lanes) + inset[0]
            wide, tall = box.length[1] - 2 * inset[1], height - 2 * inset[0]
            patches.append(Rectangle(corner, wide, tall))
            colours.append(OUTLINES[colour])
    ax.add_collection(
        PatchCollection(patches, facecolors="none", edgecolors=colours, linewidths=thick, zorder=3)
    )


def _write(ax: Axes, boxes: Sequence[Box], size: tuple[int, int]) -> None:
    """Writes each count, where there is room, amid what fewest windows share of its box."""
    scale = points_per_unit(ax)
    covered = []  # per axis: how many distinct windows contain each place
    for axis, side in enumerate(size):
        sides = {(box.start[axis], box.length[axis]) for box in boxes if box.outer}
        places = [(start + np.arange(length)) % side for start, length in sides]
        covered.append(np.bincount(np.concatenate([[], *places]).astype(int), minlength=side))
    starts = np.array([box.start for box in boxes])
    lengths = np.array([box.length for box in boxes])
    for box in boxes:
        middle, room = np.zeros((2, 2))
        for axis in (0, 1):
            place = (box.start[axis] + np.arange(box.length[axis])) % size[axis]
            clear = place[covered[axis][place] == covered[axis][place].min()]
            run = max(np.split(clear, np.flatnonzero(np.diff(clear) != 1) + 1), key=len)
            middle[axis], room[axis] = (run[0] + run[-1] + 1) / 2, len(run)
        text = count_text(box.count)
        fits = min(float((0.62 * room * scale / text_size(text)[::-1]).min()), TEXT)
        smaller = lengths.prod(axis=1) < np.prod(box.length)
        within = ((middle - starts) % size <= lengths).all(axis=1)
        if fits >= 0.7 * TEXT and not (within & smaller).any():
            write(ax, middle[1], middle[0], text, fits, color=INK, zorder=4, bbox=GROUND)


def draw_maps(
    graph: RegionGraph,
    image: Tensor | None,
    ax: Axes | None,
    labels: bool | None,
    title: str | None,
) -> Figure:
    """Draws how often elements are counted: by pieces, by overlaps, and in sum, which must be 1.

    Axes that are not drawn are reduced to the count farthest from 0, or to the sum farthest from 1.
    An image is drawn in the shades of the counts.
    """
    one, (height, width) = graph.denominator, size_of(graph)
    if image is not None:  # as shares from dark to light
        grey = picture_of(image, (height, width))
        grey = grey if grey.ndim == 2 else grey.mean(axis=2)
        low, high = np.quantile(grey, [0.01, 0.99])
        light = ((grey - low) / max(high - low, 1e-6)).clip(0, 1)[..., None]
    pieces = graph.sums(group.counts * group.outer for group in graph.groups)
    overlaps = graph.sums(group.counts * ~group.outer for group in graph.groups)
    sums = pieces + overlaps
    wrong = int((sums != one).sum())
    verdict = f"sum: {wrong} of {sums.size} elements are not counted once" if wrong else "sum: 1"
    panels = {}
    for name, values, expected in (
        ("pieces", pieces, 0),
        ("overlaps", overlaps, 0),
        (verdict, sums, one),
    ):
        if ax is None or name == verdict:
            drawn = _drawn(values, graph)
            farthest = np.abs(drawn - expected).argmax(axis=0)
            panels[name] = np.take_along_axis(drawn, farthest[None], axis=0)[0]
    counts = np.unique(np.stack(list(panels.values())))[::-1].tolist()
    if len(counts) > 12:
        counts = counts[:6] + counts[-6:]
    fractions = [Fraction(count, one) for count in counts]
    entries = [Patch(fc=colour_of(c), ec=MIST, lw=0.5, label=count_text(c)) for c in fractions]
    if ax is None:
        rows, columns = (len(panels), 1) if width > 2.5 * height else (1, len(panels))
        unit = min(PAGE[0] / columns / width, PAGE[1] / rows / height)
        size = max(unit * width, 1.0), max(unit * height, 0.8)
        axes = sheet(size, entries, title, rows, columns)
    else:
        axes = [axes_for(ax, (0, 0), entries, None)]
    for place, (name, panel) in zip(axes, panels.items(), strict=True):
        found, index = np.unique(panel, return_inverse=True)
        colours = np.array([to_rgb(colour_of(Fraction(int(count), one))) for count in found])
        shown = colours[index.reshape(panel.shape)]
        if image is not None:
            shown = shown * (0.55 + 0.45 * light) + 0.2 * light**2 * (1 - shown)
        _show(place, shown, height, width)
        if labels is not False:
            _write_counts(place, panel, one)
        place.set_title(name if ax is None or not title else title, fontsize=10, parse_math=False)
    return figure_of(axes[0])


def _drawn(values: Ints, graph: RegionGraph) -> Ints:
    """Returns the values of elements as `[others, H, W]`, where others are axes not drawn."""
    axes = [axis for axis in drawn_axes(graph) if axis is not None]
    moved = np.moveaxis(values.reshape(graph.event_shape), axes, range(-len(axes), 0))
    return moved.reshape(-1, *size_of(graph))


def _write_counts(ax: Axes, panel: Ints, one: int) -> None:
    """Writes the count of every area in the middle of its largest square, if there is room."""
    scale = points_per_unit(ax)
    for value in np.unique(panel):
        text = count_text(Fraction(int(value), one))
        fitting = 0.7 * min(scale / text_size(text)[::-1])  # font size in a square of one pixel
        areas, _ = ndimage.label(panel == value)
        for number, box in enumerate(ndimage.find_objects(areas), start=1):
            area = np.pad(areas[box] == number, 1)
            if fitting * (min(area.shape) - 2) < 0.7 * TEXT:
                continue
            depth = ndimage.distance_transform_cdt(area, metric="chessboard")
            size = fitting * (2 * int(depth.max()) - 1)
            deepest = np.argwhere(depth == depth.max())
            middle = deepest.mean(axis=0)
            around = np.floor(middle).astype(int), np.ceil(middle).astype(int)
            if min(depth[tuple(p)] for p in around) < depth.max():  # an area with a bend, or holes
                room = ndimage.distance_transform_edt(area)[tuple(deepest.T)]
                away = np.abs(deepest - middle).sum(axis=1)
                middle = deepest[(room - 1e-3 * away).argmax()].astype(float)
            if size >= 0.7 * TEXT:
                down, right = middle - 0.5 + [part.start for part in box]
                write(ax, right, down, text, min(TEXT, size), color=INK, zorder=4, bbox=GROUND)
