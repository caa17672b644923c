"""What notebooks show: small graphs drawn, large ones counted, reports as tables.

`pgmdiff` attaches these representations to its classes, so that graphs and joints know nothing of
drawing. Graphs are drawn by matplotlib where it is installed, and counted elsewhere. Tables take
their colours from the page. Nothing here raises: what cannot be drawn is counted, and what cannot
be counted is written as its repr.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from html import escape
from math import prod

import numpy as np

from pgmdiff.composition.joint import Joint
from pgmdiff.diagnostics.advice import Advice
from pgmdiff.diagnostics.consistency import Consistency
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.groups import WindowGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.report import Report
from pgmdiff.linalg import Ints, Shape
from pgmdiff.text import Table, counted

__all__ = ["attach", "graph_html", "report_html", "shown", "table_html"]

MAX_NODES = 64
"""Most nodes of a graph that is drawn."""
MAX_EDGES = 256
"""Most edges of a graph that is drawn."""
MAX_INSIDE = 240
"""Most nodes of all nested graphs together that are drawn inside."""
MAX_WINDOWS = 300
"""Most windows and overlaps that are drawn."""
MAX_INDICES = 100_000
"""Most indices that are looked at to draw regions."""
LISTED = 6
"""Shapes and counting numbers that a summary lists."""

Graph = FactorGraph | RegionGraph


def attach() -> None:
    """Gives graphs, joints and reports the `_repr_html_` that notebooks call."""
    for graph in (FactorGraph, RegionGraph):
        setattr(graph, "_repr_html_", graph_html)  # noqa: B010
    for thing in (Joint, Advice, Consistency):
        setattr(thing, "_repr_html_", lambda self: shown(self, lambda: table_html(self.table)))  # noqa: B010
    setattr(Report, "_repr_html_", report_html)  # noqa: B010


def shown(thing: object, *makers: Callable[[], str]) -> str:
    """What the first maker that succeeds makes, or else the repr: a notebook must show something.

    Args:
        thing: the object, whose repr is the last resort.
        makers: of HTML.
    """
    for make in makers:
        try:
            return make()
        except Exception:
            continue
    return f"<pre>{_text(repr(thing))}</pre>"


def graph_html(graph: Graph) -> str:
    """The graph drawn, with its counting numbers; or, if it is large, a table of them."""
    return shown(graph, lambda: _drawing(graph) or _summary(graph), lambda: _summary(graph))


def report_html(report: Report) -> str:
    """The lines of `print`, one paragraph each; those that take long only if they are known."""

    def make() -> str:
        first, *rest = report.lines()
        return f"<div>{_paragraph(f'<b>{_text(first)}</b>', *map(_text, rest))}</div>"

    return shown(report, make)


def table_html(table: Table) -> str:
    """A small table: words on the left, numbers on the right; its title above, notes below."""

    def line(tag: str, cells: Sequence[str]) -> str:
        each = (
            f'<{tag} style="{LEFT if table.is_left(number) else RIGHT};{CELL}">'
            f"{_text(cell)}</{tag}>"
            for number, cell in enumerate(cells)
        )
        return f"<tr>{''.join(each)}</tr>"

    head = [line("th", table.head)] if table.head else []
    body = "".join([*head, *(line("td", row) for row in table.rows)])
    return (
        f"<div>{_paragraph(f'<b>{_text(table.title)}</b>')}"
        f'<table style="border-collapse:collapse;margin:0.4em 0"><tbody>{body}</tbody></table>'
        f"{_paragraph(*map(_text, table.notes))}</div>"
    )


LEFT, RIGHT = "text-align:left", "text-align:right;font-variant-numeric:tabular-nums"
LINE = "#8a8f94"
CELL = f"padding:0.15em 0.9em 0.15em 0;vertical-align:top;border-bottom:1px solid {LINE}55"


def _paragraph(*texts: str) -> str:
    return "".join(f'<p style="margin:0.35em 0;max-width:60em">{text}</p>' for text in texts)


def _text(text: str) -> str:
    """A text as HTML: line breaks become blanks, and what XML forbids becomes �."""
    plain = (c if c.isprintable() else " " if c.isspace() else "�" for c in text)
    return escape("".join(plain))


# ---------------------------------------------------------------- drawings


def _drawing(graph: Graph) -> str | None:
    """The graph as matplotlib's SVG; None if it is too large, or matplotlib is not installed."""
    if not _is_small(graph):
        return None
    try:
        from pgmdiff.plotting.draw import plot
        from pgmdiff.plotting.style import svg
    except ImportError:
        return None
    return svg(plot(graph, title=repr(graph)), repr(graph))


def _is_small(graph: Graph) -> bool:
    """Whether all nodes, those of nested graphs included, are few enough to be told apart."""
    if isinstance(graph, FactorGraph):
        inner = graph.nested.values()
        few = _n_nodes(graph) <= MAX_NODES and sum(map(len, graph.scopes.values())) <= MAX_EDGES
        return few and all(map(_few_indices, inner)) and sum(map(_n_nodes, inner)) <= MAX_INSIDE
    windows = all(isinstance(group, WindowGroup) for group in graph.groups)
    return graph.n_regions <= (MAX_WINDOWS if windows else MAX_NODES) and _few_indices(graph)


def _n_nodes(graph: Graph) -> int:
    if isinstance(graph, FactorGraph):
        return len(graph.variables) + len(graph.factors)
    return graph.n_regions


def _few_indices(graph: Graph) -> bool:
    if isinstance(graph, FactorGraph):
        return True
    groups = (group for group in graph.groups if not isinstance(group, WindowGroup))
    return sum(len(group) * prod(group.shape) for group in groups) <= MAX_INDICES


# ---------------------------------------------------------------- summaries


def _summary(graph: Graph) -> str:
    rows = _factor_rows(graph) if isinstance(graph, FactorGraph) else _region_rows(graph)
    return table_html(Table(repr(graph), list(rows)))


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


def _counted(number: Mapping[Fraction, int]) -> str:
    """The commonest counts, largest first, with their numbers."""
    common = sorted((c for c, _ in Counter(number).most_common(LISTED)), reverse=True)
    kept = [f"{'+' if c > 0 else '−' if c < 0 else ''}{abs(c)} × {number[c]:,}" for c in common]
    left = len(number) - len(common)
    return ", ".join([*kept, f"{left} other counts"] if left else kept)
