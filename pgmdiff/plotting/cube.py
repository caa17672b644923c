"""An unfolded cube, with the windows of every face: U above F, then L F R B in a row, D below F.

A region inside one face is drawn like a window of an image. One that spans several faces has a
colour of its own, so that its parts are recognised on all of them. What is no box of a face, or
goes around its end, is drawn as several boxes.
"""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from pgmdiff.errors import GraphError, ShapeError
from pgmdiff.graphs.cube import FACES
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Floats, Shape
from pgmdiff.plotting.boxes import split
from pgmdiff.plotting.scenes import MAX_NODES, check_size, listed
from pgmdiff.plotting.style import (
    INK,
    MIST,
    axes_for,
    colour_of,
    count_entries,
    figure_of,
    name_text,
    points_per_unit,
    text_colour,
    text_size,
    write,
)
from pgmdiff.plotting.tiles import TEXT, picture_of
from pgmdiff.text import count_text

__all__ = ["draw_cube", "is_cube"]

NET = {"U": (1, 0), "L": (0, 1), "F": (1, 1), "R": (2, 1), "B": (3, 1), "D": (1, 2)}
"""Column and row of each face."""
INCHES = 2.4
"""Side of a face."""
GAP = 0.12
"""Distance between faces, in sides of a face."""
DARK = ("#393b79", "#8c6d31", "#843c39", "#5254a3")
SPANNING = [*map(to_hex, colormaps["tab10"].colors), *DARK]  # type: ignore[attr-defined]
"""Colours of regions that span several faces."""
WINDOW = "#2f7fbd"


@dataclass(frozen=True)
class Region:
    """A region with its colour, if it spans several faces."""

    number: int
    text: str
    count: Fraction
    outer: bool
    colour: str | None


@dataclass(frozen=True)
class Piece:
    """A box that a region covers of one face, from its upper left corner right and down."""

    region: Region
    corner: Floats
    size: Floats
    whole: bool  # it is the whole face
    rank: int  # number of pieces before it that have the same box

    def outline(self, thick: float, points: float) -> Rectangle:
        """Returns the outline, a little inside those of the pieces before it on the same box."""
        step = 1.4 * thick * (self.rank + 0.7) + 0.8 * (self.region.number % 2)
        inset = min(step / points, 0.3 * float(min(self.size)))
        (x, y), (width, height) = self.corner + inset, self.size - 2 * inset
        edge = self.region.colour or WINDOW
        return Rectangle((x, y), width, height, fc="none", ec=edge, lw=thick, zorder=3)


def is_cube(graph: RegionGraph) -> bool:
    """Returns whether the state is six square faces, after all of which regions are named."""
    return _is_six_squares(graph.event_shape) and set(FACES) <= set(
        map(str, graph.names) if graph.n_regions <= MAX_NODES else ()
    )


def _is_six_squares(shape: Shape) -> bool:
    return len(shape) in (3, 4) and shape[0] == 6 and shape[-1] == shape[-2]


def draw_cube(
    graph: RegionGraph,
    image: Tensor | None,
    ax: Axes | None,
    labels: bool | None,
    title: str | None,
) -> Figure:
    """Draws the six faces, with outlines, shades and counts of the regions on each of them."""
    shape = graph.event_shape
    if not _is_six_squares(shape):
        raise GraphError(
            f"plot: layout='cube' expects a state of [6, n, n] or [6, C, n, n], got {shape}. "
            "Use layout='tiles' or layout='hasse'."
        )
    check_size(graph.n_regions, "windows", "Use layout='counts'.")
    n = shape[-1]
    if image is not None and (
        image.ndim not in (3, 4) or image.shape[0] != 6 or image.shape[-2:] != (n, n)
    ):
        raise ShapeError(
            f"plot: expected an image of [6, {n}, {n}] or [6, C, {n}, {n}], got "
            f"{list(image.shape)}. Stack the faces in the order F, B, L, R, U, D."
        )
    pieces = _pieces(graph)
    entries = count_entries(count for _, count, _ in listed(graph))
    ax = axes_for(ax, (4 * INCHES, 3 * INCHES), entries, title)
    for number, face in enumerate(FACES):
        x, y = _corner(face, n)
        if image is not None:
            shown, extent = picture_of(image[number], (n, n)), (x, x + n, y + n, y)
            ax.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=extent)
        ground = "#f6f7f8" if image is None else "none"
        ax.add_patch(Rectangle((x, y), n, n, fc=ground, ec=MIST, lw=0.8, zorder=0.5))
        ax.text(x, y - 0.02 * n, face, size=12, weight="bold", ha="left", va="bottom", color=INK)
    ax.set_axis_off()
    ax.set_xlim(-0.05 * n, (4 + 3 * GAP + 0.05) * n)
    ax.set_ylim((3 + 2 * GAP + 0.05) * n, -0.15 * n)
    ax.set_aspect("equal")
    points = float(min(points_per_unit(ax)))
    thick = 1.8 if sum(piece.region.outer for piece in pieces) <= 60 else 0.7
    for piece in pieces:
        if piece.region.outer:
            ax.add_patch(piece.outline(thick, points))
        elif piece.region.count and not piece.whole:
            shade = to_rgba(colour_of(piece.region.count), 0.3)
            (x, y), (width, height) = piece.corner, piece.size
            ax.add_patch(Rectangle((x, y), width, height, fc=shade, ec="none", zorder=2))
    if labels is not False:
        _write(ax, pieces, points)
    return figure_of(ax)


def _corner(face: str, n: int) -> Floats:
    """Returns where the upper left corner of a face lies on the page, right and down."""
    return np.array(NET[face]) * (1 + GAP) * n


def _pieces(graph: RegionGraph) -> list[Piece]:
    """Returns the boxes of all regions on all faces."""
    n = graph.event_shape[-1]
    pieces: list[Piece] = []
    seen: Counter[tuple[float, ...]] = Counter()
    n_spanning = 0
    for number, (name, count, outer) in enumerate(listed(graph)):
        face, *_, down, right = np.unravel_index(
            graph.elements(name).numpy().ravel(), graph.event_shape
        )
        faces = np.unique(face).tolist()
        spanning = outer and len(faces) > 1
        colour = SPANNING[n_spanning % len(SPANNING)] if spanning else None
        n_spanning += spanning
        region = Region(number, name_text(name), count, outer, colour)
        for f in faces:
            mask = np.zeros((n, n), bool)
            mask[down[face == f], right[face == f]] = True
            for top, left, height, width in split(mask):
                corner = _corner(FACES[f], n) + np.array([left, top])
                size = np.array([width, height], float)
                box = (*corner.tolist(), *size.tolist())
                pieces.append(Piece(region, corner, size, bool((size == n).all()), seen[box]))
                seen[box] += 1
    return pieces


def _write(ax: Axes, pieces: list[Piece], points: float) -> None:
    """Writes name and count of each piece where there is room, on a ground of the count's colour.

    Overlaps have no names, since the windows around them have. Texts stand along the middles of
    their pieces, at the first place that no other text takes.
    """
    taken: list[tuple[Floats, Floats]] = []
    for piece in sorted(pieces, key=lambda p: not (p.whole and p.region.colour is None)):
        region, (wide, tall) = piece.region, piece.size
        named = region.outer or (piece.whole and region.colour is None)
        count = count_text(region.count)
        text = f"{region.text}  {count}" if named else count
        extent, margin = np.array(text_size(text)), np.array([0.5, 0.3])
        upright = tall > 2 * wide and extent[0] * TEXT > 0.85 * wide * points
        extent = extent[::-1] if upright else extent
        size = min(TEXT, float((0.85 * points * piece.size / extent).min()))
        half = 0.5 * size * (extent + margin) / points
        for along in (0.5, 0.3, 0.7, 0.16, 0.84) if size >= 0.7 * TEXT else ():
            share = (along, 0.5) if wide > tall else (0.5, along)
            low, high = piece.size * share - half, piece.size * share + half
            within = (low >= -1e-9).all() and (high <= piece.size + 1e-9).all()
            low, high = piece.corner + low, piece.corner + high
            if within and not any((low < b).all() and (a < high).all() for a, b in taken):
                taken.append((low, high))
                ground, edge = colour_of(region.count), region.colour or "none"
                x, y = (low + high) / 2
                written = write(ax, x, y, text, size, color=text_colour(ground), zorder=5)
                written.set_rotation(90 if upright else 0)
                frame = {"boxstyle": "round,pad=0.15", "fc": ground, "ec": edge, "lw": 1.2}
                written.set_bbox(frame)
                break
