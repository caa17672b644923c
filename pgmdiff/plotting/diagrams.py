"""Diagrams: scenes drawn on axes, with texts as large as their nodes allow.

Sizes of texts and lines are in points; they follow from the size of the axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyBboxPatch, Patch, Rectangle
from matplotlib.patheffects import withStroke

from pgmdiff.plotting.layouts import PAGE
from pgmdiff.plotting.scenes import NAMED, Node, Scene
from pgmdiff.plotting.style import (
    INK,
    MIST,
    axes_for,
    colour_of,
    count_entries,
    figure_of,
    points_per_unit,
    text_colour,
    text_size,
    write,
)
from pgmdiff.text import count_text

__all__ = ["draw_scene"]

BORDER = 0.35
LARGEST, SMALLEST = 11.0, 6.0
"""Font sizes."""


def draw_scene(scene: Scene, ax: Axes | None, labels: bool | None, title: str | None) -> Figure:
    """Draws a scene on axes, or on a figure of the size that it needs."""
    nodes = list(scene.all_nodes())
    kinds = {node.kind for node in nodes}
    style: dict[str, Any] = {"ls": "none", "mfc": "white", "mec": INK, "ms": 8, "mew": 0.9}
    legend = {
        "circle": Line2D([], [], marker="o", label="variable", **style),
        "square": Line2D([], [], marker="s", label="factor", **style),
        "box": Patch(fc="white", ec=MIST, lw=1.6, label="nested"),
    }
    entries: list[Artist] = [entry for kind, entry in legend.items() if kind in kinds]
    if scene.dashed:
        entries.append(Line2D([], [], ls="--", color=MIST, label="around the edge"))
    entries += count_entries(node.count for node in nodes)

    width, height = (side + 2 * BORDER for side in scene.size)
    plain = [node for node in nodes if node.kind in ("circle", "square")]
    longest = max((text_size(_wrapped(node.name))[0] for node in plain), default=0.0)
    unit = min(max(0.5, longest * 7.5 / 72 / 0.8), 0.8) if len(plain) <= 40 else 0.5
    larger = 2 if labels else 1
    unit = min(unit, larger * PAGE[0] / width, larger * PAGE[1] / height)
    ax = axes_for(ax, (unit * width, unit * height), entries, title)
    left, right, bottom, top = scene.bounds
    ax.set_axis_off()
    ax.set_xlim(left - BORDER, right + BORDER)
    ax.set_ylim(bottom - BORDER, top + BORDER)
    ax.set_aspect("equal")
    points = float(min(points_per_unit(ax)))
    lettering = Lettering.of([node for node in nodes if node.kind != "box"], labels, points)
    Pen(ax, points, min(1.3, max(0.45, points / 26)), lettering).draw(scene, 1.0)
    return figure_of(ax)


@dataclass(frozen=True)
class Lettering:
    """The font size of texts, and which are written; names that are forced, even if too long."""

    size: float
    names: bool
    counts: bool = True
    forced: bool = False

    @classmethod
    def of(cls, nodes: Sequence[Node], labels: bool | None, points: float) -> "Lettering":
        """Chooses the largest size at which all texts fit in nodes whose diameter is `points`.

        Names are written if `labels` is True, and where they fit if it is None.
        """
        if labels or (labels is None and len(nodes) <= NAMED):
            sizes = (_fitting(node, _text(node, node.name), points) for node in nodes)
            size = min(sizes, default=LARGEST)
            if size >= SMALLEST:
                return cls(min(size, LARGEST), names=True)
            room = min(0.3 * points, SMALLEST + 1)
            if room >= SMALLEST - 0.5 or labels:
                return cls(max(room, SMALLEST), names=True, forced=bool(labels))
        size = min([LARGEST, *(_fitting(node, count_text(node.count), points) for node in nodes)])
        return cls(size, names=False, counts=size >= SMALLEST - 1)


def _fitting(node: Node, text: str, points: float) -> float:
    """Returns the font size at which a text fills its node."""
    width, height = text_size(text)
    if node.kind == "circle":
        return 0.93 * points / float((width**2 + (0.85 * height) ** 2) ** 0.5)
    margin = 0.86 if node.kind == "square" else 0.94
    return margin * points * min(node.width / width, node.height / height)


def _text(node: Node, name: str) -> str:
    """Returns a name, if there is one, above the count of a node."""
    return f"{_wrapped(name)}\n{count_text(node.count)}" if name else count_text(node.count)


def _wrapped(name: str) -> str:
    """Breaks a long name into two lines, at the joint that is nearest to its middle."""
    joints = [i for i, letter in enumerate(name) if letter in " ,_-–|/" and 1 < i < len(name) - 2]
    if len(name) <= 7 or not joints:
        return name
    middle = min(joints, key=lambda i: abs(2 * i - len(name)))
    return f"{name[: middle + 1].rstrip()}\n{name[middle + 1 :]}"


@dataclass(frozen=True)
class Pen:
    """Draws scenes on axes, with texts in all nodes but boxes set by `lettering`."""

    ax: Axes
    points: float  # diameter of a node
    thin: float  # width of lines
    lettering: Lettering

    def draw(self, scene: Scene, zorder: float) -> None:
        """Draws lines, then nodes, then what is inside them."""
        lines: dict[str, Any] = {"colors": MIST, "linewidths": self.thin, "zorder": zorder}
        self.ax.add_collection(LineCollection(scene.edges, **lines))
        self.ax.add_collection(LineCollection(scene.dashed, linestyles="dashed", **lines))
        ghosts = [Rectangle((x - 0.5, y - 0.5), 1, 1) for x, y in scene.ghosts]
        dashed: dict[str, Any] = {"fc": "white", "ec": MIST, "ls": "--", "lw": self.thin}
        self.ax.add_collection(PatchCollection(ghosts, zorder=zorder + 0.1, **dashed))
        patches: list[Patch] = []
        plain = [node for node in scene.nodes if node.kind != "box"]
        for node in plain:
            if node.kind == "circle":
                patches.append(Circle((node.x, node.y), 0.5))
            elif node.kind == "square":
                patches.append(Rectangle((node.x - 0.46, node.y - 0.46), 0.92, 0.92))
            else:
                patches.append(_rounded(node, 0.16))
        style: dict[str, Any] = {"ec": INK, "lw": 0.55 * self.thin, "zorder": zorder + 0.2}
        faces = [colour_of(node.count) for node in plain]
        self.ax.add_collection(PatchCollection(patches, fc=faces, **style))
        how = self.lettering
        for node in plain if how.counts else ():  # a name that does not fit is cut, or left out
            name = node.name if how.names else ""
            text = _text(node, name)
            while name and not how.forced and _fitting(node, text, self.points) < 0.97 * how.size:
                name = name[:-1] if len(name) > 2 else ""
                text = _text(node, f"{name}…" if name else "")
            artist = write(self.ax, node.x, node.y, text, how.size, zorder=zorder + 0.3)
            artist.set_linespacing(1.0)
            artist.set_color("black" if how.forced else text_colour(colour_of(node.count)))
            if how.forced:
                artist.set_path_effects([withStroke(linewidth=1.6, foreground="white")])
        for node in scene.nodes:
            if node.kind == "box":
                self._box(node, zorder + 0.2)

    def _box(self, node: Node, zorder: float) -> None:
        """Draws a rounded box with name and count on its upper edge, and its graph inside."""
        colour, count = colour_of(node.count), count_text(node.count)
        self.ax.add_patch(
            _rounded(node, 0.4, fc="#fbfbfc", ec=colour, lw=1.8 * self.thin, zorder=zorder)
        )
        caption = f"{node.name}  {count}" if self.lettering.names else count
        size = min(LARGEST, max(0.3 * self.points, 1.0))
        title = write(self.ax, node.x, node.y + node.height / 2, caption, size, zorder=zorder + 2)
        title.set(color=text_colour(colour), va="center_baseline")
        title.set_bbox({"boxstyle": "round,pad=0.25", "fc": colour, "ec": "none"})
        if node.inside:
            self.draw(node.inside, zorder + 0.5)
        else:
            style = {"color": INK, "zorder": zorder + 2}
            write(self.ax, node.x, node.y - 0.1, node.note, 0.9 * size, **style)


def _rounded(node: Node, radius: float, **style: Any) -> FancyBboxPatch:
    corner = node.x - node.width / 2, node.y - node.height / 2
    box = f"round,pad=0,rounding_size={radius}"
    return FancyBboxPatch(corner, node.width, node.height, boxstyle=box, **style)
