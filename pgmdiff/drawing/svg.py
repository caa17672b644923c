"""Graphs as plain SVG: attributes on every element, no style sheet, no script, no font file.

The drawing has its own white ground, so that it reads the same on a light and on a dark page. Every
node has a title: browsers show its whole name and its count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from html import escape

import numpy as np

from pgmdiff.drawing.labels import (
    LARGEST,
    Label,
    all_nodes,
    label_of,
    lettering,
    unit_of,
)
from pgmdiff.drawing.scenes import Node, Scene
from pgmdiff.drawing.text import (
    INK,
    MIST,
    colour_of,
    common_counts,
    count_text,
    printable,
    text_colour,
    text_width,
)
from pgmdiff.drawing.windows import OUTLINES, Box, outlined, parts, written

__all__ = ["scene_svg", "windows_svg"]

PAGE = (7.5, 6.0)
"""Inches that the nodes of a scene may take."""
WINDOWS = (6.5, 3.8)
"""Inches that windows may take."""
STRIP = 0.9
"""Inches of height of a strip."""
NARROWEST = 250.0
"""Points, so that title and legend have room."""
MARGIN, SMALL = 10.0, 8.0
"""Points around everything, and of the font of title and legend."""
LINE = 1.35 * SMALL
FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
KINDS = {"circle": "variable", "square": "factor", "plate": "region", "box": "nested node"}


def scene_svg(scene: Scene, title: str) -> str:
    """A scene with its legend, under a title."""
    width, height = (side + 0.2 for side in scene.size)
    unit = 72 * min(unit_of(scene, _measure), PAGE[0] / width, PAGE[1] / height)
    label = lettering([n for n in all_nodes(scene) if n.kind != "box"], None, unit, _measure)
    left, _, _, top = scene.bounds
    paper = Paper(unit, 0.1 - left, 0.1 + top, min(1.3, max(0.45, unit / 26)), label)
    return _page(
        title, (unit * width, unit * height), list(_scene(scene, paper)), list(_scene_legend(scene))
    )


def windows_svg(boxes: Sequence[Box], size: tuple[int, int], title: str) -> str:
    """Windows over the drawn axes of a tensor, height and width, with their legend."""
    height, width = size
    point = 72 * min(WINDOWS[0] / width, WINDOWS[1] / height)
    wide, tall = max(point * width, 40.0), max(point * height, 72 * STRIP)
    scale = np.array([tall / height, wide / width])
    beyond = 0.03 * max(wide, tall)  # where windows that go around the end stick out
    body = _windows(boxes, size, scale)
    moved = [f'<g transform="translate({beyond:.4g},{beyond:.4g})">', *body, "</g>"]
    return _page(title, (wide + 2 * beyond, tall + 2 * beyond), moved, list(_window_legend(boxes)))


def _measure(text: str) -> tuple[float, float]:
    return max(text_width(text), 0.1), 1.2 * (text.count("\n") + 1)


# ---------------------------------------------------------------- elements


@dataclass(frozen=True)
class Entry:
    """A line of the legend: an element in a square of side 1 at the origin, and a text."""

    symbol: str
    text: str


def _page(
    title: str, size: tuple[float, float], body: Sequence[str], legend: Sequence[Entry]
) -> str:
    """A drawing of a size in points with its title above and its legend below."""
    inner = max(size[0], NARROWEST)
    head = _broken(title.split(", "), inner, ", ")
    rows = _rows(legend, inner)
    width, above = inner + 2 * MARGIN, MARGIN + LINE * len(head) + 4
    below = above + size[1] + 4
    height = below + LINE * len(rows) + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{_escaped(title)}" '
        f'viewBox="0 0 {width:.5g} {height:.5g}" width="{width / 0.75:.0f}" '
        f'height="{height / 0.75:.0f}" style="max-width:100%;height:auto" '
        f'font-family="{FONT}" font-size="{SMALL:g}" fill="{INK}">',
        f"<title>{_escaped(title)}</title>",
        f'<rect x="0.5" y="0.5" width="{width - 1:.5g}" height="{height - 1:.5g}" rx="5" '
        f'fill="#ffffff" stroke="#d5d8dc"/>',
    ]
    for row, text in enumerate(head):
        lines.append(_text(MARGIN, MARGIN + LINE * (row + 0.4), text, SMALL, anchor="start"))
    lines.append(f'<g transform="translate({(width - size[0]) / 2:.5g},{above:.5g})">')
    lines += [*body, "</g>"]
    for row, entries in enumerate(rows):
        lines += _legend_row(entries, (width - inner) / 2, below + LINE * (row + 0.5))
    return "\n".join([*lines, "</svg>"])


def _broken(words: Sequence[str], width: float, joint: str) -> list[str]:
    """Words joined into lines no wider than a number of points, where they can be."""
    lines = [words[0]]
    for word in words[1:]:
        longer = f"{lines[-1]}{joint}{word}"
        if SMALL * text_width(longer) <= width:
            lines[-1] = longer
        else:
            lines[-1] += joint.rstrip()
            lines.append(word)
    return lines


def _advance(entry: Entry) -> float:
    return SMALL * (text_width(entry.text) + 2.6)


def _rows(entries: Sequence[Entry], width: float) -> list[list[Entry]]:
    """Legend entries in rows that fit."""
    rows: list[list[Entry]] = []
    room = 0.0
    for entry in entries:
        if not rows or _advance(entry) > room:
            rows.append([])
            room = width
        rows[-1].append(entry)
        room -= _advance(entry)
    return rows


def _legend_row(entries: Sequence[Entry], left: float, middle: float) -> Iterator[str]:
    for entry in entries:
        corner = f"translate({left:.5g},{middle - 0.5 * SMALL:.5g}) scale({SMALL:g})"
        yield f'<g transform="{corner}">{entry.symbol}</g>'
        yield _text(left + 1.35 * SMALL, middle, entry.text, SMALL, anchor="start")
        left += _advance(entry)


def _count_entries(counts: Sequence[Fraction], what: str, style: str) -> Iterator[Entry]:
    """Counts and how many nodes have them; a style, perhaps with a place for the colour."""
    kept, left = common_counts(counts)
    for count, number in kept:
        symbol = f'<rect width="1" height="1" {style.format(colour_of(count))}/>'
        yield Entry(symbol, f"{what}{count_text(count)} × {number}")
    if left:
        yield Entry("", f"{left} other {what}counts")


def _text(
    x: float, y: float, text: str, size: float, *, anchor: str = "middle", colour: str = ""
) -> str:
    """Lines of text around a place."""
    lines = text.split("\n")
    first = y + size * (0.36 - 0.5 * (len(lines) - 1))
    fill = f' fill="{colour}"' if colour else ""
    if len(lines) == 1:
        inner = _escaped(text)
    else:
        inner = "".join(
            f'<tspan x="{x:.5g}" y="{first + size * row:.5g}">{_escaped(line)}</tspan>'
            for row, line in enumerate(lines)
        )
    return (
        f'<text x="{x:.5g}" y="{first:.5g}" font-size="{size:.3g}" '
        f'text-anchor="{anchor}"{fill}>{inner}</text>'
    )


def _escaped(text: str) -> str:
    return escape(printable(text))


# ---------------------------------------------------------------- scenes


@dataclass(frozen=True)
class Paper:
    """Where a scene's places are, in points; the thickness of its lines; how its texts are set."""

    unit: float
    left: float
    top: float
    thin: float
    label: Label

    def x(self, x: float) -> float:
        return self.unit * (x + self.left)

    def y(self, y: float) -> float:
        return self.unit * (self.top - y)


def _scene(scene: Scene, paper: Paper) -> Iterator[str]:
    for edges, dashes in ((scene.edges, ""), (scene.dashed, ' stroke-dasharray="3 2"')):
        if edges:
            ends = (
                f"M{paper.x(a):.4g} {paper.y(b):.4g}L{paper.x(c):.4g} {paper.y(d):.4g}"
                for (a, b), (c, d) in edges
            )
            yield (
                f'<path d="{"".join(ends)}" fill="none" stroke="{MIST}" '
                f'stroke-width="{paper.thin:.3g}"{dashes}/>'
            )
    for x, y in scene.ghosts:
        style = f'fill="#ffffff" stroke="{MIST}" stroke-width="{paper.thin:.3g}"'
        yield _box(paper, x, y, 0.92, 0.92, f'{style} stroke-dasharray="3 2"')
    for node in scene.nodes:
        yield f"<g><title>{_escaped(_described(node))}</title>"
        yield from _nested(node, paper) if node.kind == "box" else _plain(node, paper)
        yield "</g>"


def _described(node: Node) -> str:
    return f"{f'{KINDS[node.kind]} {node.name}'.rstrip()}: {count_text(node.count)}"


def _plain(node: Node, paper: Paper) -> Iterator[str]:
    colour, points = colour_of(node.count), paper.unit
    style = f'fill="{colour}" stroke="{INK}" stroke-width="{0.55 * paper.thin:.3g}"'
    x, y = paper.x(node.x), paper.y(node.y)
    if node.kind == "circle":
        yield f'<circle cx="{x:.5g}" cy="{y:.5g}" r="{0.5 * points:.4g}" {style}/>'
    elif node.kind == "square":
        yield _box(paper, node.x, node.y, 0.92, 0.92, style)
    else:
        rounded = f'rx="{0.16 * points:.3g}" {style}'
        yield _box(paper, node.x, node.y, node.width, node.height, rounded)
    text = label_of(node, paper.label, points, _measure)
    if text:
        yield _text(x, y, text, paper.label.size, colour=text_colour(colour))


def _nested(node: Node, paper: Paper) -> Iterator[str]:
    """A rounded box, its name and count on the upper edge, its graph inside."""
    colour, points = colour_of(node.count), paper.unit
    style = f'fill="#fbfbfc" stroke="{colour}" stroke-width="{1.8 * paper.thin:.3g}"'
    rounded = f'rx="{0.4 * points:.3g}" {style}'
    yield _box(paper, node.x, node.y, node.width, node.height, rounded)
    count = count_text(node.count)
    caption = f"{node.name}  {count}" if paper.label.names else count
    size = min(LARGEST, max(0.3 * points, 1.0))
    x, top = paper.x(node.x), paper.y(node.y + node.height / 2)
    wide, tall = size * (text_width(caption) + 0.6), 1.5 * size
    yield (
        f'<rect x="{x - wide / 2:.5g}" y="{top - tall / 2:.5g}" width="{wide:.5g}" '
        f'height="{tall:.4g}" rx="{0.25 * size:.3g}" fill="{colour}"/>'
    )
    yield _text(x, top, caption, size, colour=text_colour(colour))
    if node.inside:
        yield from _scene(node.inside, paper)
    else:
        yield _text(x, paper.y(node.y - 0.1), node.note, 0.9 * size)


def _box(paper: Paper, x: float, y: float, width: float, height: float, style: str) -> str:
    """A rectangle around a place of the scene."""
    left, top = paper.x(x - width / 2), paper.y(y + height / 2)
    return (
        f'<rect x="{left:.5g}" y="{top:.5g}" width="{paper.unit * width:.5g}" '
        f'height="{paper.unit * height:.5g}" {style}/>'
    )


def _scene_legend(scene: Scene) -> Iterator[Entry]:
    nodes = list(all_nodes(scene))
    kinds = {node.kind for node in nodes}
    style = f'fill="#ffffff" stroke="{INK}" stroke-width="0.1"'
    if "circle" in kinds:
        yield Entry(f'<circle cx="0.5" cy="0.5" r="0.5" {style}/>', "variable")
    if "square" in kinds:
        yield Entry(f'<rect x="0.05" y="0.05" width="0.9" height="0.9" {style}/>', "factor")
    if "box" in kinds:
        style = f'fill="#ffffff" stroke="{MIST}" stroke-width="0.2"'
        yield Entry(f'<rect width="1" height="1" rx="0.25" {style}/>', "nested")
    if scene.dashed:
        style = f'stroke="{MIST}" stroke-width="0.14" stroke-dasharray="0.35 0.2"'
        yield Entry(f'<path d="M-0.1 0.5H1.1" {style}/>', "around the edge")
    edge = f'fill="{{}}" stroke="{INK}" stroke-width="0.06"'
    yield from _count_entries([node.count for node in nodes], "", edge)


# ---------------------------------------------------------------- windows


def _windows(boxes: Sequence[Box], size: tuple[int, int], scale: "np.ndarray") -> Iterator[str]:
    (down, right), (height, width) = scale.tolist(), size
    yield (
        f'<rect width="{right * width:.5g}" height="{down * height:.5g}" fill="#f3f4f6" '
        f'stroke="{MIST}" stroke-width="0.6"/>'
    )
    for outer in (True, False):
        for box in boxes:
            if box.outer is outer:
                colour = "#000000" if outer else colour_of(box.count)
                opacity = 0.05 if outer else 0.42
                for (top, bottom, _, _), (left, end, _, _) in parts(box, size):
                    yield (
                        f'<rect x="{right * left:.5g}" y="{down * top:.5g}" '
                        f'width="{right * (end - left):.5g}" height="{down * (bottom - top):.5g}" '
                        f'fill="{colour}" fill-opacity="{opacity}"/>'
                    )
    for some in outlined([box for box in boxes if box.outer], size, scale):
        lines = (
            f"M{right * a:.5g} {down * b:.5g}L{right * c:.5g} {down * d:.5g}"
            for (a, b), (c, d) in some.lines
        )
        yield (
            f'<path d="{"".join(lines)}" fill="none" stroke="{some.colour}" '
            f'stroke-width="{some.thickness:.3g}" stroke-linecap="square"/>'
        )
    for x, y, text, points in written(boxes, size, scale, _measure):
        wide, tall = points * (text_width(text) + 0.2), 1.2 * points
        yield (
            f'<rect x="{right * x - wide / 2:.5g}" y="{down * y - tall / 2:.5g}" '
            f'width="{wide:.4g}" height="{tall:.4g}" rx="1.5" fill="#ffffff" fill-opacity="0.75"/>'
        )
        yield _text(right * x, down * y, text, points)


def _window_legend(boxes: Sequence[Box]) -> Iterator[Entry]:
    windows = [box.count for box in boxes if box.outer]
    overlaps = [box.count for box in boxes if not box.outer]
    outline = f'fill="#ffffff" stroke="{OUTLINES[0]}" stroke-width="0.16"'
    yield from _count_entries(windows, "window ", outline)
    yield from _count_entries(overlaps, "overlap ", 'fill="{}" fill-opacity="0.6"')
