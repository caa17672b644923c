"""What notebooks show: small graphs drawn, large ones counted, reports as tables.

Tables take their colours from the page. Nothing here raises: what cannot be drawn is counted, and
what cannot be counted is written as its repr.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from html import escape
from math import prod

import numpy as np

from pgmdiff.drawing.scenes import Graph, factor_scene, hasse_scene, n_nodes
from pgmdiff.drawing.svg import scene_svg, windows_svg
from pgmdiff.drawing.text import MIST, colour_of, common_counts, count_text, printable
from pgmdiff.drawing.windows import are_windows, boxes_of, size_of
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.regions import Ints, RegionGraph, Shape, WindowGroup
from pgmdiff.reprs import counted

__all__ = ["graph_html", "lines_html", "shown", "table"]

MAX_NODES = 64
"""Nodes of a graph that is drawn."""
MAX_INSIDE = 240
"""Nodes of nested graphs that are drawn inside."""
MAX_WINDOWS = 300
"""Windows and overlaps that are drawn."""
MAX_INDICES = 100_000
"""Indices that are looked at to draw regions."""
LISTED = 6
"""Shapes that a summary lists."""

Cell = str | int | float
Maker = Callable[[], str]


def shown(thing: object, *makers: Maker) -> str:
    """What the first maker that succeeds makes, or else the repr: a notebook must show something.

    Args:
        thing: of which a repr is at hand.
        makers: of HTML.
    """
    for make in makers:
        try:
            return make()
        except Exception:
            continue
    return f"<pre>{escape(printable(repr(thing)))}</pre>"


def graph_html(graph: Graph) -> str:
    """The graph drawn, with its counting numbers; or, if it is large, a table of them."""
    return shown(graph, lambda: _drawing(graph) or _summary(graph), lambda: _summary(graph))


def lines_html(thing: object, said: Callable[[], Sequence[str]]) -> str:
    """Lines such as `print` writes, one paragraph each; the first is the title."""

    def make() -> str:
        first, *rest = said()
        lines = "".join(f'<p style="{PARAGRAPH}">{_text(line)}</p>' for line in rest)
        return f'<div><p style="{PARAGRAPH}"><b>{_text(first)}</b></p>{lines}</div>'

    return shown(thing, make)


def table(
    title: str,
    rows: Iterable[Sequence[Cell]],
    *,
    head: Sequence[str] = (),
    notes: Iterable[str] = (),
) -> str:
    """A small table: texts on the left, numbers on the right; its title above, notes below."""
    numeric = "text-align:right;font-variant-numeric:tabular-nums"
    top = "".join(f'<th style="text-align:left;{CELL}">{_text(word)}</th>' for word in head)
    lines = [f"<tr>{top}</tr>"] if head else []
    for row in rows:
        cells = (
            f'<td style="{"text-align:left" if isinstance(cell, str) else numeric};{CELL}">'
            f"{cell if isinstance(cell, Markup) else _text(str(cell))}</td>"
            for cell in row
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    below = "".join(f'<p style="{PARAGRAPH}">{_text(note)}</p>' for note in notes)
    return (
        f'<div><p style="{PARAGRAPH}"><b>{_text(title)}</b></p>'
        f'<table style="border-collapse:collapse;margin:.4em 0"><tbody>{"".join(lines)}</tbody>'
        f"</table>{below}</div>"
    )


PARAGRAPH = "margin:.35em 0;max-width:60em"
CELL = f"padding:.15em .9em .15em 0;vertical-align:top;border-bottom:1px solid {MIST}55"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _text(text: str) -> str:
    return escape(printable(text))


# ---------------------------------------------------------------- drawings


def _drawing(graph: Graph) -> str | None:
    """The graph as SVG, as `plotting.plot` lays it out; None: too large."""
    if isinstance(graph, FactorGraph):
        inside = _inside(graph)
        if n_nodes(graph) > MAX_NODES or inside is None:
            return None
        return scene_svg(factor_scene(graph, "spatial", int(inside <= MAX_INSIDE)), repr(graph))
    if graph.n_regions > MAX_WINDOWS or not _few_indices(graph):
        return None
    if are_windows(graph):
        return windows_svg(boxes_of(graph), size_of(graph), repr(graph))
    return scene_svg(hasse_scene(graph), repr(graph)) if graph.n_regions <= MAX_NODES else None


def _inside(graph: FactorGraph) -> int | None:
    """Nodes of the nested graphs; None if one is too large to look at."""
    inner = graph.nested.values()
    small = all(_few_indices(each) for each in inner if isinstance(each, RegionGraph))
    return sum(map(n_nodes, inner)) if small else None


def _few_indices(graph: RegionGraph) -> bool:
    groups = (group for group in graph.groups if not isinstance(group, WindowGroup))
    return sum(len(group) * prod(group.shape) for group in groups) <= MAX_INDICES


# ---------------------------------------------------------------- summaries


def _summary(graph: Graph) -> str:
    return table(
        repr(graph), _factor_rows(graph) if isinstance(graph, FactorGraph) else _region_rows(graph)
    )


def _factor_rows(graph: FactorGraph) -> Iterable[tuple[str, str]]:
    yield "variables", _listed(_shapes(graph.shapes), len(graph.variables))
    arities = _tally(np.diff(graph._bounds))
    scopes = {f"on {counted(arity, 'variable')}": n for arity, n in arities.items()}
    yield "factors", _listed(scopes, len(graph.factors))
    counts = _tally(1 - graph.degrees)
    counts[1] += len(graph.factors)
    yield "counting numbers", _counted({Fraction(c): n for c, n in counts.items()})
    if graph.nested:
        inner = Counter(f"of {each!r}" for each in graph.nested.values())
        yield "nested", _listed(inner, len(graph.nested))


def _region_rows(graph: RegionGraph) -> Iterable[tuple[str, str]]:
    yield "state", f"of shape {graph.event_shape}"
    shapes: Counter[str] = Counter()
    counts: Counter[Fraction] = Counter()
    for group in graph.groups:
        shapes[f"of shape {group.shape}"] += len(group)
        for count, n in _tally(group.counts).items():
            counts[Fraction(count, graph.denominator)] += n
    yield "regions", _listed(shapes, graph.n_regions)
    yield "counting numbers", _counted(counts)


def _shapes(shapes: Sequence[Shape]) -> Mapping[str, int]:
    if shapes and shapes.count(shapes[0]) == len(shapes):  # as a million alike often are
        return {f"of shape {shapes[0]}": len(shapes)}
    return {f"of shape {shape}": n for shape, n in Counter(shapes).items()}


def _tally(values: Ints) -> "Counter[int]":
    found, numbers = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), numbers.tolist(), strict=True)))


def _listed(kinds: Mapping[str, int], total: int) -> str:
    """The commonest kinds with their numbers."""
    common = Counter(kinds).most_common(LISTED)
    left = len(kinds) - len(common)
    more = f", {left} other kinds" if left else ""
    if len(kinds) == 1:
        return f"{total:,} {common[0][0]}"
    each = ", ".join(f"{n:,} {kind}" for kind, n in common)
    return f"{total:,}" + (f": {each}{more}" if each else "")


def _counted(number: Mapping[Fraction, int]) -> Markup:
    """The commonest counts in their colours, with their numbers."""
    kept, left = common_counts(number)
    entries = [
        f'<span style="white-space:nowrap"><span style="display:inline-block;width:.8em;'
        f'height:.8em;border:1px solid {MIST};background:{colour_of(count)}"></span> '
        f"{count_text(count)} × {n:,}</span>"
        for count, n in kept
    ]
    return Markup(" \u2002 ".join(entries + ([f"{left} other counts"] if left else [])))
