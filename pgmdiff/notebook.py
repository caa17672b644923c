"""Notebook representations: small graphs are drawn, large ones counted, reports are tables.

`pgmdiff` attaches these representations to its classes, so that graphs and joints know nothing of
drawing. Graphs are drawn by matplotlib where it is installed, and counted elsewhere. Nothing here
raises: what cannot be drawn is counted, and what cannot be counted is shown as its repr.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from math import prod

import numpy as np

from pgmdiff.composition.joint import Joint
from pgmdiff.diagnostics.advice import Advice
from pgmdiff.diagnostics.consistency import Consistency
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.groups import WindowGroup
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.report import Report
from pgmdiff.linalg import Ints
from pgmdiff.text import Table, count_text, counted, html_text, paragraphs

__all__ = ["attach", "drawing", "graph_html", "report_html", "shown", "summary"]

MAX_NODES = 64
"""Most nodes of a graph that is drawn."""
MAX_EDGES = 256
"""Most edges of a graph that is drawn."""
MAX_INSIDE = 240
"""Most nodes of all nested graphs together that are drawn inside."""
MAX_WINDOWS = 300
"""Most windows and overlaps that are drawn."""
MAX_INDICES = 100_000
"""Most indices that are read to draw regions."""
LISTED = 6
"""Most shapes and counting numbers that a summary lists."""

Graph = FactorGraph | RegionGraph


def attach() -> None:
    """Gives graphs, joints and reports the `_repr_html_` that notebooks call."""
    for graph in (FactorGraph, RegionGraph):
        setattr(graph, "_repr_html_", graph_html)  # noqa: B010
    for thing in (Joint, Advice, Consistency):
        setattr(thing, "_repr_html_", lambda self: shown(self, lambda: self.table.html()))  # noqa: B010
    setattr(Report, "_repr_html_", report_html)  # noqa: B010


def shown(thing: object, *makers: Callable[[], str]) -> str:
    """Returns the HTML of the first maker that succeeds, or else the repr of the object."""
    for make in makers:
        try:
            return make()
        except Exception:
            continue
    return f"<pre>{html_text(repr(thing))}</pre>"


def graph_html(graph: Graph) -> str:
    """Returns a drawing of the graph with its counting numbers, or a table of a large one's."""
    return shown(graph, lambda: drawing(graph) or summary(graph), lambda: summary(graph))


def report_html(report: Report) -> str:
    """Returns the lines of `print`, one per paragraph; slow ones only if they are already known."""

    def make() -> str:
        first, *rest = map(html_text, report.lines())
        return f"<div>{paragraphs(f'<b>{first}</b>', *rest)}</div>"

    return shown(report, make)


def drawing(graph: Graph) -> str | None:
    """Returns the graph as SVG, or None if it is too large or matplotlib is not installed."""
    if isinstance(graph, FactorGraph):
        inner = graph.nested.values()
        small = _n_nodes(graph) <= MAX_NODES and sum(map(len, graph.scopes.values())) <= MAX_EDGES
        small = small and all(map(_few_indices, inner)) and sum(map(_n_nodes, inner)) <= MAX_INSIDE
    else:
        windows = all(isinstance(group, WindowGroup) for group in graph.groups)
        most = MAX_WINDOWS if windows else MAX_NODES
        small = graph.n_regions <= most and _few_indices(graph)
    if not small:
        return None
    try:
        from pgmdiff.plotting.draw import plot
        from pgmdiff.plotting.style import svg
    except ImportError:
        return None
    return svg(plot(graph, title=repr(graph)), repr(graph))


def _n_nodes(graph: Graph) -> int:
    if isinstance(graph, FactorGraph):
        return len(graph.variables) + len(graph.factors)
    return graph.n_regions


def _few_indices(graph: Graph) -> bool:
    """Returns whether the regions can be drawn without reading many indices."""
    if isinstance(graph, FactorGraph):
        return True
    groups = (group for group in graph.groups if not isinstance(group, WindowGroup))
    return sum(len(group) * prod(group.shape) for group in groups) <= MAX_INDICES


def summary(graph: Graph) -> str:
    """Returns a table of the graph's nodes by shape, arity and counting number."""
    counts: Counter[Fraction] = Counter()
    if isinstance(graph, FactorGraph):
        shapes = {f"of shape {shape}": n for shape, n in Counter(graph.shapes).items()}
        arities = _tally(np.diff(graph._bounds))
        scopes = {f"on {counted(arity, 'variable')}": n for arity, n in arities.items()}
        counts[Fraction(1)] = len(graph.factors)
        counts.update({Fraction(1 - degree): n for degree, n in _tally(graph.degrees).items()})
        rows = [
            ("variables", _listed(shapes, len(graph.variables))),
            ("factors", _listed(scopes, len(graph.factors))),
            ("counting numbers", _counts(counts)),
        ]
        if graph.nested:
            inner = Counter(f"of {each!r}" for each in graph.nested.values())
            rows.append(("nested", _listed(inner, len(graph.nested))))
    else:
        kinds: Counter[str] = Counter()
        for group in graph.groups:
            kinds[f"of shape {group.shape}"] += len(group)
            for count, n in _tally(group.counts).items():
                counts[Fraction(count, graph.denominator)] += n
        rows = [
            ("state", f"of shape {graph.event_shape}"),
            ("regions", _listed(kinds, graph.n_regions)),
            ("counting numbers", _counts(counts)),
        ]
    return Table(repr(graph), rows).html()


def _tally(values: Ints) -> dict[int, int]:
    """Returns how often each value occurs."""
    found, numbers = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), numbers.tolist(), strict=True))


def _listed(kinds: Mapping[str, int], total: int) -> str:
    """Lists the commonest kinds with their numbers."""
    common = Counter(kinds).most_common(LISTED)
    if len(kinds) == 1:
        return f"{total:,} {common[0][0]}"
    each = [f"{n:,} {kind}" for kind, n in common]
    if len(kinds) > len(common):
        each.append(f"{len(kinds) - len(common)} other kinds")
    return f"{total:,}" + (f": {', '.join(each)}" if each else "")


def _counts(number: Counter[Fraction]) -> str:
    """Lists the commonest counting numbers, largest first, with their numbers of nodes."""
    common = sorted((count for count, _ in number.most_common(LISTED)), reverse=True)
    kept = [f"{count_text(count)} × {number[count]:,}" for count in common]
    if len(number) > len(common):
        kept.append(f"{len(number) - len(common)} other counts")
    return ", ".join(kept)
