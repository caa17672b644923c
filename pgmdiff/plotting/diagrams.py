"""Scenes on paper: sizes in points follow from the axes, so that text fits where it stands."""

from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyBboxPatch, Patch, Rectangle
from matplotlib.patheffects import withStroke

from pgmdiff.plotting.ink import INK, MIST, colour_of, count_text, text_colour
from pgmdiff.plotting.labels import LARGEST, Label, all_nodes, label_of, lettering, unit_of
from pgmdiff.plotting.layouts import PAGE
from pgmdiff.plotting.scenes import Node, Scene
from pgmdiff.plotting.style import (
    count_entries,
    figure_of,
    legend_below,
    sheet,
    text_size,
)

__all__ = ["draw_scene"]

BORDER = 0.35


def draw_scene(scene: Scene, ax: Axes | None, labels: bool | None, title: str | None) -> Figure:
    """Draws a scene on axes, or on a figure of the size it needs."""
    entries = _entries(scene)
    width, height = (side + 2 * BORDER for side in scene.size)
    if ax is None:
        larger = 2 if labels else 1
        unit = min(unit_of(scene, text_size), larger * PAGE[0] / width, larger * PAGE[1] / height)
        _, ax = sheet(unit * width, unit * height, entries, title)
    else:
        _dress(ax, entries, title)
    left, right, bottom, top = scene.bounds
    ax.set_axis_off()
    ax.set_xlim(left - BORDER, right + BORDER)
    ax.set_ylim(bottom - BORDER, top + BORDER)
    ax.set_aspect("equal")
    _draw(ax, scene, labels, _points_per_unit(ax, width, height))
    return figure_of(ax)


def _dress(ax: Axes, entries: Sequence[Artist], title: str | None) -> None:
    if title:
        ax.set_title(title, fontsize=12)
    legend_below(ax, entries, 0.0)


def _points_per_unit(ax: Axes, width: float, height: float) -> float:
    box = ax.get_position(original=True)
    inches = figure_of(ax).get_size_inches()
    return float(72 * min(box.width * inches[0] / width, box.height * inches[1] / height))


def _entries(scene: Scene) -> list[Artist]:
    """The legend: kinds of nodes, then counts."""
    nodes = list(all_nodes(scene))
    kinds = {node.kind for node in nodes}
    style = {"ls": "none", "mfc": "white", "mec": INK, "ms": 8, "mew": 0.9}
    entries: list[Artist] = []
    if "circle" in kinds:
        entries.append(Line2D([], [], marker="o", label="variable", **style))  # type: ignore[arg-type]
    if "square" in kinds:
        entries.append(Line2D([], [], marker="s", label="factor", **style))  # type: ignore[arg-type]
    if "box" in kinds:
        entries.append(Patch(fc="white", ec=MIST, lw=1.6, label="nested"))
    if scene.dashed:
        entries.append(Line2D([], [], ls="--", color=MIST, label="around the edge"))
    return entries + list(count_entries(node.count for node in nodes))


# ---------------------------------------------------------------- ink


def _draw(ax: Axes, scene: Scene, labels: bool | None, points: float) -> None:
    nodes = list(all_nodes(scene))
    kind = lettering([node for node in nodes if node.kind != "box"], labels, points, text_size)
    thin = min(1.3, max(0.45, points / 26))
    _draw_level(ax, scene, kind, points, thin, 1.0)


def _draw_level(
    ax: Axes, scene: Scene, kind: Label, points: float, thin: float, zorder: float
) -> None:
    ax.add_collection(LineCollection(scene.edges, colors=MIST, linewidths=thin, zorder=zorder))
    ax.add_collection(
        LineCollection(
            scene.dashed, colors=MIST, linewidths=thin, linestyles="dashed", zorder=zorder
        )
    )
    ghosts = [Rectangle((x - 0.5, y - 0.5), 1, 1) for x, y in scene.ghosts]
    ax.add_collection(
        PatchCollection(ghosts, fc="white", ec=MIST, ls="--", lw=thin, zorder=zorder + 0.1)
    )
    plain = [node for node in scene.nodes if node.kind != "box"]
    faces = [colour_of(node.count) for node in plain]
    patches = [_patch(node) for node in plain]
    ax.add_collection(
        PatchCollection(patches, fc=faces, ec=INK, lw=0.55 * thin, zorder=zorder + 0.2)
    )
    for node in plain:
        _label(ax, node, kind, points, zorder + 0.3)
    for node in scene.nodes:
        if node.kind == "box":
            _draw_box(ax, node, kind, points, thin, zorder + 0.2)


def _patch(node: Node) -> Patch:
    if node.kind == "circle":
        return Circle((node.x, node.y), 0.5)
    if node.kind == "square":
        return Rectangle((node.x - 0.46, node.y - 0.46), 0.92, 0.92)
    return _rounded(node, 0.16)


def _rounded(node: Node, radius: float, **style: Any) -> FancyBboxPatch:
    corner = node.x - node.width / 2, node.y - node.height / 2
    box = f"round,pad=0,rounding_size={radius}"
    return FancyBboxPatch(corner, node.width, node.height, boxstyle=box, **style)


def _draw_box(ax: Axes, node: Node, kind: Label, points: float, thin: float, zorder: float) -> None:
    """A rounded box, its name and count on the upper edge, its graph inside."""
    colour = colour_of(node.count)
    ax.add_patch(_rounded(node, 0.4, fc="#fbfbfc", ec=colour, lw=1.8 * thin, zorder=zorder))
    caption = f"{node.name}  {count_text(node.count)}" if kind.names else count_text(node.count)
    size = min(LARGEST, max(0.3 * points, 1.0))
    ax.text(
        node.x,
        node.y + node.height / 2,
        caption,
        size=size,
        ha="center",
        parse_math=False,
        va="center_baseline",
        zorder=zorder + 2,
        color=text_colour(colour),
        bbox={"boxstyle": "round,pad=0.25", "fc": colour, "ec": "none"},
    )
    if node.inside:
        _draw_level(ax, node.inside, kind, points, thin, zorder + 0.5)
    else:
        ax.text(
            node.x,
            node.y - 0.1,
            node.note,
            size=0.9 * size,
            ha="center",
            parse_math=False,
            va="center",
            color=INK,
            zorder=zorder + 2,
        )


# ---------------------------------------------------------------- text


def _label(ax: Axes, node: Node, kind: Label, points: float, zorder: float) -> None:
    text = label_of(node, kind, points, text_size)
    if not text:
        return
    colour = colour_of(node.count)
    artist = ax.text(
        node.x,
        node.y,
        text,
        size=kind.size,
        ha="center",
        parse_math=False,
        va="center",
        linespacing=1.0,
        color=text_colour(colour),
        zorder=zorder,
    )
    if kind.forced:
        artist.set_color("black")
        artist.set_path_effects([withStroke(linewidth=1.6, foreground="white")])
