"""`plot`: graphs with their counting numbers."""

from collections.abc import Callable
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pgmdiff.errors import GraphError
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.plotting.boxes import are_windows
from pgmdiff.plotting.cube import draw_cube, is_cube
from pgmdiff.plotting.diagrams import draw_scene
from pgmdiff.plotting.layouts import LAYOUTS
from pgmdiff.plotting.scenes import factor_scene, hasse_scene
from pgmdiff.plotting.tiles import draw_maps, draw_tiles

__all__ = ["LayoutName", "plot"]

LayoutName = Literal["auto", "spatial", "bipartite", "hasse", "tiles", "counts", "cube"]

ON_IMAGES: dict[str, Callable[..., Figure]] = {
    "tiles": draw_tiles,
    "cube": draw_cube,
    "counts": draw_maps,
}


def plot(
    graph: FactorGraph | RegionGraph,
    *,
    layout: LayoutName = "auto",
    image: Tensor | None = None,
    ax: Axes | None = None,
    labels: bool | None = None,
    title: str | None = None,
) -> Figure:
    r"""Draws a graph with its counting numbers: blue positive, orange negative, grey zero.

    The legend lists each counting number and how many nodes have it. Lines, circles, layers and
    rows follow from the graph; the picture is the same every time.

    Args:
        graph: a factor graph: circles for variables, squares for factors, and boxes with their own
            graphs inside for nested nodes; or a region graph.
        layout: for a factor graph `"spatial"` (by the attribute `pos` of networkx's nodes, by
            coordinates as of `grid` and `torus`, or by the shape of the graph) or `"bipartite"`
            (factors in a row above variables); for a region graph `"tiles"` (windows over the
            image), `"counts"` (how often every element is counted: by pieces, by overlaps, in sum),
            `"cube"` (six faces unfolded) or `"hasse"` (outer regions on top, what they contain
            below). `"auto"` takes what fits.
        image: for tiles and counts, `[H, W]` or `[C, H, W]`; for a cube, `[6, n, n]` or
            `[6, C, n, n]`; values in [-1, 1], others are shown clipped. None: tiles and cubes show
            how many windows cover each element.
        ax: matplotlib axes to draw on; None: a figure of the size that the graph needs. The figure
            is not pyplot's: save it with `.savefig`, or pass axes of pyplot's to show a window.
        labels: whether names are written (over an image: names and counts); None: where they fit.
        title: of the figure.

    Raises:
        GraphError: more than 3,000 nodes, which cannot be told apart; a layout that does not suit
            the graph; an image where there is no place for one.
        ShapeError: the image does not fit the state.

    Example:
        >>> from pgmdiff.graphs import chain
        >>> from pgmdiff.plotting import plot
        >>> figure = plot(chain(3))
        >>> sorted(text.get_text() for text in figure.axes[0].texts)
        ['f0\n+1', 'f1\n+1', 'x0\n0', 'x1\n−1', 'x2\n0']
    """
    chosen = _chosen(graph, layout)
    if image is not None and chosen not in ON_IMAGES:
        raise GraphError(
            f"plot: an image is drawn under tiles, counts or a cube, not under layout={chosen!r}. "
            "Leave image= out, or choose another layout."
        )
    if chosen in ON_IMAGES:
        return ON_IMAGES[chosen](graph, image, ax, labels, title)
    if isinstance(graph, FactorGraph):
        return draw_scene(factor_scene(graph, chosen), ax, labels, title)
    return draw_scene(hasse_scene(graph), ax, labels, title)


def _chosen(graph: FactorGraph | RegionGraph, layout: str) -> str:
    """The layout that `"auto"` stands for, or the one asked for if it suits the graph."""
    if not isinstance(graph, FactorGraph | RegionGraph):
        raise GraphError(
            f"plot: expected a graph of pgmdiff, got {type(graph).__name__}. Convert a networkx "
            "graph with FactorGraph.from_networkx; of a joint plot its graph, joint.graph."
        )
    factor = isinstance(graph, FactorGraph)
    known = list(LAYOUTS) if factor else ["hasse", "tiles", "counts", "cube"]
    if layout != "auto" and layout not in known:
        raise GraphError(
            f"plot: expected a layout of {['auto', *sorted(known)]} for a {type(graph).__name__}, "
            f"got {layout!r}."
        )
    if layout != "auto":
        return layout
    if isinstance(graph, FactorGraph):
        return "spatial"
    return "cube" if is_cube(graph) else "tiles" if are_windows(graph) else "hasse"
