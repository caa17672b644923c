"""A cube unfolded: U above F, then L F R B in a row, D below F; windows outlined on every face.

A region inside one face is drawn like a window of an image. One that spans several faces has a
colour of its own, so that its parts are found on all of them.
"""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from pgmdiff.errors import GraphError, ShapeError
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Shape
from pgmdiff.plotting.boxes import TEXT
from pgmdiff.plotting.ink import INK, MIST, colour_of, count_text, name_text, text_colour
from pgmdiff.plotting.scenes import MAX_NODES, check_size, named_counts
from pgmdiff.plotting.style import (
    count_entries,
    figure_of,
    legend_below,
    sheet,
    text_size,
)
from pgmdiff.plotting.tiles import picture_of, touching

__all__ = ["draw_cube", "is_cube"]

FACES = "FBLRUD"
"""Their order on the state's first axis."""
NET = {"U": (1, 0), "L": (0, 1), "F": (1, 1), "R": (2, 1), "B": (3, 1), "D": (1, 2)}
"""Column and row of each face."""
INCHES = 2.4
"""Side of a face."""
GAP = 0.12
DARK = ("#393b79", "#8c6d31", "#843c39", "#5254a3")
SPANNING = [*map(to_hex, colormaps["tab10"].colors), *DARK]  # type: ignore[attr-defined]
"""Colours of regions that span several faces."""
WINDOW = "#2f7fbd"


@dataclass(frozen=True)
class Piece:
    """What one region covers of one face, as a box (of pixels, in the face's own rows and columns).

    Attributes:
        rank: among pieces with the same box on the same face.
        region: number of the region.
    """

    face: str
    top: int
    left: int
    bottom: int
    right: int
    rank: int
    region: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


@dataclass(frozen=True)
class Region:
    """A region's text, count, whether it is a window, and its colour if it spans faces."""

    text: str
    count: Fraction
    outer: bool
    colour: str | None


def is_cube(graph: RegionGraph) -> bool:
    """Whether the state is six square faces, and regions are named after all of them."""
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
    """The six faces, with outlines, shades and counts of the regions on each of them.

    Raises:
        GraphError: the state is not six squares.
    """
    shape = graph.event_shape
    if not _is_six_squares(shape):
        raise GraphError(
            f"plot: layout='cube' expects a state of [6, n, n] or [6, C, n, n], got {shape}. "
            "Use layout='tiles' or layout='hasse'."
        )
    check_size(graph.n_regions, "windows", "Use layout='counts'.")
    n = shape[-1]
    regions, pieces = _pieces(graph)
    entries = count_entries(region.count for region in regions)
    if ax is None:
        _, ax = sheet(4 * INCHES, 3 * INCHES, entries, title)
    else:
        legend_below(ax, entries)
        ax.set_title(title or "")
    _show_faces(ax, None if image is None else _faces(image, shape), n)
    points = _points(ax)
    _shade(ax, regions, pieces, n)
    _outline(ax, regions, pieces, n, points)
    if labels is not False:
        _write(ax, regions, pieces, n, points)
    return figure_of(ax)


# ---------------------------------------------------------------- what is where


def _pieces(graph: RegionGraph) -> tuple[list[Region], list[Piece]]:
    shape = graph.event_shape
    outer = [bool(flag) for group in graph.groups for flag in group.outer]
    regions: list[Region] = []
    pieces: list[Piece] = []
    seen: Counter[tuple[int, tuple[int, ...]]] = Counter()
    n_spanning = 0
    for number, ((name, count), own) in enumerate(zip(named_counts(graph), outer, strict=True)):
        places = np.unravel_index(graph.elements(name).numpy().ravel(), shape)
        face, row, column = places[0], places[-2], places[-1]
        faces = np.unique(face).tolist()
        spanning = own and len(faces) > 1
        colour = SPANNING[n_spanning % len(SPANNING)] if spanning else None
        n_spanning += spanning
        regions.append(Region(name_text(name), count, own, colour))
        for f in faces:
            r, c = row[face == f], column[face == f]
            box = int(r.min()), int(c.min()), int(r.max()) + 1, int(c.max()) + 1
            pieces.append(Piece(FACES[f], *box, seen[f, box], number))
            seen[f, box] += 1
    return regions, pieces


def _faces(image: Tensor, shape: Shape) -> list[npt.NDArray[np.float64]]:
    """Six pictures in [0, 1], of images in [-1, 1] (others are shown clipped)."""
    if image.ndim not in (3, 4) or image.shape[0] != 6 or image.shape[-2:] != shape[-2:]:
        n = shape[-1]
        raise ShapeError(
            f"plot: expected an image of [6, {n}, {n}] or [6, C, {n}, {n}], got "
            f"{list(image.shape)}. Stack the faces in the order F, B, L, R, U, D."
        )
    return [picture_of(face, (shape[-2], shape[-1])) for face in image]


def _corner(face: str, n: int) -> tuple[float, float]:
    """Where the upper left pixel of a face lies on the page, downwards positive."""
    column, row = NET[face]
    return column * (1 + GAP) * n, row * (1 + GAP) * n


# ---------------------------------------------------------------- ink


def _show_faces(ax: Axes, faces: list[npt.NDArray[np.float64]] | None, n: int) -> None:
    for number, face in enumerate(FACES):
        x, y = _corner(face, n)
        if faces is not None:
            extent = (x, x + n, y + n, y)
            ax.imshow(faces[number], cmap="gray", vmin=0, vmax=1, extent=extent)
        ax.add_patch(
            Rectangle((x, y), n, n, fc="none" if faces else "#f6f7f8", ec=MIST, lw=0.8, zorder=0.5)
        )
        ax.text(x, y - 0.02 * n, face, size=12, weight="bold", ha="left", va="bottom", color=INK)
    ax.set_axis_off()
    ax.set_xlim(-0.05 * n, (4 + 3 * GAP + 0.05) * n)
    ax.set_ylim((3 + 2 * GAP + 0.05) * n, -0.15 * n)
    ax.set_aspect("equal")


def _points(ax: Axes) -> float:
    """Points per pixel of a face."""
    box, inches = ax.get_position(original=True), figure_of(ax).get_size_inches()
    wide = float(np.ptp(ax.get_xlim()))
    tall = float(np.ptp(ax.get_ylim()))
    return float(72 * min(box.width * inches[0] / wide, box.height * inches[1] / tall))


def _shade(ax: Axes, regions: list[Region], pieces: list[Piece], n: int) -> None:
    for piece in pieces:
        region = regions[piece.region]
        whole = piece.height == piece.width == n
        if not region.outer and not whole and region.count:
            x, y = _corner(piece.face, n)
            ax.add_patch(
                Rectangle(
                    (x + piece.left, y + piece.top),
                    piece.width,
                    piece.height,
                    fc=to_rgba(colour_of(region.count), 0.3),
                    ec="none",
                    zorder=2,
                )
            )


def _outline(ax: Axes, regions: list[Region], pieces: list[Piece], n: int, points: float) -> None:
    """Outlines of windows, each a little inside the one before it on the same box."""
    drawn = [piece for piece in pieces if regions[piece.region].outer]
    thick = 1.8 if len(drawn) <= 60 else 0.7
    for piece in drawn:
        x, y = _corner(piece.face, n)
        step = (1.4 * thick * (piece.rank + 0.7)) + 0.8 * (piece.region % 2)
        inset = min(step / points, 0.3 * min(piece.width, piece.height))
        ax.add_patch(
            Rectangle(
                (x + piece.left + inset, y + piece.top + inset),
                piece.width - 2 * inset,
                piece.height - 2 * inset,
                fc="none",
                ec=regions[piece.region].colour or WINDOW,
                lw=thick,
                zorder=3,
            )
        )


# ---------------------------------------------------------------- text


def _write(ax: Axes, regions: list[Region], pieces: list[Piece], n: int, points: float) -> None:
    """Name and count of each piece where there is room, on a ground of the count's colour.

    Overlaps have no names: the windows around them have.
    """
    taken: list[tuple[float, ...]] = []
    faces = [p for p in pieces if p.height == p.width == n and not regions[p.region].colour]
    for piece in [*faces, *(p for p in pieces if p not in faces)]:
        region = regions[piece.region]
        count = count_text(region.count)
        text = f"{region.text}  {count}" if region.outer or piece in faces else count
        width, height = text_size(text)
        upright = piece.height > 2 * piece.width and width * TEXT > 0.85 * piece.width * points
        if upright:
            width, height = height, width
        size = min(TEXT, *(0.85 * points * np.array([piece.width / width, piece.height / height])))
        half = 0.5 * size * np.array([width + 0.5, height + 0.3]) / points
        place = _free(piece, half, taken, n)
        if size >= 0.7 * TEXT and place is not None:
            _label(ax, place, text, size, upright, region)


def _free(
    piece: Piece, half: npt.NDArray[np.float64], taken: list[tuple[float, ...]], n: int
) -> tuple[float, float] | None:
    """A place along the middle of a piece that no other text takes, which it takes."""
    x, y = _corner(piece.face, n)
    wide = piece.width > piece.height
    corner = np.array([x + piece.left, y + piece.top])
    size = np.array([piece.width, piece.height])
    for along in (0.5, 0.3, 0.7, 0.16, 0.84):
        middle = corner + size * ((along, 0.5) if wide else (0.5, along))
        low, high = middle - half, middle + half
        box = (*low.tolist(), *high.tolist())
        within = (low >= corner - 1e-9).all() and (high <= corner + size + 1e-9).all()
        if within and not any(touching(box, other) for other in taken):
            taken.append(box)
            return float(middle[0]), float(middle[1])
    return None


def _label(
    ax: Axes, place: tuple[float, float], text: str, size: float, upright: bool, region: Region
) -> None:
    ground = colour_of(region.count)
    ax.text(
        *place,
        text,
        size=size,
        rotation=90 if upright else 0,
        ha="center",
        parse_math=False,
        va="center",
        color=text_colour(ground),
        zorder=5,
        bbox={
            "boxstyle": "round,pad=0.15",
            "fc": ground,
            "ec": region.colour or "none",
            "lw": 1.2,
        },
    )
